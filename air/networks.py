"""The neural networks of AIR: small, and all of one kind."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from air.functional import linear, lstm_gates

__all__ = [
    "MLP",
    "BaselineMLP",
    "GlimpseDecoder",
    "GlimpseEncoder",
    "ImageLSTM",
    "LSTMState",
    "Linear",
    "StepPrediction",
    "StepPredictor",
    "WindowEncoder",
]


class Linear(nn.Linear):
    """A linear layer, through :func:`air.functional.linear`."""

    def forward(self, input: Tensor) -> Tensor:
        """``input @ weight.T + bias``, ``(*, out_features)`` from ``(*, in_features)``."""
        return linear(input, self.weight, self.bias)


class MLP(nn.Sequential):
    """Fully connected layers with ReLU between them, none after the last.

    Args:
        in_features: size of the input's last axis.
        hidden: sizes of the hidden layers; none makes it a linear map.
        out_features: size of the output's last axis.
    """

    def __init__(self, in_features: int, hidden: Sequence[int], out_features: int) -> None:
        sizes = [in_features, *hidden, out_features]
        layers: list[nn.Module] = []
        for size_in, size_out in pairwise(sizes):
            layers += [Linear(size_in, size_out), nn.ReLU()]
        super().__init__(*layers[:-1])

    def forward(self, input: Tensor) -> Tensor:
        """``(*, out_features)`` from ``(*, in_features)``, in the type of the parameters."""
        *hidden, last = (layer for layer in self if isinstance(layer, Linear))
        features = input
        for layer in hidden:
            features = linear(features, layer.weight, layer.bias, relu=True)
        return linear(features, last.weight, last.bias).to(last.weight.dtype)


class GlimpseEncoder(nn.Module):
    """From a glimpse to q(z_what), a diagonal Gaussian.

    Args:
        glimpse_shape: ``(C, h, w)``.
        hidden: sizes of the hidden layers.
        z_what_size: D.
    """

    def __init__(
        self, glimpse_shape: tuple[int, int, int], hidden: Sequence[int], z_what_size: int
    ) -> None:
        super().__init__()
        channels, height, width = glimpse_shape
        self.mlp = MLP(channels * height * width, hidden, 2 * z_what_size)

    def forward(self, glimpses: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, each ``(*, D)``, from glimpses ``(*, C, h, w)``."""
        mean, raw_sd = self.mlp(glimpses.flatten(-3)).chunk(2, dim=-1)
        return mean, F.softplus(raw_sd)


class GlimpseDecoder(nn.Module):
    """From z_what to a decoded glimpse in (0, 1).

    Args:
        z_what_size: D.
        hidden: sizes of the hidden layers.
        glimpse_shape: ``(C, h, w)``.
        bias: added to the logits, so that objects start dark: a bright untrained object costs
            so much likelihood that the network learns to show none.
    """

    def __init__(
        self,
        z_what_size: int,
        hidden: Sequence[int],
        glimpse_shape: tuple[int, int, int],
        bias: float,
    ) -> None:
        super().__init__()
        channels, height, width = glimpse_shape
        self.mlp = MLP(z_what_size, hidden, channels * height * width)
        self.glimpse_shape = glimpse_shape
        self.bias = bias

    def forward(self, z_what: Tensor) -> Tensor:
        """Decoded glimpses ``(*, C, h, w)`` from ``z_what`` ``(*, D)``."""
        return torch.sigmoid(self.mlp(z_what) + self.bias).unflatten(-1, self.glimpse_shape)


class WindowEncoder(nn.Module):
    """From a window around a place to features of what lies there: two convolutions, one layer.

    Args:
        channels: of the window.
        size: height and width of the window.
        features: size of what comes out.
        hidden: channels of the convolutions.
    """

    def __init__(
        self, channels: int, size: int, features: int, hidden: tuple[int, int] = (16, 32)
    ) -> None:
        super().__init__()
        first, second = hidden
        self.convolutions = nn.Sequential(
            nn.Conv2d(channels, first, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(first, second, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
        )
        side = (size + 3) // 4
        self.linear = Linear(second * side * side, features)

    def forward(self, windows: Tensor) -> Tensor:
        """Features ``(*, F)`` from windows ``(*, C, size, size)``."""
        features = self.linear(self.convolutions(windows.flatten(end_dim=-4))).relu()
        return features.to(self.linear.weight.dtype).unflatten(0, windows.shape[:-3])


class StepPrediction(NamedTuple):
    """What the step predictor says at one step."""

    continue_logit: Tensor
    """Logit of "one more object": ``(*)``."""
    z_where_offset: Tensor
    """Offset of q(z_where)'s mean from the prior's, in the prior's sd: ``(*, 3)``."""
    z_where_factor: Tensor
    """Factor of q(z_where)'s sd to the prior's: ``(*, 3)``."""


class StepPredictor(nn.Module):
    """From the LSTM's hidden state to the presence and the pose of the next object.

    Args:
        in_features: size of the hidden state.
        hidden: sizes of the hidden layers.
    """

    def __init__(self, in_features: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.mlp = MLP(in_features, hidden, 1 + 3 + 3)

    def forward(self, hidden_state: Tensor) -> StepPrediction:
        """Predict from hidden states ``(*, in_features)``."""
        logit, offset, raw_factor = self.mlp(hidden_state).split([1, 3, 3], dim=-1)
        return StepPrediction(logit.squeeze(-1), offset, F.softplus(raw_factor))


class LSTMState(NamedTuple):
    """State of the LSTM: hidden and cell, each ``(*, hidden_size)``."""

    hidden: Tensor
    cell: Tensor


class ImageLSTM(nn.Module):
    """An LSTM cell whose input is one image, the same at every step, and the latents so far.

    The image's part of the gates is over half of AIR's arithmetic. It is computed by
    :meth:`project` once an image, and handed to every step.

    Args:
        image_features: size of the flattened image.
        latent_size: size of the latents of one step.
        hidden_size: size of the hidden state.
    """

    def __init__(self, image_features: int, latent_size: int, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.image_projection = Linear(image_features, 4 * hidden_size)
        self.recurrence = Linear(latent_size + hidden_size, 4 * hidden_size, bias=False)

    def project(self, image_features: Tensor) -> Tensor:
        """The image's part of the gates: ``(*, 4 * hidden_size)``."""
        return self.image_projection(image_features).to(self.image_projection.weight.dtype)

    def forward(
        self, projection: Tensor, latents: Tensor | None = None, state: LSTMState | None = None
    ) -> LSTMState:
        """One step. The first has neither latents nor state: it takes them as zero.

        Args:
            projection: what :meth:`project` gave, ``(*, 4 * hidden_size)``.
            latents: latents of the step before, ``(*, latent_size)``.
            state: state of the step before.
        """
        if latents is None or state is None:
            return LSTMState(*lstm_gates(projection, None))
        gates = projection + self.recurrence(torch.cat([latents, state.hidden], dim=-1))
        return LSTMState(*lstm_gates(gates, state.cell))


class BaselineMLP(nn.Module):
    """Predicts the cost to go of REINFORCE at one step, from what is known before it.

    Mnih and Gregor (2014), section 2.3. Inputs are detached here, so that no use of it can send
    a gradient into the model.

    Args:
        image_features: size of the flattened image.
        context_size: size of the latents of all steps, later ones zero, and of the step's
            one-hot index.
        hidden: sizes of the hidden layers.
    """

    def __init__(self, image_features: int, context_size: int, hidden: Sequence[int]) -> None:
        super().__init__()
        first, *rest = hidden
        self.image = Linear(image_features, first)
        self.context = Linear(context_size, first, bias=False)
        self.head = MLP(first, rest, 1)

    def forward(self, images: Tensor, context: Tensor) -> Tensor:
        """Predicted cost to go ``(K, B, T)``.

        Args:
            images: flattened images, ``(B, image_features)``.
            context: ``(K, B, T, context_size)``.
        """
        image = self.image(images.detach()).unsqueeze(1)
        return self.head(F.relu(image + self.context(context.detach()))).squeeze(-1)
