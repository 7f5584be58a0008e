"""Pictures in files, read with suspicion: what a header declares is checked before it is believed.

A picture comes as ``uint8``: ``(h, w)`` if it is grey, whatever its file calls it, else
``(h, w, 3)``. Transparent parts: :func:`air.images.without_alpha`. Sixteen bits become eight.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from air.images import without_alpha
from experiments.files import DamagedFileError, open_file, read_file
from experiments.npz import parse_array

__all__ = [
    "SUFFIXES",
    "from_pillow",
    "image_paths",
    "read_array",
    "read_image",
    "read_size",
    "shrink",
    "to_pictures",
]

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")

_FORMATS = ("PNG", "JPEG", "TIFF")
_MOST_PIXELS = 50_000_000
"""Of one picture. Some files of 50 kB declare, and unpack to, a thousand times as much."""
_MOST_ARRAY_BYTES = 1 << 33
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How a picture is turned to be seen as it was taken, by its orientation in EXIF."""


def image_paths(folder: Path) -> list[Path]:
    """The pictures in a folder, by name; not those in folders inside it, nor hidden ones."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def read_size(path: Path) -> tuple[int, int]:
    """Height and width of a picture as it is meant to be seen, from its header.

    Raises:
        OSError: if the file cannot be opened.
        DamagedFileError: if it is no picture, or has more than 50 million pixels.
    """
    with _opened(path) as image:
        width, height = image.size
        sideways = _orientation(image) >= 5
    return (width, height) if sideways else (height, width)


def read_image(
    path: Path, size: tuple[int, int] | None = None, *, on_black: bool = False
) -> NDArray[np.uint8]:
    """Read a picture.

    Args:
        path: PNG, JPEG or TIFF, whatever the file's name says.
        size: height and width to shrink it to, averaging; default: its own.
        on_black: whether what is transparent is black in any case, as around a sprite.

    Returns:
        ``uint8``, ``(h, w)`` if it is grey, else ``(h, w, 3)``.

    Raises:
        OSError: if the file cannot be opened.
        DamagedFileError: if it is no picture, damaged, or has more than 50 million pixels.
    """
    with _opened(path) as image:
        number = getattr(image, "n_frames", 1)
        if number > 1 and image.format in ("PNG", "TIFF"):  # a camera's JPEG may hold a preview
            raise DamagedFileError(f"{path} holds {number} pictures. Save each by itself.")
        turn = _TURNS.get(_orientation(image))
        if size is not None and image.format == "JPEG":
            # Decodes at a half, a quarter or an eighth, where that is still large enough.
            image.draft(None, (max(size), max(size)))
        if turn is not None:
            image = image.transpose(turn)
        return shrink(from_pillow(image, str(path), on_black=on_black), size)


def from_pillow(image: Image.Image, name: str, *, on_black: bool = False) -> NDArray[np.uint8]:
    """The pixels of one of Pillow's images.

    Args:
        image: of whatever mode.
        name: what to call it in messages.
        on_black: whether what is transparent is black in any case.

    Returns:
        ``uint8``, ``(h, w)`` if it is grey, else ``(h, w, 3)``.

    Raises:
        DamagedFileError: if its pixels have 32 bits.
    """
    if image.mode.startswith("I;16"):
        return (np.asarray(image).astype(np.uint16) // 257).astype(np.uint8)
    if image.mode in ("1", "L"):
        return np.asarray(image.convert("L"))
    if image.mode in ("I", "F"):
        raise DamagedFileError(
            f"{name} has pixels of 32 bits, whose white is unknown. Save it with 8 or 16."
        )
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        seen = image.convert("RGBA")
        if not on_black:
            opaque = without_alpha(torch.from_numpy(np.array(seen)).permute(2, 0, 1))
            return _without_false_colors(opaque.permute(1, 2, 0).numpy())
        black = Image.new("RGBA", seen.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, seen)
    return _without_false_colors(np.asarray(image.convert("RGB")))


def read_array(path: Path) -> NDArray[Any]:
    """The array in an ``.npy`` file.

    Raises:
        OSError: if it cannot be read.
        DamagedFileError: if it is no such file, or not as large as it declares.
    """
    return parse_array(read_file(path, _MOST_ARRAY_BYTES), str(path))


def to_pictures(array: NDArray[Any], name: str) -> list[NDArray[np.uint8]]:
    """The pictures in an array.

    Args:
        array: ``(H, W)``, ``(H, W, C)``, ``(C, H, W)``, ``(N, H, W)``, ``(N, H, W, C)`` or
            ``(N, C, H, W)`` with C of 1 or 3; uint8, uint16, bool, or floats in [0, 1].
        name: what to call it in messages.

    Raises:
        ValueError: if it is anything else, or holds NaN.
    """
    pixels = _to_bytes(array, name)
    problem = (
        f"{name} must be (H, W), (H, W, C), (C, H, W), (N, H, W), (N, H, W, C) or (N, C, H, W) "
        f"with C of 1 or 3, got {array.shape}."
    )
    if pixels.ndim not in (2, 3, 4) or 0 in pixels.shape:
        raise ValueError(problem)
    if pixels.ndim == 2:
        pixels = pixels[None, :, :, None]
    elif pixels.ndim == 3:
        if pixels.shape[-1] in (1, 3):
            pixels = pixels[None]
        elif pixels.shape[0] in (1, 3):
            pixels = pixels.transpose(1, 2, 0)[None]
        else:
            pixels = pixels[..., None]
    elif pixels.shape[-1] not in (1, 3):
        if pixels.shape[1] not in (1, 3):
            raise ValueError(problem)
        pixels = pixels.transpose(0, 2, 3, 1)
    return [_without_false_colors(picture) for picture in pixels]


def _orientation(image: Image.Image) -> int:
    """The orientation in a picture's EXIF, 1 to 8; 1 if it has none."""
    if image.format == "PNG" and "exif" not in image.info:
        return 1  # Pillow would decode all of it to look for one behind the pixels
    found = image.getexif().get(_ORIENTATION)
    return found if found in _TURNS else 1


def _to_bytes(array: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """Pixels from 0 to 255."""
    if array.dtype == np.uint8:
        return array
    if array.dtype == bool:
        return array.astype(np.uint8) * 255
    if array.dtype == np.uint16:
        return (array // 257).astype(np.uint8)
    if array.dtype.kind != "f":
        raise ValueError(
            f"{name} must hold uint8, uint16, bool, or floats in [0, 1], got {array.dtype}."
        )
    low, high = (float(array.min()), float(array.max())) if array.size else (0.0, 0.0)
    if not 0 <= low <= high <= 1:
        raise ValueError(
            f"{name} must hold floats in [0, 1], got {low:g} to {high:g}. "
            "Divide them by their greatest value, or pass uint8."
        )
    return np.rint(array * 255).astype(np.uint8)


def _without_false_colors(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """``(h, w)`` where all channels are the same."""
    if (pixels == pixels[..., :1]).all():
        return pixels[..., 0]
    return pixels


def shrink(pixels: NDArray[np.uint8], size: tuple[int, int] | None) -> NDArray[np.uint8]:
    """A picture in another height and width, averaged where that is smaller."""
    if size is None or pixels.shape[:2] == size:
        return pixels
    small = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(small.resize(size[::-1], Image.Resampling.BOX))


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """A picture whose size was checked, but none of whose pixels were read."""
    with open_file(path) as file:
        try:
            # Pillow warns of what it goes on with, such as odd tags: no concern of the caller's.
            with (
                warnings.catch_warnings(action="ignore"),
                Image.open(file, formats=_FORMATS) as image,
            ):
                width, height = image.size
                if width * height > _MOST_PIXELS:
                    raise DamagedFileError(
                        f"{path} declares {width} x {height} pixels, more than the "
                        f"{_MOST_PIXELS // 10**6} million it may have. Make it smaller."
                    )
                yield image
        except DamagedFileError:
            raise
        except Exception as error:  # Pillow's decoders can trip over anything, each otherwise
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise DamagedFileError(f"{path} is no picture, or damaged ({reason}).") from error
