"""The generative half of AIR: from latents to an image, and how probable that image is."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from air.config import AIRConfig
from air.networks import GlimpseDecoder
from air.priors import Prior, PriorNetwork
from air.spatial_transformer import place_objects
from air.types import Sample

__all__ = [
    "BernoulliLikelihood",
    "Canvas",
    "GenerativeModel",
    "NormalLikelihood",
    "UnionNormalLikelihood",
    "make_likelihood",
]


class _Likelihood(nn.Module):
    """What all likelihoods share."""

    def log_prob_pixels(self, images: Tensor, canvases: Tensor) -> Tensor:
        """Log density of each pixel around a canvas, of any shapes that broadcast."""
        raise NotImplementedError

    def overlay(self, canvas: Tensor, placed: Tensor) -> Tensor:
        """The canvas with one more object on it, each ``(*, C, H, W)``."""
        raise NotImplementedError

    def gain(self, images: Tensor, canvases: Tensor, placed: Tensor) -> tuple[Tensor, Tensor]:
        """What one more object adds to the log-likelihood, and what a perfect one would.

        Args:
            images: ``(*, C, H, W)``.
            canvases: of the objects before, ``(*, C, H, W)``.
            placed: the object, ``(*, C, H, W)``.

        Returns:
            Two numbers of nats, each ``(*)``.
        """
        before = self.log_prob_pixels(images, canvases)
        after = self.log_prob_pixels(images, self.overlay(canvases, placed))
        perfect = self.log_prob_pixels(images, images)
        pixels = (-3, -2, -1)
        return (after - before).sum(dim=pixels), (perfect - before).sum(dim=pixels)


class _Union(_Likelihood):
    r"""A pixel is lit where at least one object lights it.

    .. math:: c_n = 1 - \prod_{t \le n} (1 - o_t)

    A sum of objects can exceed 1. Clamping it stops the gradient just where two objects overlap,
    and where each is sure of itself. This "noisy or" stays inside [0, 1] by itself, equals the
    sum where only one object is, and its derivative :math:`\prod_{s \ne t} (1 - o_s)` is never
    zero for objects below 1.
    """

    def overlay(self, canvas: Tensor, placed: Tensor) -> Tensor:
        """The canvas with one more object on it, each ``(*, C, H, W)``."""
        return 1 - (1 - canvas) * (1 - placed)

    def canvases(self, objects: Tensor) -> Tensor:
        """Canvases of the first n objects, ``(*, T + 1, C, H, W)``, from ``(*, T, C, H, W)``."""
        unlit = (1 - objects).cumprod(dim=-4)
        return torch.cat([torch.zeros_like(unlit[..., :1, :, :, :]), 1 - unlit], dim=-4)


class NormalLikelihood(_Likelihood):
    """Pixels are Gaussian around the sum of the objects; the canvas may exceed 1.

    Args:
        sd: standard deviation of a pixel.
    """

    def __init__(self, sd: float) -> None:
        super().__init__()
        self.sd = sd

    def overlay(self, canvas: Tensor, placed: Tensor) -> Tensor:
        """The canvas with one more object on it, each ``(*, C, H, W)``."""
        return canvas + placed

    def canvases(self, objects: Tensor) -> Tensor:
        """Canvases of the first n objects, ``(*, T + 1, C, H, W)``, from ``(*, T, C, H, W)``."""
        prefix = objects.cumsum(dim=-4)
        return torch.cat([torch.zeros_like(prefix[..., :1, :, :, :]), prefix], dim=-4)

    def log_prob_pixels(self, images: Tensor, canvases: Tensor) -> Tensor:
        """Log density of each pixel around a canvas, of any shapes that broadcast."""
        normaliser = math.log(self.sd) + 0.5 * math.log(2 * math.pi)
        return -0.5 * ((images - canvases) / self.sd).square() - normaliser

    def residuals(self, images: Tensor, objects: Tensor) -> Iterator[Tensor]:
        """What the first n objects leave of the images, n = 0 .. T, pixels flattened.

        Args:
            images: ``(B, P)``.
            objects: ``(K, B, T, P)``.

        Yields:
            ``(B, P)`` for n = 0, then ``(K, B, P)``.
        """
        residual = images
        yield residual
        for placed in objects.unbind(dim=2):
            residual = residual - placed
            yield residual

    def forward(self, images: Tensor, objects: Tensor, sd: float | Tensor | None = None) -> Tensor:
        """``log p(x | z_{1:n})`` for n = 0 .. T.

        Args:
            images: ``(B, C, H, W)``.
            objects: placed objects, ``(K, B, T, C, H, W)``.
            sd: another standard deviation than the model's, such as a schedule's value.

        Returns:
            Nats per image, ``(K, B, T + 1)``.
        """
        sd = self.sd if sd is None else sd
        log_sd = sd.log() if isinstance(sd, Tensor) else math.log(sd)
        # Object by object: one pass over the pixels each, where a cumulative sum, a difference
        # and a square of the whole stack take several.
        squares = [
            residual.square().sum(dim=-1).expand(objects.shape[:2])
            for residual in self.residuals(images.flatten(1), objects.flatten(3))
        ]
        normaliser = images[0].numel() * (log_sd + 0.5 * math.log(2 * math.pi))
        return -0.5 * torch.stack(squares, dim=-1) / sd**2 - normaliser


class UnionNormalLikelihood(_Union, NormalLikelihood):
    """Pixels are Gaussian around the union of the objects, which stays inside [0, 1].

    For scenes whose sum is clipped: where two objects overlap, a sum would have to be explained
    away, and one object instead of two is often the cheaper way.

    Args:
        sd: standard deviation of a pixel.
    """

    def residuals(self, images: Tensor, objects: Tensor) -> Iterator[Tensor]:
        """As of a sum, see :class:`NormalLikelihood`."""
        yield images
        dark = images - 1  # what is left is dark + unlit: one more object scales what is unlit
        unlit: Tensor | float = 1.0
        for placed in objects.unbind(dim=2):
            unlit = unlit * (1 - placed)
            yield dark + unlit


class BernoulliLikelihood(_Union):
    """Binary pixels, lit with the probability that at least one object lights them.

    Probabilities are kept ``margin`` away from 0 and 1, linearly, so that a lit pixel on an empty
    canvas costs a finite amount and still pulls.
    """

    margin = 1e-3

    def forward(self, images: Tensor, objects: Tensor, sd: float | Tensor | None = None) -> Tensor:
        """``log p(x | z_{1:n})`` for n = 0 .. T; shapes as in :class:`NormalLikelihood`.

        Raises:
            ValueError: if ``sd`` is given, which a Bernoulli distribution does not have.
        """
        if sd is not None:
            raise ValueError(
                "a Bernoulli likelihood has no standard deviation. Leave likelihood_sd out, "
                "or make the model with likelihood='normal'."
            )
        canvases = self.canvases(objects).flatten(3)
        return self.log_prob_pixels(images.flatten(1).unsqueeze(1), canvases).sum(dim=-1)

    def log_prob_pixels(self, images: Tensor, canvases: Tensor) -> Tensor:
        """Log probability of each pixel given a canvas, of any shapes that broadcast."""
        lit = self.margin + (1 - 2 * self.margin) * canvases
        return images * lit.log() + (1 - images) * (1 - lit).log()


def make_likelihood(config: AIRConfig) -> NormalLikelihood | BernoulliLikelihood:
    """The likelihood that a model's settings ask for."""
    if config.likelihood == "bernoulli":
        return BernoulliLikelihood()
    kind = UnionNormalLikelihood if config.overlap == "union" else NormalLikelihood
    return kind(config.likelihood_sd)


class GenerativeModel(nn.Module):
    """p(n) p(z_where) p(z_what) p(x | z): Section 2 of Eslami et al. (2016).

    Args:
        prior: the prior over the latents.
        decoder: from z_what to a decoded glimpse.
        likelihood: from placed objects to log p(x | z).
        canvas_size: ``(H, W)``.
    """

    def __init__(
        self,
        *,
        prior: PriorNetwork,
        decoder: GlimpseDecoder,
        likelihood: NormalLikelihood | BernoulliLikelihood,
        canvas_size: tuple[int, int],
    ) -> None:
        super().__init__()
        self.prior = prior
        self.decoder = decoder
        self.likelihood = likelihood
        self.canvas_size = canvas_size

    def render(self, z_where: Tensor, z_what: Tensor) -> Tensor:
        """Decode objects and place each on a canvas of its own.

        Args:
            z_where: ``(*, T, 3)``.
            z_what: ``(*, T, D)``.

        Returns:
            ``(*, T, C, H, W)``.
        """
        return place_objects(self.decoder(z_what), z_where, self.canvas_size)

    def canvases(self, objects: Tensor) -> Tensor:
        """Mean of p(x | z_{1:n}) for n = 0 .. T: ``(*, T + 1, C, H, W)``."""
        return self.likelihood.canvases(objects)

    def log_likelihood(
        self, images: Tensor, objects: Tensor, sd: float | Tensor | None = None
    ) -> Tensor:
        """``log p(x | z_{1:n})`` for n = 0 .. T: ``(K, B, T + 1)``."""
        return self.likelihood(images, objects, sd)

    def sample(self, num_images: int, prior: Prior, num_objects: Tensor | None = None) -> Sample:
        """Draw scenes.

        Args:
            num_images: N.
            prior: the prior to draw from.
            num_objects: how many objects each scene shall have, int64 ``(N,)``; drawn from the
                prior if not given.
        """
        max_objects = prior.num_steps.max_objects
        if num_objects is None:
            num_objects = prior.num_steps.sample((num_images,))
        z_where = prior.z_where.sample((num_images, max_objects))
        z_what = prior.z_what.sample((num_images, max_objects))
        canvases = self.canvases(self.render(z_where, z_what))
        rows = torch.arange(num_images, device=z_where.device)
        return Sample(
            images=canvases[rows, num_objects],
            num_objects=num_objects,
            z_where=z_where,
            z_what=z_what,
        )


class Canvas:
    """A canvas that objects are put on one after another, as they are found.

    Args:
        generative: decodes and places them.
    """

    def __init__(self, generative: GenerativeModel) -> None:
        self._generative = generative
        self._objects: list[Tensor] = []
        self._pixels: Tensor | None = None

    def add(self, z_where: Tensor, z_what: Tensor) -> Tensor:
        """Put one more object on the canvas.

        Args:
            z_where: ``(*, 3)``.
            z_what: ``(*, D)``.

        Returns:
            The mean of p(x | the objects so far), ``(*, C, H, W)``.
        """
        placed = self._generative.render(z_where, z_what)
        before = self._pixels
        after = placed if before is None else self._generative.likelihood.overlay(before, placed)
        self._objects.append(placed)
        self._pixels = after
        return after

    def gain(
        self, glimpses: Tensor, residuals: Tensor, z_where: Tensor, z_what: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What objects would add to the log-likelihood, and what perfect ones would.

        Measured on the pixels of their glimpses, each for as many pixels of the canvas as it
        stands for: no object is placed on a canvas.

        Args:
            glimpses: of the image at the objects' poses, ``(*, C, h, w)``.
            residuals: of image less canvas there, ``(*, C, h, w)``.
            z_where: ``(*, 3)``.
            z_what: ``(*, D)``.

        Returns:
            Two numbers of nats, each ``(*)``.
        """
        generative = self._generative
        height, width = generative.canvas_size
        pixels = (height * width) / (glimpses.shape[-2] * glimpses.shape[-1])
        area = pixels / z_where[..., 0].square()
        gains = generative.likelihood.gain(
            glimpses, glimpses - residuals, generative.decoder(z_what)
        )
        return area * gains[0], area * gains[1]

    @property
    def objects(self) -> Tensor:
        """Each object on a canvas of its own, ``(*, T, C, H, W)``."""
        return torch.stack(self._objects, dim=-4)
