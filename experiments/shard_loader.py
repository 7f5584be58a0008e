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
        return self.batches(self.draw_order())

    def draw_order(self) -> Tensor:
        """The seed of a new pass, int64 ``(1,)``: the order itself would be too large to keep."""
        return torch.randint(2**62, (1,))

    def check_order(self, order: Tensor) -> None:
        """Check that a saved seed is one.

        Raises:
            ValueError: if it is not.
        """
        if order.shape != (1,) or order.dtype != torch.int64:
            raise ValueError("it is no seed of an order of shards")

    def batches(self, order: Tensor, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass in a given order.

        Args:
            order: as :meth:`draw_order` gives it.
            start: how many batches to leave out at the beginning. Windows that are left out as a
                whole are not read.
        """
        # Drawn on the CPU, so that a run meets the same batches on every device.
        generator = torch.Generator().manual_seed(int(order))
        left, size = len(self), self.batch_size
        blocks = torch.randperm(-(-len(self.dataset) // self.block_size), generator=generator)
        rest = torch.zeros(0, dtype=torch.int64)  # scenes that did not fill a batch
        carried: tuple[Tensor, Tensor] | None = None  # and their content, where it was read
        for window in blocks.split(self._blocks_at_once):
            scenes = torch.cat([rest, *(self._scenes_of(block) for block in window.tolist())])
            drawn = torch.randperm(len(scenes), generator=generator)
            number = min(len(drawn) // size, left)
            over = drawn[len(drawn) // size * size :]
            left -= number
            if start >= number:
                start, rest, carried = start - number, scenes[over], None
                continue
            first = self._read_scenes(rest) if carried is None else carried
            parts = [first, *(self._read(block) for block in window.tolist())]
            images, num_objects = (
                torch.cat(field).to(self.device) for field in zip(*parts, strict=True)
            )
            del parts, first
            on_device = drawn.to(self.device)
            for batch in on_device[: number * size].split(size)[start:]:
                yield images[batch], num_objects[batch]
            last = over.to(self.device)
            carried = (images[last].cpu(), num_objects[last].cpu())
            start, rest = 0, scenes[over]

    def _scenes_of(self, block: int) -> Tensor:
        start = block * self.block_size
        return torch.arange(start, min(start + self.block_size, len(self.dataset)))

    def _read_scenes(self, scenes: Tensor) -> tuple[Tensor, Tensor]:
        """Scenes from anywhere, one by one: some that a window left over."""
        read = [
            tuple(self.dataset.read(field, scene, scene + 1) for field in ("images", "num_objects"))
            for scene in scenes.tolist()
        ]
        none = self.dataset.read("images", 0, 0), self.dataset.read("num_objects", 0, 0)
        images, num_objects = (torch.cat(field) for field in zip(none, *read, strict=True))
        return images, num_objects

    def _read(self, block: int) -> tuple[Tensor, Tensor]:
        start = block * self.block_size
        stop = min(start + self.block_size, len(self.dataset))
        return (
            self.dataset.read("images", start, stop),
            self.dataset.read("num_objects", start, stop),
        )
