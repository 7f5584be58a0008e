"""Checkpoints: whole or absent, the right one read, a damaged one never believed."""

import contextlib
import errno
import io
import json
import os
import random
import resource
import shutil
import signal
import zipfile
from pathlib import Path

import boilr.utils
import pytest
import torch

from air import files
from experiments import checkpoints
from experiments.checkpoints import (
    Training,
    check_checkpoints,
    check_room,
    checkpoint_steps,
    clean,
    load_checkpoint,
    save_checkpoint,
)
from experiments.files import DamagedFileError
from tests.runs import assert_same_tensors


def weights(step):
    generator = torch.Generator().manual_seed(step)
    return {
        "air.weight": torch.randn(5, 4, generator=generator),
        "air.count": torch.tensor(step),
        "estimator.mean": torch.tensor([float("nan"), 1.0]),
    }


def training(step):
    tensors = {"order": torch.arange(step, dtype=torch.int32), "random": torch.ones(3, step)}
    return Training(tensors=tensors, facts={"step": step, "text": "é"})


def save(folder, step, **options):
    save_checkpoint(folder, step, weights(step), training(step), **options)


def names_of(step):
    return {
        f"model_{step}.pt",
        f"training_{step}.safetensors",
        f"training_{step}.json",
        f"manifest_{step}.json",
    }


def names(folder):
    return {path.name for path in folder.iterdir()}


def assert_is(checkpoint, step):
    assert checkpoint.step == step
    assert_same_tensors(checkpoint.weights, weights(step))
    assert_same_tensors(checkpoint.training.tensors, training(step).tensors)
    assert checkpoint.training.facts == training(step).facts


@pytest.fixture
def no_sync(monkeypatch):
    """Nothing here needs to outlive a power cut."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture(params=["upwards", "downwards", "shuffled"])
def listing_order(request, monkeypatch):
    """Folders are listed in some order: "model_10" comes before "model_9", or after."""

    def in_order(real):
        def listed(*args):
            found = sorted(real(*args), key=str, reverse=request.param == "downwards")
            if request.param == "shuffled":
                random.Random(3).shuffle(found)
            return iter(found)

        return listed

    for name in ("glob", "iterdir"):
        monkeypatch.setattr(Path, name, in_order(getattr(Path, name)))


def test_what_is_saved_comes_back(tmp_path):
    save(tmp_path, 12)
    assert names(tmp_path) == names_of(12)
    assert_is(load_checkpoint(tmp_path), 12)


def test_weights_are_what_boilr_and_torch_read(tmp_path):
    for step in (9, 10):
        save(tmp_path, step)
    assert boilr.utils.checkpoints_in_folder(str(tmp_path)) == (
        ["model_9.pt", "model_10.pt"],
        [9, 10],
    )
    state = torch.load(tmp_path / "model_9.pt", weights_only=True)
    assert_same_tensors(state, weights(9))


@pytest.mark.usefixtures("listing_order")
def test_the_newest_is_that_of_the_highest_number(tmp_path):
    for step in (100, 9, 10, 1):
        save(tmp_path, step)
    for strange in ("model_best.pt", "model_7.pt.tmp", "model_011.pt", "model_.pt", "notes.txt"):
        (tmp_path / strange).write_bytes(b"not to be read")
    (tmp_path / "model_999.pt").mkdir()
    shutil.copy(tmp_path / "model_9.pt", tmp_path / "model_9999999999999999999999.pt")
    assert_is(load_checkpoint(tmp_path), 100)
    assert_is(load_checkpoint(tmp_path, 9), 9)


@pytest.mark.usefixtures("no_sync")
def test_the_newest_and_the_best_are_kept(tmp_path):
    for step, score in ((1, 5.0), (2, 9.0), (3, None), (4, 7.0), (5, -2.0), (6, None)):
        save(tmp_path, step, score=score, keep=2)
    assert sorted(checkpoint_steps(tmp_path)) == [2, 5, 6]
    assert names(tmp_path) == names_of(2) | names_of(5) | names_of(6)


@pytest.mark.usefixtures("no_sync")
@pytest.mark.parametrize(("keep", "kept"), [(None, 5), (-1, 5), (3, 3), (1, 2), (0, 2)])
def test_at_least_two_are_kept(keep, kept, tmp_path):
    for step in range(1, 6):
        save(tmp_path, step, keep=keep)
    assert len(checkpoint_steps(tmp_path)) == kept
    assert max(checkpoint_steps(tmp_path)) == 5


@pytest.mark.usefixtures("no_sync")
@pytest.mark.parametrize("keep", [4, 5, 10])
def test_none_is_removed_before_there_are_enough(keep, tmp_path):
    for step in range(1, 13):
        save(tmp_path, step, keep=keep)
        newest = range(max(1, step - keep + 1), step + 1)
        assert sorted(checkpoint_steps(tmp_path)) == list(newest)


@pytest.mark.usefixtures("no_sync")
def test_nothing_is_removed_for_a_checkpoint_that_cannot_be_read_back(tmp_path, monkeypatch):
    for step in (1, 2, 3):
        save(tmp_path, step, keep=2)
    real = checkpoints.write_file

    def lose_a_bit(path, content):
        damaged = bytearray(content)
        damaged[len(content) // 2] ^= 1
        real(path, bytes(damaged) if path.suffix == ".pt" else content)

    monkeypatch.setattr(checkpoints, "write_file", lose_a_bit)
    with pytest.raises(OSError, match=r"step 4 cannot be read back.* Older ones were kept"):
        save(tmp_path, 4, keep=2)
    assert_is(load_checkpoint(tmp_path), 3)
    assert_is(load_checkpoint(tmp_path, 2), 2)


def test_a_folder_that_boilr_filled(tmp_path, capsys):
    for step in (3, 20):
        torch.save(weights(step), tmp_path / f"model_{step}.pt")
    found = load_checkpoint(tmp_path)
    assert (found.step, found.training) == (20, None)
    assert_same_tensors(found.weights, weights(20))
    content = bytearray((tmp_path / "model_20.pt").read_bytes())
    content[content.index(weights(20)["air.weight"].numpy().tobytes()) + 3] ^= 4
    (tmp_path / "model_20.pt").write_bytes(content)
    # torch itself does not notice:
    assert torch.load(tmp_path / "model_20.pt", weights_only=True)
    assert load_checkpoint(tmp_path).step == 3
    assert "model_20.pt" in capsys.readouterr().err


# Killed while saving


class Killed(BaseException):
    """The process is dead: nothing that it does from here on has an effect."""


class DyingSystem:
    """Stands for ``os``: before its n-th call that changes the disk, the process dies."""

    CALLS = ("open", "write", "fsync", "replace", "unlink")

    def __init__(self, death):
        self.calls_left = death
        self.calls = 0

    def __getattr__(self, name):
        real = getattr(os, name)
        if name not in self.CALLS:
            return real

        def call(*args):
            self.calls += 1
            if self.calls > self.calls_left:
                raise Killed
            if name == "write":  # large ones are written in parts
                return real(args[0], args[1][: max(1, len(args[1]) // 2)])
            return real(*args)

        return call


def test_killed_between_any_two_system_calls_of_a_save(tmp_path, monkeypatch):
    base = tmp_path / "base"
    base.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        save(base, 8, score=1.0)
        save(base, 16, score=0.0)
    whole = names(base)
    deaths, done, loaded = 0, False, set()
    while not done:
        folder = tmp_path / f"dies after {deaths}"
        shutil.copytree(base, folder)
        system = DyingSystem(deaths)
        with monkeypatch.context() as patch:
            for module in (files, checkpoints):
                patch.setattr(module, "os", system)
            try:
                save(folder, 24, score=2.0, keep=2)
                done = True
            except Killed:
                pass
        found = load_checkpoint(folder)
        loaded.add(found.step)
        assert_is(found, 16 if found.step == 16 else 24)
        clean(folder, found.step)
        assert_is(load_checkpoint(folder), found.step)
        left = names(folder)
        assert left in (whole, whole | names_of(24), names_of(16) | names_of(24)), deaths
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", lambda handle: None)
            save(folder, 24, score=2.0, keep=2)  # what the run that goes on does
        assert names(folder) == names_of(16) | names_of(24)
        deaths += 1
    assert loaded == {16, 24}
    assert deaths > 40


def test_killed_in_the_first_save_there_is_none_or_all_of_it(tmp_path, monkeypatch):
    deaths, done, ends = 0, False, set()
    while not done:
        folder = tmp_path / f"dies after {deaths}"
        folder.mkdir()
        system = DyingSystem(deaths)
        with monkeypatch.context() as patch:
            patch.setattr(files, "os", system)
            patch.setattr(checkpoints, "os", system)
            try:
                save(folder, 8)
                done = True
            except Killed:
                pass
        try:
            found = load_checkpoint(folder)
        except FileNotFoundError:
            found = None
            clean(folder, 0)
        if found:
            assert_is(found, 8)
        else:
            assert names(folder) == set()
        ends.add(bool(found))
        deaths += 1
    assert ends == {True, False}


def test_a_checkpoint_without_its_weights_is_damaged_and_not_absent(tmp_path):
    save(tmp_path, 8)
    (tmp_path / "model_8.pt").unlink()
    with pytest.raises(DamagedFileError, match=r"model_8\.pt: it is missing"):
        load_checkpoint(tmp_path)


@pytest.mark.usefixtures("no_sync")
def test_damaged_checkpoints_after_the_one_in_use_are_put_aside(tmp_path):
    for step in (8, 16, 24):
        save(tmp_path, step)
    (tmp_path / "model_24.pt").write_bytes(b"")
    clean(tmp_path, 16)
    assert names(tmp_path) == names_of(8) | names_of(16) | {f"damaged-{n}" for n in names_of(24)}
    save(tmp_path, 20, keep=2)
    assert sorted(checkpoint_steps(tmp_path)) == [16, 20]


# Damage


def damage(folder, step, chance):
    """Damage one file of a checkpoint in one way; says how."""
    path = folder / chance.choice(sorted(names_of(step)))
    content = path.read_bytes()
    kind = chance.choice(["cut", "bit", "empty", "missing", "noise", "longer", "other", "folder"])
    if kind == "cut":
        path.write_bytes(content[: chance.randrange(len(content))])
    elif kind == "bit":
        damaged = bytearray(content)
        damaged[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "missing":
        path.unlink()
    elif kind == "noise":
        path.write_bytes(chance.randbytes(len(content)))
    elif kind == "longer":
        path.write_bytes(content + b"\0")
    elif kind == "other":
        path.write_bytes((folder / path.name.replace(str(step), "8")).read_bytes())
    else:
        path.unlink()
        path.mkdir()
    return f"{kind} {path.name}"


@pytest.mark.usefixtures("no_sync")
@pytest.mark.parametrize("seed", range(200))
def test_a_damaged_checkpoint_is_never_believed(seed, tmp_path, capsys):
    chance = random.Random(seed)
    for step in (8, 9, 10, 11):
        save(tmp_path, step)
    (tmp_path / "model_best.pt").write_bytes(b"not to be read")
    what = damage(tmp_path, 11, chance)
    found = load_checkpoint(tmp_path)
    # A bit of a manifest that says nothing can be flipped: then all is well.
    assert_is(found, 11 if found.step == 11 and "manifest" in what else 10)
    if found.step == 10 and not what.startswith(("missing manifest", "folder manifest")):
        err = capsys.readouterr().err
        assert "_11." in err, what
        assert "Step 10 is used instead" in err
    damage(tmp_path, 10, chance)
    damage(tmp_path, 9, chance)
    (tmp_path / "manifest_8.json").unlink()
    with contextlib.suppress(DamagedFileError):
        found = load_checkpoint(tmp_path)
        assert_is(found, found.step)


@pytest.mark.usefixtures("no_sync")
def test_checkpoints_are_checked_one_by_one(tmp_path):
    for step in (9, 10):
        save(tmp_path, step)
    (tmp_path / "model_9.pt").write_bytes(b"")
    (nine, problem), ten = check_checkpoints(tmp_path)
    assert (nine, ten) == (9, (10, None))
    assert "model_9.pt" in problem


# No room, no rights


@pytest.mark.parametrize("call", ["open", "write", "fsync", "replace"])
@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_a_full_disk_keeps_the_earlier_checkpoints(call, number, tmp_path, monkeypatch):
    save(tmp_path, 8)
    before = {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}
    real, calls = getattr(os, call), []

    def full(*args):
        calls.append(args)
        if len(calls) == number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*args)

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space left"):
        save(tmp_path, 16)
    monkeypatch.undo()
    assert not any(name.endswith(".tmp") for name in names(tmp_path))
    found = load_checkpoint(tmp_path)
    assert_is(found, found.step)
    for name, content in before.items():
        assert (tmp_path / name).read_bytes() == content
    assert names(tmp_path) in (names_of(8), names_of(8) | names_of(16))


def test_a_file_that_grows_too_large_for_the_system(tmp_path):
    """The system's own refusal, in a process of its own limits: nothing is simulated."""
    save(tmp_path, 8)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, before[1]))
        with pytest.raises(OSError, match="File too large"):
            save(tmp_path, 16)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert names(tmp_path) == names_of(8)
    assert_is(load_checkpoint(tmp_path), 8)


def test_room_is_looked_for_before_the_first_step(tmp_path, monkeypatch):
    model = torch.nn.Linear(1000, 1000)
    check_room(tmp_path / "not" / "yet", model, 3)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=50_000_000))
    with pytest.raises(OSError, match=r"50 MB free, and 5 checkpoints need 60 MB\. Make room"):
        check_room(tmp_path / "not" / "yet", model, 3)
    check_room(tmp_path, model, 2)


# What a stranger may have put into model_<step>.pt


def archive(members, compression=zipfile.ZIP_STORED):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", compression) as file:
        for name, data in members:
            file.writestr(name, data)
    return content.getvalue()


def test_an_archive_is_checked_before_torch_sees_it(tmp_path, monkeypatch):
    content = io.BytesIO()
    torch.save(weights(1), content)
    with zipfile.ZipFile(content) as file:
        members = [(name, file.read(name)) for name in file.namelist()]
    bad = {
        "compressed": archive(members, zipfile.ZIP_DEFLATED),
        "name": archive([*members, ("../../outside", b"x")]),
        "absolute": archive([*members, ("/outside", b"x")]),
        "no archive": b"hello",
        "old format": b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.",
    }
    monkeypatch.setattr(torch, "load", lambda *args, **options: pytest.fail("torch saw it"))
    for kind, data in bad.items():
        (tmp_path / "model_1.pt").write_bytes(data)
        with pytest.raises(DamagedFileError, match=r"cannot read .*model_1\.pt"):
            load_checkpoint(tmp_path)
        assert names(tmp_path) == {"model_1.pt"}, kind


def test_a_sparse_file_of_a_terabyte_is_not_read(tmp_path):
    with open(tmp_path / "model_1.pt", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(DamagedFileError, match="1099511627776 bytes, more than"):
        load_checkpoint(tmp_path)


@pytest.mark.usefixtures("no_sync")
@pytest.mark.parametrize(
    "change",
    [
        {"files": {"../model_1.pt": {"bytes": 1, "sha256": ""}}},
        {"files": []},
        {"files": {"model_1.pt": 3}},
        {"step": 2},
        {"format": "air checkpoint 2"},
        {"files": {"model_1.pt": {"bytes": 1 << 40, "sha256": "0"}}},
    ],
    ids=str,
)
def test_a_manifest_that_makes_no_sense(change, tmp_path):
    save(tmp_path, 1)
    path = tmp_path / "manifest_1.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DamagedFileError, match=r"manifest|bytes"):
        load_checkpoint(tmp_path)
