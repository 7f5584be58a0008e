"""Data sets by what ``--dataset`` says: a registered name, or ``shards:FOLDER``."""

from pathlib import Path

from experiments.datasets import DATASETS, load_dataset
from experiments.datasets.scenes import DataSplits
from experiments.datasets.sharded_scenes import PREFIX, ShardedSplits, open_shards
from experiments.datasets.shards import read_index

__all__ = ["check_dataset", "folder_name", "open_dataset", "z_where_mean"]


def check_dataset(name: str) -> None:
    """Check that there is such a data set, before any work is done for it.

    Raises:
        ValueError: if the name is unknown, or the folder's index is not to be trusted.
        FileNotFoundError: if the folder holds no shards.
    """
    if name.startswith(PREFIX):
        read_index(_folder(name))
    elif name not in DATASETS:
        raise ValueError(
            f"unknown data set {name!r}. Expected one of: {', '.join(DATASETS)}, or {PREFIX}FOLDER."
        )


def open_dataset(
    name: str, *, data_root: str | Path | None = None, mnist_root: str | Path | None = None
) -> DataSplits | ShardedSplits:
    """Load a registered data set, or open shards; see ``load_dataset`` and ``open_shards``."""
    if name.startswith(PREFIX):
        return open_shards(_folder(name))
    return load_dataset(name, data_root=data_root, mnist_root=mnist_root)


def z_where_mean(name: str) -> tuple[float, float, float]:
    """Prior mean of (s, x, y) that fits the objects' size in a data set."""
    if name.startswith(PREFIX):
        return read_index(_folder(name)).z_where_mean
    return DATASETS[name].z_where_mean


def folder_name(name: str) -> str:
    """A data set's name as a part of a file's name."""
    return f"shards-{_folder(name).resolve().name}" if name.startswith(PREFIX) else name


def _folder(name: str) -> Path:
    return Path(name.removeprefix(PREFIX)).expanduser()
