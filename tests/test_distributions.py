import itertools

import pytest
import torch
from torch.distributions import kl_divergence

from air.distributions import NumSteps, TruncatedGeometric


def brute_force(logits):
    """Probability of each count over all 2^T chains of Bernoulli variables."""
    probs = torch.sigmoid(logits).tolist()
    total = torch.zeros(len(probs) + 1, dtype=torch.float64)
    for chain in itertools.product([0, 1], repeat=len(probs)):
        probability = 1.0
        for present, prob in zip(chain, probs, strict=True):
            probability *= prob if present else 1 - prob
        # The chain's count is the number of ones before its first zero.
        total[(*chain, 0).index(0)] += probability
    return total


@pytest.mark.parametrize("steps", [1, 2, 3, 6])
def test_num_steps_equals_brute_force(steps):
    logits = torch.randn(steps, dtype=torch.float64) * 2
    q = NumSteps(logits)
    expected = brute_force(logits)
    counts = torch.arange(steps + 1, dtype=torch.float64)
    mean = (counts * expected).sum()
    torch.testing.assert_close(q.probs, expected)
    torch.testing.assert_close(q.log_prob(counts.long()), expected.log())
    torch.testing.assert_close(q.mean, mean)
    torch.testing.assert_close(q.variance, ((counts - mean) ** 2 * expected).sum())
    torch.testing.assert_close(q.entropy(), -(expected * expected.log()).sum())
    assert q.mode == expected.argmax()


def test_kl_equals_brute_force():
    logits = torch.randn(5, 4, dtype=torch.float64)
    q, p = NumSteps(logits), TruncatedGeometric(torch.tensor(0.2, dtype=torch.float64), 4)
    prior = 0.2 ** torch.arange(5.0, dtype=torch.float64)
    prior /= prior.sum()
    expected = [(row * (row / prior).log()).sum() for row in map(brute_force, logits)]
    torch.testing.assert_close(kl_divergence(q, p), torch.stack(expected))


def test_truncated_geometric_is_normalised_and_geometric():
    p = TruncatedGeometric(torch.tensor([1e-20, 0.01, 0.5, 1.0]), max_objects=3)
    torch.testing.assert_close(p.probs.sum(-1), torch.ones(4))
    ratios = p.log_probs.diff(dim=-1)
    torch.testing.assert_close(ratios, p.continue_prob.log().unsqueeze(-1).expand(4, 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_finite_for_extreme_logits(dtype):
    extremes = torch.tensor([-100.0, -30.0, 0.0, 30.0, 100.0], dtype=dtype)
    logits = torch.cartesian_prod(extremes, extremes, extremes).requires_grad_()
    q, p = NumSteps(logits), TruncatedGeometric(torch.tensor(0.01, dtype=dtype), 3)
    for value in (q.log_probs, q.probs, q.entropy(), q.mean, kl_divergence(q, p)):
        assert value.isfinite().all()
        (grad,) = torch.autograd.grad(value.sum(), logits, retain_graph=True)
        assert grad.isfinite().all()
    torch.testing.assert_close(q.probs.sum(-1), torch.ones(125, dtype=dtype))


def test_samples_follow_the_probabilities():
    torch.manual_seed(0)
    q = NumSteps(torch.tensor([[0.5, -0.3, 1.0], [-2.0, 0.0, 0.0]]))
    draws = q.sample((200_000,))
    assert draws.shape == (200_000, 2)
    assert draws.dtype == torch.int64
    frequencies = torch.stack([(draws == n).double().mean(0) for n in range(4)], dim=-1)
    # Four standard errors of a frequency.
    assert ((frequencies - q.probs).abs() < 4 * (q.probs / 200_000).sqrt()).all()


def test_shapes_and_interface():
    q = NumSteps(torch.zeros(2, 5, 3))
    assert q.batch_shape == (2, 5)
    assert q.event_shape == ()
    assert q.log_prob(torch.tensor(1)).shape == (2, 5)
    assert q.log_prob(torch.zeros(7, 2, 5)).shape == (7, 2, 5)
    assert q.enumerate_support().shape == (4, 2, 5)
    assert q.enumerate_support(expand=False).shape == (4, 1, 1)
    assert q.expand((6, 2, 5)).probs.shape == (6, 2, 5, 4)
    assert TruncatedGeometric(0.5, 3).expand((2,)).probs.shape == (2, 4)


def test_values_outside_the_support_are_refused():
    with pytest.raises(ValueError, match="support"):
        NumSteps(torch.zeros(3)).log_prob(torch.tensor(4))


def test_bad_parameters_are_refused():
    with pytest.raises(ValueError, match="T >= 1"):
        NumSteps(torch.zeros(2, 0))
    with pytest.raises(ValueError, match="continue_prob"):
        TruncatedGeometric(0.0, 3)
    with pytest.raises(ValueError, match="max_objects"):
        TruncatedGeometric(0.5, 0)
    with pytest.raises(ValueError, match="same largest count"):
        kl_divergence(NumSteps(torch.zeros(2)), TruncatedGeometric(0.5, 3))
