"""Pictures: exact pixels of boxes, grids and pairs."""

import math

import pytest
import torch

from air.visualization import (
    BOX_COLORS,
    draw_boxes,
    image_grid,
    reconstruction_grid,
    to_uint8,
)

RED, GREEN, BLUE = (torch.tensor(BOX_COLORS[i]) for i in range(3))


def one_box(box, *, size=(8, 8), scale=1):
    """The mask of coloured pixels of one box on a black image: ``(scale * H, scale * W)``."""
    drawn = draw_boxes(
        torch.zeros(1, 1, *size), torch.tensor([[box]]).float(), torch.tensor([1]), scale=scale
    )
    return drawn[0].sum(dim=0) > 0


def ring(outer, inner, size=(8, 8)):
    """True between two rectangles ``(x_min, y_min, x_max, y_max)``."""
    mask = torch.zeros(size, dtype=torch.bool)
    mask[outer[1] : outer[3], outer[0] : outer[2]] = True
    mask[inner[1] : inner[3], inner[0] : inner[2]] = False
    return mask


def test_first_colors_are_red_green_blue():
    assert BOX_COLORS[:3] == ((1, 0, 0), (0, 1, 0), (0, 0, 1))
    assert len(set(BOX_COLORS)) == len(BOX_COLORS)


def test_outline_lies_just_outside_the_object():
    assert torch.equal(one_box([2, 3, 5, 6]), ring((1, 2, 6, 7), (2, 3, 5, 6)))


def test_outline_is_two_pixels_wide_when_enlarged():
    expected = ring((4, 7, 17, 20), (6, 9, 15, 18), size=(24, 24))
    assert torch.equal(one_box([2, 3, 5, 6], scale=3), expected)


def test_fractional_box_keeps_clear_of_the_pixels_it_touches():
    assert torch.equal(one_box([2.4, 2.4, 4.6, 4.6]), ring((1, 1, 6, 6), (2, 2, 5, 5)))


def test_outline_at_the_edge_moves_inwards():
    assert torch.equal(one_box([0, 0, 8, 8]), ring((0, 0, 8, 8), (1, 1, 7, 7)))
    assert torch.equal(one_box([-3, -9, 12, 40]), ring((0, 0, 8, 8), (1, 1, 7, 7)))


@pytest.mark.parametrize("box", [[20, 2, 25, 5], [2, -9, 5, -3], [-1e9, -1e9, -1e8, 5]])
def test_box_outside_the_image_is_not_drawn(box):
    assert not one_box(box).any()


def test_huge_box_is_clipped():
    assert torch.equal(one_box([-1e9, -1e9, 1e9, 1e9]), ring((0, 0, 8, 8), (1, 1, 7, 7)))


def test_box_ending_just_before_the_image_colors_only_its_own_outline():
    drawn = one_box([2, -4, 5, -1 / 3], scale=3)
    # Its outline is at y from -1 on, two pixels wide: one row of it is inside.
    assert drawn.any(dim=1).tolist() == [True] + [False] * 23


def test_colors_go_by_position_and_only_existing_objects_are_drawn():
    boxes = torch.full((2, 10, 4), math.nan)
    boxes[0] = torch.tensor([3.0, 3.0, 4.0, 4.0]) + torch.arange(10)[:, None] * 4
    drawn = draw_boxes(torch.zeros(2, 1, 44, 44), boxes, torch.tensor([10, 0]), scale=1)
    for i in range(10):
        corner = 2 + 4 * i
        assert torch.equal(drawn[0, :, corner, corner], torch.tensor(BOX_COLORS[i % 8]))
    assert (drawn[1] == 0).all()


def test_images_are_enlarged_by_nearest_neighbour():
    images = torch.rand(2, 3, 4, 5)
    drawn = draw_boxes(images, torch.zeros(2, 0, 4), torch.zeros(2), scale=4)
    assert drawn.shape == (2, 3, 16, 20)
    assert torch.equal(drawn[:, :, 2::4, 3::4], images)
    assert torch.equal(drawn[:, :, ::4, ::4], images)


def test_uint8_and_float_and_grey_and_rgb_agree():
    grey = torch.randint(0, 256, (2, 1, 6, 6), dtype=torch.uint8)
    boxes, counts = torch.tensor([[[1.0, 1, 4, 4]]] * 2), torch.tensor([1, 0])
    drawn = draw_boxes(grey, boxes, counts)
    assert torch.equal(drawn, draw_boxes(grey.float() / 255, boxes, counts))
    assert torch.equal(drawn, draw_boxes(grey.expand(-1, 3, -1, -1), boxes, counts))


def test_input_is_not_changed():
    images = torch.zeros(1, 3, 6, 6)
    draw_boxes(images, torch.tensor([[[1.0, 1, 4, 4]]]), torch.tensor([1]), scale=1)
    assert (images == 0).all()


def test_values_outside_the_range_are_clipped():
    images = torch.tensor([-1.0, 2.0, math.nan]).view(1, 1, 1, 3)
    assert draw_boxes(images, torch.zeros(1, 0, 4), torch.zeros(1), scale=1)[0, 0].tolist() == [
        [0, 1, 0]
    ]


@pytest.mark.parametrize(
    ("images", "boxes", "counts", "message"),
    [
        (torch.zeros(2, 8, 8), torch.zeros(2, 1, 4), torch.zeros(2), r"images\[:, None\]"),
        (torch.zeros(2, 2, 8, 8), torch.zeros(2, 1, 4), torch.zeros(2), "C of 1 or 3"),
        (torch.zeros(2, 1, 8, 8).long(), torch.zeros(2, 1, 4), torch.zeros(2), "uint8"),
        (torch.zeros(2, 1, 8, 8), torch.zeros(3, 1, 4), torch.zeros(2), "boxes must have shape"),
        (torch.zeros(2, 1, 8, 8), torch.zeros(2, 4), torch.zeros(2), "boxes must have shape"),
        (torch.zeros(2, 1, 8, 8), torch.zeros(2, 1, 4), torch.zeros(3), "num_objects must have"),
        (torch.zeros(2, 1, 8, 8), torch.zeros(2, 1, 4), torch.tensor([0, 2]), "0 to 2"),
        (torch.zeros(2, 1, 8, 8), torch.full((2, 1, 4), math.nan), torch.ones(2), "not finite"),
    ],
)
def test_draw_boxes_refuses_what_does_not_fit(images, boxes, counts, message):
    with pytest.raises(ValueError, match=message):
        draw_boxes(images, boxes, counts)


def test_draw_boxes_refuses_a_scale_of_zero():
    with pytest.raises(ValueError, match="scale"):
        draw_boxes(torch.zeros(1, 1, 8, 8), torch.zeros(1, 0, 4), torch.zeros(1), scale=0)


def test_grid_places_images_row_by_row():
    images = torch.arange(1, 6).view(5, 1, 1, 1).expand(5, 1, 2, 3) / 10
    grid = image_grid(images, columns=3, padding=1, background=0.0)
    expected = [
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        [0, 1, 1, 1, 0, 2, 2, 2, 0, 3, 3, 3, 0],
        [0, 1, 1, 1, 0, 2, 2, 2, 0, 3, 3, 3, 0],
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        [0, 4, 4, 4, 0, 5, 5, 5, 0, 0, 0, 0, 0],
        [0, 4, 4, 4, 0, 5, 5, 5, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ]
    for channel in grid:
        assert torch.equal(channel, torch.tensor(expected) / 10)


@pytest.mark.parametrize("number", [1, 2, 3, 4, 7])
def test_grid_takes_any_number_of_images(number):
    grid = image_grid(torch.rand(number, 3, 4, 4), columns=3)
    columns, rows = min(number, 3), math.ceil(number / 3)
    assert grid.shape == (3, 2 + 6 * rows, 2 + 6 * columns)
    assert (grid[:, 0] == 1).all()


@pytest.mark.parametrize(
    ("images", "columns", "message"),
    [
        (torch.zeros(0, 1, 4, 4), 2, "at least one image"),
        (torch.zeros(2, 1, 4, 4), 0, "columns must be at least 1"),
        (torch.zeros(3, 4, 4), 2, "shape"),
    ],
)
def test_grid_refuses_what_does_not_fit(images, columns, message):
    with pytest.raises(ValueError, match=message):
        image_grid(images, columns=columns)


def test_reconstructions_lie_below_their_images():
    images, canvas = torch.full((3, 1, 4, 4), 0.25), torch.full((3, 1, 4, 4), 0.75)
    boxes = torch.tensor([[[1.0, 1, 3, 3]]]).expand(3, 1, 4)
    grid = reconstruction_grid(images, canvas, boxes, torch.tensor([1, 0, 0]), columns=2, scale=1)
    # A pair is 4 + 1 + 4 high; two rows of them and two columns, 2 pixels around each.
    assert grid.shape == (3, 2 * 9 + 6, 2 * 4 + 6)
    assert (grid[:, 2:6, 8:12] == 0.25).all()
    assert (grid[:, 6, 8:12] == 0.5).all()
    assert (grid[:, 7:11, 8:12] == 0.75).all()
    for top in (2, 7):
        assert torch.equal(grid[:, top, 2], RED)
        assert torch.equal(grid[:, top + 3, 5], RED)
    assert (grid[:, 13:17, 2:6] == 0.25).all()
    assert (grid[:, 13:, 8:12] == 1).all()


def test_reconstruction_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="same shape"):
        reconstruction_grid(
            torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 4, 5), torch.zeros(2, 0, 4), torch.zeros(2)
        )


def test_to_uint8_rounds_and_moves_the_channels():
    image = torch.tensor([0.0, 0.5, 1.0, -1.0, 2.0, 1 / 255]).view(1, 2, 3)
    pixels = to_uint8(image)
    assert pixels.dtype == torch.uint8
    assert pixels.is_contiguous()
    assert pixels.shape == (2, 3, 3)
    for channel in pixels.unbind(dim=2):
        assert channel.tolist() == [[0, 128, 255], [0, 255, 1]]
    color = to_uint8(torch.stack([torch.full((2, 2), v) for v in (1.0, 0.0, 0.2)]))
    assert color[1, 0].tolist() == [255, 0, 51]


@pytest.mark.parametrize(
    "image", [torch.zeros(4, 4), torch.zeros(2, 4, 4), torch.zeros(1, 4, 4).byte()]
)
def test_to_uint8_refuses_what_does_not_fit(image):
    with pytest.raises(ValueError, match="image must be float"):
        to_uint8(image)
