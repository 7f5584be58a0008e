"""The scaling benchmark: its arithmetic, and what it reads from a run."""

import json

import pytest

from air import AIR
from experiments.benchmarks import scaling


def test_ring_time_of_a_known_case():
    # Four processes, 8 bytes at 2 bytes a second: each sends 3 + 3 parts of 2 bytes.
    assert scaling.ring_seconds(4, 8, bandwidth=2.0, latency=0.0) == pytest.approx(6.0)
    assert scaling.ring_seconds(4, 8, bandwidth=2.0, latency=0.5) == pytest.approx(9.0)
    assert scaling.ring_seconds(1, 8, bandwidth=2.0, latency=0.5) == 0


def test_gradient_bytes_are_those_of_the_standard_model():
    model = AIR()
    sum(parameter.sum() for parameter in model.parameters()).backward()
    expected = sum(p.grad.nbytes for p in model.parameters())
    assert scaling.gradient_bytes() == expected


def test_rows_are_computed_from_a_given_step(capsys):
    arguments = ["--step-ms", "10", "--batch-sizes", "64", "--bandwidth", "1", "--latency", "0"]
    assert scaling.main([*arguments, "--json"]) == 0
    output = json.loads(capsys.readouterr().out)
    eight = output["rows"][0]
    transfer = 2 * 7 / 8 * output["gradient_bytes"] / 1e9
    assert (eight["kind"], eight["processes"], eight["batch_size"]) == ("computed", 8, 512)
    assert eight["transfer_ms"] == pytest.approx(1000 * transfer)
    assert eight["images_per_s"] == pytest.approx(512 / (0.01 + transfer))
    assert eight["speedup"] == pytest.approx(8 * 0.01 / (0.01 + transfer))
    assert scaling.main(arguments) == 0
    assert capsys.readouterr().out.count("| computed |") == 2


def test_a_run_is_measured_by_the_median_of_what_it_logged(monkeypatch, capsys):
    commands = []

    class Done:
        returncode = 0
        stderr = ""

    def run(command, **kwargs):
        commands.append(command)
        folder = scaling.Path(command[command.index("--output") + 1]) / "run" / "results"
        folder.mkdir(parents=True)
        speeds = [1.0, 200.0, 100.0, 300.0]
        lines = [{"split": "train", "images_per_s": speed} for speed in speeds]
        lines.insert(2, {"split": "held_out"})
        (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
        return Done()

    monkeypatch.setattr(scaling.subprocess, "run", run)
    assert scaling.measure(1, 64, dataset="multi-mnist", steps=20) == 200.0
    assert scaling.main(["--batch-sizes", "64", "--repeats", "1", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [(row["kind"], row["processes"]) for row in rows] == [
        ("measured", 1),
        ("measured", 2),
        ("computed", 8),
        ("computed", 64),
    ]
    assert rows[1]["speedup"] == 1.0
    assert "torch.distributed.run" in commands[2]
    assert "torch.distributed.run" not in commands[1]


def test_a_failed_run_is_an_error(monkeypatch):
    class Failed:
        returncode = 2
        stderr = "error: no such thing"

    monkeypatch.setattr(scaling.subprocess, "run", lambda *args, **kwargs: Failed())
    with pytest.raises(RuntimeError, match="no such thing"):
        scaling.measure(2, 64, dataset="multi-mnist", steps=20)
