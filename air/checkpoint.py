"""A trained model as a folder: ``config.json`` and ``model.safetensors``. No pickles."""

import os
import tempfile
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from air.config import AIRConfig
from air.model import AIR

__all__ = ["from_pretrained", "save_pretrained"]

_CONFIG = "config.json"
_WEIGHTS = "model.safetensors"


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
        save_file(tensors, Path(temporary) / _WEIGHTS, metadata={"format": "pt"})
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
        config = AIRConfig.from_json((folder / _CONFIG).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{folder / _CONFIG} is no configuration of AIR: {error}") from error
    try:
        tensors = load_file(folder / _WEIGHTS)
    except SafetensorError as error:
        raise ValueError(f"{folder / _WEIGHTS} is damaged: {error}") from error
    model = AIR(config)
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    found = {name: tensor.shape for name, tensor in tensors.items()}
    if expected != found:
        odd = sorted(name for name in expected | found if expected.get(name) != found.get(name))
        raise ValueError(
            f"{folder / _WEIGHTS} does not fit {_CONFIG}: missing, unknown or of another shape "
            f"are {', '.join(odd[:5])}{' and others' if len(odd) > 5 else ''}."
        )
    model.load_state_dict(tensors)
    return model.eval()
