"""Checkpoints: the right one is read, a broken one is refused, none is lost."""

import pickle
from pathlib import Path

import boilr
import pytest
import torch

from air import files, make_estimator
from experiments.boilr_model import AIRModel, checkpoint_steps, read_checkpoint
from tests.small import CONFIG, small_model


def make_model(seed=0, step=0, **changes):
    air = small_model(seed=seed, **changes)
    model = AIRModel(air, make_estimator("reinforce", air.config))
    model._global_step = step
    return model


def save(folder, step, seed=0, max_ckpt=None):
    model = make_model(seed, step)
    model.checkpoint(str(folder), max_ckpt)
    return model


def names(folder):
    return sorted(path.name for path in Path(folder).iterdir())


def assert_equal(model, other):
    state = other.state_dict()
    assert model.state_dict().keys() == state.keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor.nan_to_num(-1), state[name].nan_to_num(-1)), name


@pytest.fixture(params=[False, True], ids=["listed upwards", "listed downwards"])
def listing_order(request, monkeypatch):
    """Folders are listed by name, upwards or downwards: "model_10" comes before "model_9"."""
    listings = [(Path, "glob"), (Path, "iterdir"), (files.os, "listdir")]

    def in_order(real):
        return lambda *args: iter(sorted(real(*args), key=str, reverse=request.param))

    for owner, name in listings:
        monkeypatch.setattr(owner, name, in_order(getattr(owner, name)))


def test_it_is_a_boilr_model_of_air_and_estimator():
    model = make_model()
    assert isinstance(model, boilr.models.BaseGenerativeModel)
    assert {name.split(".")[0] for name in model.state_dict()} == {"air", "estimator"}
    assert model.sample_prior(4, num_objects=2).shape == (4, *CONFIG.image_shape)


def test_a_checkpoint_brings_back_everything(tmp_path):
    saved = make_model(seed=1, step=12)
    saved.estimator.return_mean.fill_(7.0)
    saved.checkpoint(str(tmp_path))
    assert names(tmp_path) == ["manifest_12.json", "model_12.pt"]
    model = make_model(seed=2)
    model.load(str(tmp_path))
    assert_equal(model, saved)
    assert model.global_step == 12
    assert model.estimator.return_mean.tolist() == [7.0] * CONFIG.max_objects


@pytest.mark.usefixtures("listing_order")
def test_the_newest_checkpoint_is_that_of_the_highest_number(tmp_path):
    newest = {step: save(tmp_path, step, seed=step) for step in (100, 9, 10, 1)}[100]
    model = make_model()
    model.load(str(tmp_path))
    assert model.global_step == 100
    assert_equal(model, newest)
    (tmp_path / "model_100.pt").unlink()
    model.load(str(tmp_path))
    assert model.global_step == 10
    assert_equal(model, make_model(seed=10))


def test_a_step_can_be_asked_for(tmp_path):
    for step in (9, 10):
        save(tmp_path, step, seed=step)
    model = make_model()
    model.load(str(tmp_path), step=9)
    assert model.global_step == 9
    assert_equal(model, make_model(seed=9))


STRANGE = ["model_best.pt", "model_7.pt.tmp", "model_.pt", "model_8.pth", "model_7.pt.9.pt"]


def test_files_of_other_names_are_no_checkpoints(tmp_path):
    for name in (*STRANGE, "old_model_11.pt", "model_12.5.pt"):
        (tmp_path / name).write_bytes(b"not to be read")
    save(tmp_path, 5)
    assert checkpoint_steps(tmp_path) == [5]
    assert read_checkpoint(tmp_path)[0] == 5


@pytest.mark.parametrize("name", ["model_007.pt", "model_٧.pt"])
def test_numbers_written_otherwise_are_no_checkpoints(name, tmp_path):
    (tmp_path / name).write_bytes(b"not to be read")
    save(tmp_path, 5)
    assert read_checkpoint(tmp_path)[0] == 5


@pytest.mark.usefixtures("listing_order")
def test_rotation_keeps_the_newest_and_what_is_not_its_own(tmp_path):
    for name in STRANGE:
        (tmp_path / name).touch()
    for step in (8, 9, 10, 11):
        save(tmp_path, step, max_ckpt=2)
    assert names(tmp_path) == sorted(
        [*STRANGE, *(name for n in (10, 11) for name in (f"model_{n}.pt", f"manifest_{n}.json"))]
    )


@pytest.mark.parametrize(("max_ckpt", "kept"), [(None, 4), (-1, 4), (3, 3), (1, 2), (0, 2)])
def test_rotation_by_number(max_ckpt, kept, tmp_path):
    for step in (1, 2, 3, 4):
        save(tmp_path, step, max_ckpt=max_ckpt)
    assert sorted(checkpoint_steps(tmp_path)) == [1, 2, 3, 4][-kept:]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
@pytest.mark.parametrize("place", ["save", "replace"])
def test_a_failing_save_harms_no_older_checkpoint_and_leaves_no_debris(
    place, error, tmp_path, monkeypatch
):
    older = [save(tmp_path, step, seed=step) for step in (4, 5)]
    before = {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}

    def fail(first, second, *args, **kwargs):
        if place == "save":  # a file or its path
            half = b"half a checkpoint"
            second.write(half) if hasattr(second, "write") else Path(second).write_bytes(half)
        raise error

    owner = torch if place == "save" else files.os
    monkeypatch.setattr(owner, place, fail)
    for step in (5, 6):  # over one that is there, and a new one
        with pytest.raises(type(error)):
            save(tmp_path, step, max_ckpt=1)
    assert {name: (tmp_path / name).read_bytes() for name in names(tmp_path)} == before
    model = make_model()
    model.load(str(tmp_path))
    assert_equal(model, older[-1])


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return Path.touch, (self.canary,)


@pytest.mark.parametrize("kind", ["torch", "pickle", "legacy", "inside a tensor's place"])
def test_no_code_in_a_checkpoint_is_run(kind, tmp_path):
    canary, path = tmp_path / "canary", tmp_path / "model_3.pt"
    bomb = Bomb(canary)
    if kind == "pickle":
        path.write_bytes(pickle.dumps({"air.weight": bomb}))
    else:
        state = make_model().state_dict() if kind == "inside a tensor's place" else {}
        torch.save({**state, "extra": bomb}, path, _use_new_zipfile_serialization=kind != "legacy")
    model = make_model()
    with pytest.raises(ValueError, match=r"cannot read .*model_3\.pt"):
        model.load(str(tmp_path))
    assert not canary.exists()
    assert model.global_step == 0
    pickle.loads(pickle.dumps(bomb))  # it would have gone off
    assert canary.exists()


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "list", "number"])
def test_a_damaged_checkpoint_is_a_value_error(damage, tmp_path):
    path = tmp_path / "model_3.pt"
    saved = save(tmp_path, 3)
    content = path.read_bytes()
    if damage in ("list", "number"):
        state = saved.state_dict()
        torch.save(list(state.values()) if damage == "list" else {**state, "odd": 3}, path)
    else:
        path.write_bytes({"empty": b"", "cut": content[:-500], "text": b"hello"}[damage])
    with pytest.raises(ValueError, match=r"cannot read .*model_3\.pt"):
        make_model().load(str(tmp_path))


def test_a_checkpoint_of_another_model_is_a_value_error(tmp_path):
    save(tmp_path, 3)
    model = make_model(encoder_hidden=(8,))
    with pytest.raises(ValueError, match="step 3 is of another model"):
        model.load(str(tmp_path))
    assert model.global_step == 0


def test_a_missing_step_is_named_with_those_that_exist(tmp_path):
    for step in (10, 9):
        save(tmp_path, step)
    with pytest.raises(FileNotFoundError, match=r"no checkpoint of step 3\. Steps found: 9, 10\."):
        make_model().load(str(tmp_path), step=3)


@pytest.mark.parametrize("folder", ["", "absent"])
def test_no_checkpoint_at_all(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint\. Steps found: none\."):
        make_model().load(str(tmp_path / folder))
