"""Where each step of the inference network looks, over many images."""

import torch
from torch import Tensor

__all__ = ["look_map"]


def look_map(boxes: Tensor, num_objects: Tensor, size: tuple[int, int]) -> Tensor:
    r"""How often each pixel lies in the box of each step.

    .. math:: m_t(v, u) = \frac{1}{|\{b : n_b \ge t\}|} \sum_{b : n_b \ge t} a_{bt}(v, u)

    with :math:`a_{bt}` the share of the pixel's area that the box covers. Each step has a mean
    over the images in which its object was found, so that a rare third object is seen as well as
    the first one.

    Args:
        boxes: edges in pixels, shape ``(B, T, 4)``; they may reach outside the image.
        num_objects: objects found, shape ``(B,)``. Boxes from there on may be NaN.
        size: height and width of the image in pixels.

    Returns:
        Shares in [0, 1], shape ``(T, H, W)``; NaN for a step that found no object in any image.

    Raises:
        ValueError: if the shapes do not fit each other, or a box that counts is not finite.
    """
    if boxes.dim() != 3 or boxes.shape[-1] != 4 or num_objects.shape != boxes.shape[:1]:
        raise ValueError(
            "boxes must have shape (B, T, 4) and num_objects (B,), "
            f"got {tuple(boxes.shape)} and {tuple(num_objects.shape)}."
        )
    present = torch.arange(boxes.shape[1], device=boxes.device) < num_objects[:, None]
    if not boxes[present].isfinite().all():
        raise ValueError("a box before an image's num_objects is not finite.")
    x_min, y_min, x_max, y_max = boxes.masked_fill(~present[..., None], 0.0).unbind(dim=-1)
    # A box is separable: what it covers of a pixel is what it covers of its column and its row.
    columns = _covered(x_min, x_max, size[1])
    rows = _covered(y_min, y_max, size[0])
    return torch.einsum("bth,btw->thw", rows, columns) / present.sum(dim=0)[:, None, None]


def _covered(low: Tensor, high: Tensor, length: int) -> Tensor:
    """The share of each of ``length`` pixels between two edges: ``(B, T, length)``."""
    left = torch.arange(length, device=low.device, dtype=low.dtype)
    start = torch.maximum(low[..., None], left)
    end = torch.minimum(high[..., None], left + 1)
    return (end - start).clamp(min=0.0)
