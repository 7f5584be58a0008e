"""PNG files of what a model sees and dreams."""

import io

import torch
from PIL import Image
from torch import Tensor

from air import AIR
from air.visualization import draw_boxes, image_grid, reconstruction_grid, to_uint8
from experiments.datasets import Scenes
from experiments.localisation import tight_boxes

_MOST_ROWS = 20
"""Of samples; each scene takes the memory of all its objects."""


def to_png(image: Tensor) -> bytes:
    """One image, float in [0, 1], ``(1 or 3, H, W)``, as a PNG file's content."""
    content = io.BytesIO()
    Image.fromarray(to_uint8(image.cpu()).numpy()).save(content, format="PNG")
    return content.getvalue()


def draw_reconstructions(air: AIR, images: Tensor) -> bytes:
    """Inputs beside their reconstructions, with the inferred boxes in both."""
    reading = air.infer(images)
    return to_png(reconstruction_grid(images, reading.canvas, reading.boxes, reading.counts))


def draw_localisation(air: AIR, scenes: Scenes, *, columns: int = 8) -> bytes:
    """Scenes with their true boxes, each above itself with what was found.

    Boxes found are drawn tight around what the model draws, as the true ones are.
    """
    reading = air.infer(scenes.images.to(next(air.parameters()).device))
    found = tight_boxes(reading.objects.amax(dim=2))
    above = draw_boxes(scenes.images, scenes.boxes, scenes.num_objects)
    below = draw_boxes(scenes.images, found.cpu(), reading.counts.cpu())
    gap = above.new_full((*above.shape[:2], 3, above.shape[3]), 0.5)
    return to_png(image_grid(torch.cat([above, gap, below], dim=-2), columns=columns, padding=6))


def draw_samples(air: AIR, *, columns: int = 8) -> bytes:
    """Scenes from the prior, a row for each number of objects from 1 to ``max_objects``.

    Where these are many, some of them.

    Under the prior of n itself nearly all scenes are empty.
    """
    rows = min(air.max_objects, _MOST_ROWS)
    num_objects = torch.linspace(1, air.max_objects, rows).round().long().repeat_interleave(columns)
    images = air.sample(len(num_objects), num_objects=num_objects).images
    enlarged = images.clamp(0, 1).repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2)
    return to_png(image_grid(enlarged, columns=columns))
