"""The configuration of AIR, checked when made, and the check of images against it."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor

from air.files import is_number, parse_json

__all__ = ["AIRConfig", "check_images"]

Likelihood = Literal["normal", "bernoulli"]
Overlap = Literal["sum", "union"]
InferenceKind = Literal["residual", "paper"]

_MOST_OBJECTS = 1000
_MOST_CANDIDATES = 1000
_MOST_LAYERS = 100
_MOST_PIXELS = 2000
"""Along a side of the canvas: the residual network's weights do not show its size."""


@dataclass(frozen=True, kw_only=True)
class AIRConfig:
    """Everything that makes an :class:`AIR` what it is. Checked when made, JSON in and out.

    The defaults are known to work on scenes of 50x50 with up to three digits of 15-17 pixels.

    Raises:
        ValueError: if a value makes no sense; the message says which and why.
    """

    canvas_size: tuple[int, int] = (50, 50)
    """Height and width of the images in pixels."""
    channels: int = 1
    """1 for grey, 3 for RGB."""
    glimpse_size: tuple[int, int] = (28, 28)
    """Height and width of a glimpse; some more than an object has pixels."""
    max_objects: int = 3
    """T, the most objects that can be found. One more than the data holds lets q(n) be wrong
    on both sides."""
    z_what_size: int = 50
    """D, dimensions of an object's appearance."""
    z_where_mean: tuple[float, float, float] = (3.0, 0.0, 0.0)
    """Prior mean of (s, x, y). The scale s is about canvas size over object size."""
    z_where_sd: tuple[float, float, float] = (0.2, 1.0, 1.0)
    """Prior standard deviation of (s, x, y)."""
    continue_prob: float = 0.01
    """Prior probability of one more object. Small: an object must earn its place."""
    learn_continue_prob: bool = False
    """Whether ``continue_prob`` is learned. From the start on it explains one digit with two."""
    likelihood: Likelihood = "normal"
    """p(x | z): ``normal`` for grey values, ``bernoulli`` for binary images."""
    likelihood_sd: float = 0.3
    """Standard deviation of a pixel (normal only). Sharper ones are more easily stuck."""
    overlap: Overlap = "sum"
    """What objects that overlap show: their ``sum``, or their ``union``, which stays inside [0, 1],
    for scenes whose sum is clipped. A Bernoulli's probabilities are always a union."""
    inference: InferenceKind = "residual"
    """The inference network: ``residual`` looks where the image is not explained yet
    (:mod:`air.residual_inference`); ``paper`` is the paper's, an LSTM over all pixels."""
    num_candidates: int = 10
    """Places that the residual network compares at each step. May be changed after training: more
    of them read better, and take longer."""
    train_candidates: int = 5
    """As many in training mode: enough to learn from, in half the time."""
    lstm_size: int = 256
    """Size of the hidden state of the paper's LSTM."""
    predictor_hidden: tuple[int, ...] = (200,)
    """Hidden sizes of the paper's step predictor."""
    encoder_hidden: tuple[int, ...] = (200,)
    """Hidden sizes of the glimpse encoder."""
    decoder_hidden: tuple[int, ...] = (200,)
    """Hidden sizes of the glimpse decoder."""
    decoder_bias: float = -2.0
    """Added to the decoder's logits, so that objects start dark."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, list):
                value = tuple(value)
                object.__setattr__(self, field.name, value)
            _check_type(field.name, value, field.type)
            if field.type == tuple[float, float, float]:
                # (3, 0, 0) would make a prior of integers.
                object.__setattr__(self, field.name, tuple(map(float, value)))
        for name in ("canvas_size", "glimpse_size"):
            if min(getattr(self, name)) < 2:
                raise ValueError(f"{name} must be at least (2, 2), got {getattr(self, name)}.")
        if max(self.canvas_size) > _MOST_PIXELS:
            raise ValueError(
                f"canvas_size must be at most {(_MOST_PIXELS,) * 2}, got {self.canvas_size}."
            )
        if self.channels not in (1, 3):
            raise ValueError(f"channels must be 1 (grey) or 3 (RGB), got {self.channels}.")
        for name in (
            "max_objects",
            "z_what_size",
            "lstm_size",
            "num_candidates",
            "train_candidates",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        # Every size but these shows in the weights: a file cannot make it absurd unnoticed.
        for name, most in (
            ("max_objects", _MOST_OBJECTS),
            ("num_candidates", _MOST_CANDIDATES),
            ("train_candidates", _MOST_CANDIDATES),
        ):
            if getattr(self, name) > most:
                raise ValueError(f"{name} must be at most {most}, got {getattr(self, name)}.")
        for name in (
            "predictor_hidden",
            "encoder_hidden",
            "decoder_hidden",
        ):
            sizes = getattr(self, name)
            if len(sizes) > _MOST_LAYERS:
                raise ValueError(
                    f"{name} must hold at most {_MOST_LAYERS} sizes, got {len(sizes)}."
                )
            if any(size < 1 for size in sizes):
                raise ValueError(f"{name} must hold sizes of at least 1, got {sizes}.")
        if not self.z_where_mean[0] > 0:
            raise ValueError(
                f"z_where_mean must start with a scale above 0, got {self.z_where_mean}."
            )
        if not min(self.z_where_sd) > 0:
            raise ValueError(f"z_where_sd must be above 0, got {self.z_where_sd}.")
        if not 0 < self.continue_prob < 1:
            raise ValueError(
                f"continue_prob must lie between 0 and 1, both excluded, got {self.continue_prob}."
            )
        for name, known in (
            ("likelihood", Likelihood),
            ("overlap", Overlap),
            ("inference", InferenceKind),
        ):
            if getattr(self, name) not in get_args(known):
                raise ValueError(
                    f"unknown {name} {getattr(self, name)!r}. "
                    f"Expected one of: {', '.join(sorted(get_args(known)))}."
                )
        if not self.likelihood_sd > 0:
            raise ValueError(f"likelihood_sd must be above 0, got {self.likelihood_sd}.")

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(C, H, W)``."""
        return (self.channels, *self.canvas_size)

    @property
    def glimpse_shape(self) -> tuple[int, int, int]:
        """``(C, h, w)``."""
        return (self.channels, *self.glimpse_size)

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain data, ready for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """The inverse of :meth:`to_dict`. Fields left out take their defaults.

        Raises:
            ValueError: if a field is unknown, or its value makes no sense.
        """
        if not isinstance(fields, dict):
            raise ValueError(f"a config must be an object of fields, got {type(fields).__name__}.")
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(set(fields) - set(known))
        if unknown:
            raise ValueError(
                f"unknown config field(s): {', '.join(map(repr, unknown))}. "
                f"Expected some of: {', '.join(known)}."
            )
        return cls(**fields)

    def to_json(self) -> str:
        """The fields as a JSON object."""
        return json.dumps(self.to_dict(), indent=2)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The inverse of :meth:`to_json`.

        Raises:
            ValueError: if the text is no JSON object of known fields.
        """
        return cls.from_dict(parse_json(text, "the configuration"))


def check_images(images: Tensor, config: AIRConfig) -> None:
    """Check that a batch of images fits a model.

    Args:
        images: should be ``(B, C, H, W)``, float in [0, 1] or uint8.
        config: of the model.

    Raises:
        ValueError: if rank, channels, size, type or range are wrong, an image holds NaN, or
            the batch is empty.
    """
    expected = f"(B, {config.channels}, {config.canvas_size[0]}, {config.canvas_size[1]})"
    problem = f"images must have shape {expected} for this model, got {tuple(images.shape)}."
    if images.dim() == 3:
        if config.channels == 1 and tuple(images.shape[1:]) == config.canvas_size:
            raise ValueError(f"{problem} Add the channel axis: images[:, None].")
        raise ValueError(f"{problem} Add the batch axis: images[None].")
    if images.dim() != 4:
        raise ValueError(problem)
    if tuple(images.shape[1:]) != config.image_shape:
        if tuple(images.shape[1:3]) == config.canvas_size and images.shape[3] <= 4:
            raise ValueError(f"{problem} Move the channels: images.permute(0, 3, 1, 2).")
        if images.shape[1] in (2, 4) and tuple(images.shape[2:]) == config.canvas_size:
            raise ValueError(f"{problem} Leave out the alpha channel: images[:, :-1].")
        raise ValueError(
            f"{problem} Resize or convert them, or make the model with "
            f"AIRConfig(canvas_size={tuple(images.shape[2:])}, channels={images.shape[1]})."
        )
    if len(images) == 0:
        raise ValueError("the batch is empty: images must hold at least one image.")
    if images.dtype == torch.uint8:
        return
    if not images.is_floating_point():
        raise ValueError(
            f"images must be float in [0, 1] or uint8, got {images.dtype}. "
            "Convert them: images.to(torch.uint8), or images.float() / 255."
        )
    low, high = (bound.item() for bound in images.aminmax())
    if not (low >= 0 and high <= 1):
        if low != low or high != high:
            count = int(images.isnan().sum())
            raise ValueError(
                f"images hold {count} NaN value(s). Remove or repair those images first."
            )
        hint = (
            "They look like 0-255: divide by 255, or pass uint8."
            if low >= 0
            else "Shift and scale them, such as (images + 1) / 2 for [-1, 1]."
        )
        raise ValueError(f"images must lie in [0, 1], got [{low:g}, {high:g}]. {hint}")


def _check_type(name: str, value: object, expected: Any) -> None:
    """Refuse a value of the wrong type, where JSON or a caller's slip could bring one."""
    if expected is float:
        good = is_number(value)
    elif expected is int:
        good = _is_size(value)
    elif expected is bool:
        good = isinstance(value, bool)
    elif expected in (tuple[int, int], tuple[int, ...]):
        good = isinstance(value, tuple) and all(map(_is_size, value))
        good = good and (expected == tuple[int, ...] or len(value) == 2)  # type: ignore[arg-type]
    elif expected == tuple[float, float, float]:
        good = isinstance(value, tuple) and len(value) == 3
        good = good and all(map(is_number, value))  # type: ignore[call-overload]
    else:
        good = isinstance(value, str)
    if not good:
        wanted = getattr(expected, "__name__", str(expected))
        if str(expected).startswith("tuple"):
            wanted = str(expected)
        raise ValueError(f"{name} must be of type {wanted} and finite, got {_short(value)}.")


def _is_size(value: object) -> bool:
    return type(value) is int and abs(value) < 2**31


def _short(value: object) -> str:
    """What it is, in a few words: a number can have more digits than Python will print."""
    try:
        text = repr(value)
    except ValueError:
        return "a number of thousands of digits"
    return text if len(text) <= 100 else f"{text[:100]}..."
