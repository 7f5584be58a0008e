"""Settings that fit a set of pictures: from some of them, without labels."""

import itertools
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from air.config import AIRConfig
from air.files import is_number
from air.images.arrays import raw_float, to_channels
from air.images.normalise import (
    LATITUDE,
    TYPICAL,
    Measurement,
    Objects,
    Surface,
    measure,
    normalise,
)
from air.images.preparation import Preparation
from air.images.read import Picture, Pictures
from air.images.tile import random_tiles
from air.object_size import ObjectSize, picture_regions, size_of_sides

__all__ = [
    "Description",
    "bright_on_dark",
    "choose_scale",
    "describe_images",
    "differences",
    "training_canvases",
]

_LEAST_SIDE, _MOST_SIDE = 10.0, 20.0
"""Pixels of the canvas that an object gets."""
_MOST_SCALE = 4.0
"""Pictures are enlarged by no more than this."""
_LONGEST_SIDE = 2048
"""Larger pictures are reduced while they are looked at."""
_MOST_PIXELS = 24_000_000
"""Of the pictures that are looked at together."""
_MOST_BYTES = 400_000_000
"""Of the canvases to train on."""
_LEAST_IMAGES = 8
_ROUND = 0.945
"""Two disks that touch fill less of an ellipse than this, one fills more."""
_UNEVEN = 0.5
"""A surface is subtracted where it explains half of the deviation from the median."""
_BOTH = 0.3
"""Objects are ``both`` bright and dark where the lesser part is this share of the greater."""
_FAINT = 0.4
"""An object is faint at this share of the brightness of the brightest."""
_LIFTED = 0.6
"""What faint objects are raised to, as a share of the brightest."""
_LEAST_GAMMA = 0.25
_BLACK = 0.05
"""A background at most this bright is black."""
_NOISIER = 3.0
"""Times the noise trained on, above which counts are doubted."""
_CROWD = 200
"""Regions of a picture; of more, noise and texture are likelier than objects."""


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a set of pictures asks for."""

    canvas_size: tuple[int, int]
    """Height and width of the canvas; larger pictures are read tile by tile."""
    channels: int
    """1 for grey, 3 for RGB."""
    preparation: Preparation
    """What to do to each picture."""
    size: ObjectSize
    """Of the objects, in pixels of the canvas."""
    num_images: int
    """How many pictures were looked at."""
    sizes: tuple[tuple[int, int], ...]
    """Their different heights and widths."""
    doubts: tuple[str, ...]
    """What may be wrong with it, and what to do."""

    @property
    def tiled(self) -> bool:
        """Whether a picture is larger than the canvas."""
        scale = self.preparation.scale
        height, width = self.canvas_size
        return any(round(h * scale) > height or round(w * scale) > width for h, w in self.sizes)


def describe_images(
    images: Any,
    *,
    longest_side: int = 64,
    object_size: float | None = None,
    max_images: int = 200,
) -> Description:
    """Find canvas, channels, preparation and object size for pictures.

    - *Background*: a smooth surface where, in most pictures, it explains half of the median
      absolute deviation from the median; otherwise the median. (Where illumination is even, it
      explains next to nothing, however large the noise.)
    - *Objects*: bright or dark, by which of both has more light over the noise in all pictures
      together; both, where the lesser has 0.3 of the greater.
    - *Brightness*: the median over the pictures that are not blank, of the brightest mean of 3 x 3.
    - *Gamma*: below 1 where at least a tenth of the regions are fainter than 0.4 of the brightest,
      though as large: then the faint ones are raised to 0.6 of them.
    - *Scale*: an object's longer side gets 10 to 20 pixels (:func:`choose_scale`).
    - *Canvas*: a picture whose longer side then is at most 1.5 times ``longest_side`` as a whole;
      else one of ``longest_side``, and larger pictures are cut into tiles.

    Args:
        images: what :class:`air.images.Pictures` takes.
        longest_side: of the canvas in pixels.
        object_size: longer side of an object in pixels of the pictures; default: estimated.
        max_images: how many pictures to look at, evenly chosen where their number is known.

    Raises:
        ValueError: if a picture cannot be read, or none shows anything above its noise.
    """
    pictures = _sample(images, max_images)
    grey, sizes, first = True, set(), []
    for picture in pictures:
        pixels = to_channels(raw_float(picture.pixels), 3)
        grey = grey and _is_grey(pixels)
        sizes.add(picture.size)
        first.append(measure(pixels[:1] if _is_grey(pixels) else pixels))
    channels = 1 if grey else 3
    uneven = sorted(one.unevenness for one in first)[len(first) // 2]
    surface: Surface = "smooth" if uneven > _UNEVEN else "plain"
    measured = _measure_all(pictures, channels, surface, 0.0)
    brightness = _typical(measured)
    if brightness > 0:
        measured = _measure_all(pictures, channels, surface, brightness)
        brightness = _typical(measured)
    noise = sorted(one.noise for one in measured)[len(measured) // 2]
    if not brightness > 0:
        raise ValueError(
            "there is nothing in these images: nothing in them stands out from their background "
            f"and noise ({noise:.3g}). Check that they are what you meant."
        )
    objects = _objects(measured)
    plain = Preparation(objects=objects, surface=surface, brightness=brightness, noise=noise)
    gamma = _gamma(_Regions.find(pictures, channels, plain))
    raised = Preparation(**(plain.to_dict() | {"gamma": gamma}))
    regions = _Regions.find(pictures, channels, raised)
    shorter, longer = min(map(min, sizes)), max(map(max, sizes))
    size, doubts = _judge(regions, object_size, shorter, longer, len(measured))
    scale = choose_scale(size.size)
    preparation = Preparation(**(raised.to_dict() | {"scale": scale}))
    height = round(max(size[0] for size in sizes) * scale)
    width = round(max(size[1] for size in sizes) * scale)
    if max(height, width) > 1.5 * longest_side:
        height, width = min(height, longest_side), min(width, longest_side)
    for doubt in doubts:
        warnings.warn(doubt, stacklevel=2)
    return Description(
        canvas_size=(max(height, 2), max(width, 2)),
        channels=channels,
        preparation=preparation,
        size=ObjectSize(
            size=size.size * scale,
            spread=size.spread * scale,
            num_components=size.num_components,
        ),
        num_images=len(measured),
        sizes=tuple(sorted(sizes)),
        doubts=tuple(doubts),
    )


def choose_scale(size: float) -> float:
    """Pixels of the canvas for a pixel of a picture, so that an object gets 10 to 20.

    >>> choose_scale(15.0), choose_scale(40.0), choose_scale(5.0)
    (1.0, 0.5, 2.0)

    Args:
        size: longer side of a typical object, in pixels of the picture.
    """
    wanted = min(max(size, _LEAST_SIDE), _MOST_SIDE)
    return float(f"{min(wanted / size, _MOST_SCALE):.4g}")


def training_canvases(
    images: Any,
    preparation: Preparation,
    config: AIRConfig,
    *,
    most: int = 20_000,
    seed: int = 0,
) -> Tensor:
    """Prepared pictures to train on: whole ones, and random tiles of those that are larger.

    Args:
        images: what :class:`air.images.Pictures` takes.
        preparation: from :func:`describe_images`.
        config: of the model.
        most: how many canvases to make, fewer if they would take more than 400 MB; of more
            pictures some are chosen, evenly.
        seed: decides on the tiles.

    Returns:
        Float in [0, 1], ``(N, C, H, W)``.

    Raises:
        ValueError: if a picture cannot be read.
    """
    generator = torch.Generator().manual_seed(seed)
    most = max(1, min(most, _MOST_BYTES // (4 * math.prod(config.image_shape))))
    pictures = Pictures(images).with_size(reduce=preparation.reduction).sample(most)
    share = max(1, most // max(pictures.number or most, 1))
    canvases: list[Tensor] = []
    for picture in pictures:
        whole, _ = preparation.prepare(picture.pixels, config, size=picture.size, name=picture.name)
        if whole.shape[1:] == config.canvas_size:
            canvases.append(whole)
        else:
            area = whole[0].numel() / math.prod(config.canvas_size)
            tiles = random_tiles(
                whole, config.canvas_size, min(share, math.ceil(4 * area)), generator
            )
            canvases += [tile.pixels.clone() for tile in tiles]
        if len(canvases) >= most:
            break
    if isinstance(images, Pictures):
        images.skipped = pictures.skipped
    if not canvases:
        raise ValueError("there is nothing to look at: expected at least one image.")
    return torch.stack(canvases[:most])


def bright_on_dark(pixels: Tensor) -> tuple[Tensor, str]:
    """For a model of objects on black that has no preparation: ink on paper made bright on black.

    Args:
        pixels: float in [0, 1], ``(C, h, w)``.

    Returns:
        What was given if its median is black; else the picture normalised by itself, black if there
        is nothing in it. And what was done, or nothing.
    """
    if float(pixels.flatten(1).median(dim=1).values.max()) <= _BLACK:
        return pixels, ""
    measured = measure(pixels, brightness=_BLACK)
    if measured.blank:
        return torch.zeros_like(pixels), (
            "their background is not black, as the model was trained on, and nothing stands out "
            "from it: they were taken for black."
        )
    lifted = normalise(pixels, objects=_objects([measured]), brightness=measured.brightness)
    return (lifted / TYPICAL).clamp(max=1), (
        "their background is not black, as the model was trained on: it was subtracted. Check what "
        "is found, or fit a model to such images."
    )


def differences(pixels: Tensor, preparation: Preparation) -> str:
    """In what a picture differs from those that its preparation was made from.

    Args:
        pixels: float, of any range, ``(C, h, w)``.
        preparation: from :func:`describe_images`.

    Returns:
        A sentence, or nothing.
    """
    one = measure(pixels, surface=preparation.surface, brightness=preparation.brightness)
    if one.blank:
        return ""
    ratio = one.brightness / preparation.brightness
    if not 1 / LATITUDE <= ratio <= LATITUDE:
        return (
            f"what stands out from the background is {'brighter' if ratio > 1 else 'fainter'} than "
            f"in the images trained on, more than {LATITUDE:g} times: do not trust the counts."
        )
    if one.noise > _NOISIER * max(preparation.noise, 0.02 * preparation.brightness):
        return (
            f"the noise is more than {_NOISIER:g} times that of the images trained on: do not "
            "trust the counts."
        )
    return ""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Regions:
    """Regions of several pictures, each ``(N,)``."""

    sides: Tensor
    """Longer side, in pixels of the picture."""
    areas: Tensor
    """Pixels, of the picture."""
    whole: Tensor
    """Whether the picture's edge does not cut it."""
    fills: Tensor
    """Its area over that of the ellipse of the same second moments: 1 of an ellipse, 0.95 of a
    square, 0.89 of two disks that touch."""
    lights: Tensor
    """Mean brightness of its brighter half."""
    counts: tuple[int, ...]
    """Regions of each picture."""

    @classmethod
    def find(
        cls, pictures: Sequence[Picture], channels: int, preparation: Preparation
    ) -> "_Regions":
        parts: list[tuple[Tensor, ...]] = []
        for picture in pictures:
            pixels = preparation.lift(to_channels(raw_float(picture.pixels), channels))
            regions, areas = picture_regions(pixels)
            zoom = max(picture.size) / max(pixels.shape[1:])
            boxes, (height, width) = regions.boxes, pixels.shape[1:]
            inside = (boxes[:, :2] > 0).all(dim=1)
            inside &= (boxes[:, 2] < width) & (boxes[:, 3] < height)
            sides = (boxes[:, 2:] - boxes[:, :2]).amax(dim=1) * zoom
            lights = _lights(pixels.amax(dim=0), regions.labels[0], regions.number)
            fills = _fills(regions.labels[0], regions.number)
            parts.append((sides, areas * zoom**2, inside, fills, lights))
        columns = [torch.cat(column) for column in zip(*parts, strict=True)]
        return cls(
            sides=columns[0].double(),
            areas=columns[1].double(),
            whole=columns[2],
            fills=columns[3],
            lights=columns[4],
            counts=tuple(len(part[0]) for part in parts),
        )


def _lights(light: Tensor, labels: Tensor, numbers: Tensor) -> Tensor:
    """Mean of the brighter half of each region's pixels."""
    if len(numbers) == 0:
        return light.new_zeros(0)
    y, x, order = _pixels_of(labels, numbers)
    values = light[y, x]
    zeros = light.new_zeros(len(numbers))
    mean = zeros.scatter_reduce(0, order, values, "mean", include_self=False)
    upper = values >= mean[order]
    return zeros.scatter_reduce(0, order[upper], values[upper], "mean", include_self=False)


def _pixels_of(labels: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Row and column of the regions' pixels, and which region each belongs to."""
    y, x = (labels > 0).nonzero(as_tuple=True)
    own = labels[y, x]
    order = torch.searchsorted(numbers, own).clamp(max=len(numbers) - 1)
    kept = numbers[order] == own
    return y[kept], x[kept], order[kept]


def _fills(labels: Tensor, numbers: Tensor) -> Tensor:
    """Area of each region over that of the ellipse of the same second moments."""
    zeros = torch.zeros(len(numbers), dtype=torch.float64)
    if len(numbers) == 0:
        return zeros

    y, x, order = _pixels_of(labels, numbers)
    areas = zeros.scatter_add(0, order, torch.ones_like(order, dtype=torch.float64))

    def mean(values: Tensor) -> Tensor:
        return zeros.scatter_add(0, order, values) / areas

    down, right = y.double(), x.double()
    down, right = down - mean(down)[order], right - mean(right)[order]
    # A pixel is a square: a twelfth.
    moments = (mean(down**2) + 1 / 12) * (mean(right**2) + 1 / 12) - mean(down * right) ** 2
    return areas / (4 * math.pi * moments.sqrt())


def _measure_all(
    pictures: Sequence[Picture], channels: int, surface: Surface, brightness: float
) -> list[Measurement]:
    return [
        measure(
            to_channels(raw_float(picture.pixels), channels), surface=surface, brightness=brightness
        )
        for picture in pictures
    ]


def _sample(images: Any, most: int) -> list[Picture]:
    """Some pictures, evenly chosen: so many, or fewer that are large, for they are held."""
    pictures = Pictures(images).with_size(longest_side=_LONGEST_SIDE)
    first = next(iter(pictures), None)
    if first is None:
        raise ValueError(
            "there is nothing to look at: expected at least one image that can be read."
        )
    number = min(most, max(_LEAST_IMAGES, _MOST_PIXELS // first.pixels[0].numel()))
    sample = pictures.sample(number)
    chosen = list(itertools.islice(sample, number))
    if isinstance(images, Pictures):
        images.skipped = sample.skipped
    return chosen


def _typical(measured: list[Measurement]) -> float:
    """Median brightness of the pictures that show something; 0 if none does."""
    seen = sorted(one.brightness for one in measured if not one.blank)
    if not seen:
        return 0.0
    # What is a fifth of the brighter pictures' is rounding in one that is blank.
    seen = [value for value in seen if value > 0.2 * seen[len(seen) * 9 // 10]]
    return float(f"{seen[len(seen) // 2]:.4g}")


def _objects(measured: list[Measurement]) -> Objects:
    bright, dark = (sum(getattr(one, kind) for one in measured) for kind in ("bright", "dark"))
    if min(bright, dark) > _BOTH * max(bright, dark):
        return "both"
    return "bright" if bright >= dark else "dark"


def _gamma(regions: _Regions) -> float:
    """Exponent that raises faint objects among bright ones; 1 where there are none."""
    if len(regions.lights) < 2:
        return 1.0
    top = regions.lights.quantile(0.9)
    faint = regions.lights < _FAINT * top
    bright = regions.lights > 0.6 * top
    if not bright.any():
        return 1.0
    large = regions.areas > 0.3 * regions.areas[bright].median()
    faint &= large
    if faint.sum() < 0.1 * len(faint):
        return 1.0
    # In pictures without bright ones they are fainter than they look here.
    ratio = float(regions.lights[faint].quantile(0.1) / top)
    return round(max(math.log(_LIFTED) / math.log(ratio), _LEAST_GAMMA), 3)


def _judge(
    regions: _Regions, said: float | None, shorter: int, longer: int, number: int
) -> tuple[ObjectSize, list[str]]:
    """The objects' size in pixels of the pictures, and doubts about it."""
    doubts: list[str] = []
    if said is not None:
        if not (is_number(said) and 1 <= said <= longer):
            raise ValueError(
                f"object_size must lie between 1 and the {longer} pixels of the largest image, got "
                f"{said!r:.40}."
            )
        return ObjectSize(size=float(said), spread=0.0, num_components=0), doubts
    keep = torch.ones_like(regions.whole)
    if len(keep):
        # Much smaller than the large ones: specks.
        keep = regions.areas >= 0.1 * regions.areas.quantile(0.9)
    if (keep & regions.whole).any():
        keep &= regions.whole
    # Objects that touch are one region. Where some regions are plain round ones, these are single.
    single = keep & (regions.fills > _ROUND)
    if int(single.sum()) >= max(5, 0.1 * int(keep.sum())):
        keep = single
    cure = "Say how large an object is, in pixels of the images: object_size."
    if not keep.any():
        doubts.append(f"no region to estimate the objects' size of. {cure}")
        return ObjectSize(size=max(shorter / 4, 2.0), spread=0.0, num_components=0), doubts
    size = size_of_sides(regions.sides[keep])
    if size.size > 0.75 * shorter:
        doubts.append(
            f"what stands out from the background is {size.size:.0f} pixels long, in images of "
            f"{shorter}: that is hardly one object. A quarter of the image is taken instead. {cure}"
        )
        return ObjectSize(
            size=max(shorter / 4, 2.0), spread=0.0, num_components=size.num_components
        ), doubts
    if size.size < 2.5:
        doubts.append(f"objects seem to have {size.size:.1f} pixels: that may be noise. {cure}")
    elif len(keep) > _CROWD * number:
        doubts.append(
            f"there are {len(keep) / number:.0f} regions in an image: that may be texture or "
            f"noise, not objects. {cure}"
        )
    return size, doubts


def _is_grey(image: Tensor) -> bool:
    low, high = image.aminmax(dim=0)
    reach = float(high.max() - low.min())
    return float((high - low).max()) <= 0.02 * max(reach, 1e-30)
