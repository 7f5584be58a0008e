"""What one training step costs a GPU, counted and not measured: operations, bytes, kernels.

``python -m experiments.benchmarks.gpu_cost`` runs the step on PyTorch's ``meta`` device, which
takes the path of any device that is not the CPU but computes nothing, and counts what happens.
From that come a floor, a roofline of these very kernels, and what the gaps between them make of
it, for a GPU with the figures in :class:`GPU`.
"""

import argparse
import contextlib
import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from air.estimators import ESTIMATORS
from experiments.ensemble import StackedStep
from experiments.experiment import AIRExperiment
from experiments.step import CudaGraphStep, EagerStep


@dataclass(frozen=True, kw_only=True)
class GPU:
    """The figures that the times are reckoned with: one H200 by its data sheet."""

    flops: dict[str, float]
    """Operations a second in matrix products, dense, by number format."""
    bandwidth: float
    """Bytes a second from and to memory."""
    eager_launch: float
    """Seconds that the host needs to launch one kernel from PyTorch."""
    graph_launch: float
    """Seconds from kernel to kernel within a CUDA graph."""


H200 = GPU(
    flops={"float32": 67e12, "tf32": 495e12, "bf16": 989e12},
    bandwidth=4.8e12,
    eager_launch=4.5e-6,
    graph_launch=1.5e-6,
)

ADAM_BYTES = 7 * 4
"""Bytes of memory a parameter costs Adam: p, g, m and v are read, p, m and v written."""

_NO_KERNEL = {"detach", "alias", "lift_fresh", "_unsafe_view", "_reshape_alias"}
_KERNELS = {"select_backward": 2, "slice_backward": 2, "constant_pad_nd": 2, "logsumexp": 6}
"""Kernels of the operations that have more than one: most fill, then copy into it."""


class Count(TorchDispatchMode):
    """Counts what is done while it is active.

    Attributes:
        kernels: of each operation, an estimate.
        flops: in matrix products; all else is small beside them and bound by memory.
        bytes: read and written by the kernels, each on its own: nothing stays in a cache.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kernels: Counter[str] = Counter()
        self.flops = 0
        self.bytes = 0
        self._calls: list[tuple[int, int, int]] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        out = function(*args, **kwargs)
        name = function._schema.name.removeprefix("aten::")
        returns = [one.alias_info for one in function._schema.returns]
        is_view = any(info is not None and not info.is_write for info in returns)
        if is_view or name in _NO_KERNEL or "empty" in name or name.startswith("profiler::"):
            return out
        flops = 0
        if function.overloadpacket in flop_registry:
            flops = flop_registry[function.overloadpacket](*args, **kwargs, out_val=out)
        size = sum(map(_bytes, tree_leaves((args, kwargs, out))))
        self.add(name, flops, size, _KERNELS.get(name, 1))
        return out

    def add(self, name: str, flops: int, size: int, kernels: int) -> None:
        """Count one operation."""
        self.kernels[name] += kernels
        self.flops += flops
        self.bytes += size
        self._calls.append((kernels, flops, size))

    def seconds(self, flops: float, bandwidth: float, launch: float = 0.0) -> float:
        """Sum over the kernels of the longest of arithmetic, memory and launch."""
        return sum(
            max(number * launch, done / flops, moved / bandwidth)
            for number, done, moved in self._calls
        )


@dataclass(frozen=True, kw_only=True)
class StepCost:
    """What one step costs. Times in seconds."""

    batch_size: int
    num_seeds: int
    flops: int
    """In matrix products, forward and backward."""
    kernels: int
    """Launches, an estimate."""
    bytes: int
    """Read and written by all kernels, Adam's included, nothing cached."""
    least_bytes: int
    """Parameters and images alone: each weight once a pass, its gradient once, and Adam."""
    floor: dict[str, float]
    """The larger of arithmetic at the peak and ``least_bytes``: every kernel fused, by format."""
    roofline: dict[str, float]
    """Sum over the kernels of the larger of arithmetic and ``bytes``: these kernels, no gaps."""
    graph: dict[str, float]
    """The same where no kernel takes less than the way from one to the next in a graph."""
    eager: dict[str, float]
    """The same where no kernel takes less than its launch from PyTorch."""

    def images_per_s(self, seconds: float) -> float:
        """Of all seeds together."""
        return self.batch_size * self.num_seeds / seconds


def step_cost(batch_size: int, num_seeds: int = 1, *, gpu: GPU = H200, **settings: Any) -> StepCost:
    """Count one training step.

    Args:
        batch_size: images a step and seed.
        num_seeds: seeds trained at once.
        gpu: the figures to reckon with.
        **settings: of the experiment, as for ``AIRExperiment.default_args``.
    """
    # The paper's network: PyTorch cannot count another's convolutions for several seeds at once.
    settings = {"inference": "paper"} | settings
    args = AIRExperiment.default_args(batch_size=batch_size, **settings)
    experiment = AIRExperiment(args)
    with contextlib.redirect_stdout(io.StringIO()):
        experiment.setup(torch.device("meta"))
    step = EagerStep(experiment)
    x, y = experiment.dataloaders.train.buffers()
    if num_seeds > 1:
        step = StackedStep(experiment, [experiment.model] * num_seeds)
        x, y = (one.new_empty(num_seeds, *one.shape) for one in (x, y))
    parameters = sum(
        one.numel() for group in experiment.optimizer.param_groups for one in group["params"]
    )
    CudaGraphStep(step)._hold_schedules()
    # Adam knows no meta device. It has two kernels, the steps' counters and the fused update.
    experiment.optimizer.step = lambda: None
    step.update(x, y)  # makes the sums of the metrics
    with Count() as count:
        step.update(x, y)
    adam = parameters * ADAM_BYTES
    count.add("fused_adam", 0, adam, 2)
    # Twice read (forward, backward), once written (the gradient); the images are bytes.
    least = adam + 3 * 4 * parameters + x.numel()

    def seconds(launch: float) -> dict[str, float]:
        return {
            name: count.seconds(peak, gpu.bandwidth, launch) for name, peak in gpu.flops.items()
        }

    return StepCost(
        batch_size=batch_size,
        num_seeds=num_seeds,
        flops=count.flops,
        kernels=count.kernels.total(),
        bytes=count.bytes,
        least_bytes=least,
        floor={
            name: max(count.flops / peak, least / gpu.bandwidth) for name, peak in gpu.flops.items()
        },
        roofline=seconds(0.0),
        graph=seconds(gpu.graph_launch),
        eager=seconds(gpu.eager_launch),
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(prog="python -m experiments.benchmarks.gpu_cost")
    parser.add_argument("--batch-sizes", metavar="N", type=int, nargs="+", default=[64, 1024])
    parser.add_argument("--num-seeds", metavar="N", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--estimator", choices=sorted(ESTIMATORS), default="enumerate")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args(argv)
    costs = [
        step_cost(batch_size, num_seeds, estimator=args.estimator)
        for num_seeds in args.num_seeds
        for batch_size in args.batch_sizes
    ]
    if args.json:
        print(json.dumps([asdict(cost) for cost in costs]))
        return
    for cost in costs:
        print(_describe(cost))


def _describe(cost: StepCost) -> str:
    def times(seconds: dict[str, float]) -> str:
        return ", ".join(
            f"{name} {value * 1e6:,.0f} us ({cost.images_per_s(value):,.0f} images/s)"
            for name, value in seconds.items()
        )

    return (
        f"{cost.num_seeds} seed(s), batch {cost.batch_size}, {cost.kernels} kernels\n"
        f"  arithmetic  {cost.flops / 1e9:,.2f} GFLOP\n"
        f"  memory      {cost.bytes / 1e6:,.0f} MB by all kernels, "
        f"{cost.least_bytes / 1e6:,.0f} MB of them parameters, Adam and images\n"
        f"  floor       {times(cost.floor)}\n"
        f"  roofline    {times(cost.roofline)}\n"
        f"  as a graph  {times(cost.graph)}\n"
        f"  eager       {times(cost.eager)}"
    )


def _bytes(value: object) -> int:
    if not isinstance(value, Tensor) or value.numel() == 0:
        return 0
    # An expanded tensor is read from where it lies once.
    sizes = zip(value.shape, value.stride(), strict=True)
    return value.element_size() * int(torch.tensor([n for n, s in sizes if s] or [1]).prod())


if __name__ == "__main__":
    main()
