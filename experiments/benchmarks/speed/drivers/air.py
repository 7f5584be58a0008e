"""This library."""

from collections.abc import Callable
from typing import Any


def run(spec: dict[str, Any], serve: Callable[[Callable[[], None]], None]) -> Any:
    """Serve training steps, or carry out the task that ``spec["task"]`` names."""
    from experiments.benchmarks.speed import own

    if spec["task"] == "step":
        return serve(own.training_step(spec))
    return own.TASKS[spec["task"]](spec)
