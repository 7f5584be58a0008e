"""How well are objects found? Boxes and masks against the true ones.

What is scored:

- *Boxes*: of the objects that the posterior's mode says exist, each with the probability that it
  does, q(n >= t | x). Once as the model reads them (``window``: all of the glimpse that the object
  is drawn in, cut at the image's edge), once ``tight`` around the pixels of the object that are
  brighter than :data:`VISIBLE`, as the true ones are.
- *Masks*: of each object, its pixels brighter than :data:`VISIBLE`.

How:

- ``iou``: intersection over union of each true box with the found one that it is paired with, by
  the pairing of a scene that makes the sum largest; 0 for a true box without a partner. Mean over
  all true boxes.
- ``ap``, ``ap50``, ``ap75``: average precision as COCO defines it, over IoU thresholds of 0.5 to
  0.95, of 0.5 and of 0.75; by torchmetrics and pycocotools.
- ``ari``: foreground adjusted Rand index (Hubert and Arabie, 1985), by scikit-learn: over the
  pixels that belong to exactly one true object, each labelled by the object found that is the
  brightest there, or by "none". Mean over scenes.
- ``covering``: segmentation covering (Arbelaez et al., 2011) of the true masks: of each, the
  largest IoU with a found one, weighted by area; mean over scenes.

*Scenes without objects* have no true box, no foreground and no mask. A box found in one counts
against the average precision, as a false positive; all the other scores leave them out. How many
they are is reported, and in what share of them something was found.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from air import AIR
from air.types import Inference
from experiments.datasets import Scenes

__all__ = [
    "BoxScores",
    "Localisation",
    "MaskScores",
    "check_boxes",
    "format_localisation",
    "localise",
]

VISIBLE = 0.2
"""A pixel belongs to an object where the object alone is at least that bright, of 1. Chosen on
1000 training scenes of ``multi-mnist``: 0.1, 0.2 and 0.3 gave a mean IoU of 0.78, 0.82, 0.81."""


@dataclass(frozen=True, kw_only=True)
class BoxScores:
    """How well boxes fit the true ones, each 0 to 1; None where there are none to be found."""

    iou: float | None
    ap: float | None
    ap50: float | None
    ap75: float | None


@dataclass(frozen=True, kw_only=True)
class MaskScores:
    """How well masks fit the true ones; None where there are none to be found."""

    ari: float | None
    """Foreground adjusted Rand index: 1 is perfect, 0 is chance."""
    covering: float | None
    """Segmentation covering, 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class Localisation:
    """How well a model finds the objects of labelled scenes."""

    num_scenes: int
    num_without_objects: int
    """Scenes without objects, which only the average precision looks at."""
    found_without_objects: float | None
    """Share of them in which something was found; None if there are none."""
    window: BoxScores
    """Of the boxes as the model reads them."""
    tight: BoxScores
    """Of the boxes around what it draws."""
    masks: MaskScores | None
    """None where the true masks are unknown."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return asdict(self)


def localise(
    air: AIR,
    scenes: Scenes,
    *,
    shifts: Tensor | None = None,
    batch_size: int = 500,
    on_batch: Callable[[int], object] | None = None,
) -> Localisation:
    """Score a model's boxes and masks.

    Args:
        air: a trained model.
        scenes: with true boxes; their masks are scored where they are known.
        shifts: views to choose from, as :meth:`AIR.infer` takes them.
        batch_size: scenes in work at a time.
        on_batch: called with the number of scenes done, after each batch.

    Raises:
        ValueError: if the images do not fit the model, a true box is unknown, or a package is
            missing.
    """
    check_boxes(scenes)
    device = next(air.parameters()).device
    found: list[tuple[Tensor, ...]] = []
    aris: list[float] = []
    coverings: list[float] = []
    for start in range(0, len(scenes), batch_size):
        part = scenes[start : start + batch_size]
        reading = air.infer(part.images.to(device), shifts=shifts, batch_size=batch_size)
        found.append(_found_boxes(reading, air.config.canvas_size))
        if scenes.masks is not None:
            visible = reading.objects.amax(dim=2).cpu()
            true = part.instance_masks()
            aris += foreground_ari(true, segments(visible))
            coverings += covering(true, visible >= VISIBLE)
        if on_batch is not None:
            on_batch(len(part))
    window, tight, scores, present = (torch.cat(tensors) for tensors in zip(*found, strict=True))
    empty = scenes.num_objects.cpu() == 0
    mask_scores = MaskScores(ari=_mean(aris), covering=_mean(coverings))
    return Localisation(
        num_scenes=len(scenes),
        num_without_objects=int(empty.sum()),
        found_without_objects=_mean(present[empty].any(dim=-1).tolist()),
        window=score_boxes(window, scores, present, scenes),
        tight=score_boxes(tight, scores, present, scenes),
        masks=None if scenes.masks is None else mask_scores,
    )


def check_boxes(scenes: Scenes) -> None:
    """Check that the true boxes of all scenes are known.

    Raises:
        ValueError: if they are not.
    """
    known = int(scenes.boxes.isfinite().all(dim=-1).sum())
    if not scenes.is_counted or known < int(scenes.num_objects.sum()):
        raise ValueError(
            f"--localisation needs the true boxes of {scenes.name}, which are not known of all of "
            "its scenes. Images of one's own get them from a COCO file."
        )


def score_boxes(boxes: Tensor, scores: Tensor, present: Tensor, scenes: Scenes) -> BoxScores:
    """Score found boxes against the true ones.

    Args:
        boxes: ``(N, T, 4)``.
        scores: how sure each is, ``(N, T)``.
        present: which exist, bool ``(N, T)``.
        scenes: with true boxes.

    Raises:
        ValueError: if a package is missing.
    """
    try:
        from torchmetrics.detection import MeanAveragePrecision
    except ImportError as error:
        raise _missing("torchmetrics and pycocotools") from error
    found = [
        {"boxes": b[p], "scores": s[p], "labels": torch.zeros(int(p.sum()), dtype=torch.int64)}
        for b, s, p in zip(boxes, scores, present, strict=True)
    ]
    true = [
        {"boxes": b[:n], "labels": torch.zeros(n, dtype=torch.int64)}
        for b, n in zip(scenes.boxes.cpu(), scenes.num_objects.tolist(), strict=True)
    ]
    ious: list[float] = []
    for ours, theirs in zip(found, true, strict=True):
        ious += paired_ious(ours["boxes"], theirs["boxes"])
    if not ious:
        return BoxScores(iou=None, ap=None, ap50=None, ap75=None)
    try:
        metric = MeanAveragePrecision(box_format="xyxy", backend="pycocotools")
    except ImportError as error:
        raise _missing("pycocotools") from error
    metric.warn_on_many_detections = False
    metric.update(found, true)
    values = metric.compute()
    names = {"ap": "map", "ap50": "map_50", "ap75": "map_75"}
    return BoxScores(
        iou=_mean(ious), **{ours: float(values[theirs]) for ours, theirs in names.items()}
    )


def paired_ious(found: Tensor, true: Tensor) -> list[float]:
    """IoU of each true box with its partner, 0 without one.

    Args:
        found: ``(n, 4)``.
        true: ``(m, 4)``.
    """
    from torchvision.ops import box_iou

    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as error:
        raise _missing("scikit-learn (and scipy with it)") from error
    if len(found) == 0 or len(true) == 0:
        return [0.0] * len(true)
    iou = box_iou(true, found).nan_to_num()  # of two empty boxes: 0
    rows, columns = linear_sum_assignment(iou.numpy(), maximize=True)
    paired = [0.0] * len(true)
    for row, column in zip(rows, columns, strict=True):
        paired[row] = float(iou[row, column])
    return paired


def segments(objects: Tensor) -> Tensor:
    """Which object a pixel belongs to: 1 to T for the brightest there, 0 for none.

    Args:
        objects: how bright each object is alone, ``(N, T, H, W)``.

    Returns:
        int64 ``(N, H, W)``.
    """
    brightest, index = objects.max(dim=1)
    return torch.where(brightest >= VISIBLE, index + 1, 0)


def foreground_ari(masks: Tensor, found: Tensor) -> list[float]:
    """Adjusted Rand index over the pixels of exactly one true object, scene by scene.

    Args:
        masks: true masks, bool ``(N, M, H, W)``.
        found: segments found, int64 ``(N, H, W)``.

    Returns:
        One number a scene that has such pixels; the others are left out. Where there is one object
        and all its pixels got one label, it is 1.
    """
    try:
        from sklearn.metrics import adjusted_rand_score
    except ImportError as error:
        raise _missing("scikit-learn") from error
    aris = []
    for scene, labels in zip(masks, found, strict=True):
        foreground = scene.sum(dim=0) == 1
        if foreground.any():
            true = scene.to(torch.uint8).argmax(dim=0)[foreground]
            aris.append(float(adjusted_rand_score(true.numpy(), labels[foreground].numpy())))
    return aris


def covering(masks: Tensor, found: Tensor) -> list[float]:
    """Of each true mask the largest IoU with a found one, weighted by area, scene by scene.

    Args:
        masks: true masks, bool ``(N, M, H, W)``; empty ones are of no object.
        found: masks found, bool ``(N, T, H, W)``; empty ones are of no object.

    Returns:
        One number a scene that has an object; the others are left out.
    """
    true, ours = masks.flatten(2).float(), found.flatten(2).float()
    area = true.sum(dim=-1)
    both = true @ ours.mT
    union = area.unsqueeze(-1) + ours.sum(dim=-1).unsqueeze(-2) - both
    best = (both / union.clamp(min=1)).amax(dim=-1)
    total = area.sum(dim=-1)
    held = total > 0
    return ((best * area).sum(dim=-1)[held] / total[held]).tolist()


def tight_boxes(objects: Tensor) -> Tensor:
    """Boxes around the visible pixels of each object, in pixels; all zero where there are none.

    Args:
        objects: how bright each object is alone, ``(*, H, W)``.

    Returns:
        ``(x_min, y_min, x_max, y_max)``, of edges, ``(*, 4)``.
    """
    visible = objects >= VISIBLE
    edges = []
    for lit in (visible.any(dim=-2), visible.any(dim=-1)):
        size = lit.shape[-1]
        some = lit.any(dim=-1)
        first = lit.to(torch.uint8).argmax(dim=-1)
        last = size - lit.flip(-1).to(torch.uint8).argmax(dim=-1)
        edges.append((first * some, last * some))
    (left, right), (top, bottom) = edges
    return torch.stack([left, top, right, bottom], dim=-1).float()


def format_localisation(localisation: Localisation) -> str:
    """The localisation as text."""

    def row(title: str, *values: float | None) -> str:
        cells = "".join(f"{'-':>9}" if v is None else f"{v:9.3f}" for v in values)
        return f"    {title:<34}{cells}"

    lines = [f"  {'localisation':<36}{'IoU':>9}{'AP':>9}{'AP 0.5':>9}{'AP 0.75':>9}"]
    for title, scores in (
        ("boxes as read, of the whole window", localisation.window),
        ("boxes around what is drawn", localisation.tight),
    ):
        lines.append(row(title, scores.iou, scores.ap, scores.ap50, scores.ap75))
    if localisation.masks is not None:
        lines.append(f"  {'':<36}{'ARI':>9}{'covering':>9}")
        lines.append(row("masks", localisation.masks.ari, localisation.masks.covering))
    found = localisation.found_without_objects
    lines.append(
        f"    {localisation.num_without_objects} of {localisation.num_scenes} scenes hold no object"
        + ("." if found is None else f"; something was found in {found:.2%} of them.")
    )
    return "\n".join(lines)


def _found_boxes(reading: Inference, size: tuple[int, int]) -> tuple[Tensor, ...]:
    """Window and tight boxes ``(N, T, 4)``, how sure ``(N, T)`` and which exist ``(N, T)``."""
    height, width = size
    window = reading.boxes.nan_to_num(nan=0.0)
    most = window.new_tensor([width, height, width, height])
    window = torch.minimum(window.clamp(min=0), most)
    survival = reading.count_probs[:, 1:].flip(-1).cumsum(dim=-1).flip(-1)
    tight = tight_boxes(reading.objects.amax(dim=2))
    return tuple(tensor.cpu() for tensor in (window, tight, survival, reading.present))


def _mean(values: list[Any]) -> float | None:
    return float(sum(values) / len(values)) if values else None


def _missing(package: str) -> ValueError:
    return ValueError(
        f"--localisation needs {package}, which cannot be imported here. "
        "Install what the benchmarks need: pip install '.[benchmarks]'."
    )
