"""Scenes that stay on disk, mapped from a folder of shards, and are read when they are needed."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experiments.datasets.scenes import DamagedFileError, Scenes
from experiments.datasets.shards import DTYPES, ShardIndex, open_array, read_index

__all__ = ["PREFIX", "ShardedScenes", "ShardedSplits", "open_shards"]

PREFIX = "shards:"
"""Of a data set's name on the command line; the rest is the folder."""


class _Rows(NamedTuple):
    """Adjacent scenes of one shard."""

    shard: int
    start: int
    stop: int


class ShardedScenes:
    """Adjacent scenes of one half, mapped from their files.

    Args:
        index: of the folder.
        split: ``train`` or ``held_out``.
        start: first scene, counted over all shards.
        stop: the one behind the last; default: all.
    """

    def __init__(
        self, index: ShardIndex, split: str, start: int = 0, stop: int | None = None
    ) -> None:
        self.index = index
        self.split = split
        self.name = f"{index.folder}/{split}"
        self._ends = np.cumsum(index.sizes[split])
        self.start = start
        self.stop = int(self._ends[-1]) if stop is None else stop
        self._maps: dict[tuple[str, int], NDArray[Any]] = {}

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, scene: int) -> tuple[Tensor, Tensor]:
        """One scene's image, uint8 ``(C, H, W)``, and number of objects, int64 ``()``."""
        image, num_objects = (
            self.read(field, scene, scene + 1)[0] for field in ("images", "num_objects")
        )
        return image, num_objects

    def __repr__(self) -> str:
        return f"ShardedScenes({self.name!r}, {self.start} to {self.stop})"

    @property
    def num_objects(self) -> Tensor:
        """Objects in each image, int64 ``(N,)``; read anew at each call.

        Raises:
            DamagedFileError: if one is below 0 or above the most that the index says; where that
                is 0, all may be unknown (-1).
        """
        num_objects = self.read("num_objects", 0, len(self))
        least, most = num_objects.aminmax() if len(self) else (0, 0)
        if least < (0 if self.index.max_count else -1) or most > self.index.max_count:
            raise DamagedFileError(
                f"scenes of {self.name} are said to hold {int(least)} to {int(most)} objects, but "
                f"the index says 0 to {self.index.max_count}."
            )
        return num_objects

    @property
    def sha256(self) -> str:
        """SHA-256 of the checksums that the index gives of the images; no image is read."""
        sums = "".join(shard["images"] for shard in self.index.sha256[self.split])
        return hashlib.sha256(sums.encode()).hexdigest()

    @property
    def is_counted(self) -> bool:
        """Whether the number of objects is known of every scene; reads all numbers."""
        return bool((self.num_objects >= 0).all())

    def part(self, rows: slice) -> "ShardedScenes":
        """Adjacent ones of these scenes, without reading them."""
        start, stop, _ = rows.indices(len(self))
        return ShardedScenes(self.index, self.split, self.start + start, self.start + stop)

    def open(self) -> None:
        """Map the files of these scenes, and check their types, shapes and sizes.

        Raises:
            DamagedFileError: if a file is missing or not what the index says.
        """
        for rows in self._rows(0, len(self)):
            for field in ("images", "num_objects"):
                self._map(field, rows.shard)

    def read(self, field: str, start: int, stop: int) -> Tensor:
        """A copy of one field of adjacent scenes, counted from this object's first.

        Raises:
            DamagedFileError: if a file is missing or not what the index says.
        """
        shape = self.index.shape(self.split, field, 0)[1:]
        copy = np.empty((stop - start, *shape), dtype=DTYPES[field])
        position = 0
        for rows in self._rows(start, stop):
            number = rows.stop - rows.start
            array = self._map(field, rows.shard)
            copy[position : position + number] = array[rows.start : rows.stop]
            position += number
        return torch.from_numpy(copy)

    def load(self) -> Scenes:
        """All of it, with all labels, in memory.

        Raises:
            DamagedFileError: if the files do not hold valid scenes.
        """
        fields: dict[str, Any] = {
            field: self.read(field, 0, len(self)) for field in self.index.fields
        }
        try:
            return Scenes(name=self.name, **fields)
        except ValueError as error:
            raise DamagedFileError(f"{self.name} holds no valid scenes ({error}).") from error

    def _rows(self, start: int, stop: int) -> Iterator[_Rows]:
        """The parts of shards that make up some scenes."""
        start, stop = self.start + start, self.start + stop
        while start < stop:
            shard = int(np.searchsorted(self._ends, start, side="right"))
            end = int(self._ends[shard])
            first = end - self.index.sizes[self.split][shard]
            yield _Rows(shard, start - first, min(stop, end) - first)
            start = end

    def _map(self, field: str, shard: int) -> NDArray[Any]:
        if (field, shard) not in self._maps:
            path = self.index.path(self.split, field, shard)
            shape = self.index.shape(self.split, field, shard)
            self._maps[field, shard] = open_array(path, DTYPES[field], shape)
        return self._maps[field, shard]


@dataclass(frozen=True, kw_only=True, eq=False)
class ShardedSplits:
    """A data set in shards: scenes to learn from, mapped, and to judge by, in memory."""

    train: ShardedScenes
    held_out: Scenes
    name: str
    """As ``--dataset`` takes it."""


def open_shards(folder: str | Path) -> ShardedSplits:
    """A data set from its folder.

    Raises:
        FileNotFoundError: if the folder holds no index.
        DamagedFileError: if the index is not to be trusted, or the held-out half not what it says.
    """
    index = read_index(folder)
    return ShardedSplits(
        train=ShardedScenes(index, "train"),
        held_out=ShardedScenes(index, "held_out").load(),
        name=f"{PREFIX}{index.folder.resolve()}",
    )
