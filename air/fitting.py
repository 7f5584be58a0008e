"""``fit``: a trained model from images alone, with settings that come from them."""

import dataclasses
import math
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from air.config import AIRConfig
from air.images import Pictures, Preparation, describe_images, training_canvases
from air.memory import check_memory
from air.model import AIR
from air.object_size import ObjectSize, scale_prior
from air.recipe import likelihood_sd
from air.training import Training

__all__ = ["choose_config", "fit", "print_line"]


def print_line(line: str) -> None:
    """Print a line on standard error, now."""
    print(line, file=sys.stderr, flush=True)


def fit(
    images: Any,
    *,
    max_objects: int = 3,
    num_steps: int = 2000,
    time_budget: float | None = None,
    n_init: int = 1,
    batch_size: int = 64,
    longest_side: int = 64,
    object_size: float | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    log: Callable[[str], None] | None = print_line,
    **settings: Any,
) -> AIR:
    r"""Train a model on images, without labels.

    What is not given is taken from the images (:func:`air.images.describe_images`): grey or RGB,
    background, brightness and noise, the size of the canvas, and the objects' size, which sets
    the prior of their scale. Each choice is said in a line of ``log``.

    Training raises the ELBO of the images, with n summed out exactly, as :mod:`air.recipe` says:
    under a prior of the count that is generous first, then sparse, then the model's. Fewer than
    2000 images are also turned over and moved a little.

    Args:
        images: what :class:`air.images.Pictures` takes: a folder, files, arrays, a data set.
        max_objects: T, the most objects in an image; one more than you expect is right.
        num_steps: of training, for each start.
        time_budget: seconds that all of it may take. Where they do not suffice, the steps are
            fewer, and the result depends on the machine's speed.
        n_init: how often to start from other random weights; the one with the highest ELBO is
            kept.
        batch_size: images a step.
        longest_side: of the canvas, in pixels; larger images are cut into tiles.
        object_size: longer side of an object in pixels of the images; default: estimated.
        seed: makes the result reproducible, on the same machine and number of threads.
        device: where to train and where the model is left; default: a GPU if there is one.
        log: called with each line of what is done; None for silence.
        **settings: fields of :class:`air.config.AIRConfig` that shall be others.

    Returns:
        The model, in evaluation mode, with its ``preparation`` for :meth:`air.AIR.predict`.

    Raises:
        ValueError: if the images are none, or a setting makes no sense.
        FileNotFoundError: if a folder or file does not exist.
    """
    start = time.monotonic()
    for name, value in (("num_steps", num_steps), ("n_init", n_init), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}.")
    if time_budget is not None and not time_budget > 0:
        raise ValueError(f"time_budget must be above 0 seconds, got {time_budget}.")
    say = log if log is not None else lambda line: None
    pictures = Pictures(images, skip_damaged=True)
    config, preparation, _ = choose_config(
        pictures,
        max_objects=max_objects,
        longest_side=longest_side,
        object_size=object_size,
        say=say,
        **settings,
    )
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    check_memory(
        config,
        batch_size,
        torch.device(device),
        gradients=True,
        advice="Lower batch_size, max_objects or longest_side.",
    )
    prepared = training_canvases(pictures, preparation, config, seed=seed)
    for name, reason in pictures.skipped:
        say(f"left out: {name} ({reason})")
    prepared = prepared.to(device)
    best: AIR | None = None
    best_elbo = -math.inf
    for start_number in range(n_init):
        deadline = None
        if time_budget is not None:
            left = start + time_budget - time.monotonic()
            deadline = time.monotonic() + max(left, 0.0) / (n_init - start_number)
        with torch.random.fork_rng(devices=_cuda_devices(device)):
            torch.manual_seed(seed * 1009 + start_number)
            training = Training(config, prepared, batch_size)
            try:
                model = training.run(num_steps, deadline, say)
                elbo = _mean_elbo(model, prepared)
            except FloatingPointError as error:
                say(f"start {start_number + 1} of {n_init} broke down: {error}")
                continue
        if not math.isfinite(elbo):
            say(f"start {start_number + 1} of {n_init} broke down (ELBO {elbo})")
            continue
        if n_init > 1:
            say(f"start {start_number + 1} of {n_init}: ELBO {elbo:.1f} nats")
        if elbo > best_elbo:
            best, best_elbo, best_number = model, elbo, start_number + 1
    if best is None:
        raise FloatingPointError(
            "training broke down: its ELBO is not finite. Try another seed, or more starts."
        )
    if n_init > 1:
        say(f"kept: start {best_number}, with the highest ELBO of {n_init} ({best_elbo:.1f} nats)")
    else:
        say(f"done: ELBO {best_elbo:.1f} nats")
    best.preparation = preparation
    best.validate_args = True
    return best.eval()


def choose_config(
    images: Any,
    *,
    max_objects: int,
    longest_side: int = 64,
    object_size: float | None = None,
    say: Callable[[str], None] = print_line,
    **settings: Any,
) -> tuple[AIRConfig, Preparation, ObjectSize]:
    """The settings that :func:`fit` takes from images.

    The prior of scale and place is that of :func:`air.object_size.scale_prior`; a glimpse has
    some more pixels than a large object.

    Args:
        images: what :class:`air.images.Pictures` takes.
        max_objects: T.
        longest_side: of the canvas.
        object_size: in pixels of the images; default: estimated.
        say: called with a line for each choice.
        **settings: fields of :class:`air.config.AIRConfig` that shall be others.

    Raises:
        ValueError: if a setting is unknown or makes no sense, or the images are empty.
    """
    known = {field.name for field in dataclasses.fields(AIRConfig)}
    if unknown := sorted(set(settings) - known):
        raise ValueError(
            f"unknown setting(s): {', '.join(unknown)}. "
            f"Expected some of: {', '.join(sorted(known - {'max_objects'}))}."
        )
    found = describe_images(images, longest_side=longest_side, object_size=object_size)
    preparation, size = found.preparation, found.size
    config = AIRConfig(canvas_size=found.canvas_size, channels=found.channels)
    height, width = config.canvas_size
    sizes = "different sizes"
    if len(found.sizes) == 1:
        sizes = " x ".join(map(str, found.sizes[0]))
    say(
        f"{found.num_images} {'grey' if config.channels == 1 else 'RGB'} images of {sizes}, "
        + ("in tiles" if found.tiled else "on a canvas")
        + f" of {height} x {width}"
        + (f", at {preparation.scale:g} times their size" if preparation.scale != 1 else "")
    )
    kind = {"both": "both brighter and darker", "bright": "brighter", "dark": "darker"}
    light = "uneven: subtracted as a surface" if preparation.surface == "smooth" else "even"
    say(f"objects are {kind[preparation.objects]} than the background, which is {light}")
    if preparation.gamma != 1:
        say(f"some objects are faint: brightness is raised to the power {preparation.gamma:g}")
    say(
        f"objects of {size.size / preparation.scale:.0f} px +- "
        f"{size.spread / preparation.scale:.0f}"
        + (f" ({size.num_components} regions)" if object_size is None else "")
    )
    for doubt in found.doubts:
        say(f"doubt: {doubt}")
    fields = scale_prior(config.canvas_size, size.size, size.spread) | {
        "max_objects": max_objects,
        "glimpse_size": (_glimpse_side(size),) * 2,
        "likelihood_sd": likelihood_sd(config.channels),
    }
    config = dataclasses.replace(config, **(fields | settings))
    return config, preparation, size


def _glimpse_side(size: ObjectSize) -> int:
    """Some more pixels than a large object has; 28 at most, which is enough for any."""
    return min(max(2 * round(0.75 * (size.size + size.spread)), 12), 28)


@torch.no_grad()
def _mean_elbo(model: AIR, images: Tensor, most: int = 2000, draws: int = 4) -> float:
    """ELBO of the images, mean over some draws of the latents."""
    chosen = images[:: len(images) // most + 1]
    total = 0.0
    for chunk in chosen.split(256):
        for _ in range(draws):
            total += model(chunk).elbo.double().sum().item()
    return total / (draws * len(chosen))


def _cuda_devices(device: str | torch.device) -> list[int]:
    device = torch.device(device)
    return [device.index or 0] if device.type == "cuda" else []
