"""Files that appear whole or not at all, and files that are read with suspicion."""

import contextlib
import errno
import json
import math
import os
import secrets
from pathlib import Path
from typing import Any, NoReturn

MAX_JSON_BYTES = 16 << 20
"""More than any JSON file of ours holds: about a million numbers."""


class DamagedFileError(ValueError):
    """A file does not hold what it should: cut, altered, of another kind, or made to do harm."""


def write_file(path: Path, content: bytes) -> None:
    """Write a file so that others see the old one or the new one, never a part.

    After a return the file outlives a power cut too: it and its folder are synced. What a killed
    process leaves behind is a hidden ``.tmp`` file, which :func:`is_debris` knows.

    Args:
        path: the file, in a folder that exists.
        content: all of it.

    Raises:
        OSError: if it cannot be written. No part of it is left behind.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            rest = memoryview(content)
            while len(rest):
                rest = rest[os.write(file, rest) :]
            os.fsync(file)
        finally:
            os.close(file)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    sync_folder(path.parent)


def is_debris(name: str) -> bool:
    """Whether a file of this name is what a killed :func:`write_file` leaves behind."""
    return name.startswith(".") and name.endswith(".tmp")


def sync_folder(folder: Path) -> None:
    """Make renames and removals in a folder outlive a power cut."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:  # Windows opens no folders
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # not every file system can
            raise
    finally:
        os.close(handle)


def read_file(path: Path, limit: int) -> bytes:
    """Read a file of at most ``limit`` bytes; a larger one is not touched.

    Raises:
        OSError: if it cannot be read.
        DamagedFileError: if it is larger, or no plain file.
    """
    if path.exists() and not path.is_file():
        raise DamagedFileError(f"{path} is no plain file.")
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        # Not to the limit: Python would make room for all of it first.
        content = file.read(size + 1) if size <= limit else b""
    if size > limit or len(content) > limit:
        raise DamagedFileError(f"{path} has {size} bytes, more than the {limit} it may have.")
    return content


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        OSError: if it cannot be read.
        DamagedFileError: if it holds anything else, or NaN, or an infinite number.
    """
    return parse_json(read_file(path, MAX_JSON_BYTES), str(path))


def parse_json(content: bytes, name: str) -> dict[str, Any]:
    """The JSON object in a file's content.

    Raises:
        DamagedFileError: if it is anything else, or holds NaN or an infinite number.
    """
    try:
        value = json.loads(content.decode("utf-8"), parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise DamagedFileError(f"{name} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise DamagedFileError(f"{name} holds {type(value).__name__}, expected an object.")
    return value


def to_json(value: dict[str, Any]) -> bytes:
    """An object as JSON, one field a line, a line's end at the end."""
    return (json.dumps(value, indent=2, default=str, allow_nan=False) + "\n").encode()


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse(text)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
