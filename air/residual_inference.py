r"""The inference network that looks where the image is not explained yet.

The paper's network regresses every pose from one vector of all pixels. It finds two large objects;
with more, or small ones, it puts boxes between them. This one divides the work. At step t:

1. **Residual.** r = x - canvas of the objects drawn so far (as difference AIR, section 3.1 of
   Eslami et al., 2016). At the first step it is the image.
2. **Candidates.** Saliency is what is left (r, negative parts cut off), blurred over a window of
   about half an object. Its M highest local maxima are places where an object may be. Where the
   prior allows objects of different sizes, there are two saliencies and two sizes of windows, each
   with half of the M places.
3. **A look** at each: a window of image and residual around it, twice as large as an object, goes
   through two convolutions to a pose: an offset of the place, a scale, and their standard
   deviations.
4. **Choice.** Each candidate's object is encoded and decoded at its means, and its worth is what it
   would add to the bound: its gain in log-likelihood less the KL of its latents. The best is taken.
   It is greedy matching pursuit, with a learned dictionary. There are fewer candidates in training
   mode, which is enough to learn from; more of them read better.
5. The logit of "one more object" is a function of what was seen there and of that gain; pose and
   appearance are drawn as ever.

Everything up to the choice is a function of the image and of earlier latents, so q stays a
posterior, and every bound stays a bound. No gradient passes through the choice itself: the poses
and their probabilities are differentiable, the index of the best is not, so that gradients by
reparametrisation leave out what a change of the choice would do.

All of it is translation-equivariant up to the grid of the saliency (:attr:`stride` pixels), does
not depend on the step's number or the canvas' size, and costs the same at every step: T may be
raised after training, and time and memory are linear in it.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from air.distributions import normal_kl
from air.inference import InferenceNetwork, Renderer, stack_steps
from air.networks import MLP, Linear, WindowEncoder
from air.priors import Prior
from air.spatial_transformer import extract_several
from air.types import Rollout

__all__ = ["ResidualInference"]


class ResidualInference(InferenceNetwork):
    """q(n, z_where, z_what | x): look where the image is not explained yet.

    Args:
        image_shape: ``(C, H, W)``.
        z_where_mean: prior mean of (s, x, y); its scale says how large an object is.
        z_where_sd: prior sd of (s, x, y).
        num_candidates: M, the places that are compared at each step.
        train_candidates: M in training mode.
        features: size of what a look sees.
        **options: as for :class:`InferenceNetwork`.
    """

    blur_rows: Tensor
    blur_columns: Tensor

    draws_canvas = True
    window_size = 24
    """Height and width of a look's window in samples."""
    reach = 2.0
    """Size of a look's window, in objects: a neighbour that touches is seen whole."""
    blur = 0.5
    """Window of the saliency's blur, in objects. It is applied twice: a triangle as wide as an
    object. Wider ones have their maximum *between* two objects that touch."""
    max_scale = 2.5
    """How far a scale may be from the prior's mean, in its standard deviations. Unbounded ones run
    away."""

    def __init__(
        self,
        *,
        image_shape: tuple[int, int, int],
        z_where_mean: tuple[float, float, float],
        z_where_sd: tuple[float, float, float],
        num_candidates: int,
        train_candidates: int,
        features: int = 128,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        channels, height, width = image_shape
        self.num_candidates = num_candidates
        self.train_candidates = train_candidates
        self.scale_sd = z_where_sd[0]
        self.scales = _scales(z_where_mean[0], self.scale_sd)
        self.scale_reach = self.max_scale * self.scale_sd - (self.scales[-1] - z_where_mean[0])
        sizes = [min(height, width) / scale for scale in self.scales]
        self.stride = max(1, round(min(sizes) / 8))
        kernels = [max(3, int(self.blur * size / self.stride) // 2 * 2 + 1) for size in sizes]
        for name, pixels in (("blur_rows", height), ("blur_columns", width)):
            blurs = torch.stack([_blur(pixels, self.stride, kernel) for kernel in kernels])
            self.register_buffer(name, blurs, persistent=False)
        self.look = WindowEncoder(2 * channels, self.window_size, features)
        self.pose = Linear(features, 6)
        self.presence = MLP(features + 3, (50,), 1)
        self._start_at_prior()

    @torch.no_grad()
    def _start_at_prior(self) -> None:
        """Begin with q(z_what) at its prior, poses at the candidates, objects rather than none.

        An object then costs its pose and little else, less than even a grey smudge gains. With the
        usual weights it costs more than it gains, and q(n) is at 0 within 100 steps.
        """
        self.pose.weight.mul_(0.1)
        self.pose.bias.zero_()
        presence, what = self.presence[-1], self.encoder.mlp[-1]
        assert isinstance(presence, Linear)
        assert isinstance(what, Linear)
        presence.weight.mul_(0.1)
        presence.bias.fill_(2.0)
        what.weight.mul_(0.1)
        what.bias.zero_()
        what.bias[self.z_what_size :] = math.log(math.e - 1)  # softplus of it is 1

    def forward(
        self,
        images: Tensor,
        prior: Prior,
        num_samples: int = 1,
        *,
        use_means: bool = False,
        detach_samples: bool = False,
        renderer: Renderer | None = None,
    ) -> Rollout:
        """Unroll all T steps, see :meth:`InferenceNetwork.forward`.

        Raises:
            ValueError: without a renderer.
        """
        if renderer is None:
            raise ValueError(
                "this network has to see what the objects found look like: give a renderer."
            )
        noise = self.noise(images, prior, num_samples, use_means)
        images = images.expand(num_samples, *images.shape)
        residual = images
        steps = []
        for step_noise in noise:
            seen = torch.cat([images, residual], dim=-3)
            place, worth = self.choose(seen.detach(), prior, renderer)
            features, z_where_mean, z_where_sd = self.look_at(seen, place.unsqueeze(-2))
            logit = self.presence(torch.cat([features.squeeze(-2), worth], dim=-1)).squeeze(-1)
            step = self.attend(
                images,
                logit,
                z_where_mean.squeeze(-2),
                z_where_sd.squeeze(-2),
                step_noise,
                detach_samples,
            )
            steps.append(step)
            canvas = renderer.add(step.z_where, step.z_what)
            residual = images - (canvas.detach() if detach_samples else canvas)
        return stack_steps(steps)

    def saliency(self, residual: Tensor) -> Tensor:
        """What is left, blurred for S sizes: ``(*, S, H / stride, W / stride)``.

        Args:
            residual: ``(*, C, H, W)``.
        """
        left = residual.clamp(min=0).mean(dim=-3, keepdim=True)
        return self.blur_rows @ left @ self.blur_columns.mT

    def candidates(self, residual: Tensor) -> Tensor:
        """The highest maxima of the saliency at each size, M in all.

        Args:
            residual: ``(*, C, H, W)``.

        Returns:
            Places to look at: scale, and centre ``(x, y)`` in [-1, 1]: ``(*, M, 3)``.
        """
        saliency = self.saliency(residual)
        height, width = residual.shape[-2:]
        num_sizes, rows, columns = saliency.shape[-3:]
        maps = saliency.reshape(-1, 1, rows, columns)
        is_peak = F.max_pool2d(maps, 3, stride=1, padding=1) == maps
        # Where there are fewer peaks than are asked for, the rest are the highest other cells.
        highest = maps.amax(dim=(-2, -1), keepdim=True)
        score = torch.where(is_peak & (maps > 0), maps + highest, maps).flatten(1)
        wanted = self.train_candidates if self.training else self.num_candidates
        number = min(-(-wanted // num_sizes), rows * columns)
        cells = score.topk(number, dim=1).indices.view(-1, num_sizes, number)
        pixels = torch.stack([cells % columns, cells // columns], dim=-1).to(residual) + 0.5
        centres = pixels * (2 * self.stride) / pixels.new_tensor([width, height]) - 1
        scales = centres.new_tensor(self.scales)[:, None, None].expand(*centres.shape[:-1], 1)
        places = torch.cat([scales, centres], dim=-1).flatten(1, 2)
        return places.unflatten(0, residual.shape[:-3])

    def look_at(self, seen: Tensor, places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What is seen around some places, and the pose that it suggests.

        Args:
            seen: image and residual, ``(K, B, 2 * C, H, W)``.
            places: of :meth:`candidates`, ``(K, B, M, 3)``.

        Returns:
            Features ``(K, B, M, F)``, mean and standard deviation of z_where, ``(K, B, M, 3)``.
        """
        scale, centre = places.split([1, 2], dim=-1)
        pose = torch.cat([scale, -scale * centre], dim=-1) / self.reach
        features = self.look(extract_several(seen, pose, (self.window_size,) * 2))
        offset, size, raw_sd = self.pose(features).split([2, 1, 3], dim=-1)
        centre = centre + offset.tanh() / scale
        scale = scale + self.scale_reach * size.tanh()
        # In units of the prior's sd for the scale, of half an object for the place.
        sd_scale, sd_place = (raw_sd - 1.5).sigmoid().split([1, 2], dim=-1)
        z_where_sd = torch.cat([(0.02 + sd_scale) * self.scale_sd, 0.02 + 0.5 * sd_place], dim=-1)
        return features, torch.cat([scale, -scale * centre], dim=-1), z_where_sd

    @torch.no_grad()
    def choose(self, seen: Tensor, prior: Prior, renderer: Renderer) -> tuple[Tensor, Tensor]:
        """The candidate whose object would raise the bound most.

        Returns:
            Its place ``(K, B, 3)``, and its value, its gain and how much is left at its place,
            each ``asinh(nats / 10)``, which is linear up to some tens of nats and logarithmic
            beyond: ``(K, B, 3)``.
        """
        channels = seen.shape[-3] // 2
        places = self.candidates(seen[..., channels:, :, :])
        _, z_where, z_where_sd = self.look_at(seen, places)
        glimpses, residuals = extract_several(seen, z_where, self.glimpse_size).chunk(2, dim=-3)
        z_what, z_what_sd = self.encoder(glimpses)
        gain, left = renderer.gain(glimpses, residuals, z_where, z_what)
        kl = normal_kl(z_where, z_where_sd, prior.z_where).sum(dim=-1)
        value = gain - kl - normal_kl(z_what, z_what_sd, prior.z_what).sum(dim=-1)
        best = value.argmax(dim=-1, keepdim=True)
        worth = torch.stack([value, gain, left], dim=-1)
        chosen = [
            field.gather(2, best.unsqueeze(-1).expand(-1, -1, -1, field.shape[-1])).squeeze(2)
            for field in (places, worth)
        ]
        return chosen[0], (chosen[1] / 10).asinh()


def _scales(mean: float, sd: float) -> tuple[float, ...]:
    """Scales to look for objects at: one where all are of about one size, else two.

    The lower is at least half of the mean, however wide the prior: a scale is above 0.
    """
    return (mean,) if sd < 0.12 * mean else (max(mean - sd, mean / 2), mean + sd)


def _blur(size: int, stride: int, kernel: int) -> Tensor:
    """The matrix that averages ``stride`` pixels a cell, then twice ``kernel`` cells."""
    cells = -(-size // stride)
    pixel = torch.arange(size) // stride
    pool = (torch.arange(cells)[:, None] == pixel).float()
    pool /= pool.sum(dim=1, keepdim=True)
    box = ((torch.arange(cells)[:, None] - torch.arange(cells)).abs() <= kernel // 2).float()
    return box @ box @ pool / kernel**2
