"""Normalisation by the picture: what was a wrong count in silence is the right one, or black."""

import dataclasses

import numpy as np
import pytest
import torch

from air import AIRConfig
from air.images import Preparation, describe_images, measure, normalise
from air.images.normalise import background_of, noise_of
from air.object_size import count_regions
from experiments.benchmarks.own_images import cases


def prepare(pictures, found):
    config = AIRConfig(canvas_size=found.canvas_size, channels=found.channels)
    return [found.preparation.prepare(torch.from_numpy(picture), config)[0] for picture in pictures]


def accuracy(pictures, counts, found):
    read = [count_regions(picture) for picture in prepare(pictures, found)]
    return np.mean(np.array(read) == np.array(counts))


APART = ["control", "gradient", "vignette_dark", "hot", "own_grey", "edge", "two_sizes"]
APART += ["faint_and_bright", "cam16"]
"""Kinds whose objects connected regions tell apart."""


@pytest.mark.parametrize("kind", APART)
def test_connected_regions_count_each_kind(kind):
    pictures, counts = cases.make(kind, number=40)
    found = describe_images(pictures)
    assert accuracy(pictures, counts, found) >= 0.95
    assert found.preparation.objects == ("dark" if kind == "vignette_dark" else "bright")
    uneven = kind in ("gradient", "vignette_dark")
    assert found.preparation.surface == ("smooth" if uneven else "plain")
    assert (found.preparation.gamma < 1) == (kind == "faint_and_bright")
    assert found.doubts == ()
    light = torch.stack([picture.amax() for picture in prepare(pictures, found)])
    assert ((light == 0) == (torch.tensor(counts) == 0)).all()  # black where nothing is, only there
    assert 0.6 <= light[light > 0].median() <= 1


def test_six_pictures_are_enough():
    pictures, counts = cases.make("control", number=6, seed=4)
    assert accuracy(pictures, counts, describe_images(pictures)) == 1


def test_pictures_without_objects_are_black_among_others():
    pictures, counts = cases.make("control", number=40, blank=0.5)
    assert sum(count == 0 for count in counts) > 15
    found = describe_images(pictures)
    assert accuracy(pictures, counts, found) == 1


@pytest.mark.parametrize("sd", [0.0, 0.02, 0.1])
def test_noise_alone_is_black_and_refused_to_learn_from(sd):
    rng = np.random.default_rng(0)
    blanks = [(0.2 + rng.normal(0, sd, (64, 64))).astype(np.float32)[None] for _ in range(20)]
    with pytest.raises(ValueError, match="nothing in them stands out from their background"):
        describe_images(blanks)
    found = describe_images(cases.make("control", number=20)[0])
    assert not any(picture.any() for picture in prepare(blanks, found))


@pytest.mark.parametrize(
    "change",
    [
        lambda picture: 0.5 * picture,  # exposure
        lambda picture: picture + 0.05,
        lambda picture: picture + 0.15,
        lambda picture: picture + 0.08 * np.random.default_rng(0).normal(size=picture.shape),
    ],
    ids=["exposure", "background", "more background", "noise"],
)
def test_another_days_pictures(change):
    found = describe_images(cases.make("control", number=40)[0])
    pictures, counts = cases.make("control", number=40, seed=7)
    others = [change(picture / 255).astype(np.float32) for picture in pictures]
    assert accuracy(others, counts, found) >= 0.97


def test_the_unit_of_the_pixels_does_not_matter():
    pictures, _ = cases.make("control", number=10)
    bytes_, found = pictures, describe_images(pictures)
    floats = [-20 + 1000 * (picture / 255).astype(np.float32) for picture in pictures]
    other = describe_images(floats)
    for one, two in zip(prepare(bytes_, found), prepare(floats, other), strict=True):
        assert torch.allclose(one, two, atol=2e-3)


def test_the_noise_is_measured_beside_objects_and_a_slope():
    rng = np.random.default_rng(0)
    picture = cases.KINDS["gradient"].draw(rng, cases.place(rng, 3, cases.KINDS["gradient"]), 64)
    assert noise_of(torch.tensor(picture)[None]).item() == pytest.approx(0.02, rel=0.1)


def test_a_surface_goes_below_objects():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:80, :64] / 64
    slope = 0.3 + 0.2 * y + 0.3 * x - 0.2 * x * y + 0.1 * x**2
    disks = np.zeros((80, 64))
    disks[:64] = cases.paint(cases.place(rng, 4, cases.Kind(draw=None, radii=(8,))), 64)
    picture = torch.tensor(slope + 0.5 * disks + rng.normal(0, 0.01, slope.shape))[None]
    surface = background_of(picture, "smooth")[0]
    assert (surface - torch.tensor(slope)).abs().max() < 0.02


def test_hot_pixels_go_and_small_objects_stay():
    picture = torch.zeros(1, 40, 40)
    picture[0, 5, 5] = picture[0, 20, 20] = picture[0, 20, 21] = 1.0  # one alone, and a pair
    picture[0, 30:33, 8:11] = 0.5
    picture[0, 10:20, 30] = 0.5  # a line as wide as a pixel, with its ends
    seen = normalise(picture, objects="bright", brightness=0.5)
    assert seen[0, 5, 5] == seen[0, 20, 20] == seen[0, 20, 21] == 0
    assert (seen[0, 30:33, 8:11] > 0.5).all()
    assert (seen[0, 10:20, 30] > 0.5).all()


def test_objects_both_bright_and_dark():
    picture = np.full((1, 64, 64), 0.5, np.float32)
    picture[0, 10:20, 10:20] = 0.9
    picture[0, 40:50, 30:40] = 0.1
    found = describe_images([picture] * 3)
    assert found.preparation.objects == "both"
    assert count_regions(prepare([picture], found)[0]) == 2


def test_colours_are_told_from_a_background_of_the_same_light():
    picture = np.full((3, 64, 64), 0.4, np.float32)
    picture[:, 20:32, 20:32] = np.array([0.8, 0.0, 0.4])[:, None, None]
    found = describe_images([picture] * 3)
    assert found.channels == 3
    assert count_regions(prepare([picture], found)[0]) == 1
    grey = describe_images([picture[:1].repeat(3, axis=0)] * 3)
    assert grey.channels == 1


def test_a_measurement_is_in_the_pictures_units():
    rng = np.random.default_rng(0)
    picture = torch.tensor(
        cases.KINDS["cam16"].draw(rng, cases.place(rng, 2, cases.KINDS["cam16"]), 64)
    )[None].float()
    one = measure(picture)
    assert one.level[0] == pytest.approx(157, abs=1)
    assert one.noise == pytest.approx(6, rel=0.1)
    assert one.brightness == pytest.approx(900, rel=0.02)
    assert one.bright > 50 * one.dark
    assert not one.blank


# The object's size, and the scale that it asks for


@pytest.mark.parametrize(("side", "scale"), [(5, 2.0), (12, 1.0), (40, 0.5)])
def test_an_object_gets_10_to_20_pixels(side, scale):
    picture = np.zeros((1, 128, 128), np.float32)
    picture[0, 30 : 30 + side, 50 : 50 + side] = 1
    found = describe_images([picture] * 3)
    assert found.preparation.scale == scale
    assert found.size.size == pytest.approx(side * scale)
    assert found.canvas_size == (64, 64)
    assert found.tiled == (128 * scale > 64)


def test_the_size_that_is_said_is_taken_without_the_spread_of_another():
    pictures, _ = cases.make("two_sizes", number=20)
    found = describe_images(pictures, object_size=3)
    assert found.preparation.scale == pytest.approx(10 / 3, rel=1e-3)
    assert (found.size.size, found.size.spread) == (pytest.approx(10, abs=0.01), 0)
    for bad in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="object_size must lie between 1 and the 64 pixels"):
            describe_images(pictures, object_size=bad)


def test_absurd_estimates_are_doubted():
    net = np.zeros((1, 64, 64), np.float32)
    net[0, 3:61, 3:6] = net[0, 3:61, 40:43] = net[0, 3:6, 3:43] = 1
    with pytest.warns(UserWarning, match=r"hardly one object.*object_size"):
        found = describe_images([net] * 3)
    assert found.size.spread == 0
    assert found.size.size / found.preparation.scale == pytest.approx(16)
    rng = np.random.default_rng(0)
    texture = np.kron(rng.random((1, 128, 128)) > 0.95, np.ones((1, 3, 3))).astype(np.float32)
    with pytest.warns(UserWarning, match="regions in an image: that may be texture"):
        describe_images([texture] * 3)


def test_settings_that_make_no_sense_together_are_refused():
    fine = Preparation(objects="dark", surface="smooth", brightness=0.2, gamma=0.5, noise=0.1)
    assert Preparation.from_dict(fine.to_dict()) == fine
    for bad in (
        {"objects": "grey"},
        {"surface": "rough"},
        {"gamma": 2.0},
        {"brightness": 0.0},
        {"noise": -1.0},
        {"contrast": 2.0},
    ):
        with pytest.raises(ValueError, match="must"):
            dataclasses.replace(fine, **bad)


def test_the_size_of_objects_that_touch_is_that_of_single_ones():
    found = describe_images(cases.make("touching")[0])
    assert found.size.size == pytest.approx(10.5, abs=0.6)
    assert found.size.spread < 1  # pairs are 17 to 20 pixels long


def test_objects_of_two_sizes_are_all_single():
    found = describe_images(cases.make("two_sizes")[0])
    assert found.size.num_components > 200
    assert found.size.spread > 0.3 * found.size.size
