"""Batches from a data set that lives in memory as uint8."""

import argparse
from collections.abc import Iterator
from typing import Any

import boilr.data
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from experiments.datasets import check_max_objects, load_dataset
from experiments.datasets.scenes import DataSplits, Scenes


class SceneLoader:
    """Iterates over batches of ``(images, num_objects)``; the interface of a ``DataLoader``.

    A batch is one indexing of a uint8 tensor, on whichever device the data set lives: no worker
    processes, no conversion image by image.

    Args:
        scenes: the data set.
        batch_size: images a batch.
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

    def __len__(self) -> int:
        number = len(self.dataset)
        return number // self.batch_size if self.shuffle else -(-number // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Images uint8 ``(B, C, H, W)`` and numbers of objects int64 ``(B,)``."""
        order = self.draw_order()
        for number in range(len(self)):
            _, images, num_objects = self.batch(order, number)
            yield images, num_objects

    def draw_order(self) -> Tensor:
        """The order of one pass: positions in the data set, ``(N,)``, where the data set lives."""
        number = len(self.dataset)
        # Drawn on the CPU, so that a run meets the same batches on every device.
        order = torch.randperm(number) if self.shuffle else torch.arange(number)
        return order.to(self.images.device)

    def batch(self, order: Tensor, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """One batch of a pass: its positions ``(B,)``, images and numbers of objects.

        Args:
            order: of the pass.
            number: of the batch, from 0 to ``len(self) - 1``.
        """
        indices = order[number * self.batch_size : (number + 1) * self.batch_size]
        return indices, self.images[indices], self.num_objects[indices]


class SceneManager(boilr.data.BaseDatasetManager):
    """The training and held-out batches of an experiment.

    Args:
        cfg: the experiment's arguments.
        device: where the data set shall live.

    Raises:
        ValueError: if a scene holds more objects than the model can find.
    """

    def __init__(self, cfg: argparse.Namespace, device: torch.device) -> None:
        self.splits = load_splits(cfg)
        for scenes in (self.splits.train, self.splits.held_out):
            check_max_objects(scenes, cfg.max_objects)
        super().__init__(cfg, cuda=device.type == "cuda", device=device)

    def _make_datasets(self, cfg: argparse.Namespace, **kwargs: Any) -> tuple[Scenes, Scenes]:
        return self.splits.train, self.splits.held_out

    def _make_dataloaders(
        self, train: Scenes, test: Scenes, cfg: argparse.Namespace, cuda: bool, **kwargs: Any
    ) -> tuple[SceneLoader, SceneLoader]:
        device = kwargs["device"]
        return (
            SceneLoader(train, batch_size=cfg.batch_size, shuffle=True, device=device),
            SceneLoader(test, batch_size=cfg.test_batch_size, shuffle=False, device=device),
        )


def load_splits(cfg: argparse.Namespace) -> DataSplits:
    """The data set that the arguments ``dataset``, ``data_root`` and ``mnist_root`` name."""
    return load_dataset(cfg.dataset, data_root=cfg.data_root, mnist_root=cfg.mnist_root)
