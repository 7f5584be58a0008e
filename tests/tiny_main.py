"""``main.py`` on a tiny data set and a tiny model, for tests that need a process of their own."""

import dataclasses
import sys

import pytest
import torch

from experiments.cli import main
from experiments.datasets import DATASETS, DataSplits
from tests.conftest import make_scenes
from tests.runs import use_tiny_models


def make_everything_tiny():
    """As the fixtures do, for the rest of the process."""
    torch.set_num_threads(1)
    use_tiny_models(pytest.MonkeyPatch())
    splits = DataSplits(
        train=make_scenes(26),
        held_out=make_scenes(10, seed=1, name="tiny/held-out"),
        name="multi-mnist",
    )
    DATASETS["multi-mnist"] = dataclasses.replace(
        DATASETS["multi-mnist"], make=lambda *_: splits, pixel_sum=splits.pixel_sum
    )


if __name__ == "__main__":
    make_everything_tiny()
    sys.exit(main(sys.argv[1:]))
