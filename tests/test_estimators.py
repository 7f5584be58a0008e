"""The estimators' gradients, against the exact one."""

import dataclasses
import itertools
import math

import pytest
import torch

import air.estimators
from air.distributions import NumSteps
from air.elbo import log_ratio_latents
from air.estimators import (
    ESTIMATORS,
    Batch,
    Concrete,
    Enumerate,
    Reinforce,
    Rloo,
    Vimco,
    make_estimator,
)
from air.score_function import Chain
from tests.small import CONFIG, INFERENCE, small_images, small_model

SCORE_FUNCTION = {
    "reinforce": {},
    "reinforce without baseline": {"baseline": "none"},
    "reinforce with the mean": {"baseline": "mean"},
    "reinforce with the network": {"baseline": "mlp"},
    "rloo": {"num_samples": 3},
    "rloo of counts": {"num_samples": 4, "share_rollout": True},
}
"""Estimators of the ELBO's gradient that draw a count, with their options."""


@pytest.fixture(scope="module", params=INFERENCE)
def model(request):
    return small_model(dtype=torch.float64, inference=request.param)


@pytest.fixture(scope="module")
def images():
    return small_images(3, dtype=torch.float64)


def make(name, **options):
    """An estimator in float64, whose running statistics stay as they are."""
    torch.manual_seed(0)
    options = SCORE_FUNCTION.get(name, {}) | options
    estimator = make_estimator(name.split()[0], CONFIG, **options).double().eval()
    if isinstance(estimator, Reinforce):  # a baseline that has learned something
        estimator.return_mean.fill_(-150.0)
        estimator.return_sd.fill_(20.0)
    return estimator


def repeat(output, number):
    """The same batch ``number`` times over: of the same rollouts, only the counts will differ."""

    def repeated(value):
        if dataclasses.is_dataclass(value):
            fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
            return type(value)(**{name: repeated(item) for name, item in fields.items()})
        if value.dim() < 2:  # log p(n) is one for all
            return value
        return value.repeat(1, number, *[1] * (value.dim() - 2))

    return repeated(output)


def objective(estimator, output, model, images):
    """The estimator's objective on an output that is there already."""
    images = images.repeat(output.elbo.shape[1] // len(images), 1, 1, 1)
    return estimator.objective(output, Batch(model=model, images=images, prior=model.prior()))


def gradient(loss, model):
    """Gradient of a loss by parameter group, each flattened."""
    grads = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
    groups = {}
    for (name, _), grad in zip(model.named_parameters(), grads, strict=True):
        groups.setdefault(".".join(name.split(".")[:2]), []).append(grad.flatten())
    return {group: torch.cat(parts) for group, parts in groups.items()}


def exact_loss(estimator, output, model):
    """What the estimator's loss is on average over counts, by summing over all of them."""
    if not isinstance(estimator, Vimco):
        return -output.elbo.mean()
    counts = output.counts
    log_weights = (
        counts.log_likelihood
        + counts.log_p
        + log_ratio_latents(output.rollout, model.prior())
        - counts.log_q
    )
    bound = 0.0
    for first, second in itertools.product(range(4), repeat=2):  # two rollouts, four counts
        pair = torch.stack([log_weights[0, :, first], log_weights[1, :, second]])
        probability = (counts.log_q[0, :, first] + counts.log_q[1, :, second]).exp()
        bound = bound + probability * (pair.logsumexp(dim=0) - math.log(2))
    return -bound.mean()


def z_scores(estimator, model, images, blocks=40, draws=200):
    """How many standard errors the mean gradient is off the exact one, by parameter group.

    The rollouts are the same in all draws: the count alone is random, and the exact gradient is
    that of the sum over counts. Each group is projected on some directions, its exact gradient's
    among them, so that a large group cannot hide a fault in few of its parameters.
    """
    torch.manual_seed(7)
    output = model(images, num_samples=estimator.num_rollouts)
    exact = gradient(exact_loss(estimator, output, model), model)
    directions = {
        group: torch.stack([grad / grad.norm(), *torch.randn(2, len(grad), dtype=grad.dtype)])
        for group, grad in exact.items()
    }
    many = repeat(output, draws)
    samples = {group: [] for group in exact}
    for _ in range(blocks):
        loss = objective(estimator, many, model, images).loss
        for group, grad in gradient(loss, model).items():
            samples[group].append(directions[group] @ grad)
    scores = {}
    for group, values in samples.items():
        stacked, expected = torch.stack(values), directions[group] @ exact[group]
        # An exact estimator has no error but rounding.
        error = stacked.std(dim=0) / blocks**0.5 + 1e-9 * (1 + expected.abs())
        scores[group] = ((stacked.mean(dim=0) - expected).abs() / error).max().item()
    return scores


@pytest.mark.parametrize("name", ["enumerate", "vimco", *SCORE_FUNCTION])
def test_mean_gradient_is_the_exact_one(name, model, images):
    options = {"num_samples": 2} if name == "vimco" else {}
    scores = z_scores(make(name, **options), model, images)
    parts = {
        "paper": {"inference.lstm", "inference.predictor"},
        "residual": {"inference.look", "inference.pose", "inference.presence"},
    }[model.config.inference]
    assert set(scores) == parts | {"inference.encoder", "generative.decoder"}
    assert max(scores.values()) < 4, scores


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
@pytest.mark.parametrize("name", ["reinforce", "rloo", "vimco"])
def test_a_broken_estimator_is_found_out(name, broken, model, images, monkeypatch):
    monkeypatch.setattr(air.estimators, "surrogate", broken)
    options = {"num_samples": 2} if name == "vimco" else {}
    assert max(z_scores(make(name, **options), model, images).values()) > 6


def mean_loss(estimator, output, model, images, blocks=40, draws=200):
    """Mean of the loss over draws of the counts, and its standard error."""
    many = repeat(output, draws)
    with torch.no_grad():
        losses = torch.stack(
            [objective(estimator, many, model, images).loss for _ in range(blocks)]
        )
    return losses.mean(), losses.std() / blocks**0.5


def test_vimco_without_its_log_k_is_found_out(model, images, monkeypatch):
    monkeypatch.setattr(air.estimators, "log_mean_exp", lambda w: w.logsumexp(dim=0))
    torch.manual_seed(7)
    estimator = make("vimco", num_samples=2)
    output = model(images, num_samples=2)
    mean, error = mean_loss(estimator, output, model, images)
    assert (mean - exact_loss(estimator, output, model)).abs() > 4 * error


@pytest.mark.parametrize("name", ["enumerate", "nvil", "vimco", "concrete-st", *SCORE_FUNCTION])
def test_value_is_minus_the_bound(name, model, images):
    """On average over counts: the exact bound of the same rollouts."""
    estimator = make(name, **({"num_samples": 2} if name == "vimco" else {}))
    output = model(images, num_samples=estimator.num_rollouts)
    mean, error = mean_loss(estimator, output, model, images)
    assert (mean - exact_loss(estimator, output, model)).abs() < 4 * error + 1e-9


def test_baseline_changes_the_variance_and_not_the_mean(model, images):
    good, bad = make("reinforce"), make("reinforce")
    bad.return_mean.fill_(1000.0)
    inference = model.inference
    paper = model.config.inference == "paper"
    logit_bias = (inference.predictor.mlp if paper else inference.presence)[-1].bias
    many = repeat(model(images), 50)

    def draws(estimator):
        losses = (objective(estimator, many, model, images).loss for _ in range(60))
        grads = [torch.autograd.grad(loss, logit_bias, retain_graph=True)[0] for loss in losses]
        return torch.stack(grads)[:, 0]

    with_good, with_bad = draws(good), draws(bad)
    assert with_good.var() < with_bad.var() / 10
    error = (with_good.var() / 60 + with_bad.var() / 60).sqrt()
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
        chain = Chain(q, torch.full((1, 3), n), output.counts)
        total = total + q.probs[..., n] * chain.value
    torch.testing.assert_close(total, output.elbo)


def test_cost_to_go_is_what_is_still_to_decide(model, images):
    output = model(images)
    counts = output.counts
    chain = Chain(NumSteps(output.rollout.continue_logits), torch.full((1, 3), 1), counts)
    assert chain.reached[0].tolist() == [[1.0, 1.0, 0.0]] * 3
    first = counts.log_likelihood[..., 1] - counts.kl_latents[..., 1]
    # At step 2 the first object is history, and its KL no longer to pay.
    torch.testing.assert_close(chain.cost_to_go[..., 1], counts.log_likelihood[..., 1])
    # At step 1 the KL of the second decision is still to come.
    assert (chain.cost_to_go[..., 0] < first).all()


def test_running_statistics_follow_the_returns(images):
    model, estimator = small_model(), make_estimator("reinforce", CONFIG, num_samples=4)
    images = images.float()
    assert estimator.return_mean.isnan().all()
    with torch.no_grad():
        losses = [estimator(model, images).loss.item() for _ in range(200)]
    assert estimator.return_mean.isfinite().all()
    # The first step's return leaves out the KL of its own decision alone.
    assert abs(estimator.return_mean[0].item() + sum(losses) / 200) < 15
    before = estimator.return_mean.clone()
    estimator.eval()(model, images)
    assert estimator.return_mean.equal(before)


def test_uint8_images_are_as_good_as_float():
    model, byte = small_model(), (small_images() * 255).to(torch.uint8)
    for name in ESTIMATORS:
        estimator = make_estimator(name, CONFIG, num_samples=2).eval()
        losses = []
        for batch in (byte, byte / 255):
            torch.manual_seed(0)
            losses.append(estimator(model, batch).total_loss)
        torch.testing.assert_close(*losses, equal_nan=True)


def same_draw(estimator, output, model, images):
    torch.manual_seed(11)
    return objective(estimator, output, model, images).loss


def test_rloo_is_reinforce_with_the_mean_of_the_others(model, images):
    output = model(images, num_samples=3)
    loss = same_draw(make("rloo"), output, model, images)
    torch.manual_seed(11)
    num_steps = NumSteps(output.rollout.continue_logits)
    n = num_steps.sample()
    value = Chain(num_steps, n, output.counts).value
    others = torch.stack([value[[1, 2]], value[[0, 2]], value[[0, 1]]]).mean(dim=1)
    by_hand = -(value + (value - others).detach() * num_steps.log_prob(n)).mean()
    for ours, expected in zip(
        gradient(loss, model).values(), gradient(by_hand, model).values(), strict=True
    ):
        torch.testing.assert_close(ours, expected)


def test_vimco_of_two_by_hand(model, images):
    output = model(images, num_samples=2)
    loss = same_draw(make("vimco", num_samples=2), output, model, images)
    torch.manual_seed(11)
    num_steps = NumSteps(output.rollout.continue_logits)
    n = num_steps.sample()
    joint = output.counts.log_likelihood + output.counts.log_p
    joint = joint + log_ratio_latents(output.rollout, model.prior())
    log_q = num_steps.log_prob(n)
    log_w = joint.gather(-1, n.unsqueeze(-1)).squeeze(-1) - log_q
    bound = (log_w.exp().sum(dim=0) / 2).log()
    # Without the first weight the second stands alone, and so does the bound.
    signal = torch.stack([bound - log_w[1], bound - log_w[0]]).detach()
    by_hand = -(bound + (signal * log_q).sum(dim=0)).mean()
    torch.testing.assert_close(loss, -bound.mean())
    for ours, expected in zip(
        gradient(loss, model).values(), gradient(by_hand, model).values(), strict=True
    ):
        torch.testing.assert_close(ours, expected)


def test_nvil_is_reinforce_while_its_statistics_are_neutral(model, images):
    output = model(images)
    nvil, reinforce = make("nvil"), make("reinforce")
    reinforce.baseline.load_state_dict(nvil.baseline.state_dict())
    neutral = gradient(same_draw(nvil, output, model, images), model)
    plain = gradient(same_draw(reinforce, output, model, images), model)
    for group in plain:
        torch.testing.assert_close(neutral[group], plain[group])
    nvil.signal_sd.fill_(5.0)
    scaled = gradient(same_draw(nvil, output, model, images), model)
    part = "predictor" if model.config.inference == "paper" else "presence"
    assert not torch.allclose(scaled[f"inference.{part}"], plain[f"inference.{part}"])
    if model.config.inference == "paper":  # the other's q(n) sees what the decoder draws
        torch.testing.assert_close(scaled["generative.decoder"], plain["generative.decoder"])


def test_nvil_divides_all_of_the_counts_gradient(model, images):
    """The KL of n as well as the score: divided alone, the score would be too little against it."""
    nvil, draws = make("nvil"), 3000
    nvil.signal_sd.fill_(5.0)
    output = model(images, model.prior(1e-12))  # such that the KL matters
    logits = output.rollout.continue_logits
    (exact,) = torch.autograd.grad(exact_loss(nvil, output, model), logits, retain_graph=True)
    many = repeat(output, draws)
    torch.manual_seed(3)
    loss = objective(nvil, many, model, images).loss
    (grad,) = torch.autograd.grad(loss, many.rollout.continue_logits)
    grad = draws * grad.unflatten(1, (draws, len(images)))[0]
    error = grad.std(dim=0) / math.sqrt(draws)
    assert ((grad.mean(dim=0) - exact[0] / 5).abs() < 4 * error).all()
    assert ((grad.mean(dim=0) - exact[0]).abs() > 4 * error).any()


def test_nvil_statistics_follow_the_signal(images):
    estimator = make_estimator("nvil", CONFIG, num_samples=20)
    with torch.no_grad():
        for _ in range(200):
            estimator(small_model(), images.float())
    assert estimator.signal_sd > 2
    assert estimator.signal_mean != 0


def test_iw_enumerate_trains_the_count_on_its_posterior(model, images):
    estimator = make("iw-enumerate", num_samples=2)
    output = model(images, num_samples=2)
    loss = objective(estimator, output, model, images).loss
    joint = output.counts.log_likelihood + output.counts.log_p
    joint = joint + log_ratio_latents(output.rollout, model.prior())
    bound = joint.exp().sum(dim=(0, -1)).log() - math.log(2)
    torch.testing.assert_close(loss, -bound.mean())
    # The bound itself says nothing of q(n): its term has the posterior as gradient.
    (grad,) = torch.autograd.grad(loss, output.counts.log_q, retain_graph=True)
    posterior = joint.exp() / joint.exp().sum(dim=(0, -1), keepdim=True)
    torch.testing.assert_close(grad, -posterior / len(images))
    assert torch.autograd.grad(bound.sum(), output.counts.log_q, allow_unused=True) == (None,)


@pytest.mark.parametrize("name", ["rws", "rws-exact"])
def test_rws_passes_no_gradient_through_a_draw(name, images):
    model = small_model(dtype=torch.float64)
    output = model(images, num_samples=2, detach_samples=True)
    assert not output.rollout.z_what.requires_grad
    assert not output.rollout.z_where.requires_grad
    loss = objective(make(name, num_samples=2), output, model, images).loss
    assert all(grad.abs().sum() > 0 for grad in gradient(loss, model).values())


def test_rws_with_exact_counts_by_hand(images):
    """One rollout: both halves are weighed by p(n | x, z)."""
    model = small_model(dtype=torch.float64)
    output = model(images, detach_samples=True)
    loss = objective(make("rws-exact"), output, model, images).loss
    counts, rollout = output.counts, output.rollout
    ratio = log_ratio_latents(rollout, model.prior())
    posterior = (counts.log_likelihood + counts.log_p + ratio).softmax(dim=-1).detach()
    log_q_z = -ratio  # the prior's part is constant
    wake = counts.log_likelihood + counts.log_q + log_q_z
    by_hand = -(posterior * wake).sum(dim=-1).mean()
    for ours, expected in zip(
        gradient(loss, model).values(), gradient(by_hand, model).values(), strict=True
    ):
        torch.testing.assert_close(ours, expected)


def test_concrete_becomes_hard_as_it_cools(model, images):
    torch.manual_seed(0)
    output = model(images, num_samples=500)
    with torch.no_grad():
        warm, cold, hard = (
            objective(make(name, temperature=t), output, model, images).loss
            for name, t in [("concrete", 1.0), ("concrete", 1e-3), ("concrete-st", 1.0)]
        )
    assert abs(cold - hard) < abs(warm - hard)
    assert abs(hard + output.elbo.mean()) < 0.05 * abs(hard)


@pytest.mark.parametrize("name", ["rloo", "vimco"])
def test_one_sample_is_too_few(name):
    with pytest.raises(ValueError, match=rf"{name} needs num_samples >= 2, got 1.*--num-samples"):
        make_estimator(name, CONFIG, 1)


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match="Expected one of: none, mean, mlp, all"):
        Reinforce(CONFIG, baseline="lstm")
    with pytest.raises(ValueError, match="temperature"):
        Concrete(CONFIG, temperature=0.0)
    assert Rloo(CONFIG).num_samples == 2


def test_unknown_estimator_and_bad_samples_are_refused():
    with pytest.raises(ValueError, match=r"Expected one of: .*enumerate.*reinforce"):
        make_estimator("enumeration", CONFIG)
    with pytest.raises(ValueError, match="num_samples >= 1"):
        Enumerate(CONFIG, 0)
