"""Figures: tiles to the pixel, words and numbers that are there, colours of both themes."""

import io

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from PIL import Image

from air.visualization import BOX_COLORS, to_uint8
from experiments.figures import charts, scenes
from experiments.figures.style import DARK, LIGHT, tile_figure, to_png, to_svg
from tests.small import CONFIG, finding_model, small_images


def pixels(figure):
    with Image.open(io.BytesIO(to_png(figure))) as image:
        return np.array(image.convert("RGB"))


def words(figure):
    """All texts of a figure."""
    return [
        text.get_text()
        for panel in figure.axes
        for text in [*panel.texts, panel.title, panel._left_title, panel._right_title]
        if text.get_text()
    ]


def count(shown, color):
    return int((shown == np.round(np.array(to_rgb(color)) * 255)).all(axis=-1).sum())


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_a_pixel_of_a_tile_is_a_pixel_of_the_figure(theme):
    tiles = torch.rand(2, 3, 3, 20, 30, generator=torch.Generator().manual_seed(0))
    shown = pixels(tile_figure(tiles, theme, gap=5, groups=[2]))
    assert shown.shape == (5 + 2 * 25, 5 + 3 * 35 + 10, 3)
    for row in range(2):
        for column, left in enumerate((5, 40, 85)):
            top = 5 + 25 * row
            expected = to_uint8(tiles[row, column]).numpy()
            assert (shown[top : top + 20, left : left + 30] == expected).all()
            shown[top : top + 20, left : left + 30] = shown[0, 0]
    assert (shown == np.round(np.array(to_rgb(theme.page)) * 255)).all()


def test_words_stand_beside_their_tiles_and_never_on_them():
    tiles = torch.zeros(2, 3, 3, 40, 60)
    figure = tile_figure(
        tiles,
        LIGHT,
        columns=["one", "both"],
        rows=["first\nrow", "second"],
        notes=[["a", "b", "c"], ["", "", "d"]],
        groups=[1],
    )
    assert [w for w in words(figure) if w] == ["a", "b", "c", "first\nrow", "d", "second", "one",
                                               "both"]  # fmt: skip
    shown = pixels(figure)
    # Every tile is black all over, and all else is white or words.
    assert (shown == 0).all(axis=-1).sum() >= 6 * 40 * 60
    figure.canvas.draw()
    (panel,) = figure.axes
    tiles_at = [image.get_window_extent() for image in panel.images]
    for text in panel.texts:
        box = text.get_window_extent()
        assert not any(box.overlaps(tile) for tile in tiles_at), text.get_text()
        assert 0 <= box.x0 <= box.x1 <= shown.shape[1]
        assert 0 <= box.y0 <= box.y1 <= shown.shape[0]


def test_files_are_the_same_each_time():
    tiles = torch.zeros(1, 1, 3, 8, 8)
    for write in (to_png, to_svg):
        first, second = (write(tile_figure(tiles, LIGHT, rows=["row"])) for _ in range(2))
        assert first == second


# Scenes


@pytest.fixture(scope="module")
def images():
    return small_images(8)


@pytest.fixture(scope="module")
def air(images):
    return finding_model(images)


def test_steps_say_how_probable_one_more_object_is(air, images):
    figure = scenes.steps(air, images, LIGHT)
    counts = air.infer(images).counts.tolist()
    notes = [word for word in words(figure) if word.endswith("%")]
    # One for each step that was taken, and one for stopping, where there was another step.
    assert len(notes) == sum(min(n + 1, air.max_objects) for n in counts)
    assert "canvas after 1, 2, 3 objects" in words(figure)
    shown = pixels(figure)
    for t in range(max(counts)):
        assert count(shown, BOX_COLORS[t]) > 0
    dark = pixels(scenes.steps(air, images, DARK))
    assert dark.shape == shown.shape
    assert count(dark, (DARK.blank,) * 3) > 0
    assert count(dark, "white") < 0.05 * count(shown, "white")


def test_reconstructions_have_as_many_boxes_above_as_below(air, images):
    shown = pixels(scenes.reconstructions(air, images, LIGHT, columns=4))
    boxes = (shown == (255, 0, 0)).all(axis=-1).sum(axis=1)
    height = 3 * CONFIG.canvas_size[0]
    tops = [6 + row * (height + 6) for row in range(4)]
    rows = [int(boxes[top : top + height].sum()) for top in tops]
    assert rows[0] == rows[1]
    assert rows[2] == rows[3]
    assert sum(rows) == boxes.sum() > 0


def test_the_hardest_have_their_elbo_and_counts(air, images):
    counts = air.infer(images).counts
    figure = scenes.hardest(air, images, torch.linspace(-12.4, 90, 8), counts + 1, LIGHT)
    assert words(figure).count("−12 nats") == 1
    assert f"found {counts[0]}, true {counts[0] + 1}" in words(figure)


def test_samples_have_a_row_for_each_number(air):
    figure = scenes.samples(air, DARK, columns=4)
    assert words(figure) == ["1 object", "2 objects", "3 objects"]
    assert len(figure.axes[0].images) == 12


def test_walks_have_their_tiles(air):
    z_what = torch.randn(3, CONFIG.z_what_size, generator=torch.Generator().manual_seed(0))
    assert len(scenes.walks_z_what(air, z_what, LIGHT, num=5).axes[0].images) == 10
    figure = scenes.walk_pose(air, z_what[0], LIGHT, num=5)
    assert len(figure.axes[0].images) == 15
    assert words(figure) == ["scale s", "place x", "place y"]


# Charts


def test_the_confusion_shows_counts_shares_and_what_is_right():
    cells = torch.tensor([[9990, 10, 0], [0, 0, 0], [1, 0, 3]])
    figure = charts.confusion(cells, LIGHT)
    assert sorted(w for w in words(figure) if w != "0") == sorted(
        ["9,990", "99.9 %", "10", "0.1 %", "1", "25.0 %", "3", "75.0 %"]
    )
    (panel,) = figure.axes
    assert [label.get_text() for label in panel.get_yticklabels()] == ["0", "2"]
    colors = [patch.get_facecolor()[:3] for patch in panel.patches]
    right = [color == to_rgb(LIGHT.strong) for color in colors]
    assert right == [True, False, False, False, False, True]
    alphas = [patch.get_alpha() for patch in panel.patches]
    assert alphas[0] > 0.99
    assert 0 < alphas[1] < 0.2
    assert alphas[2] == 0


def test_curves_have_a_line_for_each_run_and_accuracies_as_errors():
    own = {
        "train": {"elbo": [(1, 5.0), (2, 6.0)], "count_accuracy": [(1, 0.5), (2, 1.0)]},
        "held_out": {"elbo": [(2, 5.5)], "count_accuracy_mode": [(2, 0.98)]},
    }
    other = {"held_out": {"elbo": [(1, 4.0), (2, 5.0)]}}
    figure = charts.learning_curves(own, [other, other], LIGHT)
    accuracy, elbo, kl = figure.axes
    assert [list(line.get_ydata()) for line in elbo.get_lines()] == [[5, 6], [4, 5], [4, 5], [5.5]]
    assert [line.get_color() for line in elbo.get_lines()][1:] == [
        LIGHT.beside,
        LIGHT.beside,
        LIGHT.strong,
    ]
    assert [label.get_text() for label in elbo.get_legend().get_texts()] == [
        "training",
        "held out, 2 other seeds",
        "held out",
    ]
    errors = [list(line.get_ydata()) for line in accuracy.get_lines()]
    assert errors[0] == [0.5, 1e-3]
    assert errors[1] == pytest.approx([0.02])
    assert accuracy.get_ylim()[0] > accuracy.get_ylim()[1]  # better is higher
    assert not kl.get_lines()
    to_svg(figure)


def test_a_rare_step_does_not_set_the_scale_of_where_steps_look():
    maps = torch.zeros(3, 6, 5)
    maps[0, 2, 2] = 0.25
    maps[1] = 1.0
    maps[2] = float("nan")
    figure = charts.looks(maps, [1000, 1, 0], LIGHT)
    panels = figure.axes[:3]
    assert [panel.images[0].get_clim() for panel in panels[:2]] == [(0, 0.25)] * 2
    assert not panels[2].images
    assert {"1,000 scenes", "1 scene", "0 scenes", "never found"} <= set(words(figure))
    for t, panel in enumerate(panels):
        assert panel.spines["top"].get_edgecolor()[:3] == BOX_COLORS[t]
    to_svg(figure)
    to_svg(charts.looks(maps[2:], [0], DARK))
