"""What is not finite never reaches the weights."""

import math
import os
import re
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from experiments import resume as resuming
from experiments.checkpoints import checkpoint_steps
from experiments.experiment import AIRExperiment
from experiments.guard import NonFiniteError, NonFiniteGuard, parse_on_nan
from experiments.resume import resumed_args
from experiments.step import CudaGraphStep, EagerStep
from experiments.trainer import Trainer
from tests.recorder import record
from tests.runs import assert_same_tensors, metrics, use_tiny_models

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def tiny_models(monkeypatch):
    use_tiny_models(monkeypatch)


@pytest.fixture
def start(make_args):
    def start(**changes):
        return Trainer(AIRExperiment(make_args(**changes)))

    return start


def everything(trainer):
    """All that a step may change."""
    model, optimizer = trainer.experiment.model, trainer.experiment.optimizer
    state = optimizer.state_dict()["state"]
    moments = {f"{n}.{key}": value for n, entry in state.items() for key, value in entry.items()}
    return {name: tensor.clone() for name, tensor in {**model.state_dict(), **moments}.items()}


def break_step(trainer, step, how):
    """Have something that is not finite arise in a step."""
    experiment, forward_pass = trainer.experiment, trainer.experiment.forward_pass
    bad = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}.get(how, math.nan)

    def broken(x, y):
        due = experiment.model.global_step == step - 1
        if due and how == "pixel":
            x = x.float() / 255
            x[3, 0, 5, 7] = math.nan
        results = forward_pass(x, y)
        if due and how in ("nan", "inf", "-inf"):
            results["loss"] = results["loss"] * bad
        return results

    def one_gradient(loss, max_norm):
        if experiment.model.global_step == step - 1:
            gradient = list(experiment.model.parameters())[-1].grad
            gradient.view(-1)[-1] = {"one gradient": math.nan, "huge gradient": 3e25}[how]
        inspect(loss, max_norm)

    experiment.forward_pass = broken
    inspect = trainer.guard.inspect
    if how.endswith("gradient"):
        trainer.guard.inspect = one_gradient


BREAKDOWNS = ["pixel", "nan", "inf", "-inf", "one gradient"]


@pytest.mark.parametrize("max_grad_norm", [None, 1.0])
@pytest.mark.parametrize("estimator", ["enumerate", "reinforce"])
@pytest.mark.parametrize("how", BREAKDOWNS)
def test_a_breakdown_changes_nothing(how, estimator, max_grad_norm, start):
    trainer = start(estimator=estimator, max_steps=6, max_grad_norm=max_grad_norm)
    break_step(trainer, 3, how)
    before, step = {}, trainer._step

    def remember(*args):
        before.clear()
        before.update(everything(trainer))
        return step(*args)

    trainer._step = remember
    with pytest.raises(NonFiniteError) as caught:
        trainer.run()
    assert trainer.experiment.model.global_step == 3
    assert_same_tensors(everything(trainer), before)
    message = str(caught.value)
    assert "training broke down at step 3: " in message
    what = "the loss is" if how in ("pixel", "nan", "inf", "-inf") else "a gradient is not finite"
    assert what in message
    assert "model_2.pt" in message
    assert "--resume run" in message
    scenes = re.search(r"scenes of its batch: ([\d, ]+)\.", message)[1].split(", ")
    position = trainer._progress.position
    assert list(map(int, scenes)) == position.order[16:24].tolist()  # the third batch of eight


def test_skipping_leaves_out_the_step_and_says_so(start, capsys):
    trainer = start(max_steps=6, on_nan="skip:2")
    break_step(trainer, 3, "nan")
    trainer.run()
    assert trainer.experiment.model.global_step == 6
    assert trainer.guard.skipped == 1
    err = capsys.readouterr().err
    assert re.search(r"left out step 3: the loss is nan, not finite.*Left out so far: 1 of 2", err)
    for line in metrics(trainer.run_folder):
        numbers = [value for value in line.values() if isinstance(value, float)]
        assert numbers
        assert all(map(math.isfinite, numbers))
    steps = {entry["step"].item() for entry in trainer.experiment.optimizer.state.values()}
    assert steps == {5.0}


def test_a_window_that_was_left_out_is_not_logged(start):
    trainer = start(max_steps=4, train_log_every=1, on_nan="skip:2")
    break_step(trainer, 3, "one gradient")
    trainer.run()
    logged = [line["step"] for line in metrics(trainer.run_folder) if line["split"] == "train"]
    assert logged == [1, 2, 4]


def test_the_number_of_steps_left_out_is_bounded_over_the_whole_run(start, monkeypatch):
    trainer = start(max_steps=20, on_nan="skip:1")
    break_step(trainer, 3, "nan")
    after = trainer.experiment.model.increment_global_step

    def stop():
        after()
        if trainer.experiment.model.global_step == 4:
            os.kill(os.getpid(), 15)

    trainer.experiment.model.increment_global_step = stop
    trainer.run()
    args, _ = resumed_args(trainer.experiment.args.output, "run")
    rest = Trainer(AIRExperiment(args))
    assert rest.guard.skipped == 1
    break_step(rest, 7, "nan")
    with pytest.raises(NonFiniteError, match="at step 7"):
        rest.run()
    assert "on_nan" in resuming.CHANGEABLE


def test_moments_that_overflow_by_a_finite_gradient_are_not_saved(start):
    trainer = start(max_steps=6)
    break_step(trainer, 3, "huge gradient")
    with pytest.raises(NonFiniteError, match=r"moments overflow.*model_2\.pt"):
        trainer.run()
    assert all(p.isfinite().all() for p in trainer.experiment.model.parameters())
    assert sorted(checkpoint_steps(trainer.run_folder.checkpoint_folder)) == [2]


def test_a_gradient_whose_norm_overflows_is_left_out_where_it_is_clipped(start):
    trainer = start(max_steps=6, max_grad_norm=1.0)
    break_step(trainer, 3, "huge gradient")
    with pytest.raises(NonFiniteError, match=r"step 3: a gradient is not finite"):
        trainer.run()


def test_weights_that_overflow_by_a_finite_gradient_are_not_saved(start):
    trainer = start(max_steps=1, lr=1e38)
    with pytest.raises(NonFiniteError, match="broke down"):
        trainer.run()
    assert list(trainer.run_folder.checkpoint_folder.iterdir()) == []


# The guard itself, as it works on a GPU: nothing is read between two checks


class OnDevice(NonFiniteGuard):
    """Works as on a GPU."""

    def settle(self, step, indices):
        self._record(step, indices)
        return False


def steps_of_a_line(values, kind=OnDevice, max_skips=10):
    weight = torch.nn.Parameter(torch.ones(3))
    statistics = torch.zeros(())
    optimizer = torch.optim.Adam([weight], lr=0.1, fused=True)
    guard = kind(optimizer, [statistics], max_skips=max_skips, device=CPU)
    for step, value in enumerate(values, start=1):
        guard.begin()
        loss = (weight * value).sum()
        statistics.add_(loss.detach())
        optimizer.zero_grad()
        loss.backward()
        guard.inspect(loss)
        optimizer.step()
        guard.settle(step, torch.tensor([step, 10 * step]))
    return weight, statistics, guard


@pytest.mark.parametrize("kind", [OnDevice, NonFiniteGuard])
def test_steps_that_are_left_out_leave_no_trace(kind):
    nan, inf = math.nan, math.inf
    weight, statistics, guard = steps_of_a_line([1.0, nan, 2.0, inf, -1.0], kind)
    expected, sums, _ = steps_of_a_line([1.0, 2.0, -1.0], kind)
    assert torch.equal(weight, expected)
    assert torch.equal(statistics, sums)
    said = guard.check()
    assert "step 2: the loss is nan" in said
    assert "2, 20." in said
    assert "(and 1 more)" in said
    assert guard.skipped == 2
    assert guard.check() is None


def test_the_first_of_each_check_is_named():
    _, _, guard = steps_of_a_line([math.nan, 1.0])
    assert "step 1" in guard.check()
    guard.found.fill_(1.0)
    guard.loss.fill_(2.0)
    guard.settle(7, torch.tensor([5]))
    assert "step 7: a gradient is not finite. Training scenes of its batch: 5." in guard.check()


def test_too_many_are_an_error_at_the_check():
    _, _, guard = steps_of_a_line([math.nan, 1.0, math.nan], max_skips=1)
    with pytest.raises(NonFiniteError, match="step 1"):
        guard.check()


def test_an_optimizer_that_cannot_leave_out_steps_is_refused():
    weight = torch.nn.Parameter(torch.ones(3))
    with pytest.raises(ValueError, match="needs a fused optimiser"):
        NonFiniteGuard(torch.optim.Adam([weight]), [], max_skips=0, device=CPU)


def test_on_nan_is_read():
    assert parse_on_nan("stop") == 0
    assert parse_on_nan("skip:12") == 12
    for text in ("skip", "skip:0", "skip:-1", "skip:1e3", "skip:٣", "go", ""):
        with pytest.raises(ValueError, match="--on-nan must be stop, or skip:N"):
            parse_on_nan(text)


def test_the_message_names_a_checkpoint_that_exists(start):
    trainer = start(max_steps=6)
    break_step(trainer, 5, "nan")
    with pytest.raises(NonFiniteError) as caught:
        trainer.run()
    path = re.search(r"checkpoint is (\S+\.pt)\.", str(caught.value))[1]
    assert Path(path).is_file()


def test_a_recorded_step_leaves_out_what_an_eager_one_does(make_args):
    trained = []
    for kind in ("eager", "recorded"):
        torch.manual_seed(0)
        experiment = AIRExperiment(make_args(estimator="reinforce", max_steps=8))
        experiment.setup(CPU)
        gain, forward_pass = torch.ones(()), experiment.forward_pass

        def scaled(x, y, forward_pass=forward_pass, gain=gain):
            results = forward_pass(x, y)
            return results | {"loss": results["loss"] * gain}

        experiment.forward_pass = scaled
        buffers = experiment.model.estimator.buffers()
        guard = OnDevice(experiment.optimizer, buffers, max_skips=9, device=CPU)
        warm_up = 2 if kind == "recorded" else 100
        step = CudaGraphStep(EagerStep(experiment, guard), warm_up=warm_up, record=record)
        order = torch.arange(26)
        loader = experiment.dataloaders.train
        for x, y in chain(step.batches(loader, order), step.batches(loader, order, 1)):
            number = experiment.model.global_step + 1
            gain.fill_(math.nan if number in (2, 4) else 1.0)
            step(x, y)
            experiment.model.increment_global_step()
            guard.settle(number, loader.current)
        assert step.recorded == (kind == "recorded")
        said = guard.check()
        assert "step 2: the loss is nan" in said
        assert guard.skipped == 2
        trained.append((everything(SimpleNamespace(experiment=experiment)), step.metrics()))
    assert_same_tensors(trained[0][0], trained[1][0])
    assert trained[0][1] == trained[1][1]
