"""A file from a stranger is data: it runs nothing, eats no memory, ends in a documented error."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.hostile import ENTRIES, good_files, try_entry

ROOT = Path(__file__).resolve().parents[1]
OPENS_MUCH = {
    *("metrics", "checkpoint facts", "picture", "photograph", "scan"),
    *("picture of the library", "photograph of the library", "scan of the library"),
}
"""Lines that are no metrics are dropped; facts may be any object, until a run is to go on; a
picture whose other parts are odd is one, as long as it takes no more memory than it should."""


@pytest.fixture
def no_sync(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.mark.parametrize("share", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_hostile_files_do_nothing(share, tmp_path):
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.hostile", str(tmp_path), str(share)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    results = json.loads(result.stdout)
    odd = [
        (file, entry, end)
        for file, entry, end in results
        if end not in (None, "left out") and not (end == "opened" and entry in OPENS_MUCH)
    ]
    assert odd == []
    assert sum(end is None for _, _, end in results) > 200
    assert not list(tmp_path.rglob("canary"))


@pytest.mark.parametrize("name", ENTRIES)
def test_good_files_are_opened(name):
    file, _, _ = ENTRIES[name]
    content = good_files(name)[Path(file)]
    assert try_entry(name, content) == (None if name == "lock" else "opened")


NUMBERS = [b"\xff" * 8, b"\x00" * 8, b"\x7f" + b"\xff" * 7, b"\x00\x00\x00\x00\x00\x01\x00\x00"]
TEXTS = [b"-1", b"1099511627776", b"1e999", b"NaN", b"null", b"[", b'"', b"{", b"../x", b"true"]


@st.composite
def mutations(draw):
    """A function that damages a file's content in some places."""
    changes = draw(
        st.lists(
            st.tuples(
                st.sampled_from(["bit", "cut", "insert", "overwrite", "remove", "repeat"]),
                st.floats(0, 1),
                st.integers(0, 7),
                st.one_of(st.sampled_from(NUMBERS + TEXTS), st.binary(max_size=12)),
            ),
            min_size=1,
            max_size=4,
        )
    )

    def mutate(content):
        for kind, place, bit, data in changes:
            at = int(place * max(len(content) - 1, 0))
            if kind == "bit" and content:
                content = content[:at] + bytes([content[at] ^ (1 << bit)]) + content[at + 1 :]
            elif kind == "cut":
                content = content[:at]
            elif kind == "insert":
                content = content[:at] + data + content[at:]
            elif kind == "overwrite":
                content = content[:at] + data + content[at + len(data) :]
            elif kind == "remove":
                content = content[:at] + content[at + 1 + 3 * bit :]
            else:
                content = content[:at] + content[max(0, at - 20) : at] * bit + content[at:]
        return content

    return mutate


def fuzz(name, examples):
    """Open mutated and random files; each must be opened or end in a documented error."""
    good = good_files(name)[Path(ENTRIES[name][0])]

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.one_of(mutations(), mutations(), mutations(), st.binary(max_size=200)))
    def check(change):
        content = change if isinstance(change, bytes) else change(good)
        assert try_entry(name, content) in (None, "opened")

    check()


@pytest.mark.usefixtures("no_sync")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ENTRIES)
def test_fuzz(name):
    fuzz(name, 25)


@pytest.mark.usefixtures("no_sync")
@pytest.mark.parametrize("name", [n for n, (file, *_) in ENTRIES.items() if "json" in file])
def test_no_number_of_a_file_is_taken_for_what_a_float_cannot_hold(name):
    content = good_files(name)[Path(ENTRIES[name][0])]
    numbers = list(re.finditer(rb"(?<![\w.])-?\d+(\.\d+)?(e-?\d+)?(?![\w.])", content))
    for match in numbers[:: max(1, len(numbers) // 40)]:
        for digits in (20, 400, 5000):
            changed = content[: match.start()] + b"9" * digits + content[match.end() :]
            ends = try_entry(name, changed)
            # A line of metrics that makes no sense is dropped.
            assert ends in ((None, "opened") if "metrics" in name else (None,)), match


@pytest.mark.slow
@pytest.mark.usefixtures("no_sync")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ENTRIES)
def test_fuzz_long(name):
    fuzz(name, 10_000)
