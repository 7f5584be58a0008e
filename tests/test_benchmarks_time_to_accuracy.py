import json
from pathlib import Path

import pytest

from experiments.benchmarks import time_to_accuracy


def record(seed, precision, accuracy, seconds):
    return {
        "seed": seed,
        "precision": precision,
        "count_accuracy_mode": accuracy,
        "elbo": 600.0 + seed,
        "seconds": seconds,
        "step": 3000,
    }


def test_every_seed_is_counted():
    records = [
        record(0, "float32", 0.985, 80.0),
        record(1, "float32", 0.9799, 100.0),
        record(2, "float32", 0.99, 90.0),
        record(0, "bf16", 0.98, 70.0),
    ]
    rows = time_to_accuracy.format_table(records).splitlines()[2:]
    assert rows == [
        "| float32 | 0, 1, 2 | 3,000 | 2 of 3 | 98.50 % | 97.99 % | 601.0 | 90 | 100 |",
        "| bf16 | 0 | 3,000 | 1 of 1 | 98.00 % | 98.00 % | 600.0 | 70 | 70 |",
    ]


@pytest.fixture
def runs(monkeypatch):
    """Stands in for ``main.py train``: writes what a run would; returns the commands."""
    commands = []

    def run(command, *, cwd, check, stdout):
        commands.append(command)
        folder = Path(command[command.index("--output") + 1]) / "run/results"
        folder.mkdir(parents=True)
        line = {"step": 7, "split": "held_out", "count_accuracy_mode": 0.98, "elbo": 1.0}
        line["count_accuracy"] = 0.97
        train = line | {"split": "train", "step": 8}
        (folder / "metrics.jsonl").write_text(f"{json.dumps(line)}\n{json.dumps(train)}\n")

    monkeypatch.setattr(time_to_accuracy.subprocess, "run", run)
    return commands


def test_finished_runs_are_not_made_again(runs, tmp_path, capsys):
    path, page = tmp_path / "runs.json", tmp_path / "page.md"
    page.write_text("a\n<!-- time to accuracy -->\n<!-- end of time to accuracy -->\nb\n")
    flags = ["--json", str(path), "--precisions", "float32,bf16", "--write", str(page)]
    assert time_to_accuracy.main([*flags, "--seeds", "0-1", "--lr", "0.5"]) == 0
    assert len(runs) == 4
    assert runs[0][1:3] == ["main.py", "train"]
    assert {"--lr", "0.5", "--precision", "float32"} <= set(runs[0])
    assert time_to_accuracy.main([*flags, "--seeds", "1-2"]) == 0
    assert len(runs) == 6
    records = json.loads(path.read_text())
    assert [(r["precision"], r["seed"], r["step"]) for r in records[:2]] == [
        ("float32", 0, 7),
        ("float32", 1, 7),
    ]
    assert "--output" not in records[0]["command"]
    table = capsys.readouterr().out.split("\n\n")[-1].strip()
    assert page.read_text().startswith("a\n<!-- time to accuracy -->\n| precision")
    assert table.splitlines()[-1] in page.read_text()
