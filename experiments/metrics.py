"""Training metrics, summed where they arise and read when they are logged."""

import torch
from torch import Tensor

from experiments.state import Windowed


class Window:
    """Sums metrics on their device since the last line of the log.

    Args:
        seconds: on the clock at its start.
        earlier: what was summed before an interruption.
    """

    def __init__(self, seconds: float = 0.0, earlier: Windowed | None = None) -> None:
        self._start = seconds - (earlier.seconds if earlier else 0.0)
        self._names: list[str] = earlier.names if earlier else []
        self._total: Tensor | None = earlier.total if earlier else None
        self.length = earlier.length if earlier else 0
        """Steps, those left out among them."""

    def add(self, results: dict[str, Tensor], left_out: Tensor) -> None:
        """Add the metrics of one step.

        Args:
            results: scalars.
            left_out: 1 if the step was left out, so that its metrics do not count; else 0.
        """
        self._names = list(results)
        # The last one counts the steps.
        values = torch.stack([*results.values(), torch.ones_like(left_out)])
        values = torch.where(left_out.bool(), 0.0, values)
        self._total = values if self._total is None else self._total + values
        self.length += 1

    def means(self) -> dict[str, float]:
        """Means over the window's steps; nothing if all were left out. Waits for the device."""
        if self._total is None:
            return {}
        *sums, steps = self._total.tolist()
        return {name: total / steps for name, total in zip(self._names, sums, strict=True) if steps}

    def seconds(self, now: float) -> float:
        """Time since the window began."""
        return max(now - self._start, 1e-9)

    def state(self, now: float) -> Windowed:
        """All of it, to be put back by the constructor."""
        return Windowed(self._names, self._total, self.length, self.seconds(now))
