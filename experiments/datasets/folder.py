"""``folder:PATH``: people's own images as a data set.

PATH is a folder, or one ``.npy`` or ``.npz`` file. Behind a ``?`` may stand settings, such as
``folder:PATH?size=96&invert=yes``:

- ``size``: pixels of the longer side that larger images are shrunk to; 64 by default.
- ``invert``: ``yes`` for dark objects on a bright background.
- ``held_out``: share of the images that is kept back to judge by; 0.1 by default.

How sizes are made equal: :mod:`experiments.datasets.own_images`.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.datasets.image_files import SUFFIXES, image_paths, read_array, to_pictures
from experiments.datasets.image_labels import Label, read_coco, read_counts
from experiments.datasets.multiobject import SPLIT, read_multiobject_scenes
from experiments.datasets.own_images import MAX_SIZE, Picture, make_scenes, split_scenes
from experiments.datasets.scenes import DataSplits, load_splits
from experiments.files import DamagedFileError
from experiments.npz import member_names, parse_array, read_members

__all__ = ["PREFIX", "FolderSpec", "load_folder", "parse_folder"]

PREFIX = "folder:"
"""Of a data set's name on the command line; the rest is the path, and settings."""

COUNTS = "counts.csv"

_ARRAYS = (".npy", ".npz")


@dataclass(frozen=True, kw_only=True)
class FolderSpec:
    """Where images are, and what to make of them.

    Raises:
        ValueError: if a setting makes no sense.
    """

    path: Path
    """A folder, or an ``.npy`` or ``.npz`` file."""
    size: int = MAX_SIZE
    """Pixels of the longer side that larger images are shrunk to."""
    invert: bool = False
    """Whether to swap black and white."""
    held_out: float = 0.1
    """Share that is kept back to judge by."""

    def __post_init__(self) -> None:
        if not 8 <= self.size <= 4096:
            raise ValueError(f"size must lie between 8 and 4096 pixels, got {self.size}.")
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out must lie between 0 and 1, got {self.held_out}.")

    @property
    def name(self) -> str:
        """The data set's name, from wherever it is asked for."""
        settings = []
        if self.size != MAX_SIZE:
            settings.append(f"size={self.size}")
        if self.invert:
            settings.append("invert=yes")
        if self.held_out != 0.1:
            settings.append(f"held_out={self.held_out:g}")
        return f"{PREFIX}{self.path.resolve()}" + ("?" + "&".join(settings) if settings else "")

    def files(self) -> list[Path]:
        """All files that the data set is made of, labels among them.

        Raises:
            FileNotFoundError: if there is no such folder or file, or no image in it.
        """
        if self.path.is_file():
            if self.path.suffix.lower() not in _ARRAYS:
                raise FileNotFoundError(
                    f"{self.path} is a file. Give the folder that it is in, or an .npy or .npz."
                )
            return [self.path]
        if not self.path.is_dir():
            raise FileNotFoundError(f"{self.path} does not exist: give a folder of images.")
        wanted = [*image_paths(self.path), *_array_paths(self.path)]
        if not wanted:
            raise FileNotFoundError(
                f"{self.path} holds no image. Expected files that end in "
                f"{', '.join((*SUFFIXES, *_ARRAYS))}; folders inside it are not looked into."
            )
        return [*wanted, *_label_paths(self.path)]

    def fingerprint(self) -> str:
        """SHA-256 of the settings and of all files' names, sizes and times, in hexadecimal.

        Raises:
            FileNotFoundError: as :meth:`files`.
        """
        digest = hashlib.sha256(self.name.encode())
        for path in self.files():
            state = path.stat()
            digest.update(f"{path.name}\0{state.st_size}\0{state.st_mtime_ns}\0".encode())
        return digest.hexdigest()


def parse_folder(name: str) -> FolderSpec:
    """What ``folder:PATH?KEY=VALUE&...`` asks for.

    >>> parse_folder("folder:cells?size=96").size
    96

    Raises:
        ValueError: if a setting is unknown or not what it should be.
    """
    text = name.removeprefix(PREFIX)
    whole = Path(text).expanduser()
    if not text:
        raise ValueError(f"{PREFIX} needs a path, as in {PREFIX}my-images.")
    if "?" not in text or whole.exists():
        return FolderSpec(path=whole)
    path, _, settings = text.rpartition("?")
    fields: dict[str, Any] = {}
    for part in filter(None, settings.split("&")):
        key, _, value = part.partition("=")
        try:
            if key == "size":
                fields[key] = int(value)
            elif key == "held_out":
                fields[key] = float(value)
            elif key == "invert":
                fields[key] = {"yes": True, "no": False}[value]
            else:
                raise ValueError(
                    f"unknown setting {key!r} of {PREFIX}. "
                    "Expected some of: size, invert, held_out."
                )
        except (KeyError, ValueError) as error:
            if "unknown setting" in str(error):
                raise
            raise ValueError(f"{key} of {PREFIX} cannot be {value!r}.") from error
    return FolderSpec(path=Path(path).expanduser(), **fields)


def load_folder(spec: FolderSpec, *, progress: bool = False) -> DataSplits:
    """Read images, with what is known about them, and keep some back to judge by.

    Beside the pictures in a folder may lie ``counts.csv`` (columns ``file`` and ``count``), and
    boxes as COCO's annotations in a ``.json`` file. An ``.npz`` holds one array of images, or
    ``images`` and ``num_objects``, or is one of ``multiobject``'s (its last tenth is held out, by
    that package's convention) or of ours, which are taken as they are.

    Raises:
        FileNotFoundError: if there is no such folder or file, or no image in it.
        OSError: if a file cannot be read.
        ValueError: if one is damaged, or the labels do not fit the images.
    """
    paths = spec.files()
    if len(paths) == 1 and paths[0].suffix.lower() == ".npz":
        names = member_names(paths[0])
        if {"train_images", "held_out_images"} <= set(names):
            return load_splits(paths[0])
        if set(names) == {"x", "labels"}:
            scenes = read_multiobject_scenes(paths[0], name=spec.name)
            number = int(SPLIT * len(scenes))
            return DataSplits(train=scenes[:number], held_out=scenes[number:], name=spec.name)
    pictures, labels = _read(paths)
    scenes = make_scenes(
        pictures,
        labels=labels,
        max_size=spec.size,
        invert=spec.invert,
        name=spec.name,
        progress=progress,
    )
    return split_scenes(scenes, share=spec.held_out)


def _read(paths: Sequence[Path]) -> tuple[list[Picture], list[Label] | None]:
    """The pictures of all files, and their labels if they have some."""
    pictures: list[Picture] = []
    counts: list[int] = []
    for path in paths:
        if path.suffix.lower() in SUFFIXES:
            pictures.append(Picture.from_file(path))
        elif path.suffix.lower() in _ARRAYS:
            array, known = _read_arrays(path)
            found = to_pictures(array, path.name)
            names = (
                [path.name] if len(found) == 1 else [f"{path.name}[{i}]" for i in range(len(found))]
            )
            pictures += [Picture.from_array(p, n) for p, n in zip(found, names, strict=True)]
            if known is not None:
                if known.shape != (len(found),) or known.dtype.kind not in "iu":
                    raise DamagedFileError(
                        f"num_objects in {path} must be {len(found)} whole numbers, "
                        f"got {known.dtype} of shape {known.shape}."
                    )
                counts += known.tolist()
    tables = [path for path in paths if path.name == COUNTS or path.suffix.lower() == ".json"]
    if counts:
        if len(counts) != len(pictures) or tables:
            raise DamagedFileError(
                f"{paths[0].parent} holds num_objects for some images only, or other labels too: "
                "keep one kind of labels, for all images."
            )
        return pictures, [Label(count=count) for count in counts]
    return pictures, _read_tables(tables, [picture.name for picture in pictures])


def _read_arrays(path: Path) -> tuple[Any, Any]:
    """The images in a file, and their numbers of objects or None."""
    if path.suffix.lower() == ".npy":
        return read_array(path), None
    names = member_names(path)
    if len(names) != 1 and set(names) != {"images", "num_objects"}:
        raise DamagedFileError(
            f"{path} holds {', '.join(names)[:200]}. Expected one array of images, or images and "
            "num_objects. A file of multiobject's or ours must be named itself: folder:FILE."
        )
    members = read_members(path, names)
    arrays = {name: parse_array(content, f"{name} in {path}") for name, content in members.items()}
    if len(names) == 1:
        return arrays[names[0]], None
    return arrays["images"], arrays["num_objects"]


def _read_tables(tables: Sequence[Path], files: Sequence[str]) -> list[Label] | None:
    found = [
        read_counts(path, files) if path.name == COUNTS else read_coco(path, files)
        for path in tables
    ]
    if not found:
        return None
    best = found[-1]  # COCO's say more
    for name in files:
        if found[0][name].count != best[name].count:
            raise DamagedFileError(
                f"{tables[0]} says {found[0][name].count} objects in {name}, "
                f"{tables[-1].name} says {best[name].count}. Mend or remove one of them."
            )
    return [best[name] for name in files]


def _array_paths(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in _ARRAYS and not path.name.startswith(".") and path.is_file()
    )


def _label_paths(folder: Path) -> list[Path]:
    """``counts.csv``, then COCO's annotations: those that are there."""
    annotations = sorted(path for path in folder.glob("*.json") if not path.name.startswith("."))
    if len(annotations) > 1:
        raise DamagedFileError(
            f"{folder} holds {len(annotations)} JSON files, {annotations[0].name} and "
            f"{annotations[1].name} among them. Expected one, with boxes as COCO has them."
        )
    counts = folder / COUNTS
    return ([counts] if counts.is_file() else []) + annotations
