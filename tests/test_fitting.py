import csv
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import air
from air import AIR, fit
from air.fitting import choose_config
from tests.test_object_size import squares

ROOT = Path(__file__).resolve().parents[1]
SMALL = {
    "lstm_size": 16,
    "predictor_hidden": (12,),
    "encoder_hidden": (12,),
    "decoder_hidden": (12,),
    "z_what_size": 3,
}


@pytest.fixture(scope="module")
def images():
    """White pages of 40 x 40 pixels with a dark square or two."""
    return 1 - squares([6, 8], number=12, size=40)


def small_fit(images, **settings):
    return fit(images, **({"num_steps": 12, "max_objects": 2, "batch_size": 8} | SMALL | settings))


def test_a_model_that_is_ready_to_predict(images):
    lines = []
    model = small_fit(images, log=lines.append)
    assert isinstance(model, AIR)
    assert not model.training
    assert model.validate_args
    assert (model.preparation.objects, model.preparation.surface) == ("dark", "plain")
    # Squares of 6 pixels get 10.
    assert (model.config.canvas_size, model.config.channels) == ((67, 67), 1)
    assert (model.config.max_objects, model.config.z_what_size) == (2, 3)
    assert model.prior().num_steps.probs[0] == pytest.approx(0.99, abs=0.01)
    assert len(model.predict(images)) == 12
    text = "\n".join(lines)
    for part in (
        "12 grey images of 40 x 40",
        "at 1.667 times their size",
        "objects are darker than the background, which is even",
        "objects of 6 px +- 1",
        "100 %, step 12, ",
        "done: ELBO",
    ):
        assert part in text


def test_the_same_seed_gives_the_same_model_and_touches_no_other_random_numbers(images):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again = (small_fit(images, log=None).state_dict() for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    other = small_fit(images, log=None, seed=1).state_dict()
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_of_several_starts_the_one_with_the_highest_elbo_is_kept(images, monkeypatch):
    kept, lines = [], []
    elbos = iter([3.0, 7.0, float("nan"), 5.0])

    def elbo(model, _):
        kept.append(model)
        return next(elbos)

    monkeypatch.setattr("air.fitting._mean_elbo", elbo)
    model = small_fit(images, n_init=4, num_steps=2, log=lines.append)
    assert model is kept[1]
    assert "start 2 of 4: ELBO 7.0 nats" in lines
    assert "start 3 of 4 broke down (ELBO nan)" in lines
    assert lines[-1] == "kept: start 2, with the highest ELBO of 4 (7.0 nats)"
    first = kept[0].state_dict()
    assert not all(torch.equal(first[name], kept[1].state_dict()[name]) for name in first)


def test_if_all_starts_break_down_it_is_said(images, monkeypatch):
    monkeypatch.setattr("air.fitting._mean_elbo", lambda *_: float("nan"))
    with pytest.raises(FloatingPointError, match="Try another seed"):
        small_fit(images, num_steps=1, log=None)


def test_a_folder_and_paths(images, tmp_path):
    from PIL import Image

    for number, image in enumerate(images):
        Image.fromarray((image[0] * 255).byte().numpy()).save(tmp_path / f"{number:02}.png")
    lines = []
    small_fit(str(tmp_path), num_steps=1, log=lines.append)
    small_fit(sorted(tmp_path.iterdir())[:5], num_steps=1, log=lines.append)
    assert lines[0].startswith("12 grey images")
    assert any(line.startswith("5 grey images") for line in lines)


# Settings


def test_the_size_can_be_said_and_settings_be_others(images):
    lines = []
    config, _, size = choose_config(
        list(images), max_objects=4, object_size=12, say=lines.append, likelihood_sd=0.2
    )
    assert size.size == 12
    assert config.z_where_mean[0] == pytest.approx(40 / (1.1 * 12), abs=5e-3)
    assert size.spread == 0  # what was estimated is not of such objects
    assert (config.likelihood_sd, config.max_objects) == (0.2, 4)
    assert lines[-1].startswith("objects of 12 px")
    with pytest.raises(ValueError, match=r"unknown setting.*likelyhood.*likelihood_sd"):
        choose_config(list(images), max_objects=4, likelyhood="normal")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_steps": 0}, "num_steps must be at least 1"),
        ({"n_init": 0}, "n_init must be at least 1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"time_budget": 0}, "time_budget must be above 0"),
        ({"object_size": -1}, "object_size must lie between 1"),
        ({"max_objects": 0}, "max_objects must be at least 1"),
    ],
)
def test_nonsense_is_refused(images, settings, message):
    with pytest.raises(ValueError, match=message):
        small_fit(images, log=None, **settings)
    with pytest.raises(ValueError, match="nothing in these images"):
        small_fit(torch.ones(3, 1, 20, 20), log=None)


# Time


def test_the_time_budget_is_kept(images):
    start = time.monotonic()
    small_fit(images, num_steps=10**6, time_budget=2.0, n_init=2, log=None)
    assert time.monotonic() - start < 10


# A folder of one's own


BLOBS = """
import csv, sys
import numpy as np
import matplotlib
matplotlib.use("Agg")
import matplotlib.pyplot as plt

folder, seed = sys.argv[1], int(sys.argv[2])
rng = np.random.default_rng(seed)
rows = []
for i in range(50):
    fig = plt.figure(figsize=(1.28, 1.28), dpi=100)
    ax = fig.add_axes([0, 0, 1, 1])
    ax.set_xlim(0, 1), ax.set_ylim(0, 1), ax.axis("off")
    count, blobs = rng.integers(0, 5), []
    while len(blobs) < count:
        r = rng.choice([0.05, 0.08, 0.11])
        x, y = rng.uniform(r, 1 - r, 2)
        if all(np.hypot(x - a, y - b) > r + c + 0.01 for a, b, c in blobs):
            blobs.append((x, y, r))
            ax.add_patch(plt.Circle((x, y), r, color="black"))
    fig.savefig(f"{folder}/{i:03}.png")
    plt.close(fig)
    rows.append((f"{i:03}.png", count))
with open(f"{folder}/truth.csv", "w") as file:
    csv.writer(file).writerows([("file", "count"), *rows])
"""
"""Written as somebody would who never saw this package: black blobs of three sizes on white."""


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_blobs_are_counted_in_five_minutes(seed, tmp_path):
    pytest.importorskip("matplotlib")
    script = [sys.executable, "-c", BLOBS, str(tmp_path), str(seed)]
    subprocess.run(script, check=True, env=os.environ | {"PYTHONPATH": ""})
    with open(tmp_path / "truth.csv", newline="") as file:
        truth = {row["file"]: row["count"] for row in csv.DictReader(file)}
    start = time.process_time()
    model = air.fit(tmp_path, max_objects=5)
    model.predict(tmp_path).to_csv(tmp_path / "counts.csv")
    seconds = time.process_time() - start  # of all threads: of the processor, not of the clock
    with open(tmp_path / "counts.csv", newline="") as file:
        counts = {row["file"]: row["count"] for row in csv.DictReader(file)}
    right = sum(counts[name] == truth[name] for name in truth)
    assert right >= 0.95 * len(truth)
    assert seconds < 300
