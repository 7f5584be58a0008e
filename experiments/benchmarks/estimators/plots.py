"""The two pictures of the report. Colours are Okabe and Ito's, told apart by the colour-blind."""

import statistics
from itertools import cycle
from pathlib import Path
from typing import Any

from experiments.benchmarks.estimators.report import Record, clock, labels
from experiments.benchmarks.estimators.variants import FAMILIES, VARIANTS
from experiments.benchmarks.markdown import SUCCESS

try:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import (
        FixedLocator,
        FuncFormatter,
        LogLocator,
        NullFormatter,
        NullLocator,
    )
except ImportError as error:
    raise ImportError(
        "the pictures need matplotlib. Install it (pip install '.[benchmarks]'), or make the "
        "tables only (--no-pictures)."
    ) from error

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "#999999"

_ACCURACIES = (0.33, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99)
_MARKERS = (("o", "#E69F00"), ("s", "#56B4E9"), ("D", "#0072B2"))
"""Of fresh, half-trained and trained weights; more labels begin again."""


def save_curves(curves: dict[str, list[Record]], path: Path) -> None:
    """Accuracy and ELBO against steps and seconds: a column a family, a line a seed."""
    families = [f for f in FAMILIES if any(VARIANTS[name].family == f for name in curves)]
    some = next(iter(curves.values()))[0]
    time = "CPU seconds" if clock(some) == "cpu_seconds" else "seconds"
    rows = [
        ("count_accuracy_mode", "step", "training step"),
        ("count_accuracy_mode", clock(some), f"training time ({time})"),
        ("elbo", "step", "training step"),
        ("elbo", clock(some), f"training time ({time})"),
    ]
    figure = Figure(figsize=(3.3 * len(families) + 0.7, 11), layout="constrained")
    axes = figure.subplots(len(rows), len(families), squeeze=False, sharex="row", sharey="row")
    elbos = sorted(p["elbo"] for runs in curves.values() for run in runs for p in run["curve"])
    for row, (metric, time_name, x_label) in enumerate(rows):
        for column, family in enumerate(families):
            panel = axes[row][column]
            names = [name for name in curves if VARIANTS[name].family == family]
            _draw_runs(panel, curves, names, metric, time_name)
            panel.set_xlabel(x_label)
            if time_name != "step" and elbos:
                panel.set_xscale("log")  # a step of one costs several of another
                panel.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
                panel.xaxis.set_major_formatter(FuncFormatter(lambda time, _: f"{time:g}"))
                panel.xaxis.set_minor_locator(NullLocator())
            panel.tick_params(labelleft=True)
            if row == 0:
                panel.set_title(family, fontweight="bold", loc="left")
        if metric == "elbo":
            if elbos:
                low, high = elbos[len(elbos) // 10], elbos[-1]
                margin = 0.08 * max(high - low, 1.0)
                axes[row][0].set_ylim(low - margin, high + margin)
            axes[row][0].set_ylabel("held-out ELBO (nats)")
        else:
            _accuracy_axis(axes[row][0], curves)
            axes[row][0].set_ylabel("held-out counts right")
        for panel in axes[row]:
            _direct_labels(panel)
    figure.savefig(path, dpi=110)


def save_variance(gradients: dict[str, dict[str, Record]], path: Path) -> None:
    """Gradient variance of each estimator on a log axis: a panel a parameter group."""
    some = next(iter(next(iter(gradients.values())).values()))["groups"]
    groups = ["total", *(name for name in some if name != "total")]
    names = list(gradients)
    size = (2.5 * len(groups) + 1.5, 0.32 * len(names) + 1.6)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(1, len(groups), squeeze=False, sharex=True, sharey=True)[0]
    styles = dict(zip(labels(gradients), cycle(_MARKERS)))
    for panel, group in zip(axes, groups, strict=True):
        for y, name in enumerate(names):
            values = {
                label: record["groups"][group]["variance"]
                for label, record in gradients[name].items()
                if record["groups"][group]["variance"] > 0
            }
            if values:
                ends = [min(values.values()), max(values.values())]
                panel.plot(ends, [y, y], color="#cccccc", linewidth=1.5, zorder=1)
            for label, value in values.items():
                marker, colour = styles[label]
                panel.plot(value, y, marker, color=colour, markersize=6, zorder=2, label=label)
        panel.set_xscale("log")
        panel.xaxis.set_major_locator(LogLocator(numticks=6))
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.grid(axis="both", color="#eeeeee")
        panel.set_axisbelow(True)
        title = "all parameters" if group == "total" else group
        panel.set_title(title, fontsize=10, loc="left")
        panel.spines[["top", "right"]].set_visible(False)
    axes[0].set_yticks(range(len(names)), names)
    axes[0].invert_yaxis()
    found = dict(zip(*reversed(axes[0].get_legend_handles_labels()), strict=True))
    figure.legend(
        [found[label] for label in styles if label in found],
        [f"{label} weights" for label in styles if label in found],
        loc="outside upper right",
        ncols=len(styles),
        frameon=False,
    )
    figure.supxlabel("variance of the gradient, summed over parameters", fontsize=10)
    figure.savefig(path, dpi=110)


def _draw_runs(
    panel: Axes, curves: dict[str, list[Record]], names: list[str], metric: str, time_name: str
) -> None:
    """One thin line a seed; the exact estimator in grey behind, to compare with."""
    colours = dict(zip(names, cycle(PALETTE)))
    if "enumerate" in curves:
        colours.setdefault("enumerate", GREY)
    for name, colour in colours.items():
        behind = name not in names
        style = {"color": colour, "linewidth": 0.6 if behind else 0.9, "zorder": 2 - behind}
        ends = []
        for run in curves[name]:
            _draw_run(panel, run, metric, time_name, **style)
            if run["curve"]:
                ends.append(_height(run["curve"][-1], metric))
        if ends:
            # A label where the lines end; an empty line carries it to _direct_labels.
            (marker,) = panel.plot([], [], color=colour, label=name)
            marker.set_gid(str(statistics.median(ends)))
    if metric != "elbo":
        panel.axhline(1 - SUCCESS, color="#000000", linewidth=0.8, linestyle="--", zorder=0)
    panel.grid(color="#eeeeee")
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)


def _draw_run(panel: Axes, run: Record, metric: str, time_name: str, **style: Any) -> None:
    times = [point[time_name] for point in run["curve"]]
    heights = [_height(point, metric) for point in run["curve"]]
    panel.plot(times, heights, **style)
    if run["status"] == "failed" and times:
        panel.plot(times[-1], heights[-1], "x", color=style["color"], markersize=7)


def _height(point: Record, metric: str) -> float:
    """Accuracies are drawn as errors, on a log axis: 98 and 99 % are far apart there."""
    value: float = point[metric]
    return value if metric == "elbo" else max(1 - value, 1e-4)


def _accuracy_axis(panel: Axes, curves: dict[str, list[Record]]) -> None:
    errors = [
        _height(point, "count_accuracy_mode")
        for runs in curves.values()
        for run in runs
        for point in run["curve"]
    ]
    panel.set_yscale("log")
    panel.set_ylim(max([*errors, 0.7]) * 1.05, min([*errors, 0.01]) * 0.85)
    panel.yaxis.set_major_locator(FixedLocator([1 - accuracy for accuracy in _ACCURACIES]))
    panel.yaxis.set_minor_locator(NullLocator())
    panel.yaxis.set_major_formatter(FuncFormatter(lambda error, _: f"{100 * (1 - error):.0f} %"))


def _direct_labels(panel: Axes, gap: float = 0.085) -> None:
    """Write each line's name beside its end, right of the panel, none over another."""
    lines = [line for line in panel.get_lines() if line.get_gid()]
    to_axes = panel.transData + panel.transAxes.inverted()
    heights = {
        line: min(max(to_axes.transform((0, float(line.get_gid() or 0)))[1], 0.0), 1.0)
        for line in lines
    }
    lines.sort(key=lambda line: -heights[line])
    placed: list[float] = []
    for line in lines:
        placed.append(min(heights[line], placed[-1] - gap) if placed else heights[line])
    lift = max(0.0, -min(placed, default=0.0))  # none below the panel
    for line, height in zip(lines, placed, strict=True):
        panel.annotate(
            str(line.get_label()),
            (1.02, height + lift),
            xycoords="axes fraction",
            color=line.get_color(),
            fontsize=8.5,
            va="center",
            annotation_clip=False,
        )
