"""The pictures of a report, by name: also what ``report --pictures`` writes."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from matplotlib.figure import Figure
from torch import Tensor

from air.visualization import look_map
from experiments.figures import charts, scenes
from experiments.figures.style import DARK, LIGHT, Theme, page_size, to_png, to_svg
from experiments.report.gather import Findings

_RECONSTRUCTIONS = 20
_STEPS = 5
_HARDEST = 10
_WALKS = 4


@dataclass(frozen=True)
class Picture:
    """How a picture is made, and what to say with it."""

    title: str
    caption: str
    alt: str
    """What is to be seen, for those who cannot."""
    draw: Callable[[Findings, Theme], Figure | None]
    """None where there is nothing to show."""
    vector: bool = False
    """Whether a page shows it as SVG, not PNG."""


@dataclass(frozen=True)
class Drawn:
    """A picture, made for light and for dark pages."""

    name: str
    picture: Picture
    light: bytes
    dark: bytes
    size: tuple[int, int]
    """Width and height in a page's pixels, where it is neither enlarged nor shrunk."""

    @property
    def mime(self) -> str:
        """Type of the two files."""
        return "image/svg+xml" if self.picture.vector else "image/png"


def draw(name: str, findings: Findings, seed: int = 0) -> Drawn | None:
    """Make a picture for both kinds of pages; None if there is nothing to show.

    Args:
        name: one of :data:`PICTURES`.
        findings: about the run.
        seed: of what is random in it.
    """
    picture = PICTURES[name]
    files, size = [], (0, 0)
    for theme in (LIGHT, DARK):
        torch.manual_seed(seed)  # the same samples on both
        figure = picture.draw(findings, theme)
        if figure is None:
            return None
        files.append(to_svg(figure) if picture.vector else to_png(figure))
        size = page_size(figure, vector=picture.vector)
    light, dark = files
    return Drawn(name, picture, light, dark, size)


def draw_png(name: str, findings: Findings, seed: int = 0) -> bytes | None:
    """A picture for a white page, as PNG; None if there is nothing to show."""
    torch.manual_seed(seed)
    figure = PICTURES[name].draw(findings, LIGHT)
    return None if figure is None else to_png(figure)


def parse_names(text: str) -> list[str]:
    """Names of pictures, separated by commas.

    Raises:
        ValueError: if one is unknown.
    """
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in PICTURES:
            raise ValueError(f"unknown picture {name!r}. Expected some of: {', '.join(PICTURES)}.")
    return list(dict.fromkeys(names))


def _images(findings: Findings, positions: list[int]) -> Tensor:
    device = next(findings.air.parameters()).device
    return findings.scenes.images[positions].to(device)


def _chosen(findings: Findings, number: int) -> Tensor:
    """The first scenes of the set, as even over the counts, true if known, as can be."""
    readings = findings.readings
    first = (readings.counts if readings.true is None else readings.true)[:1000].tolist()
    return _images(findings, scenes.choose_scenes(first, number))


def _reconstructions(findings: Findings, theme: Theme) -> Figure:
    return scenes.reconstructions(findings.air, _chosen(findings, _RECONSTRUCTIONS), theme)


def _steps(findings: Findings, theme: Theme) -> Figure:
    return scenes.steps(findings.air, _chosen(findings, _STEPS), theme)


def _looks(findings: Findings, theme: Theme) -> Figure:
    readings = findings.readings
    maps = look_map(readings.boxes, readings.counts, findings.air.config.canvas_size)
    numbers = [int((readings.counts > t).sum()) for t in range(len(maps))]
    return charts.looks(maps, numbers, theme)


def _counts(findings: Findings, theme: Theme) -> Figure | None:
    counts = findings.readings.confusion
    return None if counts is None else charts.confusion(counts, theme)


def _hardest(findings: Findings, theme: Theme) -> Figure:
    readings = findings.readings
    worst = readings.elbos.argsort()[:_HARDEST]
    images = _images(findings, worst.tolist())
    true = None if readings.true is None else readings.true[worst]
    return scenes.hardest(findings.air, images, readings.elbos[worst], true, theme)


def _samples(findings: Findings, theme: Theme) -> Figure:
    return scenes.samples(findings.air, theme)


def _found(findings: Findings, number: int) -> Tensor:
    """Appearances of the first object of as many scenes, those with fewest objects first."""
    counts = findings.readings.counts
    order = torch.where(counts > 0, counts, counts.max() + 1).argsort(stable=True)
    order = order[counts[order] > 0][:number]
    return findings.readings.z_what[order, 0].to(next(findings.air.parameters()).device)


def _walk_z_what(findings: Findings, theme: Theme) -> Figure | None:
    z_what = _found(findings, _WALKS + 1)
    return scenes.walks_z_what(findings.air, z_what, theme) if len(z_what) > 1 else None


def _walk_z_where(findings: Findings, theme: Theme) -> Figure | None:
    z_what = _found(findings, 1)
    return scenes.walk_pose(findings.air, z_what[0], theme) if len(z_what) else None


def _curves(findings: Findings, theme: Theme) -> Figure | None:
    if not findings.curves:
        return None
    return charts.learning_curves(findings.curves, list(findings.others.values()), theme)


PICTURES = {
    "reconstructions": Picture(
        "Scenes and reconstructions",
        "Held-out scenes above what the model makes of them, with the boxes it found: first object "
        "red, second green, third blue.",
        "Rows of scenes, each above its reconstruction, with coloured boxes around the objects.",
        _reconstructions,
    ),
    "steps": Picture(
        "Step by step",
        "A row is one reading. At each step the model decides whether there is one more object "
        "(bar and number: how probable it is), looks at a part of the scene (glimpse), and draws "
        "what it takes it for (decoded glimpse). Blank: steps it did not take.",
        "For each scene in a row: the scene, the canvas after each object, the glimpses and the "
        "decoded glimpses.",
        _steps,
    ),
    "looks": Picture(
        "Where each step looks",
        "How often a pixel lies in the box of the first, second, third object, of all held-out "
        "scenes in which that object was found.",
        "A heat map of the canvas for each step.",
        _looks,
        vector=True,
    ),
    "counts": Picture(
        "Counts",
        "Held-out scenes by true number of objects and number found, and their share of the row. "
        "Blue is right.",
        "A table of held-out scenes: a row for each true number, a column for each number found.",
        _counts,
        vector=True,
    ),
    "hardest": Picture(
        "The hardest scenes",
        "The held-out scenes with the lowest ELBO, the worst first, above what the model makes of "
        "them at the mean of its latents. The ELBO is that of one draw.",
        "Scenes above their reconstructions, with their ELBO and the numbers of objects.",
        _hardest,
    ),
    "samples": Picture(
        "Samples of the prior",
        "Scenes that the model makes up, a row for each number of objects. Under the prior of the "
        "number itself nearly all scenes are empty.",
        "Rows of made-up scenes with one, two and more objects.",
        _samples,
    ),
    "walk_z_what": Picture(
        "A walk through z_what",
        "Decoded glimpses on the straight line between the appearances of two objects found; each "
        "row begins where the one above ended.",
        "Rows of objects, each a little different from the one before it.",
        _walk_z_what,
    ),
    "walk_z_where": Picture(
        "A walk through z_where",
        "One object while its scale, its x and its y go from two standard deviations of their "
        "prior below the mean to two above. A larger s is a smaller object.",
        "Three rows of one object: it shrinks, it moves from right to left, and from the bottom "
        "to the top.",
        _walk_z_where,
    ),
    "curves": Picture(
        "Learning curves",
        "Counts right (training: in one draw; held out: at the posterior's mode; the axis spreads "
        "what is near 100 %), ELBO, and its KL terms. Runs in the same folder that differ in their "
        "seed only are drawn behind.",
        "Three charts against the training step. The last values are in the table of metrics.",
        _curves,
        vector=True,
    ),
}
"""By name, in the order of the page."""
