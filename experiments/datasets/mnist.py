"""Handwritten digits: those that come with the package, and the 60 000 that do not.

MNIST is by Yann LeCun and Corinna Cortes. Its files are of the IDX format: two zero bytes, a
type code, the number of axes, each axis' length as a big-endian 32-bit integer, then the data.
"""

import contextlib
import gzip
import io
import math
import os
import socket
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.files import open_file, read_file, write_file

__all__ = ["Digits", "MNISTUnavailable", "embedded_digits", "full_mnist", "read_idx"]

MNIST_ROOT_VARIABLE = "AIR_MNIST_ROOT"

_MAX_BYTES = 1 << 30

_IMAGES = "train-images-idx3-ubyte"
_LABELS = "train-labels-idx1-ubyte"
_LAYOUTS = ("MNIST/raw", "raw", ".")  # torchvision's folder, its inside, plain files
_NUM_TRAINING_DIGITS = 60_000
_DOWNLOAD_TIMEOUT_S = 5.0
_MAX_DEFLATE_RATIO = 1032  # the most that deflate can shrink anything
_MAX_AXES = 3


class MNISTUnavailable(RuntimeError):
    """The MNIST training digits are neither on this machine nor to be downloaded."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Digits:
    """Single digits with their labels.

    Raises:
        ValueError: if images and labels do not fit each other or are no digits.
    """

    images: NDArray[np.uint8]
    """White on black, shape ``(N, 28, 28)``."""
    labels: NDArray[np.int64]
    """0 to 9, shape ``(N,)``."""

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.dtype != np.uint8 or images.ndim != 3 or images.shape[1:] != (28, 28):
            raise ValueError(
                f"digits must be uint8 of shape (N, 28, 28), got {images.dtype} {images.shape}."
            )
        if len(images) == 0 or labels.shape != images.shape[:1]:
            raise ValueError(
                "expected at least one digit and a label for each, "
                f"got {len(images)} digits and labels of shape {labels.shape}."
            )
        if labels.dtype != np.int64 or labels.min() < 0 or labels.max() > 9:
            raise ValueError(
                f"labels must be int64 from 0 to 9, got {labels.dtype} "
                f"from {labels.min()} to {labels.max()}."
            )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: slice | NDArray[Any]) -> "Digits":
        return Digits(images=self.images[index], labels=self.labels[index])


def embedded_digits() -> Digits:
    """The 10 000 digits of MNIST's test split, shipped with this package."""
    folder = Path(__file__).parent / "mnist"
    return _read_digits(folder / "t10k-images-idx3-ubyte.gz", folder / "t10k-labels-idx1-ubyte.gz")


def full_mnist(mnist_root: Path | None = None, *, data_root: Path) -> Digits:
    """The 60 000 digits of MNIST's training split.

    Args:
        mnist_root: a folder with the files as torchvision leaves them (``MNIST/raw/``) or as
            they are published, gzip or not. Without it the folder in the environment variable
            ``AIR_MNIST_ROOT``, then the data root, then a download into the data root.
        data_root: where downloaded files are kept.

    Raises:
        FileNotFoundError: if ``mnist_root`` is given and the files are not in it.
        MNISTUnavailable: if it is not given and there is no way to get them.
        ValueError: if a file that was found is damaged.
    """
    if mnist_root is not None:
        digits = _find_digits(mnist_root)
        if digits is None:
            folders = ", ".join(str(mnist_root / layout) for layout in _LAYOUTS)
            raise FileNotFoundError(
                f"found no MNIST training digits in {mnist_root}. Looked for {_IMAGES} and "
                f"{_LABELS}, each with or without .gz, in: {folders}. Give --mnist-root the "
                "folder that holds them."
            )
        return digits
    variable = os.environ.get(MNIST_ROOT_VARIABLE)
    for folder in ([Path(variable).expanduser()] if variable else []) + [data_root]:
        digits = _find_digits(folder)
        if digits is not None:
            return digits
    return _download(data_root)


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read an array of bytes from an IDX file, gzip or not.

    The header is held against the size of the file before anything is allocated.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no IDX file of bytes, or cut, or longer than its header says.
    """
    size_on_disk = path.stat().st_size
    with open_file(path) as raw:
        zipped = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        file = gzip.GzipFile(fileobj=raw) if zipped else raw
        try:
            shape, header_size = _read_idx_header(file, path)
            size = math.prod(shape)  # Python's integers: cannot overflow
            possible = size_on_disk * _MAX_DEFLATE_RATIO if zipped else size_on_disk - header_size
            if size > possible or (size != possible and not zipped):
                raise ValueError(
                    f"{path} says in its header that it holds {shape} = {size} bytes, but "
                    f"{'at most ' if zipped else ''}{possible} can be in it. "
                    "It is damaged: get it again."
                )
            # In pieces, so that a header which lies within the bound above allocates nothing.
            data = bytearray()
            while len(data) <= size and (piece := file.read(1 << 20)):
                data += piece
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{path} is a damaged gzip file ({error}). Get it again.") from error
    if len(data) != size:
        raise ValueError(
            f"{path} says in its header that it holds {shape} = {size} bytes, but has "
            f"{'more' if len(data) > size else len(data)}. It is damaged: get it again."
        )
    return np.frombuffer(data, dtype=np.uint8).reshape(shape)


def _read_idx_header(file: Any, path: Path) -> tuple[tuple[int, ...], int]:
    """The array's shape and the header's length in bytes."""
    magic = file.read(4)
    if len(magic) != 4 or magic[:3] != b"\x00\x00\x08" or not 1 <= magic[3] <= _MAX_AXES:
        raise ValueError(
            f"{path} is no IDX file of bytes: it starts with {magic.hex(' ') or 'nothing'}. "
            f"Expected 00 00 08, then the number of axes, 1 to {_MAX_AXES}."
        )
    lengths = file.read(4 * magic[3])
    if len(lengths) != 4 * magic[3]:
        raise ValueError(f"{path} ends inside its IDX header. It is damaged: get it again.")
    shape = tuple(int.from_bytes(lengths[i : i + 4], "big") for i in range(0, len(lengths), 4))
    return shape, 4 + len(lengths)


def _read_digits(images: Path, labels: Path) -> Digits:
    try:
        return Digits(images=read_idx(images), labels=read_idx(labels).astype(np.int64))
    except ValueError as error:
        raise ValueError(f"cannot use the digits in {images} and {labels}: {error}") from error


def _find_digits(root: Path) -> Digits | None:
    """The training digits in a folder, in whichever layout; None if they are not there."""
    for layout in _LAYOUTS:
        found = [
            next(
                (
                    path
                    for suffix in ("", ".gz")
                    if (path := root / layout / f"{name}{suffix}").is_file()
                ),
                None,
            )
            for name in (_IMAGES, _LABELS)
        ]
        images, labels = found
        if images is not None and labels is not None:
            digits = _read_digits(images, labels)
            if len(digits) != _NUM_TRAINING_DIGITS:
                raise ValueError(
                    f"{images} holds {len(digits)} digits. Expected MNIST's "
                    f"{_NUM_TRAINING_DIGITS} training digits: get it again."
                )
            return digits
    return None


def _download(data_root: Path) -> Digits:
    """Get MNIST with torchvision and keep the training files in ``data_root``."""
    try:
        # Here, not above: it is slow, and some pairs of wheels fail with a RuntimeError.
        from torchvision.datasets import MNIST
    except (ImportError, OSError, RuntimeError) as error:
        raise MNISTUnavailable(
            f"torchvision, which would download MNIST, does not work here ({error})"
        ) from error
    # Into a folder of its own: what a killed download leaves is never taken for the real thing.
    with tempfile.TemporaryDirectory(prefix="air-mnist-") as folder:
        try:
            with _quiet(), _socket_timeout(_DOWNLOAD_TIMEOUT_S):
                MNIST(folder, train=True, download=True)
            digits = _find_digits(Path(folder))
        except (OSError, RuntimeError, ValueError) as error:
            raise MNISTUnavailable(f"MNIST could not be downloaded ({error})") from error
        if digits is None:
            raise MNISTUnavailable("torchvision's download of MNIST lacks the training files")
        raw = Path(folder) / _LAYOUTS[0]
        # A data root that cannot be written costs another download next time, nothing more.
        with contextlib.suppress(OSError):
            for name in (_LABELS, _IMAGES):
                content = read_file(raw / name, _MAX_BYTES)
                write_file(data_root / _LAYOUTS[0] / name, content)
    return digits


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Drop what torchvision prints: the caller has its own line for success and failure."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


@contextlib.contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
