"""Arithmetic of score-function estimators: decisions, costs to go, control variates.

Pure functions on tensors over counts, shared by :mod:`air.estimators`.
"""

import math

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from air.distributions import NumSteps
from air.types import CountTensors

__all__ = [
    "Chain",
    "at_counts",
    "leave_one_out_mean",
    "log_mean_exp",
    "masked_statistics",
    "move_towards",
    "sum_over_processes",
    "surrogate",
]


class Chain:
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
        self.kl_pres = kl_pres.sum(dim=-1)
        """KL of the decisions taken, a part of the bound: ``(K, B)``."""
        self.value = log_likelihood.squeeze(-1) - self.kl_pres - kl_latents.sum(dim=-1)
        """The bound at this n, with the KL of each decision analytic: ``(K, B)``."""
        # The KL of decision t itself does not depend on how it falls: it is not to go.
        later_kl_pres = _suffix_sum(kl_pres) - kl_pres
        self.cost_to_go = log_likelihood - _suffix_sum(kl_latents) - later_kl_pres
        """What of the bound is decided at step t or later: ``(K, B, T)``."""


def surrogate(value: Tensor, score: Tensor) -> Tensor:
    """Has the value of ``value`` and the gradient of ``value + score``."""
    return value + score - score.detach()


def at_counts(values: Tensor, n: Tensor) -> Tensor:
    """Values over counts ``(K, B, T + 1)`` at the counts ``(K, B)``."""
    return values.gather(-1, n.unsqueeze(-1)).squeeze(-1)


def log_mean_exp(log_weights: Tensor) -> Tensor:
    """``log 1/K sum_k w_k`` over the first axis."""
    return log_weights.logsumexp(dim=0) - math.log(len(log_weights))


def leave_one_out_mean(values: Tensor) -> Tensor:
    """Mean over the first axis without each sample itself."""
    return (values.sum(dim=0) - values) / (len(values) - 1)


def masked_statistics(values: Tensor, mask: Tensor, dim: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (at least 1) where the mask is 1; NaN where it never is.

    Of the whole batch, where several processes share it; no gradient passes then.
    """
    sums = torch.stack([mask.sum(dim=dim), (values * mask).sum(dim=dim)])
    total, weighted = sum_over_processes(sums)
    mean = weighted / total
    squares = (values - mean.nan_to_num()).square() * mask
    variance = sum_over_processes(squares.sum(dim=dim)) / total
    return mean, variance.sqrt().clamp(min=1.0)


def sum_over_processes(values: Tensor) -> Tensor:
    """Sum over the processes of the default group of ``torch.distributed``, if there is one.

    What a batch's statistics need where each process has a part of it, as in
    ``torch.nn.SyncBatchNorm``. All processes must call it, as often and in the same order.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return values
    values = values.detach().clone()
    dist.all_reduce(values)
    return values


def move_towards(running: Tensor, new: Tensor, decay: float) -> None:
    """Move a running statistic towards a new value; stay where the new one is NaN."""
    running.copy_(torch.where(new.isnan(), running, running.lerp(new, 1 - decay)))


def _suffix_sum(steps: Tensor) -> Tensor:
    """``sum_{s >= t}`` along the last axis."""
    return steps.flip(-1).cumsum(dim=-1).flip(-1)
