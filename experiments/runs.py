"""A run's folder: where its files are, how it is made and found again."""

import argparse
import errno
import json
import math
import os
import re
import secrets
import shutil
import tempfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from experiments.files import (
    MAX_METRICS_BYTES,
    DamagedFileError,
    append_file,
    is_debris,
    make_folder,
    parse_json,
    read_file,
    read_json,
    to_json,
    write_file,
)
from experiments.help import program
from experiments.locks import is_alive

_NAME = re.compile(r"[^/\\.\x00-\x1f\ud800-\udfff][^/\\\x00-\x1f\ud800-\udfff]*")
_MAX_NAME_BYTES = 200
"""File systems take 255; a number may be added."""


@dataclass(frozen=True)
class Run:
    """The files of one run, laid out as boilr does.

    Args:
        folder: ``output/<run>``.
    """

    folder: Path

    @property
    def name(self) -> str:
        """Name of the run, its folder's."""
        return self.folder.name

    @property
    def config_path(self) -> Path:
        """Arguments and model configuration, JSON."""
        return self.folder / "config.json"

    @property
    def boilr_config_path(self) -> Path:
        """Where boilr's own trainer keeps the arguments, pickled."""
        return self.checkpoint_folder / "config.pkl"

    @property
    def boilr_log_path(self) -> Path:
        """Where boilr's own trainer keeps the metrics, pickled."""
        return self.result_folder / "log.pkl"

    @property
    def checkpoint_folder(self) -> Path:
        """Holds ``model_<step>.pt``."""
        return self.folder / "checkpoints"

    @property
    def result_folder(self) -> Path:
        """Holds metrics, evaluations and pictures."""
        return self.folder / "results"

    @property
    def image_folder(self) -> Path:
        """Pictures."""
        return self.result_folder / "imgs"

    @property
    def metrics_path(self) -> Path:
        """One JSON object a line, for training and held-out metrics."""
        return self.result_folder / "metrics.jsonl"

    @property
    def tensorboard_folder(self) -> Path:
        """TensorBoard's event files."""
        return self.folder / "tensorboard_logs"

    @property
    def pretrained_folder(self) -> Path:
        """The final model, as ``air.checkpoint.from_pretrained`` reads it."""
        return self.folder / "model"

    @classmethod
    def create(
        cls,
        output: str,
        name: str | None,
        description: str,
        config: dict[str, Any] | None = None,
    ) -> "Run":
        """Make a new run's folder. It appears at once, with all that belongs in it.

        Args:
            output: folder of all runs.
            name: of the run; default: date, time and description, made unique.
            description: ends the default name.
            config: what :meth:`read_config` shall find.

        Raises:
            FileExistsError: if a run of that name exists.
            ValueError: if the name or the description is no plain folder name.
            OSError: if the output folder cannot be written.
        """
        cls.check_free(output, name, description)
        Path(output).mkdir(parents=True, exist_ok=True)
        # A run that died while it was made is none: nobody could continue it, or use its name.
        hidden = cls(Path(output) / f".starting-{os.getpid()}-{secrets.token_hex(4)}")
        try:
            hidden.make_folders()
            if config is not None:
                write_file(hidden.config_path, to_json(config))
            return cls._name(hidden.folder, name, description)
        except BaseException:
            shutil.rmtree(hidden.folder, ignore_errors=True)
            raise

    @classmethod
    def _name(cls, hidden: Path, name: str | None, description: str) -> "Run":
        """Give a finished folder its name: the one asked for, or the first that is free."""
        stem = f"{datetime.now():%y%m%d_%H%M%S}_{description}" if name is None else name
        for number in range(1, 1000):
            folder = hidden.parent / (stem if number == 1 else f"{stem}_{number}")
            try:
                # A rename would take the place of an empty folder, which may be somebody's.
                if not folder.exists():
                    hidden.rename(folder)
                    return cls(folder)
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise
            if name is not None:
                raise _taken(name, hidden.parent)
            # Another run started in the same second.
        raise FileExistsError(f"{hidden.parent} holds too many runs named {stem}.")

    @classmethod
    def check_free(cls, output: str, name: str | None, description: str) -> None:
        """Check that :meth:`create` can make this run, before any work is done for it.

        Raises:
            FileExistsError: if a run of that name exists.
            OSError: if the output folder cannot be written.
            ValueError: if the name or the description is no plain folder name.
        """
        _check_name(description if name is None else name)
        _check_writable(Path(output))
        if name is not None and (Path(output) / name).exists():
            raise _taken(name, Path(output))

    @classmethod
    def find(cls, output: str, name: str) -> "Run":
        """A run that exists.

        Args:
            output: folder of all runs.
            name: of the run, or ``latest`` for the one that was started last.

        Raises:
            FileNotFoundError: if there is none.
        """
        started = {}
        for pattern in ("*/checkpoints/config.pkl", "*/config.json"):  # boilr's, ours
            for path in Path(output).glob(pattern):
                run = Path(output) / path.relative_to(output).parts[0]
                if not run.name.startswith("."):
                    started[run] = path.stat().st_mtime_ns
        runs = list(started)
        if not runs:
            raise FileNotFoundError(f"{output} holds no run. Train one first: {program()} train.")
        if name == "latest":
            return cls(max(runs, key=lambda run: started[run]))
        names = sorted(run.name for run in runs)
        if name not in names:
            raise FileNotFoundError(
                f"{output} holds no run named {name!r}. Runs found: {', '.join(names[-10:])}."
            )
        return cls(Path(output) / name)

    def write_config(self, args: argparse.Namespace, **more: Any) -> None:
        """Save the arguments, and what else describes the run, as JSON."""
        self.write(self.config_path, to_json({"args": vars(args), **more}))

    def make_folder(self, folder: Path) -> Path:
        """Make a folder of the run again if it is gone.

        Raises:
            NotADirectoryError: if a link or a file is in its place: a run may be a stranger's, and
                links in it lead anywhere.
        """
        return make_folder(folder, self.folder)

    def make_folders(self) -> None:
        """Make the folders of the run again that are gone.

        Raises:
            NotADirectoryError: as :meth:`make_folder`.
        """
        for folder in (self.checkpoint_folder, self.image_folder, self.tensorboard_folder):
            self.make_folder(folder)

    def remove_debris(self) -> None:
        """Remove what killed processes left behind; to be called by who holds the run's lock."""
        for place, folders, names in os.walk(self.folder):
            for name in filter(is_debris, (*folders, *names)):
                # An evaluation that is under way holds no lock.
                pid = re.search(r"\.(\d{1,9})\.[0-9a-f]+\.tmp$", name)
                if pid and int(pid[1]) != os.getpid() and is_alive(int(pid[1]), None):
                    continue
                path = Path(place) / name
                shutil.rmtree(path) if name in folders and not path.is_symlink() else path.unlink()

    def write(self, path: Path, content: bytes) -> None:
        """Write a file of the run whole; no link in the run is followed.

        Raises:
            OSError: if it cannot be written.
        """
        self.make_folder(path.parent)
        write_file(path, content)

    def read_config(self) -> dict[str, Any]:
        """What :meth:`write_config` saved.

        Raises:
            DamagedFileError: if the file is damaged.
        """
        try:
            config = read_json(self.config_path)
            kinds = {"args": dict, "air": dict, "dataset": str}
            if not all(isinstance(config[name], kind) for name, kind in kinds.items()):
                raise DamagedFileError("args and air must be objects, dataset a name")
        except (DamagedFileError, KeyError) as error:
            raise DamagedFileError(
                f"{self.config_path} is no run's configuration: {error}"
            ) from error
        return config

    def append_metrics(self, step: int, split: str, metrics: dict[str, Any]) -> None:
        """Add one line to ``metrics.jsonl``."""
        line = json.dumps({"step": step, "split": split, **metrics})
        self.make_folder(self.result_folder)
        append_file(self.metrics_path, f"{line}\n".encode())

    def drop_metrics_after(self, step: int) -> None:
        """Remove the lines of steps after this one, and half a line, if a process died in it."""
        self.make_folder(self.result_folder)
        if not self.metrics_path.exists():
            return
        kept = [
            line
            for line in read_file(self.metrics_path, MAX_METRICS_BYTES).splitlines(keepends=True)
            if line.endswith(b"\n") and _step_of(line) <= step
        ]
        self.write(self.metrics_path, b"".join(kept))


def _check_name(name: str) -> None:
    # One that begins with a dot is hidden: also from those who look for runs.
    long = len(name.encode(errors="replace")) > _MAX_NAME_BYTES
    if not _NAME.fullmatch(name) or name == "latest" or long:
        raise ValueError(
            f"{name[:100]!r} cannot name a run: expected a plain folder name without slashes that "
            f"does not begin with a dot, of at most {_MAX_NAME_BYTES} bytes, other than 'latest'."
        )


def _check_writable(output: Path) -> None:
    """Check that a folder can be made and written, or is there and can be written."""
    existing = output
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir():
        raise NotADirectoryError(f"{existing} is a file: give another --output than {output}.")
    try:
        # Tried, not asked for: the answer can be wrong for root, and on a network's disk.
        tempfile.TemporaryFile(dir=existing).close()
    except OSError as error:
        raise PermissionError(
            f"{existing} cannot be written ({error.strerror}): give another --output."
        ) from error


def _taken(name: str, output: Path) -> FileExistsError:
    return FileExistsError(f"a run named {name!r} exists in {output}. Choose another --run-name.")


def _step_of(line: bytes) -> float:
    """The step of a line of metrics; infinite if it is none."""
    try:
        step = parse_json(line, "a line of metrics").get("step")
    except DamagedFileError:
        return math.inf
    return step if isinstance(step, int) else math.inf
