r"""Distributions over the number of objects.

:class:`NumSteps` is the posterior: a chain of "one more object?" decisions, each with its own
logit. :class:`TruncatedGeometric` is the prior: the same decision with one probability for all,
cut off at ``T`` objects and normalised. Both live on ``0 .. T`` and work in log space.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Distribution, Normal, constraints
from torch.distributions.kl import register_kl

__all__ = ["NumSteps", "TruncatedGeometric", "normal_kl"]


class _CountDistribution(Distribution):
    """A distribution over ``0 .. T`` that knows the log probability of each count."""

    has_enumerate_support = True
    log_probs: Tensor  # (*batch_shape, T + 1)

    @property
    def max_objects(self) -> int:
        """T, the largest count."""
        return self.log_probs.shape[-1] - 1

    @property
    def support(self) -> constraints.Constraint:
        """Whole numbers from 0 to T."""
        return constraints.integer_interval(0, self.max_objects)

    @property
    def probs(self) -> Tensor:
        """Probability of each count, shape ``(*batch_shape, T + 1)``."""
        return self.log_probs.exp()

    @property
    def mean(self) -> Tensor:
        """Expected count."""
        return (self.probs * self._counts()).sum(dim=-1)

    @property
    def variance(self) -> Tensor:
        """Variance of the count."""
        return (self.probs * (self._counts() - self.mean.unsqueeze(-1)).square()).sum(dim=-1)

    @property
    def mode(self) -> Tensor:
        """Most probable count (the smaller one of two alike), int64."""
        return self.log_probs.argmax(dim=-1)

    def entropy(self) -> Tensor:
        """Entropy in nats, shape ``batch_shape``."""
        return -(self.probs * self.log_probs).sum(dim=-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability of the counts ``value``, shape ``(*sample_shape, *batch_shape)``."""
        if self._validate_args:
            self._validate_sample(value)
        index = value.long().unsqueeze(-1)
        shape = torch.broadcast_shapes(self.log_probs.shape[:-1], index.shape[:-1])
        log_probs = self.log_probs.expand(*shape, -1)
        return log_probs.gather(-1, index.expand(*shape, 1)).squeeze(-1)

    def sample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        """Draw counts, int64, shape ``(*sample_shape, *batch_shape)``."""
        with torch.no_grad():
            # n is the number of thresholds P(n >= 1), ..., P(n >= T) above one uniform number.
            survival = 1 - self.probs.cumsum(dim=-1)[..., :-1]
            shape = self._extended_shape(torch.Size(sample_shape))
            uniform = torch.rand(shape, dtype=survival.dtype, device=survival.device)
            return (uniform.unsqueeze(-1) < survival).sum(dim=-1)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """All counts, shape ``(T + 1, *batch_shape)``, or ``(T + 1, 1, ...)`` unexpanded."""
        values = torch.arange(self.max_objects + 1, device=self.log_probs.device)
        values = values.view(-1, *[1] * len(self.batch_shape))
        return values.expand(-1, *self.batch_shape) if expand else values

    def _counts(self) -> Tensor:
        return torch.arange(self.max_objects + 1, device=self.log_probs.device).to(self.log_probs)


class NumSteps(_CountDistribution):
    r"""Number of steps of a chain that goes on with probability ``sigmoid(logits[t])``.

    .. math:: q(n) = (1 - \rho_{n+1})^{[n < T]} \prod_{t \le n} \rho_t,
              \qquad \rho_t = \mathrm{sigmoid}(\mathrm{logits}_t)

    Section 2.1 of Eslami et al. (2016): the sum of the ``z_pres``, whose chain of Bernoulli
    variables stops at the first zero, or after ``T`` ones.

    Args:
        logits: of "one more object" at each step, given that it is reached, ``(*batch, T)``.
        validate_args: as in ``torch.distributions``.

    Raises:
        ValueError: if ``logits`` has no step axis, or no step.

    Example:
        >>> NumSteps(torch.tensor([0.0, 0.0])).probs
        tensor([0.5000, 0.2500, 0.2500])
    """

    arg_constraints: ClassVar = {"logits": constraints.real_vector}

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        if logits.dim() < 1 or logits.shape[-1] < 1:
            raise ValueError(
                f"logits must have shape (*, T) with T >= 1, got {tuple(logits.shape)}."
            )
        self.logits = logits
        super().__init__(logits.shape[:-1], validate_args=validate_args)

    @torch.distributions.utils.lazy_property
    def log_probs(self) -> Tensor:
        """``log q(n)`` for n = 0 .. T, shape ``(*batch_shape, T + 1)``."""
        stop = F.logsigmoid(-self.logits)
        survival = self.log_survival
        zero = torch.zeros_like(survival[..., :1])
        # log P(n >= n) + log P(stop after n); the last step has nowhere to go but to stop.
        return torch.cat([zero, survival], dim=-1) + torch.cat([stop, zero], dim=-1)

    @torch.distributions.utils.lazy_property
    def log_survival(self) -> Tensor:
        """``log P(n >= t)`` for t = 1 .. T, shape ``(*batch_shape, T)``."""
        return F.logsigmoid(self.logits).cumsum(dim=-1)

    def expand(self, batch_shape, _instance=None):  # type: ignore[no-untyped-def]
        """The same distribution with a larger batch shape."""
        logits = self.logits.expand(*batch_shape, -1)
        return NumSteps(logits, validate_args=False)


class TruncatedGeometric(_CountDistribution):
    r"""Geometric distribution over ``0 .. T``, normalised.

    .. math:: p(n) = \rho^n \Big/ \sum_{m=0}^T \rho^m

    Args:
        continue_prob: the probability :math:`\rho` of one more object, in (0, 1], any shape.
        max_objects: T.
        validate_args: as in ``torch.distributions``.

    Raises:
        ValueError: if ``continue_prob`` is outside (0, 1] or ``max_objects`` below 1.

    Example:
        >>> TruncatedGeometric(0.5, max_objects=2).probs
        tensor([0.5714, 0.2857, 0.1429])
    """

    arg_constraints: ClassVar = {"continue_prob": constraints.unit_interval}

    def __init__(
        self, continue_prob: float | Tensor, max_objects: int, validate_args: bool | None = None
    ) -> None:
        if max_objects < 1:
            raise ValueError(f"max_objects must be at least 1, got {max_objects}.")
        if not isinstance(continue_prob, Tensor):
            if not 0 < continue_prob <= 1:
                raise ValueError(
                    f"continue_prob must be above 0 and at most 1, got {continue_prob}."
                )
            continue_prob = torch.tensor(continue_prob, dtype=torch.get_default_dtype())
        self.continue_prob = continue_prob
        counts = torch.arange(max_objects + 1, device=continue_prob.device)
        log_rho = continue_prob.log().unsqueeze(-1)
        self.log_probs = torch.log_softmax(log_rho * counts.to(continue_prob), dim=-1)
        super().__init__(continue_prob.shape, validate_args=validate_args)

    def expand(self, batch_shape, _instance=None):  # type: ignore[no-untyped-def]
        """The same distribution with a larger batch shape."""
        prob = self.continue_prob.expand(batch_shape)
        return TruncatedGeometric(prob, self.max_objects, validate_args=False)


@register_kl(NumSteps, TruncatedGeometric)
def _kl_num_steps_truncated_geometric(q: NumSteps, p: TruncatedGeometric) -> Tensor:
    """Exact: a sum over the T + 1 counts. Shape: the broadcast of the two batch shapes."""
    if q.max_objects != p.max_objects:
        raise ValueError(
            f"the two distributions must have the same largest count, "
            f"got {q.max_objects} and {p.max_objects}."
        )
    return (q.probs * (q.log_probs - p.log_probs)).sum(dim=-1)


def normal_kl(mean: Tensor, sd: Tensor, prior: Normal) -> Tensor:
    """``KL(N(mean, sd^2) || prior)`` of each dimension, in nats.

    What ``torch.distributions.kl_divergence`` gives, in fewer steps and within reach of
    ``torch.compile``.

    Args:
        mean: ``(*, D)``.
        sd: ``(*, D)``.
        prior: of shape ``(D,)``.
    """
    precision = prior.scale.square().reciprocal()
    squares = torch.addcmul(sd.square(), mean - prior.loc, mean - prior.loc)
    return 0.5 * (squares * precision - 1) - (sd / prior.scale).log()
