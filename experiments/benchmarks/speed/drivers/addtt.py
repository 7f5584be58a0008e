"""addtt/attend-infer-repeat-pytorch: its model, objective and optimiser, with its defaults.

Its own trainer wants its data set on disk and reads metrics back at every step. Here a step is
what lies between: forward pass, backward, Adam.
"""

import itertools
import sys
import types
from collections.abc import Callable
from typing import Any


def run(spec: dict[str, Any], serve: Callable[[Callable[[], None]], None]) -> None:
    """Serve training steps on batches that are ready in memory."""
    import numpy as np
    import torch

    _name_as_before()
    from experiments.air_experiment.experiment_manager import (  # type: ignore[import-not-found]
        AIRExperiment,
    )

    with np.load(spec["images"]) as arrays:
        images = torch.from_numpy(arrays["images"]).float() / 255
        num_objects = torch.from_numpy(arrays["num_objects"]).float()
    size, device = spec["batch_size"], torch.device(spec["device"])
    images, num_objects = images.to(device), num_objects.to(device)
    whole = len(images) // size * size
    batches = itertools.cycle(
        zip(images[:whole].split(size), num_objects[:whole].split(size), strict=True)
    )
    torch.manual_seed(54321)
    # Its constructor reads the command line and the data set. The three methods below need these.
    experiment = types.SimpleNamespace(
        device=device,
        args=types.SimpleNamespace(
            dataset_name="pyro_multi_mnist", likelihood="original", lr=1e-4, bl_lr=0.1,
            weight_decay=0.0,
        ),
        dataloaders=types.SimpleNamespace(img_size=images.shape[2:], color_ch=images.shape[1]),
    )  # fmt: skip
    experiment.model = AIRExperiment.make_model(experiment).to(device)
    experiment.model.max_steps = spec["max_objects"]
    experiment.model.train()
    optimizer = AIRExperiment.make_optimizer(experiment)

    def step() -> None:
        x, count = next(batches)
        optimizer.zero_grad()
        results = AIRExperiment.forward_pass(experiment, x, {"n_obj": count})
        results["loss"].backward()
        optimizer.step()

    serve(step)


def _name_as_before() -> None:
    """Give newer versions of boilr the names that this code was written for.

    They are of base classes and of a drawing function: nothing that a step does.
    """
    import boilr
    import boilr.models
    import boilr.utils
    import boilr.utils.viz

    for name, place in (
        ("BaseGenerativeModel", boilr.models),
        ("VIExperimentManager", boilr),
    ):
        if not hasattr(boilr, name):
            renamed = {"VIExperimentManager": "VAEExperimentManager"}.get(name, name)
            setattr(boilr, name, getattr(place, renamed))
    if not hasattr(boilr, "viz"):
        sys.modules["boilr.viz"] = boilr.utils.viz
    if not hasattr(boilr.utils, "to_np"):
        from boilr.utils.utils import to_np

        boilr.utils.to_np = to_np
