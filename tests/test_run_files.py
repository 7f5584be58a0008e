"""A run's files: a stranger's links, pipes and devices, folders that are gone, kills between two
renames."""

import json
import os
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from air import AIR
from air.files import current_file, read_file, write_file, write_files
from experiments.cli import main
from experiments.experiment import AIRExperiment
from experiments.trainer import Trainer
from tests.runs import use_tiny_models
from tests.small import small_images, small_model


@pytest.fixture(autouse=True)
def tiny_models(monkeypatch):
    use_tiny_models(monkeypatch)


@pytest.fixture
def trained(make_args):
    """A run of four steps."""
    trainer = Trainer(AIRExperiment(make_args()))
    trainer.run()
    return trainer.run_folder


@pytest.fixture
def home(tmp_path):
    """Somebody's folder, which nobody may touch."""
    home = tmp_path / "home"
    home.mkdir()
    for name in ("mine", ".mine.1.ab.tmp", "model_9.pt", "training_9.json", "metrics.jsonl"):
        (home / name).write_text("mine")
    return home


def contents(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


def commands(run):
    place = ["--output", str(run.folder.parent)]
    yield ["evaluate", "--load", run.name, *place, "--samples", "0", "--nocuda"]
    yield ["train", "--resume", run.name, *place, "--max-steps", "8"]


FOLDERS = ["results", "results/imgs", "tensorboard_logs", "checkpoints", "model"]


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("command", [0, 1], ids=["evaluate", "resume"])
def test_folders_that_lead_out_of_a_run_are_not_written(command, folder, trained, home, capsys):
    path = trained.folder / folder
    if folder == "checkpoints":  # they must be read, or nothing goes on
        for file in path.iterdir():
            shutil.copy(file, home)
    shutil.rmtree(path)
    path.symlink_to(home)
    before = {name: (home / name).read_bytes() for name in os.listdir(home)}
    status = main(list(commands(trained))[command])
    assert {name: (home / name).read_bytes() for name in os.listdir(home)} == before
    if folder != "model" or command == 1:
        assert status == 2
        assert f"{path} is a link" in capsys.readouterr().err


@pytest.mark.parametrize("command", [0, 1], ids=["evaluate", "resume"])
def test_files_that_lead_out_of_a_run_are_replaced(command, trained, home, capsys):
    command = list(commands(trained))[command]
    assert main(command) == 0
    written = [
        path
        for folder in (trained.result_folder, trained.pretrained_folder)
        for path in folder.rglob("*")
        if path.is_file() and path.name != "metrics.jsonl"
    ]
    before = contents(home)
    for path in written:
        path.unlink()
        path.symlink_to(home / "mine")
    if command[0] == "train":
        command[-1] = "12"
    assert main(command) == 0
    assert contents(home) == before


@pytest.mark.parametrize("target", ["metrics.jsonl", "new"], ids=["existing", "dangling"])
def test_metrics_that_lead_out_of_a_run_are_not_written(target, trained, home):
    trained.metrics_path.unlink()
    trained.metrics_path.symlink_to(home / target)
    before = contents(home)
    status = main(list(commands(trained))[1])
    assert contents(home) == before
    # Where there is something to read, the lines that are kept take the link's place.
    assert (status, trained.metrics_path.is_symlink()) == (
        (0, False) if target == "metrics.jsonl" else (2, True)
    )


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("command", [0, 1], ids=["evaluate", "resume"])
def test_folders_that_are_gone_are_made_again(command, folder, trained):
    if folder == "checkpoints":
        pytest.skip("without them there is nothing to go on with")
    shutil.rmtree(trained.folder / folder)
    assert main(list(commands(trained))[command]) == 0


def test_a_folder_that_goes_while_a_run_trains_costs_no_checkpoint(make_args):
    trainer = Trainer(AIRExperiment(make_args(max_steps=8)))
    model = trainer.experiment.model
    increment = model.increment_global_step

    def look():
        increment()
        if model.global_step == 5:
            shutil.rmtree(trainer.run_folder.result_folder)
            shutil.rmtree(trainer.run_folder.checkpoint_folder)

    model.increment_global_step = look
    trainer.run()
    assert (trainer.run_folder.checkpoint_folder / "manifest_8.json").exists()
    assert list(trainer.run_folder.image_folder.iterdir())


# Pipes and devices


HANGS = """
import os, sys
from pathlib import Path
sys.path.insert(0, os.getcwd())
from tests.tiny_main import make_everything_tiny
from experiments.cli import main
make_everything_tiny()
import resource
resource.setrlimit(resource.RLIMIT_DATA, (4 << 30, 4 << 30))
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("kind", ["pipe", "device"])
@pytest.mark.parametrize("file", ["config.json", "lock.json", "results/metrics.jsonl"])
def test_pipes_and_devices_make_nobody_wait(file, kind, trained, tmp_path):
    path = trained.folder / file
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    result = subprocess.run(
        [sys.executable, "-c", HANGS, *list(commands(trained))[1]],
        cwd=Path(__file__).resolve().parents[1],
        env=os.environ | {"AIR_DATA_ROOT": str(tmp_path / "data")},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "Traceback" not in result.stderr
    assert result.returncode == 2
    assert file.split("/")[-1] in result.stderr


# Sets of files


class Killed(BaseException):
    """As if the process had died."""


def killed_at(monkeypatch, number):
    """Die just before the file system is changed for the n-th time."""
    count = 0

    def dying(real):
        def call(*arguments, **options):
            nonlocal count
            count += 1
            if count >= number:  # and nothing more is done: no tidying up either
                raise Killed
            return real(*arguments, **options)

        return call

    for name in ("replace", "rename", "link", "unlink", "rmdir", "mkdir"):
        monkeypatch.setattr(os, name, dying(getattr(os, name)))
    monkeypatch.setattr(shutil, "rmtree", dying(shutil.rmtree))


def test_a_killed_save_leaves_the_old_model_or_the_new_one(tmp_path, monkeypatch):
    folder, images = tmp_path / "model", small_images()
    old, new = small_model(0).eval(), small_model(1, z_what_size=6).eval()
    outcomes = []
    for number in range(1, 100):
        shutil.rmtree(folder, ignore_errors=True)
        old.save_pretrained(folder)
        (folder / "notes.txt").write_text("mine")
        with monkeypatch.context() as patch:
            killed_at(patch, number)
            try:
                new.save_pretrained(folder, overwrite=True)
                done = True
            except Killed:
                done = False
        found = AIR.from_pretrained(folder)
        expected = {model.config: model for model in (old, new)}[found.config]
        assert torch.equal(found.infer(images).count_probs, expected.infer(images).count_probs)
        assert (folder / "notes.txt").read_text() == "mine"
        outcomes.append(found.config == new.config)
        if done:
            break
        new.save_pretrained(folder, overwrite=True)  # and the next save works
        assert AIR.from_pretrained(folder).config == new.config
        assert not (folder / ".new").exists()
    assert outcomes == sorted(outcomes)
    assert 0 < sum(outcomes) < len(outcomes)
    assert done


def test_a_killed_evaluation_leaves_the_older_one(trained, monkeypatch, capsys):
    evaluate, _ = commands(trained)
    assert main([*evaluate, "--seed", "1"]) == 0
    names = [p for p in trained.result_folder.rglob("evaluation_*") if p.is_file()]
    assert len(names) == 3
    before = {path: path.read_bytes() for path in names}
    outcomes = []
    for number in range(1, 100):
        with monkeypatch.context() as patch:
            killed_at(patch, number)
            try:
                status = main([*evaluate, "--seed", "2"])
            except Killed:
                status = None
        after = {
            path: current_file(
                trained.result_folder, str(path.relative_to(trained.result_folder))
            ).read_bytes()
            for path in names
        }
        same = [after[path] == before[path] for path in names]
        outcomes.append(all(same))
        if status == 0:
            break
        # What is found is of one evaluation: the samples and the numbers depend on the seed.
        samples = next(path for path in names if "samples" in path.name)
        numbers = next(path for path in names if path.suffix == ".json")
        assert (after[samples] == before[samples]) == (after[numbers] == before[numbers])
        shutil.rmtree(trained.result_folder / ".new", ignore_errors=True)
        for path, content in before.items():
            path.write_bytes(content)
    assert status == 0
    assert True in outcomes
    assert False in outcomes


def test_a_set_that_fails_changes_nothing(tmp_path, monkeypatch):
    def fail(handle):
        raise OSError("no room")

    write_files(tmp_path, {"a": b"old", "deep/b": b"old"})
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="no room"):
            write_files(tmp_path, {"a": b"new", "deep/b": b"new"})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "deep" / "b").read_bytes() == b"old"
    assert sorted(os.listdir(tmp_path)) == ["a", "deep"]


def test_a_strangers_unfinished_set_stays_in_its_folder(tmp_path, home):
    folder = tmp_path / "run"
    (folder / ".new" / "imgs").mkdir(parents=True)
    (folder / ".new" / "imgs" / "mine").write_text("theirs")
    (folder / "imgs").symlink_to(home)
    with pytest.raises(NotADirectoryError, match="is a link"):
        write_files(folder, {"a": b""})
    assert contents(home)["mine"] == "mine"


# The writer


def test_files_have_the_rights_that_the_user_gives_new_files(tmp_path):
    small_model().save_pretrained(tmp_path)
    plain = tmp_path / "plain"
    plain.touch()
    rights = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert rights == {stat.S_IMODE(plain.stat().st_mode)}


def test_what_a_killed_writer_left_goes_with_the_next_write(tmp_path):
    old = [tmp_path / ".a.1.ab.tmp", tmp_path / ".a.2.cd.tmp"]
    others = [tmp_path / ".b.1.ab.tmp", tmp_path / "a.tmp"]
    for path in (*old, *others):
        path.touch()
        os.utime(path, (0, time.time() - 7200))
    os.utime(old[1])  # somebody is still at it
    write_file(tmp_path / "a", b"")
    assert sorted(os.listdir(tmp_path)) == sorted(
        ["a", old[1].name, *(path.name for path in others)]
    )
    assert read_file(tmp_path / "a", 1) == b""


def test_evaluations_are_json(trained, capsys):
    evaluate, _ = commands(trained)
    assert main([*evaluate[:-3], "--samples", "2", "--calibration", "--nocuda"]) == 0
    (path,) = trained.result_folder.glob("evaluation_*.json")
    json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(name))


def test_a_resume_removes_what_killed_processes_left_in_the_run(trained):
    left = [
        trained.folder / ".config.json.999999999.ab12.tmp",
        trained.image_folder / ".a.png.999999999.ab12.tmp",
        trained.result_folder / ".files.999999999.ab12.tmp" / "imgs" / "a.png",
    ]
    mine = trained.result_folder / f".a.{os.getppid()}.ab12.tmp"  # an evaluation under way
    for path in (*left, mine):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert main(list(commands(trained))[1]) == 0
    assert list(trained.folder.rglob("*.tmp*")) == [mine]
