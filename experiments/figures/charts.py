"""Figures of numbers: learning curves, the confusion of counts, where each step looks."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from torch import Tensor

from air.visualization import BOX_COLORS
from experiments.figures.style import Theme, dress, new_figure

Points = Sequence[tuple[int, float]]
"""Steps of training and the values there."""

Curves = Mapping[str, Mapping[str, Points]]
"""Of one run: by split (``train``, ``held_out``) and by metric."""

_ACCURACIES = (0.0, 0.33, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995)
_KL = (("kl_num_steps", "number"), ("kl_z_where", "place"), ("kl_z_what", "appearance"))


def learning_curves(own: Curves, others: Sequence[Curves], theme: Theme) -> Figure:
    """Counts right, the ELBO and its KL terms against steps, the other seeds faint behind.

    Args:
        own: of the run.
        others: of runs that differ in their seed only.
        theme: colours.
    """
    figure = new_figure(10.5, 3.1, theme, layout="constrained")
    accuracy, elbo, kl = figure.subplots(1, 3)
    lines: list[tuple[Curves, str, dict[str, Any]]] = [
        (own, "train", {"color": theme.other, "linewidth": 0.8, "label": "training"})
    ]
    plural = "" if len(others) == 1 else "s"
    for i, run in enumerate(others):
        label = {} if i else {"label": f"held out, {len(others)} other seed{plural}"}
        lines.append((run, "held_out", {"color": theme.beside, "linewidth": 1.1, **label}))
    lines.append((own, "held_out", {"color": theme.strong, "linewidth": 2.0, "label": "held out"}))
    for run, split, style in lines:
        counts = "count_accuracy_mode" if split == "held_out" else "count_accuracy"
        _line(accuracy, run, split, counts, **style)
        _line(elbo, run, split, "elbo", **style)
    for (metric, name), color in zip(_KL, (theme.text, theme.other, theme.strong), strict=True):
        _line(kl, own, "train", metric, color=color, linewidth=1.2, label=name)
    dress(accuracy, theme, title="Counts right")
    _accuracy_axis(accuracy)
    dress(elbo, theme, title="ELBO, nats")
    _elbo_axis(elbo)
    dress(kl, theme, title="KL terms in training, nats")
    for panel in (accuracy, elbo, kl):
        panel.set_xlabel("training step")
        panel.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 2.5, 5, 10]))
        panel.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
        if panel.get_legend_handles_labels()[1]:
            panel.legend(frameon=False, fontsize=8.5, labelcolor=theme.text, loc="best")
    return figure


def confusion(counts: Tensor, theme: Theme) -> Figure:
    """Scenes by true count and by count found; the right ones on the diagonal.

    Args:
        counts: scenes by true count (rows) and inferred count (columns), ``(M + 1, T + 1)``.
        theme: colours.
    """
    true = [n for n, row in enumerate(counts.tolist()) if sum(row)]
    rows = counts[true].double()
    shares = rows / rows.sum(dim=1, keepdim=True)
    figure = new_figure(
        1.4 + 0.85 * counts.shape[1], 1.0 + 0.6 * len(true), theme, layout="constrained"
    )
    panel = figure.subplots()
    for y, row in enumerate(shares.tolist()):
        for x, share in enumerate(row):
            right = true[y] == x
            # A few wrong ones among thousands are still to be seen.
            strength = 0.06 + 0.94 * math.sqrt(share) if share else 0.0
            panel.add_patch(_cell(x, y, theme.strong if right else theme.other, strength))
            number, light = int(rows[y, x]), strength < 0.55
            color = theme.text if light else theme.page
            small = theme.beside if not number else color
            panel.text(x, y - 0.1 if number else y, f"{number:,}", ha="center", va="center",
                       color=small, fontsize=10)  # fmt: skip
            if number:
                panel.text(x, y + 0.22, _share(share), ha="center", va="center", color=color,
                           fontsize=7.5)  # fmt: skip
    dress(panel, theme, grid=False)
    panel.set(
        xlim=(-0.5, counts.shape[1] - 0.5),
        ylim=(len(true) - 0.5, -0.5),
        xlabel="objects found",
        ylabel="true number",
    )
    panel.set_xticks(range(counts.shape[1]), map(str, range(counts.shape[1])))
    panel.set_yticks(range(len(true)), map(str, true))
    panel.spines["bottom"].set_visible(False)
    return figure


def looks(maps: Tensor, numbers: Sequence[int], theme: Theme) -> Figure:
    """Heat maps of where each step looks, on one scale.

    Args:
        maps: of :func:`air.visualization.look_map`, ``(T, H, W)``.
        numbers: scenes in which each step found an object.
        theme: colours.
    """
    size = 2.3 * maps.shape[1] / maps.shape[2]
    figure = new_figure(2.45 * len(maps) + 0.7, size + 0.3, theme, layout="constrained")
    panels = figure.subplots(1, len(maps), squeeze=False)[0]
    # A step that found next to nothing is its few boxes, all bright: it does not set the scale.
    common = [n > 0 and n >= max(numbers) / 100 for n in numbers]
    top = max([float(m.max()) for m, shown in zip(maps, common, strict=True) if shown], default=1.0)
    clipped = any(n and float(m.max()) > top for n, m in zip(numbers, maps, strict=True))
    shown = None
    for t, (panel, values, number) in enumerate(zip(panels, maps, numbers, strict=True)):
        dress(panel, theme, grid=False)
        color = BOX_COLORS[t % len(BOX_COLORS)]
        panel.set_title(f"object {t + 1}", color=theme.text, fontsize=9.5, loc="left")
        panel.set_title(
            f"{number:,} scene{'s' if number != 1 else ''}",
            color=theme.text,
            fontsize=8,
            loc="right",
        )
        panel.set_xticks([])
        panel.set_yticks([])
        panel.spines[:].set(visible=True, color=color, linewidth=2)
        if number:
            shown = panel.imshow(values.numpy(), cmap="magma", vmin=0, vmax=top)
        else:
            panel.set(aspect=maps.shape[1] / maps.shape[2])
            panel.text(0.5, 0.5, "never found", color=theme.text, ha="center", va="center",
                       transform=panel.transAxes, fontsize=9)  # fmt: skip
    if shown is not None:
        bar = figure.colorbar(
            shown,
            cax=panels[-1].inset_axes((1.06, 0, 0.06, 1)),
            extend="max" if clipped else "neither",
        )
        bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.0f} %"))
        bar.ax.tick_params(colors=theme.text, labelsize=8, length=0)
        bar.outline.set_visible(False)
        bar.ax.yaxis.set_major_locator(MaxNLocator(4))
    return figure


def _line(panel: Axes, run: Curves, split: str, metric: str, **style: Any) -> None:
    points = run.get(split, {}).get(metric, ())
    if not points:
        return
    steps, values = zip(*points, strict=True)
    if metric.startswith("count_accuracy"):
        values = tuple(_error(value) for value in values)
    marker = "o" if len(steps) < 3 else None
    panel.plot(steps, values, **({"linewidth": 1.6, "marker": marker, "markersize": 4} | style))


def _heights(panel: Axes) -> list[float]:
    """Of all points of all lines."""
    lines = [np.asarray(line.get_ydata(), dtype=float) for line in panel.get_lines()]
    return np.concatenate([np.empty(0), *lines]).tolist()


def _error(accuracy: float) -> float:
    """Accuracies are drawn as errors, on a log axis: 98 and 99 % are far apart there."""
    return max(1 - accuracy, 1e-3)


def _accuracy_axis(panel: Axes) -> None:
    heights = _heights(panel)
    low, high = max([*heights, 0.7]) * 1.05, min([*heights, 0.02]) * 0.8
    panel.set_yscale("log")
    panel.set_ylim(min(low, 1.05), high)
    panel.yaxis.set_major_locator(FixedLocator([1 - accuracy for accuracy in _ACCURACIES]))
    panel.yaxis.set_minor_locator(NullLocator())
    panel.yaxis.set_major_formatter(FuncFormatter(lambda e, _: f"{100 * (1 - e):.3g} %"))


def _elbo_axis(panel: Axes) -> None:
    """Leave out the first tenth of a run's values: they are far below and say little."""
    heights = sorted(_heights(panel))
    if len(heights) > 1:
        low, high = heights[len(heights) // 10], heights[-1]
        margin = 0.06 * max(high - low, 1.0)
        panel.set_ylim(low - margin, high + margin)


def _cell(x: int, y: int, color: str, strength: float) -> FancyBboxPatch:
    return FancyBboxPatch(
        (x - 0.46, y - 0.44), 0.92, 0.88, boxstyle="round,pad=0,rounding_size=0.08",
        facecolor=color, alpha=strength, linewidth=0,
    )  # fmt: skip


def _share(share: float) -> str:
    """A share that is not all is not called 100 %.

    >>> _share(1.0), _share(0.9999), _share(0.984), _share(0.0001)
    ('100 %', '> 99.9 %', '98.4 %', '< 0.1 %')
    """
    if share == 1:
        return "100 %"
    if not 0.001 <= share <= 0.999:
        return "< 0.1 %" if share < 0.5 else "> 99.9 %"
    return f"{100 * share:.1f} %"
