import pytest
import torch

from air.priors import PriorNetwork
from air.schedules import Exponential

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


@pytest.mark.parametrize("value", [0.0, -0.1, 1.1])
def test_bad_probability_is_refused(value):
    with pytest.raises(ValueError, match="continue_prob"):
        PriorNetwork(**SETTINGS, learn_continue_prob=False)(value)
