"""Learning from collages."""

import copy
import dataclasses
import math

import pytest
import torch

from air import AIR, AIRConfig
from air.collages import CollageMaker
from air.guidance import learn_from_collages
from air.object_size import estimate_object_size
from tests.test_object_size import squares

CONFIG = AIRConfig(
    canvas_size=(64, 64),
    glimpse_size=(8, 8),
    max_objects=2,
    z_what_size=3,
    z_where_mean=(4.0, 0.0, 0.0),
    z_where_sd=(0.3, 1.7, 1.7),
    lstm_size=64,
)


@pytest.fixture(scope="module")
def maker():
    images = (squares([5, 9], value=0.8) * 255).to(torch.uint8)
    return CollageMaker(images, estimate_object_size(images), max_objects=2, scale=4.0)


def test_a_model_learns_to_count_and_to_render(maker):
    torch.manual_seed(0)
    model = AIR(CONFIG)
    collage = maker(300)

    def judge():
        right = (model.infer(collage.images).counts == collage.num_objects).double().mean().item()
        return right, model(collage.images).elbo.mean().item()

    before = judge()
    assert list(learn_from_collages(model, maker, 150, batch_size=32)) == list(range(1, 151))
    after = judge()
    assert after[0] > 0.7 > 0.5 > before[0]
    assert after[1] > before[1] + 10


def test_one_step_at_most_has_no_recurrence():
    images = squares([5, 9], value=0.8)
    maker = CollageMaker(images, estimate_object_size(images), max_objects=1, scale=4.0)
    model = AIR(dataclasses.replace(CONFIG, max_objects=1))
    assert list(learn_from_collages(model, maker, 1, batch_size=4)) == [1]


def test_a_gradient_that_is_not_finite_never_reaches_the_weights(maker):
    model = AIR(CONFIG)
    with torch.no_grad():
        next(model.generative.decoder.parameters()).view(-1)[0] = math.inf
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(FloatingPointError, match="not finite at step 1 of collages"):
        list(learn_from_collages(model, maker, 2, batch_size=4))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_gradients_are_made_shorter_on_demand(maker, monkeypatch):
    norms = []
    step = torch.optim.Adam.step

    def look_and_step(self):
        grads = [
            p.grad for group in self.param_groups for p in group["params"] if p.grad is not None
        ]
        norms.append(torch.nn.utils.get_total_norm(grads).item())
        step(self)

    monkeypatch.setattr(torch.optim.Adam, "step", look_and_step)
    list(learn_from_collages(AIR(CONFIG), maker, 1, batch_size=4))
    list(learn_from_collages(AIR(CONFIG), maker, 1, batch_size=4, max_grad_norm=0.5))
    assert norms[0] > 1
    assert norms[1] == pytest.approx(0.5, rel=1e-3)


def test_it_takes_a_step_when_asked_and_repeats(maker):
    torch.manual_seed(0)
    model = AIR(CONFIG)
    other = copy.deepcopy(model)
    steps = learn_from_collages(model, maker, 2, batch_size=4)
    assert all(map(torch.equal, model.parameters(), other.parameters()))
    for learner in (model, other):
        torch.manual_seed(1)
        list(steps if learner is model else learn_from_collages(learner, maker, 2, batch_size=4))
    assert all(map(torch.equal, model.parameters(), other.parameters()))
