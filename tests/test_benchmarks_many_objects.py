"""The benchmark of scenes with many objects."""

import json

from experiments.benchmarks.many_objects import format_table, main
from experiments.benchmarks.record_files import RECORDS, read_record
from tests.test_readme import README


def test_each_seed_is_fitted_once_and_shown(one_thread, tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("<!-- many objects -->\nold\n<!-- end of many objects -->\n")
    flags = ["--dataset", "scenes:canvas=30,size=10,max_objects=2,train=60,held_out=30"]
    flags += ["--data-root", str(tmp_path), "--num-steps", "4", "--images", "50"]
    flags += ["--max-objects", "3", "--records", str(tmp_path / "records")]
    picture = tmp_path / "pictures/some.png"
    assert main([*flags, "--picture", str(picture)]) == 0
    assert picture.stat().st_size > 500
    path = tmp_path / "records/seed0.json"
    record = json.loads(path.read_text())
    assert str(tmp_path) not in path.read_text()
    assert len(record["count_accuracy_by_count"]) == 3
    assert 0 <= record["count_accuracy"] <= record["off_by_one"] <= 1
    changed = path.stat().st_mtime_ns
    assert main([*flags, "--seeds", "2", "--write", str(page)]) == 0
    assert path.stat().st_mtime_ns == changed
    assert "| 0, 1 |" in page.read_text()
    assert "`max_objects=3`, 4 steps; 30 held-out scenes" in page.read_text()
    capsys.readouterr()
    assert main([*flags, "--max-objects", "4"]) == 2
    assert "max_objects = 3 instead of 4" in capsys.readouterr().err
    assert main([*flags, "--images", "0"]) == 2


def test_readme_shows_the_records():
    paths = sorted((RECORDS / "many_objects").glob("seed*.json"))
    assert format_table([read_record(path) for path in paths]) in README
