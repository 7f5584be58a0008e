"""Time of one training step: systems take turns, then medians, quartiles and ratios."""

import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from experiments.benchmarks.speed.processes import Worker
from experiments.benchmarks.speed.systems import PEERS, System


def measure(
    systems: Sequence[System],
    common: dict[str, Any],
    *,
    rounds: int,
    steps: int,
    block: int = 1,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, list[list[float]]]:
    """Milliseconds a step of each system, round by round.

    Each round begins with another system, so that none always follows the same one.

    Args:
        systems: what to measure; each gets its process, and all live to the end.
        common: what every process is told, see :mod:`worker`.
        rounds: how many turns each system has.
        steps: training steps a turn.
        block: steps between two looks at the clock; more than 1 where looking costs, as on a GPU.
        say: is told what goes on.

    Raises:
        WorkerError: if a system fails.
    """
    times: dict[str, list[list[float]]] = {system.name: [] for system in systems}
    with ExitStack() as stack:
        workers = []
        for system in systems:
            say(f"starting {system.name}")
            worker = Worker(system.name, system.spec(common), quiet=system.is_peer)
            workers.append(stack.enter_context(worker))
            worker.wait_until_ready()
        for turn in range(rounds):
            say(f"round {turn + 1} of {rounds}")
            first = turn % max(len(workers), 1)
            for worker in workers[first:] + workers[:first]:
                seconds = worker.seconds(max(steps // block, 1), block)
                times[worker.name].append([1000 * value for value in seconds])
    return times


def summarise(times: dict[str, list[list[float]]], batch_size: int) -> dict[str, Any]:
    """Medians, quartiles and ratios, as plain data.

    A ratio is that of two systems' medians of one round: drift of the machine, which hits both,
    falls out of it. Given are the median over rounds, the least and the greatest.

    Args:
        times: milliseconds a step, by system and round.
        batch_size: images a step.
    """
    systems = {name: _summarise(rounds, batch_size) for name, rounds in times.items()}
    ratios = {
        name: {
            peer: _ratio(systems[peer]["round_medians_ms"], summary["round_medians_ms"])
            for peer in PEERS
            if peer in systems and peer != name
        }
        for name, summary in systems.items()
        if name not in PEERS
    }
    return {"systems": systems, "ratios": ratios}


def _summarise(rounds: list[list[float]], batch_size: int) -> dict[str, Any]:
    pooled = [value for values in rounds for value in values]
    median = statistics.median(pooled)
    low, high = quartiles(pooled)
    return {
        "median_ms": round(median, 4),
        "quartiles_ms": [round(low, 4), round(high, 4)],
        "images_per_s": round(1000 * batch_size / median, 1),
        "round_medians_ms": [round(statistics.median(values), 4) for values in rounds],
        "steps": len(pooled),
    }


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """First and third quartile; of a single value, that value."""
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


def _ratio(theirs: list[float], ours: list[float]) -> dict[str, float]:
    ratios = [a / b for a, b in zip(theirs, ours, strict=True)]
    return {
        "median": round(statistics.median(ratios), 3),
        "least": round(min(ratios), 3),
        "greatest": round(max(ratios), 3),
    }
