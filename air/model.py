"""AIR: its configuration, and the model that joins the two halves."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor, nn

from air.distributions import NumSteps
from air.elbo import count_tensors, elbo_parts, importance_bound, log_weights
from air.generative import BernoulliLikelihood, GenerativeModel, NormalLikelihood
from air.inference import InferenceNetwork
from air.networks import MLP, GlimpseDecoder, GlimpseEncoder, ImageLSTM, StepPredictor
from air.priors import Prior, PriorNetwork
from air.spatial_transformer import boxes_in_pixels
from air.types import AIROutput, ImportanceBound, Inference, Sample

__all__ = ["AIR", "AIRConfig"]

Likelihood = Literal["normal", "bernoulli"]


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
    lstm_size: int = 256
    """Size of the LSTM's hidden state."""
    image_embedding: tuple[int, ...] = ()
    """Hidden sizes of an MLP between the image and the LSTM; none by default."""
    predictor_hidden: tuple[int, ...] = (200,)
    """Hidden sizes of the step predictor."""
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
        for name in ("canvas_size", "glimpse_size"):
            if min(getattr(self, name)) < 2:
                raise ValueError(f"{name} must be at least (2, 2), got {getattr(self, name)}.")
        if self.channels not in (1, 3):
            raise ValueError(f"channels must be 1 (grey) or 3 (RGB), got {self.channels}.")
        for name in ("max_objects", "z_what_size", "lstm_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        for name in ("image_embedding", "predictor_hidden", "encoder_hidden", "decoder_hidden"):
            sizes = getattr(self, name)
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
        if self.likelihood not in get_args(Likelihood):
            raise ValueError(
                f"unknown likelihood {self.likelihood!r}. "
                f"Expected one of: {', '.join(sorted(get_args(Likelihood)))}."
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
        return cls.from_dict(json.loads(text))


class AIR(nn.Module):
    """Attend, Infer, Repeat (Eslami et al., 2016).

    Finds, without labels, how many objects an image holds, where each is and what each looks
    like. To train it, give it to an estimator (:mod:`air.estimators`).

    Args:
        config: sizes and settings.

    Attributes:
        validate_args: whether images are checked for shape, range and NaN at each call. A
            training loop that has checked its data once may turn it off.

    Example:
        >>> model = AIR(AIRConfig(canvas_size=(32, 40), glimpse_size=(16, 16)))
        >>> images = torch.rand(8, 1, 32, 40)
        >>> model(images).elbo.shape
        torch.Size([1, 8])
        >>> model.infer(images).boxes.shape
        torch.Size([8, 3, 4])
    """

    def __init__(self, config: AIRConfig | None = None) -> None:
        super().__init__()
        config = AIRConfig() if config is None else config
        self.config = config
        self.validate_args = True
        channels, height, width = config.image_shape
        image_features = channels * height * width
        embedding: nn.Module = nn.Identity()
        if config.image_embedding:
            *hidden, features = config.image_embedding
            embedding = nn.Sequential(MLP(image_features, hidden, features), nn.ReLU())
            image_features = features
        self.inference = InferenceNetwork(
            embedding=embedding,
            lstm=ImageLSTM(image_features, 3 + config.z_what_size, config.lstm_size),
            predictor=StepPredictor(config.lstm_size, config.predictor_hidden),
            encoder=GlimpseEncoder(config.glimpse_shape, config.encoder_hidden, config.z_what_size),
            max_objects=config.max_objects,
            z_what_size=config.z_what_size,
            glimpse_size=config.glimpse_size,
        )
        self.generative = GenerativeModel(
            prior=PriorNetwork(
                max_objects=config.max_objects,
                z_what_size=config.z_what_size,
                continue_prob=config.continue_prob,
                learn_continue_prob=config.learn_continue_prob,
                z_where_mean=config.z_where_mean,
                z_where_sd=config.z_where_sd,
            ),
            decoder=GlimpseDecoder(
                config.z_what_size,
                config.decoder_hidden,
                config.glimpse_shape,
                config.decoder_bias,
            ),
            likelihood=(
                NormalLikelihood(config.likelihood_sd)
                if config.likelihood == "normal"
                else BernoulliLikelihood()
            ),
            canvas_size=config.canvas_size,
        )

    def prior(self, continue_prob: float | Tensor | None = None) -> Prior:
        """The prior, with another probability of one more object where one is given.

        Args:
            continue_prob: such as a schedule's value at this step; default: the model's own.
        """
        return self.generative.prior(continue_prob)

    def forward(
        self,
        images: Tensor,
        prior: Prior | None = None,
        *,
        num_samples: int = 1,
        likelihood_sd: float | Tensor | None = None,
    ) -> AIROutput:
        """Unroll once, as if every step were present, and evaluate every count.

        Args:
            images: ``(B, C, H, W)``, float in [0, 1] or uint8 (0 to 255).
            prior: default: the model's own.
            num_samples: K, independent rollouts of each image.
            likelihood_sd: another standard deviation of a pixel than the model's.

        Raises:
            ValueError: if the images do not fit the model, or ``num_samples`` is below 1.
        """
        images = self._as_input(images)
        if num_samples < 1:
            raise ValueError(f"num_samples must be at least 1, got {num_samples}.")
        prior = self.prior() if prior is None else prior
        rollout = self.inference(images, prior.z_where, num_samples)
        objects = self.generative.render(rollout.z_where, rollout.z_what)
        log_likelihood = self.generative.log_likelihood(images, objects, likelihood_sd)
        counts = count_tensors(rollout, log_likelihood, prior)
        return AIROutput(
            rollout=rollout, counts=counts, elbo_parts=elbo_parts(counts), objects=objects
        )

    @torch.no_grad()
    def sample(
        self,
        num_images: int,
        prior: Prior | None = None,
        *,
        num_objects: int | Tensor | None = None,
    ) -> Sample:
        """Draw scenes from the generative model.

        Args:
            num_images: N.
            prior: default: the model's own, under which most scenes are empty.
            num_objects: how many objects each scene shall have, one number or int64 ``(N,)``.

        Raises:
            ValueError: if a number of objects is below 0 or above ``max_objects``.
        """
        prior = self.prior() if prior is None else prior
        if num_objects is not None:
            device = prior.z_where.loc.device
            num_objects = torch.as_tensor(num_objects, device=device).expand(num_images)
            if num_images and not 0 <= num_objects.min() <= num_objects.max() <= self.max_objects:
                raise ValueError(
                    f"num_objects must lie between 0 and max_objects = {self.max_objects}, "
                    f"got {num_objects.tolist()}."
                )
        return self.generative.sample(num_images, prior, num_objects)

    @torch.no_grad()
    def infer(self, images: Tensor, *, batch_size: int = 500) -> Inference:
        """Read images: counts, boxes, appearances and reconstruction. Deterministic.

        Latents are taken at their means, the count at its most probable value.

        Args:
            images: ``(B, C, H, W)``, float in [0, 1] or uint8 (0 to 255).
            batch_size: how many images are in work at a time; bounds the memory.

        Raises:
            ValueError: if the images do not fit the model.
        """
        parts = [self._infer(self._as_input(chunk)) for chunk in _chunks(images, batch_size)]
        fields = [field.name for field in dataclasses.fields(Inference)]
        return Inference(
            **{name: torch.cat([getattr(part, name) for part in parts]) for name in fields}
        )

    @torch.no_grad()
    def log_likelihood(
        self,
        images: Tensor,
        num_samples: int = 100,
        prior: Prior | None = None,
        *,
        samples_at_once: int = 10,
        likelihood_sd: float | Tensor | None = None,
    ) -> ImportanceBound:
        """A lower bound of log p(x), importance-weighted, with n summed out exactly.

        Burda et al. (2016), from *sampled* log weights; grows towards log p(x) with K.

        Args:
            images: ``(B, C, H, W)``, float in [0, 1] or uint8 (0 to 255).
            num_samples: K.
            prior: default: the model's own.
            samples_at_once: how many rollouts of each image are in memory at a time.
            likelihood_sd: another standard deviation of a pixel than the model's.

        Raises:
            ValueError: if the images do not fit the model, or ``num_samples`` is below 1.
        """
        images = self._as_input(images)
        if num_samples < 1 or samples_at_once < 1:
            raise ValueError(
                "num_samples and samples_at_once must be at least 1, "
                f"got {num_samples} and {samples_at_once}."
            )
        prior = self.prior() if prior is None else prior
        weights = []
        for start in range(0, num_samples, samples_at_once):
            chunk = min(samples_at_once, num_samples - start)
            output = self(images, prior, num_samples=chunk, likelihood_sd=likelihood_sd)
            weights.append(log_weights(output.rollout, output.counts, prior))
        return importance_bound(torch.cat(weights))

    @property
    def max_objects(self) -> int:
        """T, the most objects that can be found."""
        return self.config.max_objects

    def _infer(self, images: Tensor) -> Inference:
        rollout = self.inference(images, self.prior().z_where, use_means=True)
        num_steps = NumSteps(rollout.continue_logits[0], validate_args=False)
        z_where, z_what = rollout.z_where[0], rollout.z_what[0]
        objects = self.generative.render(z_where, z_what)
        counts = num_steps.mode
        rows = torch.arange(len(images), device=images.device)
        present = torch.arange(self.max_objects, device=images.device) < counts[:, None]
        absent = ~present.unsqueeze(-1)
        return Inference(
            counts=counts,
            count_probs=num_steps.probs,
            boxes=boxes_in_pixels(z_where, self.config.canvas_size).masked_fill(
                absent, float("nan")
            ),
            z_where=z_where.masked_fill(absent, float("nan")),
            z_what=z_what.masked_fill(absent, float("nan")),
            canvas=self.generative.canvases(objects)[rows, counts],
            objects=objects * present[:, :, None, None, None],
        )

    def _as_input(self, images: Tensor) -> Tensor:
        """Images as the model reads them; an error says what does not fit."""
        if self.validate_args:
            check_images(images, self.config)
        if images.dtype == torch.uint8:
            return images.to(self._dtype) / 255
        return images

    @property
    def _dtype(self) -> torch.dtype:
        return self.generative.prior.z_where_mean.dtype


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
        if tuple(images.shape[1:]) == (*config.canvas_size, config.channels):
            raise ValueError(f"{problem} Move the channels: images.permute(0, 3, 1, 2).")
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


def _chunks(images: Tensor, size: int) -> list[Tensor]:
    """Split along the batch; an empty batch stays one chunk, for the checks to refuse."""
    if size < 1:
        raise ValueError(f"batch_size must be at least 1, got {size}.")
    return list(images.split(size)) if images.dim() and len(images) else [images]


def _check_type(name: str, value: object, expected: Any) -> None:
    """Refuse a value of the wrong type, where JSON or a caller's slip could bring one."""
    if expected in (int, float, bool):
        kinds: tuple[type, ...] = (int, float) if expected is float else (expected,)
        good = isinstance(value, kinds) and (expected is bool or not isinstance(value, bool))
    elif expected in (tuple[int, int], tuple[int, ...]):
        good = isinstance(value, tuple) and all(type(item) is int for item in value)
        good = good and (expected == tuple[int, ...] or len(value) == 2)  # type: ignore[arg-type]
    elif expected == tuple[float, float, float]:
        good = isinstance(value, tuple) and len(value) == 3
        good = good and all(type(item) in (int, float) for item in value)  # type: ignore[attr-defined]
    else:
        good = isinstance(value, str)
    if not good:
        wanted = getattr(expected, "__name__", str(expected))
        if str(expected).startswith("tuple"):
            wanted = str(expected)
        raise ValueError(f"{name} must be of type {wanted}, got {value!r}.")
