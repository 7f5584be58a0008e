"""The parts of the benchmark, each carried out in processes of its own."""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.benchmarks.speed import step
from experiments.benchmarks.speed.processes import run_task
from experiments.benchmarks.speed.systems import System, own_system

AXES: dict[str, tuple[int, ...]] = {
    "max_objects": (3, 6, 12),
    "canvas": (50, 100, 200),
    "batch_size": (16, 64, 256, 1024),
}
"""What is varied, one at a time, around the first T and canvas and a batch of 64."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Sizes of a measurement."""

    images: str
    """File of scenes, ``.npz`` with ``images`` uint8 ``(N, C, H, W)`` and ``num_objects``."""
    device: str
    threads: int
    batch_size: int = 64
    max_objects: int = 3
    rounds: int = 5
    steps: int = 40
    """Training steps a turn."""
    warmup: int = 10
    repeats: int = 20
    """Calls whose median is taken, where systems do not take turns."""
    infer_images: int = 10_000
    bound_images: int = 20
    bound_samples: tuple[int, ...] = (100, 1000)
    axes: dict[str, tuple[int, ...]] | None = None
    """Default: ``AXES``."""

    def common(self) -> dict[str, Any]:
        """What every process is told."""
        return {
            "images": self.images,
            "device": self.device,
            "threads": self.threads,
            "batch_size": self.batch_size,
            "max_objects": self.max_objects,
            "warmup": self.warmup,
            "repeats": self.repeats,
        }


def run_part(
    name: str, settings: Settings, systems: Sequence[System], say: Callable[[str], None]
) -> Any:
    """Carry out one of ``PARTS``; returns plain data."""
    return PARTS[name](settings, systems, say)


def _task(task: str, settings: Settings, **changes: Any) -> Any:
    system = own_system("air", task=task)
    return run_task(task, system.spec(settings.common() | changes))


def _step(settings: Settings, systems: Sequence[System], say: Callable[[str], None]) -> Any:
    times = step.measure(
        systems,
        settings.common(),
        rounds=settings.rounds,
        steps=settings.steps,
        # On a GPU, waiting for each step would leave gaps that training does not have.
        block=1 if settings.device == "cpu" else min(20, settings.steps),
        say=say,
    )
    return step.summarise(times, settings.batch_size)


def _scaling(settings: Settings, systems: Sequence[System], say: Callable[[str], None]) -> Any:
    axes = AXES if settings.axes is None else settings.axes
    base = {
        "max_objects": axes["max_objects"][0],
        "canvas": axes["canvas"][0],
        "batch_size": settings.batch_size,
    }
    known: dict[tuple[int, ...], dict[str, Any]] = {}
    result: dict[str, Any] = {}
    for axis, values in axes.items():
        points = []
        for value in values:
            sizes = base | {axis: value}
            key = tuple(sizes.values())
            if key not in known:
                say(", ".join(f"{name} {size}" for name, size in sizes.items()))
                number = max(2 * sizes["batch_size"], 256)
                repeats = max(5, settings.repeats * 64 // sizes["batch_size"] // 2)
                repeats = min(repeats, settings.repeats)
                known[key] = _task("scaling", settings, **sizes, num_images=number, repeats=repeats)
            points.append({axis: value} | known[key])
        result[axis] = {"points": points} | slopes(axis, points)
    return result


def slopes(axis: str, points: list[dict[str, Any]]) -> dict[str, dict[str, float | None]]:
    """Log-log slopes of time and memory along an axis; 1 is linear. Of canvas, by its area.

    Over all points, and of the last two: what does not grow weighs on the first ones.
    """
    sizes = [point[axis] ** 2 if axis == "canvas" else point[axis] for point in points]
    result = {}
    for name, field in (("time_slopes", "step_ms"), ("memory_slopes", "peak_bytes")):
        values = [point[field] for point in points]
        result[name] = {
            "all": log_slope(sizes, values),
            "last_two": log_slope(sizes[-2:], values[-2:]),
        }
    return result


def log_slope(sizes: Sequence[float], values: Sequence[float]) -> float | None:
    """Least-squares slope of log values over log sizes; None where there is none."""
    if len(set(sizes)) < 2 or min(values) <= 0:
        return None
    logs = [[math.log(value) for value in series] for series in (sizes, values)]
    return round(statistics.linear_regression(*logs).slope, 3)


def _infer(settings: Settings, systems: Sequence[System], say: Callable[[str], None]) -> Any:
    return _task("infer", settings, num_images=settings.infer_images, repeats=3)


def _latency(settings: Settings, systems: Sequence[System], say: Callable[[str], None]) -> Any:
    return _task("latency", settings, repeats=5 * settings.repeats)


def _bound(settings: Settings, systems: Sequence[System], say: Callable[[str], None]) -> Any:
    return [
        _task(
            "bound",
            settings,
            num_images=settings.bound_images,
            num_samples=samples,
            repeats=3 if samples <= 100 else 1,
        )
        for samples in settings.bound_samples
    ]


def _profile(settings: Settings, systems: Sequence[System], say: Callable[[str], None]) -> Any:
    return _task("profile", settings)


PARTS: dict[str, Callable[[Settings, Sequence[System], Callable[[str], None]], Any]] = {
    "step": _step,
    "scaling": _scaling,
    "infer": _infer,
    "latency": _latency,
    "bound": _bound,
    "profile": _profile,
}
