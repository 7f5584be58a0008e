"""Schedules: from a training step to a value. The caller evaluates them, never the model."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from air.files import is_number

__all__ = ["Chain", "Constant", "Cosine", "Exponential", "Linear", "Schedule", "parse_schedule"]

Schedule = Callable[[int], float]
"""Anything that maps a step (0 is the first) to a value."""


@dataclass(frozen=True)
class Constant:
    """Always ``value``."""

    value: float

    def __post_init__(self) -> None:
        if not is_number(self.value):
            raise ValueError("it must be a finite number")

    def __call__(self, step: int) -> float:
        """Value at ``step``."""
        return self.value


@dataclass(frozen=True)
class _Ramp:
    """From ``start`` at step 0 to ``end`` at step ``num_steps``, and ``end`` ever after."""

    start: float
    end: float
    num_steps: int

    def __post_init__(self) -> None:
        if self.num_steps < 1:
            raise ValueError(f"num_steps must be at least 1, got {self.num_steps}.")
        if not (is_number(self.start) and is_number(self.end)):
            raise ValueError("the ends of a schedule must be finite numbers")

    def __call__(self, step: int) -> float:
        """Value at ``step``."""
        raise NotImplementedError

    def _fraction(self, step: int) -> float:
        return min(max(step / self.num_steps, 0.0), 1.0)


@dataclass(frozen=True)
class Linear(_Ramp):
    """Straight line from ``start`` to ``end`` over ``num_steps``, then ``end``."""

    def __call__(self, step: int) -> float:
        """Value at ``step``."""
        fraction = self._fraction(step)
        return (1 - fraction) * self.start + fraction * self.end


@dataclass(frozen=True)
class Exponential(_Ramp):
    """Straight line on a log scale from ``start`` to ``end`` over ``num_steps``, then ``end``."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.start <= 0 or self.end <= 0:
            raise ValueError(
                f"an exponential schedule needs positive ends, got {self.start} and {self.end}."
            )

    def __call__(self, step: int) -> float:
        """Value at ``step``."""
        if step >= self.num_steps:  # exp(log(end)) need not be end
            return self.end
        fraction = self._fraction(step)
        return math.exp((1 - fraction) * math.log(self.start) + fraction * math.log(self.end))


@dataclass(frozen=True)
class Cosine(_Ramp):
    """Half a cosine from ``start`` to ``end`` over ``num_steps``, then ``end``."""

    def __call__(self, step: int) -> float:
        """Value at ``step``."""
        weight = (1 + math.cos(math.pi * self._fraction(step))) / 2
        return self.end + (self.start - self.end) * weight


@dataclass(frozen=True)
class Chain:
    """Ramps end to end: each takes over at the step where the one before it ends.

    Raises:
        ValueError: if there is none.
    """

    ramps: tuple[_Ramp, ...]

    def __post_init__(self) -> None:
        if not self.ramps:
            raise ValueError("a chain needs at least one ramp.")

    def __call__(self, step: int) -> float:
        """Value at ``step``."""
        for ramp in self.ramps[:-1]:
            if step < ramp.num_steps:
                return ramp(step)
            step -= ramp.num_steps
        return self.ramps[-1](step)


_RAMPS: dict[str, type[Linear] | type[Exponential] | type[Cosine]] = {
    "linear": Linear,
    "exponential": Exponential,
    "cosine": Cosine,
}


def parse_schedule(text: str | float) -> Constant | Linear | Exponential | Cosine | Chain:
    """Read a schedule from the command line.

    Args:
        text: a number (``0.01``, as text or not); ``KIND:START:END:NUM_STEPS`` with KIND one of
            ``linear``, ``exponential``, ``cosine`` (``exponential:1e-9:0.01:4000``); or values at
            steps, the first of them 0, with ramps between: ``KIND:VALUE@STEP,VALUE@STEP,...``.

    Raises:
        ValueError: if ``text`` is none of these.

    Example:
        >>> parse_schedule("linear:0:1:10")(5)
        0.5
        >>> parse_schedule("linear:0.3@0,0.3@100,0.2@200")(150)
        0.25
    """
    kind, *arguments = str(text).strip().split(":")
    try:
        if not arguments:
            return Constant(float(kind))
        if kind in _RAMPS and len(arguments) == 3:
            start, end, num_steps = arguments
            return _RAMPS[kind](float(start), float(end), int(num_steps))
        if kind in _RAMPS and len(arguments) == 1 and "@" in arguments[0]:
            return _chain(_RAMPS[kind], arguments[0])
    except ValueError as error:
        raise ValueError(f"cannot read the schedule {text!r}: {error}.") from error
    raise ValueError(
        f"cannot read the schedule {text!r}. Expected a number, KIND:START:END:NUM_STEPS or "
        f"KIND:VALUE@0,VALUE@STEP,... with KIND one of: {', '.join(_RAMPS)}."
    )


def _chain(ramp: type[Linear] | type[Exponential] | type[Cosine], text: str) -> Chain:
    points = []
    for point in text.split(","):
        value, _, step = point.partition("@")
        points.append((float(value), int(step)))
    steps = [step for _, step in points]
    if steps[0] != 0 or any(later <= earlier for earlier, later in pairwise(steps)):
        raise ValueError("its steps must start at 0 and grow")
    if len(points) < 2:
        raise ValueError("it needs two points or more")
    return Chain(tuple(ramp(a, b, to - at) for (a, at), (b, to) in pairwise(points)))
