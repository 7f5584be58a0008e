"""The inference half of AIR: from an image to the latents of its objects, one by one.

Two networks do it, and both return the same :class:`air.types.Rollout`, so that every bound and
every estimator works with either:

- :class:`PaperInference`, the network of Eslami et al. (2016): an LSTM that sees all pixels.
- :class:`air.residual_inference.ResidualInference`: looks where the image is not explained yet.
"""

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from air.networks import GlimpseEncoder, ImageLSTM, StepPredictor
from air.priors import Prior
from air.spatial_transformer import extract_glimpses
from air.types import Rollout

__all__ = ["InferenceNetwork", "PaperInference", "Renderer", "Step"]


class Renderer(Protocol):
    """What the generative half makes of the latents, as far as this half has to know it."""

    def add(self, z_where: Tensor, z_what: Tensor) -> Tensor:
        """The canvas with one more object on it, ``(K, B, C, H, W)``."""
        ...

    def gain(
        self, glimpses: Tensor, residuals: Tensor, z_where: Tensor, z_what: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Nats that objects would add to the log-likelihood, and that perfect ones would."""
        ...


class Step(NamedTuple):
    """What one step of the rollout adds; the fields are those of :class:`Rollout`."""

    continue_logits: Tensor
    z_where: Tensor
    z_where_mean: Tensor
    z_where_sd: Tensor
    z_what: Tensor
    z_what_mean: Tensor
    z_what_sd: Tensor
    glimpses: Tensor


class InferenceNetwork(nn.Module):
    """q(n, z_where, z_what | x): what both networks share.

    Args:
        encoder: from a glimpse to q(z_what).
        z_what_size: D.
        glimpse_size: ``(h, w)``.
    """

    min_scale = 0.1
    """Glimpses are cut out at this scale at least. Far below any prior that makes sense; it keeps
    a stray draw of a Gaussian scale from dividing by zero."""
    draws_canvas = False
    """Whether a step sees what the objects before it look like, and so needs the other half."""

    def __init__(
        self,
        *,
        encoder: GlimpseEncoder,
        z_what_size: int,
        glimpse_size: tuple[int, int],
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.z_what_size = z_what_size
        self.glimpse_size = glimpse_size

    def forward(
        self,
        images: Tensor,
        prior: Prior,
        num_samples: int = 1,
        *,
        use_means: bool = False,
        detach_samples: bool = False,
        renderer: Renderer | None = None,
    ) -> Rollout:
        """Unroll all T steps as if every object were present.

        Args:
            images: ``(B, C, H, W)`` in [0, 1].
            prior: says T, and what the network's offsets are relative to.
            num_samples: K, independent rollouts of each image.
            use_means: take each latent's mean instead of a draw.
            detach_samples: let no gradient pass through the draws, as where q is trained by
                its log-density at them.
            renderer: draws the objects; needed where ``draws_canvas`` says so, else not used.
        """
        raise NotImplementedError

    def noise(self, images: Tensor, prior: Prior, num_samples: int, use_means: bool) -> Tensor:
        """Standard normal numbers for all latents, or zeros: ``(T, K, B, 3 + D)``.

        One call for all noise: many small ones cost more than the numbers themselves.
        """
        steps = prior.num_steps.max_objects
        size = (steps, num_samples, images.shape[0], 3 + self.z_what_size)
        noise = images.new_zeros(size)
        return noise if use_means else noise.normal_()

    def attend(
        self,
        images: Tensor,
        continue_logit: Tensor,
        z_where_mean: Tensor,
        z_where_sd: Tensor,
        noise: Tensor,
        detach_samples: bool,
    ) -> Step:
        """Draw a pose, look there, and draw an appearance: the end of every step.

        Args:
            images: ``(K, B, C, H, W)``.
            continue_logit: ``(K, B)``.
            z_where_mean: ``(K, B, 3)``.
            z_where_sd: ``(K, B, 3)``.
            noise: of :meth:`noise`, ``(K, B, 3 + D)``.
            detach_samples: as in :meth:`forward`.
        """
        where_noise, what_noise = noise.split([3, self.z_what_size], dim=-1)
        z_where = z_where_mean + z_where_sd * where_noise
        z_where = z_where.detach() if detach_samples else z_where
        glimpses = self.glimpse(images, z_where)
        z_what_mean, z_what_sd = self.encoder(glimpses)
        z_what = z_what_mean + z_what_sd * what_noise
        return Step(
            continue_logits=continue_logit,
            z_where=z_where,
            z_where_mean=z_where_mean,
            z_where_sd=z_where_sd,
            z_what=z_what.detach() if detach_samples else z_what,
            z_what_mean=z_what_mean,
            z_what_sd=z_what_sd,
            glimpses=glimpses,
        )

    def glimpse(self, images: Tensor, z_where: Tensor) -> Tensor:
        """The patches at some poses, ``(*, C, h, w)`` from ``(*, C, H, W)`` and ``(*, 3)``."""
        scale, shift = z_where.split([1, 2], dim=-1)
        pose = torch.cat([scale.clamp(min=self.min_scale), shift], dim=-1)
        return extract_glimpses(images, pose, self.glimpse_size)


def stack_steps(steps: list[Step]) -> Rollout:
    """One :class:`Rollout` of T steps."""
    stacked = (torch.stack(field, dim=2) for field in zip(*steps, strict=True))
    return Rollout(**dict(zip(Step._fields, stacked, strict=True)))


class PaperInference(InferenceNetwork):
    """The paper's network: an LSTM that sees all pixels, and its own latents so far.

    Section 2.1 and figure 3 of Eslami et al. (2016).

    Args:
        lstm: sees the image and the latents of the step before.
        predictor: from the hidden state to the presence and the pose of the next object. The mean
            of q(z_where) is written as an offset of its prior's, its sd as a factor.
        **options: as for :class:`InferenceNetwork`.
    """

    def __init__(self, *, lstm: ImageLSTM, predictor: StepPredictor, **options: Any) -> None:
        super().__init__(**options)
        self.lstm = lstm
        self.predictor = predictor

    def forward(
        self,
        images: Tensor,
        prior: Prior,
        num_samples: int = 1,
        *,
        use_means: bool = False,
        detach_samples: bool = False,
        renderer: Renderer | None = None,
    ) -> Rollout:
        """Unroll all T steps, see :meth:`InferenceNetwork.forward`."""
        projection = self.lstm.project(images.flatten(1)).expand(num_samples, images.shape[0], -1)
        noise = self.noise(images, prior, num_samples, use_means)
        images = images.expand(num_samples, *images.shape)
        state = latents = None
        steps = []
        for step_noise in noise:
            state = self.lstm(projection, latents, state)
            prediction = self.predictor(state.hidden)
            step = self.attend(
                images,
                prediction.continue_logit,
                prior.z_where.loc + prior.z_where.scale * prediction.z_where_offset,
                prior.z_where.scale * prediction.z_where_factor,
                step_noise,
                detach_samples,
            )
            latents = torch.cat([step.z_where, step.z_what], dim=-1)
            steps.append(step)
        return stack_steps(steps)
