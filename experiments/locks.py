"""One process a run: a lock file that names its owner and does not outlive it."""

import contextlib
import json
import os
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experiments.files import DamagedFileError, read_file, read_json, write_file


class RunLockedError(OSError):
    """Another process works in the run's folder."""


class RunLock:
    """A lock on a folder, held by this process on this host.

    The file names host, process and the process's start, so that a lock whose owner is dead is
    taken over, even if another process has its number by now.

    Args:
        folder: to be locked; the file is ``lock.json`` in it.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "lock.json"
        self._content: dict[str, Any] | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            RunLockedError: if another process holds it.
            OSError: if the folder cannot be written.
        """
        pid = os.getpid()
        own = {"host": socket.gethostname(), "pid": pid, "started": process_start(pid)}
        own["key"] = secrets.token_hex(8)
        temporary = self.path.with_name(f".lock.{pid}.{own['key']}.tmp")
        write_file(temporary, f"{json.dumps(own)}\n".encode())
        try:
            with _exclusive(self.path.parent):
                if self.path.exists():
                    self._check_dead()
                    os.replace(temporary, self.path)
                else:
                    os.link(temporary, self.path)  # fails if there is one by now
        except FileExistsError:
            raise RunLockedError(self._message("another process, since a moment ago")) from None
        finally:
            temporary.unlink(missing_ok=True)
        self._content = own

    def check(self) -> None:
        """Check that the lock could be taken.

        Raises:
            RunLockedError: if another process holds it.
        """
        if self.path.exists():
            self._check_dead()

    def release(self) -> None:
        """Give the lock back, if it is still ours."""
        if self._content is None:
            return
        with contextlib.suppress(OSError, DamagedFileError):
            if read_json(self.path) == self._content:
                self.path.unlink()
        self._content = None

    def _check_dead(self) -> None:
        try:
            owner = read_json(self.path)
            host, pid, started = owner["host"], owner["pid"], owner["started"]
            if type(pid) is not int or not isinstance(host, str):
                raise DamagedFileError("of wrong types")
        except FileNotFoundError:
            return
        except (DamagedFileError, KeyError) as error:
            # After a power cut, which its owner has not outlived, a file is there without content.
            with contextlib.suppress(DamagedFileError):
                if not read_file(self.path, 4096).strip(b"\x00"):
                    return
            raise RunLockedError(
                f"{self.path} is no lock of ours ({error}). If no process works in "
                f"{self.path.parent}, remove it."
            ) from error
        if host != socket.gethostname():
            raise RunLockedError(self._message(f"process {pid} on {host}"))
        if is_alive(pid, started):
            raise RunLockedError(self._message(f"process {pid} on this machine"))

    def _message(self, owner: str) -> str:
        return (
            f"{self.path.parent} is in use by {owner}. Two processes cannot train one run: wait, "
            f"stop the other, or choose another run. If it is gone, remove {self.path}."
        )


def process_start(pid: int) -> str | None:
    """When a process started, as text that no later process of this number shares.

    The boot's identifier and the start in clock ticks since; None where the system does not tell
    (it has no ``/proc``), or there is no such process.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The name, in brackets, may hold anything; the fields after it count from the third.
    fields = status.rpartition(")")[2].split()
    return None if fields[0] in ("Z", "X") else f"{boot} {fields[19]}"


def is_alive(pid: int, started: object) -> bool:
    """Whether the process that started then still runs."""
    if Path("/proc/self/stat").exists():
        now = process_start(pid)
        return now is not None and (started is None or now == started)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


@contextlib.contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    """Keep others on this machine from looking at the lock at the same moment."""
    try:
        import fcntl
    except ImportError:  # Windows: the moment is short
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # not every file system can
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
