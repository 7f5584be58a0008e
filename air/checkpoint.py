"""A trained model as a folder: ``config.json`` and ``model.safetensors``. No pickles."""

import hashlib
import json
import math
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from air.config import AIRConfig
from air.model import AIR

__all__ = ["check_header", "from_pretrained", "save_pretrained"]

_CONFIG = "config.json"
_WEIGHTS = "model.safetensors"
_CHECKSUM = "sha256"
_MAX_CONFIG = 1 << 20
_MAX_HEADER = 1 << 20
"""A header has some kilobytes; safetensors itself would parse 100 MB of it."""


def save_pretrained(model: AIR, folder: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Save a model's configuration and weights.

    Each file is written under another name first, then renamed: a crash leaves no half file.

    Args:
        model: to be saved.
        folder: made if it does not exist.
        overwrite: whether a model that is there already may be replaced.

    Raises:
        FileExistsError: if the folder holds a model and ``overwrite`` is not given.
    """
    folder = Path(folder)
    if not overwrite and any((folder / name).exists() for name in (_CONFIG, _WEIGHTS)):
        raise FileExistsError(
            f"{folder} holds a model already. Give another folder, or overwrite=True."
        )
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as temporary:
        # One entry only: safetensors writes several in an order that differs from call to call.
        metadata = {_CHECKSUM: _checksum(model.config, tensors)}
        save_file(tensors, Path(temporary) / _WEIGHTS, metadata=metadata)
        (Path(temporary) / _CONFIG).write_text(model.config.to_json() + "\n", encoding="utf-8")
        for name in (_WEIGHTS, _CONFIG):
            os.replace(Path(temporary) / name, folder / name)


def from_pretrained(folder: str | os.PathLike[str]) -> AIR:
    """Load a model saved by :func:`save_pretrained`, on the CPU and in evaluation mode.

    Args:
        folder: with ``config.json`` and ``model.safetensors``.

    Raises:
        FileNotFoundError: if one of the two files is missing.
        ValueError: if they cannot be read, or do not fit each other.
    """
    folder = Path(folder)
    for name in (_CONFIG, _WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder} holds no model: {name} is missing. "
                "Expected a folder made by save_pretrained."
            )
    try:
        config = AIRConfig.from_json(_read_text(folder / _CONFIG))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{folder / _CONFIG} is no configuration of AIR: {error}") from error
    path = folder / _WEIGHTS
    with open(path, "rb") as file:
        header = check_header(file.read(8 + _MAX_HEADER), path.stat().st_size, str(path))
    metadata = header.pop("__metadata__", {})
    found = {name: tuple(entry["shape"]) for name, entry in header.items()}
    expected = _expected_shapes(config, folder)
    if expected != found:
        odd = sorted(name for name in expected | found if expected.get(name) != found.get(name))
        raise ValueError(
            f"{path} does not fit {_CONFIG}: missing, unknown or of another shape "
            f"are {', '.join(odd[:5])}{' and others' if len(odd) > 5 else ''}."
        )
    try:
        tensors = load_file(path)
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    # Models saved by earlier versions have none.
    if metadata.get(_CHECKSUM) not in (None, _checksum(config, tensors)):
        raise ValueError(f"{folder} is damaged: its checksum is not the one it was saved with.")
    model = AIR(config)
    model.load_state_dict(tensors)
    return model.eval()


def check_header(start: bytes, size: int, name: str) -> dict[str, Any]:
    """Check the header of a safetensors file, before anything is allocated for its tensors.

    Args:
        start: the first megabyte of the file, or all of it.
        size: of the file in bytes.
        name: of the file, for messages.

    Returns:
        The header: each tensor's ``dtype``, ``shape`` and ``data_offsets``, and ``__metadata__``
        where there is any.

    Raises:
        ValueError: if it is too long, or does not fit the file.
    """
    length = int.from_bytes(start[:8], "little")
    if len(start) < 8 or length > min(_MAX_HEADER, len(start) - 8):
        raise ValueError(f"{name} is damaged: it cannot hold a header of {length} bytes.")
    try:
        header = json.loads(start[8 : 8 + length].decode("utf-8"))
        for tensor, entry in header.items():
            if tensor == "__metadata__":
                if not isinstance(entry, dict):
                    raise TypeError("the metadata is no object")
                continue
            (begin, end), shape = entry["data_offsets"], entry["shape"]
            if not all(type(number) is int and number >= 0 for number in (begin, end, *shape)):
                raise TypeError("a size is no whole number")
            # At least one byte an element.
            if not begin <= end <= size - 8 - length or math.prod(shape) > end - begin:
                raise ValueError(f"a tensor of shape {shape} is declared, which is not in it")
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{name} is damaged: its header makes no sense ({reason}).") from error
    return header


def _expected_shapes(config: AIRConfig, folder: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the weights that a configuration makes, without making them."""
    try:
        with torch.device("meta"):
            model = AIR(config)
    except (RuntimeError, TypeError, OverflowError) as error:  # sizes that no tensor can have
        raise ValueError(f"{folder / _CONFIG} makes no model: {error}") from error
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _checksum(config: AIRConfig, tensors: dict[str, Tensor]) -> str:
    """SHA-256 over the configuration and the weights with their names, types and shapes."""
    digest = hashlib.sha256(config.to_json().encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read_text(path: Path) -> str:
    size = path.stat().st_size
    if size > _MAX_CONFIG:
        raise ValueError(f"{size} bytes are too many")
    return path.read_text(encoding="utf-8")
