"""What AIR is shown: digits to drag, and images that somebody drops on the page."""

import io
import tempfile
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from air import AIRConfig
from air.images import (
    Preparation,
    as_float,
    bright_on_dark,
    raw_float,
    read_image,
    to_channels,
)
from experiments.datasets import Digits

__all__ = ["Prepared", "Sprite", "choose_sprites", "prepare_image", "read_bytes"]

MOST_PIXELS = 16_000_000
"""Of an image that is dropped: a camera's photograph has fewer."""
_SIZE = 1.26
"""A digit's side with its black margin, in widths of the model's typical object: as in
multi-mnist, where 21 pixels go with a scale of 3 on a canvas of 50."""
_SPREAD = 0.08
"""Standard deviation of a digit's size, relative, as in multi-mnist."""
_BLACK = 0.05
"""A background at most this bright is taken for black."""


class Sprite(NamedTuple):
    """A digit of the size that goes with a model."""

    label: int
    """0 to 9."""
    pixels: NDArray[np.uint8]
    """White on black, ``(s, s)``."""


class Prepared(NamedTuple):
    """An image on a model's canvas."""

    pixels: Tensor
    """uint8, ``(C, H, W)``."""
    notice: str
    """What was done to it; empty if nothing was."""


def choose_sprites(digits: Digits, config: AIRConfig, seed: int) -> list[Sprite]:
    """One digit of each kind, at random, resized as the data sets are.

    Args:
        digits: to choose from; a kind that is not there is left out.
        config: of the model.
        seed: decides on everything.
    """
    random = np.random.default_rng(seed)
    shorter_side = min(config.canvas_size)
    typical = _SIZE * shorter_side / config.z_where_mean[0]
    sprites = []
    for label in range(10):
        indices = np.flatnonzero(digits.labels == label)
        if not len(indices):
            continue
        digit = Image.fromarray(digits.images[random.choice(indices)])
        size = round(typical / max(1 + _SPREAD * random.standard_normal(), 0.5))
        side = min(max(size, 1), shorter_side)
        small = digit.resize((side, side), Image.Resampling.NEAREST)
        sprites.append(Sprite(label, np.asarray(small)))
    return sprites


def read_bytes(content: bytes) -> Tensor:
    """An image from a file's content, as :func:`air.images.read_image` reads files.

    Raises:
        ValueError: if it is no image that can be read.
    """
    if not content:
        raise ValueError("The file is empty.")
    _check_pixels(content)
    with tempfile.TemporaryDirectory(prefix="air-demo-") as folder:
        path = Path(folder) / "image"
        path.write_bytes(content)
        try:
            return read_image(path)
        except Exception as error:  # Pillow's readers fail in many ways on files made to fail
            cause = error.__cause__ or error
            reason = str(cause).replace(str(path), "file") or type(cause).__name__
    if isinstance(cause, UnidentifiedImageError):
        raise ValueError("This is no image of a kind that is known, such as PNG or JPEG.")
    raise ValueError(f"The image cannot be read: {reason.rstrip('.')}.")


def _check_pixels(content: bytes) -> None:
    """Refuse an image of too many pixels by its header: a small file can unpack to any number."""
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(content)) as image:
            width, height = image.size
    except Exception:  # the reader says it better
        return
    if width * height > MOST_PIXELS:
        raise ValueError(
            f"The image has {width} x {height} pixels, more than the "
            f"{MOST_PIXELS // 10**6} million that are read here. Make it smaller."
        )


def prepare_image(image: Tensor, config: AIRConfig, preparation: Preparation) -> Prepared:
    """Put an image on a model's canvas.

    Done as the model's own preparation says. Where that does nothing, a background that is not
    black is subtracted, so that ink on paper becomes what such a model knows: bright on black.

    Args:
        image: uint8 or uint16, ``(C, h, w)`` with C of 1, 3 or 4.
        config: of the model.
        preparation: of the model.

    Raises:
        ValueError: if there is nothing in it but a background that is not black.
    """
    as_is = preparation == Preparation()
    pixels = to_channels(as_float(image) if as_is else raw_float(image), config.channels)
    done = []
    if as_is:
        pixels, doubt = bright_on_dark(pixels)
        if doubt and not pixels.any():
            raise ValueError("There is nothing in this image: it is of one plain colour.")
        if doubt:
            done.append("Its background is not black: it was subtracted.")
    canvas, frame = preparation.prepare(pixels, config)
    if (frame.rows, frame.columns) != (frame.height, frame.width):
        done.append(
            f"Resized from {frame.width} x {frame.height} to {frame.columns} x {frame.rows} pixels."
        )
    return Prepared((canvas * 255).round().to(torch.uint8), " ".join(done))
