"""Large pictures: tiles that cover them, each object once, counts that add up."""

import itertools

import pytest
import torch
from PIL import Image

from air import AIRConfig
from air.images import Preparation, cut_tiles, merge_counts, merge_detections, tile_starts
from air.images.tile import random_tiles
from air.object_size import find_regions, picture_regions
from air.prediction import overlap_of, predict
from air.spatial_transformer import boxes_in_pixels
from air.types import Inference


@pytest.mark.parametrize("length", [10, 64, 65, 100, 107, 108, 1000, 1024])
def test_tiles_cover_a_line_with_their_overlap(length):
    starts = tile_starts(length, 64, 20)
    assert starts[0] == 0
    assert starts[-1] == max(length - 64, 0)
    steps = [b - a for a, b in itertools.pairwise(starts)]
    assert all(0 < step <= 44 for step in steps)
    assert len(starts) == 1 or len(starts) == -(-(length - 64) // 44) + 1  # no more than needed


@pytest.mark.parametrize("overlap", [-1, 64])
def test_an_overlap_without_a_step_is_refused(overlap):
    with pytest.raises(ValueError, match="overlap must be"):
        tile_starts(100, 64, overlap)


def test_every_object_is_whole_in_a_tile():
    picture = torch.arange(150 * 200.0).view(1, 150, 200)
    tiles = list(cut_tiles(picture, (64, 64), 16))
    for y in range(0, 150 - 15):
        for x in range(0, 200 - 15, 7):
            assert any(
                t.top <= y and y + 16 <= t.top + 64 and t.left <= x and x + 16 <= t.left + 64
                for t in tiles
            )
    for tile in tiles:
        assert tile.pixels.shape == (1, 64, 64)
        assert tile.pixels[0, 0, 0] == tile.top * 200 + tile.left


def merged(boxes, tiles, corners=((0, 0), (0, 40)), size=(64, 64), whole=(64, 104)):
    kept = merge_detections(
        torch.tensor(boxes).float().view(-1, 4),
        torch.tensor(tiles, dtype=torch.int64),
        torch.tensor(corners),
        size,
        whole,
    )
    return kept.tolist()


def test_an_object_that_two_tiles_see_is_one():
    # Nearer to the right edge of tile 0 (at 64) than to the left edge of tile 1 (at 40).
    assert merged([[52, 20, 62, 30], [52, 21, 62, 30]], [0, 1]) == [1]
    assert merged([[42, 20, 52, 30], [42, 20, 53, 30]], [0, 1]) == [0]


def test_what_the_edge_of_a_tile_left_of_an_object_is_that_object():
    assert merged([[58, 20, 64, 30], [58, 20, 70, 30]], [0, 1]) == [1]
    assert merged([[35, 20, 47, 30], [40, 21, 46, 30]], [0, 1]) == [0]


def test_the_soft_rim_that_an_edge_cut_off_is_no_object():
    assert merged([[45, 44, 65, 64], [50, 64, 60, 66]], [0, 1], corners=((0, 40), (64, 40))) == [0]


def test_neighbours_that_touch_are_two_and_those_of_one_tile_are_never_joined():
    assert merged([[42, 20, 52, 30], [52, 20, 62, 30]], [0, 1]) == [0, 1]
    assert merged([[42, 20, 52, 30], [49, 27, 59, 37]], [0, 1]) == [0, 1]  # at an angle
    assert merged([[42, 20, 52, 30], [43, 20, 53, 30]], [0, 0]) == [0, 1]


def test_the_pictures_own_edges_cut_nothing():
    # At the picture's left edge: whole, though it touches the edge of its tile.
    assert merged([[0, 20, 5, 30], [0, 20, 5, 30]], [0, 1], corners=((0, 0), (0, -3))) == [0]
    assert merged([], []) == []


def test_counts_are_added_as_independent():
    one, two = torch.tensor([0.2, 0.8]), torch.tensor([0.5, 0.0, 0.5])
    assert merge_counts([one, two], [0, 0]).tolist() == pytest.approx([0.1, 0.4, 0.1, 0.4])
    # An object of the second tile is one of the first: it contributes 0 or 1 more.
    assert merge_counts([one, two], [0, 1]).tolist() == pytest.approx([0.1, 0.5, 0.4])
    many = merge_counts([torch.tensor([0.0, 1.0, 0.0])] * 300, [0] * 300)
    assert many.argmax() == 300
    assert many.sum() == pytest.approx(1)
    assert len(merge_counts([torch.tensor([1.0, 0.0, 0.0])] * 50, [0] * 50)) == 1


def disks(size, number, seed=0, radius=5, gap=3):
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    picture, places = torch.zeros(1, *size), []
    while len(places) < number:
        margin = radius + 1
        room = torch.tensor(size) - 2 * margin
        place = torch.rand(2, generator=generator) * room + margin
        if all((place - other).norm() > 2 * radius + gap for other in places):
            places.append(place)
            picture[0][(y - place[0]) ** 2 + (x - place[1]) ** 2 < radius**2] = 0.8
    return picture


def test_training_tiles_cut_few_objects_and_are_seldom_empty():
    picture = disks((400, 400), 30)
    generator = torch.Generator().manual_seed(0)

    def cut(tries):
        tiles = list(random_tiles(picture, (64, 64), 60, generator, tries=tries))
        assert all(tile.pixels.shape == (1, 64, 64) for tile in tiles)
        lit = [tile.pixels for tile in tiles if tile.pixels.any()]
        assert len(lit) >= 30
        edges = [torch.cat([p[0, 0], p[0, -1], p[0, :, 0], p[0, :, -1]]) for p in lit]
        return sum(float(edge.max()) > 0 for edge in edges) / len(lit)

    assert cut(8) < 0.5 * cut(1)
    assert len(list(random_tiles(torch.zeros(1, 64, 64), (64, 64), 4, generator))) == 4


class Regions:
    """A model that sees the connected regions of its canvas, where objects have 10 pixels."""

    device = torch.device("cpu")

    def __init__(self, preparation):
        self.preparation = preparation
        scale = 64 / (11 * preparation.scale)  # as fit chooses its prior
        self.config = AIRConfig(
            canvas_size=(64, 64), max_objects=8, z_what_size=2, z_where_mean=(scale, 0, 0)
        )
        self.batches = []

    def infer(self, images, *, max_objects=None, shifts=None, batch_size=500):
        self.batches.append(len(images))
        number, steps = len(images), self.config.max_objects
        counts = torch.zeros(number, dtype=torch.int64)
        probs = torch.zeros(number, steps + 1)
        objects = torch.zeros(number, steps, 1, 64, 64)
        for row, image in enumerate(images):
            regions, _ = picture_regions(image)
            counts[row] = len(regions.boxes)
            probs[row, counts[row]] = 1
            for index, region in enumerate(regions.number.tolist()):
                objects[row, index, 0] = (regions.labels[0] == region) * image[0]
        z_where = torch.full((number, steps, 3), 2.0)
        return Inference(
            counts=counts,
            count_probs=probs,
            boxes=boxes_in_pixels(z_where, (64, 64)),
            z_where=z_where,
            z_what=torch.zeros(number, steps, 2),
            canvas=objects.sum(dim=1),
            objects=objects,
            shifts=torch.zeros(number, 2, dtype=torch.int64),
        )


@pytest.mark.parametrize("size", [(64, 64), (300, 220), (50, 400), (512, 512)])
@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_a_picture_of_any_size_is_read_at_the_scale_of_training(size, scale):
    number = max(2, size[0] * size[1] // 3500)
    picture = disks(size, number)
    model = Regions(Preparation(objects="bright", brightness=0.8, scale=scale))
    (seen,) = predict(model, picture, batch_size=7)
    assert seen.count == number
    assert seen.count_probs.argmax() == number
    assert seen.count_probs.sum() == pytest.approx(1)
    assert max(model.batches) <= 7
    truth = find_regions(picture[None]).boxes
    for box in seen.boxes:
        assert (truth - box).abs().amax(dim=1).min() <= 2
    assert seen.mask.shape == (number, *size)
    assert ((seen.mask.any(dim=0)) == (picture[0] > 0.4)).float().mean() > 0.995


def test_tiles_share_the_box_of_a_large_object():
    config = AIRConfig(canvas_size=(64, 64), z_where_mean=(5.0, 0, 0), z_where_sd=(0.5, 1, 1))
    assert overlap_of(config) == 16
    assert overlap_of(AIRConfig(z_where_mean=(1.2, 0, 0))) == 25  # half of the canvas at most


def test_a_large_picture_in_memory_is_read_small_and_kept_as_it_is():
    picture = disks((600, 500), 4, radius=40)
    preparation = Preparation(objects="bright", brightness=0.8, scale=0.125)
    assert preparation.reduction == 8
    model = Regions(preparation)
    (seen,) = predict(model, picture)
    assert seen.count == 4
    assert torch.equal(seen.image, picture)
    truth = find_regions(picture[None]).boxes
    for box in seen.boxes:
        assert (truth - box).abs().amax(dim=1).min() <= 9  # about a pixel of the canvas
    assert seen.mask.shape == (4, 600, 500)


def test_without_a_preparation_large_pictures_are_shrunk_as_ever():
    model = Regions(Preparation())
    (seen,) = predict(model, disks((128, 128), 3, radius=12))
    assert seen.count == 3
    assert seen.lit_by.shape == (64, 64)


# What differs from what a model was trained on is said


def page(ink=0.1, paper=1.0):
    """Ink on paper, 64 x 64: two squares."""
    picture = torch.full((1, 64, 64), paper)
    picture[:, 10:20, 10:20] = picture[:, 40:52, 30:42] = ink
    return picture


def test_ink_on_paper_is_lifted_for_a_model_of_objects_on_black_and_said():
    model = Regions(Preparation())
    with pytest.warns(UserWarning, match=r"1 of 2 images, image 1 .* background is not black"):
        plain, lifted = predict(model, [1 - page(), page()])
    assert (plain.count, lifted.count) == (2, 2)
    assert (plain.doubt == "") != (lifted.doubt == "")
    assert torch.equal(lifted.image, page())  # the original, for pictures of it


def test_a_grey_page_without_ink_is_empty_and_said():
    with pytest.warns(UserWarning, match="they were taken for black"):
        (seen,) = predict(Regions(Preparation()), torch.full((1, 64, 64), 0.5))
    assert seen.count == 0


def test_numbers_of_another_range_are_refused_with_the_cure():
    with pytest.raises(ValueError, match=r"image 0 must lie in \[0, 1\].*divide by 255"):
        predict(Regions(Preparation()), 255 * page())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: 0.1 * x, "fainter than in the images trained on"),
        (lambda x: 9 * x, "brighter than in the images trained on"),
        (
            lambda x: x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0)),
            "the noise is more than 3 times",
        ),
    ],
)
def test_pictures_unlike_those_trained_on_are_doubted(change, message):
    trained_on = Preparation(objects="dark", brightness=0.8, noise=0.01)
    (fine,) = predict(Regions(trained_on), page())
    assert (fine.count, fine.doubt) == (2, "")
    with pytest.warns(UserWarning, match=message):
        (odd,) = predict(Regions(trained_on), change(page()))
    assert message in odd.doubt
    (half,) = predict(Regions(trained_on), 0.5 * page() + 0.2)  # exposure, background: no matter
    assert half.count == 2
    assert predict(Regions(trained_on), torch.zeros(1, 64, 64)).counts.tolist() == [0]


def test_a_damaged_file_does_not_lose_the_others(tmp_path):
    for name in ("day1/a.png", "day1/b.png", "c.tif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        inverted = Image.fromarray((255 * (1 - page()[0])).byte().numpy())
        inverted.save(
            tmp_path / name,
            **({"save_all": True, "append_images": [inverted]} if name.endswith("tif") else {}),
        )
    (tmp_path / "day1" / "a.png").write_bytes(b"cut")
    model = Regions(Preparation())
    with pytest.raises(ValueError, match=r"a\.png cannot be read"):
        predict(model, tmp_path, recursive=True)
    found = predict(model, tmp_path, recursive=True, skip_damaged=True)
    assert [seen.file for seen in found] == ["c.tif[0]", "c.tif[1]", "day1/b.png"]
    assert found.counts.tolist() == [2, 2, 2]
    assert [name for name, _ in found.skipped] == ["day1/a.png"]
    assert torch.equal(found[1].image, found[0].image)
