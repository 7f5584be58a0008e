"""From images as they come to the canvas that a model reads, and boxes the way back.

A model sees bright objects on black, on a canvas of one size. :class:`Preparation` says what is
done to an image for that; it is kept beside the weights, as ``preprocessor_config.json``.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from air.config import AIRConfig
from air.files import is_number
from air.images import as_float, to_channels

__all__ = ["Frame", "Preparation", "describe_images"]

_BLACK = 0.05
"""A background at most this bright is left as it is."""
_FAINTEST = 0.02
"""Where nothing differs more from the background, there is nothing to see."""


class Frame(NamedTuple):
    """Where an image lies on the canvas."""

    height: int
    """Of the original image, in pixels."""
    width: int
    """Of the original image, in pixels."""
    top: int
    """First row of the canvas that it takes."""
    left: int
    """First column of the canvas that it takes."""
    rows: int
    """Rows of the canvas that it takes."""
    columns: int
    """Columns of the canvas that it takes."""

    def boxes_in_image(self, boxes: Tensor) -> Tensor:
        """Boxes on the canvas as boxes in the original image, cut at its edges: ``(*, 4)``."""
        zoom_x, zoom_y = self.width / self.columns, self.height / self.rows
        offset = boxes.new_tensor([self.left, self.top, self.left, self.top])
        scaled = (boxes - offset) * boxes.new_tensor([zoom_x, zoom_y, zoom_x, zoom_y])
        return scaled.clamp(min=0).minimum(
            boxes.new_tensor([self.width, self.height, self.width, self.height])
        )

    def map_in_image(self, canvas: Tensor) -> Tensor:
        """A map on the canvas ``(H, W)`` at the original image's size, ``(height, width)``.

        Nearest pixel: what is whole numbers stays so.
        """
        rows = (torch.arange(self.height) + 0.5) * self.rows / self.height
        columns = (torch.arange(self.width) + 0.5) * self.columns / self.width
        own = canvas[self.top : self.top + self.rows, self.left : self.left + self.columns]
        return own[rows.long()][:, columns.long()]


@dataclass(frozen=True, kw_only=True)
class Preparation:
    r"""What is done to an image before the model reads it.

    It is shrunk by ``scale``, or by as much as makes it fit the canvas, if that is more; never
    enlarged by more than ``scale``. Then, with the background's colour b and the contrast c,

    .. math:: x' = \min(1,\; c\,|x - b|)

    and it is put in the middle of a black canvas. By default images are left as they are.

    Raises:
        ValueError: if a value makes no sense.
    """

    background: tuple[float, ...] = ()
    """Its colour in [0, 1], one value a channel; none for black, where nothing is subtracted."""
    contrast: float = 1.0
    """Factor that makes the brightest objects white."""
    scale: float = 1.0
    """Pixels of the canvas for a pixel of the image."""

    def __post_init__(self) -> None:
        if isinstance(self.background, list):
            object.__setattr__(self, "background", tuple(self.background))
        numbers = self.background if isinstance(self.background, tuple) else (math.nan,)
        if len(numbers) not in (0, 1, 3) or not all(is_number(b) and 0 <= b <= 1 for b in numbers):
            raise ValueError(
                f"background must hold no, 1 or 3 numbers in [0, 1], got {self.background!r:.40}."
            )
        for name, most in (("contrast", 1 / _FAINTEST), ("scale", 1000.0)):
            value = getattr(self, name)
            if not is_number(value) or not 0 < value <= most:
                raise ValueError(f"{name} must lie above 0 and up to {most:g}, got {value!r:.40}.")

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain data, ready for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """The inverse of :meth:`to_dict`.

        Raises:
            ValueError: if a field is unknown, or its value makes no sense.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(fields, dict) or not set(fields) <= known:
            raise ValueError(f"expected an object with some of: {', '.join(sorted(known))}.")
        return cls(**fields)

    def frame(self, height: int, width: int, config: AIRConfig) -> Frame:
        """Where an image of this size lies on the model's canvas."""
        canvas_height, canvas_width = config.canvas_size
        scale = min(self.scale, canvas_height / height, canvas_width / width)
        rows = min(max(round(height * scale), 1), canvas_height)
        columns = min(max(round(width * scale), 1), canvas_width)
        top, left = (canvas_height - rows) // 2, (canvas_width - columns) // 2
        return Frame(height, width, top, left, rows, columns)

    def __call__(
        self, images: Sequence[Tensor], config: AIRConfig, *, first: int = 0
    ) -> tuple[Tensor, list[Frame]]:
        """Prepare images for a model.

        Args:
            images: each ``(C, h, w)``, as :func:`air.images.as_images` gives them.
            config: of the model.
            first: number of the first image, for messages.

        Returns:
            Float in [0, 1], ``(B, C, H, W)``, on the CPU; and where each image lies in it.

        Raises:
            ValueError: if an image is no image, or has fewer channels than the background.
        """
        frames = [self.frame(image.shape[1], image.shape[2], config) for image in images]
        canvases = torch.zeros(len(images), *config.image_shape)
        for number, (canvas, image, frame) in enumerate(zip(canvases, images, frames, strict=True)):
            pixels = as_float(image.detach().cpu(), f"image {first + number}")
            image = to_channels(pixels, config.channels)
            small = resize(image, (frame.rows, frame.columns))
            own = canvas[:, frame.top : frame.top + frame.rows]
            own[..., frame.left : frame.left + frame.columns] = self.lift(small)
        return canvases, frames

    def lift(self, image: Tensor) -> Tensor:
        """Bright objects on black, from an image in its own colours: ``(*, C, h, w)``."""
        if self.background:
            background = image.new_tensor(self.background)[:, None, None]
            image = (image - background).abs()
        return image if self.contrast == 1 else (image * self.contrast).clamp(max=1)


def describe_images(images: Sequence[Tensor], longest_side: int) -> tuple[AIRConfig, Preparation]:
    """Canvas, channels, background and contrast that fit images.

    The canvas holds the largest image when it is shrunk so that its longer side is at most
    ``longest_side``. All images are shrunk by the same factor, so that objects of one size stay
    so. The background is the median colour; the brightest objects become white.

    Args:
        images: each ``(C, h, w)``, as :func:`air.images.as_images` gives them.
        longest_side: in pixels.

    Returns:
        A configuration with canvas and channels, all else by default; and the preparation.

    Raises:
        ValueError: if an image is no image, or all are of one plain colour.
    """
    height = max(image.shape[1] for image in images)
    width = max(image.shape[2] for image in images)
    scale = min(1.0, longest_side / max(height, width))
    canvas = (max(round(height * scale), 2), max(round(width * scale), 2))
    color = AIRConfig(canvas_size=canvas, channels=3)
    plain = Preparation(scale=scale)
    small = []
    for number, image in enumerate(images):
        frame = plain.frame(image.shape[1], image.shape[2], color)
        rgb = to_channels(as_float(image.detach().cpu(), f"image {number}"), 3)
        small.append(resize(rgb, (frame.rows, frame.columns)))
    channels = 1 if all(_is_grey(image) for image in small) else 3
    medians = torch.stack([image.flatten(1).median(dim=1).values for image in small])
    background = tuple(round(b, 3) for b in medians.median(dim=0).values.tolist())[:channels]
    if max(background) <= _BLACK:
        background = ()
    lifted = Preparation(background=background)
    brightest = torch.stack(
        [lifted.lift(image[:channels]).flatten().quantile(0.999) for image in small]
    )
    # Most images, not all: some may be empty, and one may have a spot.
    level = brightest.quantile(0.9).item()
    if level < _FAINTEST:
        raise ValueError(
            "there is nothing in these images: none differs from its background by more than "
            f"{level:.3f} (of 1). Check that they are what you meant."
        )
    contrast = 1.0 if level > 0.9 else round(1 / level, 3)
    config = AIRConfig(canvas_size=canvas, channels=channels)
    return config, Preparation(background=background, contrast=contrast, scale=scale)


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """An image ``(C, h, w)`` at another size; every pixel has its part in it."""
    if tuple(image.shape[1:]) == size:
        return image
    return F.interpolate(image[None], size, mode="bilinear", antialias=True)[0].clamp(0, 1)


def _is_grey(image: Tensor) -> bool:
    low, high = image.aminmax(dim=0)
    return (high - low).max().item() < 0.02
