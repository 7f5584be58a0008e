"""Scenes made to order: how many objects, how large, on which canvas and background.

A scene is a background, plus the sprites one after another, clipped at white, plus noise. Where
they lie, of what they are and how many is drawn from one stream of random numbers a half, so the
first scenes of a half do not depend on how many follow.
"""

import dataclasses
import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from experiments.datasets.image_files import image_paths, read_image
from experiments.datasets.mnist import Digits
from experiments.datasets.multi_mnist import SEED, pixel_box, split_digits
from experiments.datasets.object_scale import LEAST_SD, MARGIN
from experiments.datasets.scenes import DataSplits, Scenes, pack_masks, packed_width
from experiments.datasets.sprites import (
    COLORS,
    DigitSprites,
    PictureSprites,
    ShapeSprites,
    Sprites,
)

__all__ = ["PREFIX", "SceneConfig", "generate", "parse_scenes"]

PREFIX = "scenes:"
"""Of a data set's name on the command line; the rest says how to make it."""

Overlap = Literal["clip", "pixels", "boxes"]
Background = Literal["black", "uniform", "grid"]

_MOST_PIXELS = 1 << 33
_MAX_SPRITE_BYTES = 1 << 28
_FILLS = {"digits": 0.77, "binary-digits": 0.72, "shapes": 0.9}
"""Longer side of what a sprite lights, on average, over its patch's; pictures fill theirs."""

_PLACES = 100
"""Places tried for an object, and scenes begun anew, before it is taken for impossible."""


@dataclass(frozen=True, kw_only=True)
class SceneConfig:
    """How to make scenes. As text it is a data set's name, see :func:`parse_scenes`.

    Raises:
        ValueError: if a value makes no sense; the message says which and why.
    """

    canvas: tuple[int, int] = (50, 50)
    """Height and width in pixels."""
    counts: tuple[float, ...] = (1.0, 1.0, 1.0)
    """How probable 0, 1, 2 ... objects are; need not sum to 1."""
    size: tuple[int, int] = (18, 18)
    """Least and greatest size of a sprite in pixels, its longer side; uniform between them."""
    sprites: str = "digits"
    """``digits``, ``binary-digits``, ``shapes``, or a folder of pictures on black (or with
    transparency)."""
    colors: int = 0
    """0 for grey images, 7 for RGB ones whose white and grey sprites take one of seven colours."""
    overlap: Overlap = "clip"
    """``clip``: objects lie anywhere, and their sum is clipped. ``pixels``: no pixel is lit by two.
    ``boxes``: no two sprites' patches overlap."""
    background: Background = "black"
    """``black``, ``uniform`` (grey) or ``grid`` (grey lines on black, shifted from scene to
    scene)."""
    level: float = 0.25
    """Grey value of a background that is not black, in [0, 1]."""
    grid_step: int = 10
    """Pixels from one line of a grid to the next."""
    noise: float = 0.0
    """Standard deviation of the noise added to each pixel and channel, in units of white."""
    train: int = 54_000
    """Scenes to learn from."""
    held_out: int = 6_000
    """Scenes to judge by."""
    seed: int = SEED
    """Decides on everything else."""

    def __post_init__(self) -> None:
        for name in ("canvas", "size"):
            if min(getattr(self, name)) < 2:
                raise ValueError(f"{name} must be at least 2 pixels, got {getattr(self, name)}.")
        if self.size[0] > self.size[1] or self.size[1] > min(self.canvas):
            raise ValueError(
                f"size must go from the least to the greatest that fits the canvas of "
                f"{self.canvas}, got {self.size}."
            )
        counts = self.counts
        if not counts or not all(math.isfinite(p) and p >= 0 for p in counts) or not sum(counts):
            raise ValueError(f"counts must be weights of at least 0, not all 0, got {counts}.")
        if len(counts) > 101:
            raise ValueError(f"a scene may hold at most 100 objects, got {len(counts) - 1}.")
        for name, kinds in (("overlap", Overlap), ("background", Background)):
            if getattr(self, name) not in get_args(kinds):
                raise ValueError(
                    f"unknown {name} {getattr(self, name)!r}. "
                    f"Expected one of: {', '.join(get_args(kinds))}."
                )
        if self.colors not in (0, len(COLORS)):
            raise ValueError(f"colors must be 0 (grey) or {len(COLORS)}, got {self.colors}.")
        for name in ("level", "noise"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}.")
        for name, least in (("grid_step", 2), ("train", 1), ("held_out", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}.")
        if self.seed >= 1 << 32:
            raise ValueError(f"seed must be below 2**32, got {self.seed}.")
        pixels = (self.train + self.held_out) * self.channels * math.prod(self.canvas)
        if pixels > _MOST_PIXELS:
            raise ValueError(
                f"these scenes would take {pixels / 1e9:.0f} GB. Lower train, held_out or canvas, "
                "or write shards chunk by chunk."
            )

    @property
    def channels(self) -> int:
        """1 for grey, 3 for RGB."""
        return 3 if self.colors else 1

    @property
    def max_count(self) -> int:
        """The most objects in a scene."""
        return len(self.counts) - 1

    @property
    def scale(self) -> tuple[float, float]:
        """Mean and standard deviation of s that fit the sizes: see ``object_scale``."""
        fill = _FILLS.get(self.sprites, 1.0)
        sizes = np.arange(self.size[0], self.size[1] + 1)
        scales = min(self.canvas) / (MARGIN * fill * sizes)
        return round(float(scales.mean()), 2), max(LEAST_SD, round(float(scales.std()), 2))

    @property
    def name(self) -> str:
        """The data set's name: what differs from the defaults, in a fixed order."""
        parts = [
            f"{field.name}={_to_text(field.name, getattr(self, field.name))}"
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        ]
        return PREFIX + ",".join(parts)

    @property
    def sprite_folder(self) -> Path | None:
        """The folder of pictures that sprites are read from, if they are."""
        known = self.sprites in ("digits", "binary-digits", "shapes")
        return None if known else Path(self.sprites).expanduser()

    def fingerprint(self) -> str:
        """SHA-256 of all that the scenes depend on, in hexadecimal.

        Raises:
            OSError: if a sprite cannot be read.
            ValueError: if there are no sprites.
        """
        digest = hashlib.sha256(self.name.encode())
        if self.sprite_folder is not None:
            for path in _sprite_paths(self.sprite_folder):
                digest.update(hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()

    @classmethod
    def from_text(cls, text: str) -> Self:
        """The inverse of :attr:`name`; the prefix is left out.

        Raises:
            ValueError: if a setting is unknown or not what it should be.
        """
        fields: dict[str, Any] = {}
        for part in filter(None, text.split(",")):
            key, _, value = part.partition("=")
            if key == "max_objects":
                key, value = "counts", "/".join(["1"] * (_number(key, value, int) + 1))
            if key not in _PARSERS:
                raise ValueError(
                    f"unknown setting {key!r} of {PREFIX}{text}. Expected some of: "
                    f"{', '.join(['max_objects', *_PARSERS])}, as in "
                    f"{PREFIX}canvas=100,max_objects=6,background=grid."
                )
            if key in fields:
                raise ValueError(f"{PREFIX}{text} says {key} twice.")
            fields[key] = _PARSERS[key](key, value)
        return cls(**fields)


def parse_scenes(name: str) -> SceneConfig:
    """What ``scenes:KEY=VALUE,...`` asks for.

    ``canvas=64`` or ``canvas=48x64`` (height, width); ``max_objects=6``, all counts up to it
    equally often, or ``counts=0.2/0.5/0.3``; ``size=18`` or ``size=9-18``; the others are as
    :class:`SceneConfig` names them.

    >>> parse_scenes("scenes:canvas=100,max_objects=6,background=grid").canvas
    (100, 100)

    Raises:
        ValueError: if a setting is unknown or not what it should be.
    """
    return SceneConfig.from_text(name.removeprefix(PREFIX))


def generate(
    config: SceneConfig, digits: Digits, *, name: str | None = None, progress: bool = False
) -> DataSplits:
    """Make scenes.

    Args:
        config: how.
        digits: for sprites that are digits. The halves draw on different ones, see
            :func:`experiments.datasets.multi_mnist.split_digits`; other sprites are the same
            in both.
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
        paths = _sprite_paths(config.sprite_folder)
        pictures = PictureSprites([read_image(path) for path in paths])
        return pictures, pictures
    if config.sprites == "shapes":
        return ShapeSprites(), ShapeSprites()
    binary = config.sprites == "binary-digits"
    train, held_out = split_digits(digits, seed=config.seed)
    return DigitSprites(train, binary=binary), DigitSprites(held_out, binary=binary)


def _sprite_paths(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise ValueError(
            f"unknown sprites {str(folder)!r}. Expected digits, binary-digits, shapes, or a folder "
            "of pictures."
        )
    paths = image_paths(folder)
    if not paths:
        raise ValueError(f"{folder} holds no picture. Expected PNG, JPEG or TIFF files.")
    if sum(path.stat().st_size for path in paths) > _MAX_SPRITE_BYTES:
        raise ValueError(f"the sprites in {folder} are more than {_MAX_SPRITE_BYTES >> 20} MiB.")
    return paths


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


def _to_text(name: str, value: Any) -> str:
    if name == "canvas":
        return str(value[0]) if value[0] == value[1] else f"{value[0]}x{value[1]}"
    if name == "size":
        return str(value[0]) if value[0] == value[1] else f"{value[0]}-{value[1]}"
    if name == "counts":
        return "/".join(f"{share:g}" for share in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _number(name: str, text: str, kind: type) -> Any:
    try:
        value = kind(text)
    except ValueError as error:
        wanted = "a whole number" if kind is int else "a number"
        raise ValueError(f"{name} must be {wanted}, got {text!r}.") from error
    if not math.isfinite(value) or abs(value) > 1e9:
        raise ValueError(f"{name} must be a sensible number, got {text}.")
    return value


def _pair(name: str, text: str, separator: str) -> tuple[int, int]:
    first, _, second = text.partition(separator)
    return _number(name, first, int), _number(name, second or first, int)


_PARSERS: dict[str, Any] = {
    "canvas": lambda name, text: _pair(name, text, "x"),
    "counts": lambda name, text: tuple(_number(name, part, float) for part in text.split("/")),
    "size": lambda name, text: _pair(name, text, "-"),
    **dict.fromkeys(("sprites", "overlap", "background"), lambda name, text: text),
    **dict.fromkeys(("level", "noise"), lambda name, text: _number(name, text, float)),
    **dict.fromkeys(
        ("colors", "grid_step", "train", "held_out", "seed"),
        lambda name, text: _number(name, text, int),
    ),
}
