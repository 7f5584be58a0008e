import pytest
import torch

from air.collages import CollageMaker
from air.object_size import estimate_object_size, find_regions
from air.spatial_transformer import boxes_in_pixels
from tests.test_object_size import squares


@pytest.fixture(scope="module")
def maker():
    images = squares([5, 9], value=0.8)
    return CollageMaker(images, estimate_object_size(images), max_objects=3, scale=4.0)


def test_a_collage_holds_what_it_says(maker):
    collage = maker(200, torch.Generator().manual_seed(0))
    assert collage.images.shape == (200, 1, 64, 64)
    assert collage.z_where.shape == (200, 3, 3)
    assert collage.num_objects.bincount().min() > 30  # all counts
    for image, count, pose in zip(
        collage.images, collage.num_objects, collage.z_where, strict=True
    ):
        if count == 0:
            assert not image.any()
            continue
        assert image.unique().tolist() == pytest.approx([0.0, 0.8])
        boxes = boxes_in_pixels(pose[:count], (64, 64))
        assert (boxes[1:, 0] + boxes[1:, 2] >= boxes[:-1, 0] + boxes[:-1, 2]).all()
        # All boxes have a quarter of the canvas' side; in the middle of each is a square.
        assert torch.allclose(boxes[:, 2:] - boxes[:, :2], torch.full((int(count), 2), 16.0))
        shown = torch.zeros(64, 64, dtype=torch.bool)
        for centre_x, centre_y in ((boxes[:, :2] + boxes[:, 2:]) / 2).tolist():
            assert image[0, int(centre_y), int(centre_x)] > 0
            left, top = round(centre_x - 4.5), round(centre_y - 4.5)
            shown[max(top, 0) : top + 10, max(left, 0) : left + 10] = True
        assert not image[0][~shown].any()


def test_of_many_images_some_are_looked_at(monkeypatch):
    images = squares([5, 9], value=0.8)
    size = estimate_object_size(images)
    monkeypatch.setattr("air.collages._MOST_IMAGES", len(images) // 2)
    half = CollageMaker(images, size, max_objects=3, scale=4.0)
    whole = CollageMaker(images[::2], size, max_objects=3, scale=4.0)
    assert half.patches.equal(whole.patches)


def apart(images, layouts):
    """How often as many regions are seen as there are objects."""
    size = estimate_object_size(images)
    maker = CollageMaker(images, size, max_objects=3, scale=4.0, layouts=layouts)
    collage = maker(2000, torch.Generator().manual_seed(0))
    found = find_regions(collage.images).image.bincount(minlength=2000)
    return (found == collage.num_objects).float().mean()


def test_objects_are_mostly_apart_if_the_best_of_some_layouts_is_taken():
    images = squares([5, 9], value=0.8)
    assert apart(images, layouts=3) > apart(images, layouts=1) + 0.03


def test_collages_are_reproducible_and_differ(maker):
    first, again, other = (
        maker(8, torch.Generator().manual_seed(seed)).images for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_background_is_that_of_the_images():
    images = squares([9], noise=0.2)
    maker = CollageMaker(images, estimate_object_size(images), max_objects=1, scale=3.0)
    collage = maker(50)
    empty = collage.images[collage.num_objects == 0]
    assert empty.mean().item() == pytest.approx(0.1, abs=0.01)
    assert empty.max() <= 0.2


def test_what_is_much_larger_than_most_is_not_used():
    images = squares([6], number=30)
    images[0] = 0
    images[0, :, 10:50, 10:50] = 1
    size = estimate_object_size(images)
    maker = CollageMaker(images, size, max_objects=2, scale=3.0)
    assert maker.sizes.max() == 6
