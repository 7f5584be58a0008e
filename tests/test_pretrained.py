"""The models that come with the package: whole, small, and as good as their card says."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from air import AIR
from air.weights import find_folder, shipped_models
from experiments.datasets import embedded_digits, load_dataset, multi_mnist

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def scenes():
    """The first held-out scenes of the shipped digits, made without the others."""
    return multi_mnist(embedded_digits(), num_train=1, num_held_out=300).held_out


def test_names():
    assert "multi-mnist" in shipped_models()
    assert find_folder("multi-mnist").parent.name == "pretrained"


def test_a_model_is_small_and_says_how_good_it_is():
    folder = find_folder("multi-mnist")
    assert sum(path.stat().st_size for path in folder.iterdir()) < 8_000_000
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert re.search(r"held-out scenes .*: \d\d\.\d\d% of the counts are right", card)
    assert not re.search(r"(?m)^.*(/tmp|/home|/root)", card)


def test_the_counts_are_right(scenes):
    model = AIR.from_pretrained("multi-mnist")
    card = (find_folder("multi-mnist") / "README.md").read_text(encoding="utf-8")
    stated = float(re.search(r"(\d\d\.\d\d)% of the counts", card)[1]) / 100
    predictions = model.predict(scenes.images)
    accuracy = (predictions.counts == scenes.num_objects).float().mean().item()
    # 300 scenes: four standard deviations of a share of 98 % are 3 %.
    assert accuracy > stated - 0.035, accuracy


def test_it_loads_offline_and_from_any_folder(tmp_path):
    code = (
        "import socket, torch\n"
        "def refuse(*_, **__): raise AssertionError('the network was used')\n"
        "socket.socket = socket.create_connection = refuse\n"
        "from air import AIR\n"
        "print(AIR.from_pretrained('multi-mnist').config.canvas_size)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        check=False,
    )
    assert result.stdout.strip() == "(50, 50)", result.stderr


@pytest.mark.slow
def test_the_card_is_true():
    model = AIR.from_pretrained("multi-mnist")
    held_out = load_dataset("multi-mnist").held_out
    counts = torch.cat([model.infer(part).counts for part in held_out.images.split(500)])
    accuracy = (counts == held_out.num_objects).double().mean().item()
    card = (find_folder("multi-mnist") / "README.md").read_text(encoding="utf-8")
    assert f"{accuracy:.2%} of the counts" in card


def test_the_config_is_plain():
    config = json.loads((find_folder("multi-mnist") / "config.json").read_text(encoding="utf-8"))
    assert config["max_objects"] == 3
