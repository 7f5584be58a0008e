"""How much memory a model will take, before it takes it."""

from pathlib import Path

import torch

from air.config import AIRConfig

__all__ = ["available_memory", "check_memory"]

_SMALL = 1 << 30
"""Less is always there, or what is missing shows by itself."""
_READING, _TRAINING = 8, 30
"""Measured: so many times the placed objects of all images, ``(B, T, C, H, W)`` of float32, are in
memory at the same time; with gradients more."""
_LOOK = 8000
"""Measured: so many numbers of float32 for each candidate of the residual network, whose windows
are of one size on any canvas."""
_SYSTEM = Path("/proc/meminfo")
_GROUP = Path("/sys/fs/cgroup/memory.max")


def available_memory(device: torch.device) -> int | None:
    """Bytes that can be had there; None where nobody says it."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    found = []
    try:
        lines = _SYSTEM.read_text(encoding="ascii").splitlines()
        found += [int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")]
        found.append(int(_GROUP.read_text(encoding="ascii")))
    except (OSError, ValueError):  # another system, or a group without a limit
        pass
    return min(found, default=None)


def check_memory(
    config: AIRConfig,
    num_images: int,
    device: torch.device,
    *,
    advice: str,
    gradients: bool = False,
    kept: int = 0,
    max_objects: int | None = None,
) -> None:
    """Check that a model can work on so many images at a time, before anything is allocated.

    Args:
        config: of the model.
        num_images: in work at a time, each as often as it is sampled.
        device: where.
        advice: what to change if they are too many.
        gradients: whether it is trained.
        kept: images whose placed objects are kept besides.
        max_objects: T; default: the model's own.

    Raises:
        ValueError: if that takes more memory than there is.
    """
    channels, height, width = config.image_shape
    times = num_images * (_TRAINING if gradients else _READING) + kept
    number = max_objects or config.max_objects
    looks = config.num_candidates * _LOOK if config.inference == "residual" else 0
    needed = 4 * (times * number * channels * height * width + num_images * looks)
    if needed <= _SMALL:
        return
    available = available_memory(device)
    if available is not None and needed > available:
        raise ValueError(
            f"{num_images} images at a time with up to {number} objects on a canvas of "
            f"{height} x {width} take about {needed / 1e9:.1f} GB, and {available / 1e9:.1f} GB "
            f"are available. {advice}"
        )
