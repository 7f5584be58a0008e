"""Images of any layout and size as one kind: a list of tensors ``(C, h, w)`` in [0, 1]."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["as_float", "as_images", "to_channels"]

_CHANNELS = (1, 3, 4)

_UNSIGNED = {torch.uint8: 255, torch.uint16: 65535}
"""Whole-number types that images come in, and what is white in them."""


def as_images(images: Any) -> list[Tensor]:
    """Read images as a list, in the type they came in, channels first.

    Args:
        images: one of

            - a tensor or array ``(B, C, H, W)`` or ``(B, H, W, C)``;
            - one image ``(C, H, W)``, ``(H, W, C)`` or ``(H, W)``;
            - a list of images, of any sizes.

            C is 1 (grey), 3 (RGB) or 4 (with an alpha channel, shown on white). Values are float
            in [0, 1], bool, uint8 (0 to 255) or uint16 (0 to 65535).

    Returns:
        Tensors ``(C, h, w)``; they share memory with what was given.

    Raises:
        ValueError: if a shape, type or range makes no image, or there is none.
    """
    if isinstance(images, np.ndarray):
        images = _from_numpy(images)
    if isinstance(images, Tensor):
        if images.dim() == 4:
            batch = list(_channels_first(images))
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
        image = _from_numpy(image)
    if not isinstance(image, Tensor):
        raise ValueError(
            f"{name} must be a tensor or a numpy array, got {type(image).__name__}. "
            "Read files with air.image_files.read_image."
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
    """Grey from RGB, RGB from grey; an alpha channel is shown on white.

    Args:
        image: float in [0, 1], ``(C, h, w)`` with C of 1, 3 or 4.
        channels: 1 or 3. Grey is the mean of red, green and blue.

    Returns:
        ``(channels, h, w)``.
    """
    if image.shape[0] == 4:
        color, alpha = image.split([3, 1])
        image = color * alpha + (1 - alpha)
    if image.shape[0] == channels:
        return image
    if channels == 1:
        return image.mean(dim=0, keepdim=True)
    return image.expand(channels, -1, -1)


def _from_numpy(array: np.ndarray) -> Tensor:
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
    if image.dtype not in _UNSIGNED and image.dtype != torch.bool and not image.is_floating_point():
        raise ValueError(
            f"{name} must be float in [0, 1], bool, uint8 or uint16, got {image.dtype}. "
            "Convert it, such as image.to(torch.uint8)."
        )
