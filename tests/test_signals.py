"""SIGTERM and SIGINT: save, then go; the second time at once."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from experiments.checkpoints import load_checkpoint
from experiments.signals import StopSignals

ROOT = Path(__file__).resolve().parents[1]


def test_a_signal_is_noted_and_handlers_are_put_back():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with StopSignals() as signals:
        assert signals.received is None
        signal.raise_signal(signal.SIGTERM)
        assert signals.received == signal.SIGTERM
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == before


@pytest.mark.parametrize(("first", "second"), [("SIGTERM", "SIGINT"), ("SIGINT", "SIGTERM")])
def test_the_second_signal_ends_the_process_at_once(first, second, monkeypatch):
    ends = []
    monkeypatch.setattr(os, "_exit", ends.append)
    with StopSignals():
        signal.raise_signal(getattr(signal, first))
        assert ends == []
        signal.raise_signal(getattr(signal, second))
    assert ends == [128 + getattr(signal, second)]


def test_outside_the_main_thread_nothing_is_done():
    seen = []

    def work():
        with StopSignals() as signals:
            seen.append(signals.received)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [None]


def start_run(tmp_path, *flags):
    """A long run in a process of its own, that is past its first checkpoint."""
    output = tmp_path / "Läufe 走"
    settings = ["--output", output, "--run-name", "run", "--nocuda", "--threads", 1]
    settings += ["--batch-size", 8, "--z-what-size", 5, "--max-steps", 1_000_000, "--tr-log-every"]
    settings += [10, "--ts-log-every", 10, "--checkpoint-every", 10]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.tiny_main", "train", *map(str, settings), *flags],
        cwd=ROOT,
        env=os.environ | {"AIR_DATA_ROOT": str(tmp_path / "data")},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    folder = output / "run" / "checkpoints"
    for _ in range(1200):
        if list(folder.glob("manifest_*.json")):
            return process, folder
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.1)
    process.kill()
    raise AssertionError("no checkpoint after two minutes")


@pytest.mark.parametrize(
    ("name", "status"),
    [("SIGTERM", 143), pytest.param("SIGINT", 130, marks=pytest.mark.slow)],
)
def test_a_run_saves_and_says_how_to_go_on(name, status, tmp_path):
    process, folder = start_run(tmp_path)
    process.send_signal(getattr(signal, name))
    out, _ = process.communicate(timeout=120)
    assert process.returncode == status
    step = load_checkpoint(folder).step
    assert f"Stopped by {name} after step {step}." in out
    assert "python main.py train --resume run" in out
    assert not (folder.parent / "lock.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.0, 0.001, 0.01, 0.05])
def test_two_signals_harm_nothing(delay, tmp_path):
    process, folder = start_run(tmp_path)
    process.send_signal(signal.SIGTERM)
    time.sleep(delay)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    # The second may come when the run is over and the interpreter is shutting down.
    assert process.returncode in (143, -signal.SIGTERM)
    assert load_checkpoint(folder).training is not None
