"""What people know about their own pictures: how many objects, and where."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.files import DamagedFileError, is_number, parse_json, read_file

__all__ = ["Label", "read_coco", "read_counts", "to_count"]

_MOST_BYTES = 1 << 28
_MOST_OBJECTS = 1000
"""In one picture."""


@dataclass(frozen=True, kw_only=True)
class Label:
    """What is known about one picture."""

    count: int
    """Number of objects."""
    boxes: tuple[tuple[float, float, float, float], ...] | None = None
    """Edges ``(x_min, y_min, x_max, y_max)`` of each in the picture's own pixels."""
    classes: tuple[int, ...] | None = None
    """Class of each, from 0."""


def to_count(value: Any, name: str) -> int:
    """A number of objects, from whoever says it.

    Args:
        value: a number.
        name: what is said to hold so many, for the message.

    Raises:
        ValueError: if it is no whole number from 0 to 1000.
    """
    if type(value) not in (int, float) or value not in range(_MOST_OBJECTS + 1):
        raise ValueError(
            f"{name} is said to hold {value!r:.100} objects. "
            f"Expected a whole number from 0 to {_MOST_OBJECTS}."
        )
    return int(value)


def read_counts(path: Path, files: Sequence[str]) -> dict[str, Label]:
    """Read a table of two columns, ``file`` and ``count``, in CSV.

    Args:
        path: of the table.
        files: names of all the pictures; each must have a row.

    Raises:
        OSError: if it cannot be read.
        DamagedFileError: if it is no such table, or does not fit the pictures.
    """
    try:
        text = read_file(path, _MOST_BYTES).decode("utf-8-sig")
        rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DamagedFileError(f"{path} is no table in CSV ({error}).") from error
    if not rows or [name.strip().lower() for name in rows[0]] != ["file", "count"]:
        raise DamagedFileError(f"{path} must begin with the line: file,count")
    labels: dict[str, Label] = {}
    for number, row in enumerate(rows[1:], start=2):
        if not row:
            continue
        if len(row) != 2 or not row[1].strip().isascii() or not row[1].strip().isdigit():
            raise DamagedFileError(
                f"line {number} of {path} must be a file's name and a whole number, "
                f"got {','.join(row)[:100]!r}."
            )
        name, count = row[0].strip(), row[1].strip()
        if len(count) > 4 or int(count) > _MOST_OBJECTS:
            raise DamagedFileError(
                f"line {number} of {path} says {count[:20]} objects, at most {_MOST_OBJECTS} "
                "make sense."
            )
        if name in labels:
            raise DamagedFileError(f"line {number} of {path} names {name[:100]!r} again.")
        labels[name] = Label(count=int(count))
    _check_files(path, labels, files)
    return labels


def read_coco(path: Path, files: Sequence[str]) -> dict[str, Label]:
    """Read boxes as COCO's annotations have them: ``images``, ``annotations``, in JSON.

    Regions that are marked as a crowd are left out. Classes are numbered in the order of their
    ``category_id``.

    Args:
        path: of the file.
        files: names of all the pictures; each must be among ``images``. Those without an
            annotation hold no object.

    Raises:
        OSError: if it cannot be read.
        DamagedFileError: if it is no such file, or does not fit the pictures.
    """
    content = parse_json(read_file(path, _MOST_BYTES), str(path))
    try:
        names = {_whole(entry["id"]): str(entry["file_name"]) for entry in content["images"]}
        found: dict[str, list[tuple[tuple[float, ...], int]]] = {n: [] for n in names.values()}
        for entry in content["annotations"]:
            if entry.get("iscrowd"):
                continue
            x, y, width, height = (_finite(value) for value in entry["bbox"])
            if width <= 0 or height <= 0:
                raise ValueError(f"the box {entry['bbox']} is empty")
            box = (x, y, x + width, y + height)
            found[names[_whole(entry["image_id"])]].append((box, _whole(entry["category_id"])))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DamagedFileError(f"{path} holds no annotations of COCO's ({error!r}).") from error
    categories = {
        each: i for i, each in enumerate(sorted({c for v in found.values() for _, c in v}))
    }
    labels = {}
    for name, objects in found.items():
        if len(objects) > _MOST_OBJECTS:
            raise DamagedFileError(f"{path} has {len(objects)} objects in {name[:100]!r}.")
        labels[name] = Label(
            count=len(objects),
            boxes=tuple(box for box, _ in objects),  # type: ignore[misc]
            classes=tuple(categories[category] for _, category in objects),
        )
    _check_files(path, labels, files)
    return {name: labels[name] for name in files}


def _check_files(path: Path, labels: dict[str, Label], files: Sequence[str]) -> None:
    missing = [name for name in files if name not in labels]
    if missing:
        raise DamagedFileError(
            f"{path} says nothing about {len(missing)} of {len(files)} pictures, "
            f"{missing[0]!r} among them. Label all, or remove {path.name}."
        )


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise ValueError(f"{value!r:.100} is no whole number")
    return value


def _finite(value: Any) -> float:
    if not is_number(value) or abs(value) > 1e6:
        raise ValueError(f"{value!r:.100} is no sensible number")
    return float(value)
