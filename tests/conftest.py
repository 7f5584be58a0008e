"""Fixtures of the tests of ``experiments``: a tiny data set, settings for it, one CPU thread."""

import dataclasses

import pytest
import torch

from experiments.datasets import DATASETS, DataSplits, Scenes
from experiments.experiment import AIRExperiment

CANVAS = (18, 16)


def make_scenes(number, *, seed=0, max_count=2, name="tiny/train"):
    """Scenes of 0 to ``max_count`` squares of random grey side by side, in turn."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.zeros(number, 1, *CANVAS, dtype=torch.uint8)
    num_objects = torch.arange(number) % (max_count + 1)
    classes = torch.full((number, max_count), -1)
    boxes = torch.full((number, max_count, 4), float("nan"))
    for scene, count in enumerate(num_objects.tolist()):
        for i in range(count):
            left, top = 1 + 7 * i, int(torch.randint(0, CANVAS[0] - 6, (), generator=generator))
            square = torch.randint(100, 256, (6, 6), generator=generator)
            images[scene, 0, top : top + 6, left : left + 6] = square
            classes[scene, i] = 0
            boxes[scene, i] = torch.tensor([left, top, left + 6, top + 6])
    return Scenes(images=images, num_objects=num_objects, classes=classes, boxes=boxes, name=name)


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny models are fastest on one thread; what the trainer sets is set back."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def tiny_data(monkeypatch, tmp_path):
    """The registry's ``multi-mnist`` becomes 26 scenes to learn from and 10 held out.

    It is kept in ``tmp_path / "data"``, never in the user's cache.
    """
    splits = DataSplits(
        train=make_scenes(26),
        held_out=make_scenes(10, seed=1, name="tiny/held-out"),
        name="multi-mnist",
    )
    spec = dataclasses.replace(
        DATASETS["multi-mnist"], make=lambda *_: splits, pixel_sum=splits.pixel_sum
    )
    monkeypatch.setitem(DATASETS, "multi-mnist", spec)
    monkeypatch.setenv("AIR_DATA_ROOT", str(tmp_path / "data"))
    return splits


@pytest.fixture
def make_args(tiny_data, tmp_path):
    """Makes settings for a run of a few steps on ``tiny_data`` in ``tmp_path / "output"``."""

    def make(**changes):
        settings = {
            "output": str(tmp_path / "output"),
            "run_name": "run",
            "threads": 1,
            "no_cuda": True,
            "batch_size": 8,
            "test_batch_size": 4,
            "z_what_size": 5,
            "max_steps": 4,
            "train_log_every": 2,
            "test_log_every": 2,
            "checkpoint_every": 2,
        }
        return AIRExperiment.default_args(**(settings | changes))

    return make
