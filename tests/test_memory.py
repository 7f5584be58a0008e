"""Memory is bounded by a budget: it is estimated first, and refused with the number."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from air import AIR, AIRConfig, memory
from air.fitting import fit
from experiments.experiment import AIRExperiment
from experiments.pictures import draw_samples
from experiments.trainer import Trainer
from tests.small import small_images, small_model
from tests.test_object_size import squares

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")


def test_what_there_is_is_known():
    assert 1 << 20 < memory.available_memory(CPU) < 1 << 50


def test_a_small_model_that_claims_an_absurd_canvas_is_refused(tmp_path, monkeypatch):
    # The residual network's weights show neither the canvas nor the number of objects.
    sizes = {"encoder_hidden": (), "decoder_hidden": (), "glimpse_size": (2, 2), "z_what_size": 1}
    AIR(AIRConfig(canvas_size=(2000, 2000), max_objects=1000, **sizes)).save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").stat().st_size < 1 << 20
    monkeypatch.setattr(memory, "available_memory", lambda device: 64 << 30)
    with pytest.raises(ValueError, match=r"on a canvas of 2000 x 2000 take about 128.* GB"):
        AIR.from_pretrained(tmp_path)


def test_candidates_count_where_there_are_any(monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda device: 4 << 30)
    options = {"num_images": 100, "device": CPU, "advice": "Take fewer."}
    memory.check_memory(AIRConfig(num_candidates=1000, inference="paper"), **options)
    memory.check_memory(AIRConfig(num_candidates=1000), **options | {"num_images": 10})
    with pytest.raises(ValueError, match=r"200 images at a time .* Take fewer"):
        memory.check_memory(AIRConfig(num_candidates=1000), **options | {"num_images": 200})


def test_too_many_images_are_refused_and_fewer_are_not(monkeypatch):
    model, images = small_model(inference="paper"), small_images(40)
    each = 4 * model.max_objects * images[0].numel()
    monkeypatch.setattr(memory, "_SMALL", 0)
    monkeypatch.setattr(memory, "available_memory", lambda device: each * (8 * 10 + 40))
    assert len(model.infer(images, batch_size=10).counts) == 40
    with pytest.raises(ValueError, match=r"11 images at a time .* Lower batch_size"):
        model.infer(images, batch_size=11)
    with pytest.raises(ValueError, match="up to 4 objects"):  # not the model's own three
        model.infer(images, batch_size=10, max_objects=4)
    with torch.no_grad():
        model(images[:15])
        with pytest.raises(ValueError, match="45 images at a time"):
            model(images[:15], num_samples=3)


def test_a_thousand_objects_are_refused_before_the_first_step(make_args, monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda device: 8 << 30)
    args = make_args(max_objects=1000, batch_size=8, test_batch_size=5000)
    with pytest.raises(ValueError, match=r"take about .* GB, and 8.6 GB .* Lower --max-objects"):
        Trainer(AIRExperiment(args))
    with pytest.raises(ValueError, match="Lower batch_size, max_objects"):
        fit(1 - squares([6, 8], number=12, size=40), max_objects=1000, batch_size=2000, log=None)


def test_samples_of_many_objects_are_some_rows():
    assert len(draw_samples(small_model(max_objects=60), columns=1)) > 0
    counts = []
    model = small_model(max_objects=60)
    sample = model.sample
    model.sample = lambda n, *, num_objects: (
        counts.extend(num_objects.tolist()) or sample(n, num_objects=num_objects)
    )
    draw_samples(model, columns=1)
    assert (len(counts), counts[0], counts[-1]) == (20, 1, 60)


def test_parts_are_the_whole():
    model, images = small_model(), small_images(11)
    parts, whole = model.infer(images, batch_size=4), model.infer(images)
    for name, value in vars(whole).items():
        assert torch.allclose(getattr(parts, name), value, equal_nan=True, atol=1e-6), name


PEAK = """
import resource, torch
from air import AIR, AIRConfig
torch.set_num_threads(1)
model = AIR(AIRConfig()).eval()
model.infer(torch.rand(50, 1, 50, 50))
images = torch.rand(4000, 1, 50, 50)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
model.infer(images, batch_size=50)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10)
"""


def test_what_is_kept_is_in_memory_once():
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PEAK],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    kept = 4000 * 4 * 2500 * 4  # three objects and the canvas
    assert int(result.stdout) < 1.5 * kept
