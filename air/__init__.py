"""Attend, Infer, Repeat (Eslami et al., NIPS 2016) in plain PyTorch."""

from air.config import AIRConfig
from air.distributions import NumSteps, TruncatedGeometric
from air.estimators import make_estimator
from air.model import AIR
from air.priors import Prior
from air.schedules import Chain, Constant, Cosine, Exponential, Linear

__all__ = [
    "AIR",
    "AIRConfig",
    "Chain",
    "Constant",
    "Cosine",
    "Exponential",
    "Linear",
    "NumSteps",
    "Prior",
    "TruncatedGeometric",
    "make_estimator",
]
