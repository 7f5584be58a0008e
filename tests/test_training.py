"""The parts of training by which ``fit`` learns: collages, counts held, counts summed out."""

import dataclasses
import math
import time

import pytest
import torch
from air.collages import CollageMaker
from air.guidance import _kl_of_scale, _missed
from torch.distributions import Normal

from air.config import AIRConfig
from air.fitting import choose_config
from air.priors import Prior
from air.training import (
    Pace,
    Training,
    _bound_as_counted,
    _vary,
    sparse_prob,
)
from air.types import CountTensors, Rollout
from tests.test_object_size import squares

SMALL = {
    "lstm_size": 64,
    "predictor_hidden": (12,),
    "encoder_hidden": (12,),
    "decoder_hidden": (12,),
    "z_what_size": 3,
    "image_channels": (2, 2),
}


def make_training(batch_size=32):
    """One start on black images with a bright square or two of 6 or 8 pixels; and the maker."""
    images = list(squares([6, 8], number=12, size=40))
    config, preparation, size = choose_config(images, max_objects=2, say=lambda _: None, **SMALL)
    prepared, _ = preparation(images, config)
    torch.manual_seed(0)
    maker = CollageMaker(prepared, size, max_objects=2, scale=config.z_where_mean[0])
    return Training(config, prepared, maker, batch_size), maker


# Parts


def test_collages_teach_counts_and_positions():
    training, maker = make_training()
    collage = maker(100)

    def right():
        reading = training.model.infer(collage.images)
        return (reading.counts == collage.num_objects).float().mean().item()

    before = right()
    for group in training.optimizer.param_groups:
        group["lr"] = 5e-3
    for _ in range(150):
        training.guided_step()
    assert right() > max(before, 0.34) + 0.2


@pytest.mark.parametrize("counted", [True, False])
def test_where_counts_are_held_images_do_not_teach_them(counted):
    training, _ = make_training()
    last = training.model.inference.predictor.mlp[-1]
    with torch.no_grad():
        last.bias[0] = 2.0  # sees something
    before = last.bias.detach().clone()
    training.own_step(0.01, 0.0, counted=counted)
    moved = (last.bias.detach() - before).abs()
    # The first output is the logit of one more object, the others are of z_where.
    assert (moved[0].item() == 0) is counted
    assert moved[1:].max() > 0


@pytest.mark.parametrize("counted", [True, False])
def test_images_raise_the_bound(counted):
    training, _ = make_training()
    with torch.no_grad():
        training.model.inference.predictor.mlp[-1].bias[0] = 2.0
    for group in training.optimizer.param_groups:
        group["lr"] = 5e-3
    bounds = [training.own_step(0.5, 0.0, counted=counted).item() for _ in range(60)]
    assert sum(bounds[-5:]) / 5 > bounds[0] + 20, bounds


def test_positions_are_those_at_the_scale_that_the_model_sees():
    centres = torch.tensor([[[-0.5, 0.25], [0.3, 0.0]]])

    def missed(scale, offset=0.0):
        own = torch.full((1, 2, 1), scale)
        rollout = Rollout(
            **dict.fromkeys([field.name for field in dataclasses.fields(Rollout)])
            | {
                "continue_logits": torch.zeros(1, 1, 2),
                "z_where_mean": torch.cat([own, -(centres + offset) * scale], dim=-1)[None],
                "z_where_sd": torch.ones(1, 1, 2, 3),
            }
        )
        truth = torch.cat([torch.full((1, 2, 1), 4.0), -centres * 4.0], dim=-1)
        return _missed(rollout, torch.tensor([2]), truth).item()

    best = math.log(4) + 4 * 0.5 * math.log(2 * math.pi)
    assert missed(4.0) == pytest.approx(best)
    assert missed(3.0) == pytest.approx(best)
    assert missed(3.0, offset=0.1) == pytest.approx(best + 4 * 0.5 * 0.3**2)


def test_scales_are_kept_to_their_prior():
    prior = Prior(
        num_steps=None,
        z_where=Normal(torch.tensor([3.0, 0.0, 0.0]), torch.tensor([0.2, 1.0, 1.0])),
        z_what=None,
    )

    def kl(mean, count):
        means = torch.full((1, 1, 2, 3), 9.0)
        means[..., 0] = mean
        rollout = Rollout(
            **dict.fromkeys([field.name for field in dataclasses.fields(Rollout)])
            | {"z_where_mean": means, "z_where_sd": torch.full((1, 1, 2, 3), 0.2)}
        )
        return _kl_of_scale(rollout, torch.tensor([count]), prior).item()

    assert kl(3.0, 2) == 0
    assert kl(3.4, 2) == pytest.approx(4.0, rel=1e-4)  # twice half of (0.4 / 0.2)^2
    assert kl(3.4, 1) == pytest.approx(2.0, rel=1e-4)
    assert kl(3.4, 0) == 0


def test_the_bound_as_counted_has_no_terms_of_the_count():
    counts = CountTensors(
        log_q=torch.tensor([[[0.1, 0.2, 0.7], [0.6, 0.3, 0.1]]]).log(),
        log_p=torch.tensor([0.5, 0.3, 0.2]).log(),
        log_likelihood=torch.tensor([[[1.0, 2.0, 30.0], [4.0, 50.0, 60.0]]]),
        kl_z_where=torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]),
        kl_z_what=torch.tensor([[[0.5, 0.5], [0.5, 0.5]]]),
    )
    assert _bound_as_counted(counts).tolist() == [[26.0, 4.0]]


def test_the_sparse_prior_is_worth_a_quarter_of_an_object():
    training, maker = make_training()
    config = training.model.config
    # The smaller squares have 36 white pixels: 36 / (2 * 0.3**2) = 200 nats.
    assert math.log(sparse_prob(maker, config)) == pytest.approx(-50, rel=0.01)
    maker.patches *= 0.1
    assert sparse_prob(maker, config) == pytest.approx(config.continue_prob)
    maker.patches *= 100
    assert sparse_prob(maker, AIRConfig(likelihood="bernoulli")) == 1e-30


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
