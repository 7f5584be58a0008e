"""A training step, eager and recorded: the same result, nothing in it that forbids recording."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from air.estimators import ESTIMATORS
from experiments.experiment import AIRExperiment
from experiments.loaders import SceneLoader
from experiments.step import CudaGraphStep, EagerStep, make_step
from tests.conftest import make_scenes
from tests.recorder import (  # noqa: F401  the recorder's own tests run here
    READS,
    record,
    tensors_in,
    test_a_python_number_is_repeated,
    test_an_exchanged_tensor_is_not_seen,
    test_random_numbers_differ_from_replay_to_replay,
    test_reading_a_number_is_refused,
    test_recording_does_nothing_and_replays_do_all,
)

SETTINGS = {
    "continue_prob": "linear:0.5:0.01:6",
    "alone_until": 4,  # within the replays
    "likelihood_sd": "linear:0.5:0.2:6",
    "translate": True,
    "lr": 0.01,
    "max_steps": 6,
    "max_grad_norm": 1.0,
    "num_samples": 2,
}


@pytest.fixture
def make_experiment(make_args):
    def make(device="cpu", **changes):
        torch.manual_seed(0)
        experiment = AIRExperiment(make_args(**(SETTINGS | changes)))
        experiment.setup(torch.device(device))
        experiment.model.train()
        return experiment

    return make


def graph_step(experiment, **options):
    return CudaGraphStep(EagerStep(experiment), **{"record": record, **options})


def train(step, number=6):
    """Take steps as the trainer does; hands back the metrics of every second."""
    torch.manual_seed(1)
    experiment, metrics = step.experiment, []
    while True:
        for x, y in step.batches(experiment.dataloaders.train):
            step(x, y)
            experiment.model.increment_global_step()
            if experiment.model.global_step % 2 == 0:
                metrics.append(step.metrics())
            if experiment.model.global_step == number:
                return metrics


def state_of(experiment):
    optimizer = experiment.optimizer.state_dict()["state"]
    moments = {f"{i} {name}": value for i, one in optimizer.items() for name, value in one.items()}
    return experiment.model.state_dict() | moments


def assert_same_state(first, second, **tolerance):
    first, second = state_of(first), state_of(second)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], equal_nan=True, **tolerance)


@pytest.mark.parametrize("estimator", sorted(ESTIMATORS))
def test_replays_are_the_eager_steps_bit_for_bit(estimator, make_experiment):
    eager, replayed = (make_experiment(estimator=estimator) for _ in range(2))
    # It never comes to record: eager steps whose learning rate is a tensor of float32 too.
    expected = train(graph_step(eager, warm_up=100))
    step = graph_step(replayed)
    assert train(step) == expected
    assert step.recorded == 1
    assert not step.failed
    assert_same_state(eager, replayed, rtol=0, atol=0)


@pytest.mark.parametrize(
    "settings",
    [{"inference": "paper"}, {"learn_continue_prob_from": 4}],  # from within the replays
    ids=str,
)
def test_replays_of_other_models_are_their_eager_steps(settings, make_experiment):
    eager, replayed = (make_experiment(**settings) for _ in range(2))
    expected = train(graph_step(eager, warm_up=100))
    assert train(graph_step(replayed)) == expected
    assert_same_state(eager, replayed, rtol=0, atol=0)
    if "learn_continue_prob_from" in settings:
        probs = [metrics["continue_prob"] for metrics in expected]
        own = replayed.model.air.generative.prior.continue_prob.item()
        assert own != pytest.approx(0.01, rel=1e-3)
        assert probs[2] != pytest.approx(own, rel=1e-3)


def test_replays_are_the_steps_of_the_plain_trainer(make_experiment):
    eager, replayed = (make_experiment(lr=1e-4) for _ in range(2))
    expected, metrics = train(EagerStep(eager)), train(graph_step(replayed))
    for one, other in zip(metrics, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-4)
    # Their learning rates differ by the rounding to float32. Adam takes a gradient of nearly
    # nothing for a direction, so that a rounding can turn an element's whole step around.
    first, second = eager.model.state_dict(), replayed.model.state_dict()
    for name, tensor in first.items():
        assert (tensor - second[name]).abs().mean() < 1e-6, name


def test_a_number_that_python_keeps_would_be_seen(make_experiment, monkeypatch):
    eager, replayed = make_experiment(), make_experiment()
    train(graph_step(eager, warm_up=100))
    hold = CudaGraphStep._hold_schedules

    def hold_but_one(step):
        hold(step)
        step.experiment.scheduled = None

    monkeypatch.setattr(CudaGraphStep, "_hold_schedules", hold_but_one)
    train(graph_step(replayed))
    with pytest.raises(AssertionError):
        assert_same_state(eager, replayed, rtol=1e-3, atol=1e-5)


def test_the_optimizer_is_recorded_and_nothing_is_read(make_experiment):
    replays = []

    def remember(work):
        replays.append(record(work))
        return replays[-1]

    train(graph_step(make_experiment(), record=remember))
    (replay,) = replays
    assert "aten._fused_adam_.tensor_lr" in replay.operations
    assert not any(read in name for name in replay.operations for read in READS)


def test_a_step_that_cannot_be_recorded_stays_eager(make_experiment, capsys):
    eager, other = make_experiment(), make_experiment()
    train(graph_step(eager, warm_up=100))
    forward_pass = other.forward_pass

    def reads_a_number(x, y):
        results = forward_pass(x, y)
        assert results["loss"].item() < 1e9
        return results

    other.forward_pass = reads_a_number
    step = graph_step(other)
    train(step)
    assert step.failed
    assert "without a CUDA graph: operation not permitted" in capsys.readouterr().err
    # The forward pass that failed had drawn its noise; on a GPU nothing is drawn yet.
    assert other.model.global_step == eager.model.global_step == 6
    assert all(tensor.isfinite().all() for tensor in other.model.state_dict().values())


def test_a_loaded_optimizer_is_recorded_anew(make_experiment):
    eager, replayed = make_experiment(), make_experiment()
    steps = graph_step(eager, warm_up=100), graph_step(replayed, warm_up=1)
    for step in steps:
        train(step, 4)
        optimizer = step.experiment.optimizer
        optimizer.load_state_dict(optimizer.state_dict())
        train(step)
    assert steps[1].recorded == 2
    assert_same_state(eager, replayed, rtol=0, atol=0)


def test_a_batch_of_another_size_is_taken_eagerly(make_experiment):
    experiments = make_experiment(), make_experiment()
    for experiment, warm_up in zip(experiments, (100, 1), strict=True):
        step = graph_step(experiment, warm_up=warm_up)
        train(step, 4)
        x, y = next(iter(experiment.dataloaders.train))
        step(x[:3], y[:3])
        step(x, y)
        assert step.step.length == 2
    assert_same_state(*experiments, rtol=0, atol=0)


def test_a_batch_from_elsewhere_is_copied_to_the_graph(make_experiment):
    eager, replayed = make_experiment(), make_experiment()
    for experiment, warm_up in ((eager, 100), (replayed, 1)):
        step = graph_step(experiment, warm_up=warm_up)
        step.batches = iter  # what a loader without ``into`` gives
        train(step)
    assert_same_state(eager, replayed, rtol=0, atol=0)


def test_capturable_is_set_for_the_recording_only(make_experiment):
    experiment, seen = make_experiment(), []

    def remember(work):
        seen.append([group["capturable"] for group in experiment.optimizer.param_groups])
        return record(work)

    train(graph_step(experiment, record=remember))
    assert seen == [[True]]
    assert not experiment.optimizer.param_groups[0]["capturable"]


def test_recording_the_first_step_is_refused(make_experiment):
    with pytest.raises(ValueError, match="at least 1, got 0"):
        graph_step(make_experiment(), warm_up=0)


class _OnDevice(TorchDispatchMode):
    """Refuses what a recording refuses: a number that is read, a tensor that comes from the CPU."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert not any(name in str(function) for name in READS), function
        out = function(*args, **(kwargs or {}))
        for tensor in tensors_in((args, kwargs, out)):
            assert tensor.device.type == "meta", function
        return out


@pytest.mark.parametrize("estimator", sorted(ESTIMATORS))
def test_all_of_a_step_happens_on_the_device(estimator, make_experiment):
    # "meta" stands for a GPU: the path of any device that is not the CPU, without numbers.
    experiment = make_experiment("meta", estimator=estimator)
    step = graph_step(experiment)
    step._hold_schedules()
    x, y = experiment.dataloaders.train.buffers()
    with _OnDevice():
        step.step.prepare()
        results = experiment.forward_pass(x, y)
        results.pop("loss").backward()
        torch.nn.utils.clip_grad_norm_(experiment.model.parameters(), 1.0)
        step.step._add(results)


def test_a_copy_from_the_cpu_is_refused():
    with pytest.raises(AssertionError), _OnDevice():
        torch.ones(3).to("meta")


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("estimator", ["enumerate", "reinforce"])
def test_two_deterministic_runs_are_bit_identical(estimator, recorded, make_experiment):
    torch.use_deterministic_algorithms(True)
    try:
        runs = [make_experiment(estimator=estimator) for _ in range(2)]
        metrics = [train(graph_step(run) if recorded else EagerStep(run)) for run in runs]
    finally:
        torch.use_deterministic_algorithms(False)
    assert metrics[0] == metrics[1]
    assert_same_state(*runs, rtol=0, atol=0)


def test_the_device_and_the_settings_choose_the_step(make_experiment):
    experiment = make_experiment()
    assert type(make_step(experiment)) is EagerStep
    experiment._device = torch.device("cuda")
    assert type(make_step(experiment)) is CudaGraphStep
    experiment.args.cuda_graph = False
    assert type(make_step(experiment)) is EagerStep


def test_a_loader_gathers_the_same_batches_into_one_place():
    loader = SceneLoader(make_scenes(26), batch_size=8, shuffle=True, device=torch.device("cpu"))
    torch.manual_seed(0)
    expected = list(loader)
    torch.manual_seed(0)
    buffers, number = loader.buffers(), 0
    for (x, y), (x_expected, y_expected) in zip(loader.into(*buffers), expected, strict=True):
        assert x is buffers[0]
        assert y is buffers[1]
        assert torch.equal(x, x_expected)
        assert torch.equal(y, y_expected)
        number += 1
    assert number == 3
