"""The objective of one batch and its metrics: a function of tensors, which can be compiled."""

import warnings
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from air import AIR
from air.estimators import Estimator
from experiments.augmentation import translate

METRICS = ("elbo", "log_likelihood", "kl_num_steps", "kl_z_where", "kl_z_what")
"""The parts of the ELBO that are logged, by their names in ``ELBOParts``."""

Precision = Literal["float32", "tf32", "bf16"]
"""Of the matrix products; all else, and the parameters, are float32."""

PRECISIONS: tuple[Precision, ...] = get_args(Precision)

ObjectiveFunction = Callable[
    [AIR, Estimator, Tensor, Tensor | None, float | Tensor, float | Tensor, float | Tensor | None],
    dict[str, Tensor],
]


def objective(
    air: AIR,
    estimator: Estimator,
    images: Tensor,
    labels: Tensor | None,
    continue_prob: float | Tensor,
    limit: float | Tensor,
    likelihood_sd: float | Tensor | None = None,
) -> dict[str, Tensor]:
    """The loss of a batch and its metrics, all scalars.

    Args:
        air: the model.
        estimator: trains it.
        images: uint8 or float in [0, 1], ``(B, C, H, W)``.
        labels: numbers of objects, int64 ``(B,)``; not used but for the accuracy.
        continue_prob: prior probability of one more object at this step.
        limit: most objects that may be found in an image at this step.
        likelihood_sd: of a pixel at this step, if not the model's own.
    """
    images = images.float() / 255 if images.dtype == torch.uint8 else images
    prior = air.prior(continue_prob, limit=limit)
    objective = estimator(air, images, prior, likelihood_sd=likelihood_sd)
    output = objective.output
    results = {"loss": objective.total_loss, "bound": -objective.loss.detach()}
    for name in METRICS:
        results[name] = getattr(output.elbo_parts, name).detach().mean()
    if labels is not None:
        # The expected accuracy of one draw from q(n): its probability of the true count.
        count_probs = output.count_probs.detach()
        true = labels.expand(count_probs.shape[:-1]).unsqueeze(-1)
        results["count_accuracy"] = count_probs.gather(-1, true).mean()
    if any(True for _ in estimator.parameters()):
        results["auxiliary_loss"] = objective.auxiliary_loss.detach()
    return results


def make_objective(
    device: torch.device,
    precision: Precision = "float32",
    *,
    compiled: bool = False,
    translated: bool = False,
) -> ObjectiveFunction:
    """:func:`objective` in another precision, compiled, or on scenes that are moved about.

    Args:
        device: that it runs on.
        precision: of the matrix products; ``tf32`` changes products on a GPU only.
        compiled: whether to compile it, which takes half a minute or more and then saves a
            quarter of the time of each step on a CPU. Where it does not work (there is no C++
            compiler, say), a warning says so and the function runs as it is.
        translated: whether the content of each image is moved to a random place first.
    """
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    elif precision == "tf32":
        warnings.warn("--precision tf32 changes nothing on a CPU.", stacklevel=2)
    function: ObjectiveFunction = _on_translated(objective) if translated else objective
    if precision == "bf16":
        function = _in_bfloat16(function, device)
    return _Compiled(function) if compiled else function


def _on_translated(function: ObjectiveFunction) -> ObjectiveFunction:
    def on_translated(
        air: AIR, estimator: Estimator, images: Tensor, *more: Any
    ) -> dict[str, Tensor]:
        return function(air, estimator, translate(images), *more)

    return on_translated


def _in_bfloat16(function: ObjectiveFunction, device: torch.device) -> ObjectiveFunction:
    def with_autocast(*args: Any) -> dict[str, Tensor]:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            return function(*args)

    return with_autocast


class _Compiled:
    """A compiled function that falls back to the plain one if its first call fails."""

    def __init__(self, function: ObjectiveFunction) -> None:
        self._plain = function
        # The same random numbers as without the compiler: a run can be compared.
        options: dict[str, Any] = {"fallback_random": True}
        self._compiled: Any = torch.compile(function, dynamic=False, options=options)
        self._works = False

    def __call__(
        self,
        air: AIR,
        estimator: Estimator,
        images: Tensor,
        labels: Tensor | None,
        continue_prob: float | Tensor,
        limit: float | Tensor,
        likelihood_sd: float | Tensor | None = None,
    ) -> dict[str, Tensor]:
        # A number would be a constant to the compiler, and each new one a reason to start anew.
        scheduled = [
            torch.as_tensor(value, dtype=torch.float32, device=images.device)
            for value in (continue_prob, limit, likelihood_sd)
            if value is not None
        ]
        if self._compiled is None:
            return self._plain(air, estimator, images, labels, *scheduled)
        if not self._works:
            return self._first(air, estimator, images, labels, *scheduled)
        return self._compiled(air, estimator, images, labels, *scheduled)

    def _first(self, air: AIR, estimator: Estimator, *args: Any) -> dict[str, Tensor]:
        """Compile; where that fails, undo what the attempt drew and moved."""
        devices = [args[0].device] if args[0].is_cuda else []
        start = [torch.get_rng_state(), *map(torch.cuda.get_rng_state, devices)]
        statistics = [buffer.clone() for buffer in estimator.buffers()]
        try:
            results = self._compiled(air, estimator, *args)
            self._works = True
            return results
        except Exception as error:
            if torch.distributed.is_initialized():
                raise  # the other processes may have compiled it
            self._compiled = None
            reason = (str(error).strip() or "no reason").splitlines()[0]
            warnings.warn(
                f"--compile does not work here ({type(error).__name__}: {reason}); "
                "going on without it.",
                stacklevel=3,
            )
        torch.set_rng_state(start[0])
        for device, state in zip(devices, start[1:], strict=True):
            torch.cuda.set_rng_state(state, device)
        for buffer, before in zip(estimator.buffers(), statistics, strict=True):
            buffer.copy_(before)
        return self._plain(air, estimator, *args)
