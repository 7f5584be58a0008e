"""How far a run is: one object out of a checkpoint, one checkpoint out of it."""

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from experiments.checkpoints import Checkpoint, Training
from experiments.experiment import AIRExperiment
from experiments.files import DamagedFileError
from experiments.guard import NonFiniteGuard
from experiments.state import (
    Position,
    differences,
    machine,
    number,
    optimizer_state,
    position_state,
    random_state,
    read_position,
    set_optimizer_state,
    set_random_state,
)


class Window(NamedTuple):
    """Sums of the metrics that were not logged yet."""

    names: list[str] = []  # noqa: RUF012  never changed
    sums: Tensor | None = None
    length: int = 0
    seconds: float = 0.0


@dataclass(eq=False)
class Progress:
    """What the training loop knows, besides the weights and the optimiser."""

    position: Position = field(default_factory=Position)
    window: Window = field(default_factory=Window)
    """What was in work when the run was interrupted."""
    held_out: dict[str, float] = field(default_factory=dict)
    """The last held-out metrics."""


def collect(
    experiment: AIRExperiment,
    guard: NonFiniteGuard,
    progress: Progress,
    device: torch.device,
) -> Training:
    """All of a run, besides the weights."""
    random, position = random_state(device), position_state(progress.position)
    names, sums, length, seconds = progress.window
    tensors = {**random.tensors, **position.tensors, **optimizer_state(experiment.optimizer)}
    if sums is not None:
        tensors["window"] = sums
    facts = {
        "step": experiment.model.global_step,
        "position": position.facts,
        "random": random.facts,
        "window": {"names": names, "length": length, "seconds": seconds},
        "held_out": progress.held_out,
        "skipped": guard.skipped,
        "data": experiment.dataloaders.identity,
        "machine": machine(device),
        "settings": vars(experiment.args),
        "air": experiment.model.air.config.to_dict(),
    }
    return Training(tensors=tensors, facts=facts)


def restore(
    experiment: AIRExperiment, guard: NonFiniteGuard, checkpoint: Checkpoint, device: torch.device
) -> tuple[Progress, list[str]]:
    """Put a run back to where a checkpoint was made.

    Returns:
        The progress, and why the run may not have the same bits from here on, a line each.

    Raises:
        ValueError: if the checkpoint is of another model or other data.
        DamagedFileError: if it makes no sense.
    """
    assert checkpoint.training is not None
    tensors, facts = checkpoint.training.tensors, checkpoint.training.facts
    step = number(facts, "step", lambda value: value == checkpoint.step)
    data = experiment.dataloaders.identity
    if facts.get("data") != data:
        raise ValueError(
            f"the run was trained on other data: {facts.get('data')}, and not {data}. Give it the "
            "same (--data-root, --mnist-root)."
        )
    position = read_position(
        Training(tensors=tensors, facts=_part(facts, "position")), experiment.dataloaders.train
    )
    experiment.model.restore(step, checkpoint.weights)
    set_optimizer_state(experiment.optimizer, tensors)
    guard.skipped = number(facts, "skipped", lambda value: type(value) is int and value >= 0)
    progress = Progress(
        position=position,
        window=_read_window(Training(tensors=tensors, facts=_part(facts, "window")), device),
        held_out=_read_metrics(_part(facts, "held_out")),
    )
    set_random_state(Training(tensors=tensors, facts=_part(facts, "random")), device)
    return progress, differences(facts.get("machine"), machine(device))


def _read_window(state: Training, device: torch.device) -> Window:
    names, sums = state.facts.get("names"), state.tensors.get("window")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DamagedFileError("the saved metrics have no names.")
    if sums is not None and sums.shape != (len(names) + 1,):
        raise DamagedFileError("the saved metrics do not fit their names.")
    return Window(
        names,
        None if sums is None else sums.to(device),
        number(state.facts, "length", lambda value: type(value) is int and value >= 0),
        number(state.facts, "seconds", lambda value: 0 <= value < math.inf),
    )


def _read_metrics(facts: dict[str, Any]) -> dict[str, float]:
    return {name: float(number(facts, name, math.isfinite)) for name in facts}


def _part(facts: dict[str, Any], name: str) -> dict[str, Any]:
    part = facts.get(name)
    if not isinstance(part, dict):
        raise DamagedFileError(f"the checkpoint says nothing of its {name}.")
    return part
