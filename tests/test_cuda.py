"""The same on a GPU, where there is one."""

import pytest
import torch

from air.estimators import ESTIMATORS, make_estimator
from tests.small import small_images, small_model

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def test_inference_is_the_same_on_both_devices():
    model, images = small_model(), small_images()
    expected = model.infer(images)
    result = model.cuda().infer(images.cuda())
    torch.testing.assert_close(result.count_probs.cpu(), expected.count_probs)
    torch.testing.assert_close(result.canvas.cpu(), expected.canvas)


@pytest.mark.parametrize("name", sorted(ESTIMATORS))
def test_estimators_train(name):
    model, images = small_model().cuda(), small_images().cuda()
    estimator = make_estimator(name, model.config, num_samples=2).cuda()
    estimator(model, images).total_loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_bound_and_samples():
    model, images = small_model().cuda(), small_images().cuda()
    assert model.log_likelihood(images, 7).ess.is_cuda
    assert model.sample(3, num_objects=2).images.is_cuda


def test_training_run(make_args):
    from experiments.experiment import AIRExperiment
    from experiments.trainer import Trainer

    metrics = Trainer(AIRExperiment(make_args(no_cuda=False))).run()
    assert metrics["elbo"] == metrics["elbo"]
