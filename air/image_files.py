"""Images from files, read by Pillow where it is installed."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["SUFFIXES", "are_paths", "find_images", "open_pillow", "read_image", "read_images"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp")
"""Endings of the files that a folder is searched for."""

_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP")
"""Read whatever the file's name says. Others are programs to be run (EPS), or rare."""
_ORIENTATION = 0x0112
"""Of EXIF: how an image is turned to be seen as it was taken."""
_MOST_PIXELS = 64_000_000
"""Of one image; a small file can claim any number."""


def are_paths(images: Any) -> bool:
    """Whether this names files or folders, instead of being images: a path, or a list of them."""
    if isinstance(images, list | tuple):
        return len(images) > 0 and isinstance(images[0], str | os.PathLike)
    return isinstance(images, str | os.PathLike)


def find_images(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Files of images: those given, and those in folders given, in the order of their names.

    Args:
        paths: of files and folders. Folders inside folders are not searched.

    Raises:
        FileNotFoundError: if one does not exist, or there is no image at all.
    """
    if isinstance(paths, str | os.PathLike):
        paths = [paths]
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            found += sorted(
                file
                for file in path.iterdir()
                if file.suffix.lower() in SUFFIXES
                and not file.name.startswith(".")
                and file.is_file()
            )
        elif path.is_file():
            found.append(path)
        else:
            raise FileNotFoundError(f"{path} does not exist. Give a folder of images, or files.")
    if not found:
        raise FileNotFoundError(
            f"no image was found in {', '.join(str(path) for path in paths) or 'nothing'}. "
            f"Expected files that end in one of: {', '.join(SUFFIXES)}."
        )
    return found


def read_images(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[Tensor]:
    """Read all images of a folder, or some files; see :func:`find_images`.

    Raises:
        FileNotFoundError: if a path does not exist, or there is no image at all.
        ValueError: if a file is no image that can be read.
    """
    return [read_image(path) for path in find_images(paths)]


def read_image(path: str | os.PathLike[str]) -> Tensor:
    """Read one image.

    Args:
        path: PNG, JPEG, TIFF, BMP, GIF or WebP. Of several pictures in it, the first.

    Returns:
        As it is meant to be seen (turned as EXIF says): uint8, or uint16 where the file has 16
        bits, ``(C, h, w)`` with C of 1, 3, or 4 where there is an alpha channel.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no image, has more than 64 million pixels, or a kind of pixel that
            is not known.
        ImportError: if Pillow is not installed.
    """
    pillow = open_pillow()
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist, or is no file.")
    try:
        with pillow.open(path, formats=_FORMATS) as image:
            width, height = image.size
            if width * height > _MOST_PIXELS:
                raise ValueError(f"{width} x {height} pixels are too many")
            turn = _turn(pillow, image.getexif().get(_ORIENTATION))
            array = _pixels(image if turn is None else image.transpose(turn))
    except Exception as error:  # Pillow's decoders can trip over anything, each otherwise
        raise ValueError(f"{path} cannot be read as an image: {error}.") from error
    return torch.from_numpy(array).permute(2, 0, 1)


def open_pillow() -> Any:
    """``PIL.Image``.

    Raises:
        ImportError: if Pillow is not installed; says how to install it.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(
            "reading and drawing images needs Pillow: pip install pillow. "
            "Tensors and numpy arrays are read without it."
        ) from error
    return Image


def _turn(pillow: Any, orientation: object) -> Any:
    """Pillow's name of the turn that an orientation of EXIF asks for, if any."""
    names = [
        *("FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM"),
        *("TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90"),
    ]
    if not isinstance(orientation, int) or not 2 <= orientation <= 8:
        return None
    return pillow.Transpose[names[orientation - 2]]


def _pixels(image: Any) -> np.ndarray:
    """Pixels ``(h, w, C)`` of a Pillow image."""
    if image.mode.startswith("I;16") or image.mode == "I":
        array = np.array(image)
        if array.min() < 0 or array.max() > 65535:
            raise ValueError("its grey values are not 16 bits")
        return array.astype(np.uint16)[..., None]
    if image.mode in ("1", "L"):
        return np.array(image.convert("L"))[..., None]
    if image.mode == "F":
        raise ValueError("its pixels are floats of unknown range: convert it to 8 or 16 bits")
    has_alpha = "A" in image.mode or "transparency" in image.info
    return np.array(image.convert("RGBA" if has_alpha else "RGB"))
