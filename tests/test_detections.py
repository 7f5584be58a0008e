"""Predictions: boxes in the image's pixels, masks, and the formats of other tools."""

import csv
import dataclasses
import io
import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from air import AIRConfig
from air.detections import Detections, Predictions, run_lengths
from air.images import Preparation
from air.prediction import predict, views_of
from air.spatial_transformer import boxes_in_pixels
from air.types import Inference
from tests.small import small_model

CANVAS = (20, 30)
COUNT_PROBS = torch.tensor([0.1, 0.2, 0.3, 0.4])


def pose_of_boxes(boxes, margin):
    """Poses on the canvas whose boxes are so much larger than these."""
    height, width = CANVAS
    x_min, y_min, x_max, y_max = boxes.unbind(dim=-1)
    share = torch.maximum((x_max - x_min) / width, (y_max - y_min) / height)
    s = 1 / (share * margin)
    shift = [s * (1 - (x_min + x_max) / width), s * (1 - (y_min + y_max) / height)]
    return torch.stack([s, *shift], dim=-1)


class Oracle:
    """Sees the rectangles that it is told, on a canvas of 20 x 30, in every image."""

    config = AIRConfig(canvas_size=CANVAS, z_what_size=2)
    device = torch.device("cpu")

    def __init__(self, boxes, preparation=None, brightness=(1.0, 0.6, 0.4)):
        self.boxes = torch.tensor(boxes).float().view(-1, 4)
        self.preparation = preparation or Preparation()
        self.brightness = brightness
        self.batches = []

    def infer(self, images, *, max_objects=None, shifts=None, batch_size=500):
        self.batches.append(len(images))
        self.shifts, self.max_objects = shifts, max_objects
        batch, count = len(images), len(self.boxes)
        z_where = torch.full((batch, 3, 3), float("nan"))
        # Their boxes are larger than what is lit.
        z_where[:, :count] = pose_of_boxes(self.boxes, 1.5)
        objects = torch.zeros(batch, 3, 1, *CANVAS)
        for i, (x_min, y_min, x_max, y_max) in enumerate(self.boxes.int().tolist()):
            objects[:, i, :, y_min:y_max, x_min:x_max] = self.brightness[i]
        return Inference(
            counts=torch.full((batch,), count),
            count_probs=COUNT_PROBS.expand(batch, -1),
            boxes=z_where.new_zeros(batch, 3, 4),
            z_where=z_where,
            z_what=torch.arange(6.0).view(3, 2).expand(batch, -1, -1),
            canvas=objects.sum(dim=1),
            objects=objects,
            shifts=torch.zeros(batch, 2, dtype=torch.int64),
        )


@pytest.fixture
def two():
    """What is seen in two images: one of the canvas' size, one twice as large and square."""
    model = Oracle([[2, 3, 8, 9], [6, 5, 16, 15]])
    return predict(model, [torch.zeros(1, 20, 30), torch.zeros(40, 40, 3, dtype=torch.uint8)])


def test_boxes_are_in_the_images_own_pixels(two):
    assert two[0].boxes.tolist() == [[2, 3, 8, 9], [6, 5, 16, 15]]
    # On the canvas the second lies in columns 5 to 25, at half its size: cut at its left edge.
    assert two[1].boxes.tolist() == [[0, 6, 6, 18], [2, 10, 22, 30]]


def test_images_are_read_from_several_views_where_asked():
    model, image = Oracle([]), torch.zeros(1, 20, 30)
    predict(model, image)
    assert model.shifts is None
    predict(model, image, max_shift=4)
    assert (len(model.shifts), int(model.shifts.max())) == (25, 4)
    assert views_of(model.config).abs().max() == 20 // 8
    with pytest.raises(ValueError, match="max_shift must be at least 0 pixels, got -1"):
        predict(model, image, max_shift=-1)


def test_loose_boxes_are_those_of_the_poses():
    model = Oracle([[5, 5, 15, 15]])
    (seen,) = predict(model, torch.zeros(1, 20, 30), tight_boxes=False)
    # 1.5 times the height; the canvas is wider than high, and so is a pose's box.
    assert seen.boxes.tolist()[0] == pytest.approx([0, 2.5, 21.25, 17.5], abs=1e-4)


def test_scores_are_the_probability_of_at_least_so_many(two):
    assert two[0].scores.tolist() == pytest.approx([0.9, 0.7])
    assert two[0].count == len(two[0]) == 2
    assert two[0].count_probs.tolist() == pytest.approx(COUNT_PROBS.tolist())
    assert two.counts.tolist() == [2, 2]
    assert two[0].z_what.tolist() == [[0, 1], [2, 3]]


def test_masks_are_at_the_images_size_and_the_brighter_object_wins(two):
    mask = two[0].mask
    assert mask.shape == (2, 20, 30)
    assert mask.dtype == torch.bool
    assert mask[0].sum() == 36
    assert mask[1].sum() == 100 - 2 * 4  # what the first object covers
    assert not mask.all(dim=0).any()
    large = two[1].mask
    assert large.shape == (2, 40, 40)
    y, x = large[0].nonzero(as_tuple=True)
    assert [x.min(), y.min(), x.max() + 1, y.max() + 1] == [0, 6, 6, 18]


def test_an_object_that_lights_nothing_keeps_its_poses_box():
    (seen,) = predict(Oracle([[5, 5, 15, 15]], brightness=(0.01,)), torch.zeros(1, 20, 30))
    assert seen.boxes.tolist()[0] == pytest.approx([0, 2.5, 21.25, 17.5], abs=1e-4)
    assert not seen.mask.any()


def test_nothing_seen():
    predictions = predict(Oracle([]), torch.zeros(3, 1, 20, 30))
    for seen in predictions:
        assert (seen.count, len(seen)) == (0, 0)
        assert {name: tuple(value.shape) for name, value in seen.to_dict().items()} == {
            "boxes": (0, 4),
            "scores": (0,),
            "labels": (0,),
            "masks": (0, 20, 30),
        }
    assert predictions.draw().size[0] > 60


def test_memory_is_bounded_by_batches():
    model, done = Oracle([[2, 3, 8, 9]]), []
    predictions = predict(model, torch.zeros(25, 1, 20, 30), batch_size=10, on_batch=done.append)
    assert model.batches == done == [10, 10, 5]
    assert len(predictions) == 25
    # Nothing keeps a whole batch alive, or copies the images.
    images = torch.zeros(2, 1, 20, 30)
    seen = predict(model, images)[1]
    assert seen.boxes.untyped_storage().nbytes() <= 64
    assert seen.lit_by.untyped_storage().nbytes() == 20 * 30 * 2
    assert seen.source.data_ptr() == images[1].data_ptr()


def test_a_sequence(two):
    assert len(two) == 2
    assert two[-1] is two[1]
    assert [seen.count for seen in two] == [2, 2]
    assert len(two[:1]) == 1
    assert repr(two) == "Predictions(2 images, 4 objects)"
    assert "2 objects" in repr(two[0])
    with pytest.raises(IndexError):
        two[2]


def test_the_dict_form_is_what_torchmetrics_takes(two):
    form = two.to_dicts()[0]
    assert list(form) == ["boxes", "scores", "labels", "masks"]
    assert (form["boxes"].dtype, form["scores"].dtype) == (torch.float32, torch.float32)
    assert (form["labels"].dtype, form["masks"].dtype) == (torch.int64, torch.bool)
    assert {len(value) for value in form.values()} == {2}


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_torchmetrics(two, kind):
    detection = pytest.importorskip("torchmetrics.detection")
    metric = detection.MeanAveragePrecision(iou_type=kind)
    metric.update(two.to_dicts(), two.to_dicts())
    assert metric.compute()["map"] == pytest.approx(1.0)


def test_supervision(two):
    supervision = pytest.importorskip("supervision")
    seen = supervision.Detections.from_transformers(two[0].to_dict(masks=False))
    assert len(seen) == len(two[0])
    assert np.array_equal(seen.xyxy, two[0].boxes.numpy())
    assert np.array_equal(seen.confidence, two[0].scores.numpy())


def test_two_folders_with_equal_file_names(two, tmp_path):
    paths = [tmp_path / "left" / "a.png", tmp_path / "right" / "deep" / "a.png"]
    seen = Predictions(
        dataclasses.replace(each, source=path) for each, path in zip(two, paths, strict=True)
    )
    names = ["left/a.png", "right/deep/a.png"]
    assert seen.files == names
    rows = list(csv.DictReader(seen.to_csv(tmp_path / "a.csv").read_text().splitlines()))
    assert [row["file"] for row in rows] == names
    coco = json.loads(seen.to_coco(tmp_path / "a.coco.json").read_text())
    assert [image["file_name"] for image in coco["images"]] == names
    records = json.loads(seen.to_json(tmp_path / "a.json").read_text())
    assert [image["file"] for image in records["images"]] == names
    assert seen[:1].files == ["a.png"]
    assert two.files == [None, None]


@pytest.mark.parametrize("name", ["=1+1.png", "+a.png", "-a.png", "@a.png", "\t=a.png"])
def test_no_cell_is_a_formula(two, name, tmp_path):
    seen = Predictions([dataclasses.replace(two[0], source=tmp_path / name)])
    rows = list(csv.DictReader(io.StringIO(seen.to_csv(tmp_path / "a.csv").read_text())))
    assert rows[0]["file"] == f"./{name}"


def test_csv(two, tmp_path):
    two.to_csv(tmp_path / "counts.csv")
    with open(tmp_path / "counts.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows[1] == {
        "file": "1",
        "count": "2",
        "p0": "0.1",
        "p1": "0.2",
        "p2": "0.3",
        "p3": "0.4",
    }


def test_json(two, tmp_path):
    two.to_json(tmp_path / "a.json")
    images = json.loads((tmp_path / "a.json").read_text())["images"]
    assert [(image["height"], image["width"]) for image in images] == [(20, 30), (40, 40)]
    assert images[0]["count"] == 2
    assert images[0]["count_probs"] == pytest.approx(COUNT_PROBS.tolist())
    assert images[0]["objects"][1] == {
        "box": [6, 5, 16, 15],
        "score": 0.7,
        "z_what": [2, 3],
    }


def test_coco(two, tmp_path):
    two.to_coco(tmp_path / "a.json")
    content = json.loads((tmp_path / "a.json").read_text())
    assert [image["id"] for image in content["images"]] == [1, 2]
    assert [entry["id"] for entry in content["annotations"]] == [1, 2, 3, 4]
    assert content["categories"][0]["id"] == 1
    entry = content["annotations"][3]
    assert entry["image_id"] == 2
    assert entry["bbox"] == [2, 10, 20, 20]
    mask = two[1].mask[1]
    assert entry["area"] == mask.sum()
    assert entry["segmentation"]["size"] == [40, 40]
    runs = entry["segmentation"]["counts"]
    values = [np.full(length, i % 2) for i, length in enumerate(runs)]
    assert np.array_equal(np.concatenate(values).reshape(40, 40).T, mask.numpy())


@pytest.mark.parametrize(
    ("mask", "runs"),
    [
        ([[0, 0], [0, 0]], [4]),
        ([[1, 1], [1, 1]], [0, 4]),
        ([[1, 0], [0, 0]], [0, 1, 3]),
        ([[0, 1], [0, 0]], [2, 1, 1]),
        ([[0, 0], [0, 1]], [3, 1]),
    ],
)
def test_run_lengths_go_by_column_and_begin_with_zeros(mask, runs):
    assert run_lengths(torch.tensor(mask).bool()) == runs


@pytest.mark.parametrize("write", ["to_csv", "to_json", "to_coco"])
def test_files_are_not_overwritten_unasked(two, write, tmp_path):
    path = tmp_path / "a"
    path.write_text("mine")
    with pytest.raises(FileExistsError):
        getattr(two, write)(path)
    assert path.read_text() == "mine"
    getattr(two, write)(path, overwrite=True)
    assert path.read_text() != "mine"


def test_without_pandas_it_is_said_what_to_install(two, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        two.to_pandas()
    with pytest.raises(ValueError, match="by must be"):
        two.to_pandas(by="column")


@pytest.mark.parametrize("by", ["object", "image"])
def test_tables(two, by, monkeypatch):
    class Pandas:  # what is handed to the real one
        DataFrame = staticmethod(lambda rows, columns: (rows, columns))

    monkeypatch.setitem(sys.modules, "pandas", Pandas)
    rows, columns = two.to_pandas(by=by)
    assert {len(row) for row in rows} == {len(columns)}
    assert len(rows) == (4 if by == "object" else 2)
    if by == "object":
        row = dict(zip(columns, rows[3], strict=True))
        assert (row["image"], row["object"], row["x_max"], row["z_what_1"]) == (1, 1, 22, 3)


def test_the_real_pandas(two):
    pytest.importorskip("pandas")
    table = two.to_pandas()
    assert table.shape == (4, 10)
    assert two.to_pandas(by="image")["count"].sum() == 4


def test_files_are_read_and_named(tmp_path):
    for name in "ab":
        Image.new("RGB", (60, 40)).save(tmp_path / f"{name}.png")
    predictions = predict(Oracle([[3, 3, 9, 9]]), tmp_path)
    assert [seen.file for seen in predictions] == ["a.png", "b.png"]
    assert predictions[0].boxes.tolist() == [[6, 6, 18, 18]]
    assert predictions[0].image.shape == (3, 40, 60)
    assert predict(Oracle([]), [tmp_path / "b.png"])[0].file == "b.png"


def test_drawing(two):
    picture = np.asarray(two[0].draw(scale=3))
    assert picture.shape == (60, 90, 3)
    assert (picture == (255, 0, 0)).all(axis=-1).any()  # the first box
    assert (picture == (0, 255, 0)).all(axis=-1).any()
    assert two.draw(columns=1).size[1] > two.draw(columns=2).size[1]
    assert two.draw(most=1).size[0] < two.draw().size[0]


def test_the_models_own_method():
    model = small_model()
    images = torch.rand(5, 1, 28, 24).pow(8)  # most of it is black
    predictions = model.predict(images, batch_size=2)
    prepared, _ = model.preparation(list(images), model.config)
    reading = model.infer(prepared)
    assert torch.equal(predictions.counts, reading.counts)
    for seen, probs in zip(predictions, reading.count_probs, strict=True):
        assert isinstance(seen, Detections)
        assert torch.allclose(seen.count_probs, probs)
        assert ((seen.boxes >= 0) & (seen.boxes <= torch.tensor([24, 28, 24, 28]))).all()
    assert model.predict(images, max_objects=5)[0].count_probs.shape == (6,)
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        model.predict(images, batch_size=0)
    with pytest.raises(ValueError, match="max_objects must be at least 1"):
        model.predict(images, max_objects=0)


def test_the_oracle_is_right():
    boxes = torch.tensor([[4.0, 5.0, 19.0, 15.0]])
    assert torch.allclose(boxes_in_pixels(pose_of_boxes(boxes, 1.0), CANVAS), boxes, atol=1e-4)
