"""Training batches from a data set that is larger than memory."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from experiments import distributed
from experiments.datasets.sharded_scenes import ShardedScenes

__all__ = ["ShardLoader"]


class ShardLoader:
    """Training batches from shards, each scene read once a pass; the interface of a ``DataLoader``.

    Scenes are read in blocks of adjacent ones, the blocks in a new order at each pass, as many
    at a time as a window holds; batches are drawn from the window at random. A part that fits
    into one window is thereby shuffled whole. Each process reads its own part only, and takes an
    equal share of each batch.

    Args:
        scenes: this process's part of the training half.
        batch_size: images a batch, all processes together.
        device: where batches shall live.
        window_bytes: of images in memory at a time; twice that while a window is filled.
        block_size: scenes read at a time.

    Raises:
        DamagedFileError: if a file is missing or not what the index says.
        ValueError: if a batch holds less than one image, more than there are, or a part for each
            process that is no whole number.
    """

    def __init__(
        self,
        scenes: ShardedScenes,
        *,
        batch_size: int,
        device: torch.device,
        window_bytes: int = 1 << 27,
        block_size: int = 1024,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch size must be at least 1, got {batch_size}.")
        total = sum(scenes.index.sizes[scenes.split])
        self.batch_size = distributed.local_batch_size(batch_size)
        # The smallest part decides: all processes must take the same number of steps.
        self._num_batches = total // distributed.world_size() // self.batch_size
        if self._num_batches < 1:
            raise ValueError(
                f"batch size {batch_size} is larger than the data set of {total} scenes. "
                "Lower --batch-size."
            )
        scenes.open()
        self.dataset = scenes
        self.device = device
        self.block_size = block_size
        bytes_per_block = block_size * int(np.prod(scenes.index.image_shape))
        self._blocks_at_once = max(1, window_bytes // bytes_per_block)

    def __len__(self) -> int:
        return self._num_batches

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Images uint8 ``(B, C, H, W)`` and numbers of objects int64 ``(B,)``, this process's."""
        left = len(self)
        blocks = torch.randperm(-(-len(self.dataset) // self.block_size))
        rest: list[tuple[Tensor, Tensor]] = []
        for window in blocks.split(self._blocks_at_once):
            parts = [*rest, *(self._read(block) for block in window.tolist())]
            images, num_objects = (
                torch.cat(field).to(self.device) for field in zip(*parts, strict=True)
            )
            del parts
            # Drawn on the CPU, so that a run meets the same batches on every device.
            order = torch.randperm(len(images)).to(self.device)
            whole = len(order) // self.batch_size * self.batch_size
            for start in range(0, min(whole, left * self.batch_size), self.batch_size):
                batch = order[start : start + self.batch_size]
                left -= 1
                yield images[batch], num_objects[batch]
            over = order[whole:]
            rest = [(images[over].cpu(), num_objects[over].cpu())]

    def _read(self, block: int) -> tuple[Tensor, Tensor]:
        start = block * self.block_size
        stop = min(start + self.block_size, len(self.dataset))
        return (
            self.dataset.read("images", start, stop),
            self.dataset.read("num_objects", start, stop),
        )
