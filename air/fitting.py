"""``fit``: a trained model from images alone, with settings that come from them."""

import dataclasses
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Normal

from air.collages import CollageMaker
from air.config import AIRConfig
from air.distributions import NumSteps
from air.estimators import Estimator, make_estimator
from air.image_files import are_paths, read_images
from air.images import as_images
from air.model import AIR
from air.object_size import ObjectSize, estimate_object_size
from air.preparation import Preparation, describe_images
from air.schedules import Cosine, Exponential
from air.score_function import at_counts
from air.types import Rollout

__all__ = ["choose_config", "fit", "print_line"]

_MARGIN = 1.1
"""Box of an object over the box of what is bright of it: 3 for 15 px in 50, 4.5 for 13 in 64."""
_GUIDED = 0.35
"""Share of the steps that are taken on collages alone."""
_UNGUIDED = 0.8
"""Share of the steps after which there are no collages any more."""
_FIRST_SD = 1.0
"""Standard deviation of a pixel where images begin; falls to the model's. A sharp likelihood would
tear apart at once what is not quite in its place yet."""
_GUIDANCE = 30.0
"""Weight of the collages' counts and positions where images begin; falls in a straight line."""
_IMAGE_CHANNELS = (16, 32, 32)
"""Of convolutions before the LSTM. On 50 images of blobs the plain LSTM counts far worse."""
_FEW_IMAGES = 2000
"""So many images and more are varied enough as they are."""


def print_line(line: str) -> None:
    """Print a line on standard error, now."""
    print(line, file=sys.stderr, flush=True)


def fit(
    images: Any,
    *,
    max_objects: int = 3,
    num_steps: int = 3000,
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

    The first steps (35 %) learn from collages, scenes made of the connected regions of the
    images, whose counts and positions are known (:mod:`air.collages`): from a few images alone AIR
    does not find out where one object ends. From then on the ELBO of the images themselves is
    raised, with n summed out exactly, under a prior probability of one more object that goes from
    1e-5 to 0.01 in half of these steps; up to 80 % of all steps half of each batch are collages
    still, with less and less weight. Adam, with a learning rate of 1e-3 that falls to zero by half
    a cosine. Before the LSTM there are three convolutions. Fewer than 2000 images are also turned
    over and moved a little.

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
        guided: whether to begin with collages.
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
    prepared, _ = preparation(tensors, config)
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
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
            training = _Training(config, prepared, maker, batch_size)
            model = training.run(num_steps, deadline, say)
            elbo = _mean_elbo(model, prepared)
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
        if not object_size > 0:
            raise ValueError(f"object_size must be above 0 pixels, got {object_size}.")
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


@dataclass(eq=False)
class _Pace:
    """How far training is, from 0 to 1, where time may run out.

    Args:
        num_steps: to be taken.
        deadline: on the monotonic clock; none if None.
    """

    num_steps: int
    deadline: float | None

    def __post_init__(self) -> None:
        self.position, self.step = 0.0, 0
        self.stride = 1 / self.num_steps
        self._window = time.monotonic()

    def advance(self) -> None:
        """After a step. Every twentieth looks at the clock, and goes on in larger strides."""
        self.step += 1
        self.position = min(self.position + self.stride, 1.0)
        if self.deadline is None or self.step % 20:
            return
        now = time.monotonic()
        affordable = max((self.deadline - now) / max((now - self._window) / 20, 1e-9), 1.0)
        self.stride = max(self.stride, (1 - self.position) / affordable)
        self._window = now

    @property
    def done(self) -> bool:
        """Whether nothing is left, but for what rounding leaves."""
        return self.position > 1 - 1e-9


class _Training:
    """One start: a model, its optimiser and the data."""

    def __init__(
        self, config: AIRConfig, images: Tensor, maker: CollageMaker | None, batch_size: int
    ) -> None:
        self.model = AIR(config).to(images.device).train()
        self.model.validate_args = False
        self.estimator: Estimator = make_estimator("enumerate", config).to(images.device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3, fused=True)
        self.images, self.maker, self.batch_size = images, maker, batch_size

    def run(self, num_steps: int, deadline: float | None, say: Callable[[str], None]) -> AIR:
        """Train; hands back the model."""
        pace = _Pace(num_steps, deadline)
        rate = Cosine(1e-3, 0.0, num_steps=num_steps)
        own_steps = num_steps * (1 - _GUIDED if self.maker else 1)
        prior = Exponential(1e-5, self.model.config.continue_prob, max(round(own_steps / 2), 1))
        sharp = self.model.config.likelihood_sd
        blurred = max(_FIRST_SD, sharp) if self.maker else sharp
        likelihood_sd = Exponential(blurred, sharp, prior.num_steps)
        said = 0

        def guidance(position: float) -> float:
            return _GUIDANCE * max(1 - (position - _GUIDED) / (_UNGUIDED - _GUIDED), 0.0)

        start = time.monotonic()
        while not pace.done:
            step = round(pace.position * num_steps)
            for group in self.optimizer.param_groups:
                group["lr"] = rate(step)
            if self.maker and pace.position < _GUIDED:
                self._guided_step()
                what = "on collages"
            else:
                weight = guidance(pace.position) if self.maker else 0.0
                own_step = round(step - (num_steps - own_steps))
                value = self._step(prior(own_step), likelihood_sd(own_step), weight)
                what = "ELBO"
            pace.advance()
            if int(pace.position * 10) > said:
                said = int(pace.position * 10)
                detail = what if what == "on collages" else f"ELBO {-value.item():.1f}"
                say(
                    f"{said * 10:3d} %, step {pace.step}, {time.monotonic() - start:.0f} s: {detail}"
                )
        return self.model.eval()

    def _step(self, continue_prob: float, likelihood_sd: float, guidance: float) -> Tensor:
        """Raise the ELBO of the images; half of the batch are collages where there is guidance."""
        number = self.batch_size if guidance == 0 else max(self.batch_size // 2, 1)
        index = torch.randint(len(self.images), (number,), device=self.images.device)
        images = self.images[index]
        if len(self.images) < _FEW_IMAGES:
            images = _vary(images)
        objective = self.estimator(
            self.model,
            images,
            self.model.prior(continue_prob),
            likelihood_sd=likelihood_sd if self.model.config.likelihood == "normal" else None,
        )
        self.optimizer.zero_grad()
        objective.total_loss.backward()
        if guidance > 0:
            self._guide(max(self.batch_size - number, 1), guidance)
        self.optimizer.step()
        return objective.loss.detach()

    def _guided_step(self) -> None:
        """Learn from collages alone."""
        self.optimizer.zero_grad()
        self._guide(self.batch_size, 1.0)
        self.optimizer.step()

    def _guide(self, number: int, weight: float) -> None:
        """Add the gradients of collages.

        What looks learns their counts and positions, with ``weight``; what renders learns to
        render their objects where the model looks.
        """
        assert self.maker is not None
        model, device = self.model, self.images.device
        collage = self.maker(number)
        images, truth = collage.images.to(device), collage.num_objects.to(device)
        output = model(images)
        missed = weight * _missed(output.rollout, truth, collage.z_where.to(device))
        bound = at_counts(output.counts.value, truth.expand(1, -1)).mean()
        inference, decoder = model.inference, model.generative.decoder
        lookers = [*inference.embedding.parameters(), *inference.lstm.parameters()]
        lookers += inference.predictor.parameters()
        renderers = [*inference.encoder.parameters(), *decoder.parameters()]
        grads = [
            *torch.autograd.grad(missed, lookers, retain_graph=True),
            *torch.autograd.grad(-bound, renderers),
        ]
        for parameter, grad in zip([*lookers, *renderers], grads, strict=True):
            parameter.grad = grad if parameter.grad is None else parameter.grad + grad


def _missed(rollout: Rollout, num_objects: Tensor, z_where: Tensor) -> Tensor:
    """Minus log q of the true count and positions, mean over the batch. The scale is free."""
    count = NumSteps(rollout.continue_logits[0], validate_args=False).log_prob(num_objects)
    mean, sd = rollout.z_where_mean[0, ..., 1:], rollout.z_where_sd[0, ..., 1:]
    positions = Normal(mean, sd, validate_args=False).log_prob(z_where[..., 1:]).sum(dim=-1)
    present = torch.arange(positions.shape[1], device=positions.device) < num_objects[:, None]
    return -(count + (positions * present).sum(dim=-1)).mean()


def _vary(images: Tensor) -> Tensor:
    """Turn images over at random and move them by up to a sixteenth of their sides."""
    number, channels, height, width = images.shape
    device = images.device
    for axis in (-1, -2):
        flip = torch.rand(number, 1, 1, 1, device=device) < 0.5
        images = torch.where(flip, images.flip(axis), images)
    reach_y, reach_x = height // 16, width // 16
    padded = F.pad(images, (reach_x, reach_x, reach_y, reach_y))
    rows = torch.randint(0, 2 * reach_y + 1, (number, 1), device=device)
    columns = torch.randint(0, 2 * reach_x + 1, (number, 1), device=device)
    rows = rows + torch.arange(height, device=device)
    columns = columns + torch.arange(width, device=device)
    return padded[
        torch.arange(number, device=device)[:, None, None, None],
        torch.arange(channels, device=device)[:, None, None],
        rows[:, None, :, None],
        columns[:, None, None, :],
    ]


@torch.no_grad()
def _mean_elbo(model: AIR, images: Tensor, most: int = 2000, draws: int = 4) -> float:
    """ELBO of the images, mean over some draws of the latents."""
    chosen = images[:: len(images) // most + 1]
    total = 0.0
    for chunk in chosen.split(256):
        total += sum(model(chunk).elbo.double().sum().item() for _ in range(draws))
    return total / (draws * len(chosen))


def _cuda_devices(device: str | torch.device) -> list[int]:
    device = torch.device(device)
    return [device.index or 0] if device.type == "cuda" else []
