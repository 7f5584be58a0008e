"""Tensors by name as safetensors, the header checked before anything is allocated."""

import json
import math
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from experiments.files import DamagedFileError

_MAX_HEADER = 1 << 20
"""A checkpoint's header has some kilobytes; safetensors itself would parse 100 MB of it."""


def write_tensors(tensors: dict[str, Tensor]) -> bytes:
    """Tensors, wherever they live, as the content of a safetensors file."""
    return save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})


def read_tensors(content: bytes, name: str) -> dict[str, Tensor]:
    """The tensors in the content of a safetensors file.

    Args:
        content: of the file.
        name: of the file, for messages.

    Raises:
        DamagedFileError: if the header is too long, does not fit the content, or names shapes
            that it does not hold.
    """
    check_header(content[: 8 + _MAX_HEADER], len(content), name)
    try:
        return load(content)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise DamagedFileError(f"{name} is damaged: {error}") from error


def check_header(start: bytes, size: int, name: str) -> dict[str, Any]:
    """Check a safetensors header against the size of its file.

    Args:
        start: the file's first bytes, the whole header among them.
        size: of the file.
        name: of the file, for messages.

    Returns:
        The header: for each tensor its ``dtype``, ``shape`` and ``data_offsets``.

    Raises:
        DamagedFileError: if it does not fit.
    """
    length = int.from_bytes(start[:8], "little")
    if len(start) < 8 or length > min(_MAX_HEADER, size - 8):
        raise DamagedFileError(f"{name} is damaged: its header of {length} bytes cannot be in it.")
    try:
        header = json.loads(start[8 : 8 + length].decode("utf-8"))
        header.pop("__metadata__", None)
        for entry in header.values():
            begin, end = entry["data_offsets"]
            shape = entry["shape"]
            sizes = [begin, end, *shape]
            if not all(type(number) is int and number >= 0 for number in sizes):
                raise TypeError("sizes must be whole numbers")
            if end > size - 8 - length or math.prod(shape) > max(end - begin, 0):
                raise ValueError(f"a tensor of shape {shape} cannot be in it")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedFileError(f"{name} is damaged: bad header ({error}).") from error
    return header
