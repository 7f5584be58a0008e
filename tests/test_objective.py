import copy
import shutil

import pytest
import torch

from air import make_estimator
from experiments.objective import make_objective
from tests.small import small_model

CPU = torch.device("cpu")


def setting(estimator="enumerate", inference="paper"):
    # Wide enough for the quick paths.
    sizes = {"lstm_size": 64, "encoder_hidden": (160,), "decoder_hidden": (160,)}
    air = small_model(inference=inference, **sizes)
    air.validate_args = False  # as in training
    images = torch.randint(0, 256, (6, *air.config.image_shape), dtype=torch.uint8)
    return air, make_estimator(estimator, air.config), images, torch.tensor([0, 1, 2, 0, 1, 2])


def results_and_grads(function, air, estimator, images, labels, prob=0.01, limit=3):
    torch.manual_seed(1)
    air, estimator = copy.deepcopy((air, estimator))  # running statistics move
    results = function(air, estimator, images, labels, prob, limit)
    variables = [*air.parameters(), *estimator.parameters()]
    grads = torch.autograd.grad(results["loss"], variables, allow_unused=True)
    flat = torch.cat([g.flatten() for g in grads if g is not None])
    return {name: value.item() for name, value in results.items()}, flat


@pytest.mark.parametrize(("inference", "least"), [("paper", 0.995), ("residual", 0.95)])
def test_bf16_stays_close_to_float32(inference, least):
    arguments = setting(inference=inference)
    exact, exact_grad = results_and_grads(make_objective(CPU), *arguments)
    close, close_grad = results_and_grads(make_objective(CPU, "bf16"), *arguments)
    assert close.keys() == exact.keys()
    assert close["elbo"] == pytest.approx(exact["elbo"], rel=1e-2)
    assert close["elbo"] != exact["elbo"]  # it did something
    assert close_grad.dtype == torch.float32
    assert torch.cosine_similarity(close_grad, exact_grad, dim=0) > least


@pytest.mark.parametrize(
    ("estimator", "inference"),
    [("enumerate", "paper"), ("reinforce", "paper"), ("enumerate", "residual")],
)
def test_compiled_equals_eager(estimator, inference, monkeypatch):
    """Traced and differentiated as for the compiler; without C++, which takes half a minute."""
    compile_ = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda f, *, options, **kwargs: compile_(f, backend="aot_eager", **kwargs)
    )
    arguments = setting(estimator, inference)
    compiled = make_objective(CPU, compiled=True, translated=True)
    for scheduled in ((0.01, 1), (0.2, 3)):
        plain = make_objective(CPU, translated=True)
        exact, exact_grad = results_and_grads(plain, *arguments, *scheduled)
        same, same_grad = results_and_grads(compiled, *arguments, *scheduled)
        assert same == pytest.approx(exact, rel=1e-4)
        torch.testing.assert_close(same_grad, exact_grad, rtol=1e-3, atol=1e-3)
    assert compiled._compiled is not None


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_compiled_to_machine_code_equals_eager(precision):
    arguments = setting()
    compiled = make_objective(CPU, precision, compiled=True)
    exact, exact_grad = results_and_grads(make_objective(CPU, precision), *arguments)
    same, same_grad = results_and_grads(compiled, *arguments)
    assert compiled._compiled is not None
    tolerance = 1e-3 if precision == "float32" else 2e-2
    assert same == pytest.approx(exact, rel=tolerance)
    assert torch.cosine_similarity(same_grad, exact_grad, dim=0) > 1 - tolerance


def test_without_a_compiler_it_goes_on(monkeypatch):
    def broken(function, **_):
        def fail(*args):
            torch.rand(3)  # what it drew before it failed must not count
            raise RuntimeError("no C++ compiler\nand more")

        return fail

    monkeypatch.setattr(torch, "compile", broken)
    arguments = setting()
    function = make_objective(CPU, compiled=True)
    with pytest.warns(UserWarning, match="--compile does not work here.*no C"):
        first, first_grad = results_and_grads(function, *arguments)
    plain, plain_grad = results_and_grads(make_objective(CPU), *arguments)
    assert first == plain
    torch.testing.assert_close(first_grad, plain_grad)
    assert results_and_grads(function, *arguments)[0] == plain  # and says it only once
