"""Operators with derivatives written by hand, where autograd's own way takes much longer."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["linear", "lstm_gates", "product_dtype"]


def product_dtype(input: Tensor) -> torch.dtype:
    """Type of a matrix product with ``input``: that of autocast, where it is on."""
    device = input.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return input.dtype


def linear(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, *, relu: bool = False
) -> Tensor:
    """``input @ weight.T + bias``, and ReLU on it if asked for.

    Through oneDNN on CPUs, in float32 on some of them twice as quick as PyTorch's choice, MKL;
    elsewhere it is ``torch.nn.functional.linear``. Equal up to the order of additions. Where
    autocast is on, computed in its type.

    Args:
        input: ``(*, in_features)``.
        weight: ``(out_features, in_features)``.
        bias: ``(out_features,)``.
        relu: whether negative results become zero.

    Returns:
        ``(*, out_features)``.
    """
    if _can_use_onednn(input, weight):
        dtype = product_dtype(input)
        return _OneDNNLinear.apply(input, weight, bias, relu, dtype)
    out = F.linear(input, weight, bias)
    return out.relu() if relu else out


def lstm_gates(gates: Tensor, cell: Tensor | None) -> tuple[Tensor, Tensor]:
    """Hidden and cell state of an LSTM, from its gates.

    Args:
        gates: write, show, keep and candidate before their sigmoids and tanh, ``(*, 4 * H)``.
        cell: of the step before, ``(*, H)``; zero if not given.

    Returns:
        Hidden and cell state, each ``(*, H)``.
    """
    hidden, cell, *_ = _LSTMGates.apply(gates, cell)
    return hidden, cell


def _can_use_onednn(input: Tensor, weight: Tensor) -> bool:
    return (
        input.device.type == "cpu"
        and input.dtype in (torch.float32, torch.bfloat16)
        and weight.dtype == torch.float32
        and product_dtype(input) in (torch.float32, torch.bfloat16)
        and weight.numel() >= 4096  # below, the call costs more than the product
        and _ONEDNN_LINEAR is not None
        and not torch.compiler.is_exporting()  # other runtimes do not know it
        and not torch._C._functorch.maybe_current_level()
    )


def _find_onednn_linear() -> Callable[..., Tensor] | None:
    """PyTorch's own oneDNN product, or None where this build has none."""
    if not torch.backends.mkldnn.is_available():
        return None
    return getattr(torch.ops.mkldnn, "_linear_pointwise", None)


_ONEDNN_LINEAR = _find_onednn_linear()


def _product(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    """``left @ right.T + bias`` of two matrices."""
    product = torch.ops.air.product if torch.compiler.is_compiling() else _onednn_product
    return product(left, right, bias)


def _onednn_product(left: Tensor, right: Tensor, bias: Tensor | None) -> Tensor:
    assert _ONEDNN_LINEAR is not None
    return _ONEDNN_LINEAR(left, right, bias, "none", [], "")


# Under a name of its own the compiler leaves the product alone, instead of putting MKL in its
# place. Defined at this low level because ``torch.library.custom_op`` adds 15 us to each call.
_LIBRARY = torch.library.Library("air", "DEF")
_LIBRARY.define("product(Tensor left, Tensor right, Tensor? bias) -> Tensor")
_LIBRARY.impl("product", _onednn_product, "CPU")


@torch.library.register_fake("air::product")
def _(left: Tensor, right: Tensor, bias: Tensor | None) -> Tensor:
    return left.new_empty(left.shape[0], right.shape[0])


class _OneDNNLinear(torch.autograd.Function):
    """The product and its derivatives; the operator brings none of its own."""

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        relu: bool,
        dtype: torch.dtype,
    ) -> Tensor:
        rows = input.reshape(-1, input.shape[-1]).to(dtype)
        weight = weight.to(dtype)
        out = _product(rows, weight, None if bias is None else bias.to(dtype))
        if relu:  # not by oneDNN, whose ReLU makes zero of NaN and so hides it
            out = out.relu_()
        ctx.save_for_backward(rows, weight, out if relu else None)
        ctx.input_dtype = input.dtype
        return out.view(*input.shape[:-1], -1)

    @staticmethod
    @once_differentiable  # its own derivative would be wrong: better an error
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, out = ctx.saved_tensors
        needs_input, needs_weight, needs_bias, *_ = ctx.needs_input_grad
        shape = grad.shape[:-1]
        grad = grad.reshape(-1, grad.shape[-1]).to(weight.dtype)
        if out is not None:
            grad = torch.ops.aten.threshold_backward(grad, out, 0)
        grad_input = grad_weight = grad_bias = None
        if needs_input:
            grad_input = _product(grad, weight.t()).view(*shape, -1).to(ctx.input_dtype)
        if needs_weight:
            grad_weight = _product(grad.t(), rows.t()).float()
        if needs_bias:
            grad_bias = grad.sum(dim=0, dtype=torch.float32)
        return grad_input, grad_weight, grad_bias, None, None


class _LSTMGates(torch.autograd.Function):
    """The pointwise half of an LSTM: a third of the steps that autograd takes."""

    generate_vmap_rule = True

    @staticmethod
    def forward(gates: Tensor, cell: Tensor | None) -> tuple[Tensor, ...]:
        size = gates.shape[-1] // 4
        sigmoids = gates[..., : 3 * size].sigmoid()
        candidate = gates[..., 3 * size :].tanh()
        write, show, keep = sigmoids.chunk(3, dim=-1)
        new_cell = write * candidate
        if cell is not None:
            new_cell = torch.addcmul(new_cell, keep, cell)
        shown = new_cell.tanh()
        return show * shown, new_cell, sigmoids, candidate, shown

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output[2:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(inputs[1], *output[2:])

    @staticmethod
    @once_differentiable  # its own derivative would be wrong: better an error
    def backward(
        ctx: Any, grad_hidden: Tensor | None, grad_cell: Tensor | None, *_: None
    ) -> tuple[Tensor | None, Tensor | None]:
        cell, sigmoids, candidate, shown = ctx.saved_tensors
        write, show, keep = sigmoids.chunk(3, dim=-1)
        grad_show = None
        if grad_hidden is not None:
            grad_show = grad_hidden * shown
            from_hidden = torch.ops.aten.tanh_backward(grad_hidden * show, shown)
            grad_cell = from_hidden if grad_cell is None else grad_cell + from_hidden
        if grad_cell is None:
            return None, None
        absent = torch.zeros_like(grad_cell) if grad_show is None or cell is None else grad_cell
        grads = [
            grad_cell * candidate,
            absent if grad_show is None else grad_show,
            absent if cell is None else grad_cell * cell,
        ]
        grad_sigmoids = torch.ops.aten.sigmoid_backward(torch.cat(grads, dim=-1), sigmoids)
        grad_candidate = torch.ops.aten.tanh_backward(grad_cell * write, candidate)
        grad_gates = torch.cat([grad_sigmoids, grad_candidate], dim=-1)
        return grad_gates, None if cell is None else grad_cell * keep
