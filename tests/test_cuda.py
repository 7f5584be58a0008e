"""The same on a GPU, where there is one."""

import pytest
import torch

from air.estimators import ESTIMATORS, make_estimator
from tests.small import small_images, small_model

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def test_inference_is_the_same_on_both_devices():
    model, images = small_model(), small_images()
    expected = model.infer(images)
    result = model.cuda().infer(images.cuda())
    torch.testing.assert_close(result.count_probs.cpu(), expected.count_probs)
    torch.testing.assert_close(result.canvas.cpu(), expected.canvas)


@pytest.mark.parametrize("name", sorted(ESTIMATORS))
def test_estimators_train(name):
    model, images = small_model().cuda(), small_images().cuda()
    estimator = make_estimator(name, model.config, num_samples=2).cuda()
    estimator(model, images).total_loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_bound_and_samples():
    model, images = small_model().cuda(), small_images().cuda()
    assert model.log_likelihood(images, 7).ess.is_cuda
    assert model.sample(3, num_objects=2).images.is_cuda


def test_training_run(make_args):
    from experiments.experiment import AIRExperiment
    from experiments.trainer import Trainer

    metrics = Trainer(AIRExperiment(make_args(no_cuda=False))).run()
    assert metrics["elbo"] == metrics["elbo"]


# The training step as a CUDA graph


def make_experiment(make_args, seed=0, **changes):
    from boilr.utils import set_rnd_seed

    from experiments.experiment import AIRExperiment

    set_rnd_seed(seed)
    settings = {"no_cuda": False, "num_samples": 2, "continue_prob": "linear:0.5:0.01:12"}
    experiment = AIRExperiment(make_args(**(settings | {"max_steps": 12} | changes)))
    experiment.setup(torch.device("cuda"))
    experiment.model.train()
    return experiment


def train(step, number=12, loader=None):
    experiment = step.experiment
    loader = experiment.dataloaders.train if loader is None else loader
    while experiment.model.global_step < number:
        for x, y in step.batches(loader):
            step(x, y)
            experiment.model.increment_global_step()
            if experiment.model.global_step == number:
                break
    return step.metrics()


@pytest.mark.parametrize("estimator", sorted(ESTIMATORS))
def test_a_graph_trains_as_eager_steps_do(estimator, make_args):
    from experiments.step import CudaGraphStep, EagerStep

    results = []
    for warm_up in (1000, 3):
        settings = {"estimator": estimator, "max_grad_norm": 5.0, "lr": 1e-4}
        experiment = make_experiment(make_args, **settings)
        torch.manual_seed(1)
        step = CudaGraphStep(EagerStep(experiment), warm_up=warm_up)
        metrics = train(step)
        assert not step.failed
        assert step.recorded == (warm_up == 3)
        results.append((metrics, experiment.model.state_dict()))
    (expected, state), (found, recorded_state) = results
    assert found == pytest.approx(expected, rel=1e-3)
    for name, tensor in state.items():
        if tensor.isfinite().all():
            assert (tensor - recorded_state[name]).abs().mean() < 1e-5, name


def test_replays_wait_for_nothing(make_args):
    from experiments.step import make_step

    experiment = make_experiment(make_args)
    step = make_step(experiment)
    train(step, 5)
    assert step.recorded == 1
    x, y = step._inputs
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            step(x, y)
            experiment.model.increment_global_step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(value == value for value in step.metrics().values())


@pytest.mark.parametrize("estimator", sorted(ESTIMATORS))
def test_eager_steps_wait_for_nothing(estimator, make_args):
    from experiments.step import EagerStep

    experiment = make_experiment(make_args, estimator=estimator)
    step = EagerStep(experiment)
    train(step, 3)
    x, y = next(iter(experiment.dataloaders.train))
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(x, y)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_what_cannot_be_recorded_goes_on_eagerly(make_args, capsys):
    from experiments.step import make_step

    experiment = make_experiment(make_args)
    forward_pass = experiment.forward_pass

    def reads_a_number(x, y):
        results = forward_pass(x, y)
        assert results["loss"].item() < 1e9
        return results

    experiment.forward_pass = reads_a_number
    step = make_step(experiment)
    metrics = train(step)
    assert step.failed
    assert "without a CUDA graph" in capsys.readouterr().err
    assert all(value == value for value in metrics.values())
    assert torch.rand(2, device="cuda").isfinite().all()


def test_two_runs_of_one_seed_are_bit_identical(make_args):
    from experiments.step import make_step

    runs = []
    for _ in range(2):
        experiment = make_experiment(make_args)
        runs.append((train(make_step(experiment)), experiment.model.state_dict()))
    assert runs[0][0] == runs[1][0]
    for name, tensor in runs[0][1].items():
        assert torch.equal(tensor, runs[1][1][name]), name


def test_two_runs_of_many_seeds_are_bit_identical(make_args):
    from experiments.ensemble import StackedLoader, StackedStep
    from experiments.step import make_step

    runs = []
    for _ in range(2):
        models = [make_experiment(make_args, seed).model for seed in range(3)]
        experiment = make_experiment(make_args)
        stack = StackedStep(experiment, models)
        generators = [torch.Generator().manual_seed(seed) for seed in range(3)]
        loader = StackedLoader(experiment.dataloaders.train, generators)
        step = make_step(experiment, stack)
        runs.append((train(step, loader=loader), stack.parameters))
        assert step.recorded == 1
    assert runs[0][0] == runs[1][0]
    for name, tensor in runs[0][1].items():
        assert torch.equal(tensor, runs[1][1][name]), name


def test_many_seeds_from_the_trainer(make_args):
    from experiments.ensemble_trainer import EnsembleTrainer
    from experiments.experiment import AIRExperiment

    trainer = EnsembleTrainer(AIRExperiment(make_args(no_cuda=False, num_seeds=3, max_steps=8)))
    seeds = trainer.run()
    assert trainer._update.recorded == 1
    assert all(seed.held_out and seed.failed_at is None for seed in seeds)
