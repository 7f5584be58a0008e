"""From the size of objects to the prior of their scale.

An object whose pose has the scale s covers canvas / s pixels. A glimpse should hold an object and a
little around it, so

    s = shorter side of the canvas / (1.1 * longer side of the object)

with the median object's size, which gives 3.0 for the digits of ``multi-mnist``, some 15 of 50
pixels, and 4.5 for binary digits of 18x18 pixels in 64, whose strokes span 13. The prior's standard
deviation is what the spread of the sizes makes of it, at least 0.2, at most a third of s.
"""

import torch
from torch import Tensor

from air.object_size import ObjectSize, estimate_object_size

__all__ = ["LEAST_SD", "MARGIN", "MAX_IMAGES", "estimate", "scale_prior"]

MARGIN = 1.1
"""Pixels of a glimpse for each of the object's longer side."""

LEAST_SD = 0.2
"""Of s: what is known to work where all objects are of about one size."""

MAX_IMAGES = 500
"""As many are looked at, evenly chosen."""


def estimate(images: Tensor) -> ObjectSize:
    """Estimate how large objects are, without labels: see :mod:`air.object_size` for the rule.

    Args:
        images: uint8 or float in [0, 1], ``(N, C, H, W)``.

    Raises:
        ValueError: if no object stands out from the background.
    """
    rows = torch.linspace(0, len(images) - 1, min(len(images), MAX_IMAGES)).long()
    return estimate_object_size(images[rows])


def scale_prior(canvas: tuple[int, int], size: float, spread: float = 0.0) -> tuple[float, float]:
    """Prior mean and standard deviation of s.

    Args:
        canvas: height and width in pixels.
        size: longer side of a typical object in pixels.
        spread: its standard deviation in pixels.

    Raises:
        ValueError: if the size is not above 0.
    """
    if not size > 0:
        raise ValueError(f"an object's size must be above 0 pixels, got {size}.")
    mean = min(canvas) / (MARGIN * size)
    sd = max(LEAST_SD, min(mean * spread / size, mean / 3))
    return round(mean, 2), round(sd, 2)
