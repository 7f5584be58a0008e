"""Data sets by what ``--dataset`` says.

A registered name, ``scenes:SETTINGS`` (made to order), ``folder:PATH`` (people's own images) or
``shards:FOLDER``.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from air.object_size import scale_prior
from experiments.datasets import (
    DATASETS,
    cache_path,
    find_spec,
    images_cache_path,
    load_dataset,
    load_images,
)
from experiments.datasets.folder import PREFIX as FOLDER
from experiments.datasets.folder import parse_folder
from experiments.datasets.object_scale import MAX_IMAGES, estimate
from experiments.datasets.scene_config import PREFIX as SCENES
from experiments.datasets.scene_config import parse_scenes
from experiments.datasets.scenes import DataSplits
from experiments.datasets.sharded_scenes import PREFIX as SHARDS
from experiments.datasets.sharded_scenes import ShardedSplits, open_shards
from experiments.datasets.shards import read_index

__all__ = [
    "FOLDER",
    "SCENES",
    "SHARDS",
    "ScalePrior",
    "absolute_name",
    "cached_file",
    "canonical_name",
    "check_dataset",
    "describe_names",
    "estimate_prior",
    "folder_name",
    "known_prior",
    "open_dataset",
]

_BRIGHT = 0.4
"""Share of white that no black background has."""
_CROWDED = 0.75
"""Share of the canvas that no object is as large as."""
_MOST_REGIONS = 50
"""In an image; more are noise."""


@dataclass(frozen=True, kw_only=True)
class ScalePrior:
    """The prior of (s, x, y) that fits a data set's objects."""

    mean: tuple[float, float, float]
    sd: tuple[float, float, float]
    source: str
    """Where it comes from, for a line that tells it."""
    doubt: str | None = None
    """What speaks against it, if anything does."""


def describe_names() -> str:
    """What ``--dataset`` takes, for a help text."""
    return f"{', '.join(DATASETS)}, {SCENES}KEY=VALUE,..., {FOLDER}PATH or {SHARDS}FOLDER"


def check_dataset(name: str) -> None:
    """Check that there is such a data set, before any work is done for it.

    Raises:
        ValueError: if the name is unknown, a setting in it makes no sense, or the index of a
            folder of shards is not to be trusted.
        FileNotFoundError: if the folder holds no shards, or no images.
    """
    if name.startswith(SHARDS):
        read_index(_shards(name))
    elif name.startswith(FOLDER):
        parse_folder(name).files()
    elif name.startswith(SCENES):
        parse_scenes(name).fingerprint()  # looks for the sprites
    else:
        find_spec(name)


def open_dataset(
    name: str,
    *,
    data_root: str | Path | None = None,
    mnist_root: str | Path | None = None,
    progress: bool = True,
) -> DataSplits | ShardedSplits:
    """Load or make a data set; see ``load_dataset``, ``load_images`` and ``open_shards``."""
    if name.startswith(SHARDS):
        return open_shards(_shards(name))
    if name.startswith(FOLDER):
        return load_images(parse_folder(name), data_root=data_root, progress=progress)
    return load_dataset(name, data_root=data_root, mnist_root=mnist_root, progress=progress)


def known_prior(name: str) -> ScalePrior | None:
    """The prior that a data set comes with; None of people's own images: :func:`estimate_prior`."""
    if name.startswith(FOLDER):
        return None
    if name.startswith(SHARDS):
        index = read_index(_shards(name))
        return ScalePrior(mean=index.z_where_mean, sd=index.z_where_sd, source="of the shards")
    spec = find_spec(name)
    return ScalePrior(mean=spec.z_where_mean, sd=spec.z_where_sd, source="of the data set")


def estimate_prior(splits: DataSplits) -> ScalePrior:
    """The prior that fits the objects in a data set's training images, by looking at these alone.

    Raises:
        ValueError: if no object stands out from the background.
    """
    images = splits.train.images
    found = estimate(images)
    canvas = (images.shape[2], images.shape[3])
    prior = scale_prior(canvas, found.size, found.spread)
    doubt = None
    bright = images[:MAX_IMAGES].float().median().item() / 255
    if bright > _BRIGHT:
        doubt = (
            f"the background is bright ({bright:.0%} of white), but the model's is black: "
            f"give {FOLDER}PATH?invert=yes if the objects are dark"
        )
    elif found.size > _CROWDED * min(canvas):
        doubt = "nothing stands out from the background by itself"
    elif found.num_components > _MOST_REGIONS * min(MAX_IMAGES, len(images)):
        doubt = "most of these regions must be noise"
    return ScalePrior(
        mean=prior["z_where_mean"],
        sd=prior["z_where_sd"],
        source=f"objects of some {found.size:.1f} +- {found.spread:.1f} pixels, estimated from "
        f"{found.num_components} bright regions",
        doubt=doubt,
    )


def cached_file(name: str, data_root: str | Path | None = None) -> Path:
    """The file that a data set is kept in, whether it is there or not; not for shards.

    Raises:
        FileNotFoundError: if people's own images are not where the name says.
        ValueError: if the name is unknown.
    """
    if name.startswith(FOLDER):
        return images_cache_path(parse_folder(name), data_root)
    return cache_path(name, data_root)


def canonical_name(name: str) -> str:
    """A data set's name as the data set itself gives it, wherever it is asked from."""
    if name.startswith(SHARDS):
        return f"{SHARDS}{_shards(name).resolve()}"
    if name.startswith(FOLDER):
        return parse_folder(name).name
    return find_spec(name).name


def absolute_name(name: str) -> str:
    """A data set's name with an absolute path, where there is a path in it.

    Raises:
        ValueError: if a setting in it makes no sense.
    """
    return canonical_name(name) if name.startswith((FOLDER, SHARDS)) else name


def folder_name(name: str) -> str:
    """A data set's name as a part of a file's name."""
    if name.startswith(SHARDS):
        return f"shards-{_shards(name).resolve().name}"
    if name.startswith(FOLDER):
        return f"folder-{parse_folder(name).path.resolve().name}"
    if name.startswith(SCENES):
        return f"scenes-{hashlib.sha256(find_spec(name).name.encode()).hexdigest()[:8]}"
    return name


def _shards(name: str) -> Path:
    return Path(name.removeprefix(SHARDS)).expanduser()
