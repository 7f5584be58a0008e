"""What is compared: the registry's estimators, each with settings that make sense for it.

Estimators that work with one rollout have K = 1, those that need several K = 5. ``enumerate-k5``
is the exact one with as many rollouts: what of a multi-sample estimator is the samples' doing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from air.config import AIRConfig
from air.estimators import ESTIMATORS, Estimator, make_estimator

__all__ = ["FAMILIES", "PAPER", "VARIANTS", "Variant", "find_variants"]

PAPER = {
    "inference": "paper",
    "z_where_sd": "0.2,1,1",
    "lr": 1e-3,
    "likelihood_sd": "0.3",
    "continue_prob": "exponential:1e-5:0.01:1500",
}
"""Settings of all runs: the paper's network, whose gradients have no choice in them that they
leave out."""

FAMILIES = ("exact", "score, learned baseline", "score, leave one out", "wake-wake", "relaxation")
"""How the discrete count is got through: one column of the pictures each."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """An estimator with its settings, under one name."""

    name: str
    """The registry's name where the options are the estimator's own."""
    estimator: str
    """Name in the registry."""
    num_samples: int
    """K."""
    rollouts: int
    """Rollouts of each image a step: K, except where counts share one."""
    options: dict[str, Any] = field(default_factory=dict)
    """The estimator's own."""
    source: str
    unbiased_for: str
    follows_elbo: bool
    """Whether the exact gradient of the ELBO is what it means to give, biased or not."""
    family: str
    """One of :data:`FAMILIES`."""

    def make(self, config: AIRConfig) -> Estimator:
        """The estimator, for a model of this configuration."""
        return make_estimator(self.estimator, config, self.num_samples, **self.options)

    @property
    def settings(self) -> dict[str, Any]:
        """What tells this variant from others, ready for JSON."""
        return {
            "estimator": self.estimator,
            "num_samples": self.num_samples,
            "options": dict(self.options),
        }


_ELBO = "the ELBO"
_IW = "the bound of 5 draws"
# name, registry, K, rollouts, options, source, unbiased for, follows the ELBO, family
_TABLE: tuple[tuple[str, str, int, int, dict[str, Any], str, str, bool, int], ...] = (
    ("enumerate", "enumerate", 1, 1, {}, "sum over n", _ELBO, True, 0),
    ("enumerate-k5", "enumerate", 5, 5, {}, "sum over n", _ELBO, True, 0),
    (
        *("iw-enumerate", "iw-enumerate", 5, 5, {}, "Burda 2016; sum over n"),
        *("the bound of 5 draws, n summed out; q(n) by its own term", False, 0),
    ),
    ("reinforce", "reinforce", 1, 1, {}, "Eslami 2016; Mnih & Gregor 2014", _ELBO, True, 1),
    *(
        (f"reinforce-{b}", "reinforce", 1, 1, {"baseline": b}, "Williams 1992", _ELBO, True, 1)
        for b in ("none", "mean")
    ),
    (
        *("reinforce-mlp", "reinforce", 1, 1, {"baseline": "mlp"}),
        *("Mnih & Gregor 2014", _ELBO, True, 1),
    ),
    ("nvil", "nvil", 1, 1, {}, "Mnih & Gregor 2014", "nothing: q(n)'s part rescaled", True, 1),
    ("rloo", "rloo", 5, 5, {}, "Kool 2019", _ELBO, True, 2),
    ("rloo-counts", "rloo", 5, 1, {"share_rollout": True}, "Kool 2019", _ELBO, True, 2),
    ("vimco", "vimco", 5, 5, {}, "Mnih & Rezende 2016", _IW, False, 2),
    ("rws", "rws", 5, 5, {}, "Bornschein & Bengio 2015; Le 2019", "nothing", False, 3),
    ("rws-exact", "rws-exact", 5, 5, {}, "the same; sum over n", "nothing", False, 3),
    ("concrete", "concrete", 1, 1, {}, "Maddison 2017; Jang 2017", "nothing", True, 4),
    ("concrete-st", "concrete-st", 1, 1, {}, "the same; Bengio 2013", "nothing", True, 4),
)

VARIANTS: dict[str, Variant] = {
    row[0]: Variant(
        name=row[0],
        estimator=row[1],
        num_samples=row[2],
        rollouts=row[3],
        options=row[4],
        source=row[5],
        unbiased_for=row[6],
        follows_elbo=row[7],
        family=FAMILIES[row[8]],
    )
    for row in _TABLE
}
"""By name, in the order of the tables."""


def find_variants(names: str | None, default: Sequence[str]) -> list[Variant]:
    """Variants by their names, separated by commas.

    Args:
        names: such as ``enumerate,rloo``; ``all`` for every one; None for the default.
        default: names to take then.

    Raises:
        ValueError: if a name is unknown.
    """
    wanted = list(VARIANTS) if names == "all" else list(default)
    if names not in (None, "all"):
        assert names is not None
        wanted = list(dict.fromkeys(name.strip() for name in names.split(",")))
    unknown = [name for name in wanted if name not in VARIANTS]
    if unknown:
        raise ValueError(
            f"unknown estimator(s): {', '.join(map(repr, unknown))}. "
            f"Expected some of: {', '.join(VARIANTS)}."
        )
    return [VARIANTS[name] for name in wanted]


def registry_variants() -> list[str]:
    """Names of the variants that are the registry's estimators with their own options."""
    return [name for name in VARIANTS if name in ESTIMATORS]
