"""Ways through AIR's discrete count: one small object an estimator, side by side.

Each takes the model and a batch and returns an :class:`air.types.Objective`, whose *value* is
minus the bound and whose *gradient* is the estimator's. What only an estimator needs (a
baseline, a running mean) lives in it, not in the model.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from air.distributions import NumSteps
from air.model import AIR, AIRConfig
from air.networks import BaselineMLP
from air.priors import Prior
from air.types import AIROutput, CountTensors, Objective

__all__ = ["ESTIMATORS", "Enumerate", "Estimator", "Reinforce", "make_estimator"]


class Estimator(nn.Module):
    """Base of all estimators: ``estimator(model, images, prior) -> Objective``.

    Args:
        num_samples: K, rollouts of each image; the bound is averaged over them.

    Raises:
        ValueError: if ``num_samples`` is too small for this estimator.
    """

    min_samples = 1

    def __init__(self, num_samples: int = 1) -> None:
        super().__init__()
        if num_samples < self.min_samples:
            raise ValueError(
                f"estimator {type(self).__name__} needs num_samples >= {self.min_samples}, "
                f"got {num_samples}. Raise it."
            )
        self.num_samples = num_samples

    def forward(
        self,
        model: AIR,
        images: Tensor,
        prior: Prior | None = None,
        *,
        likelihood_sd: float | Tensor | None = None,
    ) -> Objective:
        """The objective on a batch.

        Args:
            model: to be trained.
            images: ``(B, C, H, W)``, float in [0, 1] or uint8.
            prior: evaluated at this step; default: the model's own.
            likelihood_sd: another standard deviation of a pixel than the model's.
        """
        prior = model.prior() if prior is None else prior
        output = model(images, prior, num_samples=self.num_samples, likelihood_sd=likelihood_sd)
        return self.objective(images, output, prior)

    def objective(self, images: Tensor, output: AIROutput, prior: Prior) -> Objective:
        """The objective from the model's output; what an estimator defines."""
        raise NotImplementedError


class Enumerate(Estimator):
    """The exact sum over n: no score function, the least variance. Unbiased for the ELBO."""

    def objective(self, images: Tensor, output: AIROutput, prior: Prior) -> Objective:
        """Minus the ELBO, exact in n."""
        loss = -output.elbo.mean()
        return Objective(loss=loss, auxiliary_loss=torch.zeros_like(loss), output=output)


class Reinforce(Estimator):
    r"""The score-function estimator with a learned baseline: the paper's. Unbiased for the ELBO.

    One n is drawn for each rollout. With the decision ``z_pres_t`` at each step reached,

    .. math:: \nabla \mathrm{ELBO} = \mathbb{E}\Big[\nabla v + \sum_t
              (R_t - b_t)\, \nabla \log q(z^{pres}_t \mid x, z_{<t})\Big]

    where v is the bound at the drawn n, R_t the cost to go (what of v is decided at step t or
    later) and b_t a baseline that sees the image and the latents before step t: an MLP around
    a running mean. Section 3.2 of Eslami et al. (2016), after Mnih and Gregor (2014).

    Args:
        config: of the model.
        num_samples: K.
        baseline_hidden: sizes of the baseline MLP's hidden layers.
        decay: of the running mean and standard deviation of R.
    """

    return_mean: Tensor
    return_sd: Tensor

    def __init__(
        self,
        config: AIRConfig,
        num_samples: int = 1,
        *,
        baseline_hidden: tuple[int, ...] = (256, 200),
        decay: float = 0.99,
    ) -> None:
        super().__init__(num_samples)
        channels, height, width = config.image_shape
        steps = config.max_objects
        self.baseline = BaselineMLP(
            channels * height * width, steps * (3 + config.z_what_size) + steps, baseline_hidden
        )
        self.decay = decay
        self.register_buffer("return_mean", torch.full((steps,), float("nan")))
        self.register_buffer("return_sd", torch.ones(steps))

    def objective(self, images: Tensor, output: AIROutput, prior: Prior) -> Objective:
        """Minus the bound at one n a rollout; the gradient is the score function's."""
        num_steps = NumSteps(output.rollout.continue_logits, validate_args=False)
        chain = _Chain(num_steps, num_steps.sample(), output.counts)
        returns = chain.cost_to_go.detach()
        if self.training:
            self._update_statistics(returns, chain.reached)
        # The MLP predicts in units of the running statistics: a target of 600 nats would take
        # it thousands of steps to reach.
        predicted = self.baseline(_flat(images, returns), _context(output))
        normalised = (returns - self.return_mean) / self.return_sd
        signal = (normalised - predicted.detach()) * self.return_sd
        score = (signal * chain.reached * chain.log_q).sum(dim=-1)
        loss = -_surrogate(chain.value, score).mean()
        auxiliary = ((normalised - predicted).square() * chain.reached).sum(dim=-1).mean()
        return Objective(loss=loss, auxiliary_loss=auxiliary, output=output)

    @torch.no_grad()
    def _update_statistics(self, returns: Tensor, reached: Tensor) -> None:
        """Move the mean and sd of R a little towards this batch's; take them whole at first."""
        total = reached.sum(dim=(0, 1))
        number = total.clamp(min=1)
        mean = (returns * reached).sum(dim=(0, 1)) / number
        variance = ((returns - mean).square() * reached).sum(dim=(0, 1)) / number
        fresh = self.return_mean.isnan()
        # A step that nobody reached says nothing about its returns.
        weight = torch.where(fresh, 1.0, 1 - self.decay) * (total > 0)
        old_mean = torch.where(fresh, mean, self.return_mean)
        self.return_mean.copy_(old_mean + weight * (mean - old_mean))
        self.return_sd.lerp_(variance.sqrt().clamp(min=1.0), weight)


class _Chain:
    """The presence decisions that a drawn n stands for, and what each of them decides.

    Args:
        num_steps: q(n), batch shape ``(K, B)``.
        n: drawn counts, ``(K, B)``.
        counts: the tensors over counts.
    """

    def __init__(self, num_steps: NumSteps, n: Tensor, counts: CountTensors) -> None:
        logits = num_steps.logits
        steps = torch.arange(1, logits.shape[-1] + 1, device=logits.device)
        z_pres = n.unsqueeze(-1) >= steps
        self.reached = (n.unsqueeze(-1) >= steps - 1).to(logits.dtype)
        """Whether step t was reached: ``(K, B, T)``."""
        log_continue, log_stop = F.logsigmoid(logits), F.logsigmoid(-logits)
        self.log_q = torch.where(z_pres, log_continue, log_stop)
        """``log q(z_pres_t)`` of the decision taken, if it was reached: ``(K, B, T)``."""
        # p(n) as a chain: the probability of going on given that step t was reached.
        log_p_reached = counts.log_p.flip(-1).logcumsumexp(dim=-1).flip(-1)
        log_p_continue = log_p_reached[1:] - log_p_reached[:-1]
        log_p_stop = counts.log_p[:-1] - log_p_reached[:-1]
        kl_pres = self.reached * (
            log_continue.exp() * (log_continue - log_p_continue)
            + log_stop.exp() * (log_stop - log_p_stop)
        )
        kl_latents = z_pres * (counts.kl_z_where + counts.kl_z_what)
        log_likelihood = counts.log_likelihood.gather(-1, n.unsqueeze(-1))
        self.value = log_likelihood.squeeze(-1) - (kl_pres + kl_latents).sum(dim=-1)
        """The bound at this n, with the KL of each decision analytic: ``(K, B)``."""
        # The KL of decision t itself does not depend on how it falls: it is not to go.
        later_kl_pres = _suffix_sum(kl_pres) - kl_pres
        self.cost_to_go = log_likelihood - _suffix_sum(kl_latents) - later_kl_pres
        """What of the bound is decided at step t or later: ``(K, B, T)``."""


def _suffix_sum(steps: Tensor) -> Tensor:
    """``sum_{s >= t}`` along the last axis."""
    return steps.flip(-1).cumsum(dim=-1).flip(-1)


def _surrogate(value: Tensor, score: Tensor) -> Tensor:
    """Has the value of ``value`` and the gradient of ``value + score``."""
    return value + score - score.detach()


def _flat(images: Tensor, like: Tensor) -> Tensor:
    """Images as the baseline reads them, ``(B, C * H * W)``."""
    flat = images.flatten(1)
    return flat.to(like.dtype) / 255 if flat.dtype == torch.uint8 else flat


def _context(output: AIROutput) -> Tensor:
    """What is known before step t besides the image: ``(K, B, T, T * (3 + D) + T)``."""
    latents = torch.cat([output.rollout.z_where, output.rollout.z_what], dim=-1).detach()
    steps = latents.shape[2]
    earlier = latents.new_ones(steps, steps).tril(diagonal=-1)
    known = (latents.unsqueeze(2) * earlier.unsqueeze(-1)).flatten(3)
    index = torch.eye(steps, dtype=latents.dtype, device=latents.device)
    return torch.cat([known, index.expand(*known.shape[:3], steps)], dim=-1)


ESTIMATORS: dict[str, Callable[..., Estimator]] = {
    "enumerate": lambda config, num_samples=1: Enumerate(num_samples),
    "reinforce": Reinforce,
}
"""Estimators by name; each is called with the model's config and ``num_samples``."""


def make_estimator(name: str, config: AIRConfig, num_samples: int = 1, **options: Any) -> Estimator:
    """An estimator by its name.

    Args:
        name: one of :data:`ESTIMATORS`.
        config: of the model it will train.
        num_samples: K.
        **options: the estimator's own.

    Raises:
        ValueError: if the name is unknown, or ``num_samples`` too small for it.
    """
    if name not in ESTIMATORS:
        raise ValueError(
            f"unknown estimator {name!r}. Expected one of: {', '.join(sorted(ESTIMATORS))}."
        )
    return ESTIMATORS[name](config, num_samples=num_samples, **options)
