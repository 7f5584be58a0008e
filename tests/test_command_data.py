"""``main.py data``: what it prints, draws and refuses."""

import argparse
import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from experiments.commands import data
from experiments.datasets import DATASETS, MNISTUnavailable, embedded_digits, mnist, multi_mnist


@pytest.fixture
def splits(monkeypatch):
    """The data set that the registry makes, with 60 scenes only."""
    splits = multi_mnist(embedded_digits(), num_train=40, num_held_out=20)
    spec = dataclasses.replace(
        DATASETS["multi-mnist"], make=lambda *_: splits, pixel_sum=splits.pixel_sum
    )
    monkeypatch.setitem(DATASETS, "multi-mnist", spec)
    return splits


def run(*arguments):
    parser = argparse.ArgumentParser()
    data.add_arguments(parser)
    return data.run(parser.parse_args([str(argument) for argument in arguments]))


def test_without_a_name_all_are_listed(capsys):
    assert run() == 0
    out = capsys.readouterr().out
    names = [line.split()[0] for line in out.splitlines()]
    assert names[:-3] == list(DATASETS)
    assert [name.split(":")[0] for name in names[-3:]] == ["scenes", "folder", "shards"]
    assert "(default)" in out.splitlines()[0]
    assert run("--json") == 0
    listed = json.loads(capsys.readouterr().out)["datasets"]
    assert [entry["name"] for entry in listed] == list(DATASETS)


def test_json_says_what_the_data_set_holds(splits, tmp_path, capsys):
    assert run("multi-mnist", "--data-root", tmp_path, "--json") == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.count("\n") == 1
    facts = json.loads(out)
    assert facts["name"] == facts["requested"] == "multi-mnist"
    assert facts["image_shape"] == [1, 50, 50]
    assert facts["pixel_sum"] == splits.pixel_sum
    assert facts["sha256"] == splits.sha256
    for name, scenes in (("train", splits.train), ("held_out", splits.held_out)):
        assert facts[name]["scenes"] == len(scenes) == sum(facts[name]["scenes_per_count"])
        assert facts[name]["scenes_per_count"] == [
            int((scenes.num_objects == n).sum()) for n in range(3)
        ]
        assert facts[name]["pixel_sum"] == scenes.pixel_sum
        assert facts[name]["sha256"] == scenes.sha256
    boxes = np.concatenate([splits.train.boxes.numpy(), splits.held_out.boxes.numpy()])
    size = np.nanmean(boxes[..., 2:] - boxes[..., :2], axis=(0, 1))
    assert facts["mean_object_size"] == pytest.approx(size.tolist(), abs=0.005)
    assert facts["cache"] == str(tmp_path / "multi-mnist-v2.npz")
    assert facts["picture"] == str(tmp_path / "multi-mnist.png")


def test_text_says_the_same(splits, tmp_path, capsys):
    assert run("multi-mnist", "--data-root", tmp_path) == 0
    out = capsys.readouterr().out
    for part in (splits.pixel_sum, splits.sha256, splits.held_out.sha256, tmp_path):
        assert str(part) in out


def test_picture_shows_scenes_with_boxes(splits, tmp_path):
    assert run("multi-mnist", "--data-root", tmp_path) == 0
    pixels = np.asarray(Image.open(tmp_path / "multi-mnist.png"))
    assert pixels.shape == (3 * 154 + 4, 8 * 154 + 4, 3)
    red = (pixels == (255, 0, 0)).all(axis=2)
    assert red.any() == bool((splits.held_out.num_objects > 0).any())
    scene = int((splits.held_out.num_objects > 0).nonzero()[0])
    x_min, y_min, _, _ = splits.held_out.boxes[scene, 0].int().tolist()
    top, left = 4 + scene // 8 * 154 + 3 * y_min, 4 + scene % 8 * 154 + 3 * x_min
    assert red[top - 1, left - 1]
    assert not red[top, left]


def test_default_picture_is_made_anew(splits, tmp_path):
    default = tmp_path / "multi-mnist.png"
    default.write_text("old")
    assert run("multi-mnist", "--data-root", tmp_path) == 0
    assert default.read_bytes().startswith(b"\x89PNG")
    assert run("multi-mnist", "--data-root", tmp_path, "--picture", default) == 0


def test_existing_picture_elsewhere_is_kept(splits, tmp_path, capsys):
    mine = tmp_path / "mine.png"
    mine.write_text("holiday")
    assert run("multi-mnist", "--data-root", tmp_path / "data", "--picture", mine) == 2
    assert mine.read_text() == "holiday"
    assert "exists" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_picture_goes_where_it_is_told(splits, tmp_path, capsys):
    path = tmp_path / "new" / "picture.png"
    root = tmp_path / "data"
    assert run("multi-mnist", "--data-root", root, "--picture", path, "--json") == 0
    assert json.loads(capsys.readouterr().out)["picture"] == str(path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert not (root / "multi-mnist.png").exists()


def test_picture_must_be_a_png(splits, tmp_path, capsys):
    assert run("multi-mnist", "--data-root", tmp_path, "--picture", tmp_path / "a.jpg") == 2
    assert "must end in .png" in capsys.readouterr().err


def test_unknown_name_is_one_line(tmp_path, capsys):
    assert run("dsprites", "--data-root", tmp_path, "--json") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "unknown data set 'dsprites'" in err


def test_data_root_that_cannot_be_written_costs_warnings_only(splits, tmp_path, capsys):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    assert run("multi-mnist", "--data-root", blocked, "--json") == 0
    out, err = capsys.readouterr()
    facts = json.loads(out)
    assert (facts["cache"], facts["picture"]) == (None, None)
    assert all(line.startswith("warning: ") for line in err.splitlines())


def test_fallback_is_told_apart(splits, monkeypatch, tmp_path, capsys):
    def fail(data_root):
        raise MNISTUnavailable("no network")

    monkeypatch.setattr(mnist, "_download", fail)
    monkeypatch.delenv("AIR_MNIST_ROOT", raising=False)
    assert run("multi-mnist-pyro", "--data-root", tmp_path, "--json") == 0
    out, err = capsys.readouterr()
    facts = json.loads(out)
    assert (facts["requested"], facts["name"]) == ("multi-mnist-pyro", "multi-mnist")
    assert facts["picture"] == str(tmp_path / "multi-mnist.png")
    assert "--mnist-root" in err
