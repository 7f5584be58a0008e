"""Kinds of pictures that people count objects in, with known counts."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

__all__ = ["KINDS", "Kind", "make"]

Picture = NDArray[np.float64]
Disks = list[tuple[float, float, float]]
"""Row, column and radius of each, in pixels."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of pictures."""

    draw: Callable[[Generator, Disks, int], Picture]
    """From disks and the side of a picture to its pixels."""
    radii: tuple[float, ...] = (5.0,)
    """Of the disks, drawn with equal probability; a number in two kinds more often."""
    least: int = 0
    """Fewest disks in a picture."""
    most: int = 3
    """Most disks in a picture."""
    side: int = 64
    """Height and width of a picture."""
    gap: float = 3.0
    """Least distance of two disks' edges."""
    whole: bool = True
    """Whether no disk is cut by the edge."""
    in_pairs: bool = False
    """Whether every second disk touches the one before it."""
    number: int = 100
    """Pictures."""
    blank: float = 0.0
    """Share of pictures whose disks are left out."""
    dtype: type[np.unsignedinteger] = np.uint8
    """Of the files; values in [0, 1] are stretched to 8 bits, others kept."""


def place(rng: Generator, number: int, kind: Kind) -> Disks:
    """Disks at random places that obey the kind's rules."""
    disks: Disks = []
    for _ in range(2000 * number):
        if len(disks) == number:
            break
        r = float(rng.choice(kind.radii))
        margin = r + 1 if kind.whole else 0
        touches = kind.in_pairs and len(disks) % 2 == 1
        if touches:
            b, a, q = disks[-1]
            angle, distance = rng.uniform(0, 2 * np.pi), q + r - 0.5
            y, x = b + distance * np.sin(angle), a + distance * np.cos(angle)
        else:
            y, x = rng.uniform(margin, kind.side - margin, 2)
        if not margin <= min(y, x) <= max(y, x) <= kind.side - margin:
            continue
        others = disks[:-1] if touches else disks
        if all(np.hypot(y - b, x - a) > r + q + kind.gap for b, a, q in others):
            disks.append((float(y), float(x), r))
    return disks


def paint(disks: Disks, side: int, lights: Picture | None = None) -> Picture:
    """Disks with soft edges, of brightness 1 or their own, on 0."""
    y, x = np.mgrid[:side, :side]
    picture = np.zeros((side, side))
    for index, (b, a, r) in enumerate(disks):
        cover = np.clip(r + 0.5 - np.hypot(y - b, x - a), 0, 1)
        picture = np.maximum(picture, cover * (1 if lights is None else lights[index]))
    return picture


def _noise(rng: Generator, side: int, sd: float = 0.02) -> Picture:
    return rng.normal(0, sd, (side, side))


def _plain(rng: Generator, disks: Disks, side: int) -> Picture:
    return 0.05 + 0.8 * paint(disks, side) + _noise(rng, side)


def _gradient(rng: Generator, disks: Disks, side: int) -> Picture:
    ramp = 0.4 * np.linspace(0, 1, side)[None]
    return 0.1 + ramp + 0.4 * paint(disks, side) + _noise(rng, side)


def _vignette_dark(rng: Generator, disks: Disks, side: int) -> Picture:
    y, x = np.mgrid[:side, :side] / side - 0.5
    return 0.85 * (1 - y**2 - x**2) * (1 - 0.45 * paint(disks, side)) + _noise(rng, side)


def _hot(rng: Generator, disks: Disks, side: int) -> Picture:
    picture = 0.04 + 0.2 * paint(disks, side) + _noise(rng, side, 0.008)
    picture[rng.integers(0, side, 6), rng.integers(0, side, 6)] = 1.0
    return picture


def _own_grey(rng: Generator, disks: Disks, side: int) -> Picture:
    return rng.uniform(0.05, 0.6) + 0.35 * paint(disks, side) + _noise(rng, side)


def _cam16(rng: Generator, disks: Disks, side: int) -> Picture:
    return 157 + 900 * paint(disks, side) + _noise(rng, side, 6)


def _faint_and_bright(rng: Generator, disks: Disks, side: int) -> Picture:
    lights = rng.choice([0.12, 0.9], len(disks))
    return 0.03 + paint(disks, side, lights) + _noise(rng, side, 0.01)


def _dark_blobs(rng: Generator, disks: Disks, side: int) -> Picture:
    return 0.85 - 0.65 * paint(disks, side) + _noise(rng, side)


KINDS: dict[str, Kind] = {
    "control": Kind(draw=_plain),
    "gradient": Kind(draw=_gradient),
    "vignette_dark": Kind(draw=_vignette_dark),
    "own_grey": Kind(draw=_own_grey),
    "hot": Kind(draw=_hot),
    "two_sizes": Kind(draw=_plain, radii=(3, 3, 8), most=4),
    "touching": Kind(draw=_plain, most=4, gap=4.0, in_pairs=True),
    "edge": Kind(draw=_plain, whole=False),
    "few": Kind(draw=_plain, number=6),
    "faint_and_bright": Kind(draw=_faint_and_bright, most=4),
    "blank_half": Kind(draw=_plain, blank=0.5),
    "cam16": Kind(draw=_cam16, dtype=np.uint16),
    "blobs": Kind(
        draw=_dark_blobs, radii=(16, 18, 20, 22, 24), most=4, side=240, gap=6.0, number=60
    ),
    "small5": Kind(draw=_plain, radii=(2.5,), least=2, most=8, side=1024, number=30),
    "many20": Kind(draw=_plain, radii=(6,), least=16, most=24, side=256, number=60),
}
"""By name."""


def make(
    name: str, *, number: int | None = None, seed: int = 1, blank: float | None = None
) -> tuple[list[NDArray[np.unsignedinteger]], list[int]]:
    """Pictures of a kind as files have them, ``(1, h, w)``, and their counts.

    Args:
        name: one of :data:`KINDS`.
        number: of pictures; default: the kind's.
        seed: decides on everything.
        blank: share of pictures whose disks are left out; default: the kind's.
    """
    kind = KINDS[name]
    rng = np.random.default_rng(seed)
    pictures, counts = [], []
    for _ in range(kind.number if number is None else number):
        disks = place(rng, int(rng.integers(kind.least, kind.most + 1)), kind)
        if rng.random() < (kind.blank if blank is None else blank):
            disks = []
        picture = kind.draw(rng, disks, kind.side)
        stretched = picture if kind.dtype is np.uint16 else np.rint(picture * 255)
        most = np.iinfo(kind.dtype).max
        pictures.append(stretched.clip(0, most).astype(kind.dtype)[None])
        counts.append(len(disks))
    return pictures, counts
