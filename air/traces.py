"""Step by step: what the model sees, finds and draws, one object after another."""

from dataclasses import dataclass

import torch
from torch import Tensor

from air.distributions import NumSteps
from air.generative import Canvas
from air.model import AIR
from air.spatial_transformer import boxes_in_pixels
from air.visualization import BOX_COLORS, as_tiles, draw_boxes, draw_frames, image_grid

__all__ = ["StepTrace", "step_grid", "step_tiles", "trace_steps"]

_BAR = 2
"""Height of the bar below a tile, in pixels of the image; as much is left free above it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class StepTrace:
    """The steps of a reading, at the means of the latents, as if every object were there.

    The first ``counts`` steps of an image are those of :meth:`air.AIR.infer`.
    """

    counts: Tensor
    """Most probable number of objects: int64 ``(B,)``."""
    continue_probs: Tensor
    """Probability of one more object at step t, given that it is reached: ``(B, T)``."""
    boxes: Tensor
    """Where step t looks, in pixels: ``(B, T, 4)``."""
    glimpses: Tensor
    """What it sees there: ``(B, T, C, h, w)``."""
    decoded_glimpses: Tensor
    """What it draws: ``(B, T, C, h, w)``."""
    canvases: Tensor
    """The canvas of the first n objects, n = 0 .. T: ``(B, T + 1, C, H, W)``."""


@torch.no_grad()
def trace_steps(model: AIR, images: Tensor) -> StepTrace:
    """Read images, and keep what each step did. Deterministic, as :meth:`air.AIR.infer`.

    Args:
        model: the model.
        images: ``(B, C, H, W)``, float in [0, 1] or uint8 (0 to 255).

    Raises:
        ValueError: if the images do not fit the model.
    """
    images = model.as_input(images)
    renderer = Canvas(model.generative)
    rollout = model.inference(images, model.prior(), renderer=renderer, use_means=True)
    z_where, z_what = rollout.z_where[0], rollout.z_what[0]
    logits = rollout.continue_logits[0]
    objects = model.generative.render(z_where, z_what)
    return StepTrace(
        counts=NumSteps(logits, validate_args=False).mode,
        continue_probs=logits.sigmoid(),
        boxes=boxes_in_pixels(z_where, model.config.canvas_size),
        glimpses=rollout.glimpses[0],
        decoded_glimpses=model.generative.decoder(z_what),
        canvases=model.generative.canvases(objects),
    )


def step_tiles(
    images: Tensor,
    trace: StepTrace,
    *,
    scale: int = 3,
    background: float = 1.0,
    absent: float = 0.92,
) -> Tensor:
    """Each step of each image as tiles of one size, in the manner of Eslami et al. (2016).

    A row is the image with the boxes found; the canvas after 1, 2 .. T objects, each with their
    boxes; the T glimpses; the T decoded glimpses, the last two framed in their object's colour.
    Below each canvas a bar in that colour is as long as the probability that there is one more
    object, that one. Steps that were not taken are blank, but for the bar of the first of them,
    which says how sure the model was to stop.

    Args:
        images: what was read, float in [0, 1] or ``uint8``, shape ``(B, C, H, W)``.
        trace: of :func:`trace_steps`.
        scale: how many times larger to make the images.
        background: grey value in [0, 1] around the bars.
        absent: grey value in [0, 1] of steps that were not taken, and of what a bar lacks.

    Returns:
        Float in [0, 1], shape ``(B, 1 + 3 T, 3, H', W')``, ``W' = scale * W`` and
        ``H' = scale * (H + 4)``.

    Raises:
        ValueError: if the images do not fit the trace; see :func:`draw_boxes`.
    """
    batch, steps = trace.continue_probs.shape
    if len(images) != batch:
        raise ValueError(f"expected {batch} images, as many as the trace has, got {len(images)}.")
    size = (scale * images.shape[-2], scale * images.shape[-1])
    trace_boxes, counts = trace.boxes.cpu(), trace.counts.cpu()
    bar = _BAR * scale
    pad = draw_boxes(images, trace_boxes, counts, scale=scale)
    strip = pad.new_full((batch, 3, 2 * bar, size[1]), background)
    columns = [torch.cat([pad, strip], dim=-2)]
    colors = [pad.new_tensor(BOX_COLORS[t % len(BOX_COLORS)]) for t in range(steps)]
    taken = [(counts > t).to(pad.device) for t in range(steps)]
    for t in range(steps):
        shown = torch.full_like(counts, t + 1).clamp(max=counts)
        canvas = draw_boxes(trace.canvases[:, t + 1], trace_boxes, shown, scale=scale).to(pad)
        probs = trace.continue_probs[:, t].cpu()
        bars = strip.clone()
        for b in range(batch):
            if t <= counts[b]:
                length = round(size[1] * float(probs[b]))
                bars[b, :, bar:] = absent
                bars[b, :, bar:, :length] = colors[t][:, None, None]
        columns.append(torch.cat([_blank(canvas, taken[t], absent), bars], dim=-2))
    for patches in (trace.glimpses, trace.decoded_glimpses):
        for t in range(steps):
            tiles = as_tiles(patches[:, t], size, background=absent).to(pad)
            tiles = draw_frames(tiles, colors[t].expand(batch, 3), line=scale)
            columns.append(torch.cat([_blank(tiles, taken[t], absent), strip], dim=-2))
    return torch.stack(columns, dim=1)


def step_grid(images: Tensor, trace: StepTrace, *, scale: int = 3) -> Tensor:
    """The tiles of :func:`step_tiles` as one picture, a row for each image.

    Args:
        images: what was read, float in [0, 1] or ``uint8``, shape ``(B, C, H, W)``.
        trace: of :func:`trace_steps`.
        scale: how many times larger to make the images.

    Returns:
        Float in [0, 1], shape ``(3, H', W')``.

    Raises:
        ValueError: if the images do not fit the trace.
    """
    tiles = step_tiles(images, trace, scale=scale)
    return image_grid(tiles.flatten(0, 1), columns=tiles.shape[1], padding=2 * scale)


def _blank(tiles: Tensor, keep: Tensor, grey: float) -> Tensor:
    """Tiles, but an even grey where ``keep`` is false, ``(B,)``."""
    return torch.where(keep[:, None, None, None], tiles, tiles.new_tensor(grey))
