"""People's own images as scenes: from files, arrays, or a ``torch.utils.data.Dataset``.

Images of different sizes are made equal so that objects keep their sizes relative to each other:

1. Where the largest height or width of them all is above a limit (64 pixels), *all* are shrunk by
   the one factor that brings it there, averaging. None is enlarged.
2. Each is put in the middle of a canvas as large as the largest height and width. What is left
   around it takes the median of the image's own edge.

If any image has colour, all become RGB; otherwise all are grey.
"""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from experiments.datasets.image_files import read_image, read_size, shrink, to_pictures
from experiments.datasets.image_labels import Label
from experiments.datasets.multi_mnist import SEED
from experiments.datasets.scenes import DataSplits, Scenes

__all__ = ["MAX_SIZE", "Picture", "as_scenes", "make_scenes", "pictures_of", "split_scenes"]

MAX_SIZE = 64
"""Pixels of the canvas' longer side, unless told otherwise."""

_LEAST_SIZE = 8
_MOST_BYTES = 1 << 33
_HELD_OUT_SHARE = 0.1

Source = Tensor | NDArray[Any] | Sequence[Any] | Dataset[Any]
"""Images ``(N, C, H, W)``, ``(N, H, W)`` or ``(N, H, W, C)``, or one after another: arrays,
tensors, Pillow's images, or tuples that begin with one."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Picture:
    """One image that is not read yet."""

    name: str
    """What to call it in messages."""
    size: tuple[int, int]
    """Height and width in pixels."""
    read: Callable[[tuple[int, int]], NDArray[np.uint8]]
    """Gives it in another size, ``(h, w)`` or ``(h, w, 3)``."""

    @classmethod
    def from_file(cls, path: Path) -> "Picture":
        """A PNG, JPEG or TIFF, of which only the header is read.

        Raises:
            OSError: if it cannot be opened.
            DamagedFileError: if it is no picture or too large.
        """
        return cls(name=path.name, size=read_size(path), read=lambda size: read_image(path, size))

    @classmethod
    def from_array(cls, pixels: NDArray[np.uint8], name: str) -> "Picture":
        """An image in memory."""
        height, width = pixels.shape[:2]
        return cls(name=name, size=(height, width), read=lambda size: shrink(pixels, size))


def as_scenes(
    images: Source,
    *,
    num_objects: Sequence[int] | Tensor | None = None,
    boxes: Sequence[Sequence[Sequence[float]]] | None = None,
    max_size: int = MAX_SIZE,
    invert: bool = False,
    name: str = "images",
    progress: bool = False,
) -> Scenes:
    """Wrap images from anywhere as scenes, ready to train on.

    >>> as_scenes(torch.rand(5, 40, 30)).images.shape
    torch.Size([5, 1, 40, 30])

    Args:
        images: a tensor or array of them, or a sequence or ``torch.utils.data.Dataset`` of single
            ones: tensors ``(C, H, W)`` or ``(H, W)``, arrays (channels last, too), Pillow's
            images, or tuples that begin with one; what follows in a tuple is not looked at.
            uint8, or floats in [0, 1].
        num_objects: how many objects each holds. Without it training goes unlabelled: the count's
            accuracy is not reported, all else is.
        boxes: for each image, the edges ``(x_min, y_min, x_max, y_max)`` of each of its objects,
            in the image's own pixels.
        max_size: of the longer side of the canvas in pixels; larger images are shrunk.
        invert: whether to swap black and white, for dark objects on a bright background.
        name: what to call them in messages.
        progress: whether to show a bar on stderr, and say what was made of the sizes.

    Raises:
        ValueError: if they are no images, or the labels do not fit them.
    """
    pictures = pictures_of(images, name)
    return make_scenes(
        pictures,
        labels=_labels(len(pictures), num_objects, boxes, name),
        max_size=max_size,
        invert=invert,
        name=name,
        progress=progress,
    )


def split_scenes(
    scenes: Scenes, *, name: str | None = None, share: float = _HELD_OUT_SHARE, seed: int = SEED
) -> DataSplits:
    """Keep some scenes back to judge by, drawn at random.

    Args:
        scenes: at least two.
        name: of the data set; default: the scenes'.
        share: of the scenes that are held out; at least one is.
        seed: decides on which.

    Raises:
        ValueError: if there are too few scenes, or the share is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise ValueError(f"the share held out must lie between 0 and 1, got {share}.")
    if len(scenes) < 2:
        raise ValueError(f"{scenes.name} holds {len(scenes)} images. Expected at least 2.")
    order = torch.from_numpy(np.random.RandomState(seed).permutation(len(scenes)))
    number = min(max(1, round(share * len(scenes))), len(scenes) - 1)
    name = scenes.name if name is None else name
    halves = {}
    # In their own order, so that neighbours stay neighbours in pictures of them.
    for half, rows in (("train", order[number:]), ("held_out", order[:number])):
        part = scenes[rows.sort().values]
        halves[half] = dataclasses.replace(part, name=f"{name}/{half.replace('_', '-')}")
    return DataSplits(name=name, **halves)


def pictures_of(images: Source, name: str) -> list[Picture]:
    """The single images in a tensor, array, sequence or data set.

    Raises:
        ValueError: if they are none.
    """
    if isinstance(images, Tensor | np.ndarray):
        array = _as_array(images, name)
        if array.ndim not in (3, 4):
            raise ValueError(
                f"{name} must be a batch (N, C, H, W), (N, H, W, C) or (N, H, W), "
                f"got {array.shape}."
            )
        if array.ndim == 3:  # never one image with channels
            array = array[..., None]
        found = to_pictures(array, name)
        return [Picture.from_array(one, f"{name}[{i}]") for i, one in enumerate(found)]
    if not (hasattr(images, "__len__") and hasattr(images, "__getitem__")):
        raise ValueError(
            f"{name} must be images that can be counted and taken by number, got "
            f"{type(images).__name__}. Make a list of them."
        )
    pictures = []
    for i in range(len(images)):  # type: ignore[arg-type]
        item = images[i]
        item = item[0] if isinstance(item, tuple | list) else item
        found = to_pictures(_as_array(item, f"{name}[{i}]"), f"{name}[{i}]")
        if len(found) != 1:
            raise ValueError(
                f"{name}[{i}] must be one image, (H, W), (H, W, C) or (C, H, W) with C of 1 or 3, "
                f"got {len(found)} of {found[0].shape}."
            )
        pictures.append(Picture.from_array(found[0], f"{name}[{i}]"))
    return pictures


def make_scenes(
    pictures: Sequence[Picture],
    *,
    labels: Sequence[Label] | None,
    max_size: int,
    invert: bool,
    name: str,
    progress: bool,
) -> Scenes:
    """Read pictures, make their sizes equal by the rule above, and move their boxes along.

    Raises:
        OSError: if one cannot be read.
        ValueError: if there is none, or they would take too much memory.
    """
    if not pictures:
        raise ValueError(f"{name} holds no image. Expected at least one.")
    if max_size < _LEAST_SIZE:
        raise ValueError(f"images must keep at least {_LEAST_SIZE} pixels, got {max_size}.")
    largest = tuple(max(picture.size[axis] for picture in pictures) for axis in (0, 1))
    factor = min(1.0, max_size / max(largest))
    height, width = (max(2, round(side * factor)) for side in largest)
    if progress and any(picture.size != (height, width) for picture in pictures):
        smallest = min(pictures, key=lambda picture: picture.size).size
        print(
            f"{name}: {len(pictures)} images of {smallest[0]} x {smallest[1]} to {largest[0]} x "
            f"{largest[1]} pixels (height x width) are shrunk to {factor:.3g} of their size and "
            f"padded to {height} x {width}",
            file=sys.stderr,
        )
    if len(pictures) * 3 * height * width > _MOST_BYTES:
        raise ValueError(
            f"{len(pictures)} images of {height} x {width} would take more than "
            f"{_MOST_BYTES >> 30} GiB. Make them smaller, or write shards of some at a time."
        )
    images = np.empty((len(pictures), height, width, 3), dtype=np.uint8)
    colored = False
    corners = []
    bar = tqdm(pictures, desc=name, leave=False, disable=None if progress else True)
    for i, picture in enumerate(bar):
        size = tuple(max(1, round(side * factor)) for side in picture.size)
        pixels = picture.read(size)
        if invert:
            pixels = 255 - pixels
        colored = colored or pixels.ndim == 3
        pixels = np.broadcast_to(pixels[..., None] if pixels.ndim == 2 else pixels, (*size, 3))
        top, left = (height - size[0]) // 2, (width - size[1]) // 2
        if size != (height, width):
            edge = [pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]
            images[i] = np.median(np.concatenate(edge), axis=0).astype(np.uint8)
        images[i, top : top + size[0], left : left + size[1]] = pixels
        corners.append((size[1] / picture.size[1], size[0] / picture.size[0], left, top))
    kept = images if colored else images[..., :1]
    return Scenes(
        images=torch.from_numpy(np.ascontiguousarray(kept.transpose(0, 3, 1, 2))),
        name=name,
        **_label_tensors(labels, corners),
    )


def _as_array(image: Any, name: str) -> NDArray[Any]:
    if isinstance(image, Tensor):
        return image.detach().cpu().numpy()
    try:
        array = np.asarray(image)
    except Exception as error:
        raise ValueError(f"{name} is no image but {type(image).__name__}.") from error
    if array.dtype.kind not in "buf":
        raise ValueError(
            f"{name} must be an image of uint8 or floats in [0, 1], got {array.dtype}."
        )
    return array


def _labels(
    number: int,
    num_objects: Sequence[int] | Tensor | None,
    boxes: Sequence[Sequence[Sequence[float]]] | None,
    name: str,
) -> list[Label] | None:
    if boxes is None and num_objects is None:
        return None
    for what, values in (("num_objects", num_objects), ("boxes", boxes)):
        if values is not None and len(values) != number:
            raise ValueError(
                f"{what} of {name} must have one entry for each of {number} images, "
                f"got {len(values)}."
            )
    if boxes is None:
        assert num_objects is not None
        return [Label(count=int(count)) for count in num_objects]
    labels = []
    for i, each in enumerate(boxes):
        if num_objects is not None and int(num_objects[i]) != len(each):
            raise ValueError(
                f"{name}[{i}] is said to hold {int(num_objects[i])} objects, but has "
                f"{len(each)} boxes."
            )
        edges = []
        for box in each:
            x_min, y_min, x_max, y_max = (float(edge) for edge in box)
            edges.append((x_min, y_min, x_max, y_max))
        labels.append(Label(count=len(each), boxes=tuple(edges)))
    return labels


def _label_tensors(
    labels: Sequence[Label] | None, corners: Sequence[tuple[float, float, int, int]]
) -> dict[str, Any]:
    """Labels as ``Scenes`` has them; boxes on the canvas."""
    number = len(corners)
    most = 0 if labels is None else max(label.count for label in labels)
    num_objects = torch.full((number,), -1)
    classes = torch.full((number, most), -1)
    boxes = torch.full((number, most, 4), float("nan"))
    for i, label in enumerate(labels or []):
        num_objects[i] = label.count
        if label.boxes:
            x, y, left, top = corners[i]
            scale, shift = torch.tensor([x, y, x, y]), torch.tensor([left, top, left, top])
            boxes[i, : label.count] = torch.tensor(label.boxes) * scale + shift
            # Without a class of their own all are of one: objects.
            classes[i, : label.count] = torch.tensor(label.classes or [0] * label.count)
    return {"num_objects": num_objects, "classes": classes, "boxes": boxes}
