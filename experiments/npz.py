"""Read ``.npz`` files with suspicion: every declared size is checked before it is believed."""

import errno
import io
import math
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.files import DamagedFileError, open_file
from experiments.safe_pickle import Array, read_pickle

__all__ = ["member_names", "parse_array", "parse_objects", "read_members"]

_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_MAX_RATIO = 250
_FREE_BYTES = 64 << 20
"""A file may unpack to this in any case, and else to 250 times its size. Scenes of sparse digits
are 20 to 40 times as large unpacked, and a zip bomb 1000 times."""


def member_names(path: Path) -> list[str]:
    """Names of the arrays that an archive says it holds; nothing is unpacked.

    Raises:
        OSError: if it cannot be read.
        DamagedFileError: if it is no such archive.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = sorted(archive.namelist())
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise DamagedFileError(f"{path} is damaged or no archive of arrays ({error}).") from error
    except (EOFError, MemoryError, NotImplementedError, ValueError, zipfile.BadZipFile) as error:
        raise DamagedFileError(f"{path} is damaged or no archive of arrays ({error}).") from error
    if not names or not all(name.endswith(".npy") for name in names):
        raise DamagedFileError(f"{path} holds {', '.join(names)[:200] or 'nothing'}, not arrays.")
    return [name.removesuffix(".npy") for name in names]


def read_members(path: Path, names: list[str]) -> dict[str, bytearray]:
    """The ``.npy`` files in an archive, each held against its declared size and CRC-32.

    Args:
        path: of the archive.
        names: of the arrays that it must hold; it may hold no others.

    Raises:
        OSError: if it cannot be read.
        DamagedFileError: if it is no such archive, or unpacks to too much.
    """
    try:
        with open_file(path) as raw, zipfile.ZipFile(raw) as archive:
            members = archive.infolist()
            found = sorted(member.filename for member in members)
            if found != sorted(f"{name}.npy" for name in names):
                raise DamagedFileError(f"it holds {', '.join(found)[:200] or 'nothing'}")
            # zipfile unpacks the others' input whole, however little of it is asked for.
            if any(member.compress_type not in _COMPRESSIONS for member in members):
                raise DamagedFileError("a member is compressed as numpy never does")
            size = path.stat().st_size
            declared = sum(member.file_size for member in members)
            if declared > max(_FREE_BYTES, _MAX_RATIO * size):
                raise DamagedFileError(f"its {size} bytes would unpack to {declared}")
            return {member.filename[:-4]: _read(archive, member) for member in members}
    except OSError as error:
        if error.errno != errno.EINVAL:  # it points before its own beginning
            raise
        raise DamagedFileError(f"{path} is damaged or no file of ours ({error}).") from error
    except (
        EOFError,
        MemoryError,
        NotImplementedError,
        RuntimeError,
        ValueError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise DamagedFileError(f"{path} is damaged or no file of ours ({error}).") from error


def parse_array(content: bytes | bytearray, name: str) -> NDArray[Any]:
    """The array of numbers or text in a ``.npy`` file; it shares the content's memory.

    Raises:
        DamagedFileError: if it is no such file, holds objects, or not as much as it declares.
    """
    shape, dtype, fortran, data = _parse_header(content, name)
    if dtype.hasobject or dtype.names or dtype.subdtype or not dtype.itemsize:
        raise DamagedFileError(f"{name} holds {dtype}, expected plain numbers or text.")
    size = math.prod(shape)
    if len(data) != size * dtype.itemsize:
        raise DamagedFileError(f"{name} declares {shape} of {dtype}, but has {len(data)} bytes.")
    flat = np.frombuffer(data, dtype) if size else np.empty(0, dtype)
    try:
        return flat.reshape(shape, order="F" if fortran else "C")
    except ValueError as error:
        raise DamagedFileError(f"{name} declares {shape}, which is no shape.") from error


def parse_objects(content: bytes | bytearray, name: str) -> Any:
    """The one pickled object in a ``.npy`` file, as :func:`read_pickle` gives it.

    Raises:
        DamagedFileError: if it is anything else.
    """
    shape, dtype, _, data = _parse_header(content, name)
    if dtype != np.dtype(object) or shape != ():
        raise DamagedFileError(f"{name} holds {dtype} of shape {shape}, expected one object.")
    value = read_pickle(bytes(data), name)
    if not isinstance(value, Array) or value.items is None or len(value.items) != 1:
        raise DamagedFileError(f"{name} holds no object.")
    return value.items[0]


def _read(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytearray:
    content = bytearray()  # arrays made of it can be written to
    with archive.open(member) as file:
        while len(content) <= member.file_size and (piece := file.read(1 << 20)):
            content += piece
    if len(content) != member.file_size:
        raise DamagedFileError(f"{member.filename} does not have its declared size")
    return content


def _parse_header(
    content: bytes | bytearray, name: str
) -> tuple[tuple[int, ...], np.dtype[Any], bool, memoryview]:
    """Shape, type, whether the first axis runs fastest, and the data."""
    file = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        elif version == (2, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_2_0(file)
        else:
            raise ValueError(f"version {version} is unknown")
    except Exception as error:  # numpy's parser can trip over anything, each version otherwise
        reason = " ".join(str(error).split())[:200]
        raise DamagedFileError(f"{name} is no array file ({reason}).") from error
    if len(shape) > 8 or any(length < 0 for length in shape):
        raise DamagedFileError(f"{name} declares {shape}, which is no shape.")
    return shape, dtype, fortran, memoryview(content)[file.tell() :]
