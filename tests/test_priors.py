import pytest
import torch

from air.elbo import count_tensors, elbo_parts
from air.estimators import ESTIMATORS, make_estimator
from air.priors import PriorNetwork
from air.schedules import Exponential
from air.types import Rollout
from tests.small import INFERENCE, small_images, small_model

SETTINGS = {
    "max_objects": 3,
    "z_what_size": 5,
    "continue_prob": 0.01,
    "z_where_mean": (3.0, 0.0, 0.0),
    "z_where_sd": (0.2, 1.0, 1.0),
}


def test_fixed():
    prior = PriorNetwork(**SETTINGS, learn_continue_prob=False)()
    torch.testing.assert_close(prior.num_steps.continue_prob, torch.tensor(0.01))
    assert prior.z_where.sample().shape == (3,)
    assert prior.z_what.sample((2,)).shape == (2, 5)
    assert (prior.z_what.loc == 0).all()
    assert (prior.z_what.scale == 1).all()


def test_annealed_by_the_caller():
    network = PriorNetwork(**SETTINGS, learn_continue_prob=False)
    schedule = Exponential(1e-9, 0.01, num_steps=100)
    for step in (0, 50, 100):
        probability = network(schedule(step)).num_steps.continue_prob
        torch.testing.assert_close(probability, torch.tensor(schedule(step)))


def test_learned():
    network = PriorNetwork(**SETTINGS, learn_continue_prob=True)
    (parameter,) = network.parameters()
    network().num_steps.log_prob(torch.tensor(2)).backward()
    assert parameter.grad > 0  # two objects were seen: one more becomes more probable
    assert not list(PriorNetwork(**SETTINGS, learn_continue_prob=False).parameters())


def test_learned_converges_to_maximum_likelihood():
    """Of a q(n) that is sure of 0, 1 and 2 objects equally often, with T = 3.

    The truncated geometric is an exponential family in n: the likelihood is largest where the
    prior's mean is the data's, here 1. With rho the probability of one more object,
    (rho + 2 rho^2 + 3 rho^3) / (1 + rho + rho^2 + rho^3) = 1, so 2 rho^3 + rho^2 = 1, whose one
    real root is 0.65730. No other count's probability enters: p(3) = 0.118 stays.
    """
    network = PriorNetwork(**SETTINGS, learn_continue_prob=True)
    sure = torch.tensor([[-30.0, 0, 0], [30, -30, 0], [30, 30, -30]])
    z_where, z_what = torch.zeros(1, 3, 3, 3), torch.zeros(1, 3, 3, 5)
    rollout = Rollout(
        continue_logits=sure[None],
        z_where=z_where,
        z_where_mean=z_where,
        z_where_sd=z_where + 1,
        z_what=z_what,
        z_what_mean=z_what,
        z_what_sd=z_what + 1,
        glimpses=torch.zeros(1, 3, 3, 1, 2, 2),
    )
    optimizer = torch.optim.Adam(network.parameters(), lr=0.1)
    for _ in range(300):
        optimizer.zero_grad()
        counts = count_tensors(rollout, torch.zeros(1, 3, 4), network())
        (-elbo_parts(counts).elbo.mean()).backward()
        optimizer.step()
    torch.testing.assert_close(network.continue_prob, torch.tensor(0.65730), atol=1e-4, rtol=0)
    torch.testing.assert_close(network().num_steps.mean, torch.tensor(1.0), atol=1e-3, rtol=0)


@pytest.mark.parametrize("value", [0.0, -0.1, 1.1])
def test_bad_probability_is_refused(value):
    with pytest.raises(ValueError, match="continue_prob"):
        PriorNetwork(**SETTINGS, learn_continue_prob=False)(value)


# A limit on q(n)


@pytest.mark.parametrize("inference", INFERENCE)
@pytest.mark.parametrize("limit", [0, 1, 2])
def test_no_more_objects_are_found_than_the_limit(inference, limit):
    model, images = small_model(inference=inference), small_images()
    free, limited = model(images), model(images, model.prior(limit=limit))
    assert limited.counts.log_q.shape == free.counts.log_q.shape
    count_probs = limited.count_probs
    assert count_probs[..., limit + 1 :].max() < 1e-12
    assert free.count_probs[..., limit + 1 :].min() > 1e-4
    torch.testing.assert_close(count_probs.sum(dim=-1), torch.ones_like(count_probs[..., 0]))
    # p(n) is what it was: the bound is one of the same log p(x).
    torch.testing.assert_close(limited.counts.log_p, free.counts.log_p)
    assert limited.elbo.isfinite().all()


@pytest.mark.parametrize("limit", [3, 4])
def test_a_limit_that_is_not_below_the_most_objects_changes_nothing(limit):
    model, images = small_model(), small_images()
    outputs = []
    for prior in (model.prior(), model.prior(limit=limit), model.prior(limit=torch.tensor(3.0))):
        torch.manual_seed(0)
        outputs.append(model(images, prior).elbo)
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])


def test_gradients_reach_the_steps_up_to_the_limit_only():
    model, images = small_model(), small_images()
    logits = []
    network = model.inference.presence
    network.register_forward_hook(lambda *arguments: logits.append(arguments[2]))
    (-model(images, model.prior(0.5, limit=2)).elbo.mean()).backward(inputs=logits)
    assert [logit.grad is not None and bool((logit.grad != 0).all()) for logit in logits] == [
        True,
        True,
        False,
    ]


@pytest.mark.parametrize("estimator", sorted(ESTIMATORS))
def test_every_estimator_keeps_to_the_limit(estimator):
    model, images = small_model(), small_images()
    estimator = make_estimator(estimator, model.config, num_samples=2)
    objective = estimator(model, images, model.prior(0.5, limit=1))
    assert objective.output.count_probs[..., 2:].max() < 1e-12
    objective.total_loss.backward()
    grads = [p.grad for p in model.inference.parameters() if p.grad is not None]
    assert grads
    assert all(grad.isfinite().all() for grad in grads)
