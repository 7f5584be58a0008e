"""A trained model as a folder, in the layout of the Hugging Face hub. No pickles.

``config.json`` holds the model's configuration, ``preprocessor_config.json`` what is done to
images first, ``model.safetensors`` the weights and ``README.md`` the model's card.
"""

import hashlib
import json
import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from air.config import AIRConfig
from air.files import current_file, finish_files, open_file, parse_json, read_file, write_files
from air.images import Preparation

__all__ = [
    "SavedModel",
    "check_finite",
    "check_header",
    "find_folder",
    "load_folder",
    "push_folder",
    "save_folder",
    "shipped_models",
]

_CONFIG = "config.json"
_PREPARATION = "preprocessor_config.json"
_WEIGHTS = "model.safetensors"
_CARD = "README.md"
_FILES = (_WEIGHTS, _PREPARATION, _CARD, _CONFIG)
_CHECKSUM = "sha256"
_MAX_CONFIG = 1 << 20
_MAX_HEADER = 1 << 20
"""A header has some kilobytes; safetensors itself would parse 100 MB of it."""
_SHIPPED = Path(__file__).parent / "pretrained"
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True, kw_only=True, eq=False)
class SavedModel:
    """What a model's folder holds."""

    config: AIRConfig
    preparation: Preparation
    tensors: dict[str, Tensor]
    """The weights by their names, on the CPU, in the type that they were saved in."""


def save_folder(
    saved: SavedModel,
    folder: str | os.PathLike[str],
    *,
    card: str = "",
    half: bool = False,
    overwrite: bool = False,
) -> None:
    """Write a model's files. See :meth:`air.AIR.save_pretrained`."""
    folder = Path(folder)
    if not overwrite and any(current_file(folder, name).exists() for name in _FILES):
        raise FileExistsError(
            f"{folder} holds a model already, or a {_CARD}. Give another folder, or overwrite=True."
        )
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().contiguous() for name, tensor in saved.tensors.items()}
    check_finite(tensors, "the model")
    if half:
        tensors = {name: _halved(name, tensor) for name, tensor in tensors.items()}
    config = saved.config.to_json()
    preparation = json.dumps(saved.preparation.to_dict(), indent=2)
    # One entry only: safetensors writes several in an order that differs from call to call.
    metadata = {_CHECKSUM: _checksum(config, _kept(saved.preparation, preparation), tensors)}
    texts = {
        _CONFIG: config + "\n",
        _PREPARATION: preparation + "\n",
        _CARD: model_card(saved, card),
    }
    contents = {name: text.encode() for name, text in texts.items()}
    write_files(folder, contents | {_WEIGHTS: save(tensors, metadata=metadata)})


def load_folder(
    folder: str | os.PathLike[str], shapes_of: Callable[[AIRConfig], dict[str, tuple[int, ...]]]
) -> SavedModel:
    """Read a model's files. See :meth:`air.AIR.from_pretrained`.

    Args:
        folder: with the files.
        shapes_of: says which weights a configuration makes, and of what shapes.

    Raises:
        FileNotFoundError: if the configuration or the weights are missing.
        ValueError: if they cannot be read, or do not fit each other.
    """
    folder = Path(folder)
    config_path, path = current_file(folder, _CONFIG), current_file(folder, _WEIGHTS)
    for name, found_at in ((_CONFIG, config_path), (_WEIGHTS, path)):
        if not found_at.is_file():
            raise FileNotFoundError(
                f"{folder} holds no model: {name} is missing. "
                "Expected a folder made by save_pretrained."
            )
    try:
        text = read_file(config_path, _MAX_CONFIG).decode()
        config = AIRConfig.from_json(text)
    except ValueError as error:
        raise ValueError(f"{config_path} is no configuration of AIR: {error}") from error
    preparation, how = _read_preparation(current_file(folder, _PREPARATION))
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        header = check_header(file.read(8 + _MAX_HEADER), size, str(path))
    metadata = header.pop("__metadata__", {})
    found = {name: tuple(entry["shape"]) for name, entry in header.items()}
    try:
        expected = shapes_of(config)
    except (RuntimeError, TypeError, OverflowError) as error:  # sizes that no tensor can have
        raise ValueError(f"{config_path} makes no model: {error}") from error
    if expected != found:
        odd = sorted(name for name in expected | found if expected.get(name) != found.get(name))
        raise ValueError(
            f"{path} does not fit {_CONFIG}: missing, unknown or of another shape "
            f"are {', '.join(odd[:5])}{' and others' if len(odd) > 5 else ''}."
        )
    try:
        tensors = load(read_file(path, size))
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    # Models saved by earlier versions have none.
    if metadata.get(_CHECKSUM) not in (None, _checksum(text, _kept(preparation, how), tensors)):
        raise ValueError(f"{folder} is damaged: its checksum is not the one it was saved with.")
    check_finite(tensors, str(path))
    return SavedModel(config=config, preparation=preparation, tensors=tensors)


def check_finite(tensors: dict[str, Tensor], name: str) -> None:
    """Check weights: a model of NaN sees nothing, in any image, and does not say so.

    Args:
        tensors: the weights by their names.
        name: of the weights, for messages.

    Raises:
        ValueError: if one is not finite.
    """
    odd = [key for key, tensor in tensors.items() if not tensor.isfinite().all()]
    if odd:
        raise ValueError(
            f"{name} holds numbers that are not finite, in {', '.join(odd[:5])}"
            f"{' and others' if odd[5:] else ''}: its training broke down. Train it again."
        )


def shipped_models() -> list[str]:
    """Names of the trained models that come with the package."""
    return sorted(path.parent.name for path in _SHIPPED.glob(f"*/{_CONFIG}"))


def find_folder(name_or_folder: str | os.PathLike[str]) -> Path:
    """Where a model's files are: a folder, a model of the package, or one on the hub.

    The network is used for names of the form ``owner/model`` alone, of which no folder exists.

    Raises:
        FileNotFoundError: if there is none of that name.
        ImportError: if it must be fetched from the hub, and ``huggingface_hub`` is not installed.
    """
    folder = Path(name_or_folder)
    if folder.is_dir():
        return folder
    name = os.fspath(name_or_folder)
    if name in shipped_models():
        return _SHIPPED / name
    if _HUB_NAME.fullmatch(name) and ".." not in name:
        hub = _import_hub(f"{name} is no folder here; to fetch a model of that name from the hub")
        return Path(hub.snapshot_download(repo_id=name, allow_patterns=list(_FILES)))
    raise FileNotFoundError(
        f"there is no model {name!r}: no such folder, and the models that come with the package "
        f"are: {', '.join(shipped_models()) or 'none'}."
    )


def push_folder(folder: Path, name: str, *, private: bool = False) -> str:
    """Upload a model's folder to the Hugging Face hub; returns its address.

    Raises:
        ImportError: if ``huggingface_hub`` is not installed.
        ValueError: if the name is none of the hub's.
    """
    if not _HUB_NAME.fullmatch(name):
        raise ValueError(f"name must be of the form owner/model, got {name!r}.")
    hub = _import_hub("to push a model to the hub")
    finish_files(folder)
    api = hub.HfApi()
    api.create_repo(repo_id=name, private=private, exist_ok=True)
    return str(api.upload_folder(repo_id=name, folder_path=str(folder)))


def model_card(saved: SavedModel, notes: str = "") -> str:
    """The model's card: Markdown, with the header that the hub reads.

    Args:
        saved: the model.
        notes: more text, such as what it was trained on and how good it is.
    """
    config = saved.config
    height, width = config.canvas_size
    numbers = sum(tensor.numel() for tensor in saved.tensors.values())
    lines = [
        "---",
        "library_name: air",
        "license: mit",
        "tags:",
        "- attend-infer-repeat",
        "- unsupervised-object-detection",
        "---",
        "",
        "# Attend, Infer, Repeat",
        "",
        f"Finds up to {config.max_objects} objects in "
        f"{'grey' if config.channels == 1 else 'RGB'} images on a canvas of {height} x {width}: "
        f"how many, where, and what they look like. {numbers:,} numbers, MIT licence.",
        "",
        "```python",
        "from air import AIR",
        "",
        'model = AIR.from_pretrained("path/to/this/folder")',
        "detections = model.predict(images)",
        "```",
    ]
    if notes:
        lines += ["", notes.strip()]
    return "\n".join(lines) + "\n"


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
        header = parse_json(start[8 : 8 + length], "it")
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


def _checksum(config: str, preparation: str, tensors: dict[str, Tensor]) -> str:
    """SHA-256 over two files' texts and the weights with their names, types and shapes.

    The texts, not what they say: a later version may say more by default.
    """
    digest = hashlib.sha256((config.strip() + preparation.strip()).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _halved(name: str, tensor: Tensor) -> Tensor:
    """A tensor in half precision, whose largest number is 65504."""
    if not tensor.is_floating_point():
        return tensor
    halved = tensor.half()
    if not halved.isfinite().all():
        raise ValueError(
            f"{name} holds numbers that half precision has not, up to {tensor.abs().max():g}. "
            "Save the model without half=True."
        )
    return halved


def _kept(preparation: Preparation, text: str) -> str:
    """What of it goes into the checksum: of models saved by earlier versions there is nothing."""
    return "" if preparation == Preparation() else text


def _read_preparation(path: Path) -> tuple[Preparation, str]:
    if not path.is_file():  # models saved by earlier versions have none
        return Preparation(), ""
    try:
        text = read_file(path, _MAX_CONFIG).decode()
        return Preparation.from_dict(parse_json(text, path.name)), text
    except ValueError as error:
        raise ValueError(f"{path} does not say how to prepare images: {error}") from error


def _import_hub(purpose: str) -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise ImportError(
            f"{purpose}, install huggingface_hub: pip install 'attend-infer-repeat[hub]'."
        ) from error
    return huggingface_hub
