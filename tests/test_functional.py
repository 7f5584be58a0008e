import pytest
import torch
import torch.nn.functional as F

from air import functional
from air.functional import linear, lstm_gates


def grads_of(function, variables, weights):
    out = function(*variables)
    return out, torch.autograd.grad((out * weights).sum(), variables)


@pytest.mark.parametrize("shape", [(64,), (2, 5), (3, 4, 5)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 2e-2)], ids=str
)
def test_linear_equals_torch_in_double(shape, bias, relu, dtype, tolerance):
    """The oneDNN product, forward and backward, in float32 and under autocast."""
    torch.manual_seed(0)
    variables = [torch.randn(*shape, 120), torch.randn(70, 120) / 120**0.5, torch.randn(70)]
    variables = [v.requires_grad_() for v in variables[: 2 + bias]]
    weights = torch.randn(*shape, 70)
    with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
        ours = linear(*variables, relu=relu)
    assert ours.dtype == dtype
    our_grads = torch.autograd.grad((ours * weights).sum(), variables)
    # Where rounding moves a value across zero, ReLU's derivative jumps: take the mask from ours.
    doubles = [v.detach().double().requires_grad_() for v in variables]
    theirs = F.linear(*doubles)
    if relu:
        theirs = theirs * (ours > 0)
    their_grads = torch.autograd.grad((theirs * weights).sum(), doubles)
    for our, their in zip([ours, *our_grads], [theirs, *their_grads], strict=True):
        error = (our.double() - their).abs().max() / their.abs().max()
        assert error < tolerance
    assert all(g.dtype == v.dtype for g, v in zip(our_grads, variables, strict=True))


def test_linear_without_onednn(monkeypatch):
    x, weight, bias = torch.randn(8, 120), torch.randn(70, 120), torch.randn(70)
    quick = linear(x, weight, bias, relu=True)
    monkeypatch.setattr(functional, "_ONEDNN_LINEAR", None)
    torch.testing.assert_close(linear(x, weight, bias, relu=True), quick, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("first", [True, False])
def test_lstm_gates_derivatives(first):
    torch.manual_seed(0)
    gates = torch.randn(3, 20, dtype=torch.float64, requires_grad=True)
    cell = None if first else torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *v: lstm_gates(*v), (gates, cell))
    # Only one of the two results used, as at the last step.
    for used in (0, 1):
        assert torch.autograd.gradcheck(lambda *v, used=used: lstm_gates(*v)[used], (gates, cell))


def test_lstm_gates_work_under_vmap():
    gates, cell = torch.randn(4, 3, 20), torch.randn(4, 3, 5)
    together = torch.func.vmap(lstm_gates)(gates, cell)
    for i in range(4):
        alone = lstm_gates(gates[i], cell[i])
        torch.testing.assert_close((together[0][i], together[1][i]), alone)


@pytest.mark.parametrize("relu", [True, False])
def test_linear_does_not_hide_nan(relu):
    weight = torch.randn(70, 120)
    weight[3, 5] = float("nan")
    assert linear(torch.randn(8, 120), weight, relu=relu)[:, 3].isnan().all()


def test_second_derivatives_are_refused():
    gates = torch.randn(3, 20, requires_grad=True)
    weight = torch.randn(70, 120, requires_grad=True)
    for out, variable in (
        (lstm_gates(gates, None)[0], gates),
        (linear(torch.randn(8, 120), weight, relu=True), weight),
    ):
        (grad,) = torch.autograd.grad(out.square().sum(), variable, create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            grad.sum().backward()
