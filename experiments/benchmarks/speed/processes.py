"""The parent's side of a system's process; :mod:`worker` is the child's."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
"""The folder that holds the packages ``air`` and ``experiments``."""


class WorkerError(RuntimeError):
    """A system's process failed."""


class Worker:
    """A process of its own for one system.

    Args:
        name: of the system, for messages.
        spec: what the process is to do, see :mod:`worker`.
        quiet: keep what it prints to itself unless it fails.
    """

    def __init__(self, name: str, spec: dict[str, Any], *, quiet: bool = True) -> None:
        self.name = name
        self._errors = tempfile.TemporaryFile() if quiet else None  # noqa: SIM115 - see close
        threads = str(spec["threads"])
        self._process = subprocess.Popen(
            # -P: this folder's own modules must not stand in the way of the system's.
            [sys.executable, "-P", str(HERE / "worker.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            encoding="utf-8",
            env=os.environ
            | {
                "OMP_NUM_THREADS": threads,
                "MKL_NUM_THREADS": threads,
                "PYTHONDONTWRITEBYTECODE": "1",  # a peer's folder stays as it is
                "KINETO_LOG_LEVEL": "99",  # the profiler's own messages
            },
        )
        self._send(spec)

    def wait_until_ready(self) -> None:
        """Wait for the end of its warm-up."""
        self._receive("ready")

    def seconds(self, blocks: int, block: int = 1) -> list[float]:
        """Seconds a training step, each over a block of steps."""
        self._send({"blocks": blocks, "block": block})
        return self._receive("seconds")

    def result(self) -> Any:
        """What its task gave."""
        return self._receive("result")

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        if self._errors is not None:
            self._errors.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._process.kill()
        self.close()

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._failure("its process ended") from None

    def _receive(self, field: str) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._failure(f"its process ended with status {self._process.wait()}")
        message = json.loads(line)
        if "error" in message:
            raise self._failure(message["error"])
        return message[field]

    def _failure(self, reason: str) -> WorkerError:
        text = f"{self.name} failed: {reason}"
        if self._errors is not None:
            self._errors.seek(0)
            tail = self._errors.read().decode(errors="replace").strip().splitlines()[-12:]
            text = "\n    ".join([text, *tail])
        return WorkerError(text)


def run_task(name: str, spec: dict[str, Any], *, quiet: bool = False) -> Any:
    """Carry out one task in a process of its own."""
    with Worker(name, spec, quiet=quiet) as worker:
        return worker.result()
