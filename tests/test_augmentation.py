"""Translated scenes: the same content, in every place where it fits."""

import torch

from experiments.augmentation import translate


def spot(row, column, size=(7, 9), shape=(2, 3)):
    image = torch.zeros(1, 1, *size)
    patch = torch.arange(1.0, 1 + shape[0] * shape[1]).view(shape)
    image[0, 0, row : row + shape[0], column : column + shape[1]] = patch
    return image


def test_the_content_gets_everywhere_and_stays_whole():
    torch.manual_seed(0)
    moved = translate(spot(4, 5).expand(3000, -1, -1, -1))
    seen = {tuple(image.flatten().tolist()) for image in moved}
    expected = {
        tuple(spot(row, column).flatten().tolist()) for row in range(6) for column in range(7)
    }
    assert seen == expected
    # Uniform: 42 places, 3000 draws, each some 71 times.
    corners = sum(torch.equal(image[None], spot(0, 0)) for image in moved)
    assert 40 < corners < 110


def test_type_shape_and_each_image_on_its_own():
    torch.manual_seed(0)
    images = torch.cat([spot(0, 0), spot(3, 3)]).byte().repeat(1, 3, 1, 1)
    moved = translate(images)
    assert moved.dtype == torch.uint8
    assert moved.shape == images.shape
    assert torch.equal(moved[:, 0], moved[:, 2])
    assert torch.equal(moved.sum((1, 2, 3)), images.sum((1, 2, 3)))


def test_blank_and_full_images_stay():
    images = torch.stack([torch.zeros(1, 5, 6), torch.arange(1.0, 31).view(1, 5, 6)])
    for _ in range(20):
        assert torch.equal(translate(images), images)
