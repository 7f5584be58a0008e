"""The files of ``multiobject`` (``.npz``), whose labels are pickled, read without unpickling."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experiments.files import DamagedFileError
from experiments.npz import parse_array, parse_objects, read_members
from experiments.safe_pickle import Array

__all__ = ["MultiObjectFile", "read_multiobject"]

_COUNT = "n_obj"


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
