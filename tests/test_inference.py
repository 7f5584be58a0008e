import torch

from air.spatial_transformer import extract_glimpses
from tests.small import CONFIG, small_images, small_model


def rollout(model, images, num_samples=1, **options):
    return model.inference(images, model.prior().z_where, num_samples, **options)


def test_shapes():
    result = rollout(small_model(), small_images(), num_samples=2)
    leading = (2, 5, 3)
    assert result.continue_logits.shape == leading
    for name in ("z_where", "z_where_mean", "z_where_sd"):
        assert getattr(result, name).shape == (*leading, 3)
    for name in ("z_what", "z_what_mean", "z_what_sd"):
        assert getattr(result, name).shape == (*leading, CONFIG.z_what_size)
    assert result.glimpses.shape == (*leading, *CONFIG.glimpse_shape)


def test_samples_of_an_image_are_independent_of_each_other_and_of_the_batch():
    model, images = small_model(), small_images()
    result = rollout(model, images, num_samples=2)
    assert not result.z_where[0].equal(result.z_where[1])
    whole = rollout(model, images, use_means=True)
    alone = rollout(model, images[3:4], use_means=True)
    torch.testing.assert_close(alone.z_what[0, 0], whole.z_what[0, 3])
    torch.testing.assert_close(alone.continue_logits[0, 0], whole.continue_logits[0, 3])


def test_later_steps_see_earlier_latents_and_not_the_reverse():
    """The first step is the same for all samples; the second depends on the first's draw."""
    result = rollout(small_model(), small_images(), num_samples=2)
    logits = result.continue_logits
    torch.testing.assert_close(logits[0, :, 0], logits[1, :, 0])
    assert (logits[0, :, 1] != logits[1, :, 1]).all()


def test_draws_follow_their_distribution():
    torch.manual_seed(0)
    result = rollout(small_model(), small_images(1), num_samples=20_000)
    for name in ("z_where", "z_what"):
        draws, mean, sd = (getattr(result, name + end) for end in ("", "_mean", "_sd"))
        noise = (draws - mean) / sd
        torch.testing.assert_close(noise.mean(dim=0), torch.zeros_like(noise[0]), atol=0.04, rtol=0)
        torch.testing.assert_close(noise.std(dim=0), torch.ones_like(noise[0]), atol=0.04, rtol=0)


def test_posterior_of_pose_is_an_offset_and_a_factor_of_its_prior():
    model = small_model()
    predictor = model.inference.predictor.mlp[-1]
    with torch.no_grad():
        predictor.weight.zero_()
        predictor.bias.copy_(torch.tensor([0.0, 1.0, -2.0, 0.5, 0.0, 0.0, 0.0]))
    result = rollout(model, small_images())
    prior = model.prior().z_where
    expected = prior.loc + prior.scale * torch.tensor([1.0, -2.0, 0.5])
    torch.testing.assert_close(result.z_where_mean, expected.expand_as(result.z_where_mean))
    factor = torch.nn.functional.softplus(torch.zeros(3))
    torch.testing.assert_close(
        result.z_where_sd, (prior.scale * factor).expand_as(result.z_where_sd)
    )


def test_glimpses_are_cut_out_at_the_drawn_pose():
    model, images = small_model(), small_images()
    result = rollout(model, images)
    for step in range(3):
        pose = result.z_where[0, :, step]
        assert (pose[:, 0] > model.inference.min_scale).all()
        expected = extract_glimpses(images, pose, CONFIG.glimpse_size)
        torch.testing.assert_close(result.glimpses[0, :, step], expected)


def test_image_is_projected_once():
    model = small_model()
    calls = []
    model.inference.lstm.image_projection.register_forward_hook(lambda *_: calls.append(1))
    rollout(model, small_images(), num_samples=4)
    assert len(calls) == 1


def test_a_scale_of_zero_breaks_nothing():
    model = small_model()
    with torch.no_grad():
        model.inference.predictor.mlp[-1].bias[1] = -100.0  # 100 prior sds below the mean
    assert model(small_images()).elbo.isfinite().all()
