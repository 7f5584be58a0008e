"""Runs of a few steps of a tiny model, and what must be equal between two of them."""

import json

import torch

from air import AIRConfig
from experiments.checkpoints import load_checkpoint

SIZES = {
    "lstm_size": 16,
    "predictor_hidden": (12,),
    "encoder_hidden": (12,),
    "decoder_hidden": (12,),
    "glimpse_size": (6, 6),
}
"""A model that takes some milliseconds a step."""


def use_tiny_models(monkeypatch):
    """Have experiments make tiny models."""
    monkeypatch.setattr("experiments.experiment.AIRConfig", _TinyConfig)


class _TinyConfig:
    """Stands for the class: its defaults are others."""

    from_dict = AIRConfig.from_dict

    def __new__(cls, **fields):
        return AIRConfig(**(SIZES | fields))

    max_objects, z_what_size = AIRConfig.max_objects, AIRConfig.z_what_size
    likelihood, likelihood_sd = AIRConfig.likelihood, AIRConfig.likelihood_sd
    continue_prob = AIRConfig.continue_prob


def metrics(run):
    """The lines of metrics.jsonl, without what the clock gives."""
    lines = run.metrics_path.read_text(encoding="utf-8").splitlines()
    return [{**json.loads(line), "images_per_s": None} for line in lines]


def assert_same_run(run, other):
    """The last checkpoints, all of each, and all metrics are the same to the bit."""
    first, second = (load_checkpoint(r.checkpoint_folder) for r in (run, other))
    assert first.step == second.step
    assert_same_tensors(first.weights, second.weights)
    assert_same_tensors(first.training.tensors, second.training.tensors)
    for name in ("step", "position", "random", "held_out", "skipped"):
        assert first.training.facts[name] == second.training.facts[name], name
    assert metrics(run) == metrics(other)


def assert_same_tensors(first, second):
    """The same names, types and bits; NaN is equal to itself."""
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert tensor.dtype == second[name].dtype, name
        assert torch.equal(
            tensor.view(-1).view(torch.uint8), second[name].view(-1).view(torch.uint8)
        ), name
