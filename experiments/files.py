"""Files of a run: see :mod:`air.files`, through which all of them go; and JSON."""

import json
from pathlib import Path
from typing import Any

from air.files import (
    DamagedFileError,
    append_file,
    current_file,
    finish_files,
    is_debris,
    is_number,
    make_folder,
    open_file,
    parse_json,
    read_file,
    sync_folder,
    write_file,
    write_files,
)

__all__ = [
    "MAX_JSON_BYTES",
    "MAX_METRICS_BYTES",
    "DamagedFileError",
    "append_file",
    "current_file",
    "finish_files",
    "is_debris",
    "is_number",
    "make_folder",
    "open_file",
    "parse_json",
    "read_file",
    "read_json",
    "sync_folder",
    "to_json",
    "write_file",
    "write_files",
]

MAX_JSON_BYTES = 16 << 20
"""More than any JSON file of ours holds: about a million numbers."""

MAX_METRICS_BYTES = 256 << 20
"""Of a run's metrics: about a million lines."""


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        OSError: if it cannot be read.
        DamagedFileError: if it holds anything else, or a number that is not finite.
    """
    return parse_json(read_file(path, MAX_JSON_BYTES), str(path))


def to_json(value: dict[str, Any]) -> bytes:
    """An object as JSON, one field a line, a line's end at the end."""
    return (json.dumps(value, indent=2, default=str, allow_nan=False) + "\n").encode()
