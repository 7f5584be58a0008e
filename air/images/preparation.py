"""From images as they come to the canvas that a model reads, and boxes the way back.

A model sees bright objects on black, on a canvas of one size. :class:`Preparation` says what is
done to an image for that; it is kept beside the weights, as ``preprocessor_config.json``.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from air.config import AIRConfig
from air.files import is_number
from air.images.arrays import as_float, raw_float, to_channels
from air.images.normalise import Objects, Surface, normalise

__all__ = ["Frame", "Preparation", "resize"]

_MOST_CONTRAST = 50.0
"""Of a fixed factor."""


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

    By default nothing: images are bright on black, and shrunk to fit the canvas if they are larger.
    With fixed numbers for ``background`` b and ``contrast`` c, :math:`\min(1, c\,|x - b|)`.

    With ``objects`` other than ``as-is`` each picture is normalised by its own background and noise
    (:func:`air.images.normalise.normalise`), and resized by ``scale``, whatever its size: one that
    is then larger than the canvas is read tile by tile (:mod:`air.images.tile`).
    :func:`air.images.describe.describe_images` finds these settings.

    Raises:
        ValueError: if a value makes no sense.
    """

    background: tuple[float, ...] = ()
    """Fixed colour in [0, 1] to subtract, one value a channel; none for black."""
    contrast: float = 1.0
    """Fixed factor."""
    scale: float = 1.0
    """Pixels of the canvas for a pixel of the image."""
    objects: Objects = "as-is"
    """Whether objects are ``bright`` or ``dark`` on their background, or ``both`` occur."""
    surface: Surface = "plain"
    """Whether a picture's background is ``plain`` or ``smooth``, under uneven illumination."""
    brightness: float = 1.0
    """Of typical objects over their background; white is 1 in files of 8 and 16 bits."""
    gamma: float = 1.0
    """Exponent of brightness, below 1 where faint objects lie among bright ones."""
    noise: float = 0.0
    """Typical standard deviation of a pixel, in the unit of ``brightness``; only compared with."""

    def __post_init__(self) -> None:
        if isinstance(self.background, list):
            object.__setattr__(self, "background", tuple(self.background))
        numbers = self.background if isinstance(self.background, tuple) else (math.nan,)
        if len(numbers) not in (0, 1, 3) or not all(is_number(b) and 0 <= b <= 1 for b in numbers):
            raise ValueError(
                f"background must hold no, 1 or 3 numbers in [0, 1], got {self.background!r:.40}."
            )
        limits = {"contrast": _MOST_CONTRAST, "scale": 1000.0, "brightness": 1e30, "gamma": 1.0}
        for name, most in limits.items():
            value = getattr(self, name)
            if not is_number(value) or not 0 < value <= most:
                raise ValueError(f"{name} must lie above 0 and up to {most:g}, got {value!r:.40}.")
        if not is_number(self.noise) or self.noise < 0:
            raise ValueError(f"noise must be at least 0, got {self.noise!r:.40}.")
        for name, known in (("objects", Objects), ("surface", Surface)):
            if getattr(self, name) not in get_args(known):
                raise ValueError(
                    f"{name} must be one of: {', '.join(get_args(known))}; "
                    f"got {getattr(self, name)!r:.40}."
                )
        if self.by_picture and (self.background or self.contrast != 1):
            raise ValueError("background and contrast must be left out: objects says otherwise.")

    @property
    def by_picture(self) -> bool:
        """Whether each picture is normalised by itself."""
        return self.objects != "as-is"

    @property
    def reduction(self) -> int:
        """The number of pixels along each axis of an image that may be averaged when it is read."""
        return max(1, math.floor(1 / self.scale + 1e-9)) if self.by_picture else 1

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
        """Where an image of this size lies on the canvas, or on one as large as it needs."""
        canvas_height, canvas_width = config.canvas_size
        scale = self.scale
        if not self.by_picture:
            scale = min(scale, canvas_height / height, canvas_width / width)
        rows, columns = max(round(height * scale), 1), max(round(width * scale), 1)
        if not self.by_picture:
            rows, columns = min(rows, canvas_height), min(columns, canvas_width)
        top, left = max(canvas_height - rows, 0) // 2, max(canvas_width - columns, 0) // 2
        return Frame(height, width, top, left, rows, columns)

    def __call__(
        self, images: Sequence[Tensor], config: AIRConfig, *, first: int = 0
    ) -> tuple[Tensor, list[Frame]]:
        """Prepare images that fit the canvas.

        Args:
            images: each ``(C, h, w)``, as :func:`air.images.as_images` gives them.
            config: of the model.
            first: number of the first image, for messages.

        Returns:
            Float in [0, 1], ``(B, C, H, W)``, on the CPU; and where each image lies in it.

        Raises:
            ValueError: if an image is no image, has fewer channels than the background, or needs
                more than one tile.
        """
        frames, canvases = [], torch.zeros(len(images), *config.image_shape)
        for number, (canvas, image) in enumerate(zip(canvases, images, strict=True), start=first):
            whole, frame = self.prepare(image, config, name=f"image {number}")
            if whole.shape != canvas.shape:
                raise ValueError(
                    f"image {number} is larger than the canvas of {config.canvas_size}: "
                    "it must be cut into tiles, as predict does."
                )
            canvas.copy_(whole)
            frames.append(frame)
        return canvases, frames

    def prepare(
        self,
        image: Tensor,
        config: AIRConfig,
        *,
        size: tuple[int, int] | None = None,
        name: str = "the image",
    ) -> tuple[Tensor, Frame]:
        """Prepare one image, which may be larger than the canvas.

        Args:
            image: ``(C, h, w)``.
            config: of the model.
            size: height and width of the original, if the image was reduced when it was read.
            name: for messages.

        Returns:
            Float in [0, 1], ``(C, H, W)`` with H and W at least the canvas', and where the image
            lies in it.

        Raises:
            ValueError: if it is no image.
        """
        frame = self.frame(*(size or (image.shape[1], image.shape[2])), config)
        pixels = image.detach().cpu()
        if self.by_picture:
            pixels = self.lift(to_channels(raw_float(pixels), config.channels))
            small = resize(pixels, (frame.rows, frame.columns))
        else:
            pixels = to_channels(as_float(pixels, name), config.channels)
            small = self.lift(resize(pixels, (frame.rows, frame.columns)))
        height, width = config.canvas_size
        canvas = small.new_zeros(
            config.channels, max(height, frame.rows), max(width, frame.columns)
        )
        own = canvas[:, frame.top : frame.top + frame.rows]
        own[..., frame.left : frame.left + frame.columns] = small
        return canvas, frame

    def lift(self, image: Tensor) -> Tensor:
        """Bright objects on black, from an image in its own colours: ``(C, h, w)``."""
        if self.by_picture:
            return normalise(
                image,
                objects=self.objects,
                surface=self.surface,
                brightness=self.brightness,
                gamma=self.gamma,
            )
        if self.background:
            background = image.new_tensor(self.background)[:, None, None]
            image = (image - background).abs()
        return image if self.contrast == 1 else (image * self.contrast).clamp(max=1)


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """An image ``(C, h, w)`` at another size; every pixel has its part in it."""
    if tuple(image.shape[1:]) == size:
        return image
    return F.interpolate(image[None], size, mode="bilinear", antialias=True)[0].clamp(0, 1)
