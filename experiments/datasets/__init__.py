"""The data sets, by name. Made on first use, then kept in a cache.

>>> DATASETS["multi-dsprites"].channels
3

Besides those of :data:`DATASETS` there are scenes made to order, ``scenes:canvas=100,...``
(:mod:`experiments.datasets.scene_config`), people's own images, ``folder:PATH``
(:mod:`experiments.datasets.folder`), and shards (:mod:`experiments.datasets.sharded_scenes`);
:mod:`experiments.datasets.sources` opens any of them. Images in memory are wrapped by
:func:`as_scenes` and :func:`split_scenes`.
"""

import dataclasses
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from air.object_size import LEAST_SCALE_SD, position_sd
from experiments.datasets.folder import FolderSpec, load_folder
from experiments.datasets.generator import generate
from experiments.datasets.mnist import (
    Digits,
    MNISTUnavailable,
    embedded_digits,
    full_mnist,
    read_idx,
)
from experiments.datasets.multi_mnist import multi_mnist, pyro_multi_mnist
from experiments.datasets.own_images import as_scenes, split_scenes
from experiments.datasets.scene_config import PREFIX as SCENES_PREFIX
from experiments.datasets.scene_config import SceneConfig, parse_scenes
from experiments.datasets.scenes import (
    DamagedFileError,
    DataSplits,
    Scenes,
    check_max_objects,
    load_splits,
    save_splits,
)

__all__ = [
    "DATASETS",
    "DEFAULT_DATASET",
    "DataSplits",
    "DatasetSpec",
    "Digits",
    "MNISTUnavailable",
    "SceneConfig",
    "Scenes",
    "as_scenes",
    "cache_path",
    "check_max_objects",
    "default_data_root",
    "embedded_digits",
    "find_spec",
    "full_mnist",
    "generate",
    "images_cache_path",
    "load_dataset",
    "load_images",
    "multi_mnist",
    "pyro_multi_mnist",
    "read_idx",
    "save_splits",
    "split_scenes",
]

DATA_ROOT_VARIABLE = "AIR_DATA_ROOT"

_CACHE_VERSION = 2
"""Raised when a file of old would be misread, or a data set is made differently."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DatasetSpec:
    """What is known about a data set before it is made, and the model settings that fit it."""

    name: str
    description: str
    """One line."""
    make: Callable[[Digits, bool], DataSplits]
    """From digits, and whether to show a progress bar."""
    needs_full_mnist: bool
    """Whether it is made of MNIST's 60 000 training digits, which are not shipped."""
    pixel_sum: int | None
    """Sum of all pixels of both halves; anything else is not this data set. None of scenes made
    to order, whose sum nobody knows before."""
    canvas_size: tuple[int, int] = (50, 50)
    """Height and width of the images in pixels."""
    channels: int = 1
    max_count: int = 2
    """The most objects in a scene."""
    z_where_mean: tuple[float, float, float] = (3.0, 0.0, 0.0)
    """Prior mean of (s, x, y) that fits the objects' size."""
    scale_sd: float = LEAST_SCALE_SD
    """Prior standard deviation of s."""

    @property
    def z_where_sd(self) -> tuple[float, float, float]:
        """Prior standard deviation of (s, x, y); that of the place follows from the scale."""
        place = position_sd(self.z_where_mean[0])
        return self.scale_sd, place, place


def _made_to_order(
    config: SceneConfig,
    description: str,
    *,
    name: str | None = None,
    pixel_sum: int | None = None,
) -> DatasetSpec:
    """Scenes that a configuration describes; under their own name, or another.

    Args:
        config: how they are made.
        description: one line.
        name: default: the configuration's.
        pixel_sum: of all scenes, if it is known.
    """
    mean, sd = config.scale
    return DatasetSpec(
        name=config.name if name is None else name,
        description=description,
        make=lambda digits, progress: generate(config, digits, name=name, progress=progress),
        needs_full_mnist=False,
        pixel_sum=pixel_sum,
        canvas_size=config.canvas,
        channels=config.channels,
        max_count=config.max_count,
        z_where_mean=(mean, 0.0, 0.0),
        scale_sd=sd,
    )


_DIGITS_OF_18 = SceneConfig(canvas=(64, 64), sprites="binary-digits")
_SHAPES_OF_18 = SceneConfig(canvas=(64, 64), sprites="shapes", colors=7)

DEFAULT_DATASET = "multi-mnist"


def _other_counts(name: str, counts: tuple[int, ...], purpose: str, pixel_sum: int) -> DatasetSpec:
    """Scenes made as ``multi-mnist`` is, with other numbers of digits."""
    return DatasetSpec(
        name=name,
        description=f"{', '.join(map(str, counts))} digits, made as multi-mnist is; {purpose}",
        make=lambda digits, progress: multi_mnist(
            digits, counts=counts, name=name, progress=progress
        ),
        needs_full_mnist=False,
        pixel_sum=pixel_sum,
        max_count=max(counts),
    )


DATASETS: dict[str, DatasetSpec] = {
    spec.name: spec
    for spec in (
        DatasetSpec(
            name="multi-mnist",
            description="0-2 digits in 50x50, made of digits shipped with the package; "
            "train and held out share none",
            make=lambda digits, progress: multi_mnist(digits, progress=progress),
            needs_full_mnist=False,
            pixel_sum=893_860_486,
        ),
        DatasetSpec(
            name="multi-mnist-pyro",
            description="the multi-MNIST of Pyro's AIR example, bit for bit; needs full MNIST",
            make=lambda digits, progress: pyro_multi_mnist(digits, progress=progress),
            needs_full_mnist=True,
            pixel_sum=883_114_919,
        ),
        DatasetSpec(
            name="multi-mnist-pyro-bicubic",
            description="the same as Pyro's code makes it today, with bicubic resizing; "
            "needs full MNIST",
            make=lambda digits, progress: pyro_multi_mnist(
                digits, resample="bicubic", progress=progress
            ),
            needs_full_mnist=True,
            pixel_sum=894_575_454,
        ),
        _other_counts(
            "multi-mnist-0-1-3",
            (0, 1, 3),
            "to learn from where 2 is a number never seen",
            pixel_sum=1_167_491_621,
        ),
        _other_counts(
            "multi-mnist-2", (2,), "to judge by after 0, 1 or 3", pixel_sum=1_775_693_411
        ),
        _other_counts("multi-mnist-3", (3,), "to judge by after 0 to 2", pixel_sum=2_585_369_164),
        _made_to_order(
            _DIGITS_OF_18,
            "0-2 binary digits of 18x18 in 64x64, which may overlap; shipped digits, "
            "train and held out share none",
            name="multi-mnist-small",
            pixel_sum=658_808_565,
        ),
        _made_to_order(
            dataclasses.replace(_DIGITS_OF_18, size=(9, 18)),
            "the same with digits of 9x9 to 18x18",
            name="multi-mnist-small-9-18",
            pixel_sum=391_093_755,
        ),
        _made_to_order(
            _SHAPES_OF_18,
            "0-2 squares, ellipses and hearts of 18 pixels in seven colours, rotated, which may "
            "overlap, in 64x64",
            name="multi-dsprites",
            pixel_sum=3_695_678_535,
        ),
        _made_to_order(
            dataclasses.replace(_SHAPES_OF_18, size=(9, 18)),
            "the same with shapes of 9 to 18 pixels",
            name="multi-dsprites-9-18",
            pixel_sum=2_183_375_535,
        ),
    )
}


def find_spec(name: str) -> DatasetSpec:
    """What is known about a registered data set, or about ``scenes:...``.

    Raises:
        ValueError: if the name is unknown, or a setting of the scenes makes no sense.
    """
    if name.startswith(SCENES_PREFIX):
        return _made_to_order(parse_scenes(name), "scenes made to order")
    if name not in DATASETS:
        raise ValueError(
            f"unknown data set {name!r}. Expected one of: {', '.join(DATASETS)}, "
            "scenes:SETTINGS, folder:PATH or shards:FOLDER."
        )
    return DATASETS[name]


def load_dataset(
    name: str,
    *,
    data_root: str | Path | None = None,
    mnist_root: str | Path | None = None,
    progress: bool = True,
) -> DataSplits:
    """Load a data set from the cache, or make it and put it there.

    Where full MNIST is needed and cannot be had, one line on stderr says so and the embedded
    ``multi-mnist`` is returned: look at ``.name`` for what it is.

    Args:
        name: one of ``DATASETS``, or ``scenes:...``.
        data_root: folder of the cache, see :func:`default_data_root`.
        mnist_root: folder of full MNIST, see :func:`full_mnist`. Not looked at when the data
            set is in the cache already.
        progress: whether to show a bar on stderr while making it.

    Raises:
        ValueError: if the name is unknown, or the digits found are not MNIST's.
        FileNotFoundError: if ``mnist_root`` is given, needed, and holds no MNIST.
    """
    spec = find_spec(name)
    path = cache_path(name, data_root)
    cached = _load_cached(path, spec.name, spec.pixel_sum)
    if cached is not None:
        return cached
    if spec.needs_full_mnist:
        try:
            digits = full_mnist(
                None if mnist_root is None else Path(mnist_root).expanduser(),
                data_root=path.parent,
            )
        except MNISTUnavailable as error:
            _warn(
                f"{name} needs MNIST's 60 000 training digits, which are not on this machine nor "
                f"to be downloaded ({error}): the embedded {DEFAULT_DATASET} is used instead. "
                "Give --mnist-root the folder that holds them."
            )
            return load_dataset(DEFAULT_DATASET, data_root=data_root, progress=progress)
    else:
        digits = embedded_digits()
    splits = spec.make(digits, progress)
    if spec.pixel_sum not in (None, splits.pixel_sum):
        raise ValueError(
            f"{name} came out with a pixel sum of {splits.pixel_sum}, expected {spec.pixel_sum}: "
            "its digits are not those of MNIST, or this version of Pillow resizes differently. "
            "Check the folder of MNIST, or use the version of Pillow that the package names."
        )
    _save(splits, path)
    return splits


def load_images(
    spec: FolderSpec, *, data_root: str | Path | None = None, progress: bool = True
) -> DataSplits:
    """Load people's own images, from the cache if no file has changed since they were read.

    Args:
        spec: where they are.
        data_root: folder of the cache, see :func:`default_data_root`.
        progress: whether to show a bar on stderr while reading them.

    Raises:
        FileNotFoundError: if there is no such folder or file, or no image in it.
        OSError: if a file cannot be read.
        ValueError: if one is damaged, or the labels do not fit the images.
    """
    path = images_cache_path(spec, data_root)
    cached = _load_cached(path, None, None)
    if cached is not None:
        return cached
    splits = load_folder(spec, progress=progress)
    _save(splits, path)
    return splits


def cache_path(name: str, data_root: str | Path | None = None) -> Path:
    """The file that a data set is kept in, whether it is there or not.

    Raises:
        ValueError: if the name is unknown.
    """
    root = default_data_root() if data_root is None else Path(data_root).expanduser()
    stem = find_spec(name).name
    if stem.startswith(SCENES_PREFIX):
        stem = f"scenes-{parse_scenes(name).fingerprint()[:20]}"
    return root / f"{stem}-v{_CACHE_VERSION}.npz"


def images_cache_path(spec: FolderSpec, data_root: str | Path | None = None) -> Path:
    """The file that images which were read are kept in; another once a file of theirs changes.

    Raises:
        FileNotFoundError: if there is no such folder or file, or no image in it.
    """
    root = default_data_root() if data_root is None else Path(data_root).expanduser()
    return root / f"folder-{spec.fingerprint()[:20]}-v{_CACHE_VERSION}.npz"


def default_data_root() -> Path:
    """``$AIR_DATA_ROOT``, else ``air`` in ``$XDG_CACHE_HOME``, else ``~/.cache/air``."""
    if root := os.environ.get(DATA_ROOT_VARIABLE):
        return Path(root).expanduser()
    # Relative ones are to be ignored, says the XDG base directory specification.
    if (root := os.environ.get("XDG_CACHE_HOME")) and Path(root).is_absolute():
        return Path(root) / "air"
    try:
        return Path.home() / ".cache" / "air"
    except RuntimeError:  # a container's user without a home
        return Path(tempfile.gettempdir()) / "air"


def _load_cached(path: Path, name: str | None, pixel_sum: int | None) -> DataSplits | None:
    """The data set from its file; None if that is absent or not to be trusted."""
    try:
        splits = load_splits(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (DamagedFileError, OSError) as error:
        _warn(f"{error} It is made anew.")
        return None
    if name not in (None, splits.name) or pixel_sum not in (None, splits.pixel_sum):
        _warn(f"{path} holds another data set than {name}. It is made anew.")
        return None
    return splits


def _save(splits: DataSplits, path: Path) -> None:
    try:
        save_splits(splits, path)
    except OSError as error:
        _warn(
            f"{splits.name} cannot be cached in {path.parent} ({error}): it is made anew each time."
        )


def _warn(message: str) -> None:
    """Print one line to stderr, whatever a quoted error holds."""
    print(f"warning: {' '.join(message.split())}", file=sys.stderr)
