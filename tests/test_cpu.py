import os

import pytest

from experiments.cpu import busy_hint, load


@pytest.mark.parametrize(
    ("threads", "busy", "cores", "free"),
    [(2, 1.2, 2, 1), (2, 5.0, 2, 1), (64, 3.4, 64, 61), (8, 8.0, 12, 4)],
)
def test_busy_cores_are_told_with_what_to_do(threads, busy, cores, free):
    assert f"--threads {free} may be" in busy_hint(threads, busy, cores)


@pytest.mark.parametrize(
    ("threads", "busy", "cores"), [(2, 0.9, 2), (1, 8.0, 2), (4, 3.0, 8), (16, 0.0, 16)]
)
def test_enough_cores_are_nothing_to_talk_of(threads, busy, cores):
    assert busy_hint(threads, busy, cores) is None


def test_where_nobody_counts_the_load_is_none(monkeypatch):
    assert load() >= 0
    monkeypatch.delattr(os, "getloadavg")
    assert load() == 0
