"""Save and load a trained model, as functions; the methods of :class:`air.AIR` do it.

The files are explained in :mod:`air.weights`.
"""

import os

from air.model import AIR
from air.weights import check_header

__all__ = ["check_header", "from_pretrained", "save_pretrained"]


def save_pretrained(model: AIR, folder: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Save a model; see :meth:`air.AIR.save_pretrained`."""
    model.save_pretrained(folder, overwrite=overwrite)


def from_pretrained(name_or_folder: str | os.PathLike[str]) -> AIR:
    """Load a model; see :meth:`air.AIR.from_pretrained`."""
    return AIR.from_pretrained(name_or_folder)
