"""Is a posterior over counts as sure as it is right?

Three answers to "how many objects?" are judged, on the same scenes:

- ``means``: q(n | x) at the means of the latents, as :meth:`air.AIR.infer` reads it;
- ``q``: q(n | x), the mean over K draws of the latents;
- ``p``: p(n | x), what the model itself implies, by importance weighting of the same K rollouts.

The *expected calibration error* (Naeini et al., 2015; Guo et al., 2017) sorts the scenes into bins
of equal width by the probability of the count named, and is the mean of |share right - mean
probability| over the bins, weighted by their scenes. *Per count* n, it is that of the forecast "the
scene holds n objects" with the probability of n, over all scenes (the class-wise error of Kull et
al., 2019).
"""

import io
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from air import AIR

__all__ = ["TITLES", "Calibration", "Reliability", "calibrate", "format_calibration", "reliability"]

NUM_BINS = 15

TITLES = {
    "means": "q(n | x) at the latents' means",
    "q": "q(n | x)",
    "p": "p(n | x), importance-weighted",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Reliability:
    """Forecasts sorted into bins of equal width by their probability."""

    number: Tensor
    """Forecasts in each bin: int64 ``(bins,)``."""
    probability: Tensor
    """Mean probability given, NaN in an empty bin: ``(bins,)``."""
    frequency: Tensor
    """Share that came true, NaN in an empty bin: ``(bins,)``."""

    @property
    def error(self) -> float:
        """The expected calibration error, 0 to 1."""
        gaps = (self.frequency - self.probability).abs().nan_to_num()
        return float((gaps * self.number).sum() / self.number.sum())

    def to_dict(self) -> dict[str, Any]:
        """The bins that hold anything, as plain data."""
        held = self.number > 0
        return {name: values[held].tolist() for name, values in vars(self).items()}


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How well one posterior over counts is calibrated."""

    accuracy: float
    """Share of scenes whose most probable count is right."""
    confidence: float
    """Mean probability of the most probable count."""
    error: float
    """Expected calibration error of the most probable count."""
    error_by_count: list[float]
    """That of "the scene holds n objects", n = 0 .. T."""
    bins: dict[str, Any]
    """Of the most probable count, see :class:`Reliability`."""


def reliability(probability: Tensor, true: Tensor, num_bins: int = NUM_BINS) -> Reliability:
    """Sort forecasts into bins.

    Args:
        probability: of each forecast, in [0, 1], ``(N,)``.
        true: whether it came true, bool ``(N,)``.
        num_bins: how many, all of equal width.

    Raises:
        ValueError: if there is no forecast, or one is no probability.
    """
    probability = probability.double()
    if len(probability) == 0 or not ((probability >= 0) & (probability <= 1 + 1e-6)).all():
        raise ValueError(
            "expected at least one probability, all between 0 and 1, got "
            f"{len(probability)} from {probability.min() if len(probability) else 'none'} to "
            f"{probability.max() if len(probability) else 'none'}."
        )
    index = (probability * num_bins).ceil().long().clamp(1, num_bins) - 1
    number = torch.bincount(index, minlength=num_bins)
    sums = torch.zeros(2, num_bins, dtype=torch.float64)
    sums[0].index_add_(0, index, probability)
    sums[1].index_add_(0, index, true.double())
    return Reliability(number=number, probability=sums[0] / number, frequency=sums[1] / number)


def calibrate(
    air: AIR,
    images: Tensor,
    num_objects: Tensor,
    *,
    num_samples: int = 100,
    shifts: Tensor | None = None,
    batch_size: int = 100,
    on_batch: Callable[[int], object] | None = None,
) -> dict[str, Calibration]:
    """Judge the three posteriors over counts on labelled scenes.

    Args:
        air: a trained model.
        images: ``(N, C, H, W)``, float in [0, 1] or uint8.
        num_objects: true counts, int64 ``(N,)``.
        num_samples: K.
        shifts: views to choose from, as :meth:`AIR.infer` takes them.
        batch_size: scenes in work at a time.
        on_batch: called with the number of scenes done, after each batch.

    Returns:
        By the names of :data:`TITLES`.

    Raises:
        ValueError: if the images do not fit the model, or ``num_samples`` is below 1.
    """
    parts: dict[str, list[Tensor]] = {name: [] for name in TITLES}
    for chunk in images.split(batch_size):
        reading = air.infer(chunk, shifts=shifts, batch_size=batch_size)
        view = None if shifts is None else reading.shifts
        posterior = air.count_posterior(chunk, num_samples, shifts=view)
        parts["means"].append(reading.count_probs)
        parts["q"].append(posterior.q_probs)
        parts["p"].append(posterior.probs)
        if on_batch is not None:
            on_batch(len(chunk))
    true = num_objects.cpu()
    return {name: judge(torch.cat(probs).cpu(), true) for name, probs in parts.items()}


def judge(probs: Tensor, true: Tensor) -> Calibration:
    """Judge a posterior over counts.

    Args:
        probs: ``(N, T + 1)``.
        true: true counts, int64 ``(N,)``.
    """
    confidence, mode = probs.max(dim=-1)
    named = reliability(confidence, mode == true)
    return Calibration(
        accuracy=float((mode == true).double().mean()),
        confidence=float(confidence.double().mean()),
        error=named.error,
        error_by_count=[reliability(probs[:, n], true == n).error for n in range(probs.shape[-1])],
        bins=named.to_dict(),
    )


def to_dict(calibrations: dict[str, Calibration]) -> dict[str, Any]:
    """Plain data, ready for JSON."""
    return {name: asdict(calibration) for name, calibration in calibrations.items()}


def format_calibration(calibrations: dict[str, Calibration]) -> str:
    """The calibration as text."""
    most = len(next(iter(calibrations.values())).error_by_count)
    counts = "".join(f"{f'n = {n}':>8}" for n in range(most))
    lines = [
        "  calibration of the count           right    sure   error, and of 'the scene holds n'",
        f"{'':58}{counts}",
    ]
    for name, calibration in calibrations.items():
        errors = "".join(f"{error:8.2%}" for error in calibration.error_by_count)
        lines.append(
            f"    {TITLES[name]:<30}{calibration.accuracy:8.2%}{calibration.confidence:8.2%}"
            f"{calibration.error:8.2%}{errors}"
        )
    return "\n".join(lines)


def draw_reliability(calibrations: dict[str, Calibration]) -> bytes:
    """Each posterior's bins: the share right against the probability given, as PNG."""
    from matplotlib.figure import Figure  # here, because importing it takes half a second

    figure = Figure(figsize=(3.4 * len(calibrations), 3.8), layout="constrained")
    panels = figure.subplots(1, len(calibrations), squeeze=False, sharey=True)[0]
    for panel, (name, calibration) in zip(panels, calibrations.items(), strict=True):
        bins = calibration.bins
        total = sum(bins["number"])
        panel.plot([0, 1], [0, 1], color="#999999", linewidth=1)
        panel.scatter(
            bins["probability"],
            bins["frequency"],
            s=[20 + 400 * number / total for number in bins["number"]],
            color="#0072B2",
            alpha=0.7,
        )
        panel.set(
            title=f"{TITLES[name]}\nerror {calibration.error:.2%}",
            xlabel="probability of the count named",
            xlim=(0, 1.05),
            ylim=(0, 1.05),
        )
        panel.title.set_fontsize(9)
    panels[0].set_ylabel("share right (area: scenes)")
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    return content.getvalue()
