import torch
import torch.nn.functional as F
from torch import nn

from air.networks import (
    MLP,
    BaselineMLP,
    GlimpseDecoder,
    GlimpseEncoder,
    ImageLSTM,
    Linear,
    LSTMState,
    StepPredictor,
)


def test_linear_loads_from_torch_and_back():
    ours, theirs = Linear(5, 3), nn.Linear(5, 3)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 5)
    torch.testing.assert_close(ours(x), theirs(x))


def test_linear_works_under_vmap_and_in_float64():
    layer = Linear(128, 64)
    x = torch.randn(4, 6, 128)
    torch.testing.assert_close(torch.func.vmap(layer)(x), F.linear(x, layer.weight, layer.bias))
    assert layer.double()(x.double()).dtype == torch.float64


def test_mlp_layers():
    sizes = [(layer.in_features, layer.out_features) for layer in list(MLP(4, [5, 6], 7))[::2]]
    assert sizes == [(4, 5), (5, 6), (6, 7)]
    assert isinstance(MLP(4, [], 7)[0], nn.Linear)


def test_lstm_equals_torch_lstm_cell():
    torch.manual_seed(0)
    ours, theirs = ImageLSTM(11, 4, 6), nn.LSTMCell(11 + 4, 6)
    with torch.no_grad():  # torch's gates are in the order write, keep, candidate, show
        order = torch.arange(24).view(4, 6)[[0, 3, 1, 2]].flatten()
        ours.image_projection.weight.copy_(theirs.weight_ih[order, :11])
        ours.image_projection.bias.copy_((theirs.bias_ih + theirs.bias_hh)[order])
        ours.recurrence.weight.copy_(
            torch.cat([theirs.weight_ih[:, 11:], theirs.weight_hh], dim=1)[order]
        )
    image, latents = torch.randn(2, 11), torch.randn(2, 4)
    projection = ours.project(image)
    first = ours(projection)
    expected = theirs(torch.cat([image, torch.zeros(2, 4)], dim=1))
    torch.testing.assert_close(tuple(first), expected)
    second = ours(projection, latents, first)
    torch.testing.assert_close(tuple(second), theirs(torch.cat([image, latents], dim=1), expected))
    assert isinstance(second, LSTMState)


def test_shapes_and_ranges():
    glimpses = torch.rand(2, 5, 3, 6, 4)
    mean, sd = GlimpseEncoder((3, 6, 4), [8], 7)(glimpses)
    assert mean.shape == sd.shape == (2, 5, 7)
    assert (sd > 0).all()
    decoded = GlimpseDecoder(7, [8], (3, 6, 4), bias=-2.0)(mean)
    assert decoded.shape == glimpses.shape
    assert ((decoded > 0) & (decoded < 1)).all()
    assert decoded.mean() < 0.3  # objects start dark
    prediction = StepPredictor(9, [8])(torch.randn(2, 5, 9))
    assert prediction.continue_logit.shape == (2, 5)
    assert prediction.z_where_offset.shape == prediction.z_where_factor.shape == (2, 5, 3)
    assert (prediction.z_where_factor > 0).all()


def test_baseline_detaches_its_inputs():
    images = torch.rand(3, 10, requires_grad=True)
    context = torch.rand(2, 3, 4, 5, requires_grad=True)
    out = BaselineMLP(10, 5, [8, 6])(images, context)
    assert out.shape == (2, 3, 4)
    out.sum().backward()
    assert images.grad is None
    assert context.grad is None
