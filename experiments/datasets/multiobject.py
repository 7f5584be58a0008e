"""The files of ``multiobject`` (``.npz``), whose labels are pickled, read without unpickling.

They hold ``x``, uint8 ``(N, H, W, C)``, and ``labels``, a dict by attribute; ``n_obj`` is one
number an image, any other attribute one array an image with a value for each object.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experiments.datasets.scenes import DataSplits, Scenes
from experiments.files import DamagedFileError, write_file
from experiments.npz import parse_array, parse_objects, read_members
from experiments.safe_pickle import Array

__all__ = [
    "SPLIT",
    "MultiObjectFile",
    "read_multiobject",
    "read_multiobject_scenes",
    "write_multiobject",
]

SPLIT = 0.9
"""Share of a file, from its beginning, that ``multiobject`` trains on unless told otherwise."""

_COUNT = "n_obj"
_CLASSES = ("labels", "shape", "classes")
"""What attributes are called that tell an object's class: of its digits, its shapes, and ours."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MultiObjectFile:
    """What such a file holds. It knows no boxes."""

    images: Tensor
    """Pixels, ``uint8``, shape ``(N, C, H, W)``."""
    num_objects: Tensor
    """Objects in each image, ``int64``, shape ``(N,)``."""
    labels: dict[str, list[NDArray[Any]]]
    """By attribute, for each image, the value of each of its objects."""


def read_multiobject(path: Path) -> MultiObjectFile:
    """Read a file that ``multiobject`` wrote: ``x`` and ``labels``.

    Raises:
        OSError: if it cannot be read.
        DamagedFileError: if it is anything else, or its labels hold more than plain data.
    """
    members = read_members(path, ["x", "labels"])
    images = parse_array(members.pop("x"), f"x in {path}")
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise DamagedFileError(
            f"x in {path} must be uint8 of shape (N, H, W, 1 or 3), got {images.dtype} of shape "
            f"{images.shape}."
        )
    found = parse_objects(members["labels"], f"labels in {path}")
    if not isinstance(found, dict):
        raise DamagedFileError(f"labels in {path} are no dict.")
    counts, labels = None, {}
    for name, values in found.items():
        if name == _COUNT:
            counts = _counts(values, len(images), path)
        else:
            labels[str(name)] = _attribute(values, len(images), f"labels {name!r} in {path}")
    if counts is None:
        if not labels:
            raise DamagedFileError(f"labels in {path} tell no number of objects.")
        counts = torch.tensor([len(value) for value in next(iter(labels.values()))])
    for name, values in labels.items():
        if [len(value) for value in values] != counts.tolist():
            raise DamagedFileError(f"labels {name!r} in {path} are not one for each object.")
    channels_first = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    return MultiObjectFile(images=channels_first, num_objects=counts.long(), labels=labels)


def read_multiobject_scenes(path: Path, *, name: str) -> Scenes:
    """Read such a file as scenes; boxes and masks, which it does not know, stay unknown.

    Raises:
        OSError: if it cannot be read.
        DamagedFileError: if it is anything else, or its labels hold more than plain data.
    """
    file = read_multiobject(path)
    most = int(file.num_objects.max()) if len(file.num_objects) else 0
    classes = torch.full((len(file.images), most), -1)
    for values in (file.labels[key] for key in _CLASSES if key in file.labels):
        # Attributes may be anything; a class is a whole number from 0 on.
        if all(one.ndim == 1 and one.dtype.kind in "iuf" for one in values):
            flat = np.concatenate([np.zeros(0), *values])
            if not ((flat >= 0) & (flat < 1e6) & (flat == np.floor(flat))).all():
                continue
            classes[torch.arange(most) < file.num_objects[:, None]] = torch.from_numpy(
                flat.astype(np.int64)
            )
            break
    return Scenes(
        images=file.images,
        num_objects=file.num_objects,
        classes=classes,
        boxes=torch.full((*classes.shape, 4), float("nan")),
        name=name,
    )


def write_multiobject(splits: DataSplits, path: Path) -> None:
    """Write a data set as ``multiobject`` reads it, the held-out half last.

    That package unpickles the labels; they are plain arrays and lists here.

    Raises:
        OSError: if it cannot be written.
        ValueError: if the numbers of objects are unknown.
    """
    halves = (splits.train, splits.held_out)
    if not all(half.is_counted for half in halves):
        raise ValueError(f"{splits.name} has no numbers of objects, which multiobject asks for.")
    counts = np.concatenate([half.num_objects.numpy() for half in halves])
    labels: dict[str, Any] = {_COUNT: counts}
    for key, values in (
        ("classes", [half.classes.numpy() for half in halves]),
        ("boxes", [half.boxes.numpy() for half in halves]),
    ):
        rows = [row for half in values for row in half]
        own = [row[:count] for row, count in zip(rows, counts.tolist(), strict=True)]
        if not any((row == -1).any() or np.isnan(row).any() for row in own):  # all are known
            labels[key] = own
    images = np.concatenate([half.images.numpy().transpose(0, 2, 3, 1) for half in halves])
    boxed = np.empty((), dtype=object)
    boxed[()] = labels
    write_file(path, lambda file: np.savez_compressed(file, x=images, labels=boxed))


def _counts(values: Any, number: int, path: Path) -> Tensor:
    array = values.values if isinstance(values, Array) else None
    if array is None or array.shape != (number,) or array.dtype.kind not in "iu":
        raise DamagedFileError(f"{_COUNT} in {path} is not one whole number for each image.")
    if number and not 0 <= int(array.min()) <= int(array.max()) < 1000:
        raise DamagedFileError(f"{_COUNT} in {path} holds absurd numbers of objects.")
    return torch.from_numpy(array.astype(np.int64))


def _attribute(values: Any, number: int, name: str) -> list[NDArray[Any]]:
    if not isinstance(values, list) or len(values) != number:
        raise DamagedFileError(f"{name} are not one list of values for each image.")
    arrays = [value.values if isinstance(value, Array) else None for value in values]
    if any(array is None or array.ndim < 1 for array in arrays):
        raise DamagedFileError(f"{name} are no arrays.")
    return [array for array in arrays if array is not None]
