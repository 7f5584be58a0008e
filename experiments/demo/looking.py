"""What AIR sees in one image, and what each of its steps did."""

from dataclasses import dataclass

import torch
from torch import Tensor

from air import AIR
from air.distributions import NumSteps
from air.elbo import count_tensors, elbo_parts
from air.generative import Canvas
from air.shifts import move_back, move_images
from air.spatial_transformer import boxes_in_pixels

__all__ = ["Look", "look"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Look:
    """A reading of one image at the means of the latents, as if every step were taken.

    The first ``count`` steps are those of :meth:`air.AIR.infer`.
    """

    count: int
    """Most probable number of objects."""
    count_probs: Tensor
    """``q(n | x)``: ``(T + 1,)``."""
    continue_probs: Tensor
    """Probability of one more object at step t, given that it is reached: ``(T,)``."""
    boxes: Tensor
    """Where each step looks, in pixels of the canvas: ``(T, 4)``."""
    glimpses: Tensor
    """What each step sees there: ``(T, C, h, w)``."""
    decoded_glimpses: Tensor
    """What each step would draw of it: ``(T, C, h, w)``."""
    canvases: Tensor
    """The mean of p(x | the first n objects), n = 0 .. T: ``(T + 1, C, H, W)``."""
    elbo: float
    """``log_likelihood - kl_num_steps - kl_z_where - kl_z_what``, exact in n."""
    log_likelihood: float
    """Expected over q(n)."""
    kl_num_steps: float
    """Of q(n) from p(n)."""
    kl_z_where: float
    """Of all poses, expected over q(n)."""
    kl_z_what: float
    """Of all appearances, expected over q(n)."""
    shift: tuple[int, int]
    """The view that was kept, ``(down, right)`` in pixels."""


@torch.no_grad()
def look(model: AIR, image: Tensor, shifts: Tensor | None = None) -> Look:
    """Look at one image and keep what each step did. Deterministic.

    Args:
        model: the model.
        image: ``(C, H, W)``, float in [0, 1] or uint8 (0 to 255).
        shifts: views to read it from, of which that of the highest ELBO is kept: ``(S, 2)``, as
            :meth:`air.AIR.infer` takes them. All at once here, as a batch: a single image leaves
            most of the time to what a batch costs only once.

    Raises:
        ValueError: if the image does not fit the model.
    """
    image = model.as_input(image[None])
    if shifts is None:
        shifts = torch.zeros(1, 2, dtype=torch.int64)
    shifts = shifts.to(image.device)
    views = image.expand(len(shifts), *image.shape[1:])
    prior = model.prior()
    seen, renderer = move_images(views, shifts), Canvas(model.generative)
    rollout = model.inference(seen, prior, renderer=renderer, use_means=True)
    rollout = move_back(rollout, shifts, model.config.canvas_size)
    objects = model.generative.render(rollout.z_where, rollout.z_what)
    log_likelihood = model.generative.log_likelihood(views, objects)
    parts = elbo_parts(count_tensors(rollout, log_likelihood, prior))
    best = int(parts.elbo[0].argmax())
    num_steps = NumSteps(rollout.continue_logits[0, best], validate_args=False)
    return Look(
        count=int(num_steps.mode),
        count_probs=num_steps.probs,
        continue_probs=rollout.continue_logits[0, best].sigmoid(),
        boxes=boxes_in_pixels(rollout.z_where[0, best], model.config.canvas_size),
        glimpses=rollout.glimpses[0, best],
        decoded_glimpses=model.generative.decoder(rollout.z_what[0, best]),
        canvases=model.generative.canvases(objects[0, best]),
        elbo=parts.elbo[0, best].item(),
        log_likelihood=parts.log_likelihood[0, best].item(),
        kl_num_steps=parts.kl_num_steps[0, best].item(),
        kl_z_where=parts.kl_z_where[0, best].item(),
        kl_z_what=parts.kl_z_what[0, best].item(),
        shift=(int(shifts[best, 0]), int(shifts[best, 1])),
    )
