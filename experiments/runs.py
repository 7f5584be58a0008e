"""A run's folder: where its files are, how it is made and found again."""

import argparse
import json
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

_NAME = re.compile(r"[^/\\\x00-\x1f]+")


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
    def create(cls, output: str, name: str | None, description: str) -> "Run":
        """Make a new run's folder.

        Args:
            output: folder of all runs.
            name: of the run; default: date, time and description, made unique.
            description: ends the default name.

        Raises:
            FileExistsError: if a run of that name exists.
            ValueError: if the name or the description is no plain folder name.
        """
        cls.check_free(output, name, description)
        if name is not None:
            run = cls(Path(output) / name)
            run.folder.mkdir(parents=True)
        else:
            run = cls._create_unique(Path(output), description)
        for folder in (run.checkpoint_folder, run.image_folder, run.tensorboard_folder):
            folder.mkdir(parents=True)
        return run

    @classmethod
    def check_free(cls, output: str, name: str | None, description: str) -> None:
        """Check that :meth:`create` can make this run, before any work is done for it.

        Raises:
            FileExistsError: if a run of that name exists.
            ValueError: if the name or the description is no plain folder name.
        """
        _check_name(description if name is None else name)
        if name is not None and (Path(output) / name).exists():
            raise FileExistsError(
                f"a run named {name!r} exists in {output}. Choose another --run-name."
            )

    @classmethod
    def _create_unique(cls, output: Path, description: str) -> "Run":
        stem = f"{datetime.now():%y%m%d_%H%M%S}_{description}"
        for number in range(1, 1000):
            run = cls(output / (stem if number == 1 else f"{stem}_{number}"))
            try:
                run.folder.mkdir(parents=True)
                return run
            except FileExistsError:  # another run started in the same second
                continue
        raise FileExistsError(f"{output} holds too many runs named {stem}.")

    @classmethod
    def find(cls, output: str, name: str) -> "Run":
        """A run that exists.

        Args:
            output: folder of all runs.
            name: of the run, or ``latest`` for the one that was started last.

        Raises:
            FileNotFoundError: if there is none.
        """
        runs = [path.parent for path in Path(output).glob("*/config.json")]
        if not runs:
            raise FileNotFoundError(
                f"{output} holds no run. Train one first: python main.py train."
            )
        if name == "latest":
            return cls(max(runs, key=lambda run: (run / "config.json").stat().st_mtime_ns))
        names = sorted(run.name for run in runs)
        if name not in names:
            raise FileNotFoundError(
                f"{output} holds no run named {name!r}. Runs found: {', '.join(names[-10:])}."
            )
        return cls(Path(output) / name)

    def write_config(self, args: argparse.Namespace, **more: Any) -> None:
        """Save the arguments, and what else describes the run, as JSON."""
        text = json.dumps({"args": vars(args), **more}, indent=2, default=str)
        self.config_path.write_text(text + "\n", encoding="utf-8")

    def read_config(self) -> dict[str, Any]:
        """What :meth:`write_config` saved.

        Raises:
            ValueError: if the file is damaged.
        """
        try:
            config = json.loads(self.config_path.read_text(encoding="utf-8"))
            kinds = {"args": dict, "air": dict, "dataset": str}
            if not all(isinstance(config[name], kind) for name, kind in kinds.items()):
                raise TypeError("args and air must be objects, dataset a name")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"{self.config_path} is no run's configuration: {error}") from error
        return config

    def append_metrics(self, step: int, split: str, metrics: dict[str, Any]) -> None:
        """Add one line to ``metrics.jsonl``."""
        line = json.dumps({"step": step, "split": split, **metrics})
        with self.metrics_path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name) or name in (".", "..", "latest"):
        raise ValueError(
            f"{name!r} cannot name a run: expected a plain folder name without slashes, "
            "other than 'latest'."
        )
