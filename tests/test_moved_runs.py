"""Runs that are continued from another working folder than they were started in."""

import shutil

import pytest

from experiments.cli import main
from experiments.datasets.scenes import Scenes
from experiments.datasets.shards import write_shards
from tests.conftest import make_scenes
from tests.runs import use_tiny_models
from tests.test_places import SETTINGS


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Where a run is started and continued; the first holds images and shards."""
    use_tiny_models(monkeypatch)
    monkeypatch.setenv("AIR_DATA_ROOT", str(tmp_path / "cache"))
    first, second = tmp_path / "first", tmp_path / "second"
    second.mkdir()
    (first / "images").mkdir(parents=True)
    from PIL import Image

    scenes: Scenes = make_scenes(30)
    for number, image in enumerate(scenes.images):
        Image.fromarray(image[0].numpy()).save(first / "images" / f"{number:03}.png")
    write_shards(first / "shards", name="x", train=[scenes], held_out=[make_scenes(8, seed=1)])
    monkeypatch.chdir(first)
    return first, second


@pytest.mark.parametrize("dataset", ["folder:images", "shards:shards"])
def test_a_run_on_a_relative_path_is_continued_from_elsewhere(dataset, places, monkeypatch, capsys):
    first, second = places
    run = ["--run-name", "run", "--object-size", "6", "--z-where-sd", "0.2,1,1"]
    assert main(["train", *SETTINGS, "--dataset", dataset, *run]) == 0
    monkeypatch.chdir(second)
    output = ["--output", str(first / "output")]
    assert main(["train", "--resume", "run", *output, "--max-steps", "6"]) == 0
    assert main(["evaluate", "--load", "run", *output, "--samples", "0", "--nocuda"]) == 0
    shutil.rmtree(first / dataset.split(":")[1])
    assert main(["train", "--resume", "run", *output, "--max-steps", "8"]) == 2
    assert str(first) in capsys.readouterr().err
