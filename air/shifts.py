r"""Inference from a shifted view: the image moved by some pixels, and what is read moved back.

:math:`q(n, z \mid x)` is amortised: one pass of a network, which at times cuts a digit in two or
takes two for one. The network looks at where things are, so that the same image moved by a few
pixels is another chance. For every shift :math:`d`, the posterior of the moved image, moved back,

.. math:: q_d(n, z \mid x) = q\big(n, \mathrm{move}_d(z) \mid \mathrm{move}_d(x)\big) ,

is a posterior of :math:`x` itself, and its ELBO a lower bound of the same log p(x). So the bounds
say which to believe: :meth:`air.model.AIR.infer` keeps, for each image, the shift with the highest
ELBO. As the choice depends on :math:`x` alone, the posterior it makes is a posterior too. No label
is looked at. (Test-time augmentation, with the bound as the judge.)
"""

import dataclasses

import torch
from torch import Tensor

from air.types import Rollout

__all__ = ["move_back", "move_images", "shift_grid"]


def shift_grid(max_shift: int, *, per_side: int = 2) -> Tensor:
    """Shifts to choose from: a square grid around no shift at all, which comes first.

    Args:
        max_shift: by how many pixels the outermost move, along each axis.
        per_side: grid lines on each side of the middle; fewer where pixels are.

    Returns:
        ``(down, right)`` in pixels, int64 ``(S, 2)``.

    Raises:
        ValueError: if ``max_shift`` is negative or ``per_side`` below 1.
    """
    if max_shift < 0 or per_side < 1:
        raise ValueError(
            f"max_shift must be at least 0 and per_side at least 1, got {max_shift} and {per_side}."
        )
    lines = sorted({round(max_shift * side / per_side) for side in range(-per_side, per_side + 1)})
    grid = sorted(((row, column) for row in lines for column in lines), key=_distance)
    return torch.tensor(grid, dtype=torch.int64)


def move_images(images: Tensor, shifts: Tensor) -> Tensor:
    """Move each image by its shift; what comes in from outside is 0.

    Args:
        images: ``(B, C, H, W)``.
        shifts: ``(down, right)`` in pixels, int64 ``(B, 2)``.
    """
    for axis, steps in zip((-2, -1), shifts.unbind(dim=-1), strict=True):
        length = images.shape[axis]
        source = torch.arange(length, device=images.device) - steps[:, None]  # (B, length)
        shape = [len(images), 1, 1, 1]
        shape[axis] = length
        inside = ((source >= 0) & (source < length)).view(shape)
        index = source.clamp(0, length - 1).view(shape).expand_as(images)
        images = images.gather(axis, index) * inside
    return images


def move_back(rollout: Rollout, shifts: Tensor, size: tuple[int, int]) -> Rollout:
    r"""The rollout of moved images, with its poses where the images were before.

    An object is read at :math:`s u + x` for a canvas coordinate :math:`u` (see
    :mod:`air.spatial_transformer`). Moving the image by :math:`d` makes :math:`u + d` of
    :math:`u`, so that back means :math:`x + s d`, with the mean of :math:`s`: a change of
    variables that leaves every density as it is.

    Args:
        rollout: of moved images, ``(K, B, T)``.
        shifts: by which they were moved, ``(down, right)`` in pixels, int64 ``(B, 2)``.
        size: height and width of the canvas in pixels.
    """
    mean = rollout.z_where_mean
    height, width = size
    # The canvas is two units long, and a pose holds (s, x, y): x goes to the right.
    units = shifts.flip(-1) * (2 / mean.new_tensor([width, height]))
    back = mean[..., :1] * units[:, None]
    back = torch.cat([torch.zeros_like(back[..., :1]), back], dim=-1)
    return dataclasses.replace(rollout, z_where=rollout.z_where + back, z_where_mean=mean + back)


def _distance(shift: tuple[int, int]) -> int:
    return shift[0] ** 2 + shift[1] ** 2
