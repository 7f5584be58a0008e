"""A run that was interrupted and continued has the bits of one that was not."""

import random
import signal

import numpy as np
import pytest
import torch

from experiments.experiment import AIRExperiment
from experiments.resume import resumed_args
from experiments.trainer import Trainer
from tests.runs import assert_same_run, use_tiny_models

# 26 scenes make 3 batches of 8 an epoch.
PERIODS = {"train_log_every": 4, "test_log_every": 8, "checkpoint_every": 16}


@pytest.fixture(autouse=True)
def tiny_models(monkeypatch):
    use_tiny_models(monkeypatch)


@pytest.fixture
def start(make_args):
    """Makes a trainer of a new run, or of one that is continued."""

    def start(name, **changes):
        return Trainer(AIRExperiment(make_args(run_name=name, **(PERIODS | changes))))

    return start


def resume(trainer, **changes):
    output = trainer.experiment.args.output
    args, _ = resumed_args(output, trainer.run_folder.name, **changes)
    return Trainer(AIRExperiment(args))


def after_step(trainer, step, action):
    """Have something happen right after a training step."""
    model = trainer.experiment.model
    increment = model.increment_global_step

    def increment_and_act():
        increment()
        if model.global_step == step:
            action()

    model.increment_global_step = increment_and_act


def stop_after(trainer, step):
    """Run, with a signal that comes in a step."""
    after_step(trainer, step, lambda: signal.raise_signal(signal.SIGTERM))
    trainer.run()
    assert trainer.experiment.model.global_step == step
    return trainer


def scramble_random_states():
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002
    random.seed(99)


@pytest.mark.parametrize("estimator", ["enumerate", "reinforce"])
def test_stopped_and_continued_is_the_same_run(estimator, start):
    whole = start("whole", estimator=estimator, max_steps=20)
    held_out = whole.run()
    for step in (1, 3, 4, 11, 16, 19):
        stopped = stop_after(start(f"stopped {step}", estimator=estimator, max_steps=20), step)
        assert stopped.stopped_by == signal.SIGTERM
        scramble_random_states()
        rest = resume(stopped)
        assert rest.experiment.model.global_step == step
        assert rest.run() == held_out
        assert_same_run(rest.run_folder, whole.run_folder)
