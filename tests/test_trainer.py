"""The training loop: nothing is lost, nothing is read too often, nothing broken is saved."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils._python_dispatch import TorchDispatchMode

from air.checkpoint import from_pretrained
from air.estimators import ESTIMATORS
from experiments.boilr_model import checkpoint_steps
from experiments.experiment import AIRExperiment
from experiments.objective import METRICS
from experiments.runs import Run
from experiments.trainer import Trainer

TRAIN_METRICS = {"bound", "images_per_s", "count_accuracy", *METRICS}
HELD_OUT_METRICS = {"count_accuracy", "count_accuracy_mode", *METRICS}


@pytest.fixture
def make_trainer(make_args):
    def make(**changes):
        return Trainer(AIRExperiment(make_args(**changes)))

    return make


@pytest.fixture
def train(make_trainer):
    """Trains to the end; hands back the trainer."""

    def train(**changes):
        trainer = make_trainer(**changes)
        trainer.held_out = trainer.run()
        return trainer

    return train


def lines(trainer, split=None):
    """The lines of metrics.jsonl, which must be JSON in the strict sense."""

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    text = trainer.run_folder.metrics_path.read_text(encoding="utf-8")
    found = [json.loads(line, parse_constant=refuse) for line in text.splitlines()]
    return [line for line in found if split in (None, line["split"])]


def checkpoint_files(step):
    training = f"training_{step}"
    return (
        f"model_{step}.pt",
        f"{training}.safetensors",
        f"{training}.json",
        f"manifest_{step}.json",
    )


def steps(trainer, split):
    return [line["step"] for line in lines(trainer, split)]


def saved_steps(trainer):
    return sorted(checkpoint_steps(trainer.run_folder.checkpoint_folder))


def pictures(trainer):
    return sorted(path.name for path in trainer.run_folder.image_folder.iterdir())


def state_of(trainer):
    return {name: tensor.clone() for name, tensor in trainer.experiment.model.state_dict().items()}


def poison(trainer):
    """One parameter of the model becomes NaN."""
    with torch.no_grad():
        next(trainer.experiment.model.air.generative.parameters()).fill_(math.nan)


def after_step(trainer, step, action):
    """Have something happen right after a training step."""
    model = trainer.experiment.model
    increment = model.increment_global_step

    def increment_and_act():
        increment()
        if model.global_step == step:
            action()

    model.increment_global_step = increment_and_act


# The last step


def test_the_last_step_is_logged_tested_and_saved(train):
    trainer = train(max_steps=11, train_log_every=2, test_log_every=4, checkpoint_every=8)
    assert trainer.experiment.model.global_step == 11
    assert steps(trainer, "train") == [2, 4, 6, 8, 10, 11]
    assert steps(trainer, "held_out") == [4, 8, 11]
    assert saved_steps(trainer) == [8, 11]
    assert pictures(trainer) == sorted(
        f"{kind}_{step}.png" for kind in ("reconstruction", "sample") for step in (4, 8, 11)
    )
    last = lines(trainer, "held_out")[-1]
    assert trainer.held_out == {name: last[name] for name in HELD_OUT_METRICS}


def test_the_last_step_is_not_logged_twice(train):
    trainer = train(max_steps=4)
    assert steps(trainer, "train") == [2, 4]
    assert steps(trainer, "held_out") == [2, 4]
    assert saved_steps(trainer) == [2, 4]


def test_a_run_shorter_than_any_period_is_logged_tested_and_saved(train):
    trainer = train(max_steps=1)
    assert steps(trainer, "train") == steps(trainer, "held_out") == saved_steps(trainer) == [1]


def test_only_the_newest_checkpoints_are_kept(train):
    trainer = train(max_steps=9, keep_checkpoint_max=2)
    assert saved_steps(trainer) == [8, 9]


# 26 scenes make 3 batches of 8 an epoch.


def test_max_epochs_ends_the_run_with_all_that_belongs_to_an_end(train):
    trainer = train(max_steps=100, max_epochs=3, checkpoint_every=4)
    assert trainer.experiment.model.global_step == 9
    assert steps(trainer, "held_out") == [2, 4, 6, 8, 9]
    assert saved_steps(trainer) == [4, 8, 9]
    assert set(trainer.held_out) == HELD_OUT_METRICS
    assert_same_model(from_pretrained(trainer.run_folder.pretrained_folder), trainer)


def test_the_last_step_of_max_epochs_is_logged_and_drawn(train):
    trainer = train(max_steps=100, max_epochs=3, checkpoint_every=4)
    assert steps(trainer, "train") == [2, 4, 6, 8, 9]
    assert "reconstruction_9.png" in pictures(trainer)


def test_the_last_step_of_max_epochs_is_not_tested_twice(train):
    trainer = train(max_steps=100, max_epochs=2)
    assert steps(trainer, "held_out") == [2, 4, 6]


def test_max_steps_within_an_epoch_wins_over_max_epochs(train):
    trainer = train(max_steps=4, max_epochs=2)
    assert trainer.experiment.model.global_step == 4
    assert saved_steps(trainer) == [2, 4]


# What is left on disk


def assert_same_model(air, trainer):
    trained = trainer.experiment.model.air
    assert air.config == trained.config
    assert not air.training
    expected = trained.state_dict()
    assert air.state_dict().keys() == expected.keys()
    for name, tensor in air.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_layout_of_the_run_folder(train, tmp_path):
    run = train().run_folder.folder
    assert run == tmp_path / "output" / "run"
    found = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    (events,) = (name for name in found if name.startswith("tensorboard_logs/"))
    assert events.startswith("tensorboard_logs/events.out.tfevents.")
    assert found - {events} == {
        "config.json",
        *(f"checkpoints/{name}" for n in (2, 4) for name in checkpoint_files(n)),
        *(f"model/{name}" for name in ("README.md", "config.json", "model.safetensors")),
        "model/preprocessor_config.json",
        "results/metrics.jsonl",
        *(f"results/imgs/{kind}_{n}.png" for kind in ("reconstruction", "sample") for n in (2, 4)),
    }


def test_the_final_model_is_the_trained_one(train):
    trainer = train()
    air = from_pretrained(trainer.run_folder.pretrained_folder)
    assert_same_model(air, trainer)
    reading = air.infer(trainer.experiment.dataloaders.test.images)
    assert reading.counts.shape == (10,)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_every_estimator_trains_what_is_saved(estimator, make_trainer):
    trainer = make_trainer(estimator=estimator, num_samples=2)
    before = state_of(trainer)
    trainer.run()
    after = state_of(trainer)
    # What is learned, and not the prior's constants.
    for name, _ in trainer.experiment.model.named_parameters():
        assert not torch.equal(before[name], after[name]), name
    own = {"auxiliary_loss"} if list(trainer.experiment.model.estimator.parameters()) else set()
    assert set(lines(trainer, "train")[-1]) == TRAIN_METRICS | {"step", "split"} | own
    other = AIRExperiment(trainer.experiment.args)
    other.setup(trainer.device, checkpoint_folder=str(trainer.run_folder.checkpoint_folder))
    assert other.model.global_step == 4
    for name, tensor in other.model.state_dict().items():
        assert torch.equal(tensor, after[name]), name


def test_training_raises_the_elbo_of_held_out_scenes(make_trainer):
    periods = {"train_log_every": 20, "test_log_every": 20, "checkpoint_every": 20}
    trainer = make_trainer(max_steps=60, **periods)

    def elbo():
        torch.manual_seed(0)  # the same draws of the latents before and after
        return trainer.experiment.test_procedure()["elbo"]

    before = elbo()
    trainer.run()
    # 1.1 to 3.5 nats in five runs of other seeds.
    assert elbo() > before + 0.5


def test_metrics_are_means_over_the_steps_since_the_last_line(make_trainer):
    trainer = make_trainer(max_steps=5, train_log_every=2)
    forward_pass, seen = trainer.experiment.forward_pass, []

    def remember(x, y):
        results = forward_pass(x, y)
        seen.append(results["elbo"].item())
        return results

    trainer.experiment.forward_pass = remember
    trainer.run()
    logged = [line["elbo"] for line in lines(trainer, "train")]
    expected = [(seen[0] + seen[1]) / 2, (seen[2] + seen[3]) / 2, seen[4]]
    assert logged == pytest.approx(expected, rel=1e-5)


def test_metrics_hold_plain_finite_numbers(train):
    for line in lines(train(max_steps=3)):
        names = TRAIN_METRICS if line["split"] == "train" else HELD_OUT_METRICS
        assert set(line) == names | {"step", "split"}
        assert all(math.isfinite(line[name]) for name in names)
        assert type(line["step"]) is int


def test_tensorboard_holds_the_same_numbers(train):
    trainer = train(max_steps=3)
    events = EventAccumulator(str(trainer.run_folder.tensorboard_folder)).Reload()
    expected = {f"train/{name}" for name in TRAIN_METRICS}
    expected |= {f"held_out/{name}" for name in HELD_OUT_METRICS}
    assert set(events.Tags()["scalars"]) == expected
    for split in ("train", "held_out"):
        shown = [(event.step, event.value) for event in events.Scalars(f"{split}/elbo")]
        logged = [(line["step"], np.float32(line["elbo"])) for line in lines(trainer, split)]
        assert shown == logged


def test_pictures_open_and_show_something(train):
    trainer = train()
    paths = list(trainer.run_folder.image_folder.iterdir())
    assert len(paths) == 4
    for path in paths:
        with Image.open(path) as picture:
            picture.load()
            assert picture.format == "PNG"
            assert picture.mode == "RGB"
            # Not blank, and more than a white frame and coloured boxes.
            assert len(np.unique(np.asarray(picture)[..., 0])) > 20, path


def test_config_holds_settings_and_model(train):
    trainer = train(seed=3)
    config = trainer.run_folder.read_config()
    assert config["args"] == vars(trainer.experiment.args)
    assert config["air"] == json.loads(trainer.experiment.model.air.config.to_json())
    assert config["dataset"] == "multi-mnist"
    assert config["torch_version"] == str(torch.__version__)


@pytest.mark.parametrize("setting", ["output", "data_root"])
def test_folders_can_be_given_as_paths(setting, train, tmp_path):
    trainer = train(max_steps=1, **{setting: tmp_path / "folder"})
    assert saved_steps(trainer) == [1]


def test_dry_run_writes_nothing(make_trainer, tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    trainer = make_trainer(dry_run=True, output="output", max_steps=5)  # its data is made now
    assert trainer.run_folder is None
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    held_out = trainer.run()
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert list((tmp_path / "work").iterdir()) == []
    assert trainer.experiment.model.global_step == 5
    assert set(held_out) == HELD_OUT_METRICS


def test_a_taken_name_is_an_error_before_training(train, make_trainer, monkeypatch):
    folder = train().run_folder.folder
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(FileExistsError, match="'run' exists"):
        make_trainer(seed=1)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_without_a_name_every_run_has_its_own_folder(train, tmp_path):
    runs = [train(max_steps=1, run_name=None).run_folder for _ in range(2)]
    assert runs[0].folder != runs[1].folder
    assert all("multi-mnist_enumerate_seed0" in run.name for run in runs)
    assert Run.find(str(tmp_path / "output"), "latest") == runs[1]


# Seeds


@pytest.mark.parametrize("estimator", ["enumerate", "reinforce"])
def test_two_runs_of_one_seed_are_bit_identical(estimator, train):
    # The second begins from another random state than the first.
    trainers = [train(estimator=estimator, seed=5, run_name=name, max_steps=5) for name in "ab"]
    first, second = map(state_of, trainers)
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
    logged = [[{**line, "images_per_s": None} for line in lines(trainer)] for trainer in trainers]
    assert logged[0] == logged[1]
    weights = [
        (trainer.run_folder.pretrained_folder / "model.safetensors").read_bytes()
        for trainer in trainers
    ]
    assert weights[0] == weights[1]


def test_runs_of_other_seeds_differ_in_start_and_order_of_the_data(make_trainer):
    batches, starts = [], []
    for seed in (0, 1):
        trainer = make_trainer(seed=seed, run_name=f"seed{seed}")
        starts.append(next(trainer.experiment.model.parameters()).clone())
        batches.append(next(iter(trainer.experiment.dataloaders.train))[0])
        trainer.tb_writer.close()
    assert not torch.equal(starts[0], starts[1])
    assert not torch.equal(batches[0], batches[1])


# Broken training


@pytest.mark.parametrize(
    "train_log_every",
    [
        1,
        2,
    ],
)
def test_a_bound_that_is_not_finite_stops_the_run_and_nothing_is_saved(
    train_log_every, make_trainer
):
    trainer = make_trainer(max_steps=6, train_log_every=train_log_every)
    poison(trainer)
    try:
        with pytest.raises(FloatingPointError, match=r"broke down at step 1: the loss is nan"):
            trainer.run()
    finally:
        trainer.tb_writer.close()
    assert trainer.experiment.model.global_step == 1
    run = trainer.run_folder
    assert saved_steps(trainer) == []
    assert pictures(trainer) == []
    assert not run.pretrained_folder.exists()
    assert not run.metrics_path.exists()


def test_what_was_saved_before_a_breakdown_stays(make_trainer):
    trainer = make_trainer(max_steps=8)
    after_step(trainer, 5, lambda: poison(trainer))
    with pytest.raises(FloatingPointError, match=r"at step 6: .*model_4\.pt"):
        trainer.run()
    assert saved_steps(trainer) == [2, 4]
    assert steps(trainer, "held_out") == [2, 4]
    other = AIRExperiment(trainer.experiment.args)
    other.setup(trainer.device, checkpoint_folder=str(trainer.run_folder.checkpoint_folder))
    assert all(tensor.isfinite().all() for tensor in other.model.air.state_dict().values())
    trainer.tb_writer.close()


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param(
            {"max_steps": 4},
            id="by the last update",
        ),
        pytest.param({"max_steps": 100, "max_epochs": 1}, id="in the last epoch"),
    ],
)
def test_a_model_that_breaks_down_at_the_end_is_not_saved(changes, make_trainer):
    trainer = make_trainer(**changes)
    last = 4 if "max_epochs" not in changes else 3
    after_step(trainer, last, lambda: poison(trainer))
    try:
        with pytest.raises(FloatingPointError):
            trainer.run()
    finally:
        trainer.tb_writer.close()
    assert saved_steps(trainer) == [2]
    assert not trainer.run_folder.pretrained_folder.exists()


# Speed


class _Reads(TorchDispatchMode):
    """Counts what a GPU would have to be waited for: numbers read from tensors."""

    number = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        waits = ("_local_scalar_dense", "is_nonzero", "aten.equal", "aten.nonzero")
        self.number += any(name in str(function) for name in waits)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("estimator", "max_grad_norm"), [*((name, None) for name in ESTIMATORS), ("enumerate", 1.0)]
)
def test_nothing_is_read_from_the_device_between_two_logs(
    estimator, max_grad_norm, make_trainer, monkeypatch
):
    trainer = make_trainer(
        estimator=estimator, max_grad_norm=max_grad_norm, num_samples=2, max_steps=3
    )
    step, reads, calls = trainer._step, [], []

    def counted(*arguments):
        with _Reads() as mode, pytest.MonkeyPatch.context() as patch:
            for name in ("item", "tolist", "numpy", "cpu"):
                patch.setattr(torch.Tensor, name, lambda *args, name=name: calls.append(name))
            step(*arguments)
        reads.append(mode.number)

    monkeypatch.setattr(trainer, "_step", counted)
    trainer.run()
    assert reads == [0] * 3
    assert calls == []


def test_reads_are_counted():
    tensor = torch.ones(2)
    with _Reads() as mode:
        tensor.sum().item()
        bool(tensor[0])
        float(tensor[1])
        tensor.nonzero()
        tensor + tensor
    assert mode.number == 4


def test_gradients_are_clipped_as_asked(make_trainer):
    trainer = make_trainer(max_grad_norm=1e-3, max_steps=2)
    norms, optimizer_step = [], trainer.experiment.optimizer.step

    def remember():
        gradients = [p.grad.norm() for p in trainer.experiment.model.parameters()]
        norms.append(torch.stack(gradients).norm().item())
        optimizer_step()

    trainer.experiment.optimizer.step = remember
    trainer.run()
    assert norms == pytest.approx([1e-3] * 2, rel=1e-2)


def test_the_model_is_tested_in_evaluation_mode_and_trained_in_training_mode(make_trainer):
    trainer = make_trainer(estimator="reinforce")
    experiment, modes = trainer.experiment, []

    def remember(name, real):
        def call(*args):
            modes.append((name, experiment.model.training))
            return real(*args)

        return call

    for name in ("forward_pass", "test_procedure", "save_images"):
        setattr(experiment, name, remember(name, getattr(experiment, name)))
    trainer.run()
    assert modes == 2 * [
        ("forward_pass", True),
        ("forward_pass", True),
        ("test_procedure", False),
        ("save_images", False),
    ]


def test_learning_rate_of_each_update(make_trainer):
    trainer = make_trainer(lr=0.01, max_steps=4)
    optimizer, rates = trainer.experiment.optimizer, []
    optimizer.register_step_pre_hook(lambda *_: rates.append(optimizer.param_groups[0]["lr"]))
    trainer.run()
    assert rates == pytest.approx([0.01 * (1 + math.cos(math.pi * n / 4)) / 2 for n in range(4)])
