import json
from pathlib import Path

import pytest

from experiments.benchmarks.table import format_table, insert, read_records

ROOT = Path(__file__).parent.parent


def record(folder, name, accuracy):
    fields = {
        "count_accuracy": accuracy,
        "count_accuracy_mode": accuracy,
        "elbo": 600.0,
        "log_likelihood_bound": 610.0,
    }
    (folder / name).write_text(json.dumps(fields))


def test_every_seed_is_counted(tmp_path):
    for seed, accuracy in enumerate([0.99, 0.3, 0.98]):
        record(tmp_path, f"a-set_reinforce_seed{seed}.json", accuracy)
    row = format_table(read_records(tmp_path)).splitlines()[2]
    assert "| 0, 1, 2 | 2 of 3 | 75.67 ± 39.55 % |" in row


def test_a_strange_record_is_refused(tmp_path):
    record(tmp_path, "best.json", 1.0)
    with pytest.raises(ValueError, match="DATASET_ESTIMATOR_seedN"):
        read_records(tmp_path)


def test_insert_needs_its_markers():
    text = "a\n<!-- results -->\nold\n<!-- end of results -->\nb"
    assert insert(text, "new") == "a\n<!-- results -->\nnew\n<!-- end of results -->\nb"
    with pytest.raises(ValueError, match="lacks the markers"):
        insert("no markers", "new")


def test_readme_shows_the_records():
    assert format_table(read_records()) in (ROOT / "README.md").read_text(encoding="utf-8")
