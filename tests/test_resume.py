"""A run that was interrupted and continued has the bits of one that was not."""

import dataclasses
import json
import os
import pickle
import random
import signal
import subprocess
import sys
from pathlib import Path

import boilr
import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from experiments.checkpoints import Training, load_checkpoint, save_checkpoint
from experiments.datasets import DATASETS
from experiments.experiment import AIRExperiment
from experiments.resume import format_changes, resumed_args
from experiments.runs import Run
from experiments.trainer import Trainer
from tests.runs import assert_same_run, assert_same_tensors, metrics, use_tiny_models

ROOT = Path(__file__).resolve().parents[1]

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


@pytest.mark.slow
def test_200_steps_are_100_and_100_wherever_a_run_stops(start):
    changes = {"max_steps": 200, "estimator": "reinforce", "checkpoint_every": 80}
    whole = start("whole", **changes)
    whole.run()
    steps = {1, 100, 199, *random.Random(5).sample(range(1, 200), 20)}
    for step in sorted(steps):
        stopped = stop_after(start(f"stopped {step}", **changes), step)
        scramble_random_states()
        assert_same_run(finish(stopped), whole.run_folder)


def finish(trainer):
    """Continue to the end; the run."""
    rest = resume(trainer)
    rest.run()
    return rest.run_folder


def test_a_run_can_be_stopped_many_times(start):
    whole = start("whole", max_steps=20)
    whole.run()
    trainer = start("stopped", max_steps=20)
    for step in (2, 3, 9, 14):
        trainer = resume(stop_after(trainer, step))
    trainer.run()
    assert_same_run(trainer.run_folder, whole.run_folder)


def test_a_crash_goes_back_to_the_last_checkpoint_and_forgets_what_came_after(start):
    whole = start("whole", max_steps=40)
    whole.run()

    def crash():
        raise MemoryError

    trainer = start("crashed", max_steps=40)
    after_step(trainer, 30, crash)
    with pytest.raises(MemoryError):
        trainer.run()
    # A process that was killed may have died within a line.
    path = trainer.run_folder.metrics_path
    path.write_bytes(path.read_bytes() + b'{"step": 31, "spl')
    assert_same_run(finish(trainer), whole.run_folder)
    events = EventAccumulator(str(trainer.run_folder.tensorboard_folder)).Reload()
    assert [event.step for event in events.Scalars("train/elbo")] == list(range(4, 41, 4))


def test_a_run_that_died_before_its_first_checkpoint_starts_again(start, capsys):
    whole = start("whole", max_steps=20)
    whole.run()
    trainer = start("died", max_steps=20)
    trainer.close()
    assert_same_run(finish(trainer), whole.run_folder)
    assert "has no checkpoint yet" in capsys.readouterr().err


def test_a_finished_run_has_nothing_left_to_do(start):
    trainer = start("done", max_steps=8)
    held_out = trainer.run()
    before = metrics(trainer.run_folder)
    model = trainer.run_folder.pretrained_folder / "model.safetensors"
    model.unlink()  # as if it had died just before its end
    again = resume(trainer)
    assert again.run() == held_out
    assert metrics(again.run_folder) == before
    assert model.exists()


def test_a_finished_run_can_be_made_longer(start, capsys):
    trainer = start("longer", max_steps=8)
    trainer.run()
    longer = resume(trainer, max_steps=24)
    longer.run()
    assert longer.experiment.model.global_step == 24
    assert [line["step"] for line in metrics(longer.run_folder) if line["split"] == "held_out"] == [
        8,
        16,
        24,
    ]
    assert longer.run_folder.read_config()["args"]["max_steps"] == 24


def test_how_often_one_logs_tests_and_saves_changes_no_run(start):
    runs = []
    for every in (1, 16):
        periods = dict.fromkeys(PERIODS, every)
        runs.append(start(f"every {every}", max_steps=16, **periods))
        runs[-1].run()
    often, seldom = (load_checkpoint(t.run_folder.checkpoint_folder) for t in runs)
    assert_same_tensors(often.weights, seldom.weights)
    assert torch.equal(
        often.training.tensors["random.torch"], seldom.training.tensors["random.torch"]
    )
    assert metrics(runs[0].run_folder)[-1] == metrics(runs[1].run_folder)[-1]


def test_a_damaged_newest_checkpoint_costs_one_interval_and_is_named(start, capsys):
    whole = start("whole", max_steps=40)
    whole.run()
    trainer = stop_after(start("damaged", max_steps=40), 34)
    (trainer.run_folder.checkpoint_folder / "training_34.json").write_text("{}")
    rest = resume(trainer)
    assert rest.experiment.model.global_step == 32
    assert "training_34.json" in capsys.readouterr().err
    rest.run()
    assert_same_run(rest.run_folder, whole.run_folder)


# Settings


def test_flags_win_over_saved_settings_and_a_table_says_so(start):
    trainer = stop_after(start("run", max_steps=20), 3)
    output = trainer.experiment.args.output
    args, changes = resumed_args(output, "latest", max_steps=40, lr=0.5, test_log_every=16)
    assert (args.resume, args.max_steps, args.lr, args.batch_size) == ("run", 40, 0.5, 8)
    assert args.test_imgs_every == 16
    table = format_changes(changes)
    for part in ("max_steps", "20", "40", "follow the new length", "another run from here on"):
        assert part in table
    assert "batch_size" not in table
    assert format_changes([]) == "All settings are those of the run so far."


@pytest.mark.parametrize(
    "changes", [{"batch_size": 4}, {"seed": 1}, {"estimator": "rloo"}, {"z_what_size": 6}], ids=str
)
def test_what_makes_it_another_run_cannot_be_changed(changes, start):
    trainer = stop_after(start("run", max_steps=20), 3)
    (name,) = changes
    with pytest.raises(ValueError, match=f"cannot change {name}.*Only these can: .*max_steps"):
        resume(trainer, **changes)
    args, _ = resumed_args(trainer.experiment.args.output, "run")
    vars(args).update(changes)
    with pytest.raises(ValueError, match=f"cannot change {name}"):
        Trainer(AIRExperiment(args))


def test_other_threads_are_said_to_change_bits(start, capsys):
    trainer = stop_after(start("run", max_steps=20), 3)
    resume(trainer, threads=2).close()
    assert "not to the same bits: threads: 1 before, 2 now" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"args": {"_target_": "os.system"}}, "unknown settings: _target_"),
        ({"args": {"batch_size": "8; rm"}}, "batch_size cannot be '8; rm'"),
        ({"args": {"lr": True}}, "lr cannot be True"),
        ({"args": {"z_what_size": 10**9}}, "do not fit in z_what_size"),
        ({"args": {"num_samples": 10**9}}, "num_samples must be at most 10000"),
        ({"air": {"_target_": "os.system"}}, "unknown config field.*_target_"),
        ({"air": {"lstm_size": 10**9}}, "do not fit in lstm_size"),
        ({"air": {"max_objects": 10**9}, "args": {"max_objects": 10**9}}, "at most 1000"),
        (
            {"args": {"z_what_size": 10**9}, "air": {"z_what_size": 10**9}},
            "is not what the checkpoint",
        ),
    ],
    ids=str,
)
def test_a_strangers_settings_make_nothing(change, message, start):
    trainer = stop_after(start("run", max_steps=20), 3)
    path = trainer.run_folder.config_path
    config = json.loads(path.read_text())
    for name, fields in change.items():
        config[name] |= fields
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        resume(trainer)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("json", {"step": 4}, "step"),
        ("json", {"position": {"epoch": 1, "batch": 99}}, "position"),
        ("json", {"data": {"scenes": 26, "pixel_sum": 1}}, "trained on other data"),
        ("json", {"settings": None}, "lacks its settings"),
        ("json", {"position": None}, "says nothing of its position"),
        ("json", {"random": {"numpy": ["MT19937", -5, 0, 0.0], "python": [3, None]}}, "random"),
        ("json", {"window": {"names": ["a"], "length": 1, "seconds": 1}}, "metrics"),
        ("json", {"skipped": -1}, "skipped"),
        ("json", {"held_out": {"elbo": "high"}}, "elbo"),
        ("tensors", {"order": torch.zeros(26, dtype=torch.int64)}, "order is none"),
        ("tensors", {"optimizer.0.exp_avg": torch.zeros(2)}, "of another model"),
        ("tensors", {"optimizer.99.exp_avg": torch.zeros(2)}, "of another model"),
        ("tensors", {"optimizer.0.odd": torch.zeros(())}, "optimiser is another one"),
        ("tensors", {"random.torch": torch.zeros(3)}, "random state is none"),
    ],
    ids=str,
)
def test_a_strangers_checkpoint_makes_nothing(file, change, message, start):
    trainer = stop_after(start("run", max_steps=20), 3)
    folder = trainer.run_folder.checkpoint_folder
    found = load_checkpoint(folder)
    parts = {"facts": dict(found.training.facts), "tensors": dict(found.training.tensors)}
    parts["facts" if file == "json" else file].update(change)
    save_checkpoint(folder, 3, found.weights, Training(**parts))
    with pytest.raises(ValueError, match=message):
        resume(trainer)
    assert not (trainer.run_folder.folder / "lock.json").exists()


@pytest.mark.parametrize("half", ["train", "held_out"])
@pytest.mark.parametrize("what", ["turned over", "shuffled", "inverted"])
def test_other_data_of_the_same_pixel_sum_is_noticed(what, half, start, monkeypatch):
    trainer = stop_after(start("run", max_steps=20), 3)
    spec = DATASETS["multi-mnist"]
    splits = spec.make()
    scenes = getattr(splits, half)
    change = {
        "turned over": lambda images: images.flip(-1),
        "shuffled": lambda images: images.flip(0),
        "inverted": lambda images: 255 - images,
    }[what]
    other = dataclasses.replace(scenes, images=change(scenes.images).contiguous())
    changed = dataclasses.replace(splits, **{half: other})
    monkeypatch.setattr("experiments.loaders.load_splits", lambda args: changed)
    with pytest.raises(ValueError, match="trained on other data"):
        resume(trainer)


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"estimator": "rloo"}, {"translate": True}, {"batch_size": 4}], ids=str
)
def test_a_config_that_was_edited_by_hand_is_noticed(change, start):
    trainer = stop_after(start("run", max_steps=20), 3)
    path = trainer.run_folder.config_path
    config = json.loads(path.read_text())
    config["args"] |= change
    path.write_text(json.dumps(config))
    (name,) = change
    with pytest.raises(ValueError, match=rf"is not what .* step 3 .*cannot change {name}"):
        resume(trainer)


def test_weights_alone_cannot_be_continued(start):
    trainer = stop_after(start("run", max_steps=20), 3)
    folder = trainer.run_folder.checkpoint_folder
    for path in folder.iterdir():
        if path.suffix != ".pt":
            path.unlink()
    with pytest.raises(ValueError, match="weights only"):
        resume(trainer)


@pytest.mark.filterwarnings("ignore:When resuming training")
def test_boilrs_own_trainer_does_not_unpickle_a_run(make_args, tmp_path, monkeypatch):
    canary = tmp_path / "canary"

    class Bomb:
        def __reduce__(self):
            return Path.touch, (canary,)

    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "output" / "run"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "results").mkdir()
    for name in ("checkpoints/config.pkl", "results/log.pkl"):
        (folder / name).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match="boilr's own trainer cannot"):
        boilr.Trainer(AIRExperiment(make_args(resume="run", run_name=None)))
    assert not canary.exists()


# Processes


@pytest.mark.parametrize(
    ("kills", "max_steps"),
    [(3, 64), pytest.param(50, 400, marks=pytest.mark.slow)],
)
def test_kill_9_at_random_moments(kills, max_steps, start, tmp_path):
    arguments = [tmp_path / "output", kills, max_steps, kills]
    result = subprocess.run(
        [sys.executable, "-m", "tests.kill_runs", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"AIR_DATA_ROOT": str(tmp_path / "data")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["end"] == 0
    assert len(report["lost"]) == kills
    assert all(0 <= lost <= 8 for lost in report["lost"]), report
    assert set(report["statuses"]) <= {-9, 0}
    assert -9 in report["statuses"]
    whole = start(
        "whole",
        max_steps=max_steps,
        test_batch_size=10,
        train_log_every=4,
        test_log_every=8,
        checkpoint_every=8,
    )
    whole.run()
    assert_same_run(Run(tmp_path / "output" / "killed"), whole.run_folder)
    left = {path.name for path in (tmp_path / "output" / "killed").rglob("*")}
    assert not any(name.endswith(".tmp") for name in left)
    assert "lock.json" not in left
