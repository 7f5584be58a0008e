"""What is measured of a gradient: variance, bias against the exact one, cost of a step."""

import copy
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from air import AIR
from air.estimators import Estimator

__all__ = [
    "GradientStatistics",
    "bias",
    "draw_gradients",
    "group_sizes",
    "measure_cost",
    "train_baseline",
]


def group_sizes(model: nn.Module) -> dict[str, int]:
    """Number of parameters of each module, ``inference.lstm`` and so on, in the model's order."""
    sizes: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        group = ".".join(name.split(".")[:2])
        sizes[group] = sizes.get(group, 0) + parameter.numel()
    return sizes


class GradientStatistics:
    """Mean and variance of a gradient, one draw at a time and in float64 (Welford, 1962).

    Of the variance only the sums over parameter groups are kept: no second vector is needed.

    Args:
        sizes: number of entries of each group, in their order.
        direction: a vector that draws are projected on as well, to measure bias along it.
    """

    def __init__(self, sizes: Mapping[str, int], direction: Tensor | None = None) -> None:
        self.sizes = dict(sizes)
        self.count = 0
        self.mean = torch.zeros(sum(sizes.values()), dtype=torch.float64)
        self._squares = torch.zeros(len(sizes), dtype=torch.float64)
        self.direction = direction
        self._along = torch.zeros(len(sizes) + 1, dtype=torch.float64)
        self._along_squares = torch.zeros(len(sizes) + 1, dtype=torch.float64)

    @property
    def names(self) -> list[str]:
        """The groups, and ``total``."""
        return [*self.sizes, "total"]

    def add(self, gradient: Tensor) -> None:
        """Take one more draw into account.

        Args:
            gradient: of all groups, one after the other: ``(P,)``.
        """
        gradient = gradient.to(self.mean)
        self.count += 1
        shrink = 1 - 1 / self.count
        delta = gradient - self.mean
        self.mean.add_(delta, alpha=1 / self.count)
        self._squares += shrink * self._dots(delta, delta)
        if self.direction is not None:
            delta_along = with_total(self._dots(gradient, self.direction)) - self._along
            self._along += delta_along / self.count
            self._along_squares += shrink * delta_along.square()

    @property
    def variance(self) -> Tensor:
        """Variance of one draw, summed over the parameters of each group, and in total."""
        self._check_count()
        return with_total(self._squares / (self.count - 1))

    @property
    def mean_square(self) -> Tensor:
        """``|mean|^2`` of each group and in total, less what the draws' noise adds; at least 0."""
        raw = with_total(self._dots(self.mean, self.mean))
        return (raw - self.variance / self.count).clamp(min=0)

    @property
    def along(self) -> tuple[Tensor, Tensor]:
        """Mean of the draws' products with the direction, by group, and its squared error."""
        self._check_count()
        return self._along, self._along_squares / (self.count - 1) / self.count

    def distance_squares(self, other: "GradientStatistics") -> Tensor:
        """``|mean - other's mean|^2`` of each group and in total."""
        delta = self.mean - other.mean
        return with_total(self._dots(delta, delta))

    def _dots(self, left: Tensor, right: Tensor) -> Tensor:
        sizes = list(self.sizes.values())
        parts = zip(left.split(sizes), right.split(sizes), strict=True)
        return torch.stack([a.dot(b) for a, b in parts])

    def _check_count(self) -> None:
        if self.count < 2:
            raise ValueError(f"a variance needs at least 2 draws, got {self.count}.")


def with_total(values: Tensor) -> Tensor:
    """The values, and their sum as one more."""
    return torch.cat([values, values.sum(dim=0, keepdim=True)])


def bias(found: GradientStatistics, exact: GradientStatistics) -> dict[str, dict[str, float]]:
    """How far a mean gradient is off the exact one, by group and in total.

    Both means are of draws: the exact gradient is exact in n, but it too is one of sampled z. So
    both have an error, and the two are independent.

    Args:
        found: of the estimator.
        exact: of the exact one, with the same direction: an estimate of the exact gradient from
            *other* draws than these.

    Returns:
        ``bias_distance``: the distance of the means in units of its standard error, summed over
        parameters: 1 is expected of an unbiased estimator. ``bias_along``: the excess along the
        exact gradient as a share of its length, ``bias_along_error`` its standard error.
    """
    expected = found.variance / found.count + exact.variance / exact.count
    distance = (found.distance_squares(exact) / expected.clamp(min=1e-300)).sqrt()
    (along, error), (exact_along, exact_error) = found.along, exact.along
    length = exact_along.abs().clamp(min=1e-300)
    fields = {
        "bias_distance": distance,
        "bias_along": (along - exact_along) / length,
        "bias_along_error": (error + exact_error).sqrt() / length,
    }
    return {
        name: {field: values[i].item() for field, values in fields.items()}
        for i, name in enumerate(found.names)
    }


def draw_gradients(
    estimator: Estimator,
    model: AIR,
    images: Tensor,
    statistics: GradientStatistics,
    draws: int,
    on_draw: Callable[[], Any] = lambda: None,
) -> None:
    """Add gradients of one batch to the statistics, of the loss that is a mean over its images.

    The estimator's running statistics stay as they are, so that the draws are independent.

    Raises:
        FloatingPointError: if a gradient is not finite.
    """
    parameters = list(model.parameters())
    training = estimator.training
    estimator.eval()
    try:
        for _ in range(draws):
            loss = estimator(model, images).loss
            grads = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
            gradient = torch.cat([grad.flatten() for grad in grads]).cpu()
            if not gradient.isfinite().all():
                raise FloatingPointError(
                    f"a gradient of {type(estimator).__name__.lower()} is not finite."
                )
            statistics.add(gradient)
            on_draw()
    finally:
        estimator.train(training)


def train_baseline(
    estimator: Estimator,
    model: AIR,
    images: Tensor,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float = 1e-3,
) -> bool:
    """Train what an estimator has of its own on a model that stays as it is.

    Args:
        estimator: its parameters and running statistics are moved.
        model: frozen.
        images: batches are drawn from these, ``(N, C, H, W)``.
        steps: of Adam.
        batch_size: images a step.
        learning_rate: of Adam.

    Returns:
        Whether there was something to train.
    """
    if not estimator.state_dict() or steps == 0:
        return False
    own = list(estimator.parameters())
    optimizer = torch.optim.Adam(own, lr=learning_rate) if own else None
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    estimator.train()
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        for _ in range(steps):
            batch = images[torch.randint(len(images), (batch_size,)).to(images.device)]
            objective = estimator(model, model.as_input(batch))
            if optimizer is not None:
                optimizer.zero_grad()
                objective.auxiliary_loss.backward()
                optimizer.step()
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
    return True


def measure_cost(
    estimator: Estimator, reference: Estimator, model: AIR, images: Tensor, rounds: int
) -> tuple[float, float]:
    """Median seconds of forward and backward, of an estimator and of one to compare it with.

    The two take turns, so that what else the machine does slows both.

    Returns:
        The estimator's, and the reference's.
    """
    # Copies, for a step in training mode moves the running statistics.
    pair = [copy.deepcopy(module).train() for module in (estimator, reference)]
    seconds: tuple[list[float], list[float]] = ([], [])
    for turn in range(rounds + 1):
        for module, taken in zip(pair, seconds, strict=True):
            start = _now(images.device)
            module(model, images).total_loss.backward()
            if turn:  # the first is for caches to fill
                taken.append(_now(images.device) - start)
            model.zero_grad()
            module.zero_grad()
    return statistics.median(seconds[0]), statistics.median(seconds[1])


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
