"""What people hand in as images: the documented conversion, or an error that says what to do."""

import math

import pytest
import torch

from air.checkpoint import from_pretrained, save_pretrained
from tests.small import small_images, small_model

SHAPE = (1, 14, 12)


def outcome(model, images):
    torch.manual_seed(3)
    return model(images).elbo


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_floats_are_converted(dtype):
    model, images = small_model(), small_images().to(dtype)
    assert torch.equal(outcome(model, images), outcome(model, images.float()))
    assert model.infer(images).canvas.dtype == torch.float32


def test_bytes_are_divided_by_255():
    model = small_model()
    pixels = (small_images() * 255).to(torch.uint8)
    assert torch.equal(outcome(model, pixels), outcome(model, pixels.float() / 255))


@pytest.mark.parametrize(
    "images",
    [
        torch.ones(3, *SHAPE),
        torch.zeros(3, *SHAPE),
        torch.full((3, *SHAPE), 255, dtype=torch.uint8),
        torch.rand(1, *SHAPE),
    ],
    ids=["all white", "all black", "all white, bytes", "a batch of one"],
)
def test_the_ends_of_what_is_allowed(images):
    model = small_model()
    reading = model.infer(images)
    assert reading.counts.shape == (len(images),)
    assert model(images).elbo.isfinite().all()
    assert model.log_likelihood(images, 3).log_likelihood.isfinite().all()


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.rand(5, 14, 12, 1), r"got \(5, 14, 12, 1\)\. Move the channels"),
        (torch.rand(5, 14, 12, 3), r"Move the channels: images\.permute\(0, 3, 1, 2\)"),
        (torch.rand(5, 14, 12, 4), "Move the channels"),
        (torch.rand(5, 4, 14, 12), r"Leave out the alpha channel: images\[:, :-1\]"),
        (torch.rand(5, 2, 14, 12), "Leave out the alpha channel"),
        (torch.rand(5, 3, 14, 12), r"channels=3"),
        (torch.rand(5, 1, 12, 14), r"\(B, 1, 14, 12\).*Resize"),
        (torch.rand(0, *SHAPE), "at least one image"),
        (torch.rand(5, *SHAPE) * 255, r"must lie in \[0, 1\].*divide by 255"),
        (torch.rand(5, *SHAPE) * 2 - 1, r"for \[-1, 1\]"),
        (torch.full((5, *SHAPE), math.nan), "NaN"),
        (torch.rand(5, *SHAPE).index_fill_(0, torch.tensor([2]), math.nan), "168 NaN"),
        (torch.rand(5, *SHAPE) > 0.5, "torch.bool"),
        (torch.zeros(5, *SHAPE, dtype=torch.int32), "torch.int32"),
        (torch.zeros(5, *SHAPE, dtype=torch.complex64), "torch.complex64"),
    ],
    ids=lambda value: value if isinstance(value, str) else str(tuple(value.shape)),
)
def test_everything_else_says_what_was_expected(images, message, tmp_path):
    save_pretrained(small_model(), tmp_path)
    for model in (small_model(), from_pretrained(tmp_path)):
        with pytest.raises(ValueError, match=message):
            model.infer(images)
