"""The prior over the number of objects, their poses and their looks."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from air.distributions import TruncatedGeometric

__all__ = ["Prior", "PriorNetwork"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Prior:
    """The prior p(n) p(z_where) p(z_what), evaluated: no schedule and no step is left in it."""

    num_steps: TruncatedGeometric
    """p(n)."""
    z_where: Normal
    """p(z_where) of one object, parameters of shape ``(3,)``."""
    z_what: Normal
    """p(z_what) of one object, a standard Gaussian in each of the D dimensions."""
    limit: float | Tensor | None = None
    """If given, q(n) may not exceed it, though p(n) may: early in training, one object a picture
    teaches the decoder to draw whole ones. Where two may share an object from the first step on,
    each learns half of its brightness, and no gradient undoes that."""


class PriorNetwork(nn.Module):
    """Makes a :class:`Prior` from a probability of one more object.

    To anneal that probability, evaluate a schedule and hand its value over::

        schedule = Exponential(1e-9, 0.01, num_steps=4000)
        output = model(images, model.prior(schedule(step)))

    Args:
        max_objects: T.
        z_what_size: D.
        continue_prob: the prior probability of one more object.
        learn_continue_prob: whether that probability is a parameter, started at
            ``continue_prob``.
        z_where_mean: mean of ``(s, x, y)``.
        z_where_sd: standard deviation of ``(s, x, y)``.
    """

    continue_logit: Tensor
    z_where_mean: Tensor
    z_where_sd: Tensor

    def __init__(
        self,
        *,
        max_objects: int,
        z_what_size: int,
        continue_prob: float,
        learn_continue_prob: bool,
        z_where_mean: tuple[float, float, float],
        z_where_sd: tuple[float, float, float],
    ) -> None:
        super().__init__()
        self.max_objects = max_objects
        self.z_what_size = z_what_size
        logit = torch.tensor(math.log(continue_prob) - math.log1p(-continue_prob))
        if learn_continue_prob:
            self.continue_logit = nn.Parameter(logit)
        else:
            self.register_buffer("continue_logit", logit)
        self.register_buffer("z_where_mean", torch.tensor(z_where_mean))
        self.register_buffer("z_where_sd", torch.tensor(z_where_sd))

    @property
    def continue_prob(self) -> Tensor:
        """The model's own probability of one more object: a scalar."""
        return self.continue_logit.sigmoid()

    def forward(
        self,
        continue_prob: float | Tensor | None = None,
        max_objects: int | None = None,
        limit: float | Tensor | None = None,
    ) -> Prior:
        """Evaluate the prior.

        Args:
            continue_prob: probability of one more object in (0, 1], such as the value of a
                schedule at this step. Default: the model's own, which may be learned.
            max_objects: another T than the model's: no weight depends on it.
            limit: see :attr:`Prior.limit`.

        Raises:
            ValueError: if ``continue_prob`` is outside (0, 1].
        """
        if continue_prob is None:
            continue_prob = self.continue_prob
        elif not isinstance(continue_prob, Tensor):
            if not 0 < continue_prob <= 1:
                raise ValueError(
                    f"continue_prob must be above 0 and at most 1, got {continue_prob}."
                )
            # Filled in, not copied over: a copy from the CPU would wait for a GPU's work.
            continue_prob = self.continue_logit.new_full((), continue_prob)
        zeros = self.z_where_mean.new_zeros(self.z_what_size)
        return Prior(
            num_steps=TruncatedGeometric(
                continue_prob, max_objects or self.max_objects, validate_args=False
            ),
            z_where=Normal(self.z_where_mean, self.z_where_sd, validate_args=False),
            z_what=Normal(zeros, zeros + 1, validate_args=False),
            limit=limit,
        )
