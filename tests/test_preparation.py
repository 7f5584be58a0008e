import json

import pytest
import torch

from air import AIRConfig
from air.images import Preparation

CONFIG = AIRConfig(canvas_size=(20, 30))


def scene(height=40, width=60, background=0.0, color=1.0, channels=1):
    """One bright rectangle of 8 x 12 pixels, a tenth into the image."""
    image = torch.full((channels, height, width), float(background))
    image[:, 4:12, 6:18] = color
    return image


def test_by_default_an_image_of_the_right_size_is_left_as_it_is():
    image = torch.rand(1, 20, 30)
    canvas, (frame,) = Preparation()([image], CONFIG)
    assert torch.equal(canvas[0], image)
    assert (frame.top, frame.left, frame.rows, frame.columns) == (0, 0, 20, 30)


@pytest.mark.parametrize(
    ("size", "scale", "place"),
    [
        ((40, 60), 1.0, (0, 0, 20, 30)),  # shrunk to fit
        ((40, 40), 1.0, (0, 5, 20, 20)),  # keeps its aspect, in the middle
        ((10, 10), 1.0, (5, 10, 10, 10)),  # never enlarged
        ((10, 10), 0.5, (7, 12, 5, 5)),
        ((1, 500), 1.0, (9, 0, 1, 30)),  # a pixel at least
    ],
)
def test_where_an_image_lies(size, scale, place):
    frame = Preparation(scale=scale).frame(*size, CONFIG)
    assert tuple(frame)[2:] == place
    assert tuple(frame)[:2] == size


def test_boxes_and_maps_find_back_to_the_image():
    image = scene()
    canvas, (frame,) = Preparation()([image], CONFIG)
    lit = canvas[0, 0] > 0.5
    y, x = lit.nonzero(as_tuple=True)
    box = torch.tensor([x.min(), y.min(), x.max() + 1, y.max() + 1]).float()
    assert frame.boxes_in_image(box).tolist() == [6, 4, 18, 12]
    assert torch.equal(frame.map_in_image(lit), image[0] > 0.5)


def test_boxes_are_cut_at_the_images_edge():
    frame = Preparation().frame(10, 10, CONFIG)  # at (10, 5) on the canvas
    boxes = torch.tensor([[0.0, 0.0, 12.0, 7.0], [15.0, 10.0, 99.0, 99.0]])
    assert frame.boxes_in_image(boxes).tolist() == [[0, 0, 2, 2], [5, 5, 10, 10]]


def test_json_round_trip():
    preparation = Preparation(background=(0.25, 1.0, 0.5), contrast=2.5, scale=0.25)
    text = json.dumps(preparation.to_dict())
    assert Preparation.from_dict(json.loads(text)) == preparation


@pytest.mark.parametrize(
    "fields",
    [
        {"background": [0.1, 0.2]},
        {"background": [2.0]},
        {"background": ["a"]},
        {"background": 0.5},
        {"background": [float("nan")]},
        {"contrast": 0},
        {"contrast": 1e9},
        {"contrast": True},
        {"scale": -1},
        {"scale": "1"},
        {"scale": float("inf")},
        {"rotation": 3},
        [],
    ],
)
def test_nonsense_is_refused(fields):
    with pytest.raises(ValueError, match=r"must|expected"):
        Preparation.from_dict(fields)


def test_messages_name_the_image():
    with pytest.raises(ValueError, match="image 12 must lie in"):
        Preparation()([torch.zeros(1, 4, 4), torch.full((1, 4, 4), 7.0)], CONFIG, first=11)
