"""From images to the prior of their objects' scale, without labels."""

import pytest
import torch

from air.object_size import connected_regions, scale_prior
from experiments.datasets import as_scenes, embedded_digits, multi_mnist, split_scenes
from experiments.datasets.object_scale import estimate
from experiments.datasets.sources import estimate_prior


def flood(foreground):
    """Regions once more, pixel by pixel: a list of sets of pixels."""
    left = set(map(tuple, foreground.nonzero().tolist()))
    regions = []
    while left:
        region, edge = set(), [left.pop()]
        while edge:
            y, x = edge.pop()
            region.add((y, x))
            near = {(y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
            left -= near
            edge += near
        regions.append(frozenset(region))
    return set(regions)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.35, 0.5, 1.0])
def test_regions_are_those_of_a_flood(share):
    generator = torch.Generator().manual_seed(0)
    foreground = torch.rand(6, 11, 14, generator=generator) < share
    labels = connected_regions(foreground)
    assert torch.equal(labels > 0, foreground)
    for image, expected in zip(labels, map(flood, foreground), strict=True):
        numbers = set(image.unique().tolist()) - {0}
        assert {frozenset(map(tuple, (image == n).nonzero().tolist())) for n in numbers} == expected


def test_a_spiral_is_one_region():
    spiral = torch.zeros(1, 41, 41, dtype=torch.bool)
    y = x = 0
    length, (down, right) = 40, (0, 1)
    for turn in range(40):
        for _ in range(length):
            spiral[0, y, x] = True
            y, x = y + down, x + right
        down, right = right, -down
        length -= 2 * (turn % 2)
    assert len(connected_regions(spiral).unique()) == 2


def squares(sizes, canvas=(50, 50)):
    """An image for each size, with one bright square and some grey."""
    images = torch.full((len(sizes), 1, *canvas), 10, dtype=torch.uint8)
    for i, size in enumerate(sizes):
        images[i, 0, 3 : 3 + size, 5 + i % 7 : 5 + i % 7 + size] = 200
    return images


def test_size_of_squares_is_found():
    found = estimate(squares([12] * 20))
    assert (found.size, found.spread, found.num_components) == (12, 0, 20)
    found = estimate(squares([8, 12, 16] * 20))
    assert found.size == 12
    assert found.spread == pytest.approx((32 / 3) ** 0.5, rel=0.1)


def test_the_known_scale_of_multi_mnist_is_found():
    scenes = multi_mnist(embedded_digits(), num_train=600, num_held_out=10).train
    found = estimate(scenes.images)
    assert scale_prior((50, 50), found.size, found.spread)["z_where_mean"][0] == pytest.approx(
        3.0, abs=0.15
    )


def prior_of(images):
    return estimate_prior(split_scenes(as_scenes(images)))


def test_prior_comes_with_what_it_was_made_of():
    prior = prior_of(squares([10] * 30, canvas=(55, 55)))
    assert (prior.mean, prior.sd) == ((5.0, 0.0, 0.0), (0.2, 2.31, 2.31))
    assert "10.0 +- 0.0 pixels" in prior.source
    assert "27 bright regions" in prior.source
    assert prior.doubt is None


def test_what_speaks_against_it_is_said():
    assert "invert=yes" in prior_of(255 - squares([10] * 30)).doubt
    grid = squares([10] * 30)
    grid[:, :, ::10] = grid[:, :, :, ::10] = 150
    assert "stands out" in prior_of(grid).doubt
    generator = torch.Generator().manual_seed(0)
    dots = (torch.rand(30, 1, 50, 50, generator=generator) < 0.05).float()
    noise = dots.repeat_interleave(2, -1).repeat_interleave(2, -2)
    assert "noise" in estimate_prior(split_scenes(as_scenes(noise, max_size=100))).doubt
    with pytest.raises(ValueError, match="no object was found"):
        prior_of(torch.zeros(10, 1, 20, 20))
