"""Pictures larger than a canvas: cut into overlapping tiles, and what is seen in them joined.

Tiles overlap by at least the box of a large object, so that every object lies whole in one of them.
An object that two tiles show is counted once: as the one farther from the edges of its tile saw it.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Tile", "cut_tiles", "merge_counts", "merge_detections", "random_tiles", "tile_starts"]

_SAME_CENTRE = 0.5
"""Boxes whose centres are closer than this share of their mean longer side are one object's. The
centres of two objects of one size that touch are a whole side apart."""
_SAME_AREA = 0.5
"""So are boxes that share this part of the smaller one: an object and what a tile's edge left."""
_RIM = 0.15
"""Of a longer side, around a box."""
_NEGLIGIBLE = 1e-6
"""Probability below which large counts are left out."""


class Tile(NamedTuple):
    """A part of a picture."""

    top: int
    """Its first row in the picture."""
    left: int
    """Its first column in the picture."""
    pixels: Tensor
    """``(C, H, W)``, of the canvas' size."""


def tile_starts(length: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin along one axis, evenly spread: at least so much overlap, none outside.

    >>> tile_starts(100, 64, 20)
    [0, 36]
    >>> tile_starts(64, 64, 20)
    [0]

    Raises:
        ValueError: if the overlap is negative or leaves no step.
    """
    if not 0 <= overlap < tile:
        raise ValueError(f"overlap must be at least 0 and below the tile's {tile}, got {overlap}.")
    if length <= tile:
        return [0]
    steps = -(-(length - tile) // (tile - overlap))
    return [(length - tile) * step // steps for step in range(steps + 1)]


def cut_tiles(picture: Tensor, size: tuple[int, int], overlap: int) -> Iterator[Tile]:
    """Cut a picture into tiles, row by row.

    Args:
        picture: ``(C, H, W)``, at least as large as a tile.
        size: height and width of a tile.
        overlap: of neighbouring tiles, in pixels, at least.
    """
    height, width = size
    for top in tile_starts(picture.shape[1], height, overlap):
        for left in tile_starts(picture.shape[2], width, overlap):
            yield Tile(top, left, picture[:, top : top + height, left : left + width])


def random_tiles(
    picture: Tensor,
    size: tuple[int, int],
    number: int,
    generator: torch.Generator | None = None,
    *,
    tries: int = 8,
) -> Iterator[Tile]:
    """Tiles to train on, whose edges cut few objects.

    Every second one holds a lit pixel, drawn at random, if there is one: where objects are rare,
    most places are empty. Of some random places, the one with the least light along the edges
    of the tile that are inside the picture is taken.

    Args:
        picture: bright on black, ``(C, H, W)``, at least as large as a tile.
        size: height and width of a tile.
        number: how many.
        generator: of random numbers.
        tries: places to choose from.
    """
    height, width = size
    light = picture.amax(dim=0)
    lit = (light > 0.3).nonzero()
    room = torch.tensor([light.shape[0] - height, light.shape[1] - width])
    for index in range(number):
        places = (torch.rand(tries, 2, generator=generator) * (room + 1)).long()
        if index % 2 and len(lit):
            chosen = lit[torch.randint(len(lit), (), generator=generator)]
            offsets = torch.rand(tries, 2, generator=generator) * torch.tensor([height, width])
            places = torch.minimum((chosen - offsets.long()).clamp(min=0), room)
        cut = []
        for top, left in places.tolist():
            tile = light[top : top + height, left : left + width]
            edges = [
                tile[0] * (top > 0),
                tile[-1] * (top < room[0]),
                tile[:, 0] * (left > 0),
                tile[:, -1] * (left < room[1]),
            ]
            cut.append(sum(float(edge.sum()) for edge in edges))
        top, left = places[min(range(tries), key=cut.__getitem__)].tolist()
        yield Tile(top, left, picture[:, top : top + height, left : left + width])


def merge_detections(
    boxes: Tensor,
    tiles: Tensor,
    corners: Tensor,
    size: tuple[int, int],
    picture_size: tuple[int, int],
) -> Tensor:
    """Which of the objects seen in tiles to keep, so that none is counted twice.

    Objects are taken in the order of their distance from the edges of their tile, the farthest
    first; one that is the same as one taken before, from another tile, is left out.

    Args:
        boxes: ``(x_min, y_min, x_max, y_max)`` in pixels of the picture, ``(N, 4)``.
        tiles: number of the tile that each was seen in, int64 ``(N,)``.
        corners: ``(top, left)`` of each tile, ``(number of tiles, 2)``.
        size: height and width of a tile.
        picture_size: height and width of the picture. Its own edges cut nothing.

    Returns:
        Indices of the objects to keep, ascending: int64.
    """
    boxes = boxes.double()
    if len(boxes) == 0:
        return torch.zeros(0, dtype=torch.int64)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    sides = boxes[:, 2:] - boxes[:, :2]
    areas, longer = sides.prod(dim=1), sides.amax(dim=1)
    starts = corners[tiles].flip(-1).double()  # as x, y
    ends = starts + torch.tensor([size[1], size[0]])
    limits = torch.tensor([picture_size[1], picture_size[0]])
    before = (boxes[:, :2] - starts).masked_fill(starts <= 0, float("inf"))
    after = (ends - boxes[:, 2:]).masked_fill(ends >= limits, float("inf"))
    margins = torch.minimum(before, after).amin(dim=1)
    kept: list[int] = []
    for index in margins.argsort(descending=True, stable=True).tolist():
        others = torch.tensor(kept, dtype=torch.int64)
        others = others[tiles[others] != tiles[index]]
        distance = (centres[others] - centres[index]).norm(dim=1)
        # What an edge cut off can be the soft rim of an object, beside its box.
        rim = (_RIM * longer[others, None]).clamp(min=1) if margins[index] < 1 else 0.0
        low = torch.maximum(boxes[others, :2] - rim, boxes[index, :2])
        high = torch.minimum(boxes[others, 2:] + rim, boxes[index, 2:])
        shared = (high - low).clamp(min=0).prod(dim=1)
        near = distance < _SAME_CENTRE * (longer[others] + longer[index]) / 2
        inside = shared > _SAME_AREA * torch.minimum(areas[others], areas[index])
        if not (near | inside).any():
            kept.append(index)
    return torch.tensor(sorted(kept), dtype=torch.int64)


def merge_counts(count_probs: Sequence[Tensor], removed: Sequence[int]) -> Tensor:
    r"""Probabilities of the number of objects in a picture, from those of its tiles.

    A tile in which r objects were left out, as other tiles saw them, contributes n - r objects with
    probability :math:`q_{tile}(n)`, and none where n < r. The contributions are taken as
    independent, so the sum's distribution is their convolution.

    Args:
        count_probs: q(n) of each tile, ``(T + 1,)``.
        removed: r of each tile.

    Returns:
        ``(N + 1,)``, without the large counts that are improbable.
    """
    total = torch.ones(1, dtype=torch.float64)
    for probs, number in zip(count_probs, removed, strict=True):
        own = probs.double().cpu()
        shifted = own[number:].clone()
        shifted[0] += own[:number].sum()
        wide = total.new_zeros(len(total) + len(shifted) - 1)
        for count, probability in enumerate(shifted.tolist()):
            wide[count : count + len(total)] += probability * total
        tail = wide.flip(0).cumsum(0).flip(0)
        total = wide[: max(int((tail > _NEGLIGIBLE).sum()), 1)]
    return (total / total.sum()).float()
