"""Large data sets: folders of uint8 ``.npy`` files that are mapped, not loaded.

A folder holds ``index.json`` and, for each half and shard, one file a field::

    index.json
    train/images_00000.npy        uint8 (n, C, H, W)
    train/num_objects_00000.npy   int64 (n,)
    train/classes_00000.npy       int64 (n, M)
    train/boxes_00000.npy         float32 (n, M, 4)
    train/masks_00000.npy         uint8 (n, M, H, ceil(W / 8)), if the masks are known
    train/images_00001.npy        ...
    held_out/images_00000.npy     ...

The index says how many scenes each shard has, their shape, and the SHA-256 of each file. Types
and sizes are checked when a shard is opened, checksums by :func:`verify_shards`, since that
reads everything. No file is ever unpickled.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.datasets.scenes import (
    Scenes,
    packed_width,
)
from experiments.files import DamagedFileError, open_file, read_json, write_file

__all__ = [
    "DTYPES",
    "ShardIndex",
    "check_writable",
    "open_array",
    "read_index",
    "verify_shards",
    "write_shards",
]

_FORMAT = "air-shards-1"
DTYPES = {
    "images": "uint8",
    "num_objects": "int64",
    "classes": "int64",
    "boxes": "float32",
    "masks": "uint8",
}
"""The fields of a shard, the last of which may be missing; see
:class:`experiments.datasets.scenes.Scenes`."""
_UNMASKED = tuple(DTYPES)[:-1]
_SPLITS = ("train", "held_out")


@dataclass(frozen=True, kw_only=True, eq=False)
class ShardIndex:
    """What ``index.json`` says about a folder of shards."""

    folder: Path
    name: str
    """Of the data set that was written."""
    image_shape: tuple[int, int, int]
    """``(C, H, W)`` in pixels."""
    max_count: int
    """M, the most objects that a scene can hold."""
    z_where_mean: tuple[float, float, float]
    """Prior mean of (s, x, y) that fits the objects' size."""
    z_where_sd: tuple[float, float, float]
    """Prior standard deviation of (s, x, y)."""
    sizes: dict[str, tuple[int, ...]]
    """Scenes in each shard, by half."""
    sha256: dict[str, tuple[dict[str, str], ...]]
    """Checksum of each shard's file of each field, by half."""

    @property
    def fields(self) -> tuple[str, ...]:
        """What each shard holds."""
        return tuple(self.sha256["train"][0])

    def path(self, split: str, field: str, shard: int) -> Path:
        """The file that holds one field of one shard."""
        return self.folder / split / f"{field}_{shard:05}.npy"

    def shape(self, split: str, field: str, shard: int) -> tuple[int, ...]:
        """What that file's array must have."""
        rows = (self.sizes[split][shard],)
        rest = {
            "images": self.image_shape,
            "num_objects": (),
            "classes": (self.max_count,),
            "boxes": (self.max_count, 4),
            "masks": (self.max_count, self.image_shape[1], packed_width(self.image_shape[2])),
        }
        return rows + rest[field]


def write_shards(
    folder: str | Path,
    *,
    name: str,
    train: Iterable[Scenes],
    held_out: Iterable[Scenes],
    z_where_mean: tuple[float, float, float] = (3.0, 0.0, 0.0),
    z_where_sd: tuple[float, float, float] = (0.2, 1.0, 1.0),
    shard_size: int = 8192,
) -> ShardIndex:
    """Write a data set as shards. The index comes last: without it the folder is none.

    Args:
        folder: to be made; must not exist, or be empty.
        name: of the data set.
        train: scenes to learn from, chunk by chunk, so that they need never all be in memory.
        held_out: scenes to judge by, likewise.
        z_where_mean: prior mean of (s, x, y) that fits the objects' size.
        z_where_sd: prior standard deviation of (s, x, y).
        shard_size: scenes a shard, at most. A chunk is split, never joined with the next.

    Raises:
        FileExistsError: if the folder holds something.
        ValueError: if a half is empty, or its chunks' shapes differ.
        OSError: if a file cannot be written.
    """
    folder = Path(folder)
    check_writable(folder, shard_size)
    halves: dict[str, Any] = {}
    shapes: set[tuple[tuple[int, ...], int, bool]] = set()
    for split, chunks in (("train", train), ("held_out", held_out)):
        shards: list[dict[str, Any]] = []
        for chunk in chunks:
            for start in range(0, len(chunk), shard_size):
                scenes = chunk[start : start + shard_size]
                masked = scenes.masks is not None
                shapes.add((tuple(scenes.images.shape[1:]), scenes.max_count, masked))
                if len(shapes) > 1:
                    raise ValueError(
                        "all scenes must have one shape of images and one max_count, and masks or "
                        f"none, got {shapes}."
                    )
                files = _write_shard(scenes, folder / split, len(shards))
                shards.append({"num_scenes": len(scenes), "sha256": files})
        if not shards:
            raise ValueError(f"{split} of {name} holds no scene. Expected at least one.")
        halves[split] = {
            "num_scenes": sum(shard["num_scenes"] for shard in shards),
            "shards": shards,
        }
    ((image_shape, max_count, _),) = shapes
    content = {
        "format": _FORMAT,
        "name": name,
        "image_shape": list(image_shape),
        "max_count": max_count,
        "z_where_mean": list(z_where_mean),
        "z_where_sd": list(z_where_sd),
        **halves,
    }
    text = json.dumps(content, indent=1) + "\n"
    write_file(folder / "index.json", text.encode())
    return read_index(folder)


def check_writable(folder: Path, shard_size: int) -> None:
    """Check that :func:`write_shards` can begin, before the scenes are made.

    Raises:
        FileExistsError: if the folder holds something, or is a file.
        ValueError: if a shard would hold no scene.
    """
    if shard_size < 1:
        raise ValueError(f"shard size must be at least 1 scene, got {shard_size}.")
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise FileExistsError(f"{folder} is not empty. Give another folder, or remove it.")


def read_index(folder: str | Path) -> ShardIndex:
    """What the index says; the shards themselves are not looked at.

    Raises:
        FileNotFoundError: if there is none.
        DamagedFileError: if it contradicts itself or is no index of ours.
    """
    folder = Path(folder)
    path = folder / "index.json"
    try:
        content = read_json(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(
            f"{folder} holds no index.json: it is no folder of shards, or its writing was "
            "interrupted. Write one with: python main.py data NAME --write-shards FOLDER."
        ) from error
    try:
        if content["format"] != _FORMAT:
            raise ValueError(f"its format is {content['format']!r}, expected {_FORMAT!r}")
        channels, height, width = (_positive(size) for size in content["image_shape"])
        mean = _three(content["z_where_mean"])
        sd = _three(content.get("z_where_sd", [0.2, 1.0, 1.0]))  # older ones do not say it
        sizes = {
            split: tuple(_positive(shard["num_scenes"]) for shard in content[split]["shards"])
            for split in _SPLITS
        }
        for split in _SPLITS:
            if content[split]["num_scenes"] != sum(sizes[split]) or not sizes[split]:
                raise ValueError(
                    f"{split} is said to hold {content[split]['num_scenes']} scenes, "
                    f"its {len(sizes[split])} shards {sum(sizes[split])}"
                )
        fields = tuple(content["train"]["shards"][0]["sha256"])
        fields = tuple(DTYPES) if "masks" in fields else _UNMASKED
        return ShardIndex(
            folder=folder,
            name=str(content["name"]),
            image_shape=(channels, height, width),
            max_count=_count(content["max_count"]),
            z_where_mean=mean,
            z_where_sd=sd,
            sizes=sizes,
            sha256={
                split: tuple(
                    {field: str(shard["sha256"][field]) for field in fields}
                    for shard in content[split]["shards"]
                )
                for split in _SPLITS
            },
        )
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise DamagedFileError(f"{path} is no index of shards ({error!r}).") from error


def verify_shards(index: ShardIndex) -> Iterator[Path]:
    """Check every file of a folder against its checksum: reads everything. Yields each file read.

    Raises:
        DamagedFileError: if one is missing or altered, or the labels are not valid.
    """
    for split in _SPLITS:
        for shard, checksums in enumerate(index.sha256[split]):
            for field, expected in checksums.items():
                path = index.path(split, field, shard)
                open_array(path, DTYPES[field], index.shape(split, field, shard))
                with open_file(path) as file:
                    found = hashlib.file_digest(file, "sha256").hexdigest()
                if found != expected:
                    raise DamagedFileError(
                        f"{path} is damaged: its checksum is not the one it was written with."
                    )
                yield path


def _write_shard(scenes: Scenes, folder: Path, number: int) -> dict[str, str]:
    """Write one shard's files; returns their checksums."""
    checksums = {}
    for field, dtype in DTYPES.items():
        if getattr(scenes, field) is None:
            continue
        array = np.ascontiguousarray(getattr(scenes, field).cpu().numpy())
        assert array.dtype == dtype
        path = folder / f"{field}_{number:05}.npy"
        write_file(path, lambda file, array=array: np.save(file, array))  # type: ignore[misc]
        with open_file(path) as file:
            checksums[field] = hashlib.file_digest(file, "sha256").hexdigest()
    return checksums


def open_array(path: Path, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """Map a file, after it was found to be what the index says."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (EOFError, OSError, ValueError) as error:
        raise DamagedFileError(f"{path} is missing or damaged ({error}).") from error
    if not isinstance(array, np.memmap) or array.dtype != dtype or array.shape != shape:
        raise DamagedFileError(
            f"{path} holds {getattr(array, 'dtype', type(array).__name__)} of shape "
            f"{getattr(array, 'shape', None)}, but its index says {dtype} of shape {shape}."
        )
    surplus = path.stat().st_size - array.offset - array.nbytes
    if surplus or not array.flags.c_contiguous:
        raise DamagedFileError(f"{path} is not laid out as written: {surplus} bytes too long.")
    return array


def _three(values: Any) -> tuple[float, float, float]:
    first, second, third = (float(value) for value in values)
    return first, second, third


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is no number of objects")
    return value


def _positive(value: Any) -> int:
    if type(value) is not int or value < 1:
        raise ValueError(f"{value!r} is no positive whole number")
    return value
