"""How to train: the settings that are the same for every data set, in one place.

What comes from the data is the size of the objects (the prior of their scale) and nothing else.
``air.fit`` and the command ``train`` both follow this, unless told otherwise.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

from air.config import AIRConfig
from air.schedules import Chain, Exponential, Schedule

__all__ = ["Recipe", "continue_prob_points", "likelihood_sd", "recipe_for"]

FIRST_PROB = 0.5
"""While the decoder learns, an object may cost little: else there is none."""
SPARSE_PROB = 1e-4
"""Then it must earn its place: objects that were explained by two are explained by one again."""
ALONE = 0.1
"""Share of the steps in which no picture may hold more than one object: see
:attr:`air.priors.Prior.limit`."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A learning rate, and the probability of one more object at each step."""

    learning_rate: float
    """Of Adam at the first step; it falls to zero by half a cosine."""
    continue_prob: Schedule
    """Prior probability of one more object, by step."""
    alone_until: int
    """Until this step at most one object is found in an image."""


def continue_prob_points(
    config: AIRConfig, num_steps: int, last: float | None = None
) -> list[tuple[float, int]]:
    """Values of the prior probability of one more object, and the steps where they hold.

    Between them it is a straight line on a log scale.

    Args:
        config: of the model.
        num_steps: of the whole training.
        last: what it ends with; default: the model's ``continue_prob``.
    """
    last = config.continue_prob if last is None else last
    if config.inference == "paper":
        shares = [(min(1e-5, last), 0.0), (last, 0.5)]
    else:
        sparse = min(SPARSE_PROB, last)
        shares = [(FIRST_PROB, 0.0), (FIRST_PROB, 0.1), (sparse, 0.3), (sparse, 0.6), (last, 0.85)]
    points: list[tuple[float, int]] = []
    for value, share in shares:
        # A run of a few steps has room for the last values only.
        step = max(round(share * num_steps), points[-1][1] + 1 if points else 0)
        points.append((value, step))
    return points


def recipe_for(config: AIRConfig, num_steps: int) -> Recipe:
    """The recipe for a model and a number of steps."""
    points = continue_prob_points(config, num_steps)
    ramps = tuple(
        Exponential(value, following, until - since)
        for (value, since), (following, until) in pairwise(points)
    )
    is_paper = config.inference == "paper"
    return Recipe(
        learning_rate=1e-3 if is_paper else 2e-3,
        continue_prob=Chain(ramps),
        alone_until=0 if is_paper else round(ALONE * num_steps),
    )


def likelihood_sd(channels: int) -> float:
    """Standard deviation of a pixel: 0.3 in grey, 0.52 in RGB.

    So an error in all three channels counts once, not three times.
    """
    return round(0.3 * math.sqrt(channels), 3)
