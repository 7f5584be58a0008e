"""Learning where to look from collages, whose counts and poses are known.

A :class:`air.collages.CollageMaker` makes scenes of the connected regions of images without labels.
What a model learns from them, it brings to the images themselves: :func:`learn_from_collages`
before any training, :func:`air.fit` along with it.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from air.collages import Collage, CollageMaker
from air.distributions import NumSteps
from air.model import AIR
from air.priors import Prior
from air.score_function import at_counts
from air.types import Rollout

__all__ = ["add_guidance", "learn_from_collages"]


def learn_from_collages(
    model: AIR,
    maker: CollageMaker,
    num_steps: int,
    *,
    batch_size: int = 64,
    lr: float = 1e-3,
    max_grad_norm: float | None = None,
) -> Iterator[int]:
    """Train a model on collages alone, with Adam; a generator that takes a step each time.

    Args:
        model: to train.
        maker: of the collages.
        num_steps: how many to take.
        batch_size: collages a step.
        lr: learning rate.
        max_grad_norm: gradients of a larger norm are made shorter.

    Yields:
        The number of steps taken.

    Raises:
        FloatingPointError: if a gradient is not finite; no weight has taken it.
    """
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, fused=True)
    for step in range(num_steps):
        optimizer.zero_grad()
        add_guidance(model, maker(batch_size), 1.0)
        norm = nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm or math.inf)
        if not norm.isfinite():
            raise FloatingPointError(f"a gradient is not finite at step {step + 1} of collages")
        optimizer.step()
        yield step + 1


def add_guidance(model: AIR, collage: Collage, weight: float) -> None:
    """Add the gradients of a batch of collages to the parameters' own.

    What looks learns their counts and positions, with ``weight``, at scales that the prior allows;
    what renders learns to render their objects where the model looks.

    Args:
        model: whose parameters they are.
        collage: scenes with known objects.
        weight: of what looks.
    """
    device = model.prior().z_where.mean.device
    images, truth = collage.images.to(device), collage.num_objects.to(device)
    output = model(images)
    missed = _missed(output.rollout, truth, collage.z_where.to(device))
    missed = weight * (missed + _kl_of_scale(output.rollout, truth, model.prior()))
    bound = at_counts(output.counts.value, truth.expand(1, -1)).mean()
    inference, decoder = model.inference, model.generative.decoder
    lookers = [*inference.embedding.parameters(), *inference.lstm.parameters()]
    lookers += inference.predictor.parameters()
    renderers = [*inference.encoder.parameters(), *decoder.parameters()]
    grads = [
        # With one step there is no recurrence, and no gradient for it.
        *torch.autograd.grad(missed, lookers, retain_graph=True, allow_unused=True),
        *torch.autograd.grad(-bound, renderers),
    ]
    for parameter, grad in zip([*lookers, *renderers], grads, strict=True):
        if grad is not None:
            parameter.grad = grad if parameter.grad is None else parameter.grad + grad


def _missed(rollout: Rollout, num_objects: Tensor, z_where: Tensor) -> Tensor:
    """Minus log q of the true count and positions, mean over the batch. The scale is free.

    An object of pose (s, x, y) lies at -x / s: at the scale that the model sees, not the
    collage's, x is what puts it there.
    """
    count = NumSteps(rollout.continue_logits[0], validate_args=False).log_prob(num_objects)
    mean, sd = rollout.z_where_mean[0], rollout.z_where_sd[0]
    truth = z_where[..., 1:] * (mean[..., :1].detach() / z_where[..., :1])
    positions = Normal(mean[..., 1:], sd[..., 1:], validate_args=False).log_prob(truth).sum(dim=-1)
    return -(count + (positions * _present(num_objects, positions)).sum(dim=-1)).mean()


def _kl_of_scale(rollout: Rollout, num_objects: Tensor, prior: Prior) -> Tensor:
    """KL of the scales of the true number of objects from their prior, mean over the batch."""
    posterior = Normal(
        rollout.z_where_mean[0, ..., 0], rollout.z_where_sd[0, ..., 0], validate_args=False
    )
    of_scale = Normal(prior.z_where.mean[..., 0], prior.z_where.stddev[..., 0], validate_args=False)
    kl = kl_divergence(posterior, of_scale)
    return (kl * _present(num_objects, kl)).sum(dim=-1).mean()


def _present(num_objects: Tensor, steps: Tensor) -> Tensor:
    """Which steps ``(B, T)`` stand for one of so many objects."""
    return torch.arange(steps.shape[1], device=steps.device) < num_objects[:, None]
