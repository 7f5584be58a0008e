"""More training scenes from those there are, without labels."""

import torch
from torch import Tensor

__all__ = ["translate"]


def translate(images: Tensor) -> Tensor:
    """Move what each image shows to a random place where all of it still fits.

    What it shows is the smallest rectangle that holds every pixel above 0, so that this is of use
    on a black background only; elsewhere nothing moves. Places are drawn uniformly, by PyTorch's
    random numbers.

    Args:
        images: uint8 or float, ``(B, C, H, W)``.

    Returns:
        Images of the same shape and type.
    """
    down, right = (_offsets(images.amax((-3, -1))), _offsets(images.amax((-3, -2))))
    height, width = images.shape[-2:]
    rows = (torch.arange(height, device=images.device) - down.unsqueeze(-1)) % height
    columns = (torch.arange(width, device=images.device) - right.unsqueeze(-1)) % width
    moved = images.gather(-2, rows[:, None, :, None].expand_as(images))
    return moved.gather(-1, columns[:, None, None, :].expand_as(images))


def _offsets(brightest: Tensor) -> Tensor:
    """By how much to move along one axis: int64 ``(B,)``.

    Args:
        brightest: brightest pixel of each row or column, ``(B, N)``.
    """
    length = brightest.shape[-1]
    lit = (brightest > 0).int()
    any_lit = lit.amax(-1) > 0
    first = lit.argmax(-1)
    last = torch.where(any_lit, length - 1 - lit.flip(-1).argmax(-1), length - 1)
    places = length - (last - first)  # a blank image stays where it is: all of it is taken
    drawn = torch.rand(first.shape, device=brightest.device) * places
    # Rounding up to the number of places itself would push the last row over the edge.
    return torch.minimum(drawn.long(), places - 1) - first
