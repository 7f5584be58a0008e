"""The bounds, on models whose log p(x) is known."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from air.distributions import NumSteps
from air.elbo import (
    count_posterior,
    count_tensors,
    elbo_parts,
    importance_bound,
    log_ratio_latents,
    log_weights,
)
from air.types import Rollout
from tests.small import CONFIG, INFERENCE, small_images, small_model


@pytest.mark.parametrize("inference", INFERENCE)
def test_parts_add_up_to_the_sum_over_counts(inference):
    model = small_model(dtype=torch.float64, inference=inference)
    images = small_images(dtype=torch.float64)
    output = model(images, num_samples=2)
    counts, parts = output.counts, output.elbo_parts
    torch.testing.assert_close(output.elbo, (counts.log_q.exp() * counts.value).sum(-1))
    torch.testing.assert_close(
        parts.elbo,
        parts.log_likelihood - parts.kl_num_steps - parts.kl_z_where - parts.kl_z_what,
    )
    q = NumSteps(output.rollout.continue_logits)
    torch.testing.assert_close(parts.kl_num_steps, kl_divergence(q, model.prior().num_steps))


def test_steps_weigh_by_their_probability_of_being_there():
    output = small_model()(small_images())
    survival = NumSteps(output.rollout.continue_logits).log_survival.exp()
    torch.testing.assert_close(
        output.elbo_parts.kl_z_where_by_step, survival * output.counts.kl_z_where
    )
    torch.testing.assert_close(
        output.elbo_parts.kl_z_what_by_step, survival * output.counts.kl_z_what
    )


def test_inactive_steps_change_nothing():
    """With "no more" certain after the first object, later latents do not matter."""
    model, images = small_model(), small_images()
    torch.manual_seed(3)
    output = model(images)
    rollout = output.rollout
    logits = rollout.continue_logits.clone()
    logits[..., 0], logits[..., 1] = 100.0, -100.0
    fields = {**vars(rollout), "continue_logits": logits}
    later = {}
    for name in ("z_where", "z_where_mean", "z_what", "z_what_mean"):
        later[name] = fields[name].clone()
        later[name][:, :, 1:] += 1.0
    with_later = _elbo(model, images, fields | later)
    torch.testing.assert_close(_elbo(model, images, fields), with_later)
    logits[..., 1] = 0.0  # with "no more" uncertain they do
    assert (_elbo(model, images, fields) - with_later).abs().min() > 1e-3


def _elbo(model, images, fields):
    rollout = Rollout(**fields)
    objects = model.generative.render(rollout.z_where, rollout.z_what)
    log_likelihood = model.generative.log_likelihood(images, objects)
    return elbo_parts(count_tensors(rollout, log_likelihood, model.prior())).elbo


@pytest.mark.parametrize("inference", INFERENCE)
def test_analytic_kl_is_the_mean_of_the_log_ratio(inference):
    torch.manual_seed(0)
    model = small_model(dtype=torch.float64, inference=inference)
    images = small_images(2, dtype=torch.float64)
    with torch.no_grad():
        output = model(images, num_samples=10_000)
    ratio = -log_ratio_latents(output.rollout, model.prior())
    analytic = output.counts.kl_latents
    error = (ratio - analytic).std(dim=0) / math.sqrt(10_000)
    difference = (ratio.mean(dim=0) - analytic.mean(dim=0)).abs()
    assert (difference[:, 1:] < 4 * error[:, 1:]).all()


def test_importance_bound_of_known_weights():
    weights = torch.tensor([[1.0, 2.0], [3.0, 2.0], [0.0, 2.0]])
    bound = importance_bound(weights.log())
    torch.testing.assert_close(bound.log_likelihood, torch.tensor([4 / 3, 2.0]).log())
    torch.testing.assert_close(bound.ess, torch.tensor([16 / 10, 3.0]))


class LinearGenerative(torch.nn.Module):
    """Objects are linear in z_what and stay where they are: p(x | n) is a known Gaussian."""

    def __init__(self, model, seed=0):
        super().__init__()
        self.prior = model.generative.prior
        self.likelihood = model.generative.likelihood
        self.sd = model.config.likelihood_sd
        generator = torch.Generator().manual_seed(seed)
        self.pixels = math.prod(CONFIG.image_shape)
        self.size = model.config.z_what_size
        self.weight = 0.2 * torch.randn(
            self.pixels, self.size, generator=generator, dtype=torch.float64
        )

    def render(self, z_where, z_what):
        return (z_what @ self.weight.T).unflatten(-1, CONFIG.image_shape)

    def log_likelihood(self, images, objects, sd=None):
        return self.likelihood(images, objects, sd)

    def covariance(self, n):
        noise = self.sd**2 * torch.eye(self.pixels, dtype=torch.float64)
        return n * self.weight @ self.weight.T + noise

    def log_joint(self, images, num_steps):
        """log p(x, n), ``(B, T + 1)``."""
        flat = images.flatten(1)
        mean = torch.zeros(self.pixels, dtype=torch.float64)
        terms = [
            num_steps.log_probs[n] + MultivariateNormal(mean, self.covariance(n)).log_prob(flat)
            for n in range(num_steps.max_objects + 1)
        ]
        return torch.stack(terms, dim=-1)

    def log_evidence(self, images, num_steps):
        """log p(x), n summed out."""
        return self.log_joint(images, num_steps).logsumexp(dim=-1)

    def count_posterior(self, images, num_steps):
        """p(n | x)."""
        return self.log_joint(images, num_steps).softmax(dim=-1)

    def posterior(self, images):
        """p(z_what | x, n = 1), a diagonal Gaussian where the columns of ``weight`` are
        orthogonal."""
        precision = 1 + (self.weight**2).sum(dim=0) / self.sd**2
        return images.flatten(1) @ self.weight / self.sd**2 / precision, precision**-0.5


def linear_model(max_objects=2, **changes):
    changes = {"inference": "paper", **changes}  # it asks the other half for nothing
    model = small_model(dtype=torch.float64, max_objects=max_objects, **changes)
    model.generative = LinearGenerative(model)
    return model


@pytest.fixture
def images():
    return small_images(6, dtype=torch.float64) * 0.7


def test_bound_is_exact_with_the_exact_posterior(images):
    """One object at most, q = p(z | x, n = 1): every weight is p(x) itself."""
    model = linear_model(max_objects=1)
    generative = model.generative
    generative.weight = 0.4 * torch.linalg.qr(generative.weight).Q
    prior = model.prior()
    mean, sd = generative.posterior(images)
    shape = (7, 6, 1)
    z_where = prior.z_where.sample(shape)
    z_what = mean[:, None] + sd * torch.randn(*shape, generative.size, dtype=torch.float64)
    rollout = Rollout(
        continue_logits=torch.randn(shape, dtype=torch.float64),
        z_where=z_where,
        z_where_mean=prior.z_where.loc.expand_as(z_where),
        z_where_sd=prior.z_where.scale.expand_as(z_where),
        z_what=z_what,
        z_what_mean=mean[:, None].expand_as(z_what),
        z_what_sd=sd.expand_as(z_what),
        glimpses=torch.zeros(*shape, *CONFIG.glimpse_shape),
    )
    log_likelihood = generative.log_likelihood(images, generative.render(z_where, z_what))
    counts = count_tensors(rollout, log_likelihood, prior)
    weights = log_weights(rollout, counts, prior)
    expected = generative.log_evidence(images, prior.num_steps)
    torch.testing.assert_close(weights, expected.expand(7, 6))
    torch.testing.assert_close(importance_bound(weights).ess, torch.full((6,), 7.0).double())


def test_weights_are_unbiased_and_bounds_are_ordered(images):
    """ELBO <= IW(2) <= IW(100) <= log p(x), with any q."""
    torch.manual_seed(0)
    model = linear_model(likelihood_sd=1.0)
    evidence = model.generative.log_evidence(images, model.prior().num_steps)
    with torch.no_grad():
        output = model(images, num_samples=20_000)
    weights = log_weights(output.rollout, output.counts, model.prior())
    # The mean weight is p(x): within four standard errors of it.
    ratios = (weights - evidence).exp()
    error = ratios.std(dim=0) / math.sqrt(len(ratios))
    assert ((ratios.mean(dim=0) - 1).abs() < 4 * error).all()
    elbo = output.elbo.mean(dim=0)
    iw2, _ = _mean_bound(weights, 2)
    iw100, error = _mean_bound(weights, 100)
    assert (elbo < iw2).all()
    assert (iw2 < iw100).all()
    assert (iw100 < evidence + 4 * error).all()


def _mean_bound(weights, num_samples):
    """Mean of the bound over groups of samples, and its standard error."""
    groups = weights.unflatten(0, (-1, num_samples)).transpose(0, 1)
    bounds = importance_bound(groups).log_likelihood
    return bounds.mean(dim=0), bounds.std(dim=0) / math.sqrt(len(bounds))


def test_model_log_likelihood_is_the_bound_in_chunks(images):
    torch.manual_seed(0)
    model = linear_model(likelihood_sd=1.0)
    evidence = model.generative.log_evidence(images, model.prior().num_steps)
    bound = model.log_likelihood(images, 5000, samples_at_once=333)
    assert bound.num_samples == 5000
    assert ((bound.ess >= 1) & (bound.ess <= 5000)).all()
    assert (bound.log_likelihood < evidence + 0.2).all()
    assert (bound.log_likelihood > evidence - 1.0).all()


def test_count_posterior_of_known_weights():
    weights = torch.tensor([[[1.0, 2.0]], [[3.0, 2.0]], [[0.0, 4.0]]])  # three rollouts, one image
    log_q = torch.tensor([[[0.5, 0.5]], [[0.2, 0.8]], [[0.8, 0.2]]]).log()
    posterior = count_posterior(weights.log(), log_q)
    torch.testing.assert_close(posterior.probs, torch.tensor([[4 / 12, 8 / 12]]))
    torch.testing.assert_close(posterior.q_probs, torch.tensor([[0.5, 0.5]]))
    torch.testing.assert_close(posterior.ess, torch.tensor([144 / (9 + 25 + 16.0)]))
    assert posterior.num_samples == 3


def test_count_posterior_is_that_of_the_model(images):
    """p(n | x) of the linear Gaussian model is known, and q(n | x) is far from it."""
    torch.manual_seed(0)
    model = linear_model(likelihood_sd=1.0)
    expected = model.generative.count_posterior(images, model.prior().num_steps)
    posterior = model.count_posterior(images, 20_000, samples_at_once=3000)
    assert posterior.num_samples == 20_000
    assert (posterior.ess > 100).all()
    torch.testing.assert_close(posterior.probs, expected, atol=0.02, rtol=0)
    assert (posterior.q_probs - expected).abs().max() > 0.1
    torch.testing.assert_close(posterior.q_probs.sum(dim=-1), torch.ones(6).double())


def test_count_posterior_follows_the_prior(images):
    torch.manual_seed(0)
    model = linear_model(likelihood_sd=1.0)
    prior = model.prior(0.9)
    expected = model.generative.count_posterior(images, prior.num_steps)
    posterior = model.count_posterior(images, 20_000, prior, samples_at_once=3000)
    torch.testing.assert_close(posterior.probs, expected, atol=0.02, rtol=0)


def test_samples_at_once_bounds_the_rollouts_in_memory(images):
    model = linear_model()
    sizes = []
    model.inference.register_forward_hook(lambda _, args, __: sizes.append(args[2]))
    model.log_likelihood(images, 10, samples_at_once=4)
    assert sizes == [4, 4, 2]


def test_analytic_kl_would_be_no_bound(images):
    """Why the ELBO and the log weight are two things: logsumexp of ELBOs exceeds log p(x)."""
    torch.manual_seed(0)
    generative = linear_model(max_objects=1, likelihood_sd=1.0).generative
    generative.weight = torch.linalg.qr(generative.weight).Q * 3
    zeros = torch.zeros(generative.pixels, dtype=torch.float64)
    evidence = MultivariateNormal(zeros, generative.covariance(1)).log_prob(images.flatten(1))
    mean, _ = generative.posterior(images)
    q = Normal(mean, 0.3**0.5)  # wider than the posterior, sharper than the prior
    z = q.sample((20_000,))
    log_likelihood = Normal(z @ generative.weight.T, 1.0).log_prob(images.flatten(1)).sum(-1)
    p = Normal(torch.zeros_like(mean), 1.0)
    analytic = log_likelihood - kl_divergence(q, p).sum(-1)
    sampled = log_likelihood + (p.log_prob(z) - q.log_prob(z)).sum(-1)
    assert (importance_bound(analytic).log_likelihood > evidence + 0.5).all()
    torch.testing.assert_close(
        importance_bound(sampled).log_likelihood, evidence, atol=0.05, rtol=0
    )
