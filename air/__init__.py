"""Attend, Infer, Repeat (Eslami et al., NIPS 2016) in plain PyTorch."""

from air.config import AIRConfig
from air.detections import Detections, Predictions
from air.distributions import NumSteps, TruncatedGeometric
from air.estimators import make_estimator
from air.fitting import fit
from air.model import AIR
from air.priors import Prior
from air.schedules import Chain, Constant, Cosine, Exponential, Linear

__version__ = "0.1.0"

__all__ = [
    "AIR",
    "AIRConfig",
    "Chain",
    "Constant",
    "Cosine",
    "Detections",
    "Exponential",
    "Linear",
    "NumSteps",
    "Predictions",
    "Prior",
    "TruncatedGeometric",
    "fit",
    "make_estimator",
]
