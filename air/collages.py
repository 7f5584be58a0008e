"""Scenes with known objects, made of the regions of scenes without labels.

What stands out from the background in one connected region is most often one object. Cut out
and put elsewhere, some at a time, such regions make scenes whose counts and poses are known. A
model can learn from them where to look (:mod:`air.guidance`), before it learns to do without.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from air.images import as_float
from air.object_size import ObjectSize, find_regions

__all__ = ["Collage", "CollageMaker"]

_BORDER = 2
"""Pixels around a region that are cut out with it: its soft edge."""
_MOST_REGIONS = 2000
_MOST_IMAGES = 4000
"""To look for regions in: evenly chosen, for they are held in memory more than once."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Collage:
    """A batch of made scenes, objects from left to right."""

    images: Tensor
    """Float in [0, 1], ``(B, C, H, W)``."""
    num_objects: Tensor
    """int64 ``(B,)``."""
    z_where: Tensor
    """Pose of each object, of absent ones too, all of one scale: ``(B, T, 3)``."""


class CollageMaker:
    """Makes collages of the regions of a set of images.

    Args:
        images: prepared: bright objects on black, float in [0, 1] or uint8, ``(N, C, H, W)``.
        size: what :func:`air.object_size.estimate_object_size` says of them.
        max_objects: T, the most objects in a collage; all counts are as frequent.
        scale: s of every pose.
        layouts: of so many random layouts the one with the least overlap is taken. With 1, objects
            overlap as often as chance has it.

    Raises:
        ValueError: if there is no region at all.
    """

    def __init__(
        self,
        images: Tensor,
        size: ObjectSize,
        *,
        max_objects: int,
        scale: float,
        layouts: int = 3,
    ) -> None:
        images = as_float(images[:: max(-(-len(images) // _MOST_IMAGES), 1)])
        regions = find_regions(images)
        self.canvas = tuple(images.shape[1:])
        self.max_objects, self.scale, self.layouts = max_objects, scale, layouts
        # Much larger than most: some that touch.
        sides = (regions.boxes[:, 2:] - regions.boxes[:, :2]).amax(dim=1)
        largest = max(size.size + 3 * size.spread, 1.5 * size.size)
        index = (sides <= largest).nonzero().flatten()
        if len(index) == 0:  # the size was said, and is less than all that is seen
            index = torch.arange(len(sides))
        if len(index) > _MOST_REGIONS:
            index = index[:: len(index) // _MOST_REGIONS + 1]
        self.sizes = (regions.boxes[index, 2:] - regions.boxes[index, :2]).float()
        side = int(self.sizes.max()) + 2 * _BORDER
        padded = F.pad(images, (side,) * 4)
        labels = F.pad(regions.labels, (side,) * 4)
        corners = regions.boxes[index, :2] - _BORDER + side
        span = torch.arange(side)
        rows = (corners[:, 1, None] + span)[:, :, None]
        columns = (corners[:, 0, None] + span)[:, None, :]
        source = regions.image[index][:, None, None]
        own = labels[source, rows, columns] == regions.number[index][:, None, None]
        reach = F.max_pool2d(own.float()[:, None], 2 * _BORDER + 1, stride=1, padding=_BORDER)
        cut = padded[source, :, rows, columns].permute(0, 3, 1, 2)
        self.patches = cut * reach
        near = F.max_pool2d((regions.labels > 0).float()[:, None], 5, stride=1, padding=2) > 0
        self.background = images[~near.expand_as(images)]

    def __call__(self, number: int, generator: torch.Generator | None = None) -> Collage:
        """Make scenes.

        Args:
            number: B.
            generator: of random numbers; default: PyTorch's own.
        """
        _channels, height, width = self.canvas
        steps = self.max_objects
        num_objects = torch.randint(0, steps + 1, (number,), generator=generator)
        chosen = torch.randint(0, len(self.patches), (number, steps), generator=generator)
        present = torch.arange(steps) < num_objects[:, None]
        sizes = self.sizes[chosen]
        room = (sizes.new_tensor([width, height]) - sizes).clamp(min=0) + 1
        draws = torch.rand(self.layouts, number, steps, 2, generator=generator)
        starts = (draws * room).floor()
        best = _overlap(starts, sizes, present).argmin(dim=0)
        start = starts[best, torch.arange(number)]
        boxes = torch.cat([start, start + sizes], dim=-1)
        # From left to right, absent ones last.
        centre = boxes[..., 0] + boxes[..., 2]
        order = centre.masked_fill(~present, float("inf")).argsort(dim=1)
        boxes = boxes.gather(1, order[..., None].expand(-1, -1, 4))
        chosen = chosen.gather(1, order)
        return Collage(
            images=self._paste(chosen, boxes, present, generator),
            num_objects=num_objects,
            z_where=self._poses(boxes),
        )

    def _poses(self, boxes: Tensor) -> Tensor:
        """Poses with the boxes' centres; all have one scale."""
        _, height, width = self.canvas
        sums = boxes[..., :2] + boxes[..., 2:]
        shift = self.scale * (1 - sums / sums.new_tensor([width, height]))
        return torch.cat([torch.full_like(shift[..., :1], self.scale), shift], dim=-1)

    def _paste(
        self, chosen: Tensor, boxes: Tensor, present: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        """Patches at their boxes on the background; where two meet, the brighter pixel."""
        channels, height, width = self.canvas
        number, steps = chosen.shape
        side = self.patches.shape[-1]
        shape = (number, channels, height + 2 * side, width + 2 * side)
        canvas = torch.zeros(shape)
        span = torch.arange(side)
        flat = canvas.view(-1)
        plane = torch.arange(number * channels).view(number, channels, 1, 1) * shape[2] * shape[3]
        for step in range(steps):
            corner = boxes[:, step, :2].long() - _BORDER + side
            rows = (corner[:, 1, None] + span)[:, None, :, None]
            columns = (corner[:, 0, None] + span)[:, None, None, :]
            patch = self.patches[chosen[:, step]] * present[:, step, None, None, None]
            index = plane + rows * shape[3] + columns
            flat.scatter_reduce_(0, index.reshape(-1), patch.reshape(-1), "amax")
        canvas = canvas[:, :, side : side + height, side : side + width]
        if len(self.background) == 0 or not self.background.any():
            return canvas.contiguous()
        picked = torch.randint(0, len(self.background), canvas.shape, generator=generator)
        return canvas.maximum(self.background[picked])


def _overlap(starts: Tensor, sizes: Tensor, present: Tensor) -> Tensor:
    """Area that objects share: ``(layouts, B)``."""
    low = torch.maximum(starts.unsqueeze(-2), starts.unsqueeze(-3))
    ends = starts + sizes
    high = torch.minimum(ends.unsqueeze(-2), ends.unsqueeze(-3))
    area = (high - low + 1).clamp(min=0).prod(dim=-1)
    steps = present.shape[1]
    pairs = present.unsqueeze(-1) & present.unsqueeze(-2) & ~torch.eye(steps, dtype=torch.bool)
    return (area * pairs).sum(dim=(-1, -2))
