"""Made-up characters of a few pen strokes, in the manner of Omniglot's, which need no download.

A character is one to three strokes, each a smooth curve through points of a random walk that keeps
its direction; later strokes mostly start on earlier ones (after the motor programs of Lake,
Salakhutdinov and Tenenbaum, Science 2015, much simplified). Each time it is written its points
are moved a little and the whole is turned and slanted, as by another hand.
"""

import functools

import numpy as np
from numpy.typing import NDArray

from experiments.datasets.sprites import Sprite

__all__ = ["StrokeSprites"]

_NUM_CHARACTERS = 1000
_PEN = 0.12
"""Width of a line over the character's longer side."""
_WOBBLE = 0.04
_SLANT = 0.15
_TO_NEXT = 5
"""Points of a curve from one of its walk to the next."""

Points = NDArray[np.float64]


class StrokeSprites:
    """Written characters: 1000 of them, each a class.

    Args:
        alphabet: which thousand. Two alphabets share no character.
    """

    def __init__(self, alphabet: int) -> None:
        self.alphabet = alphabet

    def draw(self, size: int, random: np.random.RandomState) -> Sprite:
        """A random character, written anew, its longer side ``size`` pixels."""
        kind = int(random.randint(_NUM_CHARACTERS))
        turn = np.eye(2) + random.normal(scale=_SLANT, size=(2, 2))
        strokes = [
            _curve((walk + random.normal(scale=_WOBBLE, size=walk.shape)) @ turn)
            for walk in _character(self.alphabet, kind)
        ]
        return Sprite(_rendered(strokes, size), self.alphabet * _NUM_CHARACTERS + kind)


@functools.lru_cache(maxsize=4 * _NUM_CHARACTERS)
def _character(alphabet: int, kind: int) -> tuple[Points, ...]:
    """Points of each stroke, the longer side of all about 1."""
    random = np.random.RandomState([alphabet, kind])
    walks: list[Points] = []
    for _ in range(random.randint(1, 4)):
        start = random.uniform(size=2)
        if walks and random.uniform() < 0.7:
            earlier = walks[random.randint(len(walks))]
            start = earlier[random.randint(len(earlier))]
        walks.append(_walk(start, random))
    sides = np.ptp(np.concatenate(walks), axis=0)
    return tuple(walk / sides.max() for walk in walks)


def _walk(start: Points, random: np.random.RandomState) -> Points:
    """Three to five points, each some way on in nearly the same direction."""
    points, angle = [start], random.uniform(0, 2 * np.pi)
    for _ in range(random.randint(2, 5)):
        step = random.uniform(0.3, 0.7) * np.array([np.cos(angle), np.sin(angle)])
        points.append(points[-1] + step)
        angle += random.normal(scale=1.0)
    return np.array(points)


def _curve(walk: Points) -> Points:
    """Points of the Catmull-Rom curve through those of a walk."""
    first, last = 2 * walk[0] - walk[1], 2 * walk[-1] - walk[-2]
    padded = np.vstack([first, walk, last])
    t = np.linspace(0, 1, _TO_NEXT, endpoint=False)[:, None]
    pieces = [
        b + t / 2 * ((c - a) + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
        for a, b, c, d in zip(padded, padded[1:], padded[2:], padded[3:], strict=False)
    ]
    return np.vstack([*pieces, walk[-1:]])


def _rendered(strokes: list[Points], size: int) -> NDArray[np.uint8]:
    """Strokes as lines with soft edges, as large as fit ``size`` pixels on the longer side."""
    radius = max(_PEN * size, 1.5) / 2
    together = np.concatenate(strokes)
    low, extent = together.min(axis=0), np.ptp(together, axis=0)
    factor = (size - 2 * radius) / extent.max()
    # The longer side may come out a rounding error above the size.
    width, height = np.ceil(extent * factor + 2 * radius).astype(int).clip(max=size)
    columns, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    pixels = np.stack([columns, rows], axis=-1)[:, :, None]
    nearest = np.full((height, width), np.inf)
    for stroke in strokes:
        points = (stroke - low) * factor + radius
        start, along = points[:-1], np.diff(points, axis=0)
        length = np.maximum((along**2).sum(axis=-1), 1e-12)
        share = (((pixels - start) * along).sum(axis=-1) / length).clip(0, 1)
        distance = np.linalg.norm(pixels - start - share[..., None] * along, axis=-1)
        nearest = np.minimum(nearest, distance.min(axis=-1))
    lit: NDArray[np.uint8] = np.rint(255 * (radius + 0.5 - nearest).clip(0, 1)).astype(np.uint8)
    return lit
