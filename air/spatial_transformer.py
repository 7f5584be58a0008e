r"""The spatial transformer of AIR: place objects on a canvas, extract glimpses from it.

A pose ``z_where = (s, x, y)`` reads the object at :math:`s u + x` for a canvas coordinate
:math:`u \in [-1, 1]`: ``s > 1`` makes the object smaller than the canvas. The transform is
axis-aligned, so bilinear sampling is separable and becomes two small matrix products,

.. math:: \mathrm{out} = A_y \, \mathrm{in} \, A_x^\top ,

where ``A_x`` and ``A_y`` hold the hat function :math:`\max(0, 1 - |p - j|)` of the sampled
position ``p`` and the pixel ``j``. Equal to ``affine_grid`` and ``grid_sample`` with
``align_corners=False`` and zero padding (Jaderberg et al., 2015), but deterministic on
CUDA, and quicker where the output is the larger of the two: the few pixels of a glimpse
are read point by point on CPUs.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from air.functional import product_dtype

__all__ = ["boxes_in_pixels", "extract_glimpses", "extract_several", "place_objects"]


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
    _check_shapes(objects, z_where, "objects")
    return _resample(objects, z_where, size)


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
    _check_shapes(images, z_where, "images")
    if images.device.type == "cpu":
        return _read_points(images, z_where, size)
    scale, shift = z_where.split([1, 2], dim=-1)
    return _resample(images, torch.cat([torch.ones_like(scale), -shift], dim=-1) / scale, size)


def extract_several(images: Tensor, z_where: Tensor, size: tuple[int, int]) -> Tensor:
    """Cut several patches out of each image, as :func:`extract_glimpses` does one.

    The image is not copied for each of its patches.

    Args:
        images: images or canvases, shape ``(*, C, H, W)``.
        z_where: M poses ``(s, x, y)`` with ``s != 0`` in canvas units, shape ``(*, M, 3)``.
        size: glimpse height and width in pixels.

    Returns:
        Glimpses, shape ``(*, M, C, h, w)``; zero where a patch reaches outside the image.

    Raises:
        ValueError: if the shapes do not fit each other.
    """
    num_patches = z_where.shape[-2] if z_where.dim() > 1 else 0
    if num_patches == 1:
        return extract_glimpses(images.unsqueeze(-4), z_where, size)
    if z_where.dim() < 2 or images.shape[:-3] != z_where.shape[:-2]:
        raise ValueError(
            f"images must have shape (*, C, height, width) and z_where (*, M, 3), "
            f"got {tuple(images.shape)} and {tuple(z_where.shape)}."
        )
    grid = _sampling_grid(z_where, size).view(-1, num_patches * size[0], size[1], 2)
    flat = F.grid_sample(images.reshape(-1, *images.shape[-3:]), grid, align_corners=False)
    patches = flat.unflatten(-2, (num_patches, size[0])).movedim(-3, -4)
    return patches.unflatten(0, images.shape[:-3])


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


def _check_shapes(images: Tensor, z_where: Tensor, name: str) -> None:
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


def _read_points(images: Tensor, z_where: Tensor, size: tuple[int, int]) -> Tensor:
    """:func:`extract_glimpses`, one pixel of the glimpse after another."""
    grid = _sampling_grid(z_where, size)
    glimpses = F.grid_sample(images.reshape(-1, *images.shape[-3:]), grid, align_corners=False)
    return glimpses.view(*images.shape[:-2], *size)


def _sampling_grid(z_where: Tensor, size: tuple[int, int]) -> Tensor:
    """Where each pixel of a glimpse is read, ``(x, y)`` in [-1, 1]: ``(N, h, w, 2)``."""
    height, width = size
    s, x, y = z_where.reshape(-1, 3).split(1, dim=-1)
    columns = ((_pixel_centres(width, s) - x) / s).unsqueeze(-2).expand(-1, height, width)
    rows = ((_pixel_centres(height, s) - y) / s).unsqueeze(-1).expand(-1, height, width)
    return torch.stack([columns, rows], dim=-1)


def _resample(images: Tensor, pose: Tensor, size: tuple[int, int]) -> Tensor:
    """Read ``images`` at ``s * u + (x, y)`` for the pixel centres ``u`` of a new grid."""
    flat = images.reshape(-1, *images.shape[-3:])
    out, *_ = _Resample.apply(flat, pose.reshape(-1, 3), size, product_dtype(images))
    return out.view(*images.shape[:-2], *size)


class _Resample(torch.autograd.Function):
    """Bilinear sampling as two batched matrix products, and its derivatives.

    Written by hand because autograd would keep and revisit five tensors as large as the weights,
    though their derivative needs only the two neighbours of each position.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        images: Tensor, pose: Tensor, size: tuple[int, int], dtype: torch.dtype
    ) -> tuple[Tensor, ...]:
        """The samples, and what the derivatives need."""
        a_x, a_y = (weights.to(dtype) for weights in _weights(pose, size, images.shape[-2:]))
        # Along x first: the fewer products where the output is the larger. Channels are rows here.
        columns = torch.bmm(images.flatten(1, 2).to(dtype), a_x.mT)
        out = _along_y(a_y, columns).to(images.dtype)
        return out.view(*images.shape[:2], *size), columns, a_x, a_y

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        images, pose, *_ = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(images, pose, *output[1:])

    @staticmethod
    @once_differentiable  # its own derivative would be wrong: better an error
    def backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        if grad is None:  # the samples were not used
            return None, None, None, None
        images, pose, columns, a_x, a_y = ctx.saved_tensors
        rows = grad.flatten(1, 2).to(a_x.dtype)
        grad_columns = _along_y(a_y.mT, rows)
        grad_images = None
        if ctx.needs_input_grad[0]:
            grad_images = torch.bmm(grad_columns, a_x).view(images.shape).to(images.dtype)
        grad_a_x = torch.bmm(grad_columns.mT, images.flatten(1, 2).to(a_x.dtype))
        channels = (images.shape[1], -1)
        grad_a_y = rows.unflatten(1, channels) @ columns.unflatten(1, channels).mT
        grad_a_y = grad_a_y.squeeze(1) if images.shape[1] == 1 else grad_a_y.sum(dim=1)
        return grad_images, _weights_backward(grad_a_x, grad_a_y, pose), None, None


def _along_y(weights: Tensor, images: Tensor) -> Tensor:
    """``weights @ channel`` for each channel: ``(N, C * H, W)`` from ``(N, C * h, W)``."""
    height = weights.shape[-1]
    if images.shape[1] == height:  # one channel
        return torch.bmm(weights, images)
    return (weights.unsqueeze(1) @ images.unflatten(1, (-1, height))).flatten(1, 2)


def _weights(pose: Tensor, size: tuple[int, int], source: torch.Size) -> list[Tensor]:
    """``A_x`` and ``A_y``: bilinear weights, each ``(N, num_out, num_in)``."""
    weights: list[Tensor] = []
    for axes, num_out, num_in in _axes(*size, *source):
        position = _positions(pose, axes, num_out, num_in).unsqueeze(-1)
        distance = position - torch.arange(num_in, device=pose.device, dtype=pose.dtype)
        weights += (1 - distance.abs_()).relu_().unbind(dim=1)
    return weights


def _weights_backward(grad_a_x: Tensor, grad_a_y: Tensor, pose: Tensor) -> Tensor:
    """Derivative by the pose, ``(N, 3)``."""
    grads = [grad_a_x, grad_a_y]
    (width, in_width), (height, in_height) = grad_a_x.shape[-2:], grad_a_y.shape[-2:]
    grad_scale, grad_shifts = [], []
    for axes, num_out, num_in in _axes(height, width, in_height, in_width):
        grad = torch.stack(grads[axes.start - 1 : axes.stop - 1], dim=1)
        # A position moves weight from its lower to its upper neighbour. Outside the image there
        # is none to give or to take: two columns of zeros on either side stand for it.
        padded = F.pad(grad, (2, 2))
        lower = _positions(pose, axes, num_out, num_in).floor_()
        # Clamped as whole numbers: a NaN, too, must not read outside of the matrix.
        index = lower.long().clamp(-2, num_in).unsqueeze(-1) + 2
        neighbours = padded.gather(-1, torch.cat([index, index + 1], dim=-1)).to(pose.dtype)
        grad_position = (neighbours[..., 1] - neighbours[..., 0]) * (num_in / 2)
        grad_shifts.append(grad_position.sum(dim=-1))
        grad_scale.append((grad_position @ _pixel_centres(num_out, pose)).sum(dim=1, keepdim=True))
    return torch.cat([sum(grad_scale[1:], start=grad_scale[0]), *grad_shifts], dim=1)


def _axes(height: int, width: int, in_height: int, in_width: int) -> list[tuple[slice, int, int]]:
    """Where the shifts of axes of equal sizes stand in a pose, and these sizes."""
    if height == width and in_height == in_width:  # both at once
        return [(slice(1, 3), width, in_width)]
    return [(slice(1, 2), width, in_width), (slice(2, 3), height, in_height)]


def _positions(pose: Tensor, axes: slice, num_out: int, num_in: int) -> Tensor:
    """Where each output pixel reads, in units of input pixels: ``(N, axes, num_out)``."""
    # (coordinate + 1) * num_in / 2 - 1/2: pixel centres have whole numbers as positions.
    half = num_in / 2
    shift = torch.add(pose[:, axes] * half, half - 0.5).unsqueeze(-1)
    return torch.addcmul(shift, pose[:, :1].unsqueeze(-1), _pixel_centres(num_out, pose) * half)


def _pixel_centres(number: int, like: Tensor) -> Tensor:
    """Coordinates in [-1, 1] of the centres of ``number`` pixels."""
    last = 1 - 1 / number
    return torch.linspace(-last, last, number, device=like.device, dtype=like.dtype)
