"""The commands that use a trained model: predict, sample, export."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

from air import AIR
from experiments import cli, models
from experiments.cli import main
from tests.small import small_model


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a model, and three images of different sizes."""
    monkeypatch.chdir(tmp_path)
    model = small_model(inference="paper")
    with torch.no_grad():  # sees something
        model.inference.predictor.mlp[-1].bias[0] = 2.0
    model.save_pretrained("model")
    (tmp_path / "images").mkdir()
    random = np.random.default_rng(0)
    for name, size in (("a.png", (14, 12)), ("b.png", (40, 30)), ("c.png", (9, 9))):
        pixels = random.integers(0, 256, size) * (random.random(size) > 0.6)  # most are black
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "images" / name)
    return tmp_path


FLAGS = ["--load", "model", "--threads", "1", "--nocuda"]


def refused(capsys, argv, *parts):
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert "Traceback" not in err
    for part in parts:
        assert part in err, err


# predict


def test_predict_prints_the_counts(place, capsys):
    assert main(["predict", "images", *FLAGS]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    counts = AIR.from_pretrained("model").predict(place / "images").counts.tolist()
    assert [line.split("\t") for line in lines[:3]] == [
        [f"images/{name}.png", str(count)] for name, count in zip("abc", counts, strict=True)
    ]
    assert lines[3] == f"3 images, {sum(counts)} objects."
    assert "predict" in err  # the bar


def test_predict_writes_each_kind_of_file(place, capsys):
    for name in ("deep/counts.csv", "all.json", "all.coco.json"):
        assert main(["predict", "images", *FLAGS, "--output", name, "--batch-size", "2"]) == 0
        assert f"Written: {name}" in capsys.readouterr().out
    with open("deep/counts.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == ["a.png", "b.png", "c.png"]
    with open("all.json", encoding="utf-8") as file:
        images = json.load(file)["images"]
    assert [image["count"] for image in images] == [int(row["count"]) for row in rows]
    with open("all.coco.json", encoding="utf-8") as file:
        coco = json.load(file)
    assert len(coco["annotations"]) == sum(image["count"] for image in images) > 0


def test_predict_prints_json_lines(place, capsys):
    assert main(["predict", "images/b.png", *FLAGS, "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    record = json.loads(line)
    assert (record["path"], record["height"], record["width"]) == ("images/b.png", 40, 30)


def test_each_page_of_a_stack_has_a_row_and_a_picture(place, capsys):
    pages = [Image.new("L", (14, 12), value) for value in (0, 10, 0)]
    pages[0].save(place / "s.tif", save_all=True, append_images=pages[1:])
    assert main(["predict", "s.tif", *FLAGS]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[0] for line in lines[:3]] == ["s.tif[0]", "s.tif[1]", "s.tif[2]"]
    assert main(["predict", "s.tif", *FLAGS, "--draw", "seen"]) == 0
    assert sorted(path.name for path in (place / "seen").iterdir()) == [
        "s.png",
        "s_page1.png",
        "s_page2.png",
    ]


def test_predict_draws(place):
    assert main(["predict", "images", *FLAGS, "--draw", "seen"]) == 0
    assert sorted(path.name for path in (place / "seen").iterdir()) == ["a.png", "b.png", "c.png"]
    picture = np.asarray(Image.open("seen/b.png"))
    assert picture.shape[0] % 40 == 0
    assert (picture == (0, 255, 0)).all(axis=-1).any()  # the second box lies on the first


def test_images_of_one_name_get_pictures_of_their_own(place):
    (place / "more").mkdir()
    Image.new("L", (9, 9)).save(place / "more" / "a.png")
    assert main(["predict", "images/a.png", "more", *FLAGS, "--draw", "seen"]) == 0
    assert sorted(path.name for path in (place / "seen").iterdir()) == ["a.png", "a_2.png"]


@pytest.mark.parametrize("flags", [["--output", "x.csv"], ["--draw", "seen"]])
def test_predict_overwrites_nothing_unforced(place, capsys, flags, monkeypatch):
    command = ["predict", "images", *FLAGS, *flags]
    assert main(command) == 0
    capsys.readouterr()
    path = place / "x.csv" if flags[0] == "--output" else place / "seen" / "b.png"
    path.write_bytes(b"mine")
    with monkeypatch.context() as patch:  # before any work
        patch.setattr("experiments.commands.predict.load_model", None)
        refused(capsys, command, "exists", "--force")
    assert path.read_bytes() == b"mine"
    assert main([*command, "--force"]) == 0
    assert path.read_bytes() != b"mine"


def test_pictures_never_take_the_place_of_the_images(place, capsys):
    before = (place / "images" / "a.png").read_bytes()
    command = ["predict", "images", *FLAGS, "--draw", "images", "--force"]
    refused(capsys, command, "holds the images themselves")
    assert (place / "images" / "a.png").read_bytes() == before


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (["nowhere", *FLAGS], ["nowhere does not exist"]),
        (["model", *FLAGS], ["no image was found in model"]),
        (["model/config.json", *FLAGS], ["cannot be read as an image"]),
        (["images", *FLAGS, "--output", "x.txt"], [".coco.json", ".csv", "'x.txt'"]),
        (["images", *FLAGS, "--batch-size", "0"], ["batch_size must be at least 1"]),
        (["images", "--load", "mnist"], ["no model 'mnist'", "multi-mnist", "output holds no run"]),
        (["images", "--load", "images"], ["images holds no model"]),
        (["images", "--load", "latest"], ["output holds no run"]),
    ],
    ids=str,
)
def test_predict_refuses(place, capsys, argv, parts):
    refused(capsys, ["predict", *argv], *parts)


def test_a_run_is_found_by_its_name(make_args, capsys, tmp_path, monkeypatch):
    from experiments.experiment import AIRExperiment
    from experiments.trainer import Trainer
    from tests.runs import use_tiny_models

    use_tiny_models(monkeypatch)
    Trainer(AIRExperiment(make_args())).run()
    monkeypatch.chdir(tmp_path)
    Image.new("L", (16, 18)).save("a.png")
    capsys.readouterr()
    for name in ("run", "latest"):
        assert main(["predict", "a.png", "--load", name, "--nocuda"]) == 0
    assert main(["export", "--load", "run", "--output", "shared", "--measure", "--half"]) == 0
    card = (tmp_path / "shared" / "README.md").read_text(encoding="utf-8")
    assert "10 held-out scenes of that data set, in half precision" in card
    assert "`multi-mnist` with the estimator `enumerate` for 4 steps, seed 0" in card
    capsys.readouterr()
    refused(
        capsys,
        ["export", "--load", "shared", "--output", "again", "--measure"],
        "--measure needs a run",
    )


@pytest.mark.parametrize(
    ("dataset", "background"),
    [
        ("multi-mnist", ()),
        ("folder:cells", (0.0, 0.0, 0.0)),
        ("folder:cells?size=96&invert=yes", (1.0, 1.0, 1.0)),
        ("folder:cells?invert=no", (0.0, 0.0, 0.0)),
        (None, ()),
    ],
)
def test_models_of_inverted_images_invert(dataset, background):
    assert models.preparation_of(dataset, 3).background == background


# sample


def test_sample_writes_a_picture(place, capsys):
    assert main(["sample", *FLAGS, "--output", "a.png", "--number", "5"]) == 0
    assert main(["sample", *FLAGS, "--output", "b.png", "--number", "5", "--json"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "15 scenes. Written: a.png"
    assert json.loads(out[1])["num_objects"] == [1] * 5 + [2] * 5 + [3] * 5
    assert (place / "a.png").read_bytes() == (place / "b.png").read_bytes()
    with Image.open("a.png") as picture:
        width, height = picture.size
    assert (width, height) == (5 * 26 + 2, 3 * 30 + 2)
    command = ["sample", *FLAGS, "--output", "a.png", "--seed", "1", "--objects", "2"]
    refused(capsys, command, "a.png exists", "--force")
    assert main([*command, "--force"]) == 0
    assert (place / "a.png").read_bytes() != (place / "b.png").read_bytes()


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (["--output", "a.jpg"], "must end in .png"),
        (["--output", "a.png", "--number", "0"], "number must be at least 1"),
        (["--output", "a.png", "--objects", "9"], "between 0 and max_objects = 3"),
        (["--output", "a.png", "--threads", "0"], "threads must be at least 1"),
    ],
)
def test_sample_refuses(place, capsys, flags, part):
    refused(capsys, ["sample", *FLAGS, *flags], part)
    assert not (place / "a.png").exists()


# export


def test_export_writes_a_folder(place, capsys):
    assert main(["export", *FLAGS, "--output", "out/shared", "--half", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"output": "out/shared"}
    assert AIR.from_pretrained("out/shared").config == AIR.from_pretrained("model").config
    refused(capsys, ["export", *FLAGS, "--output", "out/shared"], "exists", "--force")
    assert main(["export", *FLAGS, "--output", "out/shared", "--force"]) == 0


def test_export_to_onnx_is_handed_over(place, capsys, monkeypatch):
    calls = []
    monkeypatch.setattr(
        "experiments.commands.export.export_onnx",
        lambda model, path, overwrite: calls.append((path.name, overwrite)),
    )
    assert main(["export", *FLAGS, "--output", "a.onnx"]) == 0
    assert calls == [("a.onnx", False)]
    refused(capsys, ["export", *FLAGS, "--output", "a.onnx", "--half"], "--half", "folders")
    (place / "a.onnx").write_bytes(b"mine")
    refused(capsys, ["export", *FLAGS, "--output", "a.onnx"], "exists")


# names, versions


def test_version_and_program_name(capsys, monkeypatch):
    import air

    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"air {air.__version__}\n"
    monkeypatch.setattr("sys.argv", ["/usr/bin/air"])
    assert cli.make_parser().prog == "air"
    monkeypatch.setattr("sys.argv", ["main.py"])
    assert cli.make_parser().prog == "python main.py"


def test_names_are_completed(tmp_path):
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "config.json").write_text("{}")

    class Parsed:
        output_root = str(tmp_path)

    assert models.complete_models("", Parsed) == ["latest", "first", "multi-mnist"]
    assert models.complete_models("mu", Parsed) == ["multi-mnist"]
