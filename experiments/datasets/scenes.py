"""Labelled scenes: what a data set is made of, and how it is kept on disk.

A file on disk is an ``.npz`` of plain arrays. It holds no pickle, so that opening somebody
else's runs none of their code, and it carries a checksum, so that a damaged one is noticed.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experiments.files import DamagedFileError, write_file
from experiments.npz import parse_array, read_members

__all__ = [
    "DamagedFileError",
    "DataSplits",
    "Scenes",
    "check_max_objects",
    "load_splits",
    "pack_masks",
    "packed_width",
    "save_splits",
]

_FIELDS = ("images", "num_objects", "classes", "boxes", "masks")
_SPLITS = ("train", "held_out")

_UNKNOWN = np.empty(0, dtype=np.uint8)
"""Stands in a file for masks that are unknown."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Scenes:
    """Images of several objects, and what is known about the objects.

    Of people's own images that may be nothing. Classes and boxes are known for all objects of a
    scene or for none of them.

    Raises:
        ValueError: if the shapes, the types or the labels do not fit each other.
    """

    images: Tensor
    """Pixels, ``uint8``, shape ``(N, C, H, W)``."""
    num_objects: Tensor
    """Objects in each image, 0 to M, ``int64``, shape ``(N,)``; -1 where that is unknown."""
    classes: Tensor
    """Class of each object, ``int64``, shape ``(N, M)``; -1 where there is no object, or it is of
    no known class."""
    boxes: Tensor
    """Edges ``(x_min, y_min, x_max, y_max)`` in pixels, tight around each object's non-zero
    pixels, ``float32``, shape ``(N, M, 4)``; NaN where there is no object, or no known box."""
    masks: Tensor | None = None
    """Which pixels each object lights by itself, whatever else lies there: one bit a pixel, eight
    pixels of a row a byte, the leftmost in the highest bit, as ``numpy.packbits`` packs them;
    ``uint8``, shape ``(N, M, H, ceil(W / 8))``, zero where there is no object. None where it is
    unknown. :meth:`instance_masks` unpacks them."""
    name: str
    """What to call these scenes in messages."""

    def __post_init__(self) -> None:
        num_scenes, max_count = self.images.shape[:1], self.classes.shape[1:2]
        height, width = self.images.shape[-2:] if self.images.dim() == 4 else (0, 0)
        expected = {
            "images": (torch.uint8, "(N, C, H, W)", self.images.dim() == 4),
            "num_objects": (torch.int64, "(N,)", self.num_objects.shape == num_scenes),
            "classes": (
                torch.int64,
                "(N, M)",
                self.classes.dim() == 2 and self.classes.shape[:1] == num_scenes,
            ),
            "boxes": (torch.float32, "(N, M, 4)", self.boxes.shape == (*num_scenes, *max_count, 4)),
            "masks": (
                torch.uint8,
                "(N, M, H, ceil(W / 8))",
                self.masks is None
                or self.masks.shape == (*num_scenes, *max_count, height, packed_width(width)),
            ),
        }
        for field, (dtype, shape, fits) in expected.items():
            value = getattr(self, field)
            if not fits or (value is not None and value.dtype != dtype):
                raise ValueError(
                    f"{field} of {self.name} must be {dtype} of shape {shape}, with N = "
                    f"{num_scenes[0] if num_scenes else 'the number of images'}; "
                    f"got {value.dtype} of shape {tuple(value.shape)}."
                )
        outside = (self.num_objects < -1) | (self.num_objects > self.classes.shape[1])
        if outside.any():
            scene = int(outside.nonzero()[0])
            raise ValueError(
                f"scene {scene} of {self.name} is said to hold {int(self.num_objects[scene])} "
                f"objects. Expected 0 to {self.classes.shape[1]}, the width of classes, or -1 for "
                "an unknown number."
            )
        exists = torch.arange(self.classes.shape[1]) < self.num_objects.cpu()[:, None]
        wrong = torch.zeros(num_scenes, dtype=torch.bool)
        for known in (self.classes.cpu() >= 0, self.boxes.cpu().isfinite().all(dim=-1)):
            wrong |= (known != exists).any(dim=1) & known.any(dim=1)
        if self.masks is not None:
            # One object at a time: a copy of all masks would be large.
            for i in range(self.classes.shape[1]):
                wrong |= self.masks[:, i].cpu().flatten(1).any(dim=1).bool() & ~exists[:, i]
        if wrong.any():
            scene = int(wrong.nonzero()[0])
            raise ValueError(
                f"scene {scene} of {self.name} has num_objects = {int(self.num_objects[scene])}, "
                "but not as many classes, boxes or masks. Expected the objects first, then classes "
                "of -1, boxes of NaN and empty masks."
            )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: slice | Tensor) -> "Scenes":
        """Some of the scenes.

        Args:
            index: a slice, positions ``(n,)`` or a mask ``(N,)``.

        Raises:
            TypeError: if it is something else. For scene ``i`` alone use ``scenes[i : i + 1]``.
        """
        if not isinstance(index, slice) and not (isinstance(index, Tensor) and index.dim() == 1):
            raise TypeError(
                f"scenes are taken by a slice or a tensor of one axis, got {index!r}. "
                "For scene i alone use scenes[i : i + 1]."
            )
        fields: dict[str, Any] = {
            field: value[index] for field in _FIELDS if (value := getattr(self, field)) is not None
        }
        return Scenes(name=self.name, **fields)

    def __repr__(self) -> str:
        return f"Scenes({self.name!r}, {len(self)} images of {tuple(self.images.shape[1:])})"

    @property
    def max_count(self) -> int:
        """M, the most objects that a scene of this kind can hold."""
        return self.classes.shape[1]

    @property
    def is_counted(self) -> bool:
        """Whether the number of objects is known of every scene."""
        return bool((self.num_objects >= 0).all())

    def instance_masks(self) -> Tensor:
        """Which object lights which pixel, bool ``(N, M, H, W)``.

        Eight times as large as the packed masks: take a part of the scenes first.

        Raises:
            ValueError: if the masks are unknown.
        """
        if self.masks is None:
            raise ValueError(f"the masks of {self.name} are unknown.")
        width = self.images.shape[-1]
        bits = np.unpackbits(self.masks.cpu().numpy(), axis=-1, count=width)
        return torch.from_numpy(bits.view(bool))

    @property
    def pixel_sum(self) -> int:
        """Sum of all pixels: a checksum that is easily compared with others' data."""
        return int(self.images.sum(dtype=torch.int64))

    @property
    def sha256(self) -> str:
        """SHA-256 of the pixels' bytes in C order, in hexadecimal."""
        return hashlib.sha256(_bytes(self.images.cpu().numpy())).hexdigest()


@dataclass(frozen=True, kw_only=True, eq=False)
class DataSplits:
    """A data set: scenes to learn from, and scenes that are kept back to judge by.

    Raises:
        ValueError: if the two halves hold images of different shapes.
    """

    train: Scenes
    held_out: Scenes
    name: str
    """Under which name :func:`experiments.datasets.load_dataset` gives this very data set."""

    def __post_init__(self) -> None:
        train, held_out = self.train.images.shape[1:], self.held_out.images.shape[1:]
        if train != held_out:
            raise ValueError(
                f"both halves of {self.name} must hold images of one shape, "
                f"got {tuple(train)} for train and {tuple(held_out)} for held_out."
            )

    @property
    def pixel_sum(self) -> int:
        """Sum of all pixels of both halves."""
        return self.train.pixel_sum + self.held_out.pixel_sum

    @property
    def sha256(self) -> str:
        """SHA-256 of all pixels, first those of train, then those of held_out."""
        digest = hashlib.sha256(_bytes(self.train.images.cpu().numpy()))
        digest.update(_bytes(self.held_out.images.cpu().numpy()))
        return digest.hexdigest()


def pack_masks(masks: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Pack masks as :attr:`Scenes.masks` holds them.

    Args:
        masks: bool, shape ``(*, H, W)``.

    Returns:
        ``uint8``, shape ``(*, H, ceil(W / 8))``.
    """
    return np.packbits(masks, axis=-1)


def packed_width(width: int) -> int:
    """Bytes that a row of so many pixels takes in packed masks."""
    return -(-width // 8)


class Counted(Protocol):
    """Scenes whose numbers of objects are known, wherever they are kept."""

    @property
    def name(self) -> str:
        """What to call them in messages."""

    @property
    def num_objects(self) -> Tensor:
        """Objects in each image, int64 ``(N,)``."""

    def __len__(self) -> int: ...


def check_max_objects(scenes: Counted, max_objects: int) -> None:
    """Check that a model that counts to ``max_objects`` can be right about every scene.

    Raises:
        ValueError: if a scene holds more objects.
    """
    num_objects = scenes.num_objects
    above = num_objects > max_objects
    if above.any():
        scene = int(above.nonzero()[0])
        most = int(num_objects.max())
        raise ValueError(
            f"scene {scene} of {scenes.name} holds {int(num_objects[scene])} objects, and "
            f"{int(above.sum())} of {len(scenes)} scenes hold more than max_objects = "
            f"{max_objects}: they cannot be counted right. Raise --max-objects to {most} or more."
        )


def save_splits(splits: DataSplits, path: Path) -> None:
    """Write a data set to an ``.npz`` file, all of it or nothing.

    Raises:
        OSError: if the file cannot be written. No part of it is left behind.
    """
    arrays: dict[str, Any] = {
        f"{split}_{field}": _UNKNOWN if value is None else value.cpu().numpy()
        for split in _SPLITS
        for field in _FIELDS
        for value in [getattr(getattr(splits, split), field)]
    }
    for split in _SPLITS:
        arrays[f"{split}_name"] = np.array(getattr(splits, split).name)
    arrays["name"] = np.array(splits.name)
    checksum = np.array(_checksum(arrays))

    def write(file: BinaryIO) -> None:
        np.savez_compressed(file, checksum=checksum, **arrays)

    write_file(path, write)


def load_splits(path: Path) -> DataSplits:
    """Read what :func:`save_splits` wrote.

    Raises:
        FileNotFoundError: if there is no such file.
        OSError: if it cannot be read.
        DamagedFileError: if it is not what was written: cut, altered or something else.
    """
    arrays, expected = _read_arrays(path)
    if _checksum(arrays) != expected:
        raise DamagedFileError(f"{path} is damaged: its checksum is not the one it was saved with.")
    try:
        halves = {
            split: Scenes(
                name=str(arrays[f"{split}_name"]),
                **{
                    field: torch.from_numpy(array)
                    for field in _FIELDS
                    for array in [arrays[f"{split}_{field}"]]
                    if field != "masks" or array.shape != _UNKNOWN.shape
                },
            )
            for split in _SPLITS
        }
        return DataSplits(name=str(arrays["name"]), **halves)
    except (TypeError, ValueError) as error:
        raise DamagedFileError(f"{path} holds no valid scenes ({error}).") from error


def _read_arrays(path: Path) -> tuple[dict[str, NDArray[Any]], str]:
    """The arrays of a data set, and the checksum that they were saved with."""
    names = ["name", *(f"{split}_{field}" for split in _SPLITS for field in (*_FIELDS, "name"))]
    members = read_members(path, [*names, "checksum"])
    arrays = {name: parse_array(members.pop(name), f"{name} in {path}") for name in [*members]}
    return arrays, str(arrays.pop("checksum"))


def _checksum(arrays: dict[str, NDArray[Any]]) -> str:
    """SHA-256 over the names, types, shapes and bytes of all arrays."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype.str} {array.shape} ".encode())
        digest.update(_bytes(array))
    return digest.hexdigest()


def _bytes(array: NDArray[Any]) -> memoryview:
    """The bytes in C order, without a copy where they already are."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
