"""Result types: what the model and the estimators hand back.

Axes come always in this order: ``K`` samples, ``B`` images, ``T`` steps (the model's
``max_objects``), then ``D`` (size of ``z_what``), ``C, H, W`` (canvas) or ``C, h, w``
(glimpse). Tensors over counts have ``T + 1`` entries, for ``n = 0 .. T`` objects. All
log-quantities are in nats per image, boxes in pixels ``(x_min, y_min, x_max, y_max)``.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "AIROutput",
    "CountPosterior",
    "CountTensors",
    "ELBOParts",
    "Evaluation",
    "ImportanceBound",
    "Inference",
    "Objective",
    "Rollout",
    "Sample",
]


@dataclass(frozen=True, kw_only=True, eq=False)
class Rollout:
    """One unrolling of the inference network, *as if every step were present*.

    Given that step ``t`` is reached, all earlier objects exist. The latents of step ``t`` are
    therefore drawn from ``q(z_t | n >= t, z_{<t}, x)``, and one rollout serves every count.
    """

    continue_logits: Tensor
    """Logit of "one more object" at step t, given that it is reached: ``(K, B, T)``."""
    z_where: Tensor
    """Pose ``(s, x, y)`` drawn from q: ``(K, B, T, 3)``."""
    z_where_mean: Tensor
    """Mean of q(z_where): ``(K, B, T, 3)``."""
    z_where_sd: Tensor
    """Standard deviation of q(z_where): ``(K, B, T, 3)``."""
    z_what: Tensor
    """Appearance drawn from q: ``(K, B, T, D)``."""
    z_what_mean: Tensor
    """Mean of q(z_what): ``(K, B, T, D)``."""
    z_what_sd: Tensor
    """Standard deviation of q(z_what): ``(K, B, T, D)``."""
    glimpses: Tensor
    """Attended patches of the image: ``(K, B, T, C, h, w)``."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CountTensors:
    """Everything that depends on the number of objects, for all counts at once."""

    log_q: Tensor
    """``log q(n | z_{<=n}, x)``: ``(K, B, T + 1)``."""
    log_p: Tensor
    """``log p(n)``: ``(T + 1,)``."""
    log_likelihood: Tensor
    """``log p(x | z_{1:n})``: ``(K, B, T + 1)``."""
    kl_z_where: Tensor
    """Analytic KL of each step's z_where: ``(K, B, T)``."""
    kl_z_what: Tensor
    """Analytic KL of each step's z_what: ``(K, B, T)``."""

    def expand_samples(self, num_samples: int) -> "CountTensors":
        """The same rollout, seen as ``num_samples`` (K was 1)."""
        fields = {
            name: value if name == "log_p" else value.expand(num_samples, -1, -1)
            for name, value in vars(self).items()
        }
        return CountTensors(**fields)

    @property
    def kl_latents(self) -> Tensor:
        """Analytic KL of the first n z_where and z_what: ``(K, B, T + 1)``."""
        steps = (self.kl_z_where + self.kl_z_what).cumsum(dim=-1)
        return torch.cat([torch.zeros_like(steps[..., :1]), steps], dim=-1)

    @property
    def value(self) -> Tensor:
        """The bound at each count, log p - KL of latents - log q: ``(K, B, T + 1)``."""
        return self.log_likelihood - self.kl_latents + self.log_p - self.log_q


@dataclass(frozen=True, kw_only=True, eq=False)
class ELBOParts:
    """The evidence lower bound, exact in n, with its parts kept apart."""

    log_likelihood: Tensor
    """Expected log-likelihood: ``(K, B)``."""
    kl_num_steps: Tensor
    """KL of q(n) from p(n): ``(K, B)``."""
    kl_z_where_by_step: Tensor
    """KL of z_where at step t, times the probability that object t exists: ``(K, B, T)``."""
    kl_z_what_by_step: Tensor
    """KL of z_what at step t, times the probability that object t exists: ``(K, B, T)``."""

    @property
    def kl_z_where(self) -> Tensor:
        """Expected KL of all z_where: ``(K, B)``."""
        return self.kl_z_where_by_step.sum(dim=-1)

    @property
    def kl_z_what(self) -> Tensor:
        """Expected KL of all z_what: ``(K, B)``."""
        return self.kl_z_what_by_step.sum(dim=-1)

    @property
    def kl(self) -> Tensor:
        """Sum of the three KL terms: ``(K, B)``."""
        return self.kl_num_steps + self.kl_z_where + self.kl_z_what

    @property
    def elbo(self) -> Tensor:
        """``log_likelihood - kl``: ``(K, B)``."""
        return self.log_likelihood - self.kl


@dataclass(frozen=True, kw_only=True, eq=False)
class AIROutput:
    """What :class:`air.AIR` computes from a batch of images: all that any estimator needs."""

    rollout: Rollout
    """The inference network's latents and their distributions."""
    counts: CountTensors
    """The tensors over counts that every bound is made of."""
    elbo_parts: ELBOParts
    """The ELBO, exact in n, by parts."""
    objects: Tensor
    """Each step's object, placed on a canvas of its own: ``(K, B, T, C, H, W)``."""

    @property
    def elbo(self) -> Tensor:
        """ELBO of each sample and image, exact in n: ``(K, B)``."""
        return self.elbo_parts.elbo

    @property
    def count_probs(self) -> Tensor:
        """``q(n | z, x)``: ``(K, B, T + 1)``."""
        return self.counts.log_q.exp()


@dataclass(frozen=True, kw_only=True, eq=False)
class Inference:
    """A reading of a batch of images: how many objects, where, and what they look like.

    Rows at and beyond an image's count are zero in ``objects`` and not-a-number in ``boxes``,
    ``z_where`` and ``z_what``, so that no mean or picture can take an absent object for one.
    """

    counts: Tensor
    """Most probable number of objects: int64 ``(B,)``."""
    count_probs: Tensor
    """``q(n | x)`` at the mean of the latents: ``(B, T + 1)``."""
    boxes: Tensor
    """Boxes in pixels; may reach past the image's edge: ``(B, T, 4)``."""
    z_where: Tensor
    """Mean pose ``(s, x, y)``: ``(B, T, 3)``."""
    z_what: Tensor
    """Mean appearance: ``(B, T, D)``."""
    canvas: Tensor
    """Reconstruction from the first ``counts`` objects: ``(B, C, H, W)``."""
    objects: Tensor
    """Each object placed on a canvas of its own: ``(B, T, C, H, W)``."""
    shifts: Tensor
    """The view each image was read from, ``(down, right)`` in pixels; 0 is the image itself:
    int64 ``(B, 2)``."""

    @property
    def present(self) -> Tensor:
        """Which rows hold an object: bool ``(B, T)``."""
        steps = torch.arange(self.boxes.shape[1], device=self.counts.device)
        return steps < self.counts[:, None]


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """Scenes drawn from the generative model."""

    images: Tensor
    """The mean of p(x | z), without pixel noise: ``(N, C, H, W)``."""
    num_objects: Tensor
    """Number of objects drawn: int64 ``(N,)``."""
    z_where: Tensor
    """Poses, of absent objects too: ``(N, T, 3)``."""
    z_what: Tensor
    """Appearances, of absent objects too: ``(N, T, D)``."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ImportanceBound:
    """An importance-weighted lower bound of log p(x) (Burda et al., 2016)."""

    log_likelihood: Tensor
    """``log 1/K sum_k w_k``, a lower bound of log p(x) in expectation: ``(B,)``."""
    ess: Tensor
    """Effective sample size ``(sum w)^2 / sum w^2``, between 1 and K: ``(B,)``."""
    num_samples: int
    """K."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CountPosterior:
    """How many objects an image holds: what the model implies, and what its network says."""

    probs: Tensor
    """p(n | x) of the model, estimated with K importance-weighted rollouts: ``(B, T + 1)``."""
    q_probs: Tensor
    """q(n | x) of the inference network, its mean over the same rollouts: ``(B, T + 1)``."""
    ess: Tensor
    """Effective sample size, between 1 and K: ``(B,)``. Near 1 one rollout decides."""
    num_samples: int
    """K."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Objective:
    """What an estimator hands to the optimiser.

    The *value* of ``loss`` is minus the bound, so that what is logged is what is meant; its
    *gradient* is the estimator's, whatever surrogate that takes.
    """

    loss: Tensor
    """Minus the bound, mean over the batch: scalar."""
    auxiliary_loss: Tensor
    """Loss of the estimator's own parameters (a baseline's), zero without them: scalar."""
    output: AIROutput
    """The model's output that the bound was computed from."""

    @property
    def total_loss(self) -> Tensor:
        """What to call ``backward`` on: the two losses share no parameter."""
        return self.loss + self.auxiliary_loss


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """How well a model reads a set of images. Means over the images, in nats.

    Where the true counts are unknown, both accuracies are NaN and the confusion has no row.
    """

    num_images: int
    """Number of images evaluated."""
    num_samples: int
    """K of the importance-weighted bound."""
    count_accuracy: float
    """Share of images whose count is right in one draw from the posterior."""
    count_accuracy_mode: float
    """Share of images whose count is right at the posterior's mode, as ``infer`` reads it."""
    confusion: Tensor
    """Images by true count (rows) and mode (columns): int64 ``(M + 1, T + 1)``."""
    inferred_counts: Tensor
    """Images by mode: int64 ``(T + 1,)``."""
    elbo: float
    """ELBO, exact in n, at one draw of the latents an image."""
    log_likelihood: float
    """Expected log-likelihood, a part of the ELBO."""
    kl_num_steps: float
    """KL of n, a part of the ELBO."""
    kl_z_where: float
    """KL of z_where, a part of the ELBO."""
    kl_z_what: float
    """KL of z_what, a part of the ELBO."""
    log_likelihood_bound: float
    """Importance-weighted bound of log p(x)."""
    ess: float
    """Effective sample size of that bound, between 1 and K."""

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain data, ready for JSON."""
        lists = {name: getattr(self, name).tolist() for name in ("confusion", "inferred_counts")}
        return {**vars(self), **lists}
