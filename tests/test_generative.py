import pytest
import torch
from torch.distributions import Bernoulli, Normal

from air.generative import BernoulliLikelihood, NormalLikelihood, UnionNormalLikelihood
from tests.small import CONFIG, small_images, small_model

SHAPE = (2, 5, 3, *CONFIG.image_shape)


def objects(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(SHAPE, generator=generator, dtype=torch.float64)


def test_normal_likelihood_of_every_prefix():
    images, placed = small_images(dtype=torch.float64), objects()
    log_likelihood = NormalLikelihood(0.3)(images, placed)
    for n in range(4):
        canvas = placed[:, :, :n].sum(dim=2)
        expected = Normal(canvas, 0.3).log_prob(images).flatten(2).sum(-1)
        torch.testing.assert_close(log_likelihood[..., n], expected)


def test_normal_likelihood_with_a_given_sd():
    images, placed = small_images(dtype=torch.float64), objects()
    given = NormalLikelihood(0.3)(images, placed, sd=0.7)
    torch.testing.assert_close(given, NormalLikelihood(0.7)(images, placed))
    tensor = NormalLikelihood(0.3)(images, placed, sd=torch.tensor(0.7, dtype=torch.float64))
    torch.testing.assert_close(tensor, given)


def test_union_of_every_prefix():
    likelihood = UnionNormalLikelihood(0.3)
    images, placed = small_images(dtype=torch.float64), objects()
    for sd in (None, 0.7):
        log_likelihood = likelihood(images, placed, sd=sd)
        for n in range(4):
            canvas = 1 - (1 - placed[:, :, :n]).prod(dim=2)
            expected = Normal(canvas, sd or 0.3).log_prob(images).flatten(2).sum(-1)
            torch.testing.assert_close(log_likelihood[..., n], expected)
            torch.testing.assert_close(likelihood.canvases(placed)[:, :, n], canvas)


def test_bernoulli_likelihood_of_every_prefix():
    likelihood = BernoulliLikelihood()
    images, placed = small_images(dtype=torch.float64).round(), objects()
    log_likelihood = likelihood(images, placed)
    for n in range(4):
        canvas = 1 - (1 - placed[:, :, :n]).prod(dim=2)
        lit = likelihood.margin + (1 - 2 * likelihood.margin) * canvas
        expected = Bernoulli(lit).log_prob(images.expand_as(lit)).flatten(2).sum(-1)
        torch.testing.assert_close(log_likelihood[..., n], expected)
        torch.testing.assert_close(likelihood.canvases(placed)[:, :, n], canvas)


def test_bernoulli_gradient_lives_where_objects_overlap():
    """Two bright objects on one pixel: a clamped sum would be stuck at 1."""
    placed = torch.full((1, 1, 2, 1, 1, 1), 0.9, requires_grad=True)
    BernoulliLikelihood()(torch.zeros(1, 1, 1, 1), placed)[..., 2].sum().backward()
    assert (placed.grad < -0.1).all()


def test_bernoulli_is_finite_on_an_empty_canvas():
    images = torch.ones(1, 1, 1, 1)
    assert BernoulliLikelihood()(images, torch.zeros(1, 1, 2, 1, 1, 1)).isfinite().all()


def test_bernoulli_has_no_sd():
    with pytest.raises(ValueError, match="no standard deviation"):
        BernoulliLikelihood()(small_images(dtype=torch.float64), objects(), sd=0.3)


@pytest.mark.parametrize(
    "changes", [{}, {"overlap": "union"}, {"likelihood": "bernoulli"}], ids=str
)
def test_canvases_start_empty(changes):
    canvases = small_model(**changes).generative.canvases(objects())
    assert canvases.shape == (2, 5, 4, *CONFIG.image_shape)
    assert (canvases[:, :, 0] == 0).all()
    if changes:
        assert 0 <= canvases.min() <= canvases.max() <= 1


def test_samples():
    model = small_model()
    torch.manual_seed(0)
    sample = model.sample(2000)
    frequencies = torch.bincount(sample.num_objects, minlength=4) / 2000
    torch.testing.assert_close(frequencies, model.prior().num_steps.probs, atol=0.04, rtol=0)
    empty = sample.num_objects == 0
    assert (sample.images[empty] == 0).all()
    lit = sample.images[~empty].flatten(1).sum(-1) > 0  # all but those far outside
    assert lit.float().mean() > 0.98
    mean = sample.z_where.mean(dim=(0, 1))
    torch.testing.assert_close(mean, torch.tensor(CONFIG.z_where_mean), atol=0.1, rtol=0)


def test_samples_with_a_given_number():
    model = small_model()
    assert (model.sample(4, num_objects=2).num_objects == 2).all()
    given = torch.tensor([0, 3, 1])
    assert model.sample(3, num_objects=given).num_objects.equal(given)
    with pytest.raises(ValueError, match="max_objects = 3"):
        model.sample(2, num_objects=4)
