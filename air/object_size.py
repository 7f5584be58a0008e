"""How large are the objects? Estimated from the images alone, by their connected regions.

And what follows from it: the prior of their scale and place, the one thing of the settings that
depends on the data.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "LEAST_SCALE_SD",
    "MARGIN",
    "ObjectSize",
    "Regions",
    "connected_regions",
    "count_regions",
    "estimate_object_size",
    "find_regions",
    "picture_regions",
    "position_sd",
    "scale_prior",
    "size_of_sides",
]

MARGIN = 1.1
"""Box of an object over the box of what is bright of it: 3 for 15 px in 50, 4.5 for 13 in 64."""
LEAST_SCALE_SD = 0.2
"""Prior standard deviation of s that works where all objects are of about one size."""

_LEAST_PIXELS = 4
"""A region of fewer is noise."""
_HIGHEST_THRESHOLD = 0.3
"""Of a normalised picture, whose typical objects have 0.8. Faint ones among them pass it."""
_LEAST_SHARE = 0.1
"""A region of less than this share of a large one's pixels is a speck."""


@dataclass(frozen=True, kw_only=True)
class ObjectSize:
    """Size of the objects in a set of images."""

    size: float
    """Longer side of a typical object's box, in pixels: the median."""
    spread: float
    """Standard deviation of that side in pixels, without the outermost twentieth at each end."""
    num_components: int
    """Regions that it was estimated from."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Regions:
    """Connected regions of a set of images."""

    boxes: Tensor
    """Pixels ``(x_min, y_min, x_max, y_max)``, edges: int64 ``(N, 4)``."""
    image: Tensor
    """Which image each is in: int64 ``(N,)``."""
    number: Tensor
    """Its number in ``labels``: int64 ``(N,)``."""
    labels: Tensor
    """All regions, also those left out: int64 ``(B, H, W)``, see :func:`connected_regions`."""


def estimate_object_size(images: Tensor, *, max_images: int = 1000) -> ObjectSize:
    """Estimate how large objects are, without labels.

    The foreground is what is brighter than Otsu's threshold of all pixels. Its connected regions
    (eight neighbours), but for specks and those that touch the edge, are taken for objects. Objects
    that touch each other count as one, and one in several pieces as several: the median bears
    with some of both.

    Otsu (1979), "A threshold selection method from gray-level histograms".

    Args:
        images: bright objects on a dark background, ``(B, C, H, W)``, float in [0, 1] or uint8.
        max_images: how many to look at, evenly chosen.

    Raises:
        ValueError: if there is no foreground at all, or the images have another shape.
    """
    regions = find_regions(images[:: max(1, len(images) // max_images)])
    return size_of_sides((regions.boxes[:, 2:] - regions.boxes[:, :2]).amax(dim=1))


def size_of_sides(sides: Tensor) -> ObjectSize:
    """The typical size of regions with these longer sides, ``(N,)``, at least one."""
    sides = sides.double().sort().values
    cut = len(sides) // 20
    core = sides[cut : len(sides) - cut]
    return ObjectSize(
        size=sides.median().item(),
        spread=core.std(correction=0).item(),
        num_components=len(sides),
    )


def picture_regions(picture: Tensor, *, least: int = _LEAST_PIXELS) -> tuple[Regions, Tensor]:
    """Connected regions of one picture above one threshold, that of Otsu.

    Args:
        picture: normalised (:func:`air.images.normalise.normalise`), ``(C, H, W)``.
        least: pixels that a region has at least.

    Returns:
        The regions, none where the picture is black, and the number of pixels of each: ``(N,)``.
    """
    grey = picture.float().amax(dim=0, keepdim=True)
    labels = connected_regions(grey > min(_otsu_threshold(grey), _HIGHEST_THRESHOLD))
    regions, areas = _list_regions(labels)
    keep = areas >= least
    kept = Regions(
        boxes=regions.boxes[keep],
        image=regions.image[keep],
        number=regions.number[keep],
        labels=labels,
    )
    return kept, areas[keep]


def count_regions(picture: Tensor, *, least: int = _LEAST_PIXELS) -> int:
    """Number of objects in a normalised picture without any learning: its connected regions.

    What AIR is to be compared with: where objects are apart, this counts almost all of them right;
    objects that touch are one to it.

    Args:
        picture: bright on black, ``(C, H, W)``, as :meth:`air.images.Preparation.prepare` makes it.
        least: pixels that a region has at least.
    """
    return len(picture_regions(picture, least=least)[1])


def find_regions(images: Tensor) -> Regions:
    """Connected regions that are likely to be objects; see :func:`estimate_object_size`.

    Args:
        images: bright objects on a dark background, ``(B, C, H, W)``, float in [0, 1] or uint8.

    Raises:
        ValueError: if there is none, or the images have another shape.
    """
    if images.dim() != 4 or len(images) == 0:
        raise ValueError(f"images must have shape (B, C, H, W), got {tuple(images.shape)}.")
    grey = images.float().amax(dim=1)
    grey = grey / grey.max().clamp(min=1e-8)
    labels = connected_regions(grey > _otsu_threshold(grey))
    regions, areas = _list_regions(labels)
    keep = areas >= _LEAST_PIXELS
    if not keep.any():
        raise ValueError(
            "no object was found to estimate the size of: nothing stands out from the background."
        )
    keep &= areas >= _LEAST_SHARE * areas[keep].double().quantile(0.9)
    height, width = grey.shape[1:]
    boxes = regions.boxes
    inside = (boxes[:, :2] > 0).all(dim=1) & (boxes[:, 2] < width) & (boxes[:, 3] < height)
    if (keep & inside).any():
        keep &= inside
    return Regions(
        boxes=boxes[keep], image=regions.image[keep], number=regions.number[keep], labels=labels
    )


def connected_regions(foreground: Tensor) -> Tensor:
    """Number the connected regions of each image.

    Args:
        foreground: bool, ``(B, H, W)``.

    Returns:
        int64 ``(B, H, W)``: 0 in the background; elsewhere a number above 0, the same for pixels
        that are connected (eight neighbours), in this image alone.
    """
    number, height, width = foreground.shape
    pixels = foreground.flatten().nonzero().squeeze(1)
    grid = pixels.new_full((foreground.numel(),), -1)
    grid[pixels] = torch.arange(len(pixels), device=pixels.device)
    grid = grid.view(number, height, width)
    pairs = []
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        one = grid[:, : height - down, max(0, -right) : width - max(0, right)]
        other = grid[:, down:, max(0, right) : width - max(0, -right)]
        both = (one >= 0) & (other >= 0)
        pairs.append(torch.stack([one[both], other[both]]))
    one, other = torch.cat(pairs, dim=1)
    # Each pixel points to one of its region, in the end to the same: whatever two neighbours point
    # to is made to point to the lesser, then chains are cut short. Some ten rounds, for any shape.
    root = torch.arange(len(pixels), device=pixels.device)
    while True:
        before = root
        least = torch.minimum(root[one], root[other])
        root = root.scatter_reduce(0, root[one], least, "amin")
        root = root.scatter_reduce(0, before[other], least, "amin")
        while not torch.equal(shorter := root[root], root):
            root = shorter
        if torch.equal(root, before):
            break
    labels = torch.zeros(foreground.numel(), dtype=torch.int64, device=pixels.device)
    labels[pixels] = pixels[root] % (height * width) + 1
    return labels.view(number, height, width)


def _list_regions(labels: Tensor) -> tuple[Regions, Tensor]:
    """All regions, and the number of pixels of each ``(N,)``."""
    image, y, x = labels.nonzero(as_tuple=True)
    pixels = labels[0].numel() + 1
    key = image * pixels + labels[image, y, x]
    unique, index, areas = key.unique(return_inverse=True, return_counts=True)
    corners = torch.stack([-x, -y, x + 1, y + 1], dim=1)
    boxes = corners.new_full((len(unique), 4), -(max(labels.shape) + 1))
    boxes.scatter_reduce_(0, index[:, None].expand(-1, 4), corners, "amax")
    boxes[:, :2] *= -1
    regions = Regions(boxes=boxes, image=unique // pixels, number=unique % pixels, labels=labels)
    return regions, areas


def _otsu_threshold(grey: Tensor, bins: int = 256) -> float:
    """The threshold with the greatest variance between what is below and above it."""
    histogram = torch.histc(grey, bins, 0, 1).double()
    centres = (torch.arange(bins, dtype=torch.float64, device=grey.device) + 0.5) / bins
    below, total = histogram.cumsum(0), histogram.sum()
    above = total - below
    mass = (histogram * centres).cumsum(0)
    between = below * above * (mass / below - (mass[-1] - mass) / above).square()
    best = between.nan_to_num(nan=-1.0).argmax()
    return (int(best) + 1) / bins


def scale_prior(canvas_size: tuple[int, int], size: float, spread: float = 0.0) -> dict[str, Any]:
    r"""``z_where_mean`` and ``z_where_sd`` for objects of a size.

    An object whose pose has the scale s covers canvas / s pixels, and should have room for itself
    and a little around it:

    .. math:: s = H / (1.1 d)

    with H the canvas' shorter side and d the longer side of a typical object. The standard
    deviation of s is what the spread of the sizes makes of it, at least 0.2, at most a third of s.

    Args:
        canvas_size: height and width in pixels.
        size: longer side of a typical object in pixels.
        spread: its standard deviation in pixels.

    Raises:
        ValueError: if the size is not above 0.
    """
    if not size > 0:
        raise ValueError(f"an object's size must be above 0 pixels, got {size}.")
    mean = max(min(canvas_size) / (MARGIN * size), 1.0)
    sd = max(LEAST_SCALE_SD, min(mean * spread / size, mean / 3))
    place = position_sd(mean)
    return {"z_where_mean": (round(mean, 2), 0.0, 0.0), "z_where_sd": (round(sd, 2), place, place)}


def position_sd(scale: float) -> float:
    r"""Prior standard deviation of x and y for objects of a scale s.

    An object lies inside the canvas where x and y are within s - 1 of 0. The standard deviation is
    that of a uniform distribution over these places, :math:`(s - 1) / \sqrt 3`, but at least 1.
    """
    return round(max((scale - 1) / math.sqrt(3), 1.0), 2)
