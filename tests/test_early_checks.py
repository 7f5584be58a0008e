"""What cannot end well is refused before the work, not after it."""

import math
import os
import sys

import pytest
import torch

from air import AIR
from air.fitting import fit
from air.images import open_pillow
from experiments.checkpoints import save_checkpoint
from experiments.cli import main
from experiments.experiment import AIRExperiment
from experiments.trainer import Trainer
from tests.runs import use_tiny_models
from tests.small import small_model
from tests.test_object_size import squares


@pytest.fixture
def no_work(monkeypatch):
    """Whoever loads a model has begun to work."""

    def load(*args, **options):
        raise AssertionError("work was done")

    for command in ("predict", "sample", "export"):
        monkeypatch.setattr(f"experiments.commands.{command}.load_model", load)
    monkeypatch.setattr("experiments.commands.evaluate.load_run", load)
    monkeypatch.setattr("experiments.report.gather.read_run_config", load)


@pytest.fixture
def picture(tmp_path):
    pillow = open_pillow()
    path = tmp_path / "a.png"
    pillow.new("L", (9, 9)).save(path)
    return path


NOWHERE = "/proc/1/nobody"  # not even root can write there


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize(
    "command",
    [
        "predict PICTURE --load multi-mnist --output {}/a.csv",
        "predict PICTURE --load multi-mnist --draw {}",
        "sample --load multi-mnist --output {}/a.png",
        "export --load multi-mnist --output {}",
        "export --load multi-mnist --output {}/a.onnx",
    ],
)
def test_places_that_cannot_be_written(command, picture, tmp_path, capsys):
    place = NOWHERE
    command = command.replace("PICTURE", str(picture)).format(place)
    assert main(command.split()) == 2
    assert "nobody" in capsys.readouterr().err


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize(
    ("flags", "package"),
    [
        ("--localisation", "torchmetrics"),
        ("--localisation", "sklearn"),
        ("--calibration", "matplotlib"),
    ],
)
def test_packages_that_are_not_installed(flags, package, make_args, monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, package, None)
    command = ["evaluate", flags, "--load", "run", "--output", str(tmp_path)]
    assert main(command) == 2
    assert f"needs {package}" in capsys.readouterr().err


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_model_of_nan_is_neither_saved_nor_loaded(value, tmp_path, monkeypatch):
    model = small_model()
    model.save_pretrained(tmp_path / "good")
    with torch.no_grad():
        next(model.parameters()).view(-1)[3] = value
    with pytest.raises(ValueError, match="not finite"):
        model.save_pretrained(tmp_path / "m")
    monkeypatch.setattr("air.weights.check_finite", lambda *_: None)  # as earlier versions
    model.save_pretrained(tmp_path / "m")
    monkeypatch.undo()
    with pytest.raises(ValueError, match="not finite"):
        AIR.from_pretrained(tmp_path / "m")


def test_a_checkpoint_of_nan_is_not_evaluated(make_args, monkeypatch, capsys, tmp_path):
    use_tiny_models(monkeypatch)
    trainer = Trainer(AIRExperiment(make_args(max_steps=2)))
    trainer.run()
    weights = trainer.experiment.model.state_dict()
    name = next(name for name in weights if name.startswith("air."))
    weights[name] = weights[name] * math.nan
    save_checkpoint(trainer.run_folder.checkpoint_folder, 2, weights)
    command = ["evaluate", "--load", "run", "--output", str(tmp_path / "output"), "--nocuda"]
    assert main(command) == 2
    assert "checkpoint of step 2 holds numbers that are not finite" in capsys.readouterr().err


def test_fit_stops_at_the_first_loss_that_is_not_finite(monkeypatch):
    from air.training import Training

    steps = []

    def step(training, *_, **__):
        steps.append(1)
        return torch.tensor(math.nan if len(steps) >= 2 else 0.0)

    monkeypatch.setattr(Training, "step", step)
    lines = []
    images = 1 - squares([6, 8], number=12, size=40)
    with pytest.raises(FloatingPointError, match="broke down"):
        fit(images, num_steps=50, log=lines.append, max_objects=2)
    assert len(steps) == 2
    assert "the ELBO is not finite at step 2" in " ".join(lines)


@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes")
def test_a_name_that_cannot_be_printed_costs_no_prediction(picture, tmp_path, capfdbinary):
    odd = os.fsencode(tmp_path) + b"/a\xff.png"
    os.rename(os.fsencode(picture), odd)
    table = tmp_path / "a.csv"
    command = ["predict", os.fsdecode(odd), "--load", "multi-mnist", "--nocuda", "--max-shift=0"]
    assert main([*command, "--output", str(table)]) == 0
    assert b"a\xff.png" in table.read_bytes()
    assert main(command) == 0
    assert main([*command, "--json"]) == 0
