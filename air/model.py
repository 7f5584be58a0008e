"""AIR: the model that joins the two halves."""

import dataclasses

import torch
from torch import Tensor, nn

from air.config import AIRConfig, check_images
from air.distributions import NumSteps
from air.elbo import (
    count_posterior,
    count_tensors,
    elbo_parts,
    importance_bound,
    log_weights_by_count,
)
from air.generative import BernoulliLikelihood, Canvas, GenerativeModel, NormalLikelihood
from air.inference import InferenceNetwork
from air.networks import MLP, GlimpseDecoder, GlimpseEncoder, ImageLSTM, StepPredictor
from air.priors import Prior, PriorNetwork
from air.spatial_transformer import boxes_in_pixels
from air.types import AIROutput, CountPosterior, ImportanceBound, Inference, Rollout, Sample

__all__ = ["AIR"]


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
            lstm=ImageLSTM(
                image_features,
                3 + config.z_what_size,
                config.lstm_size,
                memory=config.step_input != "difference-only",
            ),
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
        detach_samples: bool = False,
    ) -> AIROutput:
        """Unroll once, as if every step were present, and evaluate every count.

        Args:
            images: ``(B, C, H, W)``, float in [0, 1] or uint8 (0 to 255).
            prior: default: the model's own.
            num_samples: K, independent rollouts of each image.
            likelihood_sd: another standard deviation of a pixel than the model's.
            detach_samples: let no gradient pass through the latents' draws.

        Raises:
            ValueError: if the images do not fit the model, or ``num_samples`` is below 1.
        """
        images = self.as_input(images)
        if num_samples < 1:
            raise ValueError(f"num_samples must be at least 1, got {num_samples}.")
        prior = self.prior() if prior is None else prior
        rollout, objects = self._unroll(images, prior, num_samples, detach_samples=detach_samples)
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
        parts = [self._infer(self.as_input(chunk)) for chunk in _chunks(images, batch_size)]
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
        weights, _ = self._weigh(images, num_samples, prior, samples_at_once, likelihood_sd)
        return importance_bound(weights.logsumexp(dim=-1))

    @torch.no_grad()
    def count_posterior(
        self,
        images: Tensor,
        num_samples: int = 100,
        prior: Prior | None = None,
        *,
        samples_at_once: int = 10,
        likelihood_sd: float | Tensor | None = None,
    ) -> CountPosterior:
        """p(n | x) of the model, by importance weighting, beside the network's q(n | x).

        The same rollouts and weights as :meth:`log_likelihood`, with n kept. Consistent: the
        estimate is p(n | x) as K grows, for any q. Where ``ess`` is near 1, K is too small.

        Args:
            images: ``(B, C, H, W)``, float in [0, 1] or uint8 (0 to 255).
            num_samples: K.
            prior: default: the model's own.
            samples_at_once: how many rollouts of each image are in memory at a time.
            likelihood_sd: another standard deviation of a pixel than the model's.

        Raises:
            ValueError: if the images do not fit the model, or ``num_samples`` is below 1.
        """
        return count_posterior(
            *self._weigh(images, num_samples, prior, samples_at_once, likelihood_sd)
        )

    @property
    def max_objects(self) -> int:
        """T, the most objects that can be found."""
        return self.config.max_objects

    def _weigh(
        self,
        images: Tensor,
        num_samples: int,
        prior: Prior | None,
        samples_at_once: int,
        likelihood_sd: float | Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Log weights and log q(n), by count, of K rollouts: ``(K, B, T + 1)`` each."""
        images = self.as_input(images)
        if num_samples < 1 or samples_at_once < 1:
            raise ValueError(
                "num_samples and samples_at_once must be at least 1, "
                f"got {num_samples} and {samples_at_once}."
            )
        prior = self.prior() if prior is None else prior
        weights, log_q = [], []
        for start in range(0, num_samples, samples_at_once):
            chunk = min(samples_at_once, num_samples - start)
            output = self(images, prior, num_samples=chunk, likelihood_sd=likelihood_sd)
            weights.append(log_weights_by_count(output.rollout, output.counts, prior))
            log_q.append(output.counts.log_q)
        return torch.cat(weights), torch.cat(log_q)

    def _unroll(
        self, images: Tensor, prior: Prior, num_samples: int = 1, **options: bool
    ) -> tuple[Rollout, Tensor]:
        """The rollout, and its objects ``(K, B, T, C, H, W)``."""
        if self.config.step_input == "image":
            rollout = self.inference(images, prior.z_where, num_samples, **options)
            return rollout, self.generative.render(rollout.z_where, rollout.z_what)
        canvas = Canvas(self.generative)
        rollout = self.inference(
            images, prior.z_where, num_samples, add_object=canvas.add, **options
        )
        return rollout, canvas.objects

    def _infer(self, images: Tensor) -> Inference:
        rollout, objects = self._unroll(images, self.prior(), use_means=True)
        objects = objects[0]
        num_steps = NumSteps(rollout.continue_logits[0], validate_args=False)
        z_where, z_what = rollout.z_where[0], rollout.z_what[0]
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

    def as_input(self, images: Tensor) -> Tensor:
        """Images as the model reads them: float in [0, 1], of the weights' type.

        uint8 is divided by 255, and other floating-point types are converted. Nothing else is
        guessed.

        Raises:
            ValueError: if they do not fit the model; the message says what to do.
        """
        if self.validate_args:
            check_images(images, self.config)
        if images.dtype == torch.uint8:
            return images.to(self._dtype) / 255
        return images.to(self._dtype)

    @property
    def _dtype(self) -> torch.dtype:
        return self.generative.prior.z_where_mean.dtype


def _chunks(images: Tensor, size: int) -> list[Tensor]:
    """Split along the batch; an empty batch stays one chunk, for the checks to refuse."""
    if size < 1:
        raise ValueError(f"batch_size must be at least 1, got {size}.")
    return list(images.split(size)) if images.dim() and len(images) else [images]
