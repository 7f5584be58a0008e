"""The inference half of AIR: from an image to the latents of its objects, one by one."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from air.networks import GlimpseEncoder, ImageLSTM, LSTMState, StepPredictor
from air.spatial_transformer import extract_glimpses
from air.types import Rollout

__all__ = ["InferenceNetwork"]


AddObject = Callable[[Tensor, Tensor], Tensor]
"""From one more object's z_where and z_what to the canvas with it, ``(K, B, C, H, W)``: what the
generative half makes of them, which this half does not know."""


class _Step(NamedTuple):
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
    """q(n, z_where, z_what | x): an LSTM that looks at one object after another.

    Section 2.1 and figure 3 of Eslami et al. (2016).

    Args:
        embedding: from flattened images to what the LSTM sees of them.
        lstm: sees the image and the latents of the step before.
        predictor: from the hidden state to the presence and the pose of the next object.
        encoder: from a glimpse to q(z_what).
        max_objects: T.
        z_what_size: D.
        glimpse_size: ``(h, w)``.
    """

    min_scale = 0.1
    """Glimpses are cut out at this scale at least. Far below any prior that makes sense; it keeps
    a stray draw of a Gaussian scale from dividing by zero."""

    def __init__(
        self,
        *,
        embedding: nn.Module,
        lstm: ImageLSTM,
        predictor: StepPredictor,
        encoder: GlimpseEncoder,
        max_objects: int,
        z_what_size: int,
        glimpse_size: tuple[int, int],
    ) -> None:
        super().__init__()
        self.embedding = embedding
        self.lstm = lstm
        self.predictor = predictor
        self.encoder = encoder
        self.max_objects = max_objects
        self.z_what_size = z_what_size
        self.glimpse_size = glimpse_size

    def forward(
        self,
        images: Tensor,
        p_z_where: Normal,
        num_samples: int = 1,
        *,
        use_means: bool = False,
        detach_samples: bool = False,
        add_object: AddObject | None = None,
    ) -> Rollout:
        """Unroll all T steps as if every object were present.

        Args:
            images: ``(B, C, H, W)`` in [0, 1].
            p_z_where: prior of one pose. q is written as an offset and a factor of it.
            num_samples: K, independent rollouts of each image.
            use_means: take each latent's mean instead of a draw.
            detach_samples: let no gradient pass through the draws, as where q is trained by
                its log-density at them.
            add_object: puts one more object on a canvas. If given, each step sees the difference
                of the image from the canvas of the objects before ("difference AIR"), which tells
                it what is left to explain, whatever their number. A gradient passes through that
                canvas wherever one passes through the draws.
        """
        shape = (num_samples, images.shape[0])
        projection = self.lstm.project(self.embedding(images.flatten(1))).expand(*shape, -1)
        images = images.expand(num_samples, *images.shape)
        # One call for all noise: many small ones cost more than the numbers themselves.
        noise = projection.new_zeros(self.max_objects, *shape, 3 + self.z_what_size)
        if not use_means:
            noise.normal_()
        state = latents = canvas = None
        steps = []
        for step_noise in noise:
            if canvas is not None:
                projection = self.lstm.project(self.embedding((images - canvas).flatten(2)))
            state = self.lstm(projection, latents, state)
            step = self._step(images, state, p_z_where, step_noise, detach_samples)
            latents = torch.cat([step.z_where, step.z_what], dim=-1)
            steps.append(step)
            if add_object is not None:
                canvas = add_object(step.z_where, step.z_what)
                # Like the draws that it is made of: q depends on it, and so on the decoder too.
                canvas = canvas.detach() if detach_samples else canvas
        stacked = (torch.stack(field, dim=2) for field in zip(*steps, strict=True))
        return Rollout(**dict(zip(_Step._fields, stacked, strict=True)))

    def _step(
        self,
        images: Tensor,
        state: LSTMState,
        p_z_where: Normal,
        noise: Tensor,
        detach_samples: bool,
    ) -> _Step:
        where_noise, what_noise = noise.split([3, self.z_what_size], dim=-1)
        prediction = self.predictor(state.hidden)
        z_where_mean = p_z_where.loc + p_z_where.scale * prediction.z_where_offset
        z_where_sd = p_z_where.scale * prediction.z_where_factor
        z_where = z_where_mean + z_where_sd * where_noise
        z_where = z_where.detach() if detach_samples else z_where
        scale, shift = z_where.split([1, 2], dim=-1)
        pose = torch.cat([scale.clamp(min=self.min_scale), shift], dim=-1)
        glimpses = extract_glimpses(images, pose, self.glimpse_size)
        z_what_mean, z_what_sd = self.encoder(glimpses)
        z_what = z_what_mean + z_what_sd * what_noise
        return _Step(
            continue_logits=prediction.continue_logit,
            z_where=z_where,
            z_where_mean=z_where_mean,
            z_where_sd=z_where_sd,
            z_what=z_what.detach() if detach_samples else z_what,
            z_what_mean=z_what_mean,
            z_what_sd=z_what_sd,
            glimpses=glimpses,
        )
