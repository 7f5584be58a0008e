"""Boxes, grids and frames: what every picture is made of."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "BOX_COLORS",
    "as_tiles",
    "draw_boxes",
    "draw_frames",
    "image_grid",
    "reconstruction_grid",
    "to_uint8",
]

BOX_COLORS: tuple[tuple[float, float, float], ...] = (
    (1.0, 0.0, 0.0),  # red
    (0.0, 1.0, 0.0),  # green
    (0.0, 0.0, 1.0),  # blue
    (1.0, 0.8, 0.0),  # yellow
    (1.0, 0.0, 1.0),  # magenta
    (0.0, 0.9, 0.9),  # cyan
    (1.0, 0.5, 0.0),  # orange
    (0.6, 0.3, 0.9),  # purple
)
"""RGB in [0, 1] of the first, second, third ... object; begins anew after the last."""

_PAIR_GAP = 1
"""Pixels between an image and its reconstruction; less than between two pairs."""


def draw_boxes(images: Tensor, boxes: Tensor, num_objects: Tensor, *, scale: int = 3) -> Tensor:
    """Enlarge images and outline the objects in them.

    An outline lies just outside its object, so that it hides nothing of it. Where the object
    touches the image's edge, or reaches beyond it, the outline keeps to the outermost pixels.

    Args:
        images: float in [0, 1] or ``uint8``, shape ``(B, C, H, W)`` with C of 1 or 3.
        boxes: edges in pixels of the original image, shape ``(B, T, 4)``; they may be
            fractional and reach outside the image.
        num_objects: how many of the T boxes to draw, shape ``(B,)``. The others may be NaN.
        scale: how many times larger to make the images, at least 1.

    Returns:
        Float in [0, 1], shape ``(B, 3, scale * H, scale * W)``.

    Raises:
        ValueError: if the shapes do not fit each other, a box to be drawn is not finite, or
            ``scale`` is below 1.
    """
    _check_images(images, "images")
    if scale < 1:
        raise ValueError(f"scale must be a whole number of at least 1, got {scale}.")
    batch = len(images)
    if boxes.dim() != 3 or boxes.shape[0] != batch or boxes.shape[2] != 4:
        raise ValueError(
            f"boxes must have shape (B, T, 4) with B = {batch}, got {tuple(boxes.shape)}."
        )
    if num_objects.shape != (batch,):
        raise ValueError(
            f"num_objects must have shape (B,) with B = {batch}, got {tuple(num_objects.shape)}."
        )
    counts = num_objects.tolist()
    if any(not 0 <= count <= boxes.shape[1] for count in counts):
        raise ValueError(
            f"num_objects must lie between 0 and the {boxes.shape[1]} boxes of an image, "
            f"got {min(counts)} to {max(counts)}."
        )
    pictures = _as_rgb(images)
    pictures = pictures.repeat_interleave(scale, dim=-2).repeat_interleave(scale, dim=-1)
    line = 1 if scale < 3 else 2
    # On the CPU and as plain numbers: a handful of boxes, each at its own place.
    for picture, corners, count in zip(pictures, boxes.tolist(), counts, strict=True):
        for i, box in enumerate(corners[: int(count)]):
            if not all(math.isfinite(edge) for edge in box):
                raise ValueError(
                    f"box {i} of an image with {int(count)} objects is not finite: {box}. "
                    "Only boxes from num_objects on may be."
                )
            color = picture.new_tensor(BOX_COLORS[i % len(BOX_COLORS)])[:, None, None]
            x_min, y_min, x_max, y_max = (edge * scale for edge in box)
            _draw_outline(
                picture,
                left=math.floor(x_min),
                top=math.floor(y_min),
                right=math.ceil(x_max),
                bottom=math.ceil(y_max),
                line=line,
                color=color,
            )
    return pictures


def as_tiles(images: Tensor, size: tuple[int, int], *, background: float = 1.0) -> Tensor:
    """Pictures of one size, to be laid side by side: glimpses as large as the canvas, say.

    Each image is enlarged or shrunk by nearest neighbour, as far as it fits with its proportions
    kept, and centred.

    Args:
        images: float in [0, 1] or ``uint8``, shape ``(B, C, H, W)`` with C of 1 or 3.
        size: height and width of a tile in pixels.
        background: grey value in [0, 1] of what is left free.

    Returns:
        Float in [0, 1], shape ``(B, 3, *size)``.

    Raises:
        ValueError: if the shape does not fit, or the size is below 1.
    """
    _check_images(images, "images")
    if min(size) < 1:
        raise ValueError(f"size must be at least (1, 1), got {tuple(size)}.")
    pictures = _as_rgb(images)
    height, width = pictures.shape[-2:]
    factor = min(size[0] / height, size[1] / width)
    inner = (max(1, round(height * factor)), max(1, round(width * factor)))
    tiles = pictures.new_full((len(pictures), 3, *size), background)
    top, left = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    tiles[:, :, top : top + inner[0], left : left + inner[1]] = F.interpolate(
        pictures, inner, mode="nearest-exact"
    )
    return tiles


def draw_frames(pictures: Tensor, colors: Tensor, *, line: int = 2) -> Tensor:
    """Colour the outermost pixels of pictures.

    Args:
        pictures: float in [0, 1] or ``uint8``, shape ``(B, C, H, W)`` with C of 1 or 3.
        colors: RGB in [0, 1] of each frame, shape ``(B, 3)``.
        line: width of the frame in pixels.

    Returns:
        Float in [0, 1], shape ``(B, 3, H, W)``; the input is not changed.

    Raises:
        ValueError: if the shapes do not fit each other.
    """
    _check_images(pictures, "pictures")
    if colors.shape != (len(pictures), 3):
        raise ValueError(
            f"colors must have shape (B, 3) with B = {len(pictures)}, got {tuple(colors.shape)}."
        )
    framed = _as_rgb(pictures)
    colors = colors.to(framed)[:, :, None, None]
    for edge in (slice(None, line), slice(-line, None)):
        framed[:, :, edge, :] = colors
        framed[:, :, :, edge] = colors
    return framed


def image_grid(
    images: Tensor, *, columns: int, padding: int = 2, background: float = 1.0
) -> Tensor:
    """Lay out images in rows, from left to right and top to bottom.

    Args:
        images: float in [0, 1] or ``uint8``, shape ``(B, C, H, W)`` with C of 1 or 3.
        columns: images in a row. Fewer images than that make a narrower grid.
        padding: pixels between the images and around them.
        background: grey value in [0, 1] of the padding and of places left empty.

    Returns:
        Float in [0, 1], shape ``(3, H', W')``.

    Raises:
        ValueError: if the shape does not fit, or there is no image or no column.
    """
    _check_images(images, "images")
    if columns < 1 or padding < 0 or not 0 <= background <= 1:
        raise ValueError(
            "columns must be at least 1, padding at least 0 and background between 0 and 1, "
            f"got {columns}, {padding} and {background}."
        )
    number, _, height, width = images.shape
    if number == 0:
        raise ValueError("expected at least one image for a grid, got none.")
    columns = min(columns, number)
    rows = math.ceil(number / columns)
    pictures = _as_rgb(images)
    step_y, step_x = height + padding, width + padding
    grid = pictures.new_full((3, rows * step_y + padding, columns * step_x + padding), background)
    for i, picture in enumerate(pictures):
        top, left = padding + i // columns * step_y, padding + i % columns * step_x
        grid[:, top : top + height, left : left + width] = picture
    return grid


def reconstruction_grid(
    images: Tensor,
    canvas: Tensor,
    boxes: Tensor,
    num_objects: Tensor,
    *,
    columns: int = 8,
    scale: int = 3,
) -> Tensor:
    """Images with the inferred boxes, each above its reconstruction with the same boxes.

    Args:
        images: what the model was shown, float in [0, 1] or ``uint8``, shape ``(B, C, H, W)``
            with C of 1 or 3.
        canvas: what it made of them, same shape; values outside [0, 1] are clipped.
        boxes: edges in pixels, shape ``(B, T, 4)``.
        num_objects: how many of the boxes to draw, shape ``(B,)``.
        columns: pairs in a row.
        scale: how many times larger to make the images.

    Returns:
        Float in [0, 1], shape ``(3, H', W')``.

    Raises:
        ValueError: if the shapes do not fit each other; see :func:`draw_boxes`.
    """
    if images.shape != canvas.shape:
        raise ValueError(
            "images and canvas must have the same shape, "
            f"got {tuple(images.shape)} and {tuple(canvas.shape)}."
        )
    above = draw_boxes(images, boxes, num_objects, scale=scale)
    below = draw_boxes(canvas, boxes, num_objects, scale=scale).to(above)
    gap = above.new_full((*above.shape[:2], _PAIR_GAP * scale, above.shape[3]), 0.5)
    pairs = torch.cat([above, gap, below], dim=-2)
    return image_grid(pairs, columns=columns, padding=2 * scale)


def to_uint8(image: Tensor) -> Tensor:
    """One picture in the layout that image libraries write.

    Args:
        image: float in [0, 1], shape ``(C, H, W)`` with C of 1 or 3; values outside are clipped.

    Returns:
        ``uint8`` on the CPU, shape ``(H, W, 3)``.

    Raises:
        ValueError: if the shape does not fit or the values are no floats.
    """
    if image.dim() != 3 or image.shape[0] not in (1, 3) or not image.is_floating_point():
        raise ValueError(
            "image must be float of shape (1, H, W) or (3, H, W), "
            f"got {image.dtype} of shape {tuple(image.shape)}."
        )
    pixels = (_as_rgb(image[None])[0] * 255).round().to(device="cpu", dtype=torch.uint8)
    return pixels.permute(1, 2, 0).contiguous()


def _check_images(images: Tensor, name: str) -> None:
    if images.dim() != 4 or images.shape[1] not in (1, 3):
        hint = " Add the channel axis: images[:, None]." if images.dim() == 3 else ""
        raise ValueError(
            f"{name} must have shape (B, C, H, W) with C of 1 or 3, "
            f"got {tuple(images.shape)}.{hint}"
        )
    if not images.is_floating_point() and images.dtype != torch.uint8:
        raise ValueError(f"{name} must be float in [0, 1] or uint8, got {images.dtype}.")


def _as_rgb(images: Tensor) -> Tensor:
    """Float in [0, 1] with three channels, as a copy that may be drawn on."""
    images = images.detach()
    images = images.float() / 255 if images.dtype == torch.uint8 else images.float()
    # A diverged model's NaN would be an arbitrary colour: black says nothing false.
    images = images.nan_to_num(nan=0.0).clamp(0, 1)
    return images.expand(-1, 3, -1, -1).clone()


def _draw_outline(
    picture: Tensor, *, left: int, top: int, right: int, bottom: int, line: int, color: Tensor
) -> None:
    """Colour the ``line`` pixels around the rectangle, moved inwards at the picture's edge."""
    height, width = picture.shape[-2:]
    outer_left, outer_right = max(left - line, 0), min(right + line, width)
    outer_top, outer_bottom = max(top - line, 0), min(bottom + line, height)
    if outer_left >= outer_right or outer_top >= outer_bottom:
        return  # all of it is outside
    columns, rows = slice(outer_left, outer_right), slice(outer_top, outer_bottom)
    picture[:, outer_top : min(outer_top + line, outer_bottom), columns] = color
    picture[:, max(outer_bottom - line, outer_top) : outer_bottom, columns] = color
    picture[:, rows, outer_left : min(outer_left + line, outer_right)] = color
    picture[:, rows, max(outer_right - line, outer_left) : outer_right] = color
