"""The size of objects in a data set's images, without labels."""

import torch
from torch import Tensor

from air.object_size import ObjectSize, estimate_object_size

__all__ = ["MAX_IMAGES", "estimate"]

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
