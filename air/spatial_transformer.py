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
import torch.nn.functional as F
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
    out, *_ = _Resample.apply(
        images.reshape(-1, *images.shape[-3:]),
        scale.reshape(-1),
        shift_x.reshape(-1),
        shift_y.reshape(-1),
        size,
    )
    return out.view(*images.shape[:-3], *out.shape[1:])


class _Resample(torch.autograd.Function):
    """Bilinear sampling as two batched matrix products, and its derivatives.

    Written by hand because autograd would keep and revisit five tensors as large as the weights,
    though their derivative needs only the two neighbours of each position.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        images: Tensor, scale: Tensor, shift_x: Tensor, shift_y: Tensor, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The samples, and what the derivatives need."""
        a_x = _hat_matrix(scale, shift_x, size[1], images.shape[-1])
        a_y = _hat_matrix(scale, shift_y, size[0], images.shape[-2])
        rows = a_y.unsqueeze(1) @ images
        return rows @ a_x.mT.unsqueeze(1), rows, a_x, a_y

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        images, scale, shift_x, shift_y, _ = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(images, scale, shift_x, shift_y, *output[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        if grad is None:  # the samples were not used
            return None, None, None, None, None
        images, scale, shift_x, shift_y, rows, a_x, a_y = ctx.saved_tensors
        grad_rows = grad @ a_x.unsqueeze(1)
        grad_images = a_y.mT.unsqueeze(1) @ grad_rows if ctx.needs_input_grad[0] else None
        grad_a_x = _sum_channels(grad.mT @ rows)
        grad_a_y = _sum_channels(grad_rows @ images.mT)
        scale_x, grad_shift_x = _hat_matrix_backward(grad_a_x, scale, shift_x)
        scale_y, grad_shift_y = _hat_matrix_backward(grad_a_y, scale, shift_y)
        return grad_images, scale_x + scale_y, grad_shift_x, grad_shift_y, None


def _hat_matrix(scale: Tensor, shift: Tensor, num_out: int, num_in: int) -> Tensor:
    """Rows of bilinear weights, ``max(0, 1 - |position_i - j|)``: ``(N, num_out, num_in)``."""
    position = _positions(scale, shift, num_out, num_in).unsqueeze(-1)
    weights = position - torch.arange(num_in, device=scale.device, dtype=scale.dtype)
    return weights.abs_().neg_().add_(1).relu_()


def _hat_matrix_backward(grad: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Derivatives by scale and shift, each ``(N,)``, from ``(N, num_out, num_in)``."""
    num_out, num_in = grad.shape[-2:]
    lower = _positions(scale, shift, num_out, num_in).floor_()
    # A position moves weight from its lower to its upper neighbour. Outside the image there is
    # none to give or to take: two columns of zeros on either side stand for it.
    padded = F.pad(grad, (2, 2))
    # Clamped as whole numbers: a NaN, too, must not read outside of the matrix.
    index = (lower + 2).long().clamp(0, num_in + 2).unsqueeze(-1)
    neighbours = padded.gather(-1, torch.cat([index, index + 1], dim=-1))
    grad_position = (neighbours[..., 1] - neighbours[..., 0]) * (num_in / 2)
    return grad_position @ _pixel_centres(num_out, scale), grad_position.sum(dim=-1)


def _sum_channels(grad: Tensor) -> Tensor:
    return grad.squeeze(1) if grad.shape[1] == 1 else grad.sum(dim=1)


def _positions(scale: Tensor, shift: Tensor, num_out: int, num_in: int) -> Tensor:
    """Where each output pixel reads, in units of input pixels: ``(N, num_out)``."""
    # (coordinate + 1) * num_in / 2 - 1/2: pixel centres have whole numbers as positions.
    half = num_in / 2
    centres = _pixel_centres(num_out, scale) * half
    return torch.addcmul((shift * half + (half - 0.5)).unsqueeze(-1), scale.unsqueeze(-1), centres)


def _pixel_centres(number: int, like: Tensor) -> Tensor:
    """Coordinates in [-1, 1] of the centres of ``number`` pixels."""
    last = 1 - 1 / number
    return torch.linspace(-last, last, number, device=like.device, dtype=like.dtype)
