"""The bar of training steps."""

import sys
from typing import Any

from tqdm import tqdm

from experiments import distributed

__all__ = ["step_bar"]

_SECONDS = 10.0
"""Between two states of a bar in a file, where each stays."""


def step_bar(*steps: Any, **options: Any) -> Any:
    """A bar of steps on standard error, shown by one process only; seldom renewed in a log file.

    Args:
        *steps: what to go through, if the bar shall do so.
        **options: of ``tqdm``.
    """
    seconds = 0.1 if sys.stderr.isatty() else _SECONDS
    return tqdm(
        *steps,
        unit="step",
        dynamic_ncols=True,
        mininterval=seconds,
        maxinterval=max(seconds, 10.0),
        disable=not distributed.is_main(),
        **options,
    )
