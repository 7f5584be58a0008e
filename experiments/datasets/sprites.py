"""Sprites: what a scene's objects are cut from. Digits, shapes, or a folder of pictures."""

import functools
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from experiments.datasets.mnist import Digits

__all__ = [
    "COLORS",
    "SHAPES",
    "DigitSprites",
    "PictureSprites",
    "ShapeSprites",
    "Sprite",
    "Sprites",
]

COLORS: tuple[tuple[int, int, int], ...] = (
    (255, 255, 255),
    (255, 0, 0),
    (0, 255, 0),
    (0, 0, 255),
    (255, 255, 0),
    (255, 0, 255),
    (0, 255, 255),
)
"""White, the primary colours and their mixtures, as ``multiobject``'s sprites have them."""

SHAPES = ("square", "ellipse", "heart")
"""The shapes of dSprites, by class."""

_NUM_ANGLES = 40
_BINARY = 128
_DRAWS = 1000


class Sprite(NamedTuple):
    """One object, as large as it shall be on the canvas."""

    pixels: NDArray[np.uint8]
    """Shape ``(h, w)``, or ``(h, w, 3)`` where the sprite has colours of its own."""
    kind: int
    """Its class."""


class Sprites(Protocol):
    """Somewhere to draw sprites from."""

    def draw(self, size: int, random: np.random.RandomState) -> Sprite:
        """A random sprite whose longer side has ``size`` pixels.

        Raises:
            ValueError: if there is none that can be seen.
        """


class DigitSprites:
    """Handwritten digits, resized with antialiasing.

    Args:
        digits: to draw from.
        binary: whether to round each pixel to 0 or 255, after resizing. A digit of thin strokes
            can vanish so: one that keeps fewer pixels than half its size is drawn anew.
    """

    def __init__(self, digits: Digits, *, binary: bool) -> None:
        self.digits = digits
        self.binary = binary

    def draw(self, size: int, random: np.random.RandomState) -> Sprite:
        """A random digit of ``size`` times ``size`` pixels."""
        for _ in range(_DRAWS):
            index = int(random.randint(len(self.digits)))
            digit = Image.fromarray(self.digits.images[index])
            pixels = np.asarray(digit.resize((size, size), Image.Resampling.BICUBIC))
            if self.binary:
                pixels = np.where(pixels >= _BINARY, 255, 0).astype(np.uint8)
            if not self.binary or 2 * np.count_nonzero(pixels) >= size:
                return Sprite(pixels, int(self.digits.labels[index]))
        raise ValueError(
            f"{_DRAWS} digits of {size} pixels in turn vanished when they were made binary. "
            "Take larger ones, or sprites=digits."
        )


class ShapeSprites:
    """White squares, ellipses and hearts, rotated, without antialiasing.

    Each is as large as fits a circle whose diameter is ``size``, whatever its angle: one of 40.
    """

    def draw(self, size: int, random: np.random.RandomState) -> Sprite:
        """A random shape at a random angle."""
        kind, angle = int(random.randint(len(SHAPES))), int(random.randint(_NUM_ANGLES))
        return Sprite(_shape(SHAPES[kind], size, angle), kind)


class PictureSprites:
    """Pictures of single objects on black, each a class of its own.

    Args:
        pictures: each ``uint8`` ``(h, w)`` or ``(h, w, 3)``.

    Raises:
        ValueError: if there is none.
    """

    def __init__(self, pictures: Sequence[NDArray[np.uint8]]) -> None:
        if not pictures:
            raise ValueError("sprites need at least one picture, got none.")
        self.pictures = list(pictures)
        self._resized: dict[tuple[int, int], NDArray[np.uint8]] = {}

    def draw(self, size: int, random: np.random.RandomState) -> Sprite:
        """A random picture, its longer side ``size`` pixels."""
        index = int(random.randint(len(self.pictures)))
        if (index, size) not in self._resized:
            picture = Image.fromarray(self.pictures[index])
            factor = size / max(picture.size)
            shape = tuple(max(1, round(side * factor)) for side in picture.size)
            self._resized[index, size] = np.asarray(
                picture.resize(shape, Image.Resampling.BICUBIC)  # type: ignore[arg-type]
            )
        return Sprite(self._resized[index, size], index)


@functools.lru_cache(maxsize=10_000)
def _shape(name: str, size: int, angle: int) -> NDArray[np.uint8]:
    """A shape within the unit circle, looked up at the centres of size times size pixels."""
    centres = (np.arange(size) + 0.5) / size * 2 - 1
    right, down = np.meshgrid(centres, centres)
    turn = 2 * np.pi * angle / _NUM_ANGLES
    x = np.cos(turn) * right + np.sin(turn) * down
    y = np.sin(turn) * right - np.cos(turn) * down
    if name == "square":
        inside = np.maximum(abs(x), abs(y)) <= np.sqrt(0.5)
    elif name == "ellipse":
        inside = x**2 + (2 * y) ** 2 <= 1
    else:
        # The curve x^2 + (y - sqrt(|x|))^2 = 1, whose least circle is of 1.376 around (0, 0.376).
        x, y = 1.376 * x, 1.376 * y + 0.376
        inside = x**2 + (y - np.sqrt(abs(x))) ** 2 <= 1
    pixels = np.where(inside, 255, 0).astype(np.uint8)
    pixels.flags.writeable = False  # it is shared by all who ask
    return pixels
