"""Images as users have them: layouts, types, channels."""

import numpy as np
import pytest
import torch
from PIL import Image

from air.images import as_float, as_images, to_channels

SHAPES = [
    ((5, 1, 8, 9), [(1, 8, 9)] * 5),
    ((5, 3, 8, 9), [(3, 8, 9)] * 5),
    ((5, 8, 9, 3), [(3, 8, 9)] * 5),
    ((8, 9, 3), [(3, 8, 9)]),
    ((3, 8, 9), [(3, 8, 9)]),
    ((1, 8, 9), [(1, 8, 9)]),
    ((8, 9, 1), [(1, 8, 9)]),
    ((8, 9, 4), [(4, 8, 9)]),
    ((8, 9), [(1, 8, 9)]),
    ((5, 8, 9), [(1, 8, 9)] * 5),  # cannot be one image
    ((1, 8, 3), [(3, 1, 8)]),  # more channels are the better guess
    ((3, 8, 1), [(3, 8, 1)]),
    ((2, 3, 8, 3), [(3, 8, 3)] * 2),
]


@pytest.mark.parametrize(("shape", "expected"), SHAPES)
@pytest.mark.parametrize("kind", ["tensor", "array"])
def test_layouts(shape, expected, kind):
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8)
    images = as_images(pixels if kind == "tensor" else pixels.numpy())
    assert [tuple(image.shape) for image in images] == expected
    assert sum(int(image.sum()) for image in images) == int(pixels.sum())


def test_channels_last_is_read_as_channels_first():
    pixels = torch.rand(6, 7, 3)
    (image,) = as_images(pixels)
    assert torch.equal(image, pixels.permute(2, 0, 1))


def test_lists_of_images_of_different_sizes_and_kinds():
    images = as_images([np.zeros((4, 5), np.uint8), torch.zeros(3, 9, 8), Image.new("RGB", (6, 2))])
    assert [tuple(image.shape) for image in images] == [(1, 4, 5), (3, 9, 8), (3, 2, 6)]
    assert len(as_images(iter([torch.zeros(1, 4, 4)] * 3))) == 3


def test_arrays_that_torch_would_not_take():
    array = np.arange(24, dtype=np.uint8).reshape(4, 6)
    array.flags.writeable = False
    for odd in (array, array[::-1], array[:, ::-1], array.astype(">u2"), array.T):
        (image,) = as_images(odd)
        assert np.array_equal(image[0].numpy(), odd)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(0, 1, 4, 4), "nothing to look at"),
        ([], "nothing to look at"),
        (torch.zeros(2, 2, 8, 9), "1 \\(grey\\), 3 \\(RGB\\) or 4"),
        (torch.zeros(4), "must have shape"),
        (torch.zeros(1, 1, 1, 4, 4), "must have shape"),
        (torch.zeros(4, 4, dtype=torch.complex64), "must be real numbers"),
        (np.array(["a"]), "must be numbers"),
        ([torch.zeros(1, 4, 4), "picture.png"], "image 1 must be a tensor .* got str"),
        ([torch.zeros(1, 0, 4)], "image 0 must have shape"),
        (3, "got int"),
        ({"a": 1}, "got dict"),
    ],
)
def test_what_is_no_image_is_refused(images, message):
    with pytest.raises(ValueError, match=message):
        as_images(images)


@pytest.mark.parametrize(
    ("image", "white"),
    [
        (torch.tensor([0, 255], dtype=torch.uint8), 1.0),
        (torch.tensor([0, 65535], dtype=torch.uint16), 1.0),
        (torch.tensor([False, True]), 1.0),
        (torch.tensor([0.0, 0.5], dtype=torch.float64), 0.5),
        (torch.tensor([0.0, 0.5], dtype=torch.float16), 0.5),
    ],
)
def test_types(image, white):
    read = as_float(image)
    assert read.dtype == torch.float32
    assert read.tolist() == [0.0, white]


@pytest.mark.parametrize(
    ("values", "hint"),
    [([0.0, 255.0], "divide by 255"), ([-1.0, 1.0], "Scale it"), ([0.0, float("nan")], "NaN")],
)
def test_values_out_of_range_are_refused(values, hint):
    with pytest.raises(ValueError, match=rf"image 3 must lie in \[0, 1\].*{hint}"):
        as_float(torch.tensor(values), "image 3")


def test_channels():
    rgb = torch.rand(3, 4, 5)
    assert torch.equal(to_channels(rgb, 3), rgb)
    assert torch.allclose(to_channels(rgb, 1)[0], rgb.mean(dim=0))
    assert torch.equal(to_channels(rgb[:1], 3), rgb[:1].expand(3, -1, -1))
    clear = torch.cat([rgb, torch.zeros(1, 4, 5)])
    assert torch.equal(to_channels(clear, 3), torch.zeros(3, 4, 5))  # nothing is opaque
    solid = torch.cat([rgb, torch.ones(1, 4, 5)])
    assert torch.equal(to_channels(solid, 3), rgb)
