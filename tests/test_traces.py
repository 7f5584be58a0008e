"""Step by step, where the steps look, and walks: known pixels on a small model."""

import dataclasses
import math

import pytest
import torch

from air.spatial_transformer import boxes_in_pixels
from air.traces import step_grid, step_tiles, trace_steps
from air.visualization import BOX_COLORS, as_tiles, draw_frames, look_map
from air.walks import walk_z_what, walk_z_where
from tests.small import CONFIG, INFERENCE, finding_model, small_images, small_model

H, W = CONFIG.canvas_size
GREY = 0.92


@pytest.mark.parametrize("inference", INFERENCE)
def test_the_trace_is_the_reading_and_more(inference):
    images = small_images(6)
    model = finding_model(images, inference=inference)
    trace, reading = trace_steps(model, images), model.infer(images)
    assert torch.equal(trace.counts, reading.counts)
    present = reading.present
    assert 0 < present.sum() < present.numel()
    torch.testing.assert_close(trace.boxes[present], reading.boxes[present])
    rows = torch.arange(6)
    torch.testing.assert_close(trace.canvases[rows, trace.counts], reading.canvas)
    # q(n) is made of the probabilities of one more.
    torch.testing.assert_close(1 - trace.continue_probs[:, 0], reading.count_probs[:, 0])
    torch.testing.assert_close(trace.continue_probs.prod(dim=1), reading.count_probs[:, -1])
    torch.testing.assert_close(
        trace.decoded_glimpses[present], model.generative.decoder(reading.z_what[present])
    )
    assert trace.glimpses.shape == (6, 3, *CONFIG.glimpse_shape)


def forced_trace(model, images, counts):
    """A trace whose counts and probabilities are known, its boxes inside the canvas."""
    trace = trace_steps(model, images)
    boxes = torch.tensor([[2.0, 3, 7, 9], [4.0, 5, 10, 12], [1.0, 1, 3, 3]])
    return dataclasses.replace(
        trace,
        counts=torch.tensor(counts),
        continue_probs=torch.tensor([[1.0, 0.25, 0.5]]).expand(len(counts), 3),
        boxes=boxes.expand(len(counts), 3, 4),
        canvases=torch.zeros_like(trace.canvases),
    )


def colored(tile, t):
    """Where a tile has the colour of object ``t``."""
    return (tile == torch.tensor(BOX_COLORS[t])[:, None, None]).all(dim=0)


def test_boxes_appear_one_after_another_in_their_colors():
    model, images = small_model(), torch.zeros(3, *CONFIG.image_shape)
    tiles = step_tiles(images, forced_trace(model, images, [2, 0, 3]), scale=1)
    assert tiles.shape == (3, 10, 3, H + 4, W)
    seen = [[[bool(colored(tile[:, :H], t).any()) for t in range(3)] for tile in row[:4]]
            for row in tiles]  # fmt: skip
    assert seen[0] == [[True, True, False], [True, False, False], [True, True, False], [False] * 3]
    assert seen[1] == [[False] * 3] * 4
    assert seen[2][3] == [True, True, True]
    # The outline of the first box lies just outside it.
    assert colored(tiles[0, 1], 0).nonzero()[0].tolist() == [2, 1]
    assert not colored(tiles[0, 1], 0)[3:9, 2:7].any()


def test_each_canvas_holds_the_objects_so_far():
    model, images = small_model(), small_images(1)
    canvases = torch.tensor([0.1, 0.2, 0.3, 0.4])[None, :, None, None, None]
    trace = dataclasses.replace(
        forced_trace(model, images, [3]), canvases=canvases.expand(1, 4, *CONFIG.image_shape)
    )
    tiles = step_tiles(images, trace, scale=1)
    # A corner that no box reaches.
    assert torch.equal(tiles[0, 0, 0, H - 1, 0], images[0, 0, H - 1, 0])
    assert tiles[0, 1:4, 0, H - 1, 0].tolist() == pytest.approx([0.2, 0.3, 0.4])


def test_steps_that_were_not_taken_are_grey():
    model, images = small_model(), small_images(3)
    tiles = step_tiles(images, forced_trace(model, images, [2, 0, 3]), scale=2)
    grey = (tiles[:, :, :, : 2 * H] == GREY).flatten(2).all(dim=-1)
    for row, count in zip(grey, [2, 0, 3], strict=True):
        for t in range(3):
            assert row[[1 + t, 4 + t, 7 + t]].tolist() == [t >= count] * 3
        assert not row[0]


def test_bars_are_as_long_as_the_probability_of_one_more():
    model, images = small_model(), small_images(2)
    tiles = step_tiles(images, forced_trace(model, images, [1, 3]), scale=2)
    bars = tiles[:, 1:4, :, 2 * H + 4 :]
    lengths = [[int(colored(bar, t)[-1].sum()) for t, bar in enumerate(row)] for row in bars]
    # Of the image with one object: sure of it, a quarter for the next one, and no more steps.
    assert lengths == [[2 * W, 2 * W // 4, 0], [2 * W, 2 * W // 4, W]]
    assert (bars[0, 2] == 1).all()
    assert (tiles[:, :, :, 2 * H : 2 * H + 4] == 1).all()


def test_glimpses_are_framed_in_their_objects_color_and_shown_whole():
    model, images = small_model(), small_images(1)
    trace = forced_trace(model, images, [3])
    tiles = step_tiles(images, trace, scale=2)
    for t in range(3):
        for tile, patch in (
            (tiles[0, 4 + t], trace.glimpses[0, t]),
            (tiles[0, 7 + t], trace.decoded_glimpses[0, t]),
        ):
            frame = colored(tile, t)
            assert frame[:2].all()
            assert frame[: 2 * H, :2].all()
            assert frame[: 2 * H, -2:].all()
            # The middle of the glimpse is the middle of the tile.
            expected = as_tiles(patch[None], (2 * H, 2 * W))[0]
            assert torch.equal(tile[:, H - 3 : H + 3, W - 3 : W + 3],
                               expected[:, H - 3 : H + 3, W - 3 : W + 3])  # fmt: skip


def test_the_grid_has_a_row_for_each_image():
    model, images = small_model(), small_images(3)
    grid = step_grid(images, trace_steps(model, images), scale=2)
    assert grid.shape == (3, 3 * (2 * H + 8 + 4) + 4, 10 * (2 * W + 4) + 4)


def test_a_trace_of_other_images_is_refused():
    model, images = small_model(), small_images(3)
    with pytest.raises(ValueError, match="expected 3 images"):
        step_tiles(images[:2], trace_steps(model, images))


def test_tiles_keep_proportions_in_the_middle():
    tiles = as_tiles(torch.full((2, 1, 2, 4), 0.5), (12, 12), background=0.25)
    assert tiles.shape == (2, 3, 12, 12)
    assert (tiles[:, :, 3:9] == 0.5).all()
    assert (tiles[:, :, :3] == 0.25).all()
    assert (tiles[:, :, 9:] == 0.25).all()
    shrunk = as_tiles(torch.rand(1, 3, 40, 10), (4, 4))
    assert (shrunk[..., 0] == 1).all()  # as narrow as the image
    with pytest.raises(ValueError, match="size must be at least"):
        as_tiles(torch.zeros(1, 1, 4, 4), (0, 4))


def test_frames_have_their_colors_and_change_nothing_else():
    pictures = torch.full((2, 1, 5, 6), 0.5)
    framed = draw_frames(pictures, torch.tensor(BOX_COLORS[:2]), line=1)
    assert (framed[:, :, 1:-1, 1:-1] == 0.5).all()
    for t in range(2):
        assert int(colored(framed[t], t).sum()) == 30 - 12
    assert (pictures == 0.5).all()
    with pytest.raises(ValueError, match="colors must have shape"):
        draw_frames(pictures, torch.zeros(3, 3))


# Where the steps look


def test_the_map_is_the_share_of_images_whose_box_covers_a_pixel():
    boxes = torch.tensor(
        [
            [[1.0, 1, 3, 4], [0.0, 0, 1, 1]],
            [[1.0, 1, 2, 2], [math.nan] * 4],
            [[-9.0, 2.5, 9, 3], [math.nan] * 4],
        ]
    )
    maps = look_map(boxes, torch.tensor([2, 1, 1]), (4, 5))
    expected = torch.zeros(2, 4, 5)
    expected[0, 1:4, 1:3] += 1 / 3
    expected[0, 1, 1] += 1 / 3
    expected[0, 2] += 1 / 6  # half of a row's pixels
    expected[1, 0, 0] = 1.0  # of one image
    torch.testing.assert_close(maps, expected)


def test_a_step_that_found_nothing_has_no_map():
    maps = look_map(torch.full((4, 2, 4), math.nan), torch.zeros(4), (3, 3))
    assert maps.isnan().all()


@pytest.mark.parametrize(
    ("boxes", "counts", "message"),
    [
        (torch.zeros(2, 4), torch.zeros(2), "shape"),
        (torch.zeros(2, 1, 4), torch.zeros(3), "shape"),
        (torch.full((2, 1, 4), math.nan), torch.ones(2), "not finite"),
    ],
)
def test_the_map_refuses_what_does_not_fit(boxes, counts, message):
    with pytest.raises(ValueError, match=message):
        look_map(boxes, counts, (3, 3))


# Walks


def test_a_walk_through_z_what_is_a_straight_line_between_two_objects():
    model = small_model()
    start, end = torch.randn(2, 4, generator=torch.Generator().manual_seed(0)), torch.ones(2, 4)
    walk = walk_z_what(model, start, end, num=5)
    decoder = model.generative.decoder
    assert walk.shape == (2, 5, *CONFIG.glimpse_shape)
    torch.testing.assert_close(walk[:, 0], decoder(start))
    torch.testing.assert_close(walk[:, 2], decoder((start + end) / 2))
    torch.testing.assert_close(walk[:, -1], decoder(end))
    assert not walk.requires_grad


def test_a_walk_through_z_where_moves_one_thing_at_a_time():
    model = small_model()
    z_what = torch.zeros(4)
    walk = walk_z_where(model, z_what, num=5)
    assert walk.shape == (3, 5, *CONFIG.image_shape)
    mean, sd = torch.tensor(CONFIG.z_where_mean), torch.tensor(CONFIG.z_where_sd)
    middle = model.generative.render(mean[None], z_what[None])[0]
    for axis in range(3):
        torch.testing.assert_close(walk[axis, 2], middle)
        low = mean.clone()
        low[axis] -= 2 * sd[axis]
        torch.testing.assert_close(
            walk[axis, 0], model.generative.render(low[None], z_what[None])[0]
        )


def test_a_walk_ends_where_the_objects_middle_leaves_the_canvas():
    model = small_model()
    walk = walk_z_where(model, torch.zeros(4), num=3, spread=1e3)
    edge = torch.tensor([CONFIG.z_where_mean[0], CONFIG.z_where_mean[0], 0.0])
    x_min, _, x_max, _ = boxes_in_pixels(edge, CONFIG.canvas_size)
    assert float(x_min + x_max) == pytest.approx(0, abs=1e-4)
    torch.testing.assert_close(
        walk[1, -1], model.generative.render(edge[None], torch.zeros(1, 4))[0]
    )
    assert walk.isfinite().all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: walk_z_what(m, torch.zeros(2, 3), torch.zeros(2, 3)), "D = 4"),
        (lambda m: walk_z_what(m, torch.zeros(2, 4), torch.zeros(1, 4)), "start and end"),
        (lambda m: walk_z_what(m, torch.zeros(2, 4), torch.zeros(2, 4), num=1), "at least 2"),
        (lambda m: walk_z_where(m, torch.zeros(3)), "D = 4"),
        (lambda m: walk_z_where(m, torch.zeros(4), z_where=torch.zeros(2)), "z_where"),
        (lambda m: walk_z_where(m, torch.zeros(4), num=1), "at least 2"),
    ],
)
def test_walks_refuse_what_does_not_fit(call, message):
    with pytest.raises(ValueError, match=message):
        call(small_model())
