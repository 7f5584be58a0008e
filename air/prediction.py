"""From images as they come to the objects in them, some at a time."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from air.config import AIRConfig
from air.detections import Detections, Predictions
from air.image_files import are_paths, find_images, read_image
from air.images import as_images
from air.preparation import Frame, Preparation
from air.shifts import shift_grid
from air.spatial_transformer import boxes_in_pixels
from air.types import Inference

__all__ = ["Model", "predict", "views_of"]

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
) -> Predictions:
    """Find the objects of images; see :meth:`air.AIR.predict`."""
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
    views = views_of(model.config, max_shift)
    sources: Sequence[Path | Tensor]
    sources = find_images(images) if are_paths(images) else as_images(images)
    detections: list[Detections] = []
    for start in range(0, len(sources), batch_size):
        chunk = sources[start : start + batch_size]
        pixels = [read_image(source) if isinstance(source, Path) else source for source in chunk]
        prepared, frames = model.preparation(pixels, model.config, first=start)
        reading = model.infer(
            prepared.to(model.device),
            max_objects=max_objects,
            shifts=views,
            batch_size=batch_size,
        )
        detections += _split(reading, frames, chunk, model.config, tight_boxes)
        if on_batch is not None:
            on_batch(len(chunk))
    return Predictions(detections)


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


def _split(
    reading: Inference,
    frames: list[Frame],
    sources: Sequence[Path | Tensor],
    config: AIRConfig,
    tight_boxes: bool,
) -> list[Detections]:
    """A reading, image by image, on the CPU and in the images' pixels."""
    counts = reading.counts.tolist()
    probs = reading.count_probs.float().cpu()
    # P(n >= t) for t = 1 .. T
    scores = probs[:, 1:].flip(-1).cumsum(dim=-1).flip(-1).clamp(max=1)
    light = reading.objects.float().amax(dim=2).cpu()
    peak = light.amax(dim=(-1, -2), keepdim=True)
    lit = (light >= _LIT * peak) & (peak > _DARK)
    z_where, z_what = reading.z_where.float().cpu(), reading.z_what.float().cpu()
    boxes = boxes_in_pixels(z_where, config.canvas_size)
    if tight_boxes:
        boxes = _boxes_of(lit, boxes)
    brightest = (light * lit).max(dim=1)
    lit_by = torch.where(brightest.values > 0, brightest.indices + 1, 0).to(torch.int16)
    return [
        Detections(
            boxes=frame.boxes_in_image(boxes[row, :count]),
            scores=scores[row, :count].clone(),
            count_probs=probs[row].clone(),
            z_what=z_what[row, :count].clone(),
            z_where=z_where[row, :count].clone(),
            lit_by=lit_by[row].clone(),
            frame=frame,
            source=source,
        )
        for row, (count, frame, source) in enumerate(zip(counts, frames, sources, strict=True))
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
