"""Weights that gradients are measured at: fresh, half-trained and trained ones of one run."""

import argparse
import contextlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from air import AIR
from air.checkpoint import from_pretrained, save_pretrained
from experiments.experiment import AIRExperiment
from experiments.models import load_run
from experiments.runs import Run
from experiments.trainer import Trainer

__all__ = ["WeightSet", "loaded_weights", "trained_weights"]


@dataclass(frozen=True, kw_only=True, eq=False)
class WeightSet:
    """A model at some point of its training."""

    label: str
    source: str
    """Where it comes from, in words."""
    air: AIR


class _Snapshots(AIRExperiment):
    """Saves the model on its way, before the steps that are asked for."""

    def __init__(self, args: argparse.Namespace, folders: dict[int, Path]) -> None:
        super().__init__(args)
        self._folders = folders

    def forward_pass(self, x: Tensor, y: Tensor | None = None) -> dict[str, Any]:
        """As always; the model is saved first where it is wanted."""
        folder = self._folders.get(self.model.global_step)
        if folder is not None:
            save_pretrained(self.model.air, folder, overwrite=True)
        return super().forward_pass(x, y)


def trained_weights(
    args: argparse.Namespace, steps: dict[str, int], folder: Path
) -> list[WeightSet]:
    """Weights on one run's way, trained here unless that was done before.

    Args:
        args: settings of the run; its length is that of the largest step.
        steps: the step of each label.
        folder: where the weights are kept.
    """
    last = max(steps.values())
    name = f"{args.dataset}_{args.estimator}_seed{args.seed}_of{last}"
    folders = {step: folder / f"{name}_step{step}" for step in steps.values()}
    if not all((path / "config.json").exists() for path in folders.values()):
        every = {f"{what}_every": last for what in ("train_log", "test_log", "checkpoint")}
        changes = {"dry_run": True, "max_steps": last, **every}
        settings = argparse.Namespace(**(vars(args) | changes))
        experiment = _Snapshots(settings, folders)
        with contextlib.redirect_stdout(sys.stderr):
            trainer = Trainer(experiment)
            trainer.run()
        if trainer.stopped_by is not None:  # half-trained weights are of no use
            raise KeyboardInterrupt
        save_pretrained(experiment.model.air, folders[last], overwrite=True)
    return [
        WeightSet(
            label=label,
            source=f"{args.estimator}, seed {args.seed}, step {step} of {last}",
            air=from_pretrained(folders[step]),
        )
        for label, step in steps.items()
    ]


def loaded_weights(specs: Sequence[str], output: str) -> list[WeightSet]:
    """Weights of runs that exist.

    Args:
        specs: ``LABEL=RUN`` or ``LABEL=RUN@STEP`` each.
        output: folder of all runs.

    Raises:
        ValueError: if a spec is none, or a label comes twice.
        FileNotFoundError: if there is no such run or checkpoint.
    """
    found = []
    for spec in specs:
        label, equals, source = spec.partition("=")
        name, at, step = source.partition("@")
        if not (label and equals and name) or (at and not step.isdecimal()):
            raise ValueError(f"--load takes LABEL=RUN or LABEL=RUN@STEP, got {spec!r}.")
        run = Run.find(output, name)
        number, air = load_run(run, int(step) if at else None, torch.device("cpu"))
        config = run.read_config()["args"]
        source = f"{config.get('estimator')}, seed {config.get('seed')}, step {number}"
        found.append(WeightSet(label=label, source=source, air=air))
    if len({weights.label for weights in found}) < len(found):
        raise ValueError(f"each --load needs a label of its own, got {', '.join(specs)}.")
    return found
