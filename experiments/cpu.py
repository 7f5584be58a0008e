"""How busy the machine's cores are with other things."""

import os

__all__ = ["busy_hint", "check_threads", "load"]

_MOST_THREADS = 1024
"""Of one process; OpenMP dies, without a word, where the system refuses it one."""


def check_threads(threads: int | None) -> None:
    """Check a number of threads before it is set.

    Args:
        threads: of PyTorch; None for its own choice.

    Raises:
        ValueError: if there are none, or far more than any machine has cores.
    """
    if threads is not None and not 1 <= threads <= _MOST_THREADS:
        raise ValueError(f"threads must be at least 1 and at most {_MOST_THREADS}, got {threads}.")


def load() -> float:
    """Processes that wanted a core in the last minute, on average; 0 where nobody counts them."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):  # not on Windows
        return 0.0


def busy_hint(threads: int, busy: float, cores: int | None = None) -> str | None:
    """What to do if others keep cores busy that the threads count on; None if all is well.

    The threads of a matrix product wait for the last of them: on two cores, one of which does
    something else, two threads were 20 times slower than one.

    Args:
        threads: that PyTorch works with.
        busy: cores that others keep busy.
        cores: of the machine; default: this one's.
    """
    cores = cores or os.cpu_count() or 1
    if threads < 2 or busy < 1 or threads + busy <= cores:
        return None
    free = max(1, cores - round(busy))
    return (
        f"others keep about {busy:.0f} of {cores} cores busy. {threads} threads will wait for each "
        f"other: --threads {free} may be many times faster."
    )
