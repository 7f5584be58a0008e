"""Checkpoints that are whole, or are not there.

A checkpoint of step N is up to four files in ``checkpoints/``:

- ``model_N.pt``: the weights, a plain state dict, as boilr saves and reads it;
- ``training_N.safetensors`` and ``training_N.json``: all else that a run is continued from;
- ``manifest_N.json``: size and SHA-256 of the others. It is written last: without it there is no
  checkpoint.

Nothing in these files is ever run, whoever wrote them.
"""

import contextlib
import hashlib
import io
import os
import re
import shutil
import sys
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.files import (
    DamagedFileError,
    is_debris,
    is_number,
    make_folder,
    parse_json,
    read_file,
    read_json,
    sync_folder,
    to_json,
    write_file,
)
from experiments.safetensor_files import read_tensors, write_tensors

MAX_BYTES = 4 << 30
"""More than any checkpoint of AIR has: its models have some millions of weights."""

MIN_KEPT = 2
"""Checkpoints that are always kept: the newest may turn out to be damaged."""

_MODEL = re.compile(r"model_(0|[1-9][0-9]*)\.pt", re.ASCII)
_OURS = re.compile(r"(?:model|training|manifest)_(\d{1,18})\.(?:pt|safetensors|json)", re.ASCII)
_FORMAT = "air checkpoint 1"


@dataclass(frozen=True, kw_only=True, eq=False)
class Training:
    """What a run is continued from, besides the weights."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any]
    """Ready for JSON."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Checkpoint:
    """A checkpoint that was read, its tensors on the CPU."""

    step: int
    weights: dict[str, Tensor]
    training: Training | None
    """None where only weights were saved, as boilr does."""


def save_checkpoint(
    folder: Path,
    step: int,
    weights: dict[str, Tensor],
    training: Training | None = None,
    *,
    score: float | None = None,
    keep: int | None = None,
) -> None:
    """Save a checkpoint; then, and only if it can be read back, remove older ones.

    Args:
        folder: where to save.
        step: names the checkpoint.
        weights: the model's state dict.
        training: what else the run is continued from.
        score: held-out figure of merit, larger is better; the best checkpoint is never removed.
        keep: how many of the newest to keep, at least 2; all if None or -1.

    Raises:
        OSError: if it cannot be written, or not be read back; older ones are as they were.
    """
    buffer = io.BytesIO()
    torch.save(weights, buffer)
    contents = {_model(step): buffer.getvalue()}
    if training is not None:
        contents[f"training_{step}.safetensors"] = write_tensors(training.tensors)
        contents[f"training_{step}.json"] = to_json(training.facts)
    manifest = {
        "format": _FORMAT,
        "step": step,
        "score": score,
        "files": {
            name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in contents.items()
        },
    }
    make_folder(folder, folder.parent)
    fresh = [name for name in contents if not (folder / name).exists()]
    try:
        # The weights last of the three: boilr takes any model_N.pt for a checkpoint.
        for name in sorted(contents, reverse=True):
            write_file(folder / name, contents[name])
        write_file(_manifest(folder, step), to_json(manifest))
    except BaseException:
        for name in fresh:
            with contextlib.suppress(OSError):
                os.unlink(folder / name)
        raise
    try:
        _read_verified(folder, step)
    except DamagedFileError as error:
        raise OSError(
            f"the checkpoint of step {step} cannot be read back: {error} Older ones were kept. "
            "Check the disk."
        ) from error
    if keep is not None and keep != -1:
        _rotate(folder, step, max(keep, MIN_KEPT))


def load_checkpoint(folder: Path, step: int | None = None) -> Checkpoint:
    """Read a checkpoint: that of a step, or the newest that is whole.

    Newer ones that are not are named on standard error. Folders that boilr filled hold no
    manifests: then each file's own checksums have to do.

    Args:
        folder: with the checkpoints.
        step: which one.

    Raises:
        FileNotFoundError: if there is no such checkpoint.
        DamagedFileError: if it is damaged, or all are.
        OSError: if it cannot be read.
    """
    steps = sorted(_finished_steps(folder))
    if not steps or (step is not None and step not in steps):
        wanted = "no checkpoint" if step is None else f"no checkpoint of step {step}"
        found = ", ".join(map(str, steps)) or "none"
        raise FileNotFoundError(f"{folder} holds {wanted}. Steps found: {found}.")
    manifests = any(_manifest(folder, known).exists() for known in steps)
    problems = []
    for candidate in [step] if step is not None else reversed(steps):
        try:
            checkpoint = _read(folder, candidate, needs_manifest=manifests)
        except (DamagedFileError, FileNotFoundError) as error:
            problems.append(str(error))
            continue
        for problem in problems:
            _warn(f"{problem} Step {candidate} is used instead.")
        return checkpoint
    raise DamagedFileError(" ".join(problems))


def _finished_steps(folder: Path) -> set[int]:
    """Steps whose save was finished, also where files of it are missing now."""
    found: dict[int, set[str]] = {}
    for path in folder.glob("m*_*.*"):
        match = _OURS.fullmatch(path.name)
        if match and str(int(match[1])) == match[1]:
            found.setdefault(int(match[1]), set()).add(path.name)
    return {
        step
        for step, names in found.items()
        if f"manifest_{step}.json" in names
        # boilr's own have nothing but the weights; ours without a manifest were never finished.
        or (_model(step) in names and not (folder / f"training_{step}.safetensors").exists())
    }


def check_room(folder: Path, model: torch.nn.Module, keep: int | None) -> None:
    """Check that the disk has room for a run's checkpoints, before it begins.

    Args:
        folder: where they will be; it need not exist yet.
        model: to be saved.
        keep: how many will be kept; for all, there must be room for a few.

    Raises:
        OSError: if there is too little.
    """
    size = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    # Weights and Adam's two moments; the newest is written before the oldest goes, the best stays.
    number = max(keep or 0, MIN_KEPT) + 2
    needed = 3 * size * number
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            f"{folder} has {free / 1e6:.0f} MB free, and {number} checkpoints need "
            f"{needed / 1e6:.0f} MB. Make room, give another --output, or lower "
            "--keep-checkpoint-max."
        )


def check_checkpoints(folder: Path) -> list[tuple[int, str | None]]:
    """Each checkpoint's step, the oldest first, and what is wrong with it, if anything."""
    found: list[tuple[int, str | None]] = []
    for step in sorted(_finished_steps(folder)):
        try:
            load_checkpoint(folder, step)
        except (DamagedFileError, OSError) as error:
            found.append((step, str(error)))
        else:
            found.append((step, None))
    return found


def checkpoint_steps(folder: Path) -> list[int]:
    """Steps that have a ``model_<step>.pt``, in no particular order; whole or not."""
    matches = (_MODEL.fullmatch(path.name) for path in folder.glob("model_*.pt"))
    return [int(match[1]) for match in matches if match and len(match[1]) < 19]


def clean(folder: Path, step: int) -> None:
    """Tidy up after a crash, by the one process that holds the run's lock.

    Unfinished saves are removed. Damaged checkpoints after ``step`` are renamed, so that they
    are not taken for the newest again.

    Args:
        folder: with the checkpoints.
        step: of the checkpoint that the run is continued from.
    """
    make_folder(folder, folder.parent)
    found: dict[int, list[Path]] = {}
    for path in folder.iterdir():
        match = _OURS.fullmatch(path.name)
        if is_debris(path.name):
            os.unlink(path)
        elif match:
            found.setdefault(int(match[1]), []).append(path)
    for number, paths in found.items():
        names = {path.name for path in paths}
        # A save writes these first, and a removal takes them last.
        unfinished = any(name.startswith("training_") for name in names)
        if f"manifest_{number}.json" not in names and unfinished:
            for path in paths:
                os.unlink(path)
        elif number > step:
            for path in paths:
                os.replace(path, path.with_name(f"damaged-{path.name}"))


def _score(folder: Path, step: int) -> float | None:
    """The score that a checkpoint was saved with, if any."""
    try:
        score = read_json(_manifest(folder, step)).get("score")
    except (DamagedFileError, OSError):
        return None
    return float(score) if is_number(score) else None  # type: ignore[arg-type]


def _read(folder: Path, step: int, *, needs_manifest: bool) -> Checkpoint:
    """Read one checkpoint, all of it checked."""
    if needs_manifest or _manifest(folder, step).exists():
        contents = _read_verified(folder, step)
    else:
        contents = {_model(step): read_file(folder / _model(step), MAX_BYTES)}
    weights = read_weights(contents[_model(step)], folder / _model(step))
    training = None
    if len(contents) > 1:
        name = f"training_{step}"
        training = Training(
            tensors=read_tensors(contents[f"{name}.safetensors"], f"{folder / name}.safetensors"),
            facts=parse_json(contents[f"{name}.json"], f"{folder / name}.json"),
        )
    return Checkpoint(step=step, weights=weights, training=training)


def _read_verified(folder: Path, step: int) -> dict[str, bytes]:
    """The files of a checkpoint, each held against its size and SHA-256."""
    path = _manifest(folder, step)
    try:
        manifest = read_json(path)
    except FileNotFoundError as error:
        raise DamagedFileError(
            f"cannot read {folder / _model(step)}: {path.name} is missing, so its save was never "
            "finished."
        ) from error
    files = manifest.get("files")
    names = [_model(step)]
    if isinstance(files, dict) and len(files) > 1:
        names += [f"training_{step}.safetensors", f"training_{step}.json"]
    if (
        manifest.get("format") != _FORMAT
        or manifest.get("step") != step
        or not isinstance(files, dict)
        or sorted(files) != sorted(names)
        or not all(isinstance(entry, dict) for entry in files.values())
    ):
        raise DamagedFileError(f"{path} is no manifest of step {step}.")
    contents = {}
    for name in names:
        expected, file = files[name], folder / name
        try:
            content = read_file(file, MAX_BYTES)
        except FileNotFoundError as error:
            raise DamagedFileError(f"cannot read {file}: it is missing.") from error
        if len(content) != expected.get("bytes"):
            raise DamagedFileError(
                f"cannot read {file}: it has {len(content)} bytes, not the "
                f"{expected.get('bytes')} that were saved."
            )
        if hashlib.sha256(content).hexdigest() != expected.get("sha256"):
            raise DamagedFileError(f"cannot read {file}: its SHA-256 is not the one saved.")
        contents[name] = content
    return contents


def read_weights(content: bytes, path: Path) -> dict[str, Tensor]:
    """The tensors of a state dict that ``torch.save`` wrote; no code in it is run.

    Args:
        content: of the file.
        path: named in messages.

    Raises:
        DamagedFileError: if it is anything else, or its own checksums do not fit.
    """
    try:
        # torch checks no checksum, so every member is read and written anew with Python's zip
        # reader, which does. It also leaves torch no directory that could be read in two ways.
        state = torch.load(_repacked(content), map_location="cpu", weights_only=True)
        if not isinstance(state, dict) or not all(
            isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in state.items()
        ):
            raise TypeError("it holds other things than named tensors")
        for name, tensor in state.items():
            # A tensor may be declared larger than what is stored of it, by strides of 0.
            stored = tensor.layout == torch.strided and not tensor.is_meta
            if not stored or tensor.numel() * tensor.element_size() > len(content):
                raise ValueError(f"{name} is declared larger than the file")
    except MemoryError as error:
        raise DamagedFileError(f"cannot read {path}: it asks for too much memory.") from error
    except Exception as error:  # torch.load raises whatever a damaged file makes it trip over
        reason = " ".join(str(error).split())[:300]
        raise DamagedFileError(f"cannot read {path}: {reason}") from error
    return dict(state)


def _repacked(content: bytes) -> io.BytesIO:
    """The zip archive again, every member checked against its size and CRC-32."""
    result = io.BytesIO()
    if not content.startswith(b"PK"):
        raise ValueError("it is no file that torch.save writes")
    try:
        with (
            zipfile.ZipFile(io.BytesIO(content)) as source,
            zipfile.ZipFile(result, "w", zipfile.ZIP_STORED) as target,
        ):
            members = source.infolist()
            if len({member.filename for member in members}) != len(members):
                raise ValueError("two members have one name")
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                raise ValueError("a member is compressed, which torch.save never does")
            if sum(member.file_size for member in members) > len(content):
                raise ValueError("its members are declared larger than the file")
            for member in members:
                if ".." in member.filename.split("/") or member.filename.startswith("/"):
                    raise ValueError(f"a member is named {member.filename!r}")
                target.writestr(member.filename, source.read(member))
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"damaged archive: {error}") from error
    result.seek(0)
    return result


def _rotate(folder: Path, newest: int, keep: int) -> None:
    """Remove all but the newest ``keep`` and the best."""
    steps = sorted(step for step in checkpoint_steps(folder) if step != newest)
    scores = {step: _score(folder, step) for step in [*steps, newest]}
    best = max(
        (step for step in scores if scores[step] is not None),
        key=lambda step: (scores[step], step),
        default=None,
    )
    for step in steps[: max(0, len(steps) + 1 - keep)]:
        if step != best:
            _remove(folder, step)


def _remove(folder: Path, step: int) -> None:
    """Remove a checkpoint, its manifest first: half a checkpoint is none."""
    names = ("manifest_{}.json", "model_{}.pt", "training_{}.safetensors", "training_{}.json")
    for name in names:
        path = folder / name.format(step)
        if path.exists():
            os.unlink(path)
    sync_folder(folder)


def _model(step: int) -> str:
    return f"model_{step}.pt"


def _manifest(folder: Path, step: int) -> Path:
    return folder / f"manifest_{step}.json"


def _warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr)
