"""``doctor`` sees what is wrong, and changes nothing."""

import json
import os
import shutil
import signal

import pytest
import torch

from experiments.checkpoints import load_checkpoint, save_checkpoint
from experiments.cli import main
from experiments.datasets import DATASETS
from experiments.experiment import AIRExperiment
from experiments.trainer import Trainer
from tests.runs import use_tiny_models
from tests.test_places import SETTINGS


@pytest.fixture(autouse=True)
def tiny_models(monkeypatch):
    use_tiny_models(monkeypatch)


@pytest.fixture
def doctor(tiny_data, tmp_path, capsys):
    """Calls it; hands back the status and what was printed."""

    def call(*flags, settings=SETTINGS):
        status = main(["doctor", *settings, "--output", str(tmp_path / "output"), *flags])
        return status, capsys.readouterr().out

    return call


def test_all_is_well(doctor, tmp_path):
    status, out = doctor("--run-name", "mine", "--max-steps", "50")
    assert status == 0, out
    assert "Nothing is wrong." in out
    assert "FAIL" not in out
    for part in (
        f"torch {torch.__version__}".split("+")[0],
        "1 threads",
        "mine would be made",
        "GB free",
        "tiny/train: 26 scenes (1, 18, 16), pixels 0 to",
        "number of objects [9, 9, 8]",
        "20 steps on cpu",
        "would take 50 steps of 8 scenes",
    ):
        assert part in out, part
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize(("flags", "ok"), [([], True), (["--batch-size", "27"], False)])
def test_findings_as_json(doctor, flags, ok):
    status, out = doctor("--json", *flags)
    report = json.loads(out)
    assert (status, report["ok"]) == (0 if ok else 1, ok)
    statuses = {found["what"]: found["status"] for found in report["findings"]}
    assert statuses["settings"] == "ok"
    assert (statuses.get("training") == "fail") is not ok
    assert ("fail" in statuses.values()) is not ok


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--lr", "-1"], ["FAIL  settings", "lr must be above 0"]),
        (["--run-name", "../x"], ["FAIL  output", "cannot name a run"]),
        (["--batch-size", "27"], ["FAIL  training", "larger than the data set of 26"]),
        (["--max-objects", "1"], ["FAIL  training", "Raise --max-objects to 2"]),
        (["--resume", "mine"], ["holds no run"]),
    ],
    ids=str,
)
def test_what_is_wrong_is_said(flags, parts, doctor, capsys):
    status = main(["doctor", *SETTINGS, *flags])
    out, err = capsys.readouterr()
    assert status in (1, 2)
    for part in parts:
        assert part in out + err


def test_steps_that_break_down_are_seen(doctor):
    status, out = doctor("--lr", "1e38")
    assert status == 1
    assert "FAIL  training" in out
    assert "broke down" in out


def test_too_little_room_is_seen(doctor, monkeypatch, tmp_path):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=1000))
    status, out = doctor()
    assert status == 1
    assert "Make room" in out


def test_data_without_content_is_seen(doctor, tiny_data, monkeypatch):
    tiny_data.train.images.zero_()
    spec = DATASETS["multi-mnist"]
    object.__setattr__(spec, "pixel_sum", tiny_data.pixel_sum)
    status, out = doctor()
    assert status == 1
    assert "all pixels of tiny/train are the same" in out


def test_more_threads_than_cores_are_seen(doctor):
    status, out = doctor("--threads", str(os.cpu_count() + 1))
    assert status == 0
    assert "warn  cpu" in out
    torch.set_num_threads(1)


def test_a_run_that_is_to_be_continued(doctor, make_args):
    trainer = Trainer(AIRExperiment(make_args(max_steps=6)))
    increment = trainer.experiment.model.increment_global_step

    def stop():
        increment()
        if trainer.experiment.model.global_step == 5:
            signal.raise_signal(signal.SIGTERM)

    trainer.experiment.model.increment_global_step = stop
    trainer.run()
    status, out = doctor("--resume", "run", settings=[])
    assert status == 0, out
    assert "would go on from step 5" in out
    status, out = doctor("--resume", "run", "--json", settings=[])
    assert (status, json.loads(out)["ok"]) == (0, True)
    folder = trainer.run_folder.checkpoint_folder
    (folder / "model_5.pt").write_bytes(b"")
    status, out = doctor("--resume", "run", settings=[])
    assert status == 0
    assert "warn  checkpoint   step 5: cannot read" in out
    assert "would go on from step 4" in out
    for step in (2, 4):
        (folder / f"model_{step}.pt").write_bytes(b"")
    status, out = doctor("--resume", "run", settings=[])
    assert status == 1
    assert "none is whole" in out


def test_the_names_of_many_seeds_are_looked_at(doctor, tmp_path):
    flags = ("--run-name", "mine", "--num-seeds", "2", "--seed", "7")
    (tmp_path / "output" / "mine").mkdir(parents=True)  # taken, but not one of theirs
    status, out = doctor(*flags)
    assert status == 0, out
    for name in ("mine-seed7 would be made", "mine-seed8 would be made"):
        assert name in out
    (tmp_path / "output" / "mine-seed8").mkdir()
    status, out = doctor(*flags)
    assert status == 1
    assert "FAIL  output       a run named 'mine-seed8' exists" in out


def test_weights_alone_cannot_be_continued(doctor, make_args):
    trainer = Trainer(AIRExperiment(make_args()))
    trainer.run()
    folder = trainer.run_folder.checkpoint_folder
    weights = load_checkpoint(folder).weights
    save_checkpoint(folder, 9, weights)
    status, out = doctor("--resume", "run", settings=[])
    assert status == 1
    assert "step 9 holds weights only: run can be evaluated, not continued" in out
    assert "would go on" not in out
