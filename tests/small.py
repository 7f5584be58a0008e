"""A small model and images for it, for tests that need no trained one."""

import torch

from air import AIR, AIRConfig
from air.generative import Canvas

INFERENCE = ("residual", "paper")
"""Both inference networks."""

CONFIG = AIRConfig(
    canvas_size=(14, 12),
    glimpse_size=(6, 5),
    max_objects=3,
    z_what_size=4,
    lstm_size=16,
    predictor_hidden=(12,),
    encoder_hidden=(12,),
    decoder_hidden=(12,),
    continue_prob=0.3,
)


def small_model(seed=0, dtype=torch.float32, **changes):
    """A model with random weights, larger than usual so that no term of the bound is flat."""
    torch.manual_seed(seed)
    model = AIR(AIRConfig(**(CONFIG.to_dict() | changes))).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    return model


def small_images(number=5, seed=1, dtype=torch.float32, config=CONFIG):
    """Random images in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(number, *config.image_shape, generator=generator, dtype=dtype)


def unroll(model, images, num_samples=1, max_objects=None, **options):
    """The inference network's rollout, under the model's own prior."""
    options.setdefault("renderer", Canvas(model.generative))
    prior = model.prior(max_objects=max_objects)
    return model.inference(images, prior, num_samples, **options)


def finding_model(images, seed=2, **changes):
    """A small model that finds objects in about half of these images, not the same number in all.

    ``small_model`` itself finds none at all.
    """
    model = small_model(seed, **changes)
    inference = model.inference
    paper = model.config.inference == "paper"
    head = inference.predictor.mlp[-1] if paper else inference.presence[-1]
    with torch.no_grad():
        logits = unroll(model, model.as_input(images), use_means=True).continue_logits
        head.weight[0].mul_(3 / logits[0].std())
        rollout = unroll(model, model.as_input(images), use_means=True)
        head.bias[0] -= rollout.continue_logits[0].median()
    return model
