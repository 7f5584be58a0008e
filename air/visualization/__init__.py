"""Pictures of what a model sees and makes: tensors in, tensors out.

Boxes are ``(x_min, y_min, x_max, y_max)`` in pixels, of edges: a box of the whole image is
``(0, 0, W, H)``. Show a picture with any library, e.g. ``PIL.Image.fromarray(
to_uint8(picture).numpy())``.
"""

from air.visualization.drawing import (
    BOX_COLORS,
    as_tiles,
    draw_boxes,
    draw_frames,
    image_grid,
    reconstruction_grid,
    to_uint8,
)
from air.visualization.looks import look_map

__all__ = [
    "BOX_COLORS",
    "as_tiles",
    "draw_boxes",
    "draw_frames",
    "image_grid",
    "look_map",
    "reconstruction_grid",
    "to_uint8",
]
