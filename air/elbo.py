r"""The bounds, as arithmetic on tensors over counts.

Pure functions. With ``value_n = log p(x | z_{1:n}) - KL_n + log p(n) - log q(n)``,

.. math::
    \mathrm{ELBO} &= \sum_n q(n) \, \mathrm{value}_n \\
    \log p(x) &\ge \log \frac1K \sum_k \sum_n
        \exp\big(\log p(x \mid z_{1:n}) + \log p(n) + \log p(z_{1:n}) - \log q(z_{1:n})\big)

Both are exact in n. The second uses log-densities at the *samples*: with analytic KL terms in
their place it would be no bound. In it q(n) cancels.
"""

import math

import torch
from torch import Tensor
from torch.distributions import Normal

from air.distributions import NumSteps, normal_kl
from air.priors import Prior
from air.types import CountPosterior, CountTensors, ELBOParts, ImportanceBound, Rollout

__all__ = [
    "count_posterior",
    "count_tensors",
    "elbo_parts",
    "importance_bound",
    "log_ratio_latents",
    "log_weights",
    "log_weights_by_count",
]


def count_tensors(rollout: Rollout, log_likelihood: Tensor, prior: Prior) -> CountTensors:
    """Everything that depends on n, for all n at once.

    Args:
        rollout: of the inference network.
        log_likelihood: ``log p(x | z_{1:n})``, ``(K, B, T + 1)``.
        prior: over n and the latents.
    """
    return CountTensors(
        log_q=NumSteps(rollout.continue_logits, validate_args=False).log_probs,
        log_p=prior.num_steps.log_probs,
        log_likelihood=log_likelihood,
        kl_z_where=normal_kl(rollout.z_where_mean, rollout.z_where_sd, prior.z_where).sum(dim=-1),
        kl_z_what=normal_kl(rollout.z_what_mean, rollout.z_what_sd, prior.z_what).sum(dim=-1),
    )


def elbo_parts(counts: CountTensors) -> ELBOParts:
    """The ELBO with n summed out exactly, by parts. Equation 6 of Eslami et al. (2016)."""
    q = counts.log_q.exp()
    # P(n >= t) for t = 1 .. T: object t is there, and its latents are paid for.
    survival = q[..., 1:].flip(-1).cumsum(dim=-1).flip(-1)
    return ELBOParts(
        log_likelihood=(q * counts.log_likelihood).sum(dim=-1),
        kl_num_steps=(q * (counts.log_q - counts.log_p)).sum(dim=-1),
        kl_z_where_by_step=survival * counts.kl_z_where,
        kl_z_what_by_step=survival * counts.kl_z_what,
    )


def log_ratio_latents(rollout: Rollout, prior: Prior) -> Tensor:
    """``log p(z_{1:n}) - log q(z_{1:n} | x)`` at the samples, ``(K, B, T + 1)``."""
    q_z_where, q_z_what = _posteriors(rollout)
    where = prior.z_where.log_prob(rollout.z_where) - q_z_where.log_prob(rollout.z_where)
    what = prior.z_what.log_prob(rollout.z_what) - q_z_what.log_prob(rollout.z_what)
    steps = (where.sum(dim=-1) + what.sum(dim=-1)).cumsum(dim=-1)
    return torch.cat([torch.zeros_like(steps[..., :1]), steps], dim=-1)


def log_weights_by_count(rollout: Rollout, counts: CountTensors, prior: Prior) -> Tensor:
    """``log p(x, n, z_{1:n}) - log q(z_{1:n} | x)`` at the samples, ``(K, B, T + 1)``.

    Each is the logarithm of an unbiased estimate of p(x, n).
    """
    return counts.log_likelihood + counts.log_p + log_ratio_latents(rollout, prior)


def log_weights(rollout: Rollout, counts: CountTensors, prior: Prior) -> Tensor:
    """Log importance weights with n summed out exactly, ``(K, B)``.

    Each is the logarithm of an unbiased estimate of p(x).
    """
    return log_weights_by_count(rollout, counts, prior).logsumexp(dim=-1)


def importance_bound(log_weights: Tensor) -> ImportanceBound:
    """The importance-weighted bound (Burda et al., 2016, equation 8).

    Args:
        log_weights: ``(K, B)``.
    """
    num_samples = log_weights.shape[0]
    log_sum = log_weights.logsumexp(dim=0)
    log_sum_squares = (2 * log_weights).logsumexp(dim=0)
    return ImportanceBound(
        log_likelihood=log_sum - math.log(num_samples),
        ess=(2 * log_sum - log_sum_squares).exp(),
        num_samples=num_samples,
    )


def count_posterior(log_weights: Tensor, log_q: Tensor) -> CountPosterior:
    r"""p(n | x) by importance weighting, self-normalised, beside q(n | x).

    .. math:: p(n \mid x) = \frac{p(x, n)}{p(x)} \approx
              \frac{\sum_k w_{kn}}{\sum_{km} w_{km}}, \qquad
              w_{kn} = \frac{p(x, n, z^k_{1:n})}{q(z^k_{1:n} \mid x)}

    Args:
        log_weights: of :func:`log_weights_by_count`, ``(K, B, T + 1)``.
        log_q: ``log q(n | z, x)`` of the same rollouts, ``(K, B, T + 1)``.
    """
    by_count = log_weights.logsumexp(dim=0)
    return CountPosterior(
        probs=by_count.softmax(dim=-1),
        q_probs=log_q.exp().mean(dim=0),
        ess=importance_bound(log_weights.logsumexp(dim=-1)).ess,
        num_samples=log_weights.shape[0],
    )


def _posteriors(rollout: Rollout) -> tuple[Normal, Normal]:
    """q(z_where) and q(z_what) of every step."""
    return (
        Normal(rollout.z_where_mean, rollout.z_where_sd, validate_args=False),
        Normal(rollout.z_what_mean, rollout.z_what_sd, validate_args=False),
    )
