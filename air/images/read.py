"""One way in: images from files, arrays, Pillow, data sets and loaders, one after another."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from air.images.arrays import as_image, as_images, without_alpha
from air.images.files import (
    are_paths,
    name_files,
    pillow_pixels,
    read_image,
    read_pages,
    reduce_pixels,
    reduction,
)

__all__ = ["Picture", "Pictures", "Skipped"]

_IMAGE_KEYS = ("image", "images", "pixel_values", "x")
"""Of an item of a data set that is a dictionary."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Picture:
    """One image as it was read."""

    name: str
    """Of the file, with the page (``stack.tif[3]``); of others the number (``image 3``)."""
    pixels: Tensor
    """``(C, h, w)`` with C of 1 or 3, in the type that it came in; reduced where that was asked."""
    size: tuple[int, int]
    """Height and width of the original."""
    path: Path | None = None
    """Of the file; None for images from memory."""
    page: int = 0
    """Which image of the file."""
    whole: Tensor | None = None
    """The image in its full size, if it came from memory."""

    def original(self) -> Tensor:
        """The image in its full size; read again if it came from a file."""
        if self.whole is not None:
            return self.whole
        return self.pixels if self.path is None else read_image(self.path, self.page)


class Skipped(NamedTuple):
    """A file that could not be read."""

    name: str
    """Of the file."""
    reason: str
    """Why."""


class Pictures:
    """Images from anywhere, read when it is their turn and not kept. Can be gone through again.

    Args:
        images: one of

            - a path or a list of paths: folders, files, patterns such as ``"day1/*.tif"``; each
              page of a stack is an image;
            - one of Pillow's images, an array, a tensor, or a list or iterator of them, of any
              sizes (:func:`air.images.as_images`);
            - a ``torch.utils.data.Dataset``, whose items are images, or tuples that begin with
              one, or dictionaries with one under ``image``;
            - a ``torch.utils.data.DataLoader``, whose items are batches of images in the same way.
        recursive: whether to search folders inside folders.
        skip_damaged: whether a file that cannot be read is left out and listed in ``skipped``.
            Otherwise it is an error.
        reduce: the number of pixels along each axis that become one.
        longest_side: reduce each image by the whole number that brings its longer side there.

    Attributes:
        skipped: the files left out the last time that the images were gone through.

    Example:
        >>> import torch
        >>> [picture.name for picture in Pictures(torch.rand(2, 1, 8, 8))]
        ['image 0', 'image 1']
    """

    def __init__(
        self,
        images: Any,
        *,
        recursive: bool = False,
        skip_damaged: bool = False,
        reduce: int = 1,
        longest_side: int | None = None,
    ) -> None:
        self.skipped: list[Skipped] = []
        self._skip, self._reduce, self._longest_side = skip_damaged, reduce, longest_side
        self._files = self._items = None
        if isinstance(images, Pictures):
            self._files, self._items = images._files, images._items
            self._skip = skip_damaged or images._skip
        elif are_paths(images):
            self._files = name_files(images, recursive=recursive)
        else:
            self._items = _items_of(images)

    def __iter__(self) -> Iterator[Picture]:
        """Image by image.

        Raises:
            ValueError: if one cannot be read, and damaged files are not to be skipped.
        """
        self.skipped = []
        if self._files is None:
            yield from self._from_memory()
            return
        for name, path in self._files:
            number = 0
            pages = read_pages(path, reduce=self._reduce, longest_side=self._longest_side)
            try:
                for part, pixels, size in pages:
                    yield Picture(
                        name=name + part, pixels=pixels, size=size, path=path, page=number
                    )
                    number += 1
            except (OSError, ValueError) as error:
                if not self._skip:
                    raise
                self.skipped.append(
                    Skipped(name if number == 0 else f"{name}[{number}]", str(error))
                )

    def with_size(self, *, reduce: int = 1, longest_side: int | None = None) -> "Pictures":
        """The same images, read at another size."""
        return Pictures(self, reduce=reduce, longest_side=longest_side)

    def sample(self, most: int) -> "Pictures":
        """At most so many files or images, evenly chosen; all where their number is not known."""
        chosen = Pictures(self, reduce=self._reduce, longest_side=self._longest_side)
        if (number := self.number) is not None and number > most:
            rows = [index * number // most for index in range(most)]
            if self._files is not None:
                chosen._files = [self._files[row] for row in rows]
            elif isinstance(self._items, _Indexed):
                chosen._items = _Indexed(self._items.source, rows)
            elif isinstance(self._items, list):
                chosen._items = [self._items[row] for row in rows]
        return chosen

    @property
    def number(self) -> int | None:
        """Number of files, where a stack counts as one, or of images; None if it is not known."""
        if self._files is not None:
            return len(self._files)
        return len(self._items) if isinstance(self._items, Sized) else None

    def _from_memory(self) -> Iterator[Picture]:
        for number, pixels in enumerate(self._items or ()):
            size = (pixels.shape[1], pixels.shape[2])
            factor = reduction(size, self._reduce, self._longest_side)
            yield Picture(
                name=f"image {number}",
                pixels=reduce_pixels(pixels, factor),
                size=size,
                whole=pixels,
            )


class _Again:
    """An iterable whose items are made each time it is gone through."""

    def __init__(self, source: Any, make: Callable[[Any], Iterator[Tensor]]) -> None:
        self.source, self.make = source, make

    def __iter__(self) -> Iterator[Tensor]:
        return self.make(self.source)


class _Indexed:
    """Items of a data set, taken by their numbers when it is their turn."""

    def __init__(self, source: Any, rows: Sequence[int]) -> None:
        self.source, self.rows = source, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Tensor]:
        for row in self.rows:
            yield _one(_first(self.source[row]), f"image {row}")


def _items_of(images: Any) -> Iterable[Tensor]:
    if _is_pillow(images):
        return [pillow_pixels(images)]
    kind = type(images).__mro__
    names = {f"{base.__module__}.{base.__name__}" for base in kind}
    if any(name.startswith("torch.utils.data") and "DataLoader" in name for name in names):
        return _Again(images, _from_loader)
    if any(name.startswith("torch.utils.data") for name in names):
        if hasattr(images, "__len__") and hasattr(images, "__getitem__"):
            return _Indexed(images, range(len(images)))
        return _Again(images, _from_items)
    if isinstance(images, Tensor | np.ndarray):
        return [without_alpha(image) for image in as_images(images)]
    if isinstance(images, Sequence) and not isinstance(images, str | bytes):
        if not images:
            as_images(images)  # says what is wrong
        return list(_from_items(images))
    if isinstance(images, Iterable) and not isinstance(images, str | bytes | Mapping):
        return list(_from_items(images))
    return as_images(images)  # says what is wrong


def _from_items(source: Iterable[Any]) -> Iterator[Tensor]:
    for number, item in enumerate(source):
        yield _one(_first(item), f"image {number}")


def _from_loader(source: Any) -> Iterator[Tensor]:
    number = 0
    for batch in source:
        images = _first(batch)
        if isinstance(images, Tensor) and images.dim() == 3:  # a batch of grey images
            images = images[:, None]
        for image in images:
            yield _one(image, f"image {number}")
            number += 1


def _first(item: Any) -> Any:
    """The image of an item of a data set."""
    if isinstance(item, Mapping):
        for key in _IMAGE_KEYS:
            if key in item:
                return item[key]
        raise ValueError(
            f"a data set's item has the keys {', '.join(map(str, item))}. "
            f"Expected one of: {', '.join(_IMAGE_KEYS)}."
        )
    return item[0] if isinstance(item, tuple | list) and item else item


def _one(image: Any, name: str) -> Tensor:
    if _is_pillow(image):
        return pillow_pixels(image)
    return without_alpha(as_image(image, name))


def _is_pillow(image: Any) -> bool:
    return any(base.__module__.startswith("PIL.") for base in type(image).__mro__)
