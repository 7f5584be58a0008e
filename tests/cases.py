"""Kinds of pictures that people count objects in, with known counts, for tests."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from air import AIRConfig

Picture = NDArray[np.float64]
Disks = list[tuple[float, float, float]]


def place(rng, number, radii=(5,), side=64, gap=3.0, edge=True) -> Disks:
    """Disks (y, x, r) apart from each other; whole, or cut by the picture's edge."""
    disks: Disks = []
    for _ in range(1000 * number):
        if len(disks) == number:
            break
        r = float(rng.choice(radii))
        margin = r + 1 if edge else 0
        y, x = rng.uniform(margin, side - margin, 2)
        if all(np.hypot(y - b, x - a) > r + q + gap for b, a, q in disks):
            disks.append((y, x, r))
    return disks


def paint(disks: Disks, side=64, lights=None) -> Picture:
    """Disks with soft edges, of brightness 1 or their own, on 0."""
    y, x = np.mgrid[:side, :side]
    picture = np.zeros((side, side))
    for index, (b, a, r) in enumerate(disks):
        cover = np.clip(r + 0.5 - np.hypot(y - b, x - a), 0, 1)
        picture = np.maximum(picture, cover * (1 if lights is None else lights[index]))
    return picture


def noise(rng, side=64, sd=0.02) -> Picture:
    return rng.normal(0, sd, (side, side))


def plain(rng, disks):
    return 0.05 + 0.8 * paint(disks) + noise(rng)


def gradient(rng, disks):
    return 0.1 + 0.4 * np.linspace(0, 1, 64)[None] + 0.4 * paint(disks) + noise(rng)


def vignette_dark(rng, disks):
    y, x = np.mgrid[:64, :64] / 64 - 0.5
    return 0.85 * (1 - y**2 - x**2) * (1 - 0.45 * paint(disks)) + noise(rng)


def hot(rng, disks):
    picture = 0.04 + 0.2 * paint(disks) + noise(rng, sd=0.008)
    picture[rng.integers(0, 64, 6), rng.integers(0, 64, 6)] = 1.0
    return picture


def own_grey(rng, disks):
    return rng.uniform(0.05, 0.6) + 0.35 * paint(disks) + noise(rng)


def cam16(rng, disks):
    return 157 + 900 * paint(disks) + noise(rng, sd=6)


def faint_and_bright(rng, disks):
    lights = rng.choice([0.12, 0.9], len(disks))
    return 0.03 + paint(disks, lights=lights) + noise(rng, sd=0.01)


KINDS: dict[str, tuple[Callable, int, dict]] = {
    "control": (plain, 3, {}),
    "gradient": (gradient, 3, {}),
    "vignette_dark": (vignette_dark, 3, {}),
    "hot": (hot, 3, {}),
    "own_grey": (own_grey, 3, {}),
    "edge": (plain, 3, {"edge": False}),
    "two_sizes": (plain, 4, {"radii": (3, 3, 8)}),
    "faint_and_bright": (faint_and_bright, 4, {}),
    "cam16": (cam16, 3, {}),
}
"""How to paint them, how many disks there are at most, and how to place them."""


def make(kind: str, number=40, seed=1, blank=0.0):
    """Pictures of a kind as a camera's files have them, ``(1, h, w)``, and their counts.

    ``blank`` is the share of pictures whose disks are left out.
    """
    draw, most, placing = KINDS[kind]
    rng = np.random.default_rng(seed)
    pictures, counts = [], []
    for _ in range(number):
        disks = place(rng, int(rng.integers(0, most + 1)), **placing)
        if rng.random() < blank:
            disks = []
        picture = draw(rng, disks)
        if kind == "cam16":
            pixels = picture.clip(0, 65535).astype(np.uint16)
        else:
            pixels = np.rint(picture * 255).clip(0, 255).astype(np.uint8)
        pictures.append(pixels[None])
        counts.append(len(disks))
    return pictures, counts


def config_of(found) -> AIRConfig:
    """A model's configuration for what was found in pictures."""
    return AIRConfig(canvas_size=found.canvas_size, channels=found.channels)
