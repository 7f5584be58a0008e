"""Where runs live: strange paths, no rights, no room, no network; and that nothing grows."""

import gc
import json
import os
import shutil
import socket
import time
from pathlib import Path

import pytest
import torch

from air.checkpoint import from_pretrained
from experiments.cli import main
from experiments.experiment import AIRExperiment
from experiments.files import DamagedFileError, read_file, write_file
from experiments.locks import RunLockedError
from experiments.runs import Run
from experiments.trainer import Trainer
from tests.runs import use_tiny_models

FLAGS = {
    "--threads": 1,
    "--batch-size": 8,
    "--test-batch-size": 4,
    "--z-what-size": 5,
    "--max-steps": 4,
    "--tr-log-every": 2,
    "--ts-log-every": 2,
    "--checkpoint-every": 2,
}
SETTINGS = ["--nocuda", *(str(part) for flag in FLAGS.items() for part in flag)]


@pytest.fixture(autouse=True)
def tiny_models(monkeypatch):
    use_tiny_models(monkeypatch)


@pytest.fixture
def no_network(monkeypatch):
    """Whoever opens a socket fails."""

    def refuse(*args, **options):
        raise AssertionError("the network was used")

    for name in ("socket", "create_connection", "getaddrinfo", "socketpair"):
        monkeypatch.setattr(socket, name, refuse)


@pytest.mark.usefixtures("tiny_data", "no_network")
@pytest.mark.parametrize("name", ["with spaces", "Läufe", "走る", "it's; rm -rf $HOME", "-x"])
def test_strange_paths_and_no_network(name, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("AIR_DATA_ROOT", str(tmp_path / name / "data"))
    output = tmp_path / name / "out put"
    run = [f"--output={output}", f"--run-name={name}"]
    assert main(["train", *SETTINGS, *run]) == 0
    assert main(["train", f"--resume={name}", f"--output={output}", "--max-steps=6"]) == 0
    capsys.readouterr()
    assert main(["evaluate", f"--load={name}", f"--output={output}", "--samples=2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["step"] == 6
    model = from_pretrained(output / name / "model")
    assert model.infer(torch.rand(2, 1, 18, 16)).counts.shape == (2,)


@pytest.mark.usefixtures("tiny_data")
@pytest.mark.parametrize("name", ["../out", "a/b", "/x", "..", ".", ""])
@pytest.mark.parametrize("flag", ["--run-name", "--resume", "evaluate --load"])
def test_names_that_lead_elsewhere(flag, name, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.json").write_text("{}")
    command = flag.split() if " " in flag else ["train", *SETTINGS, flag]
    if flag == "--resume":
        command = ["train", flag]
    if flag == "--resume" and not name:
        return  # no run is continued: the flag's default
    assert main([*command, name, "--output", "runs"]) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} <= {"out", "data", "runs"}
    assert not list((tmp_path / "out").glob("*/"))


# No rights, no room


@pytest.mark.usefixtures("tiny_data")
def test_an_output_that_is_a_file(tmp_path, capsys):
    (tmp_path / "output").write_text("mine")
    for output in (tmp_path / "output", tmp_path / "output" / "deeper"):
        assert main(["train", *SETTINGS, "--output", str(output)]) == 2
        assert "is a file: give another --output" in capsys.readouterr().err
    assert (tmp_path / "output").read_text() == "mine"


@pytest.mark.usefixtures("tiny_data")
def test_an_output_that_cannot_be_written(tmp_path, capsys, monkeypatch):
    if os.geteuid() == 0:  # root may write anywhere but where nobody can
        output = Path("/proc/1/output")
    else:
        (tmp_path / "locked").mkdir(mode=0o500)
        output = tmp_path / "locked" / "output"
    assert main(["train", *SETTINGS, "--output", str(output)]) == 2
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.usefixtures("tiny_data")
def test_a_disk_that_is_full_before_the_first_step(tmp_path, capsys, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=1000))
    assert main(["train", *SETTINGS, "--output", str(tmp_path / "output")]) == 2
    assert "0 MB free" in capsys.readouterr().err
    assert not (tmp_path / "output").exists()


@pytest.mark.usefixtures("tiny_data")
def test_a_disk_that_fills_up(make_args, monkeypatch):
    trainer = Trainer(AIRExperiment(make_args(max_steps=8)))
    real = os.fsync

    def full(handle):
        if trainer.experiment.model.global_step == 6:
            raise OSError(28, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"step 6 could not be saved.*No space left.*model_4\.pt"):
        trainer.run()
    monkeypatch.undo()
    use_tiny_models(monkeypatch)


# Two at once


def test_two_processes_in_one_folder(make_args):
    trainer = Trainer(AIRExperiment(make_args(max_steps=8)))
    with pytest.raises(RunLockedError, match="Two processes cannot train one run"):
        Trainer(AIRExperiment(make_args(max_steps=8, resume="run")))
    trainer.run()
    Trainer(AIRExperiment(make_args(max_steps=8, resume="run"))).run()


def test_a_run_that_died_while_it_was_made_is_none(tmp_path, monkeypatch):
    def die(folder, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", die)
        with pytest.raises(KeyboardInterrupt):
            Run.create(str(tmp_path), "run", "", config={})
    assert list(tmp_path.iterdir()) == []
    (tmp_path / ".starting-1-ab" / "checkpoints").mkdir(parents=True)
    (tmp_path / ".starting-1-ab" / "config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="holds no run"):
        Run.find(str(tmp_path), "latest")
    assert Run.create(str(tmp_path), "run", "", config={}).name == "run"


# Files


def test_a_file_is_the_old_one_or_the_new_one(tmp_path, monkeypatch):
    write_file(tmp_path / "a", b"old")

    def fail(*_):
        raise OSError("no")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no"):
        write_file(tmp_path / "a", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"


def test_a_file_that_is_too_large_or_none_is_not_read(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    assert read_file(tmp_path / "a", 5) == b"12345"
    for path, limit in ((tmp_path / "a", 4), (tmp_path, 10), (Path("/dev/zero"), 10)):
        with pytest.raises(DamagedFileError):
            read_file(path, limit)
    with pytest.raises(FileNotFoundError):
        read_file(tmp_path / "b", 5)


# Nothing grows


def memory_in_use():
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("seconds", [3, pytest.param(600, marks=pytest.mark.slow)])
def test_memory_is_flat_and_logs_grow_with_the_steps(seconds, make_args):
    trainer = Trainer(
        AIRExperiment(
            make_args(
                max_steps=10_000_000,
                train_log_every=5,
                test_log_every=50,
                checkpoint_every=100,
                test_imgs_every=100_000,
            )
        )
    )
    model, points = trainer.experiment.model, []
    increment, start = model.increment_global_step, time.monotonic()
    metrics, folder = trainer.run_folder.metrics_path, trainer.run_folder.tensorboard_folder

    def look():
        increment()
        if model.global_step % 100 == 0:
            trainer.tb_writer.flush()
            sizes = [path.stat().st_size for path in (metrics, *folder.iterdir())]
            tensors = sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())
            points.append((model.global_step, memory_in_use(), tensors, sum(sizes)))
            if time.monotonic() - start > seconds and len(points) >= 4:
                trainer.experiment.args.max_steps = model.global_step

    model.increment_global_step = look
    trainer.run()
    # The first part fills caches.
    (begin, before, tensors, _), (middle, *_, half), (last, after, tensors_after, whole) = (
        points[len(points) // 4],
        points[len(points) // 2],
        points[-1],
    )
    assert after - before < 8 << 20, points
    assert tensors_after <= tensors + 2
    assert whole == pytest.approx(half * last / middle, rel=0.1)
    assert len(list(trainer.run_folder.checkpoint_folder.glob("model_*.pt"))) <= 5
    assert begin < middle < last
