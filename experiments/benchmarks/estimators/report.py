"""``report``: the README's tables and pictures, from the records of the other parts."""

import argparse
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.benchmarks.estimators.variants import VARIANTS
from experiments.benchmarks.markdown import SUCCESS, insert, spread
from experiments.benchmarks.record_files import read_records

DESCRIPTION = """\
Make the tables and the pictures of the estimators' measurements from their records."""

WEIGHTS = ("fresh", "half-trained", "trained")
"""Labels of weights in the order of the tables; others follow."""

Record = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``report``."""
    parser.add_argument(
        "--write",
        metavar="FILE",
        type=Path,
        help="put the tables between <!-- estimators --> and <!-- end of estimators -->",
    )
    parser.add_argument(
        "--pictures",
        metavar="DIR",
        type=Path,
        default=Path("_readme_imgs"),
        help="where the pictures go (default: %(default)s)",
    )
    parser.add_argument("--no-pictures", action="store_true", help="make the tables only")


def run(args: argparse.Namespace) -> int:
    """Print or write the tables, make the pictures; returns the exit status."""
    curves = group_curves(read_records(args.records / "curves", args.dataset))
    gradients = group_gradients(read_records(args.records / "variance", args.dataset))
    if not (curves or gradients):
        raise ValueError(
            f"{args.records} holds no record of {args.dataset}. Make some with the commands "
            "'variance' and 'curves', or name another --records or --dataset."
        )
    text = format_report(curves, gradients)
    if args.write is None:
        print(text)
    else:
        page = args.write.read_text(encoding="utf-8")
        args.write.write_text(insert(page, text, "estimators"), encoding="utf-8")
    if not args.no_pictures:
        from experiments.benchmarks.estimators import plots

        args.pictures.mkdir(parents=True, exist_ok=True)
        if curves:
            plots.save_curves(curves, args.pictures / "estimators_curves.png")
        if gradients:
            plots.save_variance(gradients, args.pictures / "estimators_variance.png")
        print(f"Pictures: {args.pictures}", file=sys.stderr)
    return 0


def group_curves(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Runs by estimator, in the order of the tables, each list in the order of seeds.

    Raises:
        ValueError: if the runs had different budgets.
    """
    budgets = {_budget(record) for record in records}
    if len(budgets) > 1:
        raise ValueError(
            "the runs are not comparable: they have budgets (steps, batch size, held-out scenes) "
            f"of {', '.join(map(str, sorted(budgets)))}. Keep each in --records of its own."
        )
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in sorted(records, key=lambda record: record["seed"]):
        groups[record["estimator"]].append(record)
    return {name: groups[name] for name in _in_order(groups)}


def group_gradients(records: Sequence[Record]) -> dict[str, dict[str, Record]]:
    """Measurements by estimator and label of the weights, in the order of the tables.

    Raises:
        ValueError: if they were made at different weights of one label, or other settings.
    """
    shared: dict[str, set[tuple[Any, ...]]] = defaultdict(set)
    groups: dict[str, dict[str, Record]] = defaultdict(dict)
    for record in records:
        label, settings = record["weights"], record["settings"]
        shared[label].add((settings["weights"], settings["batch_size"]))
        groups[record["estimator"]][label] = record
    for label, found in shared.items():
        if len(found) > 1:
            raise ValueError(
                f"the measurements at {label!r} are not comparable: they are of "
                f"{', '.join(map(str, sorted(found)))}. Keep each in --records of its own."
            )
    return {name: groups[name] for name in _in_order(groups)}


def labels(gradients: dict[str, dict[str, Record]]) -> list[str]:
    """Labels of all weights, in the order of the tables."""
    found = {label for group in gradients.values() for label in group}
    return [label for label in WEIGHTS if label in found] + sorted(found - set(WEIGHTS))


def is_success(record: Record) -> bool:
    """Whether a run ended with at least 98 % of the held-out counts right."""
    return final(record)["count_accuracy_mode"] >= SUCCESS


def final(record: Record) -> Record:
    """The last held-out test of a run. One that broke down has no count right and no ELBO."""
    if record["status"] == "failed":
        return {"count_accuracy_mode": 0.0, "count_accuracy": 0.0}
    last: Record = record["curve"][-1]
    return last


def clock(record: Record) -> str:
    """Which of a curve's times to compare: on a CPU, other work is no part of the process's."""
    return "seconds" if record["settings"]["device"] == "cuda" else "cpu_seconds"


def seconds_per_step(record: Record) -> float | None:
    """Training time a step, tests excluded; None if there was no test."""
    if not record["curve"]:
        return None
    last = record["curve"][-1]
    return float(last[clock(record)] / last["step"])


def format_report(curves: dict[str, list[Record]], gradients: dict[str, dict[str, Record]]) -> str:
    """All tables that there are records for, each with a line on how it was made."""
    parts = []
    if curves:
        parts += [curve_caption(curves), curve_table(curves)]
    if gradients:
        parts += [gradient_caption(gradients), gradient_table(gradients), group_table(gradients)]
    return "\n\n".join(parts)


def curve_caption(curves: dict[str, list[Record]]) -> str:
    """What the runs have in common."""
    record = next(iter(curves.values()))[0]
    steps, batch, scenes = _budget(record)
    return (
        f"`{record['dataset']}`, {steps} steps of batch {batch} for all, {scenes} held-out scenes, "
        "every seed counted (a run that broke down: 0 % right). K is the number of rollouts of an "
        "image a step; ± is the standard deviation over seeds; time is that of a training step, "
        f"relative to `enumerate` ({_device(record)})."
    )


def curve_table(curves: dict[str, list[Record]]) -> str:
    """One row an estimator, every seed counted, as Markdown."""
    reference = _median_seconds(curves.get("enumerate", []))
    rows = []
    for name, records in curves.items():
        variant = VARIANTS[name]
        finished = [record for record in records if record["status"] != "failed"]
        ends = [final(record) for record in records]
        broken = len(records) - len(finished)
        seconds = _median_seconds(records)
        ratio = seconds / reference if seconds and reference else None
        rows.append(
            [
                f"`{name}`",
                variant.source,
                variant.unbiased_for,
                _rollouts(name),
                f"{sum(map(is_success, records))} of {len(records)}"
                + (f" ({broken} broke down)" if broken else ""),
                spread([end["count_accuracy_mode"] for end in ends], 100, 2, " %"),
                f"{min(end['count_accuracy_mode'] for end in ends):.2%}".replace("%", " %"),
                spread([final(r)["elbo"] for r in finished], 1, 1, "") if finished else "–",
                f"{ratio:.2f}" if ratio else "–",
            ]
        )
    head = ["estimator", "source", "unbiased for", "K", "at least 98 %", "count accuracy, mode"]
    return _markdown([*head, "worst", "ELBO", "time"], rows)


def gradient_caption(gradients: dict[str, dict[str, Record]]) -> str:
    """What the measurements have in common."""
    record = next(iter(next(iter(gradients.values())).values()))
    settings = record["settings"]
    sources = {
        label: group[label]["settings"]["weights"]
        for group in gradients.values()
        for label in group
    }
    where = "; ".join(f"{label} ({sources[label]})" for label in labels(gradients))
    return (
        f"Gradient of the loss on one batch of {settings['batch_size']} images of "
        f"`{record['dataset']}`, {settings['draws']} draws; weights: {where}. Variances are sums "
        "over parameters, slashes part the weights. A baseline was trained for "
        f"{settings['baseline_steps']} steps on the frozen model first. Signal to noise is "
        "|mean|² / variance. Bias compares the mean with that of `enumerate`, which is exact in n "
        "and sampled in z: off is the distance in standard errors (1 is expected of an unbiased "
        "one, the largest of all parameter groups is shown), along the excess along the exact "
        "gradient ± its standard error. Cost is forward and backward relative to `enumerate`, in "
        "turn with it."
    )


def gradient_table(gradients: dict[str, dict[str, Record]]) -> str:
    """Total variance, bias and cost, one row an estimator, as Markdown."""
    columns = labels(gradients)
    last = columns[-1]
    rows = []
    for name, group in gradients.items():
        costs = [record["seconds"] / record["enumerate_seconds"] for record in group.values()]
        rows.append(
            [
                f"`{name}`",
                _rollouts(name),
                " / ".join(_figure(group, label, "variance") for label in columns),
                " / ".join(_figure(group, label, "signal_to_noise") for label in columns),
                " / ".join(_off(group.get(label)) for label in columns),
                _along(group.get(last)),
                f"{statistics.median(costs):.2f}",
            ]
        )
    head = ["estimator", "K", f"variance, {' / '.join(columns)}", "signal to noise"]
    head += ["off", f"along, {last}", "cost"]
    return _markdown(head, rows)


def group_table(gradients: dict[str, dict[str, Record]]) -> str:
    """Variance by parameter group, one row an estimator, as Markdown."""
    columns = labels(gradients)
    some = next(iter(next(iter(gradients.values())).values()))
    groups = [group for group in some["groups"] if group != "total"]
    rows = [
        [
            f"`{name}`",
            *(
                " / ".join(_figure(found, label, "variance", group) for label in columns)
                for group in groups
            ),
        ]
        for name, found in gradients.items()
    ]
    return _markdown([f"variance, {' / '.join(columns)}", *(f"`{g}`" for g in groups)], rows)


def _in_order(groups: dict[str, Any]) -> list[str]:
    unknown = sorted(set(groups) - set(VARIANTS))
    if unknown:
        raise ValueError(
            f"records of unknown estimator(s): {', '.join(unknown)}. "
            f"Expected some of: {', '.join(VARIANTS)}."
        )
    return [name for name in VARIANTS if name in groups]


def _budget(record: Record) -> tuple[int, int, int]:
    settings = record["settings"]
    return settings["max_steps"], settings["batch_size"], record["held_out_scenes"]


def _device(record: Record) -> str:
    settings = record["settings"]
    if settings["device"] == "cuda":
        return "wall clock, one GPU"
    return f"CPU time, threads: {settings['threads']}"


def _median_seconds(records: Sequence[Record]) -> float | None:
    found = [seconds for record in records if (seconds := seconds_per_step(record))]
    return statistics.median(found) if found else None


def _rollouts(name: str) -> str:
    variant = VARIANTS[name]
    if variant.rollouts == variant.num_samples:
        return str(variant.rollouts)
    return f"{variant.rollouts} ({variant.num_samples} counts)"


def _figure(group: dict[str, Record], label: str, field: str, part: str = "total") -> str:
    if label not in group:
        return "–"
    return two_digits(group[label]["groups"][part][field])


def two_digits(value: float) -> str:
    """Two significant digits, without an exponent where that is short.

    >>> two_digits(0.01234), two_digits(1234.0), two_digits(12345.0), two_digits(0.0)
    ('0.012', '1200', '1.2e4', '0')
    """
    if value == 0 or 0.001 <= abs(value) < 9_950:
        return f"{float(f'{value:.1e}'):g}"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def _off(record: Record | None) -> str:
    if record is None or "bias_distance" not in record["groups"]["total"]:
        return "–"
    return f"{max(group['bias_distance'] for group in record['groups'].values()):.1f}"


def _along(record: Record | None) -> str:
    if record is None or "bias_along" not in record["groups"]["total"]:
        return "–"
    total = record["groups"]["total"]
    return f"{100 * total['bias_along']:+.1f} ± {100 * total['bias_along_error']:.1f} %"


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
