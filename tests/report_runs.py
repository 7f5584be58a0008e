"""Findings about a small model that was never trained: all that a report needs."""

import functools

from experiments.experiment import AIRExperiment
from experiments.report.gather import Findings, read_scenes
from experiments.report.page import render
from experiments.report.pictures import PICTURES, draw
from tests.conftest import CANVAS, make_scenes
from tests.small import finding_model


def make_findings(**changes):
    """Of a model that finds at least one object in some scene."""
    scenes = make_scenes(30, name="tiny/held-out")
    sizes = {"canvas_size": CANVAS, "glimpse_size": (6, 6)}
    air = finding_model(scenes.images, inference="paper", **sizes)
    curves = {
        "train": {
            "elbo": [(step, 400 + step / 10) for step in range(0, 1001, 100)],
            "count_accuracy": [(step, step / 1010) for step in range(0, 1001, 100)],
            "kl_num_steps": [(step, 3.0) for step in range(0, 1001, 100)],
        },
        "held_out": {
            "elbo": [(500, 440.0), (1000, 480.5)],
            "count_accuracy_mode": [(500, 0.9), (1000, 0.987)],
        },
    }
    other = {"held_out": {"elbo": [(500, 430.0), (1000, 470.0)]}}
    evaluation = {
        "step": 1000,
        "dataset": "tiny",
        "num_images": 30,
        "num_samples": 7,
        "elbo": 481.25,
        "count_accuracy_mode": 0.9871,
        "log_likelihood_bound": 490.75,
        "ess": 3.456,
    }
    args = vars(AIRExperiment.default_args(lr=0.0123, output="/somewhere/of/mine"))
    fields = {
        "name": "small",
        "step": 1000,
        "air": air,
        "dataset": "tiny",
        "scenes": scenes,
        "readings": read_scenes(air, scenes, batch_size=8),
        "config": {"args": args, "air": air.config.to_dict(), "dataset": "tiny"},
        "curves": curves,
        "others": {"small-seed1": other},
        "evaluations": [evaluation],
    }
    return Findings(**(fields | changes))


def draw_all(findings):
    """All pictures that there are."""
    return [drawn for name in PICTURES if (drawn := draw(name, findings))]


@functools.cache
def example():
    """Findings and all pictures of them: made once, since drawing takes seconds. Change neither."""
    findings = make_findings()
    return findings, draw_all(findings)


def write_page(path):
    """Write the page of the example; hands back its path."""
    path.write_text(render(*example()), encoding="utf-8")
    return path
