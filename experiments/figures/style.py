"""How figures look: on a white page and on a dark one, tiles to the pixel, files without dates."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from air.visualization import to_uint8

_DPI = 150


@dataclass(frozen=True)
class Theme:
    """Colours of a page, as matplotlib takes them."""

    name: str
    page: str
    text: str
    faint: str
    """Of lines that carry no data."""
    strong: str
    """Of the data that a figure is about."""
    other: str
    """Of data beside it."""
    beside: str
    """Of data in the background."""
    page_grey: float
    """``page`` as a grey value in [0, 1], for tiles that go over into it."""
    blank: float
    """Grey value in [0, 1] of a tile with nothing in it."""


LIGHT = Theme("light", "#ffffff", "#1f2328", "#d9dde2", "#0072B2", "#D55E00", "#aab2bb", 1.0, 0.94)
DARK = Theme(
    "dark", "#171717", "#e6e6e6", "#3d3d3d", "#56B4E9", "#E69F00", "#6b7280", 23 / 255, 0.15
)
"""Strong and other are Okabe and Ito's blues and oranges, told apart by the colour-blind."""


def new_figure(width: float, height: float, theme: Theme, **layout: Any) -> Figure:
    """An empty figure in a theme.

    Args:
        width: in inches.
        height: in inches.
        theme: colours.
        **layout: of matplotlib's ``Figure``.
    """
    return Figure(figsize=(width, height), facecolor=theme.page, **layout)


def dress(panel: Axes, theme: Theme, *, title: str = "", grid: bool = True) -> None:
    """Give a panel the theme's colours, no box around it, and a title on the left."""
    panel.set_facecolor(theme.page)
    panel.set_title(title, loc="left", fontsize=10, color=theme.text, fontweight="bold")
    panel.tick_params(colors=theme.text, labelsize=8.5, length=0)
    for label in (panel.xaxis.label, panel.yaxis.label):
        label.set(color=theme.text, fontsize=9)
    panel.spines[["top", "right", "left"]].set_visible(False)
    panel.spines["bottom"].set_color(theme.faint)
    if grid:
        panel.grid(axis="y", color=theme.faint, linewidth=0.7)
        panel.set_axisbelow(True)


def to_png(figure: Figure) -> bytes:
    """The figure as PNG; the same bytes each time."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=_DPI, metadata={"Software": None})
    return file.getvalue()


def to_svg(figure: Figure) -> bytes:
    """The figure as SVG, its text as shapes; the same bytes each time."""
    file = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "air", "svg.fonttype": "path"}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def page_size(figure: Figure, *, vector: bool) -> tuple[int, int]:
    """Width and height that a page gives the file of :func:`to_svg` (vector) or :func:`to_png`."""
    dots = 96 if vector else _DPI  # an inch of a page is 96 of its pixels
    width, height = figure.get_size_inches()
    return round(dots * width), round(dots * height)


def tile_figure(
    tiles: Tensor,
    theme: Theme,
    *,
    columns: Sequence[str] = (),
    rows: Sequence[str] = (),
    notes: Sequence[Sequence[str]] = (),
    groups: Sequence[int] = (),
    gap: int = 9,
    font_size: float = 8.0,
) -> Figure:
    """Tiles in rows and columns, a pixel of a tile a pixel of the figure, with words around them.

    Args:
        tiles: pictures of one size, float in [0, 1], shape ``(rows, columns, 3, h, w)``.
        theme: colours.
        columns: a title for each column, or for each group of columns.
        rows: a title for each row, on the left; it may have several lines.
        notes: what to write below each tile, by row and column.
        groups: the columns that begin a group; a wider gap parts them.
        gap: pixels between tiles.
        font_size: of all words, in points.
    """
    height, width = tiles.shape[-2:]
    line = round(font_size * 1.45 * _DPI / 72)
    below = line if notes else 0
    lefts, x = [], gap + (_text_width(rows, font_size) if rows else 0)
    for column in range(tiles.shape[1]):
        x += 2 * gap if column and column in groups else 0
        lefts.append(x)
        x += width + gap
    tops = [gap + (line if columns else 0) + r * (height + below + gap) for r in range(len(tiles))]
    total = (x, tops[-1] + height + below + gap)
    figure = new_figure(total[0] / _DPI, total[1] / _DPI, theme, dpi=_DPI)
    panel = figure.add_axes((0, 0, 1, 1))
    panel.set_axis_off()
    words: dict[str, Any] = {"color": theme.text, "fontsize": font_size}
    for r, top in enumerate(tops):
        for left, tile in zip(lefts, tiles[r], strict=True):
            extent = (left, left + width, top + height, top)
            panel.imshow(to_uint8(tile).numpy(), extent=extent, interpolation="none")
        for left, note in zip(lefts, notes[r] if notes else (), strict=False):
            panel.text(left + width / 2, top + height + 0.5 * line, note, ha="center", va="center",
                       **words)  # fmt: skip
        if rows:
            panel.text(lefts[0] - gap, top + height / 2, rows[r], ha="right", va="center", **words)
    starts = [0, *groups] if len(columns) != len(lefts) else list(range(len(lefts)))
    ends = [*starts[1:], len(lefts)]
    for title, start, end in zip(columns, starts, ends, strict=False):
        middle = (lefts[start] + lefts[end - 1] + width) / 2
        panel.text(middle, tops[0] - line / 2, title, ha="center", va="center", **words)
    panel.set(xlim=(0, total[0]), ylim=(total[1], 0), aspect="auto")
    return figure


def _text_width(texts: Sequence[str], font_size: float) -> int:
    """Pixels that the longest line takes, a little more rather than less."""
    longest = max(len(line) for text in texts for line in text.split("\n"))
    return round((longest + 1.5) * 0.56 * font_size * _DPI / 72)
