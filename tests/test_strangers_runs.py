"""Files of other programs that we read: boilr's folders, multiobject's data sets."""

import argparse
import json
import pickle
import zipfile

import boilr
import numpy as np
import pytest
import torch
from multiobject import generate_multiobject_dataset
from multiobject.pytorch import MultiObjectDataset

from experiments.boilr_folder import read_config, read_log, read_run_config
from experiments.cli import main
from experiments.datasets.multiobject import read_multiobject
from experiments.experiment import AIRExperiment
from experiments.files import DamagedFileError
from experiments.npz import read_members
from experiments.runs import Run
from tests.hostile import Bomb, make_multiobject


@pytest.fixture
def boilr_run(make_args, tmp_path, monkeypatch):
    """A run of boilr's own trainer."""
    monkeypatch.chdir(tmp_path)
    trainer = boilr.Trainer(AIRExperiment(make_args(max_steps=5, seed=3)))
    trainer.run()
    trainer.tb_writer.close()
    (folder,) = (tmp_path / "output").iterdir()
    return trainer, Run(folder)


def unpickled(path):
    with open(path, "rb") as file:
        return pickle.load(file)


def test_a_boilr_run_is_read_as_boilr_reads_it(boilr_run):
    _, run = boilr_run
    assert read_config(run.boilr_config_path) == vars(unpickled(run.boilr_config_path))
    log, expected = read_log(run.boilr_log_path), unpickled(run.boilr_log_path)
    for split in ("train", "test"):
        assert log[split] == {name: expected[split][name] for name in expected[split]}
    assert log["test"]["elbo"]


def test_a_boilr_run_can_be_evaluated(boilr_run, monkeypatch, capsys):
    trainer, run = boilr_run
    # The registry knows the size of the real scenes only.
    config = trainer.experiment.model.air.config
    monkeypatch.setattr("experiments.boilr_folder.make_config", lambda *_: config)
    assert read_run_config(run)["air"] == config.to_dict()
    assert Run.find(str(run.folder.parent), "latest") == run
    capsys.readouterr()
    assert main(["evaluate", "--load", run.name, "--samples", "0", "--json", "--nocuda"]) == 0
    assert json.loads(capsys.readouterr().out)["step"] == 4
    lines = [json.loads(line) for line in run.metrics_path.read_text().splitlines()]
    assert {(line["step"], line["split"]) for line in lines} == {
        (0, "held_out"),
        (2, "train"),
        (2, "held_out"),
        (4, "train"),
        (4, "held_out"),
    }


def test_a_boilr_run_of_scenes_made_to_order_is_understood(tmp_path):
    run = Run(tmp_path)
    run.checkpoint_folder.mkdir()
    dataset = "scenes:canvas=30x40,sprites=shapes,colors=7"
    settings = {"dataset": dataset, "estimator": "enumerate", "max_steps": 5}
    run.boilr_config_path.write_bytes(pickle.dumps(argparse.Namespace(**settings)))
    air = read_run_config(run)["air"]
    assert (tuple(air["canvas_size"]), air["channels"]) == ((30, 40), 3)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"lr": 1},
        {"dataset": "mnist", "estimator": "x", "max_steps": 1},
        {"dataset": 3, "estimator": "x", "max_steps": 1},
        {"dataset": "folder:mine", "estimator": "x", "max_steps": 1},
    ],
    ids=str,
)
def test_a_boilr_run_of_another_program_is_refused(settings, tmp_path):
    run = Run(tmp_path)
    run.checkpoint_folder.mkdir()
    run.boilr_config_path.write_bytes(pickle.dumps(argparse.Namespace(**settings)))
    with pytest.raises(DamagedFileError, match="of another program"):
        read_run_config(run)


@pytest.mark.parametrize(
    "settings",
    [{"max_steps": float("inf")}, {"max_steps": float("nan")}, {"z_what_size": float("inf")}],
    ids=str,
)
def test_a_boilr_run_of_endless_numbers_is_refused(settings, tmp_path):
    run = Run(tmp_path)
    run.checkpoint_folder.mkdir()
    plain = {"dataset": "multi-mnist", "estimator": "vimco", "max_steps": 5}
    run.boilr_config_path.write_bytes(pickle.dumps(argparse.Namespace(**(plain | settings))))
    with pytest.raises(DamagedFileError, match="describes no model"):
        read_run_config(run)


@pytest.mark.parametrize("value", [{}, argparse.Namespace(a=[1]), argparse.Namespace(a={}), 3])
def test_settings_are_plain_values(value, tmp_path):
    (tmp_path / "config.pkl").write_bytes(pickle.dumps(value))
    with pytest.raises(DamagedFileError, match=r"config\.pkl"):
        read_config(tmp_path / "config.pkl")


# multiobject


@pytest.fixture
def multiobject_file(tmp_path):
    """A file made as multiobject's own script makes it."""
    np.random.seed(0)  # noqa: NPY002
    sprites = [np.full((5, 5, 3), 100 + 50 * i) for i in range(3)]
    attributes = {"shape": np.arange(3), "colour": np.eye(3)}
    images, counts, labels = generate_multiobject_dataset(
        20, (16, 12, 3), sprites, attributes, count_distrib={0: 0.25, 1: 0.25, 2: 0.5}
    )
    labels["n_obj"] = counts
    np.savez_compressed(tmp_path / "made.npz", x=images, labels=labels)
    return tmp_path / "made.npz", images, counts, labels


def test_a_multiobject_file_is_read_as_multiobject_reads_it(multiobject_file):
    path, _, counts, labels = multiobject_file
    found = read_multiobject(path)
    assert found.images.shape == (20, 3, 16, 12)
    theirs = MultiObjectDataset(path, train=True, split=1.0)
    assert torch.equal(found.images.float() / 255, theirs.x)
    assert found.num_objects.tolist() == counts.tolist()
    for name in ("shape", "colour"):
        for values, expected in zip(found.labels[name], labels[name], strict=True):
            np.testing.assert_array_equal(values, expected)


def test_without_a_count_the_labels_tell_it(tmp_path):
    make_multiobject(tmp_path, {"shape": [np.array([1, 2]), np.array([]), np.array([0])]})
    assert read_multiobject(tmp_path / "file.npz").num_objects.tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    "labels",
    [
        {},
        [1],
        {"n_obj": np.array([1, 2])},
        {"n_obj": np.array([1, 2, 10**9])},
        {"n_obj": np.array([1.5, 2, 1])},
        {"n_obj": np.array([2, 0, 2]), "shape": [np.array([1, 2]), np.array([]), np.array([0])]},
        {"shape": [np.array([1, 2])]},
        {"shape": [1, 2, 3]},
        {"shape": [np.array(1), np.array(1), np.array(1)]},
        {"shape": Bomb()},
    ],
    ids=lambda labels: str(labels)[:60],
)
def test_labels_that_make_no_sense(labels, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_multiobject(tmp_path, labels)
    with pytest.raises(DamagedFileError, match=r"file\.npz"):
        read_multiobject(tmp_path / "file.npz")
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    "images", [np.zeros((3, 4, 5, 1)), np.zeros((3, 4, 5, 2), np.uint8), np.zeros(3, np.uint8)]
)
def test_images_that_are_none(images, tmp_path):
    np.savez(tmp_path / "file.npz", x=images, labels={"n_obj": np.zeros(3, int)})
    with pytest.raises(DamagedFileError, match="must be uint8 of shape"):
        read_multiobject(tmp_path / "file.npz")


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_archives_that_would_unpack_without_a_bound(compression, tmp_path):
    path = tmp_path / "file.npz"
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("x.npy", bytes(10 << 20))
    content = bytearray(path.read_bytes())
    directory = content.rindex(b"PK\x01\x02")
    content[directory + 24 : directory + 28] = (1000).to_bytes(4, "little")
    path.write_bytes(content)
    # Not what is found once they are unpacked: that they do not have their declared size.
    with pytest.raises(DamagedFileError, match="compressed as numpy never does"):
        read_members(path, ["x"])
