"""What scenes made to order shall be like: settings, and the text that names them."""

import dataclasses
import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np

from air.object_size import LEAST_SCALE_SD, MARGIN
from experiments.datasets.image_files import image_paths
from experiments.datasets.multi_mnist import SEED
from experiments.datasets.scenes import packed_width
from experiments.datasets.sprites import COLORS
from experiments.files import is_number, read_file

__all__ = ["PREFIX", "SceneConfig", "parse_scenes", "sprite_paths"]

PREFIX = "scenes:"
"""Of a data set's name on the command line; the rest says how to make it."""

Overlap = Literal["clip", "pixels", "boxes"]
Background = Literal["black", "uniform", "grid"]

_MOST_BYTES = 1 << 33
"""Of the images and masks of a data set."""
_MOST_OBJECTS = 100
_MAX_SPRITE_BYTES = 1 << 28
_FILLS = {"digits": 0.77, "binary-digits": 0.72, "shapes": 0.9, "strokes": 1.0}
"""Longer side of what a sprite lights, on average, over its patch's; pictures fill theirs."""


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
    """``digits``, ``binary-digits``, ``shapes``, ``strokes`` (made-up characters), or a folder of
    pictures on black (or with transparency)."""
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
        if self.max_count > _MOST_OBJECTS:
            raise ValueError(
                f"a scene may hold at most {_MOST_OBJECTS} objects, got {self.max_count}."
            )
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
        masks = self.max_count * self.canvas[0] * packed_width(self.canvas[1])
        size = (self.train + self.held_out) * (self.channels * math.prod(self.canvas) + masks)
        if size > _MOST_BYTES:
            raise ValueError(
                f"these scenes would take {size / 1e9:.0f} GB. Lower train, held_out, canvas or "
                "the number of objects, or write shards chunk by chunk."
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
        """Mean and standard deviation of s that fit the sizes: see :mod:`air.object_size`."""
        fill = _FILLS.get(self.sprites, 1.0)
        sizes = np.arange(self.size[0], self.size[1] + 1)
        scales = min(self.canvas) / (MARGIN * fill * sizes)
        return round(float(scales.mean()), 2), max(LEAST_SCALE_SD, round(float(scales.std()), 2))

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
        return None if self.sprites in _FILLS else Path(self.sprites).expanduser()

    def fingerprint(self) -> str:
        """SHA-256 of all that the scenes depend on, in hexadecimal.

        Raises:
            OSError: if a sprite cannot be read.
            ValueError: if there are no sprites.
        """
        digest = hashlib.sha256(self.name.encode())
        if self.sprite_folder is not None:
            for path in sprite_paths(self.sprite_folder):
                digest.update(hashlib.sha256(read_file(path, _MAX_SPRITE_BYTES)).digest())
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
                most = _number(key, value, int)
                if not 0 <= most <= _MOST_OBJECTS:
                    raise ValueError(f"{key} must lie between 0 and {_MOST_OBJECTS}, got {most}.")
                key, value = "counts", "/".join(["1"] * (most + 1))
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


def sprite_paths(folder: Path) -> list[Path]:
    """The pictures of sprites in a folder.

    Raises:
        ValueError: if there is no such folder, no picture in it, or too much.
    """
    if not folder.is_dir():
        raise ValueError(
            f"unknown sprites {str(folder)!r}. Expected {', '.join(_FILLS)}, or a folder of "
            "pictures."
        )
    paths = image_paths(folder)
    if not paths:
        raise ValueError(f"{folder} holds no picture. Expected PNG, JPEG or TIFF files.")
    if sum(path.stat().st_size for path in paths) > _MAX_SPRITE_BYTES:
        raise ValueError(f"the sprites in {folder} are more than {_MAX_SPRITE_BYTES >> 20} MiB.")
    return paths


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
    if not is_number(value) or abs(value) >= 1 << 32:
        raise ValueError(f"{name} must be a sensible number, got {text[:100]}.")
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
