"""Many seeds at once: each is trained as it would be alone, and none touches another."""

import json
import math

import pytest
import torch
from boilr.utils import set_rnd_seed

from air.checkpoint import from_pretrained
from air.estimators import ESTIMATORS
from experiments.boilr_model import checkpoint_steps
from experiments.cli import main
from experiments.ensemble import StackedLoader, StackedStep, clip_grad_norms
from experiments.ensemble_trainer import EnsembleTrainer
from experiments.experiment import AIRExperiment
from experiments.runs import Run
from experiments.step import CudaGraphStep, EagerStep
from experiments.trainer import Trainer
from tests.recorder import record


@pytest.fixture
def make_experiment(make_args):
    """Makes an experiment whose model starts from its seed, in float64 if asked for."""

    def make(seed=0, dtype=torch.float32, **changes):
        set_rnd_seed(seed)
        experiment = AIRExperiment(make_args(seed=seed, **changes))
        experiment.setup(torch.device("cpu"))
        experiment.model.to(dtype).train()
        experiment._optimizer = experiment._make_optimizer()
        return experiment

    return make


@pytest.fixture
def make_stack(make_experiment):
    def make(seeds, **changes):
        models = [make_experiment(seed, **changes).model for seed in seeds]
        return StackedStep(make_experiment(seeds[0], **changes), models)

    return make


@pytest.fixture
def make_trainer(make_args):
    def make(**changes):
        return EnsembleTrainer(AIRExperiment(make_args(**({"num_seeds": 3} | changes))))

    return make


def batches(experiment, number, seeds=1):
    """Some batches for each of the seeds, in float64: ``(S, B, C, H, W)`` and ``(S, B)``."""
    scenes = experiment.dataloaders.train
    generator = torch.Generator().manual_seed(5)
    for _ in range(number):
        index = torch.randint(len(scenes.images), (seeds, 8), generator=generator)
        yield scenes.images[index].double() / 255, scenes.num_objects[index]


class Noise:
    """In place of random numbers, some that depend on the batch only: alike alone and stacked."""

    def __init__(self, monkeypatch):
        self.x = None
        # Plain functions, so that the first is called as a method of the tensor.
        monkeypatch.setattr(torch.Tensor, "normal_", lambda tensor: self.fill(tensor))
        monkeypatch.setattr(torch, "rand", lambda shape, **_: self.uniform(shape))
        monkeypatch.setattr(torch, "rand_like", lambda tensor: self.uniform(tensor.shape))

    def depends_on_batches_of(self, experiment):
        forward_pass = experiment.forward_pass

        def remember(x, y):
            self.x = x
            return forward_pass(x, y)

        experiment.forward_pass = remember

    def uniform(self, shape):
        pixels = (self.x * 255).round().sum()
        places = torch.arange(math.prod(shape), dtype=torch.float64).view(shape)
        return ((pixels + 12.9898 * places).sin() * 43.7).remainder(1).clamp(0.01, 0.99)

    def fill(self, tensor):
        return tensor.copy_(1.4 * torch.erfinv(2 * self.uniform(tensor.shape) - 1))


@pytest.fixture
def noise(monkeypatch):
    return Noise(monkeypatch)


OTHER_MODELS = [
    {"inference": "paper"},
    {"estimator": "reinforce", "inference": "paper", "learn_continue_prob_from": 2},
    {"overlap": "union", "num_candidates": 1},
]


@pytest.mark.parametrize(
    "changes", [*({"estimator": name} for name in sorted(ESTIMATORS)), *OTHER_MODELS], ids=str
)
def test_stacked_seeds_are_trained_as_each_alone(changes, make_experiment, make_stack, noise):
    seeds, steps = [3, 4, 5], 4
    settings = {
        **changes,
        "dtype": torch.float64,
        "num_samples": 2,
        "lr": 1e-3,
        "max_steps": steps,
        "max_grad_norm": 20.0,  # some gradients are longer, some are not
        "continue_prob": "linear:0.5:0.01:4",
        "likelihood_sd": "linear:0.5:0.2:4",
    }
    stack = make_stack(seeds, **settings)
    noise.depends_on_batches_of(stack.experiment)
    for x, y in batches(stack.experiment, steps, len(seeds)):
        stack(x, y)
        stack.experiment.model.increment_global_step()
    metrics = stack.metrics()
    optimizer = stack.experiment.optimizer
    for index, seed in enumerate(seeds):
        alone = make_experiment(seed, **settings)
        noise.depends_on_batches_of(alone)
        step = EagerStep(alone)
        for x, y in batches(alone, steps, len(seeds)):
            step(x[index], y[index])
            alone.model.increment_global_step()
        close = {"rtol": 1e-8, "atol": 1e-8}
        for name, value in step.metrics().items():
            assert metrics[name][index] == pytest.approx(value, rel=1e-8, abs=1e-8), name
        for name, parameter in alone.model.named_parameters():
            stacked = stack.parameters[name]
            torch.testing.assert_close(stacked[index], parameter, **close)
            expected = alone.optimizer.state[parameter]
            found = optimizer.state[stack.leaves[name]]
            for moment in ("exp_avg", "exp_avg_sq"):
                of_seed = found[moment][index]
                of_seed = of_seed.mT if of_seed.dim() == 2 else of_seed  # as the leaves are held
                torch.testing.assert_close(of_seed, expected[moment], **close)
            assert found["step"] == expected["step"] == steps
        for name, buffer in alone.model.named_buffers():
            torch.testing.assert_close(stack.buffers[name][index], buffer, **close)
        stack.select(index)
        for name, tensor in stack.experiment.model.state_dict().items():
            torch.testing.assert_close(tensor, alone.model.state_dict()[name], **close)


def test_a_seed_that_breaks_down_touches_no_other(make_stack):
    states = []
    for broken in (False, True):
        stack = make_stack([0, 1, 2], estimator="reinforce", max_grad_norm=1.0)
        if broken:
            with torch.no_grad():
                for tensor in stack.parameters.values():
                    tensor[1] = math.nan
        torch.manual_seed(0)
        for x, y in batches(stack.experiment, 3, 3):
            stack(x.float(), y)
        others = [(name, tensor[[0, 2]]) for name, tensor in stack.parameters.items()]
        others += [(name, tensor[[0, 2]]) for name, tensor in stack.buffers.items()]
        elbo = stack.metrics()["elbo"]
        assert math.isnan(elbo[1]) == broken
        states.append((others, elbo[0], elbo[2]))
    for (name, tensor), (_, other) in zip(states[0][0], states[1][0], strict=True):
        assert tensor.isfinite().all(), name
        assert torch.equal(tensor, other), name
    assert states[0][1:] == states[1][1:]


def test_seeds_draw_their_own_noise(make_stack):
    stack = make_stack([0, 0])  # two of one start
    x, y = next(batches(stack.experiment, 1))
    stack(x.float().expand(2, *x.shape[1:]), y.expand(2, -1))
    first, second = stack.metrics()["elbo"]
    assert first != second


@pytest.mark.parametrize("estimator", ["enumerate", "nvil"])
def test_a_graph_of_the_stack_gives_the_same(estimator, make_stack):
    stacks = [make_stack([0, 1], estimator=estimator, max_grad_norm=1.0) for _ in range(2)]
    for stack, warm_up in zip(stacks, (100, 1), strict=True):
        step = CudaGraphStep(stack, warm_up=warm_up, record=record)
        generators = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
        loader = StackedLoader(stack.experiment.dataloaders.train, generators)
        torch.manual_seed(0)
        for _ in range(2):
            for x, y in step.batches(loader):
                step(x, y)
                stack.experiment.model.increment_global_step()
        assert step.recorded == (warm_up == 1)
    for name, tensor in stacks[0].parameters.items():
        assert torch.equal(tensor, stacks[1].parameters[name]), name
    assert stacks[0].metrics() == stacks[1].metrics()


def test_each_gradient_is_clipped_by_its_own_norm():
    torch.manual_seed(0)
    shapes = [(3, 4, 2), (3, 5), (3,)]
    stacked = [torch.zeros(shape, requires_grad=True) for shape in shapes]
    for parameter in stacked:
        parameter.grad = torch.randn(parameter.shape) * torch.tensor([0.01, 1.0, 9.0]).view(
            -1, *[1] * (parameter.dim() - 1)
        )
    alone = [[torch.zeros_like(parameter[seed]) for parameter in stacked] for seed in range(3)]
    for seed, parameters in enumerate(alone):
        for parameter, whole in zip(parameters, stacked, strict=True):
            parameter.grad = whole.grad[seed].clone()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    clip_grad_norms(stacked, 1.0)
    for seed, parameters in enumerate(alone):
        for parameter, whole in zip(parameters, stacked, strict=True):
            torch.testing.assert_close(whole.grad[seed], parameter.grad)


# The trainer


@pytest.mark.parametrize("estimator", ["enumerate", "reinforce"])
def test_seeds_start_as_single_runs_do(estimator, make_trainer, make_args):
    trainer = make_trainer(seed=4, estimator=estimator, dry_run=True)
    x, y = next(iter(trainer._loader))
    for index, seed in enumerate((4, 5, 6)):
        alone = Trainer(AIRExperiment(make_args(seed=seed, estimator=estimator, dry_run=True)))
        trainer.stack.select(index)
        state = trainer.experiment.model.state_dict()
        for name, tensor in alone.experiment.model.state_dict().items():
            assert torch.equal(state[name], tensor) or tensor.isnan().all(), name
        x_alone, y_alone = next(alone._batches())
        assert torch.equal(x[index], x_alone)
        assert torch.equal(y[index], y_alone)


def test_stacked_batches_are_gathered_into_one_place(make_trainer):
    loaders = [make_trainer(dry_run=True)._loader for _ in range(2)]
    buffers, number = loaders[0].buffers(), 0
    for (x, y), expected in zip(loaders[0].into(*buffers), loaders[1], strict=True):
        assert x is buffers[0]
        assert torch.equal(x, expected[0])
        assert torch.equal(y, expected[1])
        number += 1
    assert number == len(loaders[0]) == 3


def test_every_seed_has_a_folder_like_a_single_run(make_trainer, make_args, tmp_path):
    single = Trainer(AIRExperiment(make_args(max_steps=5, train_log_every=2)))
    single.run()
    trainer = make_trainer(run_name="many", max_steps=5, train_log_every=2)
    seeds = trainer.run()
    assert trainer.images_per_s > 0

    def layout(run):
        paths = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
        # Only a single run can be continued.
        return {path.split(".out.tfevents")[0] for path in paths if "training_" not in path}

    def lines(run):
        return [json.loads(line) for line in run.metrics_path.read_text().splitlines()]

    weights = []
    for seed in seeds:
        run = seed.folder
        assert run.folder == tmp_path / "output" / f"many-seed{seed.seed}"
        assert layout(run.folder) == layout(single.run_folder.folder)
        expected = [(line["step"], line["split"], set(line)) for line in lines(single.run_folder)]
        assert [(line["step"], line["split"], set(line)) for line in lines(run)] == expected
        config = run.read_config()
        assert config["args"]["seed"] == seed.seed
        assert config["args"]["run_name"] == run.name
        assert config.keys() == single.run_folder.read_config().keys()
        air = from_pretrained(run.pretrained_folder)
        trainer.stack.select(seed.index)
        for name, tensor in trainer.experiment.model.air.state_dict().items():
            assert torch.equal(air.state_dict()[name], tensor), name
        weights.append(next(air.parameters()))
        last = lines(run)[-1]
        assert seed.held_out == {name: last[name] for name in seed.held_out}
    assert not torch.equal(weights[0], weights[1])


def poison(trainer, index, step):
    """One parameter of one seed becomes NaN right after a step."""
    model = trainer.experiment.model
    increment = model.increment_global_step

    def increment_and_poison():
        increment()
        if model.global_step == step:
            with torch.no_grad():
                next(iter(trainer.stack.parameters.values()))[index].fill_(math.nan)

    model.increment_global_step = increment_and_poison


@pytest.mark.parametrize(("step", "seen_at"), [(1, 2), (2, 2), (3, 4), (4, 4)])
def test_a_failed_seed_is_reported_and_the_others_go_on(step, seen_at, make_trainer, capsys):
    trainer = make_trainer(max_steps=4)
    poison(trainer, 1, step)
    seeds = trainer.run()
    assert [seed.failed_at for seed in seeds] == [None, seen_at, None]
    assert "seed 1 failed: " in capsys.readouterr().out
    saved = [sorted(checkpoint_steps(seed.folder.checkpoint_folder)) for seed in seeds]
    assert saved == [[2, 4], [2] if seen_at == 4 else [], [2, 4]]
    assert [seed.folder.pretrained_folder.exists() for seed in seeds] == [True, False, True]
    for seed in seeds:
        if seed.folder.metrics_path.exists():
            assert "NaN" not in seed.folder.metrics_path.read_text()


@pytest.mark.parametrize("step", [1, 4])
def test_training_ends_when_every_seed_has_failed(step, make_trainer):
    trainer = make_trainer(num_seeds=2, max_steps=4)
    poison(trainer, 0, step)
    poison(trainer, 1, step)
    with pytest.raises(FloatingPointError, match="every seed"):
        trainer.run()
    assert trainer.experiment.model.global_step <= max(2, step)


def test_a_taken_name_is_an_error_before_training(make_trainer, tmp_path):
    Run.create(str(tmp_path / "output"), "many-seed2", "")
    with pytest.raises(FileExistsError, match="many-seed2"):
        make_trainer(run_name="many")
    assert [path.name for path in (tmp_path / "output").iterdir()] == ["many-seed2"]


def test_a_dry_run_writes_nothing(make_trainer, tmp_path):
    seeds = make_trainer(dry_run=True).run()
    assert not (tmp_path / "output").exists()
    assert all(seed.held_out for seed in seeds)


# The command line


@pytest.fixture
def flags(tiny_data, tmp_path):
    text = (
        f"--output {tmp_path / 'output'} --threads 1 --nocuda --batch-size 8 --test-batch-size 4 "
        "--z-what-size 5 --max-steps 3 --tr-log-every 2 --ts-log-every 2 --checkpoint-every 2"
    )
    return text.split()


def test_num_seeds_from_the_command_line(flags, tmp_path, capsys):
    assert main(["train", *flags, "--num-seeds", "2", "--seed", "7", "--run-name", "pair"]) == 0
    out = capsys.readouterr().out
    assert "2 seeds, " in out
    assert "images/s together" in out
    for seed in (7, 8):
        assert f"seed {seed}: " in out.splitlines()[-1 if seed == 8 else -2]
        evaluation = ["evaluate", "--load", f"pair-seed{seed}", "--output", tmp_path / "output"]
        evaluation += ["--samples", "2", "--threads", "1", "--nocuda", "--json"]
        assert main([str(word) for word in evaluation]) == 0
        report = json.loads(capsys.readouterr().out)
        assert report["step"] == 3
        assert f"{report['count_accuracy_mode']:.2%}" in out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--num-seeds", "0"], "num_seeds must be at least 1, got 0"),
        (["--num-seeds", "2", "--resume", "x"], "--resume does not work with --num-seeds"),
        (["--num-seeds", "2", "--compile"], "--compile does not work with --num-seeds"),
        (["--num-seeds", "2", "--on-nan", "skip:3"], "--on-nan skip:N does not work with --num"),
        (["--num-seeds", "2", "--dataset", "shards:x"], "a data set of shards does not work"),
    ],
)
def test_what_cannot_be_is_an_error(more, message, flags, capsys):
    assert main(["train", *flags, *more]) == 2
    assert message in capsys.readouterr().err
