"""Batches from a data set that lives in memory as uint8."""

import argparse
import dataclasses
from collections.abc import Iterator
from typing import Any

import boilr.data
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from experiments import distributed
from experiments.datasets import check_max_objects
from experiments.datasets.scenes import DataSplits, Scenes
from experiments.datasets.sharded_scenes import ShardedScenes, ShardedSplits
from experiments.datasets.sources import open_dataset
from experiments.shard_loader import ShardLoader


class SceneLoader:
    """Iterates over batches of ``(images, num_objects)``; the interface of a ``DataLoader``.

    A batch is one indexing of a uint8 tensor, on whichever device the data set lives: no worker
    processes, no conversion image by image.

    Where several processes train together, all draw one order of the scenes, and each gets its
    own part of every training batch.

    Args:
        scenes: the data set.
        batch_size: images a batch, all processes together.
        shuffle: whether to draw a new order at each pass, and leave out the last, smaller batch.
        device: where the data set shall live.
    """

    def __init__(
        self, scenes: Scenes, *, batch_size: int, shuffle: bool, device: torch.device
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch size must be at least 1, got {batch_size}.")
        if shuffle and batch_size > len(scenes):
            raise ValueError(
                f"batch size {batch_size} is larger than the data set of {len(scenes)} scenes. "
                "Lower --batch-size."
            )
        self.images = scenes.images.to(device)
        self.num_objects = scenes.num_objects.to(device)
        self.dataset = TensorDataset(self.images, self.num_objects)
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.current: Tensor | None = None
        """Which scenes the batch that was handed out last holds, ``(B,)``."""

    def __len__(self) -> int:
        number = len(self.dataset)
        return number // self.batch_size if self.shuffle else -(-number // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Images uint8 ``(B, C, H, W)`` and numbers of objects int64 ``(B,)``."""
        return self.batches(self.draw_order())

    def draw_order(self) -> Tensor:
        """The order of a new pass: positions in the data set, ``(N,)``, on the CPU."""
        number = len(self.dataset)
        if not self.shuffle:
            return torch.arange(number)
        # Drawn on the CPU, so that a run meets the same batches on every device.
        return distributed.from_main(torch.randperm(number))

    def check_order(self, order: Tensor) -> None:
        """Check that a saved order is one of these scenes.

        Raises:
            ValueError: if it is not.
        """
        if not torch.equal(order.sort().values, torch.arange(len(self.dataset))):
            raise ValueError(f"it is no order of {len(self.dataset)} scenes")

    def batches(self, order: Tensor, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass in a given order.

        Args:
            order: as :meth:`draw_order` gives it.
            start: how many batches to leave out at the beginning.
        """
        for batch in self._parts(order, start):
            yield self.images[batch], self.num_objects[batch]

    def into(
        self,
        images: Tensor,
        num_objects: Tensor,
        order: Tensor | None = None,
        start: int = 0,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass whose batches are all gathered into the same two tensors, as a graph reads them.

        Args:
            images: uint8 ``(B, C, H, W)``, as :meth:`buffers` makes it.
            num_objects: int64 ``(B,)``.
            order: as :meth:`draw_order` gives it; default: a new one.
            start: how many batches to leave out at the beginning.
        """
        for batch in self._parts(self.draw_order() if order is None else order, start):
            torch.index_select(self.images, 0, batch, out=images)
            torch.index_select(self.num_objects, 0, batch, out=num_objects)
            yield images, num_objects

    def buffers(self) -> tuple[Tensor, Tensor]:
        """Room for one batch, for :meth:`into`."""
        size = self.batch_size
        return (
            self.images.new_empty(size, *self.images.shape[1:]),
            self.num_objects.new_empty(size),
        )

    def _parts(self, order: Tensor, start: int) -> Iterator[Tensor]:
        """Which scenes each batch of a pass holds, on the data's device."""
        order = order.to(self.images.device)
        for batch in order.split(self.batch_size)[start : len(self)]:
            self.current = distributed.own_part(batch) if self.shuffle else batch
            yield self.current


class SceneManager(boilr.data.BaseDatasetManager):
    """The training and held-out batches of an experiment.

    Args:
        cfg: the experiment's arguments.
        device: where the data set shall live.

    Raises:
        ValueError: if a scene holds more objects than the model can find, or the batch or the
            held-out scenes cannot be shared by the processes that train together.
    """

    def __init__(self, cfg: argparse.Namespace, device: torch.device) -> None:
        distributed.local_batch_size(cfg.batch_size)  # before the work, not after it
        with distributed.main_first():
            self.splits = load_splits(cfg)
        for scenes in (self.splits.train, self.splits.held_out):
            check_max_objects(scenes, cfg.max_objects)
        if len(self.splits.held_out) < distributed.world_size():
            raise ValueError(
                f"{len(self.splits.held_out)} held-out scenes are too few for "
                f"{distributed.world_size()} processes to judge by: start fewer."
            )
        self.identity = {
            "train": self.splits.train.sha256,
            "held_out": self.splits.held_out.sha256,
        }
        """What tells this data from other data; the same wherever it lies, and in all processes."""
        self.is_counted = self.splits.train.is_counted and self.splits.held_out.is_counted
        """Whether the number of objects is known of every scene."""
        super().__init__(cfg, cuda=device.type == "cuda", device=device)

    def _make_datasets(self, cfg: argparse.Namespace, **kwargs: Any) -> tuple[Any, Scenes]:
        return self.splits.train, self.splits.held_out

    def _make_dataloaders(
        self, train: Any, test: Scenes, cfg: argparse.Namespace, cuda: bool, **kwargs: Any
    ) -> tuple[SceneLoader | ShardLoader, SceneLoader]:
        device = kwargs["device"]
        train_loader: SceneLoader | ShardLoader
        if isinstance(train, ShardedScenes):
            train_loader = ShardLoader(train, batch_size=cfg.batch_size, device=device)
        else:
            train_loader = SceneLoader(
                train, batch_size=cfg.batch_size, shuffle=True, device=device
            )
        return (
            train_loader,
            SceneLoader(test, batch_size=cfg.test_batch_size, shuffle=False, device=device),
        )


def load_splits(cfg: argparse.Namespace) -> DataSplits | ShardedSplits:
    """The data set that the arguments ``dataset``, ``data_root`` and ``mnist_root`` name.

    Of training scenes in shards, the part that is this process's to read.
    """
    splits = open_dataset(cfg.dataset, data_root=cfg.data_root, mnist_root=cfg.mnist_root)
    if isinstance(splits, ShardedSplits):
        own = splits.train.part(distributed.own_range(len(splits.train)))
        return dataclasses.replace(splits, train=own)
    return splits
