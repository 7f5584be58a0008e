import pytest
import torch

from air.elbo import count_tensors, elbo_parts
from air.priors import PriorNetwork
from air.schedules import Exponential
from air.types import Rollout

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
