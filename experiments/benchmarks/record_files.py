"""JSON files of finished measurements: written whole or not at all, never silently mixed."""

import json
import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

RECORDS = Path(__file__).parent / "records"
"""All records that the repository keeps."""

_PART = re.compile(r"[A-Za-z0-9.+-]+")


def record_path(folder: Path, *parts: str) -> Path:
    """``folder/PART_PART_....json``.

    Raises:
        ValueError: if a part would make another file name of it.
    """
    for part in parts:
        if not _PART.fullmatch(part):
            raise ValueError(
                f"{part!r} cannot be part of a record's name: expected letters, digits, "
                "'.', '+' and '-' only."
            )
    return folder / f"{'_'.join(parts)}.json"


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write JSON that appears under its name only once it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(record, indent=1, allow_nan=False)
    # A curve's points and a group's figures take a line each, not a line a number.
    text = re.sub(r"\{[^{}\[\]]*\}", lambda match: re.sub(r"\n\s*", " ", match[0]), text)
    with tempfile.NamedTemporaryFile(
        "w", dir=path.parent, prefix=".saving-", delete=False, encoding="utf-8"
    ) as file:
        try:
            file.write(text + "\n")
            file.flush()
            os.chmod(file.name, 0o644)  # temporary files are readable by their owner only
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def read_finished(path: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """The record of a measurement that was made before; None if it was not.

    Args:
        path: where it would be.
        settings: what it must have been made with.

    Raises:
        ValueError: if it was made with other settings, or cannot be read.
    """
    if not path.exists():
        return None
    record = read_record(path)
    found = record.get("settings", {})
    different = [
        f"{name} = {found.get(name)!r} instead of {settings.get(name)!r}"
        for name in sorted(found.keys() | settings.keys())
        if found.get(name) != settings.get(name)
    ]
    if different:
        raise ValueError(
            f"{path} was made with {', '.join(different)}. "
            "Give the settings that it has, give another --records, or remove it."
        )
    return record


def read_records(folder: Path, dataset: str) -> list[dict[str, Any]]:
    """All records of a data set in a folder, in the order of their names."""
    records = [read_record(path) for path in sorted(folder.glob("*.json"))]
    return [record for record in records if record.get("dataset") == dataset]


def read_record(path: Path) -> dict[str, Any]:
    """One record.

    Raises:
        ValueError: if it is no JSON object.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(record, dict):
            raise ValueError("it holds no JSON object")
    except ValueError as error:
        raise ValueError(f"cannot read the record {path}: {error}") from error
    return record


def current_commit() -> str | None:
    """The commit of this checkout, with a mark if it was changed since; None without git."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
        )
    except OSError:
        return None
    return found.stdout.strip() if found.returncode == 0 else None
