"""Tensors by name as safetensors, the header checked before anything is allocated."""

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from air.checkpoint import check_header
from experiments.files import DamagedFileError


def write_tensors(tensors: dict[str, Tensor]) -> bytes:
    """Tensors, wherever they live, as the content of a safetensors file."""
    return save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})


def read_tensors(content: bytes, name: str) -> dict[str, Tensor]:
    """The tensors in the content of a safetensors file.

    Args:
        content: of the file.
        name: of the file, for messages.

    Raises:
        DamagedFileError: if it is no such file, or its header lies.
    """
    try:
        check_header(content, len(content), name)
        return load(content)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise DamagedFileError(f"{name} is damaged: {error}") from error
