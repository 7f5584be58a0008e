"""``fit``: a trained model from images alone, with settings that come from them."""

import dataclasses
import math
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from air.collages import CollageMaker
from air.config import AIRConfig
from air.files import is_number
from air.image_files import are_paths, read_images
from air.images import as_images
from air.memory import check_memory
from air.model import AIR
from air.object_size import ObjectSize, estimate_object_size
from air.prediction import views_of
from air.preparation import Preparation, describe_images
from air.training import Training

__all__ = ["choose_config", "fit", "print_line"]

_MARGIN = 1.1
"""Box of an object over the box of what is bright of it: 3 for 15 px in 50, 4.5 for 13 in 64."""
_IMAGE_CHANNELS = (16, 32, 32)
"""Of convolutions before the LSTM. On 50 images of blobs the plain LSTM counts far worse."""


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
    guided: bool = True,
    seed: int = 0,
    device: str | torch.device | None = None,
    log: Callable[[str], None] | None = print_line,
    **settings: Any,
) -> AIR:
    r"""Train a model on images, without labels.

    What is not given is taken from the images: grey or RGB, the size of the canvas, a background
    that is not black (it is subtracted), and the objects' size, which sets the prior of their
    scale. Each choice is said in a line of ``log``.

    Training has three parts. The first (35 % of the steps) learns from collages, scenes made of the
    connected regions of the images, whose counts and positions are known (:mod:`air.collages`):
    from a few images alone AIR does not find out where one object ends. In the second (to 65 %)
    half of each batch are images. Their log-likelihood less the KL of the latents is raised at the
    count that the model reads in them, which still only the collages teach: objects are drawn
    badly as yet, and a sum over counts would use a second object to mend the first. In the third
    the ELBO of the images is raised, with n summed out exactly, under a prior probability of one
    more object that begins so low that only whole objects are worth it, and reaches
    ``continue_prob`` after three quarters of this part. The collages' weight falls to zero at 80 %
    of all steps. Adam, with a learning rate of 1e-3 that falls to zero by half a cosine. Before
    the LSTM there are three convolutions. Fewer than 2000 images are also turned over and moved a
    little.

    Args:
        images: a folder of images, paths, or what :func:`air.images.as_images` reads.
        max_objects: T, the most objects in an image; one more than you expect is right.
        num_steps: of training, for each start.
        time_budget: seconds that all of it may take. Where they do not suffice, the steps are
            fewer, and the result depends on the machine's speed.
        n_init: how often to start from other random weights; the one with the highest ELBO is
            kept.
        batch_size: images a step.
        longest_side: of the canvas, in pixels; larger images are shrunk to it.
        object_size: longer side of an object in pixels of the images; default: estimated.
        guided: whether there are collages. Without them the prior is raised from 1e-5 over half
            of the steps, as by the command ``train``.
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
    tensors = read_images(images) if are_paths(images) else as_images(images)
    config, preparation, size = choose_config(
        tensors,
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
    prepared, _ = preparation(tensors, config)
    maker = None
    if guided:
        maker = CollageMaker(
            prepared, size, max_objects=config.max_objects, scale=config.z_where_mean[0]
        )
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
            training = Training(config, prepared, maker, batch_size)
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
    images: list[Tensor],
    *,
    max_objects: int,
    longest_side: int = 64,
    object_size: float | None = None,
    say: Callable[[str], None] = print_line,
    **settings: Any,
) -> tuple[AIRConfig, Preparation, ObjectSize]:
    """The settings that :func:`fit` takes from images.

    With the canvas' shorter side H, objects of size d and spread e (on the canvas), the prior of
    the scale has its mean at H / (1.1 (d + e)) and a fifteenth of that as its standard deviation:
    every object has about the room of a large one, and none has room for two. (At a scale
    of their own, AIR reads two small objects as a large one.) Positions have the standard
    deviation of a uniform distribution over where such an object fits.

    Args:
        images: each ``(C, h, w)``.
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
    config, preparation = describe_images(images, longest_side)
    shapes = {tuple(image.shape[1:]) for image in images}
    height, width = config.canvas_size
    sizes = " x ".join(map(str, next(iter(shapes)))) if len(shapes) == 1 else "different sizes"
    say(
        f"{len(images)} {'grey' if config.channels == 1 else 'RGB'} images of {sizes}, "
        f"on a canvas of {height} x {width}"
    )
    if preparation.background:
        color = ", ".join(f"{b:.2f}" for b in preparation.background)
        kind = "light: inverted" if min(preparation.background) > 0.5 else "not black: subtracted"
        say(f"the background is {kind} ({color})")
    if preparation.contrast != 1:
        say(f"contrast raised {preparation.contrast:.1f} times")
    prepared, _ = preparation(images, config)
    size = estimate_object_size(prepared)
    if object_size is not None:
        most = max(max(image.shape[1:]) for image in images)
        if not (is_number(object_size) and 1 <= object_size <= most):
            raise ValueError(
                f"object_size must lie between 1 and the {most} pixels of the largest image, got "
                f"{object_size!r:.40}."
            )
        size = dataclasses.replace(size, size=object_size * preparation.scale)
    say(
        f"objects of {size.size / preparation.scale:.0f} px +- "
        f"{size.spread / preparation.scale:.0f}"
        + (f" ({size.num_components} regions)" if object_size is None else "")
    )
    fields = scale_prior(size, config.canvas_size) | {
        "max_objects": max_objects,
        "glimpse_size": (_glimpse_side(size),) * 2,
        "image_channels": _IMAGE_CHANNELS,
    }
    config = dataclasses.replace(config, **(fields | settings))
    return config, preparation, size


def scale_prior(size: ObjectSize, canvas_size: tuple[int, int]) -> dict[str, Any]:
    """``z_where_mean`` and ``z_where_sd`` for objects of a size; see :func:`choose_config`."""
    mean = max(min(canvas_size) / (_MARGIN * (size.size + size.spread)), 1.0)
    position_sd = max((mean - 1) / math.sqrt(3), 1.0)
    return {
        "z_where_mean": (round(mean, 3), 0.0, 0.0),
        "z_where_sd": (round(mean / 15, 3), round(position_sd, 3), round(position_sd, 3)),
    }


def _glimpse_side(size: ObjectSize) -> int:
    """Some more pixels than a large object has; 28 at most, which is enough for any."""
    return min(max(2 * round(0.75 * (size.size + size.spread)), 12), 28)


@torch.no_grad()
def _mean_elbo(model: AIR, images: Tensor, most: int = 2000, draws: int = 4) -> float:
    """ELBO of the images, each read from its best view; mean over some draws of the latents."""
    chosen = images[:: len(images) // most + 1]
    views = views_of(model.config)
    total = 0.0
    for chunk in chosen.split(256):
        shifts = None if views is None else model.infer(chunk, shifts=views).shifts
        for _ in range(draws):
            total += model(chunk, shifts=shifts).elbo.double().sum().item()
    return total / (draws * len(chosen))


def _cuda_devices(device: str | torch.device) -> list[int]:
    device = torch.device(device)
    return [device.index or 0] if device.type == "cuda" else []
