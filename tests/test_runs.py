"""Run folders: their names, and how they are found and read again."""

import argparse
import json
import os
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import pytest

from experiments import runs
from experiments.runs import Run


@pytest.fixture
def one_second(monkeypatch):
    """Time stands still."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime(2026, 2, 3, 4, 5, 6)

    monkeypatch.setattr(runs, "datetime", Clock)


def make_run(output, name, age=0):
    run = Run.create(str(output), name, "")
    run.write_config(argparse.Namespace(lr=0.1), air={"channels": 1})
    time = run.config_path.stat().st_mtime_ns - age * 10**9
    os.utime(run.config_path, ns=(time, time))
    return run


def test_create_makes_the_folders(tmp_path):
    run = Run.create(str(tmp_path / "deep" / "output"), "mine", "ignored")
    assert run.name == "mine"
    assert run.folder == tmp_path / "deep" / "output" / "mine"
    found = sorted(str(path.relative_to(run.folder)) for path in run.folder.rglob("*"))
    assert found == ["checkpoints", "results", "results/imgs", "tensorboard_logs"]


@pytest.mark.usefixtures("one_second")
def test_runs_of_one_second_have_names_of_their_own(tmp_path):
    made = [Run.create(str(tmp_path), None, "multi-mnist_seed0") for _ in range(3)]
    assert [run.name for run in made] == [
        "260203_040506_multi-mnist_seed0",
        "260203_040506_multi-mnist_seed0_2",
        "260203_040506_multi-mnist_seed0_3",
    ]
    assert all(run.checkpoint_folder.is_dir() for run in made)


@pytest.mark.usefixtures("one_second")
def test_runs_started_at_once_have_names_of_their_own(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: Run.create(str(tmp_path), None, "x"), range(16)))
    assert len({run.name for run in made}) == 16


@pytest.mark.parametrize("description", ["a/b", "x/../../outside"])
def test_a_description_makes_one_plain_folder_or_an_error(description, tmp_path):
    output = tmp_path / "output"
    try:
        run = Run.create(str(output), None, description)
    except ValueError:
        return
    assert run.folder.resolve().parent == output.resolve()


@pytest.mark.parametrize(
    "name",
    [
        *("../x", "a/b", "/x", "", ".", "..", "latest", "a\\b", "a\nb", "a\x00b", "x/"),
        *(".x", "...", "x" * 300, "\udcff"),
    ],
)
def test_bad_names_are_refused_before_anything_is_made(name, tmp_path):
    with pytest.raises(ValueError, match="cannot name a run"):
        Run.create(str(tmp_path / "output"), name, "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["run", "seed 0", "a.b-c_d", "x..."])
def test_plain_names_are_taken(name, tmp_path):
    assert Run.create(str(tmp_path), name, "").folder == tmp_path / name


def test_a_taken_name_is_refused(tmp_path):
    make_run(tmp_path, "mine")
    with pytest.raises(FileExistsError, match=r"'mine' exists in .*Choose another --run-name"):
        Run.create(str(tmp_path), "mine", "")


def test_latest_is_the_run_started_last_whatever_its_name(tmp_path):
    make_run(tmp_path, "b", age=10)
    make_run(tmp_path, "a", age=5)
    make_run(tmp_path, "c", age=20)
    (tmp_path / "zz no run").mkdir()
    assert Run.find(str(tmp_path), "latest") == Run(tmp_path / "a")


def test_a_run_is_found_by_its_name(tmp_path):
    run = make_run(tmp_path, "b")
    make_run(tmp_path, "a")
    assert Run.find(str(tmp_path), "b") == run


@pytest.mark.parametrize("name", ["d", "", "../a", "B", "no run"])
def test_an_unknown_run_lists_what_exists(name, tmp_path):
    output = tmp_path / "output"
    for known in ("b", "a"):
        make_run(output, known)
    make_run(tmp_path, "a")
    (output / "no run").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no run named .*\. Runs found: a, b\."):
        Run.find(str(output), name)


@pytest.mark.parametrize("folder", ["", "absent"])
@pytest.mark.parametrize("name", ["latest", "a"])
def test_no_run_at_all_says_how_to_train_one(name, folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no run\. Train one first"):
        Run.find(str(tmp_path / folder), name)


def test_config_comes_back(tmp_path):
    run = Run.create(str(tmp_path), "run", "")
    run.write_config(argparse.Namespace(lr=0.1, name="é"), dataset="x", air={"channels": 1})
    expected = {"args": {"lr": 0.1, "name": "é"}, "dataset": "x", "air": {"channels": 1}}
    assert run.read_config() == expected
    assert json.loads(run.config_path.read_text(encoding="utf-8")) == expected


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"args air"',
        b'{"args": {}}',
        b'{"air": {}}',
        b'{"args": [], "air": {}}',
        b'{"args": {}, "air": 3}',
        b'{"args": {}, "air": {}',
        b"\xff\xfe",
        b"[" * 200_000,
    ],
)
def test_a_damaged_config_is_a_value_error(content, tmp_path):
    run = make_run(tmp_path, "run")
    run.config_path.write_bytes(content)
    with pytest.raises(ValueError, match=r"config\.json is no run's configuration"):
        Run.find(str(tmp_path), "latest").read_config()


def test_metrics_are_appended_line_by_line(tmp_path):
    run = Run.create(str(tmp_path), "run", "")
    run.append_metrics(1, "train", {"elbo": 0.5})
    run.append_metrics(2, "held_out", {"elbo": -1.0, "count_accuracy": 1.0})
    lines = run.metrics_path.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [
        {"step": 1, "split": "train", "elbo": 0.5},
        {"step": 2, "split": "held_out", "elbo": -1.0, "count_accuracy": 1.0},
    ]
