"""Files that appear whole or not at all, and replace nothing unasked."""

import os
import secrets
from pathlib import Path

__all__ = ["check_free", "write_new"]


def check_free(path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Check that a file may be written, before any work is done for it.

    Args:
        path: of the file.
        overwrite: whether a file that is there may be replaced.

    Raises:
        FileExistsError: if it exists and may not be replaced.
        NotADirectoryError: if the folder it shall be in does not exist.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise NotADirectoryError(f"{path.parent} is no folder. Make it first.")
    if path.is_dir() or (path.exists() and not overwrite):
        raise FileExistsError(f"{path} exists. Give another name, or overwrite=True.")
    return path


def write_new(path: str | os.PathLike[str], content: bytes, *, overwrite: bool = False) -> Path:
    """Write a file under another name, then give it its own.

    Args:
        path: of the file.
        content: all of it.
        overwrite: whether a file that is there may be replaced.

    Raises:
        FileExistsError: if it exists and may not be replaced.
        NotADirectoryError: if the folder it shall be in does not exist.
    """
    path = check_free(path, overwrite=overwrite)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(content)
        if overwrite:
            os.replace(temporary, path)
        else:
            _name(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _name(temporary: Path, path: Path) -> None:
    """Give a file its name, unless it was taken since the check."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise FileExistsError(f"{path} exists. Give another name, or overwrite=True.") from None
    except OSError:  # not every file system has links
        os.replace(temporary, path)
