"""The tasks, what is learned from, and the probes that learn."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from air import AIR
from experiments.datasets import Scenes

__all__ = ["INPUTS", "TASKS", "Task", "latent_features", "measure"]

INPUTS = {"latents": "MLP on AIR's latents", "pixels": "CNN on pixels"}
BATCH_SIZE = 128
NUM_LOOKS = 10


@dataclass(frozen=True, kw_only=True)
class Task:
    """A question about a scene of two digits."""

    title: str
    num_classes: int
    labels: Callable[[Scenes], Tensor]
    """From N scenes of two digits to int64 ``(N,)``."""


def sum_labels(scenes: Scenes) -> Tensor:
    """The sum of the digits, 0 to 18."""
    return scenes.classes[:, :2].sum(dim=1)


def order_labels(scenes: Scenes) -> Tensor:
    """1 where the left digit's class is below the right one's, else 0."""
    centres = (scenes.boxes[:, :2, 0] + scenes.boxes[:, :2, 2]) / 2
    left = centres.argmin(dim=1, keepdim=True)
    first, second = scenes.classes.gather(1, left), scenes.classes.gather(1, 1 - left)
    return (first < second).long().squeeze(1)


TASKS = {
    "sum": Task(title="sum of the digits", num_classes=19, labels=sum_labels),
    "order": Task(title="left digit below the right one", num_classes=2, labels=order_labels),
}


@torch.no_grad()
def latent_features(air: AIR, images: Tensor, *, batch_size: int = 500) -> Tensor:
    """Latents of each image as one vector, ``(N, T * (1 + 3 + D))``, absent objects zero.

    Args:
        air: a trained model.
        images: uint8 or float in [0, 1], ``(N, C, H, W)``.
        batch_size: images in work at a time.
    """
    prior = air.prior().z_where
    features = []
    for chunk in images.split(batch_size):
        reading = air.infer(chunk.to(prior.loc.device), batch_size=batch_size)
        z_where = (reading.z_where - prior.loc) / prior.scale
        present = reading.present.unsqueeze(-1).to(z_where)
        found = torch.cat([present, z_where, reading.z_what], dim=-1).nan_to_num(nan=0.0)
        features.append(found.flatten(1).cpu())
    return torch.cat(features)


def make_probe(kind: str, shape: torch.Size, num_classes: int) -> nn.Module:
    """The classifier of an input.

    Args:
        kind: ``latents`` or ``pixels``.
        shape: of one input.
        num_classes: of the task.
    """
    if kind == "latents":
        head: list[nn.Module] = [nn.Linear(shape[0], 256), nn.ReLU()]
    else:
        channels, height, width = shape
        head = [
            nn.Conv2d(channels, 32, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(64 * (height // 4) * (width // 4), 256),
            nn.ReLU(),
        ]
    if kind == "latents":
        head += [nn.Linear(256, 256), nn.ReLU()]
    return nn.Sequential(*head, nn.Dropout(0.5), nn.Linear(256, num_classes))


def fit(
    kind: str, inputs: Tensor, labels: Tensor, num_classes: int, *, steps: int, seed: int
) -> nn.Module:
    """Train a probe on labelled inputs.

    Args:
        kind: of input.
        inputs: uint8 or float, ``(L, *)``.
        labels: int64 ``(L,)``.
        num_classes: of the task.
        steps: of the optimiser.
        seed: of the start, the batches and the dropout.

    Raises:
        ValueError: if there are fewer than five labels.
    """
    if len(labels) < 5:
        raise ValueError(f"a fifth of the labels is kept back: give at least 5, got {len(labels)}.")
    torch.manual_seed(seed)
    probe = make_probe(kind, inputs.shape[1:], num_classes).to(inputs.device)
    optimizer = torch.optim.Adam(probe.parameters(), lr=1e-3)
    kept = len(labels) // 5
    train, chosen_by = slice(kept, None), slice(kept)
    number = len(labels) - kept
    best, best_score = probe.state_dict(), (-1.0, float("-inf"))
    for step in range(1, steps + 1):
        rows = torch.randint(number, (min(BATCH_SIZE, number),))
        batch = _as_float(inputs[train][rows])
        loss = F.cross_entropy(probe(batch), labels[train][rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step == steps or step % max(steps // NUM_LOOKS, 1) == 0:
            logits = predict(probe, inputs[chosen_by])
            score = (
                float((logits.argmax(dim=1) == labels[chosen_by]).double().mean()),
                -float(F.cross_entropy(logits, labels[chosen_by])),  # where few labels are alike
            )
            if score > best_score:
                best_score = score
                best = {name: tensor.clone() for name, tensor in probe.state_dict().items()}
            probe.train()
    probe.load_state_dict(best)
    return probe


@torch.no_grad()
def predict(probe: nn.Module, inputs: Tensor, batch_size: int = 1000) -> Tensor:
    """Logits of a probe, in evaluation mode, ``(N, num_classes)``."""
    probe.eval()
    return torch.cat([probe(_as_float(chunk)) for chunk in inputs.split(batch_size)])


def measure(
    air: AIR,
    train: Scenes,
    held_out: Scenes,
    *,
    num_labels: list[int],
    seeds: int,
    steps: int,
    done: Sequence[dict[str, Any]] = (),
    progress: bool = False,
) -> Iterator[dict[str, Any]]:
    """Train and judge one probe after another.

    Args:
        air: a trained model.
        train: scenes of two digits, to learn from.
        held_out: scenes of two digits, to judge by.
        num_labels: how many labels, each a part of the table.
        seeds: how many subsets of labels for each.
        steps: of the optimiser.
        done: records of probes that were judged before, and are not again.
        progress: whether to show a bar on stderr.

    Yields:
        A record of each probe: ``task``, ``input``, ``num_labels``, ``seed``, ``accuracy``.

    Raises:
        ValueError: if there are fewer training scenes than labels.
    """
    if max(num_labels) > len(train):
        raise ValueError(
            f"{train.name} holds {len(train)} scenes of two digits, fewer than the "
            f"{max(num_labels)} labels asked for. Give smaller --labels."
        )
    seen = {
        "latents": (latent_features(air, train.images), latent_features(air, held_out.images)),
        "pixels": (train.images, held_out.images),
    }
    names = ("seed", "num_labels", "task", "input")
    judged = {tuple(record[name] for name in names) for record in done}
    runs = [run for run in product(range(seeds), num_labels, TASKS, INPUTS) if run not in judged]
    for seed, number, task, kind in tqdm(runs, desc="probes", disable=None if progress else True):
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
        rows = order[:number]
        of_train, of_held_out = seen[kind]
        labels = TASKS[task].labels(train)[rows]
        probe = fit(kind, of_train[rows], labels, TASKS[task].num_classes, steps=steps, seed=seed)
        right = predict(probe, of_held_out).argmax(dim=1) == TASKS[task].labels(held_out)
        yield {
            "task": task,
            "input": kind,
            "num_labels": number,
            "seed": seed,
            "accuracy": float(right.double().mean()),
        }


def _as_float(inputs: Tensor) -> Tensor:
    return inputs.float() / 255 if inputs.dtype == torch.uint8 else inputs
