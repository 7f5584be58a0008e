"""Images of any layout and size as one kind: a list of tensors ``(C, h, w)`` in [0, 1]."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "as_float",
    "as_image",
    "as_images",
    "displayed",
    "from_numpy",
    "raw_float",
    "stack_to_images",
    "to_channels",
    "without_alpha",
]

_CHANNELS = (1, 3, 4)

_UNSIGNED = {torch.uint8: 255, torch.uint16: 65535}
"""Whole-number types that images come in, and what is white in them."""


def as_images(images: Any) -> list[Tensor]:
    """Read images as a list, in the type they came in, channels first.

    Args:
        images: one of

            - a tensor or array ``(B, C, H, W)`` or ``(B, H, W, C)``;
            - one image ``(C, H, W)``, ``(H, W, C)`` or ``(H, W)``;
            - grey images ``(B, H, W)``, where it cannot be one image;
            - a list of images, of any sizes.

            C is 1 (grey), 3 (RGB) or 4 (with an alpha channel, see :func:`without_alpha`). Values
            are bool, uint8 (0 to 255), uint16 (0 to 65535), or other numbers, of any range for a
            model that was fitted to such images.

    Returns:
        Tensors ``(C, h, w)``; they share memory with what was given.

    Raises:
        ValueError: if a shape, type or range makes no image, or there is none.
    """
    if isinstance(images, np.ndarray):
        images = from_numpy(images)
    if isinstance(images, Tensor):
        if images.dim() == 4:
            batch = list(_channels_first(images))
        elif images.dim() == 3 and not {images.shape[0], images.shape[2]} & set(_CHANNELS):
            batch = [as_image(image) for image in images]
        elif images.dim() in (2, 3):
            batch = [as_image(images)]
        else:
            raise ValueError(
                "images must have shape (B, C, H, W), (C, H, W) or (H, W, C), "
                f"got {tuple(images.shape)}."
            )
    elif isinstance(images, Iterable) and not isinstance(images, str | bytes | dict):
        batch = [as_image(image, f"image {number}") for number, image in enumerate(images)]
    else:
        raise ValueError(
            "images must be a tensor, a numpy array or a list of them, "
            f"got {type(images).__name__}."
        )
    if not batch:
        raise ValueError("there is nothing to look at: images must hold at least one image.")
    return batch


def as_image(image: Any, name: str = "the image") -> Tensor:
    """One image as a tensor ``(C, h, w)``, in the type it came in.

    Raises:
        ValueError: if its shape or type makes no image.
    """
    if hasattr(image, "__array_interface__") and not isinstance(image, Tensor):
        image = np.asarray(image)  # Pillow's images, too
    if isinstance(image, np.ndarray):
        image = from_numpy(image)
    if not isinstance(image, Tensor):
        raise ValueError(
            f"{name} must be a tensor or a numpy array, got {type(image).__name__}. "
            "Give paths alone, or images alone."
        )
    if image.dim() == 2:
        image = image[None]
    elif image.dim() == 3:
        image = _channels_first(image[None], name)[0]
    if image.dim() != 3 or 0 in image.shape:
        raise ValueError(
            f"{name} must have shape (C, H, W), (H, W, C) or (H, W), got {tuple(image.shape)}."
        )
    _check_type(image, name)
    return image


def as_float(image: Tensor, name: str = "the image") -> Tensor:
    """An image as float32 in [0, 1].

    Args:
        image: float in [0, 1], bool, uint8 or uint16.
        name: of the image, for messages.

    Raises:
        ValueError: if it is of another type or range, or holds NaN.
    """
    _check_type(image, name)
    if image.dtype in _UNSIGNED:
        return image.float() / _UNSIGNED[image.dtype]
    image = image.float()
    low, high = (bound.item() for bound in image.aminmax())
    if not (low >= 0 and high <= 1):
        hint = "It looks like 0-255: divide by 255, or pass uint8." if high > 1 else "Scale it."
        if low != low or high != high:
            hint = "It holds NaN: remove or repair it first."
        raise ValueError(f"{name} must lie in [0, 1], got [{low:g}, {high:g}]. {hint}")
    return image


def to_channels(image: Tensor, channels: int) -> Tensor:
    """Grey from RGB, RGB from grey; for an alpha channel see :func:`without_alpha`.

    Args:
        image: float in [0, 1], ``(C, h, w)`` with C of 1, 3 or 4.
        channels: 1 or 3. Grey is the mean of red, green and blue.

    Returns:
        ``(channels, h, w)``.
    """
    image = without_alpha(image)
    if image.shape[0] == channels:
        return image
    if channels == 1:
        return image.mean(dim=0, keepdim=True)
    return image.expand(channels, -1, -1)


def without_alpha(image: Tensor) -> Tensor:
    """An image without its alpha channel, on black or on white.

    On whichever differs more from what is opaque: where the mean of the pixels, weighted by their
    opacity, is brighter than half of white, on black; else on white. So white objects on
    nothing and black objects on nothing can both be seen. An image with nothing in it is black.

    Args:
        image: ``(C, h, w)``; only with C of 4 something is done.

    Returns:
        ``(3, h, w)`` in the same type, or what was given.
    """
    if image.shape[0] != 4:
        return image
    white = float(_UNSIGNED.get(image.dtype, 1))
    color, alpha = image.float().split([3, 1])
    alpha = alpha / white
    opaque = alpha.sum()
    if (alpha >= 1).all():
        return image[:3]
    mean = (color.mean(dim=0) * alpha[0]).sum() / opaque if opaque > 0 else white
    ground = 0.0 if mean > white / 2 else white
    mixed = color * alpha + ground * (1 - alpha)
    return mixed.to(image.dtype) if image.is_floating_point() else mixed.round().to(image.dtype)


def raw_float(image: Tensor) -> Tensor:
    """An image as float32, of any finite range: uint8 and uint16 with white at 1, others as is.

    Raises:
        ValueError: if it holds NaN or infinity.
    """
    if image.dtype in _UNSIGNED:
        return image.float() / _UNSIGNED[image.dtype]
    image = image.float()
    if not image.isfinite().all():
        raise ValueError("an image holds NaN or infinity: remove or repair it first.")
    return image


def displayed(image: Tensor) -> Tensor:
    """An image as float32 in [0, 1] that can be looked at.

    uint8 is as it is. Of other types, whose white is unknown, values that go beyond [0, 1] or fill
    less than a quarter of it are stretched to it.
    """
    pixels = raw_float(image)
    low, high = (float(bound) for bound in pixels.aminmax())
    if image.dtype in (torch.uint8, torch.bool) or (low >= 0 and 0.25 < high <= 1) or low == high:
        return pixels.clamp(0, 1)
    return (pixels - low) / (high - low)


def stack_to_images(array: np.ndarray) -> np.ndarray:
    """The images in a file's array: ``(N, h, w)``, ``(N, h, w, C)`` or ``(N, C, h, w)``.

    Two axes are one grey image; three are one image where the last has 3 or 4 entries, otherwise
    a stack of grey ones.

    Raises:
        ValueError: if it has other axes, or does not hold numbers.
    """
    if array.dtype.kind not in "fbiu":
        raise ValueError(f"images must be numbers, got an array of {array.dtype}")
    if array.ndim == 2 or (array.ndim == 3 and array.shape[-1] in (3, 4)):
        array = array[None]
    fits = array.ndim == 3 or (array.ndim == 4 and {array.shape[1], array.shape[3]} & {1, 3, 4})
    if not fits or 0 in array.shape:
        raise ValueError(
            f"an array of shape {array.shape} is not images. "
            "Expected (h, w), (N, h, w), (N, h, w, C) or (N, C, h, w) with C of 1, 3 or 4"
        )
    return array


def from_numpy(array: np.ndarray) -> Tensor:
    """An array of numbers as a tensor.

    Raises:
        ValueError: if it does not hold numbers.
    """
    if array.dtype == object or array.dtype.kind not in "fbiu":
        raise ValueError(f"images must be numbers, got an array of {array.dtype}.")
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    # Not writable, or with steps backwards: torch refuses the one and warns of the other.
    usable = native.flags.writeable and all(stride >= 0 for stride in native.strides)
    return torch.from_numpy(native if usable else native.copy())


def _channels_first(images: Tensor, name: str = "images") -> Tensor:
    """``(B, C, H, W)`` from that or ``(B, H, W, C)``, whichever it can be."""
    first, last = images.shape[1] in _CHANNELS, images.shape[3] in _CHANNELS
    if first and last and images.shape[1] != images.shape[3]:
        # Both could be: a few pixels high, or a few wide. More channels are the better guess.
        first = images.shape[1] > images.shape[3]
    if first:
        return images
    if last:
        return images.permute(0, 3, 1, 2)
    raise ValueError(
        f"{name} must have 1 (grey), 3 (RGB) or 4 (RGB and alpha) channels, first or last, "
        f"got shape {tuple(images.shape[-3:])}. "
        "A stack of grey images wants a channel axis: images[:, None]."
    )


def _check_type(image: Tensor, name: str) -> None:
    if image.is_complex():
        raise ValueError(f"{name} must be real numbers, got {image.dtype}. Take image.abs().")
