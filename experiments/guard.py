"""Keeps a loss or gradient that is not finite away from the weights."""

import re
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from experiments import distributed

__all__ = ["NonFiniteError", "NonFiniteGuard", "parse_on_nan"]


class NonFiniteError(FloatingPointError):
    """Training broke down; no weight has taken what is not finite."""


class NonFiniteGuard:
    """Looks at each loss and gradient before the optimiser does.

    Nothing is read from a GPU to do so: a flag stays there, and the fused optimiser leaves
    weights and moments as they are where it is raised. On a CPU the flag is read at every step.

    A finite gradient whose square overflows is seen on a GPU at once, and elsewhere by
    :meth:`check_state`.

    Args:
        optimizer: a fused one. The guard is part of it from now on.
        buffers: that the forward pass changes; they are set back with the weights.
        max_skips: steps that may be left out over the whole run; 0 to stop at the first.
        device: of the weights.

    Raises:
        ValueError: if the optimiser is not fused.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        buffers: Iterable[Tensor],
        *,
        max_skips: int,
        device: torch.device,
    ) -> None:
        if not all(group.get("fused") for group in optimizer.param_groups):
            raise ValueError("the guard needs a fused optimiser: Adam(..., fused=True).")
        self.max_skips = max_skips
        self.skipped = 0
        """Steps left out so far, as far as was read."""
        self.found = torch.zeros((), device=device)
        """1 if the step in work is to be left out, else 0."""
        self.loss = torch.zeros((), device=device)
        """Of the step in work."""
        # The optimiser's own way to leave out a step, meant for scaled gradients.
        optimizer.found_inf = self.found  # type: ignore[attr-defined]
        self._optimizer = optimizer
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._buffers = list(buffers)
        self._kept: list[Tensor] = []
        self._count = torch.zeros((), dtype=torch.int64, device=device)
        self._first: tuple[Tensor, Tensor, Tensor] | None = None

    def begin(self) -> None:
        """Remember what the forward pass may change."""
        self._kept = [buffer.clone() for buffer in self._buffers]

    def inspect(self, loss: Tensor, max_norm: float | None = None) -> None:
        """Raise or lower the flag, between the backward pass and the optimiser's step.

        Args:
            loss: of the batch.
            max_norm: the gradient is clipped to this norm; None for not at all.
        """
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        if max_norm is not None or self.found.is_cuda:
            total = get_total_norm(gradients)
            if max_norm is not None:
                clip_grads_with_norm_(self._parameters, max_norm, total)
            parts = [total]
        else:  # on a CPU this is half the work, and a sum is finite only if all its parts are
            parts = [gradient.sum() for gradient in gradients]
        self.loss.copy_(loss.detach())
        torch.logical_not(torch.isfinite(torch.stack([*parts, self.loss]).sum()), out=self.found)
        distributed.any_rank(self.found)  # all leave out the same steps
        for buffer, kept in zip(self._buffers, self._kept, strict=True):
            buffer.copy_(torch.where(self.found.bool(), kept, buffer))

    def check_state(self) -> str | None:
        """Look at weights and moments themselves, before they are saved; waits for the device.

        Raises:
            NonFiniteError: if a finite gradient made one of them overflow.
        """
        state = self._optimizer.state
        moments = [value for p in self._parameters for value in state.get(p, {}).values()]
        tensors = [tensor.detach() for tensor in (*self._parameters, *moments)]
        if not torch.isfinite(get_total_norm(tensors, torch.inf)):
            raise NonFiniteError(
                "some step: a finite gradient made the weights or moments overflow."
            )
        return None

    def settle(self, step: int, indices: Tensor | None) -> bool:
        """Take note of the flag after a step. Reads it on a CPU only.

        Args:
            step: that was taken, or left out.
            indices: of its scenes, ``(B,)``, where the loader tells.

        Returns:
            Whether there is something for :meth:`check` to say.
        """
        if not self.found.is_cuda and not self.found.item():
            return False
        self._record(step, self.found.new_empty(0).long() if indices is None else indices)
        return not self.found.is_cuda

    def _record(self, step: int, indices: Tensor) -> None:
        """Count the flag, and keep the first step that raised it; reads nothing."""
        first = self._count == 0
        now = (torch.full_like(self._count, step), indices, self.loss.clone())
        if self._first is None or self._first[1].shape != indices.shape:
            self._first = now
        else:
            fresh = first & self.found.bool()
            pairs = zip(now, self._first, strict=True)
            self._first = tuple(torch.where(fresh, new, old) for new, old in pairs)  # type: ignore[assignment]
        self._count += self.found.long()

    def check(self) -> str | None:
        """Read what was noted; waits for the device.

        Returns:
            What was left out since the last call, None if nothing.

        Raises:
            NonFiniteError: if more was left out than may be.
        """
        count = int(self._count)
        if not count:
            return None
        assert self._first is not None
        step, indices, loss = self._first
        self._count.zero_()
        self.skipped += count
        what = "a gradient is" if torch.isfinite(loss) else f"the loss is {loss.item():g},"
        said = f"step {int(step)}: {what} not finite."
        if len(indices):
            scenes = ", ".join(map(str, indices.tolist()))
            said += f" Training scenes of its batch: {scenes}."
        if self.skipped > self.max_skips:
            raise NonFiniteError(said)
        more = f" (and {count - 1} more)" if count > 1 else ""
        return f"left out {said}{more} Left out so far: {self.skipped} of {self.max_skips}."


def parse_on_nan(text: str) -> int:
    """How many steps may be left out: 0 for ``stop``, N for ``skip:N``.

    Raises:
        ValueError: if it is neither.
    """
    if text == "stop":
        return 0
    match = re.fullmatch(r"skip:([1-9][0-9]{0,8})", text, re.ASCII)
    if not match:
        raise ValueError(f"--on-nan must be stop, or skip:N with N of at least 1, got {text!r}.")
    return int(match[1])
