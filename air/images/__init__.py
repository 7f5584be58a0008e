"""Pixels in, one way for all: read, normalise by the picture, scale by the objects, tile."""

from air.images.arrays import as_float, as_images, displayed, raw_float, to_channels, without_alpha
from air.images.describe import (
    Description,
    bright_on_dark,
    describe_images,
    differences,
    training_canvases,
)
from air.images.files import find_images, open_pillow, read_image
from air.images.normalise import Measurement, measure, normalise
from air.images.preparation import Frame, Preparation
from air.images.read import Picture, Pictures, Skipped
from air.images.tile import Tile, cut_tiles, merge_counts, merge_detections, tile_starts

__all__ = [
    "Description",
    "Frame",
    "Measurement",
    "Picture",
    "Pictures",
    "Preparation",
    "Skipped",
    "Tile",
    "as_float",
    "as_images",
    "bright_on_dark",
    "cut_tiles",
    "describe_images",
    "differences",
    "displayed",
    "find_images",
    "measure",
    "merge_counts",
    "merge_detections",
    "normalise",
    "open_pillow",
    "raw_float",
    "read_image",
    "tile_starts",
    "to_channels",
    "training_canvases",
    "without_alpha",
]
