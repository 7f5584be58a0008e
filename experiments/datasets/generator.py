"""Scenes made to order: how many objects, how large, on which canvas and background.

A scene is a background, plus the sprites one after another, clipped at white, plus noise. Where
they lie, of what they are and how many is drawn from one stream of random numbers a half, so the
first scenes of a half do not depend on how many follow.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from experiments.datasets.image_files import read_image
from experiments.datasets.mnist import Digits
from experiments.datasets.multi_mnist import pixel_box, split_digits
from experiments.datasets.scene_config import SceneConfig, sprite_paths
from experiments.datasets.scenes import DataSplits, Scenes, pack_masks, packed_width
from experiments.datasets.sprites import (
    COLORS,
    DigitSprites,
    PictureSprites,
    ShapeSprites,
    Sprites,
)
from experiments.datasets.strokes import StrokeSprites

__all__ = ["generate"]

_PLACES = 100
"""Places tried for an object, and scenes begun anew, before it is taken for impossible."""


def generate(
    config: SceneConfig, digits: Digits, *, name: str | None = None, progress: bool = False
) -> DataSplits:
    """Make scenes.

    Args:
        config: how.
        digits: for sprites that are digits. The halves draw on different ones, see
            :func:`experiments.datasets.multi_mnist.split_digits`, and on different strokes;
            other sprites are the same in both.
        name: of the data set; default: the configuration's.
        progress: whether to show a bar on stderr.

    Raises:
        OSError: if a sprite cannot be read.
        ValueError: if the objects cannot be placed without an overlap, or there are no sprites.
    """
    name = config.name if name is None else name
    halves = {}
    sources = _sources(config, digits)
    for number, (half, size) in enumerate((("train", config.train), ("held_out", config.held_out))):
        halves[half] = _make_scenes(
            config,
            sources[number],
            num_scenes=size,
            random=np.random.RandomState([config.seed, number + 1]),
            name=f"{name}/{half.replace('_', '-')}",
            progress=progress,
        )
    return DataSplits(name=name, **halves)


def _sources(config: SceneConfig, digits: Digits) -> tuple[Sprites, Sprites]:
    """The sprites of either half."""
    if config.sprite_folder is not None:
        paths = sprite_paths(config.sprite_folder)
        pictures = PictureSprites([read_image(path, on_black=True) for path in paths])
        return pictures, pictures
    if config.sprites == "shapes":
        return ShapeSprites(), ShapeSprites()
    if config.sprites == "strokes":
        return StrokeSprites(0), StrokeSprites(1)
    binary = config.sprites == "binary-digits"
    train, held_out = split_digits(digits, seed=config.seed)
    return DigitSprites(train, binary=binary), DigitSprites(held_out, binary=binary)


def _make_scenes(
    config: SceneConfig,
    sprites: Sprites,
    *,
    num_scenes: int,
    random: np.random.RandomState,
    name: str,
    progress: bool,
) -> Scenes:
    (height, width), most = config.canvas, config.max_count
    images = np.empty((num_scenes, config.channels, height, width), dtype=np.uint8)
    num_objects = np.zeros(num_scenes, dtype=np.int64)
    classes = np.full((num_scenes, most), -1, dtype=np.int64)
    boxes = np.full((num_scenes, most, 4), np.nan, dtype=np.float32)
    masks = np.zeros((num_scenes, most, height, packed_width(width)), dtype=np.uint8)
    shares = np.array(config.counts) / sum(config.counts)
    for scene in tqdm(
        range(num_scenes), desc=name, leave=False, disable=None if progress else True
    ):
        count = int(random.choice(most + 1, p=shares))
        canvas = _background(config, random)
        for i, placed in enumerate(_place_sprites(config, sprites, count, random)):
            canvas[:, *placed.where] += placed.pixels
            np.minimum(canvas, 255, out=canvas)
            classes[scene, i] = placed.kind
            boxes[scene, i] = placed.box
            mask = np.zeros((height, width), dtype=bool)
            mask[placed.where] = placed.mask
            masks[scene, i] = pack_masks(mask)
        if config.noise:
            noise = random.standard_normal(canvas.shape) * (255 * config.noise)
            canvas = np.clip(np.rint(canvas + noise), 0, 255)
        images[scene], num_objects[scene] = canvas, count
    return Scenes(
        images=torch.from_numpy(images),
        num_objects=torch.from_numpy(num_objects),
        classes=torch.from_numpy(classes),
        boxes=torch.from_numpy(boxes),
        masks=torch.from_numpy(masks),
        name=name,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Placed:
    """A sprite on a canvas."""

    pixels: NDArray[np.uint8]
    """Shape ``(C, h, w)``."""
    kind: int
    top: int
    left: int

    @property
    def where(self) -> tuple[slice, slice]:
        """Rows and columns of the canvas."""
        height, width = self.pixels.shape[1:]
        return slice(self.top, self.top + height), slice(self.left, self.left + width)

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Which pixels of the patch it lights."""
        return np.asarray(self.pixels.max(axis=0) > 0)

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Around what it lights."""
        return pixel_box(self.mask, self.left, self.top)


def _place_sprites(
    config: SceneConfig, sprites: Sprites, count: int, random: np.random.RandomState
) -> list[_Placed]:
    """Draw sprites and a place for each, with no overlap that is not wanted.

    An object that finds no place makes all of them be drawn again: giving up on large ones alone
    would change what sizes there are.
    """
    for _ in range(_PLACES):
        placed: list[_Placed] = []
        taken = np.zeros(config.canvas, dtype=bool)
        while len(placed) < count:
            pixels, kind = _draw_sprite(config, sprites, random)
            found = _find_place(config, pixels, kind, taken, random)
            if found is None:
                break
            placed.append(found)
            taken[found.where] |= True if config.overlap == "boxes" else found.mask
        if len(placed) == count:
            return placed
    raise ValueError(
        f"{count} objects of {config.size[0]} to {config.size[1]} pixels found no place on a "
        f"canvas of {config.canvas} with overlap={config.overlap}. Take fewer or smaller ones, a "
        "larger canvas, or overlap=clip."
    )


def _draw_sprite(
    config: SceneConfig, sprites: Sprites, random: np.random.RandomState
) -> tuple[NDArray[np.uint8], int]:
    """A sprite's pixels ``(C, h, w)`` and its class."""
    low, high = config.size
    pixels, kind = sprites.draw(int(random.randint(low, high + 1)), random)
    if config.channels == 1:
        return (pixels if pixels.ndim == 2 else pixels.max(axis=2))[None], kind
    if pixels.ndim == 3:
        return pixels.transpose(2, 0, 1), kind
    color = np.array(COLORS[int(random.randint(len(COLORS)))], dtype=np.uint8)
    # Colours are 0 or 255, so this keeps every grey value.
    return np.minimum(pixels[None], color[:, None, None]), kind


def _find_place(
    config: SceneConfig,
    pixels: NDArray[np.uint8],
    kind: int,
    taken: NDArray[np.bool_],
    random: np.random.RandomState,
) -> _Placed | None:
    """A place wholly on the canvas; None if none is free."""
    (height, width), (h, w) = config.canvas, pixels.shape[1:]
    for _ in range(_PLACES):
        top, left = int(random.randint(height - h + 1)), int(random.randint(width - w + 1))
        placed = _Placed(pixels=pixels, kind=kind, top=top, left=left)
        blocked = taken[placed.where]
        if config.overlap == "pixels":
            blocked = blocked & placed.mask
        if config.overlap == "clip" or not blocked.any():
            return placed
    return None


def _background(config: SceneConfig, random: np.random.RandomState) -> NDArray[np.int64]:
    canvas = np.zeros((config.channels, *config.canvas), dtype=np.int64)
    level = round(255 * config.level)
    if config.background == "uniform":
        canvas[:] = level
    elif config.background == "grid":
        top, left = random.randint(config.grid_step, size=2)
        canvas[:, top :: config.grid_step] = level
        canvas[:, :, left :: config.grid_step] = level
    return canvas
