"""Walks through the latents: what changes in the picture when one of them does."""

import torch
from torch import Tensor

from air.model import AIR
from air.spatial_transformer import place_objects

__all__ = ["walk_z_what", "walk_z_where"]


@torch.no_grad()
def walk_z_what(model: AIR, start: Tensor, end: Tensor, *, num: int = 9) -> Tensor:
    """Objects on the straight line from one appearance to another.

    Args:
        model: whose decoder is shown.
        start: appearances to begin with, shape ``(R, D)``.
        end: appearances to end with, shape ``(R, D)``.
        num: how many objects a walk has, both ends included; at least 2.

    Returns:
        Decoded glimpses in [0, 1], shape ``(R, num, C, h, w)``.

    Raises:
        ValueError: if the shapes do not fit, or there are fewer than two objects.
    """
    size = model.config.z_what_size
    if start.dim() != 2 or start.shape != end.shape or start.shape[1] != size:
        raise ValueError(
            f"start and end must have shape (R, D) with D = {size} for this model, "
            f"got {tuple(start.shape)} and {tuple(end.shape)}."
        )
    _check_num(num)
    share = torch.linspace(0, 1, num, device=start.device, dtype=start.dtype)[:, None]
    return model.generative.decoder(torch.lerp(start[:, None], end[:, None], share))


@torch.no_grad()
def walk_z_where(
    model: AIR,
    z_what: Tensor,
    *,
    z_where: Tensor | None = None,
    num: int = 9,
    spread: float = 2.0,
) -> Tensor:
    """One object, its scale and its place changed one after the other.

    The scale goes from large to small (its number grows), x from right to left and y from the
    bottom to the top, each from ``spread`` standard deviations of its prior below the pose to as
    many above it. Places are kept to where the object's middle is on the canvas.

    Args:
        model: whose decoder and prior are used.
        z_what: appearance of the object, shape ``(D,)``.
        z_where: pose ``(s, x, y)`` in the middle of each walk, shape ``(3,)``; default: the
            prior's mean.
        num: how many canvases a walk has; at least 2.
        spread: how far to go, in standard deviations of the prior.

    Returns:
        Canvases, shape ``(3, num, C, H, W)``: the walk of the scale, of x, of y.

    Raises:
        ValueError: if the shapes do not fit, or there are fewer than two canvases.
    """
    size = model.config.z_what_size
    if z_what.shape != (size,):
        raise ValueError(
            f"z_what must have shape (D,) with D = {size} for this model, "
            f"got {tuple(z_what.shape)}."
        )
    _check_num(num)
    prior = model.prior().z_where
    middle = prior.loc if z_where is None else z_where
    if middle.shape != (3,):
        raise ValueError(f"z_where must have shape (3,), got {tuple(middle.shape)}.")
    sd = prior.scale.expand(3)
    poses = middle.repeat(3, num, 1)
    for axis in range(3):
        low, high = (float(middle[axis] + sign * spread * sd[axis]) for sign in (-1, 1))
        if axis == 0:
            low = max(low, model.inference.min_scale)
        else:
            # At x = -s and x = s the object's middle is on the canvas' edge.
            low, high = max(low, -float(middle[0])), min(high, float(middle[0]))
        poses[axis, :, axis] = torch.linspace(low, high, num).to(poses)
    glimpse = model.generative.decoder(z_what)
    glimpses = glimpse.expand(3, num, *glimpse.shape)
    return place_objects(glimpses, poses, model.config.canvas_size)


def _check_num(num: int) -> None:
    if num < 2:
        raise ValueError(f"num must be at least 2, a walk's beginning and end, got {num}.")
