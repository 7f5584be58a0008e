r"""Normalise by the picture, not by the container: bright objects on black, whatever the camera.

For pixels I of one picture, with numbers of any range:

1. Its background b is the median of each colour, or a surface of second degree fitted to what is
   not an object, where illumination is uneven.
2. Lit spots of one or two pixels are hot pixels of a camera or dust: they take the median of their
   neighbours. No object that AIR could find is so small.
3. The noise sigma is the median absolute deviation of a second difference (Immerkaer, 1996, "Fast
   noise variance estimation"), which no background and few objects enter. Signal is what
   the mean of 3 x 3 pixels says: its own noise is sigma / 3 if pixels are independent, up to sigma
   if they are not, and is measured, too. Where that mean is below 4.5 of its standard deviations
   the picture becomes black, above 7.5 it stays; of 10 000 pictures of normal noise with 64 x 64
   pixels none passes 7.5. A picture that passes it nowhere is black.
4. The brightest mean of 3 x 3 pixels, held within a factor of 2.5 of what it was in the pictures
   that the settings were made from, becomes 0.8; a longer exposure changes nothing, and specks
   of a hundredth of an object's brightness do not become objects.
5. Where faint and bright objects lie in one set, brightness is raised to a power gamma below 1.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Measurement", "Objects", "Surface", "background_of", "measure", "noise_of", "normalise"]

Objects = Literal["as-is", "bright", "dark", "both"]
Surface = Literal["plain", "smooth"]

TYPICAL = 0.8
"""Brightness that an object gets."""
LATITUDE = 2.5
"""A picture's own brightness is believed within this factor of the set's."""
_FLOOR = 0.02
"""Noise is taken for at least this share of the objects' brightness: files without noise."""
_CLOSED, _OPEN = 4.5, 7.5
"""Standard deviations of the mean of 3 x 3 pixels, below and above which it is noise and signal."""
_HOT = 8.0
"""Standard deviations of one pixel."""
_MOST_PIXELS = 100_000
"""To take a median of."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Measurement:
    """What one picture says about itself. Units are those of its pixels."""

    level: tuple[float, ...]
    """Median of each colour."""
    noise: float
    """Standard deviation of one pixel's noise, the largest of the colours."""
    brightness: float
    """Most that a mean of 3 x 3 pixels differs from the background."""
    bright: float
    """Sum of what is above the background and the noise."""
    dark: float
    """Sum of what is below the background and the noise."""
    unevenness: float
    """How much of the deviation from the median a smooth surface explains, 0 to 1."""
    blank: bool
    """Whether nothing is above the noise."""


def measure(
    pixels: Tensor, *, surface: Surface | None = None, brightness: float = 0.0
) -> Measurement:
    """Measure a picture.

    Args:
        pixels: float, of any range, ``(C, h, w)``.
        surface: of the background; default: only the median, and whether a surface would be better.
        brightness: of the objects in other pictures, which bounds the noise from below.
    """
    plain = background_of(pixels, "plain")
    unevenness = 0.0
    background = plain
    if surface != "plain" and min(pixels.shape[1:]) >= 16:
        smooth = background_of(pixels, "smooth")
        flat, curved = _mad(pixels - plain).sum(), _mad(pixels - smooth).sum()
        # Pixels of a few grey values have no deviation: nothing to explain.
        unevenness = float(1 - curved / flat) if flat > 0 else 0.0
        background = smooth if surface == "smooth" else plain
    sigma = noise_of(pixels).clamp(min=_FLOOR * brightness)
    signal = _without_hot(pixels - background, sigma, magnitude=(pixels - background).abs())
    blurred = _blur(signal)
    z = blurred.abs() / _spread(blurred, sigma)
    gate = z > _OPEN
    sums = [float((part.clamp(min=0) * gate).sum()) for part in (blurred, -blurred)]
    return Measurement(
        level=tuple(plain.flatten().tolist()),
        noise=float(sigma.max()),
        brightness=float(blurred.abs().max()),
        bright=sums[0],
        dark=sums[1],
        unevenness=unevenness,
        blank=not bool(gate.any()),
    )


def normalise(
    pixels: Tensor,
    *,
    objects: Objects,
    surface: Surface = "plain",
    brightness: float,
    gamma: float = 1.0,
) -> Tensor:
    """Make a picture's objects bright on black; see the module.

    Args:
        pixels: float, of any range, ``(C, h, w)``.
        objects: whether they are brighter or darker than the background, or ``both``. ``as-is``
            is not for here.
        surface: of the background.
        brightness: of typical objects over their background, in units of the pixels.
        gamma: exponent, at most 1.

    Returns:
        ``(C, h, w)`` in [0, 1]; all 0 where nothing is above the noise.
    """
    signed = pixels - background_of(pixels, surface)
    if objects == "dark":
        signed = -signed
    sigma = noise_of(pixels).clamp(min=_FLOOR * brightness)
    signed = _without_hot(signed, sigma, signed.abs() if objects == "both" else signed)
    blurred = _blur(signed)
    spread = _spread(blurred, sigma)
    if objects == "both":
        signed, blurred = signed.abs(), blurred.abs()
    z = (blurred / spread).amax(dim=0)
    if z.max() < _OPEN:
        return torch.zeros_like(pixels)
    gate = ((z - _CLOSED) / (_OPEN - _CLOSED)).clamp(0, 1)
    own = min(max(float(blurred.max()), brightness / LATITUDE), brightness * LATITUDE)
    lifted = (signed.clamp(min=0) / own) ** gamma
    return (TYPICAL * lifted * gate).clamp(max=1)


def background_of(pixels: Tensor, surface: Surface) -> Tensor:
    """The background of a picture ``(C, h, w)``: ``(C, 1, 1)`` if plain, else ``(C, h, w)``."""
    if surface == "plain" or min(pixels.shape[1:]) < 16:
        return _median(pixels)[:, None, None]
    return torch.stack([_surface(channel) for channel in pixels])


def noise_of(pixels: Tensor) -> Tensor:
    """Standard deviation of the noise of each colour: ``(C, 1, 1)``."""
    if min(pixels.shape[1:]) < 3:
        return pixels.new_zeros(len(pixels), 1, 1)
    # Second differences along both axes; the squares of the weights sum to 36.
    across = pixels[..., :-2] - 2 * pixels[..., 1:-1] + pixels[..., 2:]
    both = across[:, :-2] - 2 * across[:, 1:-1] + across[:, 2:]
    return _mad(both) / 6


def _surface(channel: Tensor) -> Tensor:
    """A surface of second degree through most of a picture ``(h, w)``, for any kind of objects.

    Medians of 8 x 8 blocks are hardly touched by objects smaller than half of one; those that are,
    and then the pixels of objects, lose their weight (Tukey's biweight).
    """
    height, width = channel.shape
    size = (min(height, 64) // 8 * 8, min(width, 64) // 8 * 8)
    small = F.interpolate(channel[None, None].double(), size, mode="area")[0, 0]
    blocks = small.view(size[0] // 8, 8, size[1] // 8, 8).transpose(1, 2).flatten(2)
    medians = blocks.median(dim=-1).values
    fitted = _robust_fit(_terms(*medians.shape), medians.flatten())
    fitted = _robust_fit(_terms(*size), small.flatten(), fitted)
    y, x = _axis(height), _axis(width)
    a = fitted.tolist()
    rows = a[0] + a[1] * y + a[3] * y * y
    columns = a[2] * x + a[5] * x * x
    return (rows[:, None] + columns[None, :] + a[4] * y[:, None] * x[None, :]).to(channel)


def _axis(length: int) -> Tensor:
    """Centres of pixels from -1 to 1."""
    return (2 * torch.arange(length, dtype=torch.float64) + 1) / length - 1


def _terms(height: int, width: int) -> Tensor:
    """1, y, x, y^2, xy, x^2 at each pixel: ``(h * w, 6)``."""
    y, x = torch.meshgrid(_axis(height), _axis(width), indexing="ij")
    return torch.stack([torch.ones_like(y), y, x, y * y, x * y, x * x], dim=-1).flatten(0, 1)


def _robust_fit(terms: Tensor, values: Tensor, start: Tensor | None = None) -> Tensor:
    """Coefficients by least squares with weights that fall to 0 away from most values."""
    weights = torch.ones_like(values)
    fitted = None if start is None else terms @ start
    for _ in range(20):
        if fitted is not None:
            residuals = (values - fitted).abs()
            scale = 1.4826 * residuals.median() + 1e-6 * values.abs().max() + 1e-30
            weights = (1 - (residuals / (4.685 * scale)).square()).clamp(min=0)
        # With a little of a ridge: few blocks can lie on one line.
        root = weights[:, None]
        gram = (terms * root).T @ (terms * root)
        ridge = 1e-9 * gram.diagonal().mean() + 1e-30
        right = (terms * root).T @ (values[:, None] * root)
        found = torch.linalg.solve(gram + ridge * torch.eye(6, dtype=gram.dtype), right)[:, 0]
        before, fitted = fitted, terms @ found
        if before is not None and (fitted - before).abs().max() < 0.02 * scale:
            break
    return found


def _without_hot(signed: Tensor, sigma: Tensor, magnitude: Tensor) -> Tensor:
    """Replace lit spots of one or two pixels by the median of their 3 x 3 pixels."""
    padded = F.pad(magnitude[None], (1, 1, 1, 1))[0]
    height, width = magnitude.shape[1:]
    neighbours = torch.zeros_like(magnitude, dtype=torch.int8)
    for down in range(3):
        for right in range(3):
            if (down, right) != (1, 1):
                shifted = padded[:, down : down + height, right : right + width]
                neighbours += shifted > 0.3 * magnitude
    lit = magnitude > _HOT * sigma
    crowded = (lit & (neighbours >= 2)).float()
    hot = lit & (neighbours <= 1) & (F.max_pool2d(crowded[None], 3, 1, 1)[0] == 0)
    if not hot.any():
        return signed
    channel, row, column = hot.nonzero(as_tuple=True)
    around = F.pad(signed[None], (1, 1, 1, 1), mode="replicate")[0]
    steps = torch.arange(3)
    rows = (row[:, None] + steps)[:, :, None]
    columns = (column[:, None] + steps)[:, None, :]
    mended = signed.clone()
    mended[hot] = around[channel[:, None, None], rows, columns].flatten(1).median(dim=1).values
    return mended


def _blur(pixels: Tensor) -> Tensor:
    """Mean of 3 x 3 pixels; fewer at the edge."""
    return F.avg_pool2d(pixels[None], 3, 1, 1, count_include_pad=False)[0]


def _spread(blurred: Tensor, sigma: Tensor) -> Tensor:
    """Noise of the mean of 3 x 3 pixels, between that of independent and of equal ones."""
    return torch.minimum(torch.maximum(_mad(blurred), sigma / 3), sigma).clamp(min=1e-30)


def _median(pixels: Tensor) -> Tensor:
    flat = pixels.flatten(1)
    return flat[:, :: flat.shape[1] // _MOST_PIXELS + 1].median(dim=1).values


def _mad(pixels: Tensor) -> Tensor:
    """Standard deviation by the median absolute deviation: ``(C, 1, 1)``."""
    flat = pixels.flatten(1)
    flat = flat[:, :: flat.shape[1] // _MOST_PIXELS + 1]
    centre = flat.median(dim=1, keepdim=True).values
    return 1.4826 * (flat - centre).abs().median(dim=1).values[:, None, None]
