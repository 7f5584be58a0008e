"""Where a training step's time goes, and the least that it could take on the machine.

The floor is the larger of two times, as if each hid wholly behind the other: the arithmetic that
the model's definition asks for over the machine's rate, and the bytes that cannot stay out of
memory over the machine's bandwidth. Both rates are measured in the same process.
"""

import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity
from torch.utils.flop_counter import FlopCounterMode

from air import AIRConfig
from air.networks import Linear
from experiments.experiment import AIRExperiment

FLOAT = 4
"""Bytes of a float32."""


def arithmetic(config: AIRConfig, batch_size: int) -> dict[str, float]:
    """Floating-point operations of one training step by part, multiply and add counted as two.

    With the paper's network. One rollout of each image, the exact sum over counts. A layer costs
    the same forward, for its weights' gradient and for its input's; the image needs no gradient.
    Bilinear sampling reads four neighbours: 8 operations a pixel forward, 8 for the gradient of
    the pose, 8 for that of the sampled image where it is wanted. Arithmetic on latents alone is
    left out.
    """
    channels, height, width = config.image_shape
    canvas = channels * height * width
    glimpse = channels * config.glimpse_size[0] * config.glimpse_size[1]
    steps, hidden = config.max_objects, config.lstm_size
    rows = batch_size * steps
    latents = 3 + config.z_what_size
    return {
        "image projection": 2 * 2.0 * batch_size * canvas * 4 * hidden,
        "recurrence": 3 * 2.0 * batch_size * (steps - 1) * (latents + hidden) * 4 * hidden,
        "step predictor": 3 * _mlp(rows, [hidden, *config.predictor_hidden, 7]),
        "encoder": 3 * _mlp(rows, [glimpse, *config.encoder_hidden, 2 * config.z_what_size]),
        "decoder": 3 * _mlp(rows, [config.z_what_size, *config.decoder_hidden, glimpse]),
        "cutting glimpses": 16.0 * rows * glimpse,
        "placing objects": 24.0 * rows * canvas,
        # Residual, square and sum forward; one product and one sum backward.
        "likelihood": 5.0 * (rows + batch_size) * canvas,
    }


def _mlp(rows: int, sizes: list[int]) -> float:
    return sum(2.0 * rows * a * b for a, b in pairwise(sizes))


def traffic(config: AIRConfig, batch_size: int, num_parameters: int) -> dict[str, float]:
    """Bytes that one training step in float32 must move, by part.

    Activations are those without which the backward pass would have to compute the forward pass
    anew, each written once and read once.
    """
    channels, height, width = config.image_shape
    canvas = channels * height * width
    glimpse = channels * config.glimpse_size[0] * config.glimpse_size[1]
    kept = (
        2 * glimpse  # the glimpse, and the decoded one
        + canvas  # the residual
        + 5 * config.lstm_size  # gates and cell
        + sum(config.predictor_hidden + config.encoder_hidden + config.decoder_hidden)
        + 4 * (3 + config.z_what_size)  # mean, sd, noise and draw
    )
    return {
        "parameters, forward": FLOAT * num_parameters,
        "parameters, backward": FLOAT * (num_parameters - canvas * 4 * config.lstm_size),
        "gradients, written": FLOAT * num_parameters,
        "Adam, read": 4 * FLOAT * num_parameters,
        "Adam, written": 3 * FLOAT * num_parameters,
        "activations": 2 * FLOAT * batch_size * config.max_objects * kept,
        "images": 2 * batch_size * canvas,  # uint8, for both passes
    }


def counted_flop(experiment: AIRExperiment) -> int:
    """Operations of the matrix products that this implementation does in a step.

    Counted in float64, where every product goes through PyTorch's own operators: the counter does
    not know the quicker ones.
    """
    air, estimator = experiment.model.air, experiment.model.estimator
    loader = experiment.dataloaders.train
    images = loader.images[: loader.batch_size].double() / 255
    experiment.optimizer.zero_grad()
    experiment.model.double()
    try:
        with FlopCounterMode(display=False) as counter:
            estimator(air, images).total_loss.backward()
    finally:
        experiment.optimizer.zero_grad()
        experiment.model.float()
    return counter.get_total_flops()


def machine_rates(device: str, config: AIRConfig, batch_size: int, state: int) -> dict[str, float]:
    """What the machine attains, the best of some tries: GFLOP/s and GB/s.

    Args:
        device: ``cpu`` or ``cuda``.
        config: of the model.
        batch_size: images a step.
        state: bytes of the parameters, their gradients and Adam's state.
    """
    size = 8192 if device == "cuda" else 2048
    canvas = config.channels * config.canvas_size[0] * config.canvas_size[1]
    big = 512 << 20
    return {
        "gflops": _linear_rate(device, torch.float32, size, size, size),
        "gflops_at_projection": _linear_rate(
            device, torch.float32, batch_size, canvas, 4 * config.lstm_size
        ),
        "gflops_bf16": _linear_rate(device, torch.bfloat16, size, size, size),
        "gbytes_per_s": _copy_rate(device, big),
        # May be faster: it may fit into a cache.
        "gbytes_per_s_at_state": _copy_rate(device, state),
    }


def profile_and_floor(
    experiment: AIRExperiment, step: Callable[[], None], step_ms: float, spec: dict[str, Any]
) -> dict[str, Any]:
    """Top operators of a step, its floor, and how far it is from it."""
    device, batch_size = spec["device"], spec["batch_size"]
    operators = top_operators(step, device, spec["repeats"])
    config = experiment.model.air.config
    number = sum(p.numel() for p in experiment.model.air.parameters() if p.requires_grad)
    flop = arithmetic(config, batch_size)
    moved = traffic(config, batch_size, number)
    rates = machine_rates(device, config, batch_size, 4 * FLOAT * number)
    gflops = max(rates["gflops"], rates["gflops_at_projection"])
    gbytes = max(rates["gbytes_per_s"], rates["gbytes_per_s_at_state"])
    arithmetic_ms = sum(flop.values()) / gflops / 1e6
    traffic_ms = sum(moved.values()) / gbytes / 1e6
    return {
        "step_ms": step_ms,
        "operators": operators,
        "num_parameters": number,
        "flop": flop,
        "bytes": moved,
        "counted_flop": counted_flop(experiment),
        "rates": {name: round(value, 2) for name, value in rates.items()},
        "arithmetic_ms": round(arithmetic_ms, 4),
        "traffic_ms": round(traffic_ms, 4),
        "floor_ms": round(max(arithmetic_ms, traffic_ms), 4),
        "distance": round(step_ms / max(arithmetic_ms, traffic_ms), 3),
    }


def top_operators(
    step: Callable[[], None], device: str, steps: int, number: int = 10
) -> list[dict[str, Any]]:
    """The operators, or kernels of a GPU, with the most time of their own."""
    cuda = device == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with torch.profiler.profile(activities=activities) as profiler:
        for _ in range(steps):
            step()
        if cuda:
            torch.cuda.synchronize()
    # On a GPU its kernels: operators are not seen where a captured graph is replayed.
    events = [
        (event.self_device_time_total if cuda else event.self_cpu_time_total, event)
        for event in profiler.key_averages()
        if not cuda or event.device_type == DeviceType.CUDA
    ]
    total = sum(time for time, _ in events) or 1.0
    events.sort(key=lambda pair: -pair[0])
    return [
        {
            "operator": event.key[:80],
            "calls": round(event.count / steps, 2),
            "ms": round(time / steps / 1000, 4),
            "share": round(time / total, 4),
        }
        for time, event in events[:number]
    ]


@torch.no_grad()
def _linear_rate(device: str, dtype: torch.dtype, rows: int, inputs: int, outputs: int) -> float:
    layer = Linear(inputs, outputs).to(device, dtype)
    x = torch.rand(rows, inputs, device=device, dtype=dtype)
    return 2e-9 * rows * inputs * outputs / _best(lambda: layer(x), device)


def _copy_rate(device: str, size: int) -> float:
    source = torch.zeros(size // 2, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    return 1e-9 * 2 * len(source) / _best(lambda: target.copy_(source), device)


def _best(call: Callable[[], Tensor], device: str, seconds: float = 0.5) -> float:
    """The least seconds of a call among those that fit into a while, of three at least."""
    best, tries, end = float("inf"), 0, time.perf_counter() + seconds
    while tries < 3 or time.perf_counter() < end:
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        if tries:  # the first finds its memory and its kernel
            best = min(best, time.perf_counter() - start)
        tries += 1
    return best
