r"""The spatial transformer of AIR: place objects on a canvas, extract glimpses from it.

A pose ``z_where = (s, x, y)`` reads the object at :math:`s u + x` for a canvas coordinate
:math:`u \in [-1, 1]`: ``s > 1`` makes the object smaller than the canvas. The transform is
axis-aligned, so bilinear sampling is separable and becomes two small matrix products,

.. math:: \mathrm{out} = A_y \, \mathrm{in} \, A_x^\top ,

where ``A_x`` and ``A_y`` hold the hat function :math:`\max(0, 1 - |p - j|)` of the sampled
position ``p`` and the pixel ``j``. Equal to ``affine_grid`` and ``grid_sample`` with
``align_corners=False`` and zero padding (Jaderberg et al., 2015), but deterministic on
CUDA and quicker.
"""

from typing import Any

import torch
from torch import Tensor

__all__ = ["boxes_in_pixels", "extract_glimpses", "place_objects"]


def place_objects(objects: Tensor, z_where: Tensor, size: tuple[int, int]) -> Tensor:
    r"""Place decoded glimpses on blank canvases.

    .. math:: y(u, v) = g(s u + x,\; s v + y), \qquad u, v \in [-1, 1]

    The inverse of :func:`extract_glimpses`. Section 2.1 of Eslami et al. (2016).

    Args:
        objects: decoded glimpses, shape ``(*, C, h, w)``.
        z_where: pose ``(s, x, y)`` in canvas units, shape ``(*, 3)``.
        size: canvas height and width in pixels.

    Returns:
        Canvases, shape ``(*, C, H, W)``, zero outside the object.

    Raises:
        ValueError: if the shapes do not fit each other.
    """
    s, x, y = _split_pose(objects, z_where, "objects")
    return _resample(objects, scale=s, shift_x=x, shift_y=y, size=size)


def extract_glimpses(images: Tensor, z_where: Tensor, size: tuple[int, int]) -> Tensor:
    r"""Cut the patch at a pose out of each image.

    .. math:: g(p, q) = x\big((p - x) / s,\; (q - y) / s\big), \qquad p, q \in [-1, 1]

    The inverse of :func:`place_objects`. Section 2.1 of Eslami et al. (2016).

    Args:
        images: images or canvases, shape ``(*, C, H, W)``.
        z_where: pose ``(s, x, y)`` with ``s != 0`` in canvas units, shape ``(*, 3)``.
        size: glimpse height and width in pixels.

    Returns:
        Glimpses, shape ``(*, C, h, w)``; zero where the patch reaches outside the image.

    Raises:
        ValueError: if the shapes do not fit each other.
    """
    s, x, y = _split_pose(images, z_where, "images")
    inverse = s.reciprocal()
    return _resample(images, scale=inverse, shift_x=-x * inverse, shift_y=-y * inverse, size=size)


def boxes_in_pixels(z_where: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes of objects at their poses.

    Args:
        z_where: pose ``(s, x, y)`` with ``s > 0`` in canvas units, shape ``(*, 3)``.
        size: canvas height and width in pixels.

    Returns:
        ``(x_min, y_min, x_max, y_max)``, shape ``(*, 4)``, in pixels from the canvas' upper left
        corner. Coordinates are of edges: a box of the whole canvas is ``(0, 0, W, H)``. They are
        not cut at the canvas' edge.
    """
    height, width = size
    s, x, y = z_where.unbind(dim=-1)
    corners = [(-1 - x) / s, (-1 - y) / s, (1 - x) / s, (1 - y) / s]
    pixels = z_where.new_tensor([width, height, width, height])
    return (torch.stack(corners, dim=-1) + 1) / 2 * pixels


def _split_pose(images: Tensor, z_where: Tensor, name: str) -> tuple[Tensor, Tensor, Tensor]:
    if images.dim() < 3 or z_where.dim() < 1 or z_where.shape[-1] != 3:
        raise ValueError(
            f"{name} must have shape (*, C, height, width) and z_where (*, 3), "
            f"got {tuple(images.shape)} and {tuple(z_where.shape)}."
        )
    if images.shape[:-3] != z_where.shape[:-1]:
        raise ValueError(
            f"{name} and z_where must have the same leading shape, "
            f"got {tuple(images.shape[:-3])} and {tuple(z_where.shape[:-1])}. "
            "Expand one of them to the other's."
        )
    s, x, y = z_where.unbind(dim=-1)
    return s, x, y


def _resample(
    images: Tensor, *, scale: Tensor, shift_x: Tensor, shift_y: Tensor, size: tuple[int, int]
) -> Tensor:
    """Read ``images`` at ``scale * u + shift`` for the pixel centres ``u`` of a new grid."""
    channels, height, width = images.shape[-3:]
    a_y = _HatMatrix.apply(scale, shift_y, size[0], height)
    a_x = _HatMatrix.apply(scale, shift_x, size[1], width)
    if channels == 1:  # one product for all channels would need no extra axis: skip it
        out = a_y @ images.squeeze(-3) @ a_x.mT
        return out.unsqueeze(-3)
    return a_y.unsqueeze(-3) @ images @ a_x.mT.unsqueeze(-3)


class _HatMatrix(torch.autograd.Function):
    """Rows of bilinear weights: ``A[i, j] = max(0, 1 - |position_i - j|)``.

    Written by hand because autograd would keep and revisit five tensors as large as ``A``. Its
    derivative needs only the two neighbours of each position.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(scale: Tensor, shift: Tensor, num_out: int, num_in: int) -> Tensor:
        pixels = torch.arange(num_in, device=scale.device, dtype=scale.dtype)
        distance = (_positions(scale, shift, num_out, num_in).unsqueeze(-1) - pixels).abs()
        return (1 - distance).clamp(min=0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, int, int], output: Tensor) -> None:
        scale, shift, ctx.num_out, ctx.num_in = inputs
        ctx.save_for_backward(scale, shift)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        scale, shift = ctx.saved_tensors
        num_in = ctx.num_in
        lower = _positions(scale, shift, ctx.num_out, num_in).floor()
        # A position moves weight from its lower to its upper neighbour; outside the image
        # there is none to give or to take.
        below, above = (
            grad.gather(-1, index.clamp(0, num_in - 1).long().unsqueeze(-1)).squeeze(-1)
            * ((index >= 0) & (index < num_in))
            for index in (lower, lower + 1)
        )
        grad_position = (above - below) * (num_in / 2)
        centres = _pixel_centres(ctx.num_out, scale)
        return (grad_position * centres).sum(dim=-1), grad_position.sum(dim=-1), None, None


def _positions(scale: Tensor, shift: Tensor, num_out: int, num_in: int) -> Tensor:
    """Where each output pixel reads, in units of input pixels: ``(*, num_out)``."""
    # (coordinate + 1) * num_in / 2 - 1/2: pixel centres have whole numbers as positions.
    half = num_in / 2
    centres = _pixel_centres(num_out, scale) * half
    return scale.unsqueeze(-1) * centres + (shift.unsqueeze(-1) * half + (half - 0.5))


def _pixel_centres(number: int, like: Tensor) -> Tensor:
    """Coordinates in [-1, 1] of the centres of ``number`` pixels."""
    index = torch.arange(number, device=like.device, dtype=like.dtype)
    return (2 * index + 1) / number - 1
