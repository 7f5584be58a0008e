"""Figures of scenes: what the model sees, how it reads it step by step, and what it makes up."""

from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from air import AIR
from air.traces import step_tiles, trace_steps
from air.visualization import as_tiles, draw_boxes
from air.walks import walk_z_what, walk_z_where
from experiments.figures.style import Theme, tile_figure

_SCALE = 3
_SAMPLES = 10
_WALK = 11


def reconstructions(air: AIR, images: Tensor, theme: Theme, *, columns: int = 10) -> Figure:
    """Scenes above their reconstructions, both with the boxes found.

    Args:
        air: the model.
        images: ``(B, C, H, W)``; what does not fill a row is left out.
        theme: colours.
        columns: scenes in a row.
    """
    columns = min(columns, len(images))
    images = images[: len(images) // columns * columns]
    reading = air.infer(images)
    boxes, counts = reading.boxes.cpu(), reading.counts.cpu()
    pairs = [
        draw_boxes(pictures.cpu(), boxes, counts, scale=_SCALE).unflatten(0, (-1, columns))
        for pictures in (images, reading.canvas)
    ]
    tiles = torch.stack(pairs, dim=1).flatten(0, 1)
    return tile_figure(tiles, theme, rows=["input", "canvas"] * (len(tiles) // 2), gap=6)


def steps(air: AIR, images: Tensor, theme: Theme) -> Figure:
    """Each scene a row: itself, the canvas after each object, the glimpses, what is drawn.

    Below each canvas the probability of one more object, that one, as a bar and a number.

    Args:
        air: the model.
        images: ``(B, C, H, W)``.
        theme: colours.
    """
    trace = trace_steps(air, images)
    tiles = step_tiles(
        images.cpu(), trace, scale=_SCALE, background=theme.page_grey, absent=theme.blank
    )
    most = air.max_objects
    notes = [
        ["", *(_percent(p) if t <= count else "" for t, p in enumerate(probs)), *[""] * 2 * most]
        for probs, count in zip(trace.continue_probs.tolist(), trace.counts.tolist(), strict=True)
    ]
    after = ", ".join(map(str, range(1, most + 1)))
    return tile_figure(
        tiles,
        theme,
        columns=["input", f"canvas after {after}" + (" objects" if most > 1 else " object"),
                 "glimpses", "decoded glimpses"],
        notes=notes,
        groups=[1, 1 + most, 1 + 2 * most],
        gap=6,
        font_size=9.5,
    )  # fmt: skip


def hardest(air: AIR, images: Tensor, elbos: Tensor, true: Tensor | None, theme: Theme) -> Figure:
    """Scenes above their reconstructions, with their ELBO and how many objects were found.

    Args:
        air: the model.
        images: ``(B, C, H, W)``.
        elbos: nats, ``(B,)``.
        true: true counts, ``(B,)``; None where they are unknown.
        theme: colours.
    """
    reading = air.infer(images)
    boxes, counts = reading.boxes.cpu(), reading.counts.cpu()
    tiles = torch.stack(
        [
            draw_boxes(pictures.cpu(), boxes, counts, scale=_SCALE)
            for pictures in (images, reading.canvas)
        ]
    )
    found = [f"found {n}" for n in counts.tolist()]
    if true is not None:
        found = [f"{text}, true {n}" for text, n in zip(found, true.tolist(), strict=True)]
    return tile_figure(
        tiles,
        theme,
        rows=["input", "canvas"],
        notes=[
            [f"{elbo:.0f} nats".replace("-", "−") for elbo in elbos.tolist()],
            found,
        ],
        gap=6,
        font_size=7.5,
    )


def samples(air: AIR, theme: Theme, *, columns: int = _SAMPLES) -> Figure:
    """Scenes from the prior, a row for each number of objects from 1 to ``max_objects``.

    Under the prior of n itself nearly all scenes are empty.
    """
    num_objects = torch.arange(1, air.max_objects + 1).repeat_interleave(columns)
    images = air.sample(len(num_objects), num_objects=num_objects).images.cpu()
    tiles = _enlarge(images).unflatten(0, (-1, columns))
    rows = [f"{n} object{'s' * (n > 1)}" for n in range(1, air.max_objects + 1)]
    return tile_figure(tiles, theme, rows=rows, gap=6)


def walks_z_what(air: AIR, z_what: Tensor, theme: Theme, *, num: int = _WALK) -> Figure:
    """Objects on straight lines between the appearances of two.

    Args:
        air: the model.
        z_what: of objects that were found, ``(R + 1, D)``: each walk begins where the one before
            ended.
        theme: colours.
        num: objects in a walk.
    """
    walk = walk_z_what(air, z_what[:-1], z_what[1:], num=num).cpu()
    height, width = (2 * _SCALE * size for size in walk.shape[-2:])
    tiles = as_tiles(walk.flatten(0, 1), (height, width)).unflatten(0, walk.shape[:2])
    return tile_figure(tiles, theme, gap=3)


def walk_pose(air: AIR, z_what: Tensor, theme: Theme, *, num: int = _WALK) -> Figure:
    """One object whose scale, x and y change, one after the other.

    Args:
        air: the model.
        z_what: appearance of the object, ``(D,)``.
        theme: colours.
        num: canvases in a walk.
    """
    walk = walk_z_where(air, z_what, num=num).cpu()
    tiles = _enlarge(walk.flatten(0, 1)).unflatten(0, walk.shape[:2])
    return tile_figure(tiles, theme, rows=["scale s", "place x", "place y"], gap=6)


def choose_scenes(counts: Sequence[int], number: int) -> list[int]:
    """Positions of scenes to show: as even over the counts as can be, the most objects first.

    >>> choose_scenes([0, 2, 1, 2, 2, 1], 4)
    [1, 2, 0, 3]
    """
    by_count: dict[int, list[int]] = {}
    for position, count in enumerate(counts):
        by_count.setdefault(count, []).append(position)
    queues = [by_count[count] for count in sorted(by_count, reverse=True)]
    chosen: list[int] = []
    for turn in range(max(map(len, queues), default=0)):
        chosen += [queue[turn] for queue in queues if turn < len(queue)]
    return chosen[:number]


def _enlarge(images: Tensor) -> Tensor:
    height, width = images.shape[-2:]
    return as_tiles(images, (_SCALE * height, _SCALE * width))


def _percent(probability: float) -> str:
    """Never 100 % of what is not sure.

    >>> _percent(0.99997), _percent(0.42), _percent(1e-9)
    ('> 99.9 %', '42 %', '< 0.1 %')
    >>> _percent(0.987)
    '98.7 %'
    """
    if probability > 0.999:
        return "> 99.9 %"
    if probability < 0.001:
        return "< 0.1 %"
    digits = 1 if min(probability, 1 - probability) < 0.1 else 0
    return f"{100 * probability:.{digits}f} %"
