"""The network that looks where the image is not explained yet."""

import math

import pytest
import torch

from air import AIR, AIRConfig
from air.elbo import log_ratio_latents
from air.estimators import ESTIMATORS, make_estimator
from air.generative import Canvas
from tests.small import CONFIG, small_images, small_model, unroll

SIDE = 48


def large_model(**changes):
    """A model with random weights on a canvas of 48 x 48, whose saliency has cells of 2 pixels."""
    torch.manual_seed(0)
    sizes = {"canvas_size": (SIDE, SIDE), "glimpse_size": (12, 12), "z_what_size": 4}
    return AIR(AIRConfig(**(sizes | changes))).eval()


def square(left, top, side=10, value=1.0):
    """One bright square on black, ``(1, 1, 48, 48)``."""
    images = torch.zeros(1, 1, SIDE, SIDE)
    images[..., top : top + side, left : left + side] = value
    return images


def canvas_of(model):
    return Canvas(model.generative)


def test_it_is_the_default():
    assert AIRConfig().inference == "residual"
    assert type(AIR().inference).__name__ == "ResidualInference"


def test_shapes_of_its_parts():
    model, images = small_model(num_candidates=4).eval(), small_images()
    network, seen = model.inference, images.expand(2, *images.shape)
    places = network.candidates(seen)
    assert places.shape == (2, 5, 4, 3)
    assert (places[..., 0] == CONFIG.z_where_mean[0]).all()
    assert (places[..., 1:].abs() <= 1).all()
    pair = torch.cat([seen, seen], dim=2)
    features, mean, sd = network.look_at(pair, places)
    assert features.shape == (2, 5, 4, 128)
    assert mean.shape == sd.shape == (2, 5, 4, 3)
    place, worth = network.choose(pair, model.prior(), canvas_of(model))
    assert (place.shape, worth.shape) == ((2, 5, 3), (2, 5, 3))


def test_without_a_renderer_it_says_so():
    with pytest.raises(ValueError, match="give a renderer"):
        unroll(small_model(), small_images(), renderer=None)


@pytest.mark.parametrize(("right", "down"), [(1, 0), (0, 1), (3, -2)])
def test_an_object_that_moves_by_a_cell_is_found_as_far_away(right, down):
    model = large_model(num_candidates=1)
    stride = model.inference.stride
    assert stride == 2
    first, moved = (
        unroll(model, square(16 + stride * i * right, 18 + stride * i * down), use_means=True)
        for i in range(2)
    )
    scale = first.z_where[0, 0, 0, 0]
    shift = torch.tensor([right, down]) * stride * 2 / SIDE
    change = moved.z_where[0, 0, 0] - first.z_where[0, 0, 0]
    torch.testing.assert_close(change[0], torch.tensor(0.0), atol=1e-4, rtol=0)
    torch.testing.assert_close(change[1:], -scale * shift, atol=1e-3, rtol=0)
    torch.testing.assert_close(moved.z_what[0, 0, 0], first.z_what[0, 0, 0], atol=1e-3, rtol=1e-3)


# Candidates


def test_candidates_are_the_highest_of_the_local_maxima():
    model = large_model(num_candidates=3)
    images = square(6, 6, value=0.4) + square(30, 8) + square(14, 32, value=0.7)
    network = model.inference
    saliency = network.saliency(images)[0, 0]
    peaks = []
    for row in range(saliency.shape[0]):  # once more, cell by cell
        for column in range(saliency.shape[1]):
            near = saliency[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
            if saliency[row, column] > 0 and saliency[row, column] == near.max():
                peaks.append((saliency[row, column].item(), column, row))
    peaks = sorted(peaks, reverse=True)
    expected = [[(x + 0.5) * 2 * network.stride / SIDE - 1 for x in cell] for _, *cell in peaks[:3]]
    found = network.candidates(images)[0, :, 1:]
    torch.testing.assert_close(found, torch.tensor(expected))
    # In the middle of each square, to a cell: the brightest first.
    middles = (torch.tensor([[35.0, 13], [19, 37], [11, 11]]) * 2 / SIDE) - 1
    assert (found - middles).abs().max() <= 2 * network.stride * 2 / SIDE


def test_where_there_are_too_few_maxima_there_are_other_places():
    network = large_model(num_candidates=6).inference
    found = network.candidates(square(20, 20))[0]
    assert len({tuple(place) for place in found.tolist()}) == 6
    assert network.candidates(torch.zeros(1, 1, SIDE, SIDE)).shape == (1, 6, 3)


def test_there_are_never_more_candidates_than_cells():
    network = small_model(num_candidates=1000).eval().inference
    cells = network.saliency(small_images()).flatten(1).shape[1]
    assert network.candidates(small_images()).shape == (5, cells, 3)


def test_what_is_explained_too_brightly_is_no_candidate():
    network = large_model(num_candidates=1).inference
    residual = square(8, 8, value=0.3) - square(30, 30, value=5.0)
    centre = network.candidates(residual)[0, 0, 1:]
    assert (centre < 0).all()


def test_fewer_candidates_are_compared_while_training():
    network = large_model(num_candidates=9, train_candidates=2).inference
    images = square(6, 6, value=0.4) + square(30, 8) + square(14, 32, value=0.7)
    reading = network.candidates(images)
    training = network.train().candidates(images)
    assert (reading.shape, training.shape) == ((1, 9, 3), (1, 2, 3))
    torch.testing.assert_close(training, reading[:, :2])  # the highest
    config = AIRConfig()
    assert config.train_candidates < config.num_candidates


# Two sizes


def scales_of(mean, sd):
    return large_model(z_where_mean=(mean, 0.0, 0.0), z_where_sd=(sd, 1.0, 1.0)).inference.scales


@pytest.mark.parametrize("mean", [2.0, 4.0])
def test_there_are_windows_of_two_sizes_where_objects_differ_in_size(mean):
    assert scales_of(mean, 0.119 * mean) == (mean,)
    for share in (0.125, 0.3):
        expected = ((1 - share) * mean, (1 + share) * mean)
        assert scales_of(mean, share * mean) == pytest.approx(expected)


def test_both_sizes_are_above_nothing_under_any_prior():
    for mean, sd in ((0.2, 0.2), (3.0, 30.0)):
        scales = scales_of(mean, sd)
        assert scales == pytest.approx((mean / 2, mean + sd))


def test_each_size_has_its_own_saliency_and_its_share_of_the_candidates():
    sizes = {"z_where_mean": (4.0, 0.0, 0.0), "z_where_sd": (2.0, 1.0, 1.0)}
    network = large_model(num_candidates=5, **sizes).inference
    assert network.scales == (2.0, 6.0)  # objects of 24 and of 8 pixels
    images = square(2, 2, side=24, value=0.5) + square(36, 36, side=8)
    assert network.saliency(images).shape[:2] == (1, 2)
    places = network.candidates(images)[0]
    assert places[:, 0].tolist() == [2.0] * 3 + [6.0] * 3  # half of five each, rounded up
    large, small = places[0, 1:], places[3, 1:]
    tolerance = 2 * network.stride * 2 / SIDE
    assert (large - (14 * 2 / SIDE - 1)).abs().max() <= tolerance
    assert (small - (40 * 2 / SIDE - 1)).abs().max() <= tolerance


def test_scales_of_two_sizes_stay_within_the_same_bounds():
    model = small_model(z_where_mean=(3.0, 0.0, 0.0), z_where_sd=(0.6, 1.0, 1.0))
    most = 3.0 + model.inference.max_scale * 0.6
    assert len(model.inference.scales) == 2
    for bias, scales in ((1e4, (most - 1.2, most)), (-1e4, (6.0 - most, 7.2 - most))):
        with torch.no_grad():
            model.inference.pose.bias.fill_(bias)
        found = unroll(model, small_images()).z_where_mean[..., :1]
        assert (found - torch.tensor(scales)).abs().amin(dim=-1).max() < 1e-5


# The choice


def test_the_candidate_of_the_highest_value_is_taken():
    model, images = small_model(num_candidates=4).eval(), small_images()
    network, prior = model.inference, model.prior()
    pair = torch.cat([images, images], dim=1)[None]
    places = network.candidates(images[None])
    values = []
    for number in range(4):  # each by itself
        network.candidates = lambda _, n=number: places[:, :, n : n + 1]
        values.append(network.choose(pair, prior, canvas_of(model))[1][..., 0])
    del network.candidates
    best = torch.stack(values, dim=-1)
    chosen, worth = network.choose(pair, prior, canvas_of(model))
    torch.testing.assert_close(worth[..., 0], best.amax(dim=-1))
    index = best.argmax(dim=-1)
    assert index.unique().numel() > 1
    expected = places.gather(2, index[..., None, None].expand(-1, -1, 1, 3)).squeeze(2)
    torch.testing.assert_close(chosen, expected)


def test_no_gradient_passes_through_the_choice():
    model, images = small_model(), small_images()
    pair = torch.cat([images, images], dim=1)[None].requires_grad_()
    for result in model.inference.choose(pair, model.prior(), canvas_of(model)):
        assert not result.requires_grad


def test_the_gain_of_an_object_is_about_what_the_likelihood_gains():
    """It is measured on glimpses, the likelihood on the canvas."""
    model = large_model(num_candidates=1)
    images, prior = square(16, 18), model.prior()
    pair = torch.cat([images, images], dim=1)[None]
    with torch.no_grad():
        _, worth = model.inference.choose(pair, prior, canvas_of(model))
        rollout = unroll(model, images, use_means=True)
        objects = model.generative.render(rollout.z_where, rollout.z_what)
        likelihood = model.generative.log_likelihood(images, objects)[0, 0]
    gain = 10 * worth[0, 0, 1].sinh()
    assert gain == pytest.approx((likelihood[1] - likelihood[0]).item(), rel=0.1)


# A posterior


def test_log_densities_are_those_of_the_draws():
    model = small_model(dtype=torch.float64)
    torch.manual_seed(0)
    rollout = unroll(model, small_images(dtype=torch.float64), num_samples=3)
    prior = model.prior()
    ratio = 0
    for name, p in (("z_where", prior.z_where), ("z_what", prior.z_what)):
        draw, mean, sd = (getattr(rollout, name + end) for end in ("", "_mean", "_sd"))
        q = torch.distributions.Normal(mean, sd)
        ratio = ratio + (p.log_prob(draw) - q.log_prob(draw)).sum(dim=-1)
    expected = torch.cat([torch.zeros_like(ratio[..., :1]), ratio.cumsum(dim=-1)], dim=-1)
    torch.testing.assert_close(log_ratio_latents(rollout, prior), expected)


def test_noise_is_standard_normal():
    torch.manual_seed(0)
    rollout = unroll(small_model(), small_images(1), num_samples=5000)
    for name in ("z_where", "z_what"):
        draw, mean, sd = (getattr(rollout, name + end) for end in ("", "_mean", "_sd"))
        noise = ((draw - mean) / sd).flatten(0, 2)
        assert noise.mean(dim=0).abs().max() < 0.05
        assert (noise.std(dim=0) - 1).abs().max() < 0.05
        # Of one step and another nothing is common.
        first, second = ((draw - mean) / sd)[:, 0, :2].unbind(dim=1)
        assert (first * second).mean(dim=0).abs().max() < 0.08


def test_it_begins_with_appearances_at_their_prior_and_objects_rather_than_none():
    rollout = unroll(large_model(), square(16, 18), use_means=True)
    assert (rollout.z_what_sd - 1).abs().max() < 0.1
    assert rollout.z_what_mean.abs().max() < 0.3
    assert (rollout.continue_logits > 1).all()


def test_scales_stay_within_some_standard_deviations_of_their_prior():
    model = small_model()
    with torch.no_grad():
        model.inference.pose.bias.fill_(1e4)
    scale, sd = CONFIG.z_where_mean[0], CONFIG.z_where_sd[0]
    found = unroll(model, small_images()).z_where_mean[..., 0]
    assert found.max() <= scale + model.inference.max_scale * sd + 1e-5


# More objects, more candidates


def test_more_objects_than_it_was_trained_with_begin_with_the_same():
    model, images = small_model(), small_images()
    few, many = (unroll(model, images, max_objects=t, use_means=True) for t in (3, 8))
    for name in ("z_where", "z_what", "continue_logits", "glimpses"):
        torch.testing.assert_close(getattr(many, name)[:, :, :3], getattr(few, name))
    reading = model.infer(images, max_objects=8)
    assert reading.boxes.shape == (5, 8, 4)
    assert reading.count_probs.shape == (5, 9)
    with pytest.raises(ValueError, match="max_objects must be at least 1, got 0"):
        model.infer(images, max_objects=0)


def test_more_candidates_after_the_weights_were_loaded():
    few, many = small_model(num_candidates=1).eval(), small_model(seed=1, num_candidates=6).eval()
    many.load_state_dict(few.state_dict())
    images = small_images()
    few_reading = unroll(few, images, use_means=True)
    assert not torch.equal(few_reading.z_where, unroll(many, images, use_means=True).z_where)
    many.inference.num_candidates = 1
    again = unroll(many, images, use_means=True)
    torch.testing.assert_close(again.z_where, few_reading.z_where)


def test_the_canvas_size_is_in_no_weight():
    shapes = [
        {name: value.shape for name, value in large_model(canvas_size=size).state_dict().items()}
        for size in ((48, 48), (96, 70))
    ]
    assert shapes[0] == shapes[1]


# Gradients


@pytest.mark.parametrize("estimator", ["enumerate", "reinforce", "rws"])
def test_every_parameter_gets_a_gradient(estimator):
    model = large_model().train()
    images = torch.cat([square(16, 18), square(4, 30)])
    estimator = make_estimator(estimator, model.config, num_samples=2)
    estimator(model, images).total_loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_later_steps_reach_the_decoder_where_draws_are_not_detached():
    model, images = small_model(dtype=torch.float64), small_images(dtype=torch.float64)
    decoder = list(model.generative.decoder.parameters())
    last = unroll(model, images, detach_samples=True).z_where_mean[:, :, -1]
    grads = torch.autograd.grad(last.sum(), decoder, allow_unused=True)
    assert grads == (None,) * len(decoder)
    last = unroll(model, images).z_where_mean[:, :, -1]
    grads = torch.autograd.grad(last.sum(), decoder)
    assert all(grad.abs().sum() > 0 for grad in grads)


@pytest.mark.parametrize("changes", [{}, {"channels": 3}, {"likelihood": "bernoulli"}], ids=str)
def test_a_black_image_breaks_nothing(changes):
    model = small_model(**changes)
    images = torch.zeros(2, *model.config.image_shape, requires_grad=True)
    for name in sorted(ESTIMATORS):
        loss = make_estimator(name, model.config, num_samples=2)(model, images.detach()).total_loss
        assert math.isfinite(loss.item()), name
