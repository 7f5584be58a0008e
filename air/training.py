"""How :func:`air.fit` trains: on collages of the images, then on the images themselves."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from air.collages import CollageMaker
from air.config import AIRConfig
from air.estimators import Estimator, make_estimator
from air.guidance import add_guidance
from air.model import AIR
from air.schedules import Cosine, Exponential
from air.score_function import at_counts
from air.types import CountTensors

__all__ = ["Pace", "Training", "sparse_prob"]

_COLLAGES = 0.35
"""Share of the steps that are taken on collages alone."""
_COUNTED = 0.65
"""Share of the steps after which the images' own ELBO says how many objects there are."""
_UNGUIDED = 0.8
"""Share of the steps after which there are no collages any more."""
_GUIDANCE = 30.0
"""Weight of the collages' counts and positions where images begin; falls in a straight line."""
_RAISED = 0.75
"""Share of the last part after which the prior of the count is the model's."""
_WORTH = 0.25
"""An object costs this share of what the faintest gain, where the ELBO begins to count."""
_SPARSEST = 1e-30
_FEW_IMAGES = 2000
"""So many images and more are varied enough as they are."""


@dataclass(eq=False)
class Pace:
    """How far training is, from 0 to 1, where time may run out.

    Args:
        num_steps: to be taken.
        deadline: on the monotonic clock; none if None.
    """

    num_steps: int
    deadline: float | None

    def __post_init__(self) -> None:
        self.position, self.step = 0.0, 0
        self.stride = 1 / self.num_steps
        self._window = time.monotonic()

    def advance(self) -> None:
        """After a step. Every twentieth looks at the clock, and goes on in larger strides."""
        self.step += 1
        self.position = min(self.position + self.stride, 1.0)
        if self.deadline is None or self.step % 20:
            return
        now = time.monotonic()
        affordable = max((self.deadline - now) / max((now - self._window) / 20, 1e-9), 1.0)
        self.stride = max(self.stride, (1 - self.position) / affordable)
        self._window = now

    @property
    def done(self) -> bool:
        """Whether nothing is left, but for what rounding leaves."""
        return self.position > 1 - 1e-9


class Training:
    """One start: a model, its optimiser and the data.

    Args:
        config: of the model.
        images: prepared, where the model shall be: ``(N, C, H, W)``.
        maker: of collages; without one there is only the ELBO of the images.
        batch_size: images a step.
    """

    def __init__(
        self, config: AIRConfig, images: Tensor, maker: CollageMaker | None, batch_size: int
    ) -> None:
        self.model = AIR(config).to(images.device).train()
        self.model.validate_args = False
        self.estimator: Estimator = make_estimator("enumerate", config).to(images.device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3, fused=True)
        self.images, self.maker, self.batch_size = images, maker, batch_size

    def run(self, num_steps: int, deadline: float | None, say: Callable[[str], None]) -> AIR:
        """Train; hands back the model. See :func:`air.fit` for the three parts.

        Raises:
            FloatingPointError: if a loss is not finite, as soon as it is.
        """
        config = self.model.config
        pace, rate = Pace(num_steps, deadline), Cosine(1e-3, 0.0, num_steps=num_steps)
        first, own, raised = 1e-5, 0.0, 0.5
        if self.maker is not None:
            first, own, raised = sparse_prob(self.maker, config), _COUNTED, _RAISED
        raised_in = max(round(raised * (1 - own) * num_steps), 1)
        prior = Exponential(first, config.continue_prob, raised_in)
        start, said = time.monotonic(), 0
        while not pace.done:
            position = pace.position
            for group in self.optimizer.param_groups:
                group["lr"] = rate(round(position * num_steps))
            if self.maker is not None and position < _COLLAGES:
                self.guided_step()
                what = "on collages"
            else:
                weight = 0.0
                if self.maker is not None:
                    left = (_UNGUIDED - position) / (_UNGUIDED - _COLLAGES)
                    weight = _GUIDANCE * max(left, 0.0)
                continue_prob = prior(round((position - own) * num_steps))
                bound = self.own_step(continue_prob, weight, counted=position < own)
                if not bound.isfinite():
                    raise FloatingPointError(f"the loss of step {pace.step + 1} is not finite")
                what = "log-likelihood less KL" if position < own else "ELBO"
                what = f"{what} {bound.item():.1f}" if int(position * 10) >= said else what
            pace.advance()
            if int(pace.position * 10) > said:
                said = int(pace.position * 10)
                seconds = time.monotonic() - start
                say(f"{said * 10:3d} %, step {pace.step}, {seconds:.0f} s: {what}")
        return self.model.eval()

    def own_step(self, continue_prob: float, guidance: float, *, counted: bool) -> Tensor:
        """Learn from the images; half of the batch are collages where there is guidance.

        Args:
            continue_prob: of the prior.
            guidance: weight of the collages.
            counted: whether the count that the model reads now is taken as it is, instead of
                being summed out: then only the collages teach it to count.

        Returns:
            The bound, mean over the batch.
        """
        number = self.batch_size if guidance == 0 else max(self.batch_size // 2, 1)
        index = torch.randint(len(self.images), (number,), device=self.images.device)
        images = self.images[index]
        if len(self.images) < _FEW_IMAGES:
            images = _vary(images)
        self.optimizer.zero_grad()
        if counted:
            bound = _bound_as_counted(self.model(images).counts).mean()
            (-bound).backward()
        else:
            objective = self.estimator(self.model, images, self.model.prior(continue_prob))
            objective.total_loss.backward()
            bound = -objective.loss
        if guidance > 0:
            self._guide(max(self.batch_size - number, 1), guidance)
        self.optimizer.step()
        return bound.detach()

    def guided_step(self) -> None:
        """Learn from collages alone."""
        self.optimizer.zero_grad()
        self._guide(self.batch_size, 1.0)
        self.optimizer.step()

    def _guide(self, number: int, weight: float) -> None:
        """Add the gradients of collages."""
        assert self.maker is not None
        add_guidance(self.model, self.maker(number), weight)


def sparse_prob(maker: CollageMaker, config: AIRConfig) -> float:
    r"""Prior probability of one more object at which only whole objects are worth their cost.

    A region with pixels x gains :math:`\sum x^2 / 2\sigma^2` nats when it is explained. The cost
    of an object, minus the logarithm of this probability, is a quarter of what the fainter regions
    gain (their fifth percentile): halves of an object that is rendered well do not gain that.
    """
    sd = config.likelihood_sd if config.likelihood == "normal" else 0.3
    gains = maker.patches.square().sum(dim=(1, 2, 3)) / (2 * sd**2)
    cost = _WORTH * gains.quantile(0.05).item()
    return min(max(math.exp(-cost), _SPARSEST), config.continue_prob)


def _bound_as_counted(counts: CountTensors) -> Tensor:
    """The bound at the most probable count, without that count's own terms: ``(K, B)``."""
    mode = counts.log_q.detach().argmax(dim=-1)
    return at_counts(counts.log_likelihood - counts.kl_latents, mode)


def _vary(images: Tensor) -> Tensor:
    """Turn images over at random and move them by up to a sixteenth of their sides."""
    number, channels, height, width = images.shape
    device = images.device
    for axis in (-1, -2):
        flip = torch.rand(number, 1, 1, 1, device=device) < 0.5
        images = torch.where(flip, images.flip(axis), images)
    reach_y, reach_x = height // 16, width // 16
    padded = F.pad(images, (reach_x, reach_x, reach_y, reach_y))
    rows = torch.randint(0, 2 * reach_y + 1, (number, 1), device=device)
    columns = torch.randint(0, 2 * reach_x + 1, (number, 1), device=device)
    rows = rows + torch.arange(height, device=device)
    columns = columns + torch.arange(width, device=device)
    return padded[
        torch.arange(number, device=device)[:, None, None, None],
        torch.arange(channels, device=device)[:, None, None],
        rows[:, None, :, None],
        columns[:, None, None, :],
    ]
