"""How good is a trained model? Counts against labels, and honest bounds."""

from collections.abc import Callable

import torch
from torch import Tensor

from air.distributions import NumSteps
from air.model import AIR
from air.types import Evaluation

__all__ = ["confusion_matrix", "evaluate"]


@torch.no_grad()
def evaluate(
    model: AIR,
    images: Tensor,
    num_objects: Tensor | None = None,
    *,
    num_samples: int = 100,
    shifts: Tensor | None = None,
    batch_size: int = 100,
    on_batch: Callable[[int], object] | None = None,
) -> Evaluation:
    """Evaluate a model on images, labelled or not.

    Args:
        model: a trained model.
        images: ``(N, C, H, W)``, float in [0, 1] or uint8.
        num_objects: true counts, integer ``(N,)``; None where they are unknown. The accuracies
            are then NaN, and the confusion has no row.
        num_samples: K of the importance-weighted bound; 0 leaves it out (it is then NaN).
        shifts: views to choose from, int64 ``(S, 2)``, as :meth:`AIR.infer` takes them. All that
            is measured is then of the view chosen for each image.
        batch_size: images in work at a time; bounds the memory.
        on_batch: called with the number of images done, after each batch.

    Raises:
        ValueError: if the images do not fit the model, or the labels the images.
    """
    if num_objects is not None and num_objects.shape != images.shape[:1]:
        raise ValueError(
            f"num_objects must have one entry an image, {tuple(images.shape[:1])}, "
            f"got {tuple(num_objects.shape)}."
        )
    if len(images) == 0:
        raise ValueError("there is nothing to evaluate: images must hold at least one image.")
    sums: dict[str, float] = {}
    modes = []
    true = images.new_full((len(images),), -1, dtype=torch.long)
    if num_objects is not None:
        true = num_objects
    for chunk, labels in zip(images.split(batch_size), true.split(batch_size), strict=True):
        reading = model.infer(chunk, shifts=shifts, batch_size=batch_size)
        mode, view = reading.counts, None if shifts is None else reading.shifts
        output = model(chunk, shifts=view)
        drawn = NumSteps(output.rollout.continue_logits[0], validate_args=False).sample()
        parts = output.elbo_parts
        measured = {
            "count_accuracy": (drawn == labels).double(),
            "count_accuracy_mode": (mode == labels).double(),
            "elbo": parts.elbo[0],
            "log_likelihood": parts.log_likelihood[0],
            "kl_num_steps": parts.kl_num_steps[0],
            "kl_z_where": parts.kl_z_where[0],
            "kl_z_what": parts.kl_z_what[0],
        }
        if num_samples:
            bound = model.log_likelihood(chunk, num_samples, shifts=view)
            measured |= {"log_likelihood_bound": bound.log_likelihood, "ess": bound.ess}
        for name, values in measured.items():
            sums[name] = sums.get(name, 0.0) + values.double().sum().item()
        modes.append(mode)
        if on_batch is not None:
            on_batch(len(chunk))
    means = {name: total / len(images) for name, total in sums.items()}
    if not num_samples:
        means |= {"log_likelihood_bound": float("nan"), "ess": float("nan")}
    if num_objects is None:
        means |= {"count_accuracy": float("nan"), "count_accuracy_mode": float("nan")}
        confusion = torch.zeros(0, model.max_objects + 1, dtype=torch.long)
    else:
        confusion = confusion_matrix(num_objects, torch.cat(modes), model.max_objects)
    return Evaluation(
        num_images=len(images),
        num_samples=num_samples,
        confusion=confusion,
        inferred_counts=torch.cat(modes).bincount(minlength=model.max_objects + 1).cpu(),
        **means,
    )


def confusion_matrix(num_objects: Tensor, counts: Tensor, max_objects: int) -> Tensor:
    """Images by true and inferred count.

    Args:
        num_objects: true counts, integer ``(N,)``.
        counts: inferred counts, integer ``(N,)``.
        max_objects: T, the largest count that can be inferred.

    Returns:
        int64 ``(M + 1, T + 1)``, M the larger of T and the largest true count.
    """
    rows = max(max_objects, int(num_objects.max())) + 1
    columns = max_objects + 1
    cells = (num_objects * columns + counts).long()
    return torch.bincount(cells, minlength=rows * columns).view(rows, columns).cpu()
