"""Scenes of several digits that do not overlap.

One generator makes them all. It draws its random numbers in the order of Pyro's
``pyro.contrib.examples.multi_mnist``, so that from the same digits and seed it makes the
data set that most implementations of AIR report on, bit for bit.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from experiments.datasets.mnist import Digits
from experiments.datasets.scenes import DataSplits, Scenes, pack_masks, packed_width

__all__ = ["Resample", "multi_mnist", "pyro_multi_mnist", "split_digits"]

Resample = Literal["nearest", "bicubic"]

SEED = 681307
CANVAS = 50
COUNTS = (0, 1, 2)

_FILTERS = {"nearest": Image.Resampling.NEAREST, "bicubic": Image.Resampling.BICUBIC}


def multi_mnist(
    digits: Digits,
    *,
    counts: Sequence[int] = COUNTS,
    name: str = "multi-mnist",
    num_train: int = 50_000,
    num_held_out: int = 10_000,
    seed: int = SEED,
    progress: bool = False,
) -> DataSplits:
    """Scenes of 50x50 pixels with 0 to 2 digits, or other numbers of them, uniformly.

    The two halves are made of different digits, see :func:`split_digits`, and each has a
    random stream of its own: its first scenes do not depend on how many follow.

    Args:
        digits: digits to place, at least two.
        counts: the numbers of digits that occur, each as often as any other.
        name: of the data set.
        num_train: scenes to learn from.
        num_held_out: scenes to judge by.
        seed: decides on everything.
        progress: whether to show a bar on stderr.

    Raises:
        ValueError: if there are too few digits or scenes, or no count, or one below 0.
    """
    train_digits, held_out_digits = split_digits(digits, seed=seed)
    return DataSplits(
        train=_make_scenes(
            train_digits,
            num_scenes=num_train,
            random=np.random.RandomState([seed, 1]),
            resample="nearest",
            name=f"{name}/train",
            counts=counts,
            progress=progress,
        ),
        held_out=_make_scenes(
            held_out_digits,
            num_scenes=num_held_out,
            random=np.random.RandomState([seed, 2]),
            resample="nearest",
            name=f"{name}/held-out",
            counts=counts,
            progress=progress,
        ),
        name=name,
    )


def split_digits(digits: Digits, *, seed: int = SEED) -> tuple[Digits, Digits]:
    """Four fifths and one fifth of the digits, after a permutation drawn from the seed.

    Raises:
        ValueError: if there are fewer than two digits.
    """
    if len(digits) < 2:
        raise ValueError(f"two halves need at least 2 digits, got {len(digits)}.")
    order = np.random.RandomState(seed).permutation(len(digits))
    num_held_out = max(1, len(digits) // 5)
    return digits[order[:-num_held_out]], digits[order[-num_held_out:]]


def pyro_multi_mnist(
    digits: Digits,
    *,
    resample: Resample = "nearest",
    num_scenes: int = 60_000,
    seed: int = SEED,
    progress: bool = False,
) -> DataSplits:
    """The multi-MNIST of Pyro's AIR example, bit for bit.

    From the 60 000 digits of MNIST's training split the sum of all pixels is 883 114 919 with
    ``nearest``, Pillow's default when the example was written, and 894 575 454 with
    ``bicubic``, its default today. The first five sixths are for training, the rest is held
    out; both draw on the same digits.

    Args:
        digits: digits to place, in MNIST's order.
        resample: how a digit is made smaller.
        num_scenes: both halves together.
        seed: decides on everything but the digits.
        progress: whether to show a bar on stderr.

    Raises:
        ValueError: if ``resample`` is unknown or there are too few scenes.
    """
    if resample not in get_args(Resample):
        raise ValueError(
            f"unknown resample {resample!r}. Expected one of: {', '.join(get_args(Resample))}."
        )
    name = "multi-mnist-pyro" if resample == "nearest" else f"multi-mnist-pyro-{resample}"
    scenes = _make_scenes(
        digits,
        num_scenes=num_scenes,
        random=np.random.RandomState(seed),
        resample=resample,
        name=name,
        progress=progress,
    )
    num_train = num_scenes * 5 // 6
    return DataSplits(
        train=dataclasses.replace(scenes[:num_train], name=f"{name}/train"),
        held_out=dataclasses.replace(scenes[num_train:], name=f"{name}/held-out"),
        name=name,
    )


def _make_scenes(
    digits: Digits,
    *,
    num_scenes: int,
    random: np.random.RandomState,
    resample: Resample,
    name: str,
    progress: bool,
    counts: Sequence[int] = COUNTS,
) -> Scenes:
    """Make scenes, drawing from ``random`` in the order of Pyro's generator."""
    if num_scenes < 1:
        raise ValueError(f"{name} needs at least 1 scene, got {num_scenes}.")
    if not counts or min(counts) < 0:
        raise ValueError(f"{name} needs counts of at least 0, got {tuple(counts)}.")
    max_count = max(counts)
    images = np.zeros((num_scenes, 1, CANVAS, CANVAS), dtype=np.uint8)
    num_objects = np.zeros(num_scenes, dtype=np.int64)
    classes = np.full((num_scenes, max_count), -1, dtype=np.int64)
    boxes = np.full((num_scenes, max_count, 4), np.nan, dtype=np.float32)
    masks = np.zeros((num_scenes, max_count, CANVAS, packed_width(CANVAS)), dtype=np.uint8)
    mask = np.zeros((CANVAS, CANVAS), dtype=bool)
    # None: only where somebody looks. A bar in a log file is noise.
    bar = tqdm(range(num_scenes), desc=name, leave=False, disable=None if progress else True)
    for scene in bar:
        count = counts[random.randint(len(counts))]
        canvas = np.zeros((CANVAS, CANVAS), dtype=np.int32)
        while True:
            placed = [_place_digit(canvas, digits, random, resample) for _ in range(count)]
            # Overlap is judged by the sum alone, and only once all digits are placed: the
            # random numbers of those that follow an overlap have been drawn by then.
            if canvas.max() <= 255:
                break
            canvas[:] = 0
        images[scene, 0] = canvas
        num_objects[scene] = count
        for i, (digit, box, pixels, where) in enumerate(placed):
            classes[scene, i] = digits.labels[digit]
            boxes[scene, i] = box
            mask[where] = pixels > 0
            masks[scene, i] = pack_masks(mask)
            mask[where] = False
    return Scenes(
        images=torch.from_numpy(images),
        num_objects=torch.from_numpy(num_objects),
        classes=torch.from_numpy(classes),
        boxes=torch.from_numpy(boxes),
        masks=torch.from_numpy(masks),
        name=name,
    )


class _Placed(NamedTuple):
    """A digit on a canvas."""

    digit: int
    """Which digit it is, of all."""
    box: tuple[int, int, int, int]
    pixels: NDArray[np.uint8]
    where: tuple[slice, slice]
    """Rows and columns of the canvas that the pixels are added to."""


def _place_digit(
    canvas: NDArray[np.int32], digits: Digits, random: np.random.RandomState, resample: Resample
) -> _Placed:
    """Add a random digit to the canvas."""
    index = int(random.randint(len(digits)))
    scale = 0.1 * random.randn() + 1.3
    size = int(28 / scale)
    digit = Image.fromarray(digits.images[index])
    small = np.asarray(digit.resize((size, size), _FILTERS[resample]))
    top = int(random.randint(0, CANVAS - size))
    left = int(random.randint(0, CANVAS - size))
    where = (slice(top, top + size), slice(left, left + size))
    canvas[where] += small
    return _Placed(index, pixel_box(small, left, top), small, where)


def pixel_box(pixels: NDArray[Any], left: int, top: int) -> tuple[int, int, int, int]:
    """The box around the non-zero pixels of a patch; around all of it if there are none.

    Args:
        pixels: shape ``(h, w)``.
        left: column of the canvas that the patch begins at.
        top: row of the canvas that the patch begins at.

    Returns:
        Edges ``(x_min, y_min, x_max, y_max)`` on the canvas.
    """
    columns = np.flatnonzero(pixels.any(axis=0))
    rows = np.flatnonzero(pixels.any(axis=1))
    if len(columns) == 0:  # a blank digit, which MNIST has none of
        columns, rows = np.array([0, pixels.shape[1] - 1]), np.array([0, pixels.shape[0] - 1])
    # Edges, so one more than the last pixel.
    return (
        left + int(columns[0]),
        top + int(rows[0]),
        left + int(columns[-1]) + 1,
        top + int(rows[-1]) + 1,
    )
