"""The benchmarks on user images, and the table of counts beside connected regions."""

import json

import numpy as np
import pytest
import torch

from experiments.benchmarks import summary
from experiments.benchmarks.own_images import __main__ as own_images
from experiments.benchmarks.own_images.cases import KINDS, make, place
from experiments.benchmarks.results.tables import PLAIN, TABLES


def test_pictures_are_the_same_for_a_seed_and_hold_what_they_say():
    one, two, other = make("control", number=5), make("control", number=5), make("control", seed=2)
    assert all(np.array_equal(a, b) for a, b in zip(one[0], two[0], strict=True))
    assert one[1] == two[1]
    assert not np.array_equal(one[0][0], other[0][0])
    assert max(make("control")[1]) == KINDS["control"].most


def test_every_second_disk_touches_the_one_before():
    disks = place(np.random.default_rng(0), 4, KINDS["touching"])
    for first, second in ((0, 1), (2, 3)):
        (y, x, r), (b, a, q) = disks[first], disks[second]
        assert np.hypot(y - b, x - a) == pytest.approx(r + q - 0.5)


def test_a_run_is_kept_and_not_made_again(tmp_path, monkeypatch, capsys):
    torch.manual_seed(0)
    command = ["--kinds", "few", "--seeds", "1", "--num-steps", "2", "--records", str(tmp_path)]
    assert own_images.main(command) == 0
    (path,) = tmp_path.glob("*.json")
    record = json.loads(path.read_text())
    assert record["regions_right"] == 1.0  # six pictures of separate disks
    assert 0 <= record["air_right"] <= 1
    monkeypatch.setattr(own_images, "measure", None)
    assert own_images.main(command) == 0
    assert "| `few` | 1 |" in capsys.readouterr().out
    with pytest.raises(ValueError, match="was made with"):
        own_images.main([*command[:5], "3", *command[6:]])


def test_the_summary_counts_every_seed_and_names_the_baseline(tmp_path):
    (row,) = [row for row in TABLES["one-recipe"].rows if row.name == "digits"]
    folder = tmp_path / "results" / "one-recipe"
    folder.mkdir(parents=True)
    for seed, right in enumerate((0.99, 0.97)):
        record = {"row": row.name, "seed": seed, "status": "finished", "settings": row.settings}
        record |= {PLAIN: {"count_accuracy_mode": right, "elbo": 600.0 + seed}}
        record["evaluation_on_multi-mnist-3"] = {"count_accuracy_mode": 0.9}
        (folder / f"digits_seed{seed}.json").write_text(json.dumps(record))
    (tmp_path / "regions.json").write_text(json.dumps({row.dataset: {"right": 0.951}}))
    text = summary.format_summary(tmp_path)
    assert "| `multi-mnist` | 2 | 98.00 ± 1.41 % | 97.00 % | 600.5 ± 0.7 | - | 95.1 % |" in text
    assert "`multi-mnist-3`" in text
