"""Pictures in files: PNG, JPEG, TIFF, BMP, GIF, WebP, ``.npy`` and ``.npz``, one after another.

What a header declares is checked before it is decoded. Nothing is ever unpickled.
"""

import glob
import math
import os
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from air.files import open_file
from air.images.arrays import as_image, stack_to_images, without_alpha

__all__ = [
    "ARRAYS",
    "SUFFIXES",
    "are_paths",
    "find_images",
    "name_files",
    "open_pillow",
    "pillow_pixels",
    "read_image",
    "read_pages",
    "reduce_pixels",
]

ARRAYS = (".npy", ".npz")
"""Endings of NumPy's files."""
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp")
"""Endings of the images that a folder is searched for, besides :data:`ARRAYS`."""

_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP")
"""Read whatever the file's name says. Others are programs to be run (EPS), or rare."""
_PAGED = ("GIF", "PNG", "TIFF", "WEBP")
"""Formats whose pages are images. The second one in a camera's JPEG is a preview."""
_ORIENTATION = 0x0112
"""Of EXIF: how an image is turned to be seen as it was taken."""
_SUBFILE = 0x00FE
"""Of TIFF: odd for a page that is a smaller copy of another one."""
_MOST_PIXELS = 64_000_000
"""Of one page; a small file can claim any number."""
_MOST_ARRAY_BYTES = 1 << 33
"""Of one array in an ``.npz``, which is held in memory as a whole."""
_IMAGE_KEYS = ("images", "image", "imgs", "x", "X", "train_images", "held_out_images", "arr_0")
"""Names of arrays in an ``.npz`` that are known to be images, before any other."""


def are_paths(images: Any) -> bool:
    """Whether this names files or folders, instead of being images: a path, or a list of them."""
    if isinstance(images, list | tuple):
        return len(images) > 0 and isinstance(images[0], str | os.PathLike)
    return isinstance(images, str | os.PathLike)


def name_files(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], *, recursive: bool = False
) -> list[tuple[str, Path]]:
    """Files of images and what to call them.

    Args:
        paths: files, folders and patterns such as ``"day1/*.tif"``. Of a folder, what ends in one
            of :data:`SUFFIXES` or :data:`ARRAYS`, in the order of the names; no hidden files.
        recursive: whether to search folders inside the folders, too.

    Returns:
        Pairs of a name and a path. The name is relative to the folder that was given, or to the
        part of the pattern without wildcards; that of a single file is its own.

    Raises:
        FileNotFoundError: if one does not exist, or there is no image at all.
    """
    if isinstance(paths, str | os.PathLike):
        paths = [paths]
    found: list[tuple[str, Path]] = []
    asked = list(map(Path, paths))
    for path in asked:
        if path.is_dir():
            found += [(file.relative_to(path).as_posix(), file) for file in _in(path, recursive)]
        elif path.is_file():
            found.append((path.name, path))
        elif glob.has_magic(str(path)):
            fixed = Path(*[part for part in path.parts if not glob.has_magic(part)])
            for match in map(Path, sorted(glob.glob(str(path), recursive=True))):
                files = _in(match, recursive) if match.is_dir() else [match]
                found += [(os.path.relpath(file, fixed), file) for file in files]
        else:
            raise FileNotFoundError(f"{path} does not exist. Give a folder of images, or files.")
    if not found:
        hint = ""
        if not recursive and any(_in(path, True) for path in asked if path.is_dir()):
            hint = " There are some in folders inside it: ask for them with recursive."
        raise FileNotFoundError(
            f"no image was found in {', '.join(map(str, asked)) or 'nothing'}. "
            f"Expected files that end in one of: {', '.join(SUFFIXES + ARRAYS)}.{hint}"
        )
    return found


def find_images(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], *, recursive: bool = False
) -> list[Path]:
    """The files of :func:`name_files`, without names."""
    return [path for _, path in name_files(paths, recursive=recursive)]


def read_image(path: str | os.PathLike[str], page: int = 0) -> Tensor:
    """Read one image of a file, in its own size.

    Args:
        path: see :func:`read_pages`.
        page: which of the images in the file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read, or has no such page.
        ImportError: if Pillow is not installed.
    """
    for number, (_, pixels, _) in enumerate(read_pages(Path(path), first=page), start=page):
        if number == page:
            return pixels
    raise ValueError(f"{path} cannot be read as an image: it has no page {page}.")


def read_pages(
    path: Path, *, reduce: int = 1, longest_side: int | None = None, first: int = 0
) -> Iterator[tuple[str, Tensor, tuple[int, int]]]:
    """Read a file's images one by one.

    An image is turned as its EXIF says. A palette, CMYK and other spaces of colour become RGB;
    transparency goes by :func:`air.images.arrays.without_alpha`. Copies of a lower resolution in a
    TIFF are left out. Every page of a TIFF, a GIF, a WebP or an animated PNG is an image. In
    ``.npy`` and ``.npz`` files three axes are one RGB image if the last has 3 or 4 entries,
    otherwise a stack of grey ones.

    Args:
        path: of the file.
        reduce: the number of pixels along each axis that become one, averaged. A JPEG is decoded
            no larger than needed for it.
        longest_side: with it, ``reduce`` is the least that brings the longer side there.
        first: the page to begin with.

    Yields:
        What to append to the file's name (``"[3]"``; nothing where there is one image); the
        pixels ``(C, h, w)`` with C of 1 or 3: uint8, uint16, or float32 as they are in the file;
        height and width in the file, turned.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged or not an image, or claims more than 64 million pixels.
        ImportError: if Pillow is not installed.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist, or is not a file.")
    if path.suffix.lower() in ARRAYS:
        pages = _array_pages(path, reduce, longest_side, first)
    else:
        pages = _pillow_pages(path, reduce, longest_side, first)
    while True:
        try:
            with warnings.catch_warnings(action="ignore"):  # Pillow's, of odd tags
                page = next(pages, None)
        except ImportError:
            raise
        # Pillow's decoders can trip over anything in a file made to fail.
        except Exception as error:
            reason = (" ".join(str(error).split())[:200] or type(error).__name__).rstrip(".")
            raise ValueError(f"{path} cannot be read as an image: {reason}.") from error
        if page is None:
            return
        part, pixels, size, left_out = page
        if left_out:
            warnings.warn(f"{path.name}: {left_out}", stacklevel=2)
        yield part, pixels, size


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


def pillow_pixels(image: Any) -> Tensor:
    """Pixels ``(C, h, w)`` of a Pillow image, C of 1 or 3; see :func:`read_pages`.

    Raises:
        ValueError: if it holds NaN or infinity.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        array = np.array(image).astype(np.uint16)
    elif image.mode in ("I", "F"):
        array = np.array(image).astype(np.float32)
        if not np.isfinite(array).all():
            raise ValueError("it holds NaN or infinity")
    elif image.mode == "1" or (image.mode == "L" and "transparency" not in image.info):
        array = np.array(image.convert("L"))
    else:
        has_alpha = image.mode in ("LA", "La", "PA", "RGBA", "RGBa")
        has_alpha |= "transparency" in image.info
        array = np.array(image.convert("RGBA" if has_alpha else "RGB"))
    pixels = torch.from_numpy(array if array.ndim == 3 else array[..., None]).permute(2, 0, 1)
    return without_alpha(pixels)


def reduce_pixels(pixels: Tensor, factor: int) -> Tensor:
    """An image ``(C, h, w)`` with each square of pixels averaged; uint8 and uint16 stay so."""
    if factor <= 1:
        return pixels
    kind = pixels.dtype
    small = F.avg_pool2d(pixels.float()[None], factor, ceil_mode=True)[0]
    return small if kind.is_floating_point else small.round().to(kind)


def reduction(size: tuple[int, int], reduce: int, longest_side: int | None) -> int:
    """How many pixels of an image of a size become one."""
    return reduce if longest_side is None else max(1, math.ceil(max(size) / longest_side))


def _in(folder: Path, recursive: bool) -> list[Path]:
    return sorted(
        file
        for file in (folder.rglob("*") if recursive else folder.iterdir())
        if file.suffix.lower() in SUFFIXES + ARRAYS
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
        and file.is_file()
    )


_Page = tuple[str, Tensor, tuple[int, int], str]


def _pillow_pages(path: Path, reduce: int, longest_side: int | None, first: int) -> Iterator[_Page]:
    pillow = open_pillow()
    with open_file(path) as file, pillow.open(file, formats=_FORMATS) as image:
        number = getattr(image, "n_frames", 1) if image.format in _PAGED else 1
        for page in range(first, number):
            if page:
                image.seek(page)
            if number > 1 and getattr(image, "tag_v2", {}).get(_SUBFILE, 0) & 1:
                continue
            width, height = image.size
            if width * height > _MOST_PIXELS:
                raise ValueError(f"{width} x {height} pixels are too many: cut it to pieces")
            factor = reduction((height, width), reduce, longest_side)
            orientation = _orientation(image)
            if image.format == "JPEG":  # decodes at a half, a quarter or an eighth
                share = math.gcd(factor, 8)
                image.draft(None, (max(width // share, 1), max(height // share, 1)))
                factor //= round(width / image.size[0])
            turn = _turn(pillow, orientation)
            seen = image if turn is None else image.transpose(turn)
            size = (width, height) if turn is not None and orientation >= 5 else (height, width)
            name = f"[{page}]" if number > 1 else ""
            yield name, reduce_pixels(pillow_pixels(seen), factor), size, ""


def _orientation(image: Any) -> int:
    """The orientation in an image's EXIF, 1 to 8; 1 if it has none."""
    if image.format == "PNG" and "exif" not in image.info:
        return 1  # Pillow would decode all of it to look for one behind the pixels
    found = image.getexif().get(_ORIENTATION)
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _turn(pillow: Any, orientation: int) -> Any:
    """Pillow's name of the turn that an orientation of EXIF asks for, if any."""
    names = [
        *("FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM"),
        *("TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90"),
    ]
    return None if orientation == 1 else pillow.Transpose[names[orientation - 2]]


def _array_pages(path: Path, reduce: int, longest_side: int | None, first: int) -> Iterator[_Page]:
    page = 0
    for key, array, left_out in _arrays(path):
        images = stack_to_images(array)
        for number, one in enumerate(images):
            if page >= first:
                pixels = as_image(np.array(one))
                if pixels.is_floating_point() and not pixels.isfinite().all():
                    raise ValueError("it holds NaN or infinity")
                pixels = without_alpha(pixels)
                size = (pixels.shape[1], pixels.shape[2])
                if math.prod(size) > _MOST_PIXELS:
                    raise ValueError(f"{size[1]} x {size[0]} pixels are too many: cut it to pieces")
                small = reduce_pixels(pixels, reduction(size, reduce, longest_side))
                yield key + (f"[{number}]" if len(images) > 1 else ""), small, size, left_out
                left_out = ""
            page += 1


def _arrays(path: Path) -> Iterator[tuple[str, np.ndarray, str]]:
    """Arrays of images in a file, their keys if there are several, and what was left out."""
    if path.suffix.lower() == ".npy":
        yield "", np.load(path, mmap_mode="r", allow_pickle=False), ""
        return
    with open_file(path) as whole, zipfile.ZipFile(whole) as archive:
        headers = {}
        for member in archive.namelist():
            with archive.open(member) as file:
                headers[member.removesuffix(".npy")] = _header(file)
        pickled = [key for key, (_, dtype) in headers.items() if dtype.hasobject]
        plain = {
            key: shape
            for key, (shape, dtype) in headers.items()
            if key not in pickled and dtype.kind in "fbiu" and len(shape) >= 2
        }
        chosen = [key for key in _IMAGE_KEYS if key in plain] or list(plain)
        if not chosen or (len(chosen) > 1 and chosen[0] not in _IMAGE_KEYS):
            raise ValueError(
                f"it holds {', '.join(headers)[:200] or 'nothing'}; expected one array of images, "
                "or one with the name images"
            )
        left_out = ""
        if pickled:
            left_out = f"{', '.join(pickled)} left out: pickled objects are never loaded."
        for key in chosen:
            shape, dtype = headers[key]
            if math.prod(shape) * dtype.itemsize > _MOST_ARRAY_BYTES:
                raise ValueError(f"{key} of shape {shape} is too large: save parts of it as .npy")
            with archive.open(f"{key}.npy") as file:
                array = np.lib.format.read_array(file, allow_pickle=False)
            yield (f"[{key}]" if len(chosen) > 1 else ""), array, left_out
            left_out = ""


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(file)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read is None:
        raise ValueError(f"its version {version} of NumPy's format is not known")
    shape, _, dtype = read(file)
    return shape, dtype
