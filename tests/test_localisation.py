import builtins
import dataclasses
import json

import pytest
import torch

from experiments.datasets import Scenes
from experiments.datasets.scenes import pack_masks
from experiments.localisation import (
    VISIBLE,
    check_boxes,
    covering,
    foreground_ari,
    format_localisation,
    localise,
    paired_ious,
    score_boxes,
    segments,
    tight_boxes,
)
from experiments.pictures import draw_localisation
from tests.small import CONFIG, small_images, small_model

NAN = float("nan")


def scenes_of(boxes):
    """Scenes with these true boxes, at most two each."""
    tensor = torch.full((len(boxes), 2, 4), NAN)
    for i, some in enumerate(boxes):
        for j, box in enumerate(some):
            tensor[i, j] = torch.tensor(box)
    num_objects = torch.tensor([len(some) for some in boxes])
    return Scenes(
        images=(small_images(len(boxes)) * 255).to(torch.uint8),
        num_objects=num_objects,
        classes=torch.where(torch.arange(2) < num_objects[:, None], 0, -1),
        boxes=tensor,
        name="squares",
    )


def found(boxes, scores=None):
    """Boxes, scores and presence as tensors, of at most three boxes each."""
    tensor, present = torch.zeros(len(boxes), 3, 4), torch.zeros(len(boxes), 3, dtype=torch.bool)
    for i, some in enumerate(boxes):
        for j, box in enumerate(some):
            tensor[i, j], present[i, j] = torch.tensor(box), True
    sure = torch.full(present.shape, 0.9) if scores is None else torch.tensor(scores)
    return tensor, sure, present


SQUARE, HALF, FAR = (0.0, 0.0, 4.0, 4.0), (0.0, 0.0, 4.0, 2.0), (6.0, 6.0, 10.0, 10.0)


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ([SQUARE], [SQUARE], [1.0]),
        ([FAR, SQUARE], [SQUARE, FAR], [1.0, 1.0]),  # in whatever order
        ([HALF], [SQUARE], [0.5]),
        ([], [SQUARE], [0.0]),
        ([SQUARE], [], []),
        ([SQUARE], [HALF, SQUARE], [0.0, 1.0]),  # one box cannot serve two
        ([SQUARE, HALF, FAR], [HALF], [1.0]),
    ],
)
def test_ious_of_the_best_pairing(ours, theirs, expected):
    boxes = [torch.tensor(some).reshape(-1, 4) for some in (ours, theirs)]
    assert paired_ious(*boxes) == pytest.approx(expected)


def test_an_empty_box_is_nowhere():
    assert paired_ious(torch.zeros(1, 4), torch.zeros(1, 4)) == [0.0]


def test_perfect_boxes():
    true = [[SQUARE, FAR], [], [HALF]]
    scores = score_boxes(*found(true), scenes_of(true))
    assert (scores.iou, scores.ap, scores.ap50, scores.ap75) == pytest.approx((1, 1, 1, 1))


def test_average_precision_counts_what_is_missed_and_what_is_made_up():
    """One of two found, at IoU 0.5: a recall of a half at the lowest threshold, none above."""
    missed = score_boxes(*found([[HALF]]), scenes_of([[SQUARE, FAR]]))
    assert missed.iou == pytest.approx(0.25)
    assert missed.ap50 == pytest.approx(0.5, abs=0.01)
    assert missed.ap75 == 0
    # In a scene without objects a sure box is a false positive, ranked above the true one ...
    made_up = found([[SQUARE], [SQUARE]], [[0.5, 0, 0], [0.9, 0, 0]])
    assert score_boxes(*made_up, scenes_of([[SQUARE], []])).ap50 == pytest.approx(0.5)
    # ... and one less sure than all true ones costs nothing.
    made_up = found([[SQUARE], [SQUARE]], [[0.9, 0, 0], [0.5, 0, 0]])
    assert score_boxes(*made_up, scenes_of([[SQUARE], []])).ap50 == pytest.approx(1.0)


def test_nothing_to_be_found():
    scores = score_boxes(*found([[SQUARE], []]), scenes_of([[], []]))
    assert (scores.iou, scores.ap, scores.ap50, scores.ap75) == (None,) * 4


def halves(number=1):
    """Two true masks, the left and the right half of a picture of 4x4."""
    masks = torch.zeros(number, 2, 4, 4, dtype=torch.bool)
    masks[:, 0, :, :2] = masks[:, 1, :, 2:] = True
    return masks


def test_ari_of_known_segments():
    right = halves()[0, 1]
    perfect = right.long() + 1
    assert foreground_ari(halves(), perfect[None]) == [1.0]
    assert foreground_ari(halves(), (3 - perfect)[None]) == [1.0]  # names do not matter
    assert foreground_ari(halves(), torch.ones(1, 4, 4).long()) == [0.0]  # both as one
    rows = torch.arange(4)[:, None].expand(4, 4) // 2
    assert foreground_ari(halves(), rows[None])[0] < 0.01  # independent of the truth


def test_ari_looks_at_pixels_of_one_object_only():
    masks = halves()
    masks[:, :, 0] = True  # the first row is of both
    labels = halves()[0, 1].long() + 1
    labels[0] = torch.tensor([1, 2, 3, 0])
    assert foreground_ari(masks, labels[None]) == [1.0]
    assert foreground_ari(torch.zeros(2, 2, 4, 4).bool(), torch.ones(2, 4, 4).long()) == []


def test_covering_of_known_masks():
    true = halves()
    assert covering(true, true.flip(1)) == [1.0]
    assert covering(true, torch.zeros_like(true)) == [0.0]
    assert covering(true, true.any(dim=1, keepdim=True)) == [0.5]
    assert covering(torch.zeros_like(true), true) == []
    # By area: a mask of 12 pixels found whole, one of 4 not at all.
    true[0, 0, :, 2] = True
    true[0, 1, :, 2] = False
    assert covering(true, true[:, :1]) == pytest.approx([0.75])


def test_segments_take_the_brightest_and_leave_the_dark():
    objects = torch.tensor([[0.5, 0.2, VISIBLE / 2], [0.4, 0.3, 0.0]])[None, :, None]
    assert segments(objects).tolist() == [[[1, 2, 0]]]


def test_tight_boxes():
    objects = torch.zeros(2, 5, 7)
    objects[0, 1:3, 4:7] = 0.5
    objects[0, 0, 0] = VISIBLE / 2
    assert tight_boxes(objects).tolist() == [[4, 1, 7, 3], [0, 0, 0, 0]]


def test_a_model_that_draws_the_truth():
    """Scenes whose truth is what the model says of them."""
    model, images = small_model(inference="paper"), small_images(12)
    with torch.no_grad():
        model.inference.predictor.mlp[-1].bias[0] += 2.0
    model.generative.decoder.bias = 2.0
    reading = model.infer(images)
    assert reading.counts.max() > 1
    most = int(reading.counts.max())
    drawn = reading.objects.amax(dim=2)
    exists = reading.present[:, :most]
    scenes = Scenes(
        images=(images * 255).round().to(torch.uint8),
        num_objects=reading.counts,
        classes=torch.where(exists, 0, -1),
        boxes=torch.where(exists[..., None], tight_boxes(drawn)[:, :most], NAN),
        masks=torch.from_numpy(pack_masks((drawn[:, :most] >= VISIBLE).numpy())),
        name="its own",
    )
    parts = iter(images.split(5))
    model.as_input = lambda _: next(parts)  # not their roundings
    done = []
    result = localise(model, scenes, batch_size=5, on_batch=done.append)
    assert done == [5, 5, 2]
    assert result.tight.iou == pytest.approx(1)
    assert result.tight.ap == pytest.approx(1)
    assert result.masks.covering == pytest.approx(1)
    assert result.masks.ari is not None
    assert result.window.iou < 1
    assert (result.num_scenes, result.found_without_objects) == (12, None)


def test_scenes_without_objects_are_counted(tmp_path):
    scenes = scenes_of([[], [SQUARE], []])
    result = localise(small_model(inference="paper"), scenes, batch_size=2)
    assert result.num_without_objects == 2
    assert 0 <= result.found_without_objects <= 1
    assert result.masks is None
    assert json.loads(json.dumps(result.to_dict(), allow_nan=False))["tight"]["iou"] is not None
    assert "2 of 3 scenes hold no object" in format_localisation(result)
    picture = draw_localisation(small_model(inference="paper"), scenes)
    (tmp_path / "picture.png").write_bytes(picture)
    assert (tmp_path / "picture.png").stat().st_size > 200
    assert CONFIG.canvas_size == tuple(scenes.images.shape[2:])


def test_unknown_boxes_are_refused():
    known = scenes_of([[SQUARE], []])
    check_boxes(known)
    no_boxes = dataclasses.replace(known, boxes=torch.full_like(known.boxes, NAN))
    no_counts = dataclasses.replace(
        no_boxes, num_objects=torch.tensor([-1, 0]), classes=torch.full_like(known.classes, -1)
    )
    for scenes in (no_boxes, no_counts):
        with pytest.raises(ValueError, match="needs the true boxes of squares"):
            localise(small_model(inference="paper"), scenes)


@pytest.mark.parametrize("package", ["torchmetrics.detection", "scipy.optimize"])
def test_a_missing_package_is_named(package, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == package:
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match=r"pip install '.\[benchmarks\]'"):
        score_boxes(*found([[SQUARE]]), scenes_of([[SQUARE]]))
