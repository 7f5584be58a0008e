"""How :func:`air.fit` trains: one start, on the images themselves, as :mod:`air.recipe` says."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from air.config import AIRConfig
from air.estimators import Estimator, make_estimator
from air.model import AIR
from air.recipe import recipe_for
from air.schedules import Cosine

__all__ = ["Pace", "Training"]

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
        batch_size: images a step.
    """

    def __init__(self, config: AIRConfig, images: Tensor, batch_size: int) -> None:
        self.model = AIR(config).to(images.device).train()
        self.model.validate_args = False
        self.estimator: Estimator = make_estimator("enumerate", config).to(images.device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), fused=True)
        self.images, self.batch_size = images, batch_size

    def run(self, num_steps: int, deadline: float | None, say: Callable[[str], None]) -> AIR:
        """Train; hands back the model.

        Args:
            num_steps: to be taken where time allows.
            deadline: on the monotonic clock; none if None.
            say: called with a line at each tenth of the way.

        Raises:
            FloatingPointError: if the bound is not finite, as soon as it is.
        """
        pace, recipe = Pace(num_steps, deadline), recipe_for(self.model.config, num_steps)
        rate = Cosine(recipe.learning_rate, 0.0, num_steps=num_steps)
        start, said = time.monotonic(), 0
        while not pace.done:
            step = round(pace.position * num_steps)
            for group in self.optimizer.param_groups:
                group["lr"] = rate(step)
            bound = self.step(
                recipe.continue_prob(step), limit=1 if step < recipe.alone_until else None
            )
            if not bound.isfinite():
                raise FloatingPointError(f"the ELBO is not finite at step {pace.step + 1}")
            pace.advance()
            if int(pace.position * 10) > said:
                said = int(pace.position * 10)
                seconds = time.monotonic() - start
                say(f"{said * 10:3d} %, step {pace.step}, {seconds:.0f} s: ELBO {bound:.1f}")
        return self.model.eval()

    def step(self, continue_prob: float, limit: int | None = None) -> Tensor:
        """Learn from a batch; the bound, mean over it."""
        size = (self.batch_size,)
        images = self.images[torch.randint(len(self.images), size, device=self.images.device)]
        if len(self.images) < _FEW_IMAGES:
            images = _vary(images)
        self.optimizer.zero_grad()
        objective = self.estimator(self.model, images, self.model.prior(continue_prob, limit=limit))
        objective.total_loss.backward()
        self.optimizer.step()
        return -objective.loss.detach()


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
