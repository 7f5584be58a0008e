"""A measurement as a picture."""

from pathlib import Path
from typing import Any

from experiments.benchmarks.speed.report import TITLES


def save_plot(report: dict[str, Any], path: Path) -> None:
    """Step times with their quartiles, and time and memory along each axis of scaling.

    Raises:
        ValueError: if there is nothing to draw, or matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError(
            "--plot needs matplotlib, which is not installed: pip install matplotlib."
        ) from error
    panels = [name for name in ("step", "scaling") if name in report]
    if not panels:
        raise ValueError("--plot draws the parts step and scaling; neither was measured.")
    number = sum(1 if name == "step" else len(report[name]) for name in panels)
    figure = Figure(figsize=(4.2 * number, 3.4), layout="constrained")
    axes = iter(figure.subplots(1, number, squeeze=False)[0])
    if "step" in report:
        _draw_step(next(axes), report["step"]["systems"])
    for axis, result in report.get("scaling", {}).items():
        _draw_scaling(next(axes), axis, result)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def _draw_step(axes: Any, systems: dict[str, Any]) -> None:
    names = list(systems)[::-1]
    medians = [systems[name]["median_ms"] for name in names]
    quartiles = [systems[name]["quartiles_ms"] for name in names]
    errors = [
        [median - low for median, (low, _) in zip(medians, quartiles, strict=True)],
        [high - median for median, (_, high) in zip(medians, quartiles, strict=True)],
    ]
    labels = [TITLES.get(name, name).replace("`", "") for name in names]
    bars = axes.barh(labels, medians, xerr=errors, color="tab:blue", ecolor="black", capsize=3)
    axes.bar_label(bars, [f"{median:.3g}" for median in medians], padding=6)
    axes.margins(x=0.2)
    axes.set(xlabel="ms a training step: median, quartiles", title="One step")


def _draw_scaling(axes: Any, axis: str, result: dict[str, Any]) -> None:
    points = result["points"]
    sizes = [point[axis] for point in points]
    axes.loglog(sizes, [point["step_ms"] for point in points], "o-", label="ms")
    axes.loglog(sizes, [point["peak_bytes"] / 1e6 for point in points], "s--", label="MB")
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    slope = result["time_slopes"]["all"]
    by_area = " (by area)" if axis == "canvas" else ""
    title = f"slope of time{by_area}: {slope:.2f}" if slope is not None else ""
    axes.set(xlabel={"max_objects": "T"}.get(axis, axis.replace("_", " ")), title=title)
    axes.legend()
