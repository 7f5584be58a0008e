import itertools
import math

import pytest
import torch

from air.estimators import make_estimator
from air.spatial_transformer import extract_glimpses
from tests.small import CONFIG, INFERENCE, small_images, small_model, unroll

both = pytest.mark.parametrize("inference", INFERENCE)


@both
def test_shapes(inference):
    result = unroll(small_model(inference=inference), small_images(), num_samples=2)
    leading = (2, 5, 3)
    assert result.continue_logits.shape == leading
    for name in ("z_where", "z_where_mean", "z_where_sd"):
        assert getattr(result, name).shape == (*leading, 3)
    for name in ("z_what", "z_what_mean", "z_what_sd"):
        assert getattr(result, name).shape == (*leading, CONFIG.z_what_size)
    assert result.glimpses.shape == (*leading, *CONFIG.glimpse_shape)


@both
def test_samples_of_an_image_are_independent_of_each_other_and_of_the_batch(inference):
    model, images = small_model(inference=inference), small_images()
    result = unroll(model, images, num_samples=2)
    assert not result.z_where[0].equal(result.z_where[1])
    whole = unroll(model, images, use_means=True)
    alone = unroll(model, images[3:4], use_means=True)
    torch.testing.assert_close(alone.z_what[0, 0], whole.z_what[0, 3])
    torch.testing.assert_close(alone.continue_logits[0, 0], whole.continue_logits[0, 3])


@both
def test_later_steps_see_earlier_latents_and_not_the_reverse(inference):
    """The first step is the same for all samples; the second depends on the first's draw."""
    result = unroll(small_model(inference=inference), small_images(), num_samples=2)
    logits = result.continue_logits
    torch.testing.assert_close(logits[0, :, 0], logits[1, :, 0])
    changed = logits[0, :, 1] != logits[1, :, 1]
    # The residual network sees only what lies near: the first object may be far from the second.
    assert changed.all() if inference == "paper" else changed.any()


@both
def test_draws_follow_their_distribution(inference):
    torch.manual_seed(0)
    result = unroll(small_model(inference=inference), small_images(1), num_samples=20_000)
    for name in ("z_where", "z_what"):
        draws, mean, sd = (getattr(result, name + end) for end in ("", "_mean", "_sd"))
        noise = (draws - mean) / sd
        torch.testing.assert_close(noise.mean(dim=0), torch.zeros_like(noise[0]), atol=0.04, rtol=0)
        torch.testing.assert_close(noise.std(dim=0), torch.ones_like(noise[0]), atol=0.04, rtol=0)


def test_posterior_of_pose_is_an_offset_and_a_factor_of_its_prior():
    model = small_model(inference="paper")
    predictor = model.inference.predictor.mlp[-1]
    with torch.no_grad():
        predictor.weight.zero_()
        predictor.bias.copy_(torch.tensor([0.0, 1.0, -2.0, 0.5, 0.0, 0.0, 0.0]))
    result = unroll(model, small_images())
    prior = model.prior().z_where
    expected = prior.loc + prior.scale * torch.tensor([1.0, -2.0, 0.5])
    torch.testing.assert_close(result.z_where_mean, expected.expand_as(result.z_where_mean))
    factor = torch.nn.functional.softplus(torch.zeros(3))
    torch.testing.assert_close(
        result.z_where_sd, (prior.scale * factor).expand_as(result.z_where_sd)
    )


@both
def test_glimpses_are_cut_out_at_the_drawn_pose(inference):
    model, images = small_model(inference=inference), small_images()
    result = unroll(model, images)
    for step in range(3):
        pose = result.z_where[0, :, step]
        assert (pose[:, 0] > model.inference.min_scale).all()
        expected = extract_glimpses(images, pose, CONFIG.glimpse_size)
        torch.testing.assert_close(result.glimpses[0, :, step], expected)


def test_image_is_projected_once():
    model = small_model(inference="paper")
    calls = []
    model.inference.lstm.image_projection.register_forward_hook(lambda *_: calls.append(1))
    unroll(model, small_images(), num_samples=4)
    assert len(calls) == 1


def test_a_scale_of_zero_breaks_nothing():
    model = small_model(inference="paper")
    with torch.no_grad():
        model.inference.predictor.mlp[-1].bias[1] = -100.0  # 100 prior sds below the mean
    assert model(small_images()).elbo.isfinite().all()


# What both networks owe the bounds


@both
def test_objects_of_the_canvas_are_those_of_the_rollout(inference):
    model = small_model(inference=inference, dtype=torch.float64)
    images = small_images(dtype=torch.float64)
    output = model(images, num_samples=2)
    expected = model.generative.render(output.rollout.z_where, output.rollout.z_what)
    torch.testing.assert_close(output.objects, expected)


@both
def test_a_later_step_cannot_change_an_earlier_one(inference):
    """What one rollout serving every count rests on."""
    images = small_images(dtype=torch.float64)
    model = small_model(inference=inference, dtype=torch.float64)
    results = [unroll(model, images, max_objects=t, use_means=True) for t in (2, 3)]
    torch.testing.assert_close(results[0].z_where, results[1].z_where[:, :, :2])
    torch.testing.assert_close(results[0].continue_logits, results[1].continue_logits[:, :, :2])


def hold_choices(model):
    """Let each step choose what it chose the first time."""
    network, kept, calls = model.inference, [], itertools.count()
    choose = network.choose

    def held(*args):
        step = next(calls) % model.max_objects
        if step == len(kept):
            kept.append(choose(*args))
        return kept[step]

    network.choose = held


@both
def test_gradient_of_the_bound_is_that_of_finite_differences(inference):
    """By every parameter, of the decoder too: q may depend on it through the canvas seen.

    The choice of a candidate is held: through it there is no gradient.
    """
    model = small_model(inference=inference, dtype=torch.float64)
    if inference == "residual":
        hold_choices(model)
    images = small_images(3, dtype=torch.float64)

    def loss():
        torch.manual_seed(0)
        return make_estimator("enumerate", model.config)(model, images).loss

    parameters = list(model.parameters())
    gradients = torch.autograd.grad(loss(), parameters)
    generator = torch.Generator().manual_seed(0)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        direction /= direction.norm()
        with torch.no_grad():
            values = []
            for sign in (1, -2, 1):
                parameter += sign * 1e-5 * direction
                values.append(loss().item())
        numeric = (values[0] - values[1]) / 2e-5
        assert math.isclose(numeric, (gradient * direction).sum(), rel_tol=1e-4, abs_tol=1e-4)
