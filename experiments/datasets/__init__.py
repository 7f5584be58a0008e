"""The data sets, by name. Made on first use, then kept in a cache.

>>> sorted(DATASETS)
['multi-mnist', 'multi-mnist-pyro', 'multi-mnist-pyro-bicubic']
"""

import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from experiments.datasets.mnist import (
    Digits,
    MNISTUnavailable,
    embedded_digits,
    full_mnist,
    read_idx,
)
from experiments.datasets.multi_mnist import multi_mnist, pyro_multi_mnist
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
    "Scenes",
    "cache_path",
    "check_max_objects",
    "default_data_root",
    "embedded_digits",
    "full_mnist",
    "load_dataset",
    "multi_mnist",
    "pyro_multi_mnist",
    "read_idx",
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
    pixel_sum: int
    """Sum of all pixels of both halves; anything else is not this data set."""
    canvas_size: tuple[int, int] = (50, 50)
    """Height and width of the images in pixels."""
    channels: int = 1
    max_count: int = 2
    """The most objects in a scene."""
    z_where_mean: tuple[float, float, float] = (3.0, 0.0, 0.0)
    """Prior mean of (s, x, y) that fits the objects' size."""


DEFAULT_DATASET = "multi-mnist"

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
    )
}


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
        name: one of ``DATASETS``.
        data_root: folder of the cache, see :func:`default_data_root`.
        mnist_root: folder of full MNIST, see :func:`full_mnist`. Not looked at when the data
            set is in the cache already.
        progress: whether to show a bar on stderr while making it.

    Raises:
        ValueError: if the name is unknown, or the digits found are not MNIST's.
        FileNotFoundError: if ``mnist_root`` is given, needed, and holds no MNIST.
    """
    spec = _spec(name)
    path = cache_path(name, data_root)
    cached = _load_cached(path, spec)
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
    if splits.pixel_sum != spec.pixel_sum:
        raise ValueError(
            f"{name} came out with a pixel sum of {splits.pixel_sum}, expected {spec.pixel_sum}: "
            "its digits are not those of MNIST, or this version of Pillow resizes differently. "
            "Check the folder of MNIST, or use the version of Pillow that the package names."
        )
    try:
        save_splits(splits, path)
    except OSError as error:
        _warn(f"{name} cannot be cached in {path.parent} ({error}): it is made anew each time.")
    return splits


def cache_path(name: str, data_root: str | Path | None = None) -> Path:
    """The file that a data set is kept in, whether it is there or not.

    Raises:
        ValueError: if the name is unknown.
    """
    root = default_data_root() if data_root is None else Path(data_root).expanduser()
    return root / f"{_spec(name).name}-v{_CACHE_VERSION}.npz"


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


def _spec(name: str) -> DatasetSpec:
    if name not in DATASETS:
        raise ValueError(
            f"unknown data set {name!r}. Expected one of: {', '.join(sorted(DATASETS))}."
        )
    return DATASETS[name]


def _load_cached(path: Path, spec: DatasetSpec) -> DataSplits | None:
    """The data set from its file; None if that is absent or not to be trusted."""
    try:
        splits = load_splits(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (DamagedFileError, OSError) as error:
        _warn(f"{error} It is made anew.")
        return None
    if splits.name != spec.name or splits.pixel_sum != spec.pixel_sum:
        _warn(f"{path} holds another data set than {spec.name}. It is made anew.")
        return None
    return splits


def _warn(message: str) -> None:
    """Print one line to stderr, whatever a quoted error holds."""
    print(f"warning: {' '.join(message.split())}", file=sys.stderr)
