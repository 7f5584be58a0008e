"""The bar of training steps."""

import io
import sys

import pytest

from experiments.bars import step_bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(("stream", "seconds"), [(Terminal(), 0.1), (io.StringIO(), 10.0)])
def test_a_file_gets_a_state_every_ten_seconds_at_most(monkeypatch, stream, seconds):
    monkeypatch.setattr(sys, "stderr", stream)
    with step_bar(total=2000, desc="train") as bar:
        assert bar.mininterval == seconds
        for _ in range(2000):
            bar.update()
    assert stream.getvalue().count("\r") <= 20
    assert "2000/2000" in stream.getvalue()
