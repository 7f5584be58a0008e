import pytest
import torch

from air.object_size import (
    connected_regions,
    estimate_object_size,
    find_regions,
    position_sd,
    scale_prior,
)


def squares(sides, number=20, size=64, noise=0.0, value=1.0):
    """Images with one square of each side, apart from each other."""
    generator = torch.Generator().manual_seed(0)
    images = torch.zeros(number, 1, size, size)
    images += noise * torch.rand(images.shape, generator=generator)
    for image in images[:, 0]:
        left = 2
        for side in sides:
            top = int(torch.randint(2, size - side - 2, (), generator=generator))
            image[top : top + side, left : left + side] = value
            left += side + 3
    return images


@pytest.mark.parametrize("side", [5, 10, 20])
@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_the_size_of_squares(side, noise):
    size = estimate_object_size(squares([side, side], noise=noise))
    assert size.size == side
    assert size.spread == 0
    assert size.num_components == 40


def test_different_sizes_show_in_the_spread():
    size = estimate_object_size(squares([6, 10, 14]))
    assert size.size == 10
    assert size.spread == pytest.approx(3.27, abs=0.3)


def test_brightness_and_type_do_not_matter():
    images = squares([8, 12])
    expected = estimate_object_size(images)
    assert estimate_object_size(images * 0.2) == expected
    assert estimate_object_size((images * 255).to(torch.uint8)) == expected
    assert estimate_object_size(images.expand(-1, 3, -1, -1)) == expected


def test_specks_and_what_touches_the_edge_do_not_count():
    images = squares([10])
    images[:, :, 60:62, 60:62] = 1  # a speck
    images[:, :, 20:50, 50:] = 1  # reaches the edge
    images[:, :, 60:62, 60:62] = 0
    images[:, :, 62, 2] = 1
    assert estimate_object_size(images).size == 10


def test_if_all_touch_the_edge_they_count():
    images = torch.zeros(3, 1, 20, 20)
    images[:, :, :7, :5] = 1
    assert estimate_object_size(images).size == 7


@pytest.mark.parametrize(
    "images", [torch.zeros(3, 1, 9, 9), torch.zeros(0, 1, 9, 9), torch.ones(9)]
)
def test_nothing_to_measure_is_refused(images):
    with pytest.raises(ValueError, match=r"no object was found|must have shape"):
        estimate_object_size(images)


def test_regions_are_connected_by_corners_and_apart_by_images():
    foreground = torch.zeros(2, 6, 6, dtype=torch.bool)
    foreground[0, 1, 1] = foreground[0, 2, 2] = foreground[0, 3, 1] = True
    foreground[0, 5, 5] = True
    foreground[1, 1, 1] = True
    labels = connected_regions(foreground)
    assert labels[0, 1, 1] == labels[0, 2, 2] == labels[0, 3, 1] != labels[0, 5, 5]
    assert ((labels > 0) == foreground).all()


def test_a_long_winding_region_is_one():
    foreground = torch.zeros(1, 21, 21, dtype=torch.bool)
    foreground[0, ::2] = True
    foreground[0, 1::4, -1] = foreground[0, 3::4, 0] = True  # a snake
    assert connected_regions(foreground).unique().numel() == 2


def test_regions_say_where_they_are():
    images = torch.zeros(2, 1, 12, 14)
    images[1, 0, 3:8, 4:10] = 1
    regions = find_regions(images)
    assert regions.boxes.tolist() == [[4, 3, 10, 8]]
    assert regions.image.tolist() == [1]
    assert (regions.labels[1] == regions.number[0]).sum() == 30


@pytest.mark.parametrize(
    ("canvas", "sizes", "scale", "sd"),
    [
        ((55, 55), (10,), 5.0, 0.2),
        ((110, 55), (10,), 5.0, 0.2),
        ((55, 55), (10, 2), 5.0, 1.0),
        ((55, 55), (10, 100), 5.0, 1.67),
        ((20, 20), (40,), 1.0, 0.2),  # larger than the canvas
    ],
)
def test_scale_is_canvas_over_object_and_a_little(canvas, sizes, scale, sd):
    prior = scale_prior(canvas, *sizes)
    assert prior["z_where_mean"] == (scale, 0, 0)
    assert prior["z_where_sd"] == (sd, position_sd(scale), position_sd(scale))
    # The outermost place of such an object is within two standard deviations.
    assert scale - 1 < 2 * position_sd(scale)


def test_a_size_of_nothing_is_refused():
    with pytest.raises(ValueError, match="above 0"):
        scale_prior((55, 55), 0)


def test_places_are_as_wide_as_those_of_a_uniform_distribution():
    torch.manual_seed(0)
    uniform = 2 * 3.5 * torch.rand(100_000) - 3.5
    assert position_sd(4.5) == pytest.approx(uniform.std().item(), abs=0.02)
    assert position_sd(2.0) == 1.0
