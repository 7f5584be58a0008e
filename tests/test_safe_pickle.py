"""Plain data comes out of a pickle as it went in; anything else does not."""

import argparse
import collections
import math
import pickle

import numpy as np
import pytest

from experiments.files import DamagedFileError
from experiments.safe_pickle import Array, Record, read_pickle
from tests.hostile import pickles

DATA = {
    "text": "é" * 300,
    "short": "x",
    "numbers": [0, -1, 255, 256, 65536, -(2**40), 2**200, 1.5, -0.0, math.inf],
    "constants": (None, True, False),
    "bytes": [b"", b"x" * 300],
    "nested": {"a": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)], 3: {}, 2.5: []},
}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_data_comes_back(protocol):
    assert read_pickle(pickle.dumps(DATA, protocol=protocol), "x") == DATA


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize(
    "array",
    [
        np.arange(6).astype(dtype).reshape(shape)
        for dtype in ("u1", "<i4", ">i8", "<f4", ">f8", "U3", "S2")
        for shape in ((6,), (2, 3), (1, 6, 1))
    ]
    + [
        np.asfortranarray(np.arange(6).reshape(2, 3)),
        np.zeros((0, 3)),
        np.array(7),
        np.array([True, False]),
    ],
    ids=lambda array: f"{array.dtype} {array.shape}",
)
def test_arrays_come_back(array, protocol):
    found = read_pickle(pickle.dumps([array, array], protocol=protocol), "x")
    assert isinstance(found[0], Array)
    for one in found:
        np.testing.assert_array_equal(one.values, array)
        assert one.values.dtype == array.dtype


def test_arrays_of_objects_hold_their_items():
    array = np.empty(2, dtype=object)
    array[:] = [{"a": 1}, [2]]
    assert read_pickle(pickle.dumps(array, protocol=4), "x").items == [{"a": 1}, [2]]


def test_numpy_numbers_are_numbers():
    numbers = [np.float64(1.5), np.float32(0.5), np.int64(-3), np.bool_(True)]
    assert read_pickle(pickle.dumps(numbers, protocol=4), "x") == [1.5, 0.5, -3, True]


def test_settings_are_a_record():
    record = read_pickle(pickle.dumps(argparse.Namespace(lr=0.1, name=None)), "x")
    assert isinstance(record, Record)
    assert (record.kind, record.fields) == ("Namespace", {"lr": 0.1, "name": None})


HARMLESS = {
    "a list in itself",  # nobody walks through these
    "nested lists",
    "a billion laughs",
    "memo of 2^32",
    "array of 2^40",  # without its content it is none
}


@pytest.mark.parametrize("name", [name for name, _ in pickles()])
def test_hostile_ones_are_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = dict(pickles())[name]
    if name in HARMLESS:
        read_pickle(content, "x")
    else:
        with pytest.raises(DamagedFileError, match=r"^x is "):
            read_pickle(content, "x")
    assert list(tmp_path.iterdir()) == []


def test_the_bomb_goes_off_where_it_is_unpickled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pickle.loads(dict(pickles())["reduce"])
    assert [path.name for path in tmp_path.iterdir()] == ["canary"]


@pytest.mark.parametrize(
    "value",
    [
        {1, 2},
        collections.OrderedDict(a=1),
        {(1, 2): 3},
        np.zeros(2, dtype=[("a", "i4")]),
        np.array(["2020-01-01"], dtype="datetime64[D]"),
        print,
        argparse.ArgumentParser,
        ValueError("x"),
        1j,
    ],
    ids=lambda value: type(value).__name__,
)
def test_other_things_are_named(value):
    with pytest.raises(DamagedFileError, match="not the plain data it should be"):
        read_pickle(pickle.dumps(value, protocol=4), "x")
