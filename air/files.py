"""Files that appear whole or not at all, and files that are read with suspicion.

Every file that is ours goes through here: one reader, one writer.
"""

import contextlib
import errno
import io
import json
import os
import secrets
import shutil
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

__all__ = [
    "DamagedFileError",
    "append_file",
    "check_free",
    "current_file",
    "finish_files",
    "is_debris",
    "is_number",
    "make_folder",
    "open_file",
    "parse_json",
    "read_file",
    "sync_folder",
    "write_file",
    "write_files",
    "write_new",
]

_READY = ".new"
"""A folder of files that are whole and belong where it lies."""
_STALE = 3600
"""Seconds without a write, after which nobody is still writing a temporary file."""
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_NO_WAIT = getattr(os, "O_NONBLOCK", 0)
_BINARY = getattr(os, "O_BINARY", 0)


class DamagedFileError(ValueError):
    """A file does not hold what it should: cut, altered, of another kind, or made to do harm."""


def make_folder(folder: Path, root: Path) -> Path:
    """Make a folder inside another one if it is gone, and follow no link on the way to it.

    Args:
        folder: to be written into.
        root: the folder that what is written must stay in; it may be reached by links.

    Raises:
        NotADirectoryError: if a link, or a file, is in the way.
        OSError: if it cannot be made.
    """
    root.mkdir(parents=True, exist_ok=True)
    place = root
    for part in folder.relative_to(root).parts:
        place = place / part
        with contextlib.suppress(FileExistsError):
            place.mkdir()
        if place.is_symlink() or not place.is_dir():
            raise NotADirectoryError(
                f"{place} is a link or a file, expected a folder: nothing is written through it. "
                "Remove it."
            )
    return folder


def check_free(path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Check that a file may be written, before any work is done for it.

    Args:
        path: of the file.
        overwrite: whether a file that is there may be replaced.

    Raises:
        FileExistsError: if it exists and may not be replaced.
        NotADirectoryError: if the folder it shall be in does not exist.
        OSError: if nothing can be written there.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise NotADirectoryError(f"{path.parent} is no folder. Make it first.")
    if path.is_dir() or (path.exists() and not overwrite):
        raise FileExistsError(f"{path} exists. Give another name, or overwrite=True.")
    # Tried, not asked for: the answer can be wrong for root, and on a network's disk.
    temporary = _temporary(path)
    os.close(_create(temporary))
    os.unlink(temporary)
    return path


def write_new(path: str | os.PathLike[str], content: bytes, *, overwrite: bool = False) -> Path:
    """Write a file that somebody asked for, and replace nothing unasked.

    Args:
        path: of the file.
        content: all of it.
        overwrite: whether a file that is there may be replaced.

    Raises:
        FileExistsError: if it exists and may not be replaced.
        NotADirectoryError: if the folder it shall be in does not exist.
        OSError: if it cannot be written. No part of it is left behind.
    """
    path = check_free(path, overwrite=overwrite)
    _write(path, content, os.replace if overwrite else _name)
    return path


def write_file(path: Path, content: bytes | Callable[[BinaryIO], object]) -> None:
    """Write a file so that others see the old one or the new one, never a part.

    After a return the file outlives a power cut too: it and its folder are synced. What a killed
    process leaves behind is a hidden ``.tmp`` file, which :func:`is_debris` knows; the next write
    of the same file removes it.

    Args:
        path: the file. Its folder is made if need be. A link of this name is replaced.
        content: all of it, or what writes it to a file open for binary writing.

    Raises:
        OSError: if it cannot be written. No part of it is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_debris(path)
    _write(path, content, os.replace)


def write_files(folder: Path, contents: dict[str, bytes]) -> None:
    """Write files that belong together, so that all are replaced or none is.

    They are written into a hidden folder; it gets the name that says that it is whole, by one
    rename, and only then they take their places. Where a process dies among these,
    :func:`current_file` finds each of the new ones, and the next write ends what it began.

    Args:
        folder: where they belong; made if need be.
        contents: by their names, which may be paths inside the folder.

    Raises:
        OSError: if they cannot be written; the old ones are as they were.
    """
    folder.mkdir(parents=True, exist_ok=True)
    finish_files(folder)
    hidden = _temporary(folder / "files")
    try:
        for name, content in contents.items():
            write_file(hidden / name, content)
        os.rename(hidden, folder / _READY)
    except BaseException:
        shutil.rmtree(hidden, ignore_errors=True)
        raise
    sync_folder(folder)
    finish_files(folder)


def finish_files(folder: Path) -> None:
    """Put files in their places that :func:`write_files` had written when its process died.

    Raises:
        OSError: if they cannot be.
    """
    ready = folder / _READY
    if ready.is_symlink() or not ready.is_dir():
        return
    for place, _, names in os.walk(ready):
        target = make_folder(folder / Path(place).relative_to(ready), folder)
        for name in names:
            os.replace(Path(place) / name, target / name)
    shutil.rmtree(ready)
    sync_folder(folder)


def current_file(folder: Path, name: str) -> Path:
    """Where a file is that :func:`write_files` wrote, also if it died at its work."""
    ready = folder / _READY / name
    return ready if ready.is_file() else folder / name


def append_file(path: Path, content: bytes) -> None:
    """Add to a file, which is made if need be. No link is followed.

    Args:
        path: the file, in a folder that exists.
        content: what comes after all that is there.

    Raises:
        OSError: if it cannot be written, or is a link.
        DamagedFileError: if it is no plain file.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | _NO_LINK | _NO_WAIT | _BINARY
    with os.fdopen(_open_plain(path, flags), "ab") as file:
        file.write(content)


def open_file(path: Path) -> io.BufferedReader:
    """Open a plain file for reading; a pipe or a device does not make anybody wait.

    Raises:
        OSError: if it cannot be opened.
        DamagedFileError: if it is no plain file.
    """
    return os.fdopen(_open_plain(path, os.O_RDONLY | _NO_WAIT | _BINARY), "rb")


def read_file(path: Path, limit: int) -> bytes:
    """Read a file of at most ``limit`` bytes; a larger one is not touched.

    Raises:
        OSError: if it cannot be read.
        DamagedFileError: if it is larger, or no plain file.
    """
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        # Not to the limit: Python would make room for all of it first.
        content = file.read(size + 1) if size <= limit else b""
    if size > limit or len(content) > limit:
        raise DamagedFileError(f"{path} has {size} bytes, more than the {limit} it may have.")
    return content


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


def parse_json(content: bytes | str, name: str) -> dict[str, Any]:
    """The JSON object in a file's content.

    Raises:
        DamagedFileError: if it is anything else, or holds a number that is not finite or has more
            than 64 bits.
    """
    try:
        text = content.decode("utf-8") if isinstance(content, bytes) else content
        value = json.loads(text, parse_constant=_refuse, parse_float=_float, parse_int=_int)
    except (ValueError, RecursionError) as error:
        raise DamagedFileError(f"{name} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise DamagedFileError(f"{name} holds {type(value).__name__}, expected an object.")
    return value


def is_number(value: object) -> bool:
    """Whether it is an int or a float that a float can hold and that is finite; a bool is none."""
    largest = sys.float_info.max
    return type(value) in (int, float) and -largest <= value <= largest  # type: ignore[operator]


def _write(
    path: Path,
    content: bytes | Callable[[BinaryIO], object],
    name_it: Callable[[Path, Path], object],
) -> None:
    temporary = _temporary(path)
    try:
        handle = _create(temporary)
        try:
            if callable(content):
                with os.fdopen(handle, "wb", closefd=False) as file:
                    content(file)
            else:
                rest = memoryview(content)
                while len(rest):
                    rest = rest[os.write(handle, rest) :]
            os.fsync(handle)
        finally:
            os.close(handle)
        name_it(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
    sync_folder(path.parent)


def _name(temporary: Path, path: Path) -> None:
    """Give a file its name, unless it was taken since the check."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise FileExistsError(f"{path} exists. Give another name, or overwrite=True.") from None
    except OSError:  # not every file system has links
        os.replace(temporary, path)


def _temporary(path: Path) -> Path:
    # The process's number and chance in the name: two processes may write the same file at once.
    return path.with_name(f".{path.name[:100]}.{os.getpid()}.{secrets.token_hex(4)}.tmp")


def _create(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY, 0o666)


def _remove_debris(path: Path) -> None:
    """Remove what killed processes left behind of this file."""
    prefix = f".{path.name[:100]}."
    with contextlib.suppress(OSError), os.scandir(path.parent) as entries:
        for entry in entries:
            name = entry.name
            if not name.startswith(prefix) or not is_debris(name):
                continue
            status = entry.stat(follow_symlinks=False)
            if stat.S_ISREG(status.st_mode) and time.time() - status.st_mtime > _STALE:
                os.unlink(entry.path)


def _open_plain(path: Path, flags: int) -> int:
    handle = os.open(path, flags, 0o666)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise DamagedFileError(f"{path} is no plain file.")
    return handle


def _float(text: str) -> float:
    value = float(text)
    return value if is_number(value) else _refuse(text)


def _int(text: str) -> int:
    value = int(text) if len(text) <= 20 else 0  # Python itself would read thousands of digits
    return value if len(text) <= 20 and -(2**64) < value < 2**64 else _refuse(text[:20])


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
