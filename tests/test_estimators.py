"""The estimators' gradients, against the exact one."""

import dataclasses

import pytest
import torch

import air.estimators
from air.distributions import NumSteps
from air.estimators import ESTIMATORS, Enumerate, Reinforce, _Chain, make_estimator
from tests.small import CONFIG, small_images, small_model

UNBIASED = ["enumerate", "reinforce"]


@pytest.fixture(scope="module")
def model():
    return small_model(dtype=torch.float64)


@pytest.fixture(scope="module")
def images():
    return small_images(3, dtype=torch.float64)


def make(name, num_samples=1, seed=0):
    """An estimator in float64, whose running statistics stay as they are."""
    torch.manual_seed(seed)
    estimator = make_estimator(name, CONFIG, num_samples).double().eval()
    if isinstance(estimator, Reinforce):  # a baseline that has learned something
        estimator.return_mean.fill_(-150.0)
        estimator.return_sd.fill_(20.0)
    return estimator


def repeat(output, number):
    """The same rollouts, each ``number`` times along the sample axis: only counts will differ."""

    def repeated(value):
        if dataclasses.is_dataclass(value):
            fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
            return type(value)(**{name: repeated(item) for name, item in fields.items()})
        if value.dim() < 2:  # log p(n) is one for all
            return value
        return value.repeat(number, *[1] * (value.dim() - 1))

    return repeated(output)


def gradient(loss, model):
    """Gradient of a loss by parameter group, each flattened."""
    grads = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
    groups = {}
    for (name, _), grad in zip(model.named_parameters(), grads, strict=True):
        groups.setdefault(".".join(name.split(".")[:2]), []).append(grad.flatten())
    return {group: torch.cat(parts) for group, parts in groups.items()}


def z_scores(estimator, model, images, blocks=40, draws=200):
    """How many standard errors the mean gradient is off the exact one, by parameter group.

    The rollouts are the same in all draws: the count alone is random, and the exact gradient is
    that of the sum over counts. Each group is projected on some directions, its exact gradient's
    among them, so that a large group cannot hide a fault in few of its parameters.
    """
    torch.manual_seed(7)
    output = model(images, num_samples=2)
    exact = gradient(-output.elbo.mean(), model)
    directions = {
        group: torch.stack([grad / grad.norm(), *torch.randn(2, len(grad), dtype=grad.dtype)])
        for group, grad in exact.items()
    }
    many = repeat(output, draws)
    samples = {group: [] for group in exact}
    for _ in range(blocks):
        loss = estimator.objective(images, many, model.prior()).loss
        for group, grad in gradient(loss, model).items():
            samples[group].append(directions[group] @ grad)
    scores = {}
    for group, values in samples.items():
        stacked, expected = torch.stack(values), directions[group] @ exact[group]
        # An exact estimator has no error but rounding.
        error = stacked.std(dim=0) / blocks**0.5 + 1e-9 * (1 + expected.abs())
        scores[group] = ((stacked.mean(dim=0) - expected).abs() / error).max().item()
    return scores


@pytest.mark.parametrize("name", UNBIASED)
def test_mean_gradient_is_the_exact_one(name, model, images):
    scores = z_scores(make(name), model, images)
    assert set(scores) == {
        "inference.lstm",
        "inference.predictor",
        "inference.encoder",
        "generative.decoder",
    }
    assert max(scores.values()) < 4.5, scores  # 12 directions: 4 once in a thousand runs


def wrong_sign(value, score):
    """The score with the wrong sign."""
    return value - score + score.detach()


def no_score(value, score):
    """The score left out: the gradient of a fixed count."""
    return value


def no_detach(value, score):
    """The value's own gradient multiplied in once more, as where a signal is not detached."""
    return value + score - score.detach() + 0.1 * (value - value.detach())


@pytest.mark.parametrize("broken", [wrong_sign, no_score, no_detach])
def test_a_broken_estimator_is_found_out(broken, model, images, monkeypatch):
    monkeypatch.setattr(air.estimators, "_surrogate", broken)
    assert max(z_scores(make("reinforce"), model, images).values()) > 6


@pytest.mark.parametrize("name", UNBIASED)
def test_value_is_minus_the_bound(name, model, images):
    """On average over counts: the exact ELBO of the same rollouts."""
    output = model(images, num_samples=2)
    many, estimator = repeat(output, 200), make(name)
    with torch.no_grad():
        losses = torch.stack(
            [estimator.objective(images, many, model.prior()).loss for _ in range(40)]
        )
    error = losses.std() / 40**0.5 + 1e-9
    assert (losses.mean() + output.elbo.mean()).abs() < 4 * error


def test_baseline_changes_the_variance_and_not_the_mean(model, images):
    good, bad = make("reinforce"), make("reinforce")
    bad.return_mean.fill_(1000.0)
    logit_bias = model.inference.predictor.mlp[-1].bias
    many = repeat(model(images), 100)

    def draws(estimator):
        losses = (estimator.objective(images, many, model.prior()).loss for _ in range(100))
        grads = [torch.autograd.grad(loss, logit_bias, retain_graph=True)[0] for loss in losses]
        return torch.stack(grads)[:, 0]

    with_good, with_bad = draws(good), draws(bad)
    assert with_good.var() < with_bad.var() / 10
    error = (with_good.var() / 100 + with_bad.var() / 100).sqrt()
    assert (with_good.mean() - with_bad.mean()).abs() < 4 * error


def test_baseline_and_model_exchange_no_gradient(images):
    model, estimator = small_model(dtype=torch.float64), make("reinforce")
    objective = estimator(model, images)
    assert objective.auxiliary_loss > 0
    for loss, own in ((objective.loss, estimator), (objective.auxiliary_loss, model)):
        grads = torch.autograd.grad(
            loss, list(own.parameters()), retain_graph=True, allow_unused=True
        )
        assert all(grad is None for grad in grads)
    objective.total_loss.backward()
    for module in (model, estimator):
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())


def test_chain_value_averages_to_the_elbo_at_every_count(model, images):
    """Sum over all n of q(n) times the chain's value: the analytic KL of decisions is exact."""
    output = model(images)
    q = NumSteps(output.rollout.continue_logits)
    total = 0
    for n in range(4):
        chain = _Chain(q, torch.full((1, 3), n), output.counts)
        total = total + q.probs[..., n] * chain.value
    torch.testing.assert_close(total, output.elbo)


def test_cost_to_go_is_what_is_still_to_decide(model, images):
    output = model(images)
    counts = output.counts
    chain = _Chain(NumSteps(output.rollout.continue_logits), torch.full((1, 3), 1), counts)
    assert chain.reached[0].tolist() == [[1.0, 1.0, 0.0]] * 3
    first = counts.log_likelihood[..., 1] - counts.kl_latents[..., 1]
    # At step 2 the first object is history, and its KL no longer to pay.
    torch.testing.assert_close(chain.cost_to_go[..., 1], counts.log_likelihood[..., 1])
    # At step 1 the KL of the second decision is still to come.
    assert (chain.cost_to_go[..., 0] < first).all()


def test_running_statistics_follow_the_returns(images):
    model, estimator = small_model(), make_estimator("reinforce", CONFIG, num_samples=20)
    images = images.float()
    assert estimator.return_mean.isnan().all()
    with torch.no_grad():
        losses = [estimator(model, images).loss.item() for _ in range(300)]
    assert estimator.return_mean.isfinite().all()
    # The first step's return leaves out the KL of its own decision alone.
    assert abs(estimator.return_mean[0].item() + sum(losses) / 300) < 15
    before = estimator.return_mean.clone()
    estimator.eval()(model, images)
    assert estimator.return_mean.equal(before)


def test_uint8_images_are_as_good_as_float():
    model, byte = small_model(), (small_images() * 255).to(torch.uint8)
    for name in ESTIMATORS:
        estimator = make_estimator(name, CONFIG).eval()
        losses = []
        for batch in (byte, byte / 255):
            torch.manual_seed(0)
            losses.append(estimator(model, batch).total_loss)
        torch.testing.assert_close(*losses, equal_nan=True)


def test_unknown_estimator_and_bad_samples_are_refused():
    with pytest.raises(ValueError, match="Expected one of: enumerate, reinforce"):
        make_estimator("enumeration", CONFIG)
    with pytest.raises(ValueError, match="num_samples >= 1"):
        Enumerate(0)
