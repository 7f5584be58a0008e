"""What a report is made of: a run's files, read with suspicion, and one look at its scenes."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from air import AIR
from air.evaluation import confusion_matrix
from experiments.boilr_folder import read_run_config
from experiments.datasets import Scenes
from experiments.files import (
    MAX_METRICS_BYTES,
    DamagedFileError,
    is_number,
    parse_json,
    read_file,
    read_json,
)
from experiments.runs import Run

_FREE = (
    *("seed", "num_seeds", "run_name", "output", "data_root", "mnist_root", "threads", "no_cuda"),
    *("resume", "dry_run", "cuda_graph", "additional_descr"),
)
"""Settings in which two seeds of one experiment may differ."""

_SPLITS = ("train", "held_out")

Curves = dict[str, dict[str, list[tuple[int, float]]]]
"""By split and by metric: steps of training and the values there."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Readings:
    """How a model reads a set of scenes."""

    counts: Tensor
    """Objects found: int64 ``(N,)``."""
    boxes: Tensor
    """Where, in pixels: ``(N, T, 4)``; NaN beyond the count."""
    z_what: Tensor
    """What they look like: ``(N, T, D)``; NaN beyond the count."""
    elbos: Tensor
    """ELBO of each scene, exact in n, at one draw of the latents, in nats: ``(N,)``."""
    true: Tensor | None
    """Objects that are there: int64 ``(N,)``. None where that is not known of every scene."""

    @property
    def accuracy(self) -> float | None:
        """Share of scenes whose count is right."""
        return None if self.true is None else float((self.counts == self.true).double().mean())

    @property
    def confusion(self) -> Tensor | None:
        """Scenes by true count and count found: ``(M + 1, T + 1)``."""
        if self.true is None:
            return None
        return confusion_matrix(self.true, self.counts, self.boxes.shape[1])


@dataclass(frozen=True, kw_only=True, eq=False)
class Findings:
    """All that the pictures and the page are made of."""

    name: str
    """Of the run."""
    step: int
    """Of the checkpoint that was read."""
    air: AIR
    dataset: str
    """Whose held-out scenes were read."""
    scenes: Scenes
    readings: Readings
    config: dict[str, Any]
    """As the run's ``config.json`` holds it."""
    curves: Curves
    others: dict[str, Curves]
    """Of the runs that differ in their seed only, by name."""
    evaluations: list[dict[str, Any]]
    """What ``evaluate`` wrote, the newest last."""


@torch.no_grad()
def read_scenes(
    air: AIR,
    scenes: Scenes,
    *,
    batch_size: int = 100,
    on_batch: Callable[[int], object] | None = None,
) -> Readings:
    """Read scenes with a model, and evaluate each.

    Args:
        air: the model.
        scenes: at least one.
        batch_size: scenes in work at a time.
        on_batch: called with the number of scenes done, after each batch.

    Raises:
        ValueError: if the scenes do not fit the model.
    """
    device = next(air.parameters()).device
    parts: dict[str, list[Tensor]] = {"counts": [], "boxes": [], "z_what": [], "elbos": []}
    for chunk in scenes.images.split(batch_size):
        images = chunk.to(device)
        reading = air.infer(images)
        parts["counts"].append(reading.counts)
        parts["boxes"].append(reading.boxes)
        parts["z_what"].append(reading.z_what)
        parts["elbos"].append(air(images).elbo[0])
        if on_batch is not None:
            on_batch(len(chunk))
    whole = {name: torch.cat(tensors).cpu() for name, tensors in parts.items()}
    return Readings(**whole, true=scenes.num_objects.cpu() if scenes.is_counted else None)


def read_metrics(run: Run) -> Curves:
    """The metrics that a run has logged; empty if it has none.

    A line that is cut, as where a process died in it, is left out.

    Raises:
        DamagedFileError: if a whole line is none of ours, or there is too much of it.
        OSError: if the file cannot be read.
    """
    if not run.metrics_path.exists():
        return {}
    points: dict[tuple[str, str, int], float] = {}
    name = str(run.metrics_path)
    content = read_file(run.metrics_path, MAX_METRICS_BYTES)
    for line in content.splitlines(keepends=True):
        if not line.endswith(b"\n"):
            continue
        record = parse_json(line, f"a line of {name}")
        step, split = record.pop("step", None), record.pop("split", None)
        if type(step) is not int or split not in _SPLITS:
            raise DamagedFileError(f"a line of {name} has no step, or no split: {line[:80]!r}.")
        for metric, value in record.items():
            if is_number(value):
                points[split, metric, step] = float(value)  # the last one, where some are twice
    curves: Curves = {}
    for (split, metric, step), value in sorted(points.items()):
        curves.setdefault(split, {}).setdefault(metric, []).append((step, value))
    return curves


def read_evaluations(run: Run) -> list[dict[str, Any]]:
    """What ``evaluate`` wrote into a run, the newest last; a damaged file is told and left out."""
    found = []
    for path in run.result_folder.glob("evaluation_*.json"):
        try:
            report = read_json(path)
            if not is_number(report.get("elbo")):
                raise DamagedFileError(f"{path} holds no evaluation.")
        except (OSError, DamagedFileError) as error:
            print(f"left out: {error}", file=sys.stderr)
        else:
            found.append((path.stat().st_mtime_ns, path.name, report))
    return [report for *_, report in sorted(found, key=lambda entry: entry[:2])]


def find_seeds(run: Run) -> dict[str, Curves]:
    """Metrics of the runs beside this one that differ from it in their seed only, by name.

    Args:
        run: the run; the folder it lies in is searched.
    """
    own = _experiment(run)
    found: dict[str, Curves] = {}
    for path in sorted(run.folder.parent.glob("*/config.json")):
        other = Run(path.parent)
        if other.name == run.name or other.name.startswith("."):
            continue
        try:
            if own is not None and _experiment(other) == own:
                found[other.name] = read_metrics(other)
        except (OSError, DamagedFileError) as error:
            print(f"left out: {error}", file=sys.stderr)
    return {name: curves for name, curves in found.items() if curves}


def find_run(name: str, folder: str) -> Run:
    """A run by its name, or by the path of its folder.

    Args:
        name: of the run, ``latest``, or a path such as ``output/first``.
        folder: of all runs, where a name is given.

    Raises:
        FileNotFoundError: if there is none.
    """
    path = Path(name)
    if len(path.parts) > 1:
        return Run.find(str(path.parent), path.name)
    return Run.find(folder, name)


def _experiment(run: Run) -> dict[str, Any] | None:
    """A run's settings but for what seeds of one experiment may differ in; None without any."""
    try:
        config = read_run_config(run)
    except (OSError, DamagedFileError):
        return None
    args = {name: value for name, value in config["args"].items() if name not in _FREE}
    return {"args": args, "air": config["air"], "dataset": config["dataset"]}
