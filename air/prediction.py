"""From images as they come to the objects in them, some at a time."""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from air.config import AIRConfig
from air.detections import Detections, Predictions
from air.images import (
    Frame,
    Picture,
    Pictures,
    Preparation,
    as_float,
    bright_on_dark,
    differences,
    merge_counts,
    merge_detections,
    raw_float,
    tile_starts,
    to_channels,
)
from air.shifts import shift_grid
from air.spatial_transformer import boxes_in_pixels
from air.types import Inference

__all__ = ["Model", "overlap_of", "predict", "views_of"]

_LIT = 0.3
"""An object lights a pixel where it has this share of its own brightest one."""
_DARK = 0.05
"""An object that is darker everywhere lights nothing."""


class Model(Protocol):
    """What is needed of a model here."""

    @property
    def config(self) -> AIRConfig: ...  # noqa: D102
    @property
    def preparation(self) -> Preparation: ...  # noqa: D102
    @property
    def device(self) -> torch.device: ...  # noqa: D102
    def infer(  # noqa: D102
        self,
        images: Tensor,
        *,
        max_objects: int | None = None,
        shifts: Tensor | None = None,
        batch_size: int = 500,
    ) -> Inference: ...


def predict(
    model: Model,
    images: Any,
    *,
    max_objects: int | None = None,
    max_shift: int = 0,
    batch_size: int = 100,
    tight_boxes: bool = True,
    on_batch: Callable[[int], object] | None = None,
    recursive: bool = False,
    skip_damaged: bool = False,
) -> Predictions:
    """Find the objects of images; see :meth:`air.AIR.predict`."""
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
    views = views_of(model.config, max_shift)
    pictures = Pictures(
        images,
        recursive=recursive,
        skip_damaged=skip_damaged,
        reduce=model.preparation.reduction,
        # Without a scale of its own a picture is shrunk to fit the canvas.
        longest_side=None if model.preparation.by_picture else 4 * max(model.config.canvas_size),
    )
    detections: list[Detections] = []
    waiting: list[_Prepared] = []
    for picture in pictures:
        waiting.append(_prepare(picture, model))
        if sum(len(each.corners) for each in waiting) >= batch_size:
            detections += _read(waiting, model, max_objects, views, batch_size, tight_boxes)
            if on_batch is not None:
                on_batch(len(waiting))
            waiting = []
    if waiting:
        detections += _read(waiting, model, max_objects, views, batch_size, tight_boxes)
        if on_batch is not None:
            on_batch(len(waiting))
    if not detections and not pictures.skipped:
        raise ValueError("there is nothing to look at: images must hold at least one image.")
    _warn(detections)
    return Predictions(detections, pictures.skipped)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Prepared:
    """A picture that is ready to be read. Its own pixels are kept only if they are in memory."""

    source: Tensor | Path
    name: str | None
    page: int
    whole: Tensor
    frame: Frame
    corners: list[tuple[int, int]]
    doubt: str


class _Seen(NamedTuple):
    """What is seen in one tile, on the CPU and in its pixels."""

    boxes: Tensor
    count_probs: Tensor
    z_what: Tensor
    z_where: Tensor
    light: Tensor
    """Brightness of each object where it lights a pixel, ``(n, H, W)``."""


def overlap_of(config: AIRConfig) -> int:
    """Pixels that tiles share: the box of an object two standard deviations larger than usual.

    At most half of the canvas.
    """
    side = min(config.canvas_size)
    scale = max(config.z_where_mean[0] - 2 * config.z_where_sd[0], 1.0)
    return min(math.ceil(side / scale), side // 2)


def _prepare(picture: Picture, model: Model) -> _Prepared:
    preparation, config = model.preparation, model.config
    pixels, doubt = picture.pixels, ""
    if preparation == Preparation():
        pixels, doubt = bright_on_dark(to_channels(as_float(pixels, picture.name), config.channels))
    elif preparation.by_picture:
        doubt = differences(to_channels(raw_float(pixels), config.channels), preparation)
    whole, frame = preparation.prepare(pixels, config, size=picture.size, name=picture.name)
    height, width = config.canvas_size
    overlap = overlap_of(config)
    corners = [
        (top, left)
        for top in tile_starts(whole.shape[1], height, overlap)
        for left in tile_starts(whole.shape[2], width, overlap)
    ]
    return _Prepared(
        source=picture.original() if picture.path is None else picture.path,
        name=None if picture.path is None else picture.name,
        page=picture.page,
        whole=whole,
        frame=frame,
        corners=corners,
        doubt=doubt,
    )


def _read(
    waiting: Sequence[_Prepared],
    model: Model,
    max_objects: int | None,
    views: Tensor | None,
    batch_size: int,
    tight_boxes: bool,
) -> list[Detections]:
    """Read prepared pictures, in batches of tiles."""
    height, width = model.config.canvas_size
    places = [(each.whole, corner) for each in waiting for corner in each.corners]
    seen: list[_Seen] = []
    for start in range(0, len(places), batch_size):
        canvases = torch.stack(
            [
                whole[:, top : top + height, left : left + width]
                for whole, (top, left) in places[start : start + batch_size]
            ]
        )
        reading = model.infer(
            canvases.to(model.device),
            max_objects=max_objects,
            shifts=views,
            batch_size=batch_size,
        )
        seen += _split(reading, model.config, tight_boxes)
    found, start = [], 0
    for each in waiting:
        own = seen[start : start + len(each.corners)]
        start += len(each.corners)
        found.append(_join(each, own, model.config))
    return found


def _join(prepared: _Prepared, seen: Sequence[_Seen], config: AIRConfig) -> Detections:
    """What is seen in a picture, from its tiles; most have one."""
    frame = prepared.frame
    corners = torch.tensor(prepared.corners)
    tiles = torch.cat([torch.full((len(each.boxes),), i) for i, each in enumerate(seen)])
    boxes = torch.cat([each.boxes for each in seen])
    boxes = boxes + corners[tiles].flip(-1).repeat(1, 2).to(boxes)
    size = (int(prepared.whole.shape[1]), int(prepared.whole.shape[2]))
    if len(seen) == 1:
        kept = torch.arange(len(boxes))
        probs = seen[0].count_probs.clone()
        # P(n >= t) for t = 1 .. T
        scores = probs[1:].flip(0).cumsum(0).flip(0).clamp(max=1)[: len(boxes)].clone()
    else:
        kept = merge_detections(boxes, tiles, corners, config.canvas_size, size)
        removed = tiles.bincount(minlength=len(seen)) - tiles[kept].bincount(minlength=len(seen))
        probs = merge_counts([each.count_probs for each in seen], removed.tolist())
        own = [
            each.count_probs[1:].flip(0).cumsum(0).flip(0).clamp(max=1)[: len(each.boxes)]
            for each in seen
        ]
        scores = torch.cat(own)[kept]
    # Which object lights a pixel most, tile by tile: never more than one tile of light at a time.
    brightest = torch.zeros(size)
    lit_by = torch.zeros(size, dtype=torch.int16)
    numbers = torch.zeros(len(boxes), dtype=torch.int16)
    numbers[kept] = torch.arange(1, len(kept) + 1, dtype=torch.int16)
    first = 0
    for each, (top, left) in zip(seen, prepared.corners, strict=True):
        own_numbers = numbers[first : first + len(each.boxes)]
        first += len(each.boxes)
        for number, light in zip(own_numbers.tolist(), each.light, strict=True):
            if number:
                area = (slice(top, top + light.shape[0]), slice(left, left + light.shape[1]))
                more = light > brightest[area]
                brightest[area][more] = light[more]
                lit_by[area][more] = number
    return Detections(
        boxes=frame.boxes_in_image(boxes[kept]),
        scores=scores,
        count_probs=probs,
        z_what=torch.cat([each.z_what for each in seen])[kept],
        z_where=torch.cat([each.z_where for each in seen])[kept],
        lit_by=lit_by,
        frame=frame,
        source=prepared.source,
        name=prepared.name,
        page=prepared.page,
        doubt=prepared.doubt,
    )


def _warn(detections: Sequence[Detections]) -> None:
    """One warning for each kind of doubt, however many images it concerns."""
    doubts: dict[str, list[int]] = {}
    for number, each in enumerate(detections):
        if each.doubt:
            doubts.setdefault(each.doubt, []).append(number)
    for doubt, numbers in doubts.items():
        name = detections[numbers[0]].file or f"image {numbers[0]}"
        warnings.warn(
            f"{len(numbers)} of {len(detections)} images, {name} the first of them: {doubt}",
            stacklevel=4,
        )


def views_of(config: AIRConfig, max_shift: int | None = None) -> Tensor | None:
    """The shifts of the 25 views that an image is read from; None for the image as it is alone.

    Args:
        config: of the model.
        max_shift: in pixels of the canvas; default: an eighth of its shorter side, 6 in 50. 0 for
            one view.

    Raises:
        ValueError: if it is negative.
    """
    if max_shift is None:
        max_shift = min(config.canvas_size) // 8
    if max_shift < 0:
        raise ValueError(f"max_shift must be at least 0 pixels, got {max_shift}.")
    return shift_grid(max_shift) if max_shift else None


def _split(reading: Inference, config: AIRConfig, tight_boxes: bool) -> list[_Seen]:
    """A reading, tile by tile."""
    probs = reading.count_probs.float().cpu()
    light = reading.objects.float().amax(dim=2).cpu()
    peak = light.amax(dim=(-1, -2), keepdim=True)
    lit = (light >= _LIT * peak) & (peak > _DARK)
    z_where, z_what = reading.z_where.float().cpu(), reading.z_what.float().cpu()
    boxes = boxes_in_pixels(z_where, config.canvas_size)
    if tight_boxes:
        boxes = _boxes_of(lit, boxes)
    light = light * lit
    return [
        _Seen(
            boxes=boxes[row, :count].clone(),
            count_probs=probs[row].clone(),
            z_what=z_what[row, :count].clone(),
            z_where=z_where[row, :count].clone(),
            light=light[row, :count].clone(),
        )
        for row, count in enumerate(reading.counts.tolist())
    ]


def _boxes_of(lit: Tensor, boxes: Tensor) -> Tensor:
    """The box around what each object lights; its own where it lights nothing: ``(B, T, 4)``."""
    columns, rows = lit.any(dim=-2), lit.any(dim=-1)

    def ends(line: Tensor) -> tuple[Tensor, Tensor]:
        first = line.to(torch.int8).argmax(dim=-1)
        return first, line.shape[-1] - line.flip(-1).to(torch.int8).argmax(dim=-1)

    (left, right), (top, bottom) = ends(columns), ends(rows)
    tight = torch.stack([left, top, right, bottom], dim=-1).to(boxes)
    return torch.where(columns.any(dim=-1, keepdim=True), tight, boxes)
