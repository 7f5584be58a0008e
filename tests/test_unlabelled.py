"""Images without labels: all is trained and reported but what cannot be known."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from air.evaluation import evaluate
from experiments.cli import main
from experiments.datasets import as_scenes
from experiments.datasets.shards import read_index, verify_shards
from experiments.resume import read_settings
from experiments.runs import Run
from tests.small import small_images, small_model

SETTINGS = {
    "--batch-size": 8,
    "--test-batch-size": 4,
    "--z-what-size": 5,
    "--max-steps": 4,
    "--tr-log-every": 2,
    "--ts-log-every": 2,
    "--checkpoint-every": 2,
    "--threads": 1,
}
FLAGS = ["--nocuda", *(str(part) for flag in SETTINGS.items() for part in flag)]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Twenty images of 20x16 with a square of 4 pixels."""
    monkeypatch.setenv("AIR_DATA_ROOT", str(tmp_path / "data"))
    path = tmp_path / "mine"
    path.mkdir()
    for i in range(20):
        pixels = np.zeros((20, 16), np.uint8)
        pixels[i % 10 + 2 :, 3 + i % 4 :][:4, :4] = 255
        Image.fromarray(pixels).save(path / f"{i:02}.png")
    return path


@pytest.fixture
def output(tmp_path):
    return ["--output", str(tmp_path / "output")]


def metrics(tmp_path, run="mine"):
    lines = (tmp_path / "output" / run / "results" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_a_folder_is_trained_on_continued_and_evaluated(folder, output, tmp_path, capsys):
    data = ["--dataset", f"folder:{folder}"]
    assert main(["train", *data, *output, *FLAGS, "--run-name", "mine"]) == 0
    out, err = capsys.readouterr()
    assert "objects of some 4.0 +- 0.0 pixels" in out
    assert "Held-out counts are unknown; ELBO" in out
    assert "accuracy" not in out + err
    for line in metrics(tmp_path):
        assert "elbo" in line
        assert not any("accuracy" in name for name in line)
    args = read_settings(Run(tmp_path / "output" / "mine"))
    assert args.z_where_mean == "3.64,0,0"  # 16 / (1.1 * 4)
    assert main(["train", "--resume", "mine", "--max-steps", "6", *output]) == 0
    assert metrics(tmp_path)[-1]["step"] == 6
    capsys.readouterr()
    assert main(["evaluate", "--load", "mine", "--samples", "2", *output]) == 0
    out = capsys.readouterr().out
    assert "true counts are unknown" in out
    assert "images by inferred count" in out
    assert main(["evaluate", "--load", "mine", "--samples", "2", "--json", *output]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["count_accuracy"] is report["count_accuracy_mode"] is None
    assert report["confusion"] == []
    assert sum(report["inferred_counts"]) == report["num_images"] == 2
    for flag, needed in (("--localisation", "true boxes"), ("--calibration", "true counts")):
        assert main(["evaluate", "--load", "mine", "--samples", "2", flag, *output]) == 2
        assert f"{flag} needs the {needed}" in capsys.readouterr().err


def test_several_seeds_at_once(folder, output, tmp_path, capsys):
    data = ["--dataset", f"folder:{folder}", "--num-seeds", "2", "--run-name", "many"]
    assert main(["train", *data, *output, *FLAGS]) == 0
    assert "accuracy:" not in capsys.readouterr().out
    assert not any("accuracy" in name for line in metrics(tmp_path, "many-seed1") for name in line)


def test_counts_bring_the_accuracy_back(folder, output, tmp_path, capsys):
    rows = "".join(f"{path.name},1\n" for path in sorted(folder.iterdir()))
    (folder / "counts.csv").write_text("file,count\n" + rows)
    data = ["--dataset", f"folder:{folder}"]
    assert main(["train", *data, *output, *FLAGS, "--run-name", "mine"]) == 0
    assert "Held-out count accuracy" in capsys.readouterr().out
    assert all("count_accuracy" in line for line in metrics(tmp_path))


@pytest.mark.parametrize(
    ("flags", "mean", "sd"),
    [
        (["--z-where-mean", "2.5,0.1,0"], (2.5, 0.1, 0.0), (0.2, 1.0, 1.0)),
        (["--object-size", "4"], (3.64, 0.0, 0.0), (0.2, 1.52, 1.52)),
        (["--z-where-sd", "0.5,1,2"], (3.64, 0.0, 0.0), (0.5, 1.0, 2.0)),
        (["--object-size", "8", "--z-where-sd", "0.5,1,2"], (1.82, 0.0, 0.0), (0.5, 1.0, 2.0)),
    ],
    ids=str,
)
def test_what_is_said_wins_over_what_is_estimated(flags, mean, sd, folder, output, tmp_path):
    data = ["--dataset", f"folder:{folder}", "--run-name", "mine"]
    assert main(["train", *data, *output, *FLAGS, *flags]) == 0
    run = Run(tmp_path / "output" / "mine")
    config = run.read_config()["air"]
    assert (tuple(config["z_where_mean"]), tuple(config["z_where_sd"])) == (mean, sd)
    read_settings(run)  # they fit the model


def test_flags_win_over_the_data_sets_own_prior(make_args):
    from experiments.experiment import make_config

    shape = (1, 50, 50)
    assert make_config(make_args(continue_prob="0.01"), shape, 1).z_where_mean == (3.0, 0.0, 0.0)
    said = make_config(make_args(continue_prob="0.01", object_size=10.0), shape, 1)
    assert (said.z_where_mean, said.z_where_sd) == ((4.55, 0.0, 0.0), (0.2, 2.05, 2.05))
    said = make_config(
        make_args(continue_prob="0.01", z_where_mean="4,0,0.5", z_where_sd="1,2,3"), shape, 1
    )
    assert (said.z_where_mean, said.z_where_sd) == ((4.0, 0.0, 0.5), (1.0, 2.0, 3.0))
    small = make_config(
        make_args(continue_prob="0.01", dataset="multi-mnist-small"), (1, 64, 64), 1
    )
    assert small.z_where_mean == (4.49, 0.0, 0.0)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--z-where-mean", "3,0"], "must be three numbers, such as 3,0,0"),
        (["--z-where-sd", "1,1,inf"], "must be finite"),
        (["--object-size", "-3"], "object_size must be at least 1 pixel"),
        (["--object-size", "3", "--z-where-mean", "3,0,0"], "not allowed with"),
        (["--z-where-mean=-3,0,0"], "scale above 0"),
    ],
    ids=str,
)
def test_flags_that_make_no_sense_are_refused(flags, message, folder, output, capsys):
    try:
        status = main(["train", "--dataset", f"folder:{folder}", *output, *FLAGS, *flags])
    except SystemExit as end:  # of argparse
        status = end.code
    assert status == 2
    assert message in capsys.readouterr().err


def test_images_without_objects_say_what_to_do(tmp_path, output, monkeypatch, capsys):
    monkeypatch.setenv("AIR_DATA_ROOT", str(tmp_path / "data"))
    np.save(tmp_path / "black.npy", np.zeros((20, 16, 16), np.uint8))
    status = main(["train", "--dataset", f"folder:{tmp_path / 'black.npy'}", *output, *FLAGS])
    assert status == 2
    assert "Give --object-size" in capsys.readouterr().err


def test_evaluation_without_labels():
    model, images = small_model(), small_images()
    torch.manual_seed(0)
    without = evaluate(model, images, num_samples=2)
    torch.manual_seed(0)
    counts = model.infer(images).counts
    torch.manual_seed(0)
    labelled = evaluate(model, images, counts, num_samples=2)
    assert np.isnan([without.count_accuracy, without.count_accuracy_mode]).all()
    assert without.confusion.shape == (0, 4)
    assert without.elbo == labelled.elbo
    assert labelled.count_accuracy_mode == 1
    for found in (without, labelled):
        assert torch.equal(found.inferred_counts, counts.bincount(minlength=4))


def test_unlabelled_shards(folder, output, tmp_path, capsys):
    shards = tmp_path / "shards"
    assert main(["data", f"folder:{folder}", "--write-shards", str(shards)]) == 0
    assert "unknown" in capsys.readouterr().out
    index = read_index(shards)
    assert index.z_where_mean == (3.64, 0.0, 0.0)
    assert "masks" not in index.fields
    assert len(list(verify_shards(index))) == 8
    data = ["--dataset", f"shards:{shards}", "--run-name", "mine"]
    assert main(["train", *data, *output, *FLAGS]) == 0
    assert not any("accuracy" in name for line in metrics(tmp_path) for name in line)
    capsys.readouterr()
    assert main(["doctor", *data[:2], *output, *FLAGS]) == 0
    assert "warn  data" not in capsys.readouterr().out


def test_doctor_takes_unlabelled_images(folder, output, capsys):
    assert main(["doctor", "--dataset", f"folder:{folder}", *output, *FLAGS]) == 0
    assert "number of objects unknown" in capsys.readouterr().out


def test_the_data_command_describes_them(folder, tmp_path, capsys):
    assert main(["data", f"folder:{folder}", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["train"]["scenes_per_count"] is None
    assert facts["mean_object_size"] is None
    assert facts["z_where_mean"] == [3.64, 0.0, 0.0]
    assert "4.0 +- 0.0 pixels" in facts["estimate"]
    assert facts["picture"] == str(tmp_path / "data" / "folder-mine.png")
    assert not as_scenes(torch.zeros(2, 8, 8)).is_counted
