"""Gradient estimators for the number of objects, side by side.

Each takes the model and a batch and returns an :class:`air.types.Objective`, whose *value* is
minus the bound and whose *gradient* is the estimator's. What only an estimator needs (a
baseline, a running mean) lives in it, not in the model.

| name | needs | its gradient is unbiased for |
|---|---|---|
| ``enumerate`` | nothing | the ELBO, exact in n |
| ``reinforce`` | a baseline (optional) | the ELBO |
| ``nvil`` | a baseline | the ELBO, but that q(n)'s part is rescaled |
| ``rloo`` | K >= 2 | the ELBO |
| ``vimco`` | K >= 2 | the importance-weighted bound of K draws |
| ``iw-enumerate`` | nothing | the importance-weighted bound, but for q(n)'s cross entropy |
| ``rws``, ``rws-exact`` | nothing (K of 5 and more pays) | nothing at finite K: consistent in K |
| ``concrete``, ``concrete-st`` | a temperature | nothing: biased |
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from air.config import AIRConfig
from air.distributions import NumSteps
from air.elbo import log_ratio_latents, log_weights_by_count
from air.model import AIR
from air.networks import BaselineMLP
from air.priors import Prior
from air.score_function import (
    Chain,
    at_counts,
    leave_one_out_mean,
    log_mean_exp,
    masked_statistics,
    move_towards,
    surrogate,
)
from air.types import AIROutput, Objective

__all__ = [
    "ESTIMATORS",
    "Batch",
    "Concrete",
    "Enumerate",
    "Estimator",
    "IWEnumerate",
    "Nvil",
    "Reinforce",
    "Rloo",
    "Rws",
    "Vimco",
    "make_estimator",
]

Baseline = Literal["none", "mean", "mlp", "all"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """What an objective is computed on, besides the model's output."""

    model: AIR
    """To be trained."""
    images: Tensor
    """Float in [0, 1], ``(B, C, H, W)``."""
    prior: Prior
    """Evaluated at this step."""
    likelihood_sd: float | Tensor | None = None
    """Another standard deviation of a pixel than the model's."""


class Estimator(nn.Module):
    """Base of all estimators: ``estimator(model, images, prior) -> Objective``.

    Args:
        config: of the model.
        num_samples: K; rollouts of each image, unless the estimator says otherwise.

    Raises:
        ValueError: if ``num_samples`` is too small for this estimator.
    """

    min_samples = 1
    detach_samples = False
    """Whether q is trained at draws that pass no gradient."""

    def __init__(self, config: AIRConfig, num_samples: int = 1) -> None:
        super().__init__()
        if num_samples < self.min_samples:
            raise ValueError(
                f"estimator {type(self).__name__.lower()} needs num_samples >= "
                f"{self.min_samples}, got {num_samples}. Raise it (--num-samples)."
            )
        self.num_samples = num_samples

    @property
    def num_rollouts(self) -> int:
        """Rollouts of each image that the model is asked for."""
        return self.num_samples

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
        images = model.as_input(images)
        prior = model.prior() if prior is None else prior
        output = model(
            images,
            prior,
            num_samples=self.num_rollouts,
            likelihood_sd=likelihood_sd,
            detach_samples=self.detach_samples,
        )
        batch = Batch(model=model, images=images, prior=prior, likelihood_sd=likelihood_sd)
        return self.objective(output, batch)

    def objective(self, output: AIROutput, batch: Batch) -> Objective:
        """The objective from the model's output: what an estimator defines."""
        raise NotImplementedError


class Enumerate(Estimator):
    """The exact sum over n: no score function, the least variance of all for the ELBO."""

    def objective(self, output: AIROutput, batch: Batch) -> Objective:
        """Minus the ELBO, exact in n."""
        return _objective(output.elbo, output)


class Reinforce(Estimator):
    r"""The score-function estimator with a learned baseline: the paper's.

    One n is drawn for each rollout. With the decision ``z_pres_t`` at each step reached,

    .. math:: \nabla \mathrm{ELBO} = \mathbb{E}\Big[\nabla v + \sum_t
              (R_t - b_t)\, \nabla \log q(z^{pres}_t \mid x, z_{<t})\Big]

    where v is the bound at the drawn n, R_t the cost to go (what of v is decided at step t or
    later) and b_t a baseline that sees the image and the latents before step t. Section 3.2 of
    Eslami et al. (2016), after Mnih and Gregor (2014).

    Args:
        config: of the model.
        num_samples: K.
        baseline: ``none``; ``mean``, the running mean of R_t; ``mlp``, a network; ``all``, the
            network around the running mean, in units of the running standard deviation (a
            target of 600 nats takes the network alone thousands of steps to reach).
        baseline_hidden: sizes of the network's hidden layers.
        decay: of the running statistics. A batch's own returns are part of them, with a weight
            of ``1 - decay``: a bias of that order over the batch size, none with them frozen
            (``eval()``).
    """

    return_mean: Tensor
    return_sd: Tensor

    def __init__(
        self,
        config: AIRConfig,
        num_samples: int = 1,
        *,
        baseline: Baseline = "all",
        baseline_hidden: tuple[int, ...] = (256, 200),
        decay: float = 0.99,
    ) -> None:
        super().__init__(config, num_samples)
        if baseline not in get_args(Baseline):
            raise ValueError(
                f"unknown baseline {baseline!r}. Expected one of: {', '.join(get_args(Baseline))}."
            )
        channels, height, width = config.image_shape
        steps = config.max_objects
        context_size = steps * (3 + config.z_what_size) + steps
        self.baseline: BaselineMLP | None = None
        if baseline in ("mlp", "all"):
            self.baseline = BaselineMLP(channels * height * width, context_size, baseline_hidden)
        self.centred, self.scaled = baseline in ("mean", "all"), baseline == "all"
        self.decay = decay
        self.register_buffer("return_mean", torch.full((steps,), float("nan")))
        self.register_buffer("return_sd", torch.ones(steps))

    def objective(self, output: AIROutput, batch: Batch) -> Objective:
        """Minus the bound at one n a rollout; the gradient is the score function's."""
        num_steps = NumSteps(output.rollout.continue_logits, validate_args=False)
        chain = Chain(num_steps, num_steps.sample(), output.counts)
        returns = chain.cost_to_go.detach()
        if self.training:
            self._update_statistics(returns, chain.reached)
        centre = self.return_mean.nan_to_num() if self.centred else 0.0
        scale = self.return_sd if self.scaled else 1.0
        signal, auxiliary = (returns - centre) / scale, torch.zeros_like(returns[0, 0, 0])
        if self.baseline is not None:
            predicted = self.baseline(batch.images.flatten(1), _context(output))
            error = (signal - predicted).square() * chain.reached
            signal, auxiliary = signal - predicted.detach(), error.sum(dim=-1).mean()
        signal, rate = self.normalise(signal * scale, chain.reached)
        score = (signal * chain.reached * chain.log_q).sum(dim=-1)
        # All of the decisions' gradient goes at one rate: the KL's part as well as the score's.
        value = chain.value + (1 - rate) * (chain.kl_pres - chain.kl_pres.detach())
        return _objective(surrogate(value, score), output, auxiliary)

    @torch.no_grad()
    def _update_statistics(self, returns: Tensor, reached: Tensor) -> None:
        """Move the mean and sd of R a little towards this batch's; take them whole at first."""
        mean, sd = masked_statistics(returns, reached, dim=(0, 1))
        fresh = self.return_mean.isnan()
        self.return_mean.copy_(torch.where(fresh, mean, self.return_mean))
        self.return_sd.copy_(torch.where(fresh & ~sd.isnan(), sd, self.return_sd))
        move_towards(self.return_mean, mean, self.decay)
        move_towards(self.return_sd, sd, self.decay)

    def normalise(self, signal: Tensor, reached: Tensor) -> tuple[Tensor, Tensor]:
        """Change the learning signal ``(K, B, T)``, and say by which factor; not here."""
        return signal, signal.new_ones(())


class Nvil(Reinforce):
    """REINFORCE with a centred and variance-normalised learning signal.

    Neural variational inference and learning: Mnih and Gregor (2014), section 2.3 and
    algorithm 1. Dividing by the signal's running standard deviation, where that is above 1,
    rescales the gradient of q(n)'s logits, with the part that is the analytic KL of n. Weights
    that other terms train too get another direction. (The score divided alone would be
    outweighed by the KL.)

    Args:
        config: of the model.
        num_samples: K.
        **options: as for :class:`Reinforce`.
    """

    signal_mean: Tensor
    signal_sd: Tensor

    def __init__(self, config: AIRConfig, num_samples: int = 1, **options: Any) -> None:
        super().__init__(config, num_samples, **options)
        self.register_buffer("signal_mean", torch.zeros(()))
        self.register_buffer("signal_sd", torch.ones(()))

    def normalise(self, signal: Tensor, reached: Tensor) -> tuple[Tensor, Tensor]:
        """Centre the signal and divide it by its standard deviation, where above 1."""
        rate = 1 / self.signal_sd.clamp(min=1)
        normalised = (signal - self.signal_mean) * rate
        if self.training:
            mean, sd = masked_statistics(signal, reached, dim=(0, 1, 2))
            move_towards(self.signal_mean, mean, self.decay)
            move_towards(self.signal_sd, sd, self.decay)
        return normalised, rate


class Rloo(Estimator):
    """REINFORCE whose baseline is the mean of the other samples: no network.

    Leave-one-out: Kool et al. (2019), after Salimans and Knowles (2014).

    Args:
        config: of the model.
        num_samples: K.
        share_rollout: draw K counts from one rollout of each image (cheaper, and the counts are
            all that differs), instead of one count from each of K rollouts.
    """

    min_samples = 2

    def __init__(
        self, config: AIRConfig, num_samples: int = 2, *, share_rollout: bool = False
    ) -> None:
        super().__init__(config, num_samples)
        self.share_rollout = share_rollout

    @property
    def num_rollouts(self) -> int:
        """One, where the counts share it."""
        return 1 if self.share_rollout else self.num_samples

    def objective(self, output: AIROutput, batch: Batch) -> Objective:
        """Minus the bound at K counts; the gradient is the score function's."""
        counts, logits = output.counts, output.rollout.continue_logits
        if self.share_rollout:
            counts = counts.expand_samples(self.num_samples)
            logits = logits.expand(self.num_samples, -1, -1)
        num_steps = NumSteps(logits, validate_args=False)
        n = num_steps.sample()
        value = Chain(num_steps, n, counts).value
        signal = (value - leave_one_out_mean(value)).detach()
        return _objective(surrogate(value, signal * num_steps.log_prob(n)), output)


class Vimco(Estimator):
    """The importance-weighted bound, each draw's score weighed against the others'.

    Mnih and Rezende (2016), equations 7 to 9. The baseline of draw k is the bound with its
    weight replaced by the geometric mean of the others'.
    """

    min_samples = 2

    def objective(self, output: AIROutput, batch: Batch) -> Objective:
        """Minus the importance-weighted bound of K draws of n and the latents."""
        log_weights, log_q = _drawn_log_weights(output, batch.prior)
        bound = log_mean_exp(log_weights)
        others = log_weights.detach()
        replaced = torch.where(
            torch.eye(len(others), dtype=torch.bool, device=others.device).unsqueeze(-1),
            leave_one_out_mean(others),
            others.unsqueeze(1),
        )  # (k, j, B): weight k in the bound that leaves out j
        signal = bound.detach() - log_mean_exp(replaced)
        return _objective(surrogate(bound, (signal * log_q).sum(dim=0)), output)


class IWEnumerate(Estimator):
    r"""The importance-weighted bound with n summed out, and q(n) trained on the exact posterior.

    .. math:: \log \frac1K \sum_{k, n} p(x, z^k_{1:n}, n) / q(z^k_{1:n} \mid x)

    Burda et al. (2016) for the bound. q(n) cancels in it, so it has a term of its own: the cross
    entropy with p(n | x, z), a softmax over the T + 1 counts. Tighter than the ELBO.
    """

    def objective(self, output: AIROutput, batch: Batch) -> Objective:
        """Minus the bound; the gradient is that of bound and cross entropy."""
        joint = log_weights_by_count(output.rollout, output.counts, batch.prior)
        bound = log_mean_exp(joint.logsumexp(dim=-1))
        posterior = _softmax_over_samples_and_counts(joint)
        score = (posterior * output.counts.log_q).sum(dim=(0, -1))
        return _objective(surrogate(bound, score), output)


class Rws(Estimator):
    """Reweighted wake-sleep without the sleep: wake-phase updates of p and of q.

    Bornschein and Bengio (2015), with the updates of Le et al. (2019). p and q are both trained
    at draws weighed by their importance, and no gradient passes through a draw. Biased at finite
    K; consistent as K grows.

    Args:
        config: of the model.
        num_samples: K.
        exact_counts: weigh all T + 1 counts of each rollout, instead of one drawn.
    """

    detach_samples = True

    def __init__(
        self, config: AIRConfig, num_samples: int = 1, *, exact_counts: bool = False
    ) -> None:
        super().__init__(config, num_samples)
        self.exact_counts = exact_counts

    def objective(self, output: AIROutput, batch: Batch) -> Objective:
        """Minus the importance-weighted bound; the gradient is that of the two wake phases."""
        counts = output.counts
        ratio = log_ratio_latents(output.rollout, batch.prior)
        joint = counts.log_likelihood + counts.log_p + ratio
        # The draws are constants: -ratio has the gradient of log q(z), and joint - ratio that of
        # log p(x, z).
        learned = counts.log_likelihood + counts.log_p - ratio + counts.log_q
        if self.exact_counts:
            bound = log_mean_exp(joint.logsumexp(dim=-1))
            weights = _softmax_over_samples_and_counts(joint)
            score = (weights * learned).sum(dim=(0, -1))
        else:
            n = NumSteps(output.rollout.continue_logits, validate_args=False).sample()
            log_weights = at_counts(joint - counts.log_q, n)
            bound = log_mean_exp(log_weights)
            score = (log_weights.detach().softmax(dim=0) * at_counts(learned, n)).sum(dim=0)
        return _objective(surrogate(bound.detach(), score), output)


class Concrete(Estimator):
    """The relaxation: presences between 0 and 1, with a gradient through them. Biased.

    Maddison et al. (2017), Jang et al. (2017). Objects are faded by their relaxed presence; the
    KL terms stay exact. The value is a bound only where ``straight_through`` is set: then the
    presences are rounded, and only their gradient is the relaxed one's (Bengio et al., 2013).

    Args:
        config: of the model.
        num_samples: K.
        temperature: of the relaxation; smaller is less biased and noisier.
        straight_through: round the presences.
    """

    def __init__(
        self,
        config: AIRConfig,
        num_samples: int = 1,
        *,
        temperature: float = 1.0,
        straight_through: bool = False,
    ) -> None:
        super().__init__(config, num_samples)
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0, got {temperature}.")
        self.temperature = temperature
        self.straight_through = straight_through

    def objective(self, output: AIROutput, batch: Batch) -> Objective:
        """Minus the relaxed bound."""
        logits = output.rollout.continue_logits
        uniform = torch.rand_like(logits).clamp(1e-6, 1 - 1e-6)
        relaxed = torch.sigmoid((logits + uniform.logit()) / self.temperature)
        if self.straight_through:
            relaxed = relaxed + (relaxed.round() - relaxed).detach()
        z_pres = relaxed.cumprod(dim=-1)
        faded = output.objects * z_pres[..., None, None, None]
        log_likelihood = batch.model.generative.log_likelihood(
            batch.images, faded, batch.likelihood_sd
        )[..., -1]
        return _objective(log_likelihood - output.elbo_parts.kl, output)


def _objective(bound: Tensor, output: AIROutput, auxiliary: Tensor | None = None) -> Objective:
    loss = -bound.mean()
    if auxiliary is None:
        auxiliary = torch.zeros_like(loss)
    return Objective(loss=loss, auxiliary_loss=auxiliary, output=output)


def _drawn_log_weights(output: AIROutput, prior: Prior) -> tuple[Tensor, Tensor]:
    """Log weights at one drawn n a rollout, and log q of that n, each ``(K, B)``."""
    n = NumSteps(output.rollout.continue_logits, validate_args=False).sample()
    log_q = at_counts(output.counts.log_q, n)
    joint = log_weights_by_count(output.rollout, output.counts, prior)
    return at_counts(joint, n) - log_q, log_q


def _softmax_over_samples_and_counts(joint: Tensor) -> Tensor:
    """Normalised weights of all rollouts and counts of an image, detached: ``(K, B, T + 1)``."""
    log_total = joint.logsumexp(dim=-1).logsumexp(dim=0)
    return (joint - log_total.unsqueeze(-1)).exp().detach()


def _context(output: AIROutput) -> Tensor:
    """What is known before step t besides the image: ``(K, B, T, T * (3 + D) + T)``."""
    latents = torch.cat([output.rollout.z_where, output.rollout.z_what], dim=-1).detach()
    steps = latents.shape[2]
    earlier = latents.new_ones(steps, steps).tril(diagonal=-1)
    known = (latents.unsqueeze(2) * earlier.unsqueeze(-1)).flatten(3)
    index = torch.eye(steps, dtype=latents.dtype, device=latents.device)
    return torch.cat([known, index.expand(*known.shape[:3], steps)], dim=-1)


ESTIMATORS: dict[str, Callable[..., Estimator]] = {
    "concrete": Concrete,
    "concrete-st": partial(Concrete, straight_through=True),
    "enumerate": Enumerate,
    "iw-enumerate": IWEnumerate,
    "nvil": Nvil,
    "reinforce": Reinforce,
    "rloo": Rloo,
    "rws": Rws,
    "rws-exact": partial(Rws, exact_counts=True),
    "vimco": Vimco,
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
