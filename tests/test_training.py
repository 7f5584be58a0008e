"""The parts of training by which ``fit`` learns: its steps, its recipe and its pace."""

import time

import pytest
import torch

from air.config import AIRConfig
from air.fitting import choose_config
from air.recipe import continue_prob_points, likelihood_sd, recipe_for
from air.training import Pace, Training, _vary
from tests.test_object_size import squares

SMALL = {
    "lstm_size": 64,
    "predictor_hidden": (12,),
    "encoder_hidden": (12,),
    "decoder_hidden": (12,),
    "z_what_size": 3,
}


def make_training(batch_size=32, **settings):
    """One start on black images with a bright square or two of 6 or 8 pixels."""
    images = list(squares([6, 8], number=12, size=40))
    settings = SMALL | settings
    config, preparation, _ = choose_config(images, max_objects=2, say=lambda _: None, **settings)
    prepared, _ = preparation(images, config)
    torch.manual_seed(0)
    return Training(config, prepared, batch_size)


# Parts


@pytest.mark.parametrize("inference", ["residual", "paper"])
def test_steps_raise_the_bound(inference):
    training = make_training(inference=inference)
    for group in training.optimizer.param_groups:
        group["lr"] = 5e-3
    bounds = [training.step(0.5).item() for _ in range(60)]
    assert sum(bounds[-5:]) / 5 > bounds[0] + 20, bounds


def test_a_run_ends_with_a_learning_rate_of_nearly_zero():
    training, lines = make_training(), []
    model = training.run(12, None, lines.append)
    assert model is training.model
    assert not model.training
    assert training.optimizer.param_groups[0]["lr"] < 1e-4
    assert lines[-1].startswith("100 %, step 12, ")


def test_a_bound_that_is_not_finite_ends_it():
    training = make_training()
    with torch.no_grad():
        training.model.generative.decoder.mlp[-1].bias.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match=r"not finite at step 1$"):
        training.run(20, None, lambda line: None)


# The recipe


@pytest.mark.parametrize("inference", ["residual", "paper"])
@pytest.mark.parametrize("num_steps", [1, 7, 100, 3000])
def test_the_prior_goes_through_its_points_to_the_models_own(inference, num_steps):
    config = AIRConfig(inference=inference, continue_prob=0.02)
    points = continue_prob_points(config, num_steps)
    assert points[0][1] == 0
    assert points[-1][0] == 0.02
    steps = [step for _, step in points]
    assert steps == sorted(set(steps))
    schedule = recipe_for(config, num_steps).continue_prob
    for value, step in points:
        assert schedule(step) == pytest.approx(value)
    assert schedule(10 * num_steps + 100) == 0.02


def test_the_prior_is_never_sparser_than_what_it_ends_with():
    points = continue_prob_points(AIRConfig(continue_prob=1e-6), 1000)
    assert min(value for value, _ in points) == 1e-6


@pytest.mark.parametrize("num_steps", [1, 7, 100, 3000])
def test_one_object_a_picture_at_first(num_steps):
    recipe = recipe_for(AIRConfig(), num_steps)
    assert recipe.alone_until == round(0.1 * num_steps)
    # As long as an object costs little: nothing is sparse yet.
    probs = [recipe.continue_prob(step) for step in range(recipe.alone_until)]
    assert probs == pytest.approx([0.5] * recipe.alone_until)
    assert recipe_for(AIRConfig(inference="paper"), num_steps).alone_until == 0


def test_training_keeps_to_it(monkeypatch):
    limits, step = [], Training.step

    def remember(training, continue_prob, limit=None):
        limits.append(limit)
        return step(training, continue_prob, limit)

    monkeypatch.setattr(Training, "step", remember)
    make_training().run(30, None, lambda line: None)
    assert limits == [1] * 3 + [None] * 27


def test_an_error_in_all_channels_counts_once():
    assert likelihood_sd(1) == 0.3
    assert likelihood_sd(3) ** 2 == pytest.approx(3 * 0.3**2, rel=1e-2)


# Images


def test_variants_of_an_image_are_moved_and_turned():
    torch.manual_seed(0)
    images = torch.zeros(200, 1, 32, 48)
    images[:, :, 10, 20] = 1
    varied = _vary(images)
    _, _, rows, columns = varied.nonzero(as_tuple=True)
    assert len(rows) == 200
    assert set(rows.tolist()) == {*range(8, 13), *range(19, 24)}
    assert set(columns.tolist()) == {*range(17, 24), *range(24, 31)}


# Time


def test_without_a_deadline_the_pace_is_even():
    pace = Pace(7, None)
    positions = []
    while not pace.done:
        positions.append(pace.position)
        pace.advance()
    assert pace.step == 7
    assert positions == pytest.approx([i / 7 for i in range(7)])


def test_where_time_is_short_the_strides_grow(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    pace = Pace(1000, 50.0)
    while not pace.done:
        now[0] += 0.1 if pace.step < 100 else 0.2  # another program begins
        pace.advance()
    assert now[0] == pytest.approx(50, rel=0.1)
    assert pace.step < 400
    quick = Pace(1000, now[0] + 10_000)
    while not quick.done:
        now[0] += 0.1
        quick.advance()
    assert quick.step == 1000
