"""What is measured of this library, each in a process of its own."""

import contextlib
import io
import itertools
import statistics
import time
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from air import AIR
from experiments.benchmarks.speed.floor import profile_and_floor
from experiments.benchmarks.speed.memory import PeakMemory
from experiments.benchmarks.speed.step import quartiles
from experiments.datasets import Scenes
from experiments.experiment import AIRExperiment
from experiments.loaders import SceneLoader


class _Experiment(AIRExperiment):
    """The experiment on scenes that are handed over."""

    scenes: Scenes

    def _make_datamanager(self) -> Any:
        def loader(size: int) -> SceneLoader:
            return SceneLoader(self.scenes, batch_size=size, shuffle=True, device=self.device)

        return types.SimpleNamespace(
            train=loader(self.args.batch_size),
            test=loader(1),
            data_shape=self.scenes.images.shape[1:],
            is_counted=True,
            splits=None,  # the prior of z_where is the default data set's
        )


def make_experiment(spec: dict[str, Any]) -> _Experiment:
    """The experiment that a spec describes, set up and ready for steps."""
    images, num_objects = load_images(spec)
    args = AIRExperiment.default_args(
        batch_size=spec["batch_size"],
        max_objects=spec["max_objects"],
        threads=spec["threads"],
        inference="paper",  # as its peers have it
        no_cuda=spec["device"] == "cpu",
        **spec["settings"],
    )
    experiment = _Experiment(args)
    classes = torch.zeros(len(images), max(int(num_objects.max()), 1), dtype=torch.long)
    classes[torch.arange(classes.shape[1]) >= num_objects[:, None]] = -1
    boxes = torch.zeros(*classes.shape, 4)
    boxes[classes < 0] = float("nan")
    experiment.scenes = Scenes(
        images=images, num_objects=num_objects, classes=classes, boxes=boxes, name="benchmark"
    )
    torch.manual_seed(0)
    with contextlib.redirect_stdout(io.StringIO()):
        experiment.setup(torch.device(spec["device"]))
    experiment.model.train()
    return experiment


def load_images(spec: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """The images of a spec, repeated until they are as many and as large as it asks for."""
    with np.load(spec["images"]) as arrays:
        images = torch.from_numpy(arrays["images"])
        num_objects = torch.from_numpy(arrays["num_objects"])
    number = max(spec["batch_size"], spec.get("num_images", len(images)))
    rows = torch.arange(number) % len(images)
    images, num_objects = images[rows], num_objects[rows]
    if canvas := spec.get("canvas"):
        times = -(-canvas // min(images.shape[2:]))
        images = images.repeat(1, 1, times, times)[..., :canvas, :canvas].contiguous()
    return images, num_objects


def training_step(spec: dict[str, Any]) -> Callable[[], None]:
    """One step as the trainer takes it: batch from memory as uint8, objective, backward, Adam."""
    return step_of(make_experiment(spec))


def step_of(experiment: AIRExperiment) -> Callable[[], None]:
    """The training step of an experiment that is set up."""
    batches = itertools.chain.from_iterable(itertools.repeat(experiment.dataloaders.train))

    def step() -> None:
        results = experiment.forward_pass(*next(batches))
        experiment.optimizer.zero_grad()
        results.pop("loss").backward()
        experiment.post_backward_callback()
        experiment.optimizer.step()
        experiment.model.increment_global_step()

    return step


def scaling(spec: dict[str, Any]) -> dict[str, Any]:
    """Time and peak memory of a training step.

    Memory is that above the model, its gradients, Adam's state and the data: what a step needs
    and gives back.
    """
    experiment = make_experiment(spec)
    step = step_of(experiment)
    _make_states(experiment)
    memory = PeakMemory(spec["device"])
    step()
    times = time_calls(step, spec["device"], spec["repeats"])
    return {"step_ms": round(times["median_ms"], 4), "peak_bytes": memory.bytes()}


def infer(spec: dict[str, Any]) -> dict[str, Any]:
    """``AIR.infer`` on many images."""
    air, images = _model_and_images(spec)
    air.infer(images[:500])
    memory = PeakMemory(spec["device"])
    times = time_calls(lambda: air.infer(images), spec["device"], spec["repeats"], warmup=0)
    peak = memory.bytes()
    reading = vars(air.infer(images[:1]))
    return {
        "num_images": len(images),
        "images_per_s": round(1000 * len(images) / times["median_ms"], 1),
        "peak_bytes": peak,
        "result_bytes": len(images) * sum(field.nbytes for field in reading.values()),
    }


def bound(spec: dict[str, Any]) -> dict[str, Any]:
    """``AIR.log_likelihood`` with K samples."""
    air, images = _model_and_images(spec)
    samples = spec["num_samples"]
    with torch.no_grad():
        air.log_likelihood(images, 10)
        memory = PeakMemory(spec["device"])
        times = time_calls(
            lambda: air.log_likelihood(images, samples), spec["device"], spec["repeats"], warmup=0
        )
    return {
        "num_samples": samples,
        "num_images": len(images),
        "seconds_per_image": round(times["median_ms"] / 1000 / len(images), 6),
        "peak_bytes": memory.bytes(),
    }


def latency(spec: dict[str, Any]) -> dict[str, Any]:
    """One image at a time."""
    experiment = make_experiment(spec | {"batch_size": 1})
    air, image = experiment.model.air, experiment.dataloaders.train.images[:1]

    @torch.no_grad()
    def forward() -> None:
        air(image)

    calls: dict[str, Callable[[], object]] = {
        "infer": lambda: air.infer(image),
        "forward": forward,
        "training step": step_of(experiment),
    }
    repeats, device = spec["repeats"], spec["device"]
    return {name: time_calls(call, device, repeats, warmup=5) for name, call in calls.items()}


def profile(spec: dict[str, Any]) -> dict[str, Any]:
    """The operators that a step's time goes to, and the least that it could take."""
    experiment = make_experiment(spec)
    step = step_of(experiment)
    times = time_calls(step, spec["device"], spec["repeats"], warmup=spec["warmup"])
    return profile_and_floor(experiment, step, times["median_ms"], spec)


TASKS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    task.__name__: task for task in (scaling, infer, bound, latency, profile)
}


def time_calls(
    call: Callable[[], object], device: str, repeats: int, *, warmup: int = 2
) -> dict[str, Any]:
    """Median and quartiles of a call's milliseconds."""
    for _ in range(warmup):
        call()
    milliseconds = []
    for _ in range(repeats):
        _wait(device)
        start = time.perf_counter()
        call()
        _wait(device)
        milliseconds.append(1000 * (time.perf_counter() - start))
    low, high = quartiles(milliseconds)
    return {
        "median_ms": round(statistics.median(milliseconds), 4),
        "quartiles_ms": [round(low, 4), round(high, 4)],
    }


def _model_and_images(spec: dict[str, Any]) -> tuple[AIR, Tensor]:
    experiment = make_experiment(spec)
    return experiment.model.air.eval(), experiment.dataloaders.train.images[: spec["num_images"]]


def _make_states(experiment: AIRExperiment) -> None:
    """Let gradients and Adam's state take their place: a step on one image."""
    loader = experiment.dataloaders.train
    experiment.forward_pass(loader.images[:1], loader.num_objects[:1])["loss"].backward()
    experiment.optimizer.step()


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
