"""One training step: eager, or recorded once as a CUDA graph and replayed from then on.

A step has two halves. ``prepare`` is Python: it evaluates the schedules. ``update`` is work for
the device alone: forward, backward, clipping, Adam and the sums of the metrics. It reads no
number back and depends on none that changes, so it can be recorded and replayed.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from experiments import distributed
from experiments.experiment import AIRExperiment
from experiments.guard import NonFiniteGuard

Batches = Iterable[tuple[Tensor, Tensor]]
"""Images and numbers of objects, batch by batch. A loader that has ``into`` as well
(:meth:`experiments.loaders.SceneLoader.into`) spares a graph the copy of each batch."""

Recorder = Callable[[Callable[[], None]], Callable[[], None]]
"""Records the work that a function gives the device, without doing it; returns the replay."""


class EagerStep:
    """A step as PyTorch runs it, operation by operation.

    Args:
        experiment: set up; its model is trained.
        guard: keeps what is not finite from the weights; default: nobody does.
    """

    def __init__(self, experiment: AIRExperiment, guard: NonFiniteGuard | None = None) -> None:
        self.experiment = experiment
        self.guard = guard
        self.length = 0
        """Steps since the metrics were read."""
        self._names: list[str] = []
        self._sums: Tensor | None = None

    def __call__(self, x: Tensor, y: Tensor) -> None:
        """Take one step.

        Args:
            x: images, as ``AIRExperiment.forward_pass`` takes them.
            y: numbers of objects.
        """
        self.prepare()
        self.update(x, y)
        self.length += 1

    def prepare(self) -> None:
        """Evaluate what depends on the step's number: Python's half of the step."""
        self.experiment.set_schedules()

    def update(self, x: Tensor, y: Tensor) -> None:
        """The device's half of the step: no number is read from it, none is decided by Python."""
        experiment, max_norm = self.experiment, self.experiment.args.max_grad_norm
        if self.guard:
            self.guard.begin()
        results = experiment.forward_pass(x, y)
        experiment.optimizer.zero_grad()
        loss: Tensor = results.pop("loss")
        loss.backward()
        distributed.average_gradients(experiment.model.parameters())
        if self.guard:
            self.guard.inspect(loss, max_norm)
        elif max_norm is not None:
            torch.nn.utils.clip_grad_norm_(experiment.model.parameters(), max_norm)
        experiment.optimizer.step()
        self._add(results)

    def batches(
        self, loader: Batches, order: Tensor | None = None, start: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of one pass over the data, for :meth:`__call__`.

        Args:
            loader: of the training data.
            order: of the pass, from the loader's ``draw_order``; default: a new one.
            start: how many batches of an order to leave out at its beginning.
        """
        if order is None:
            return iter(loader)
        return loader.batches(order, start)  # type: ignore[attr-defined]

    def metrics(self) -> dict[str, Any]:
        """Means over the steps since the last call: the one place that waits for the device.

        Steps that the guard left out do not count; nothing is returned if these were all.
        """
        assert self._sums is not None, "no step was taken yet"
        sums = self._sums.to("cpu", copy=True)
        self._sums.zero_()
        self.length = 0
        if not sums[-1].any():
            return {}
        return dict(zip(self._names, (sums[:-1] / sums[-1]).tolist(), strict=True))

    def state(self) -> tuple[list[str], Tensor | None, int]:
        """Names, sums and number of steps since the metrics were read."""
        return self._names, self._sums, self.length

    def set_state(self, names: list[str], sums: Tensor | None, length: int) -> None:
        """Put back what :meth:`state` gave, before the first step."""
        self._names, self._sums, self.length = names, sums, length

    def _add(self, results: dict[str, Tensor]) -> None:
        values = list(results.values())
        table = torch.stack([*values, torch.ones_like(values[0])])  # the last one counts
        if self.guard:
            table = torch.where(self.guard.found.bool(), 0.0, table)
        if self._sums is None:
            self._names, self._sums = list(results), torch.zeros_like(table)
        self._sums.add_(table)


class CudaGraphStep:
    """The device's half of a step as one CUDA graph: one launch instead of some hundred.

    The first steps run eagerly on a stream of their own, as PyTorch asks for; they are steps
    like any other. Then the work is recorded, and every step after that copies its batch and
    the schedules' values to where the graph reads them, and replays it. Where recording fails,
    a line on stderr says why and the steps stay eager.

    Args:
        step: the step to record; of one model or of many.
        warm_up: how many steps to take before recording, at least one: Adam makes its moments
            at the first, and a graph would make them anew at each replay.
        record: how to record.

    Raises:
        ValueError: if ``warm_up`` is below 1.
    """

    def __init__(
        self, step: EagerStep, *, warm_up: int = 3, record: Recorder | None = None
    ) -> None:
        if warm_up < 1:
            raise ValueError(f"warm_up must be at least 1, got {warm_up}.")
        self.step = step
        self.experiment = step.experiment
        self.warm_up = warm_up
        self.recorded = 0
        """How many times the work was recorded: once, unless what it writes to was exchanged."""
        self.failed = False
        """Whether recording failed, and the steps stay eager."""
        self._record = record_cuda_graph if record is None else record
        self._inputs: tuple[Tensor, Tensor] | None = None
        self._replay: Callable[[], None] | None = None
        self._addresses: list[int] = []
        self._warm = 0
        self._stream: torch.cuda.Stream | None = None

    def __call__(self, x: Tensor, y: Tensor) -> None:
        """Take one step; arguments as for :class:`EagerStep`."""
        if self._inputs is None:
            device = self.experiment.device
            self._inputs = (torch.empty_like(x, device=device), torch.empty_like(y, device=device))
        if self.failed or x.shape != self._inputs[0].shape:  # a graph has one batch size
            self.step(x, y)
            return
        for buffer, batch in zip(self._inputs, (x, y), strict=True):
            if batch is not buffer:
                buffer.copy_(batch, non_blocking=True)
        self._hold_schedules()
        self.step.prepare()
        if self._replay is not None and self._addresses != self._state_addresses():
            self._replay, self._warm = None, 0  # another optimiser state was loaded
        if self._replay is None and self._warm >= self.warm_up:
            self._try_to_record()
        if self._replay is not None:
            self._replay()
        else:
            self._run_aside()
            self._warm += 1
        self.step.length += 1

    @property
    def length(self) -> int:
        """Steps since the metrics were read."""
        return self.step.length

    def batches(
        self, loader: Batches, order: Tensor | None = None, start: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of one pass, gathered right where the graph reads them if that can be."""
        into = getattr(loader, "into", None)
        if into is None or self.failed:
            return self.step.batches(loader, order, start)
        if self._inputs is None:
            self._inputs = loader.buffers()  # type: ignore[attr-defined]
        return into(*self._inputs) if order is None else into(*self._inputs, order, start)

    def metrics(self) -> dict[str, Any]:
        """As of the recorded step."""
        return self.step.metrics()

    def state(self) -> tuple[list[str], Tensor | None, int]:
        """As of the recorded step."""
        return self.step.state()

    def set_state(self, names: list[str], sums: Tensor | None, length: int) -> None:
        """As of the recorded step."""
        self.step.set_state(names, sums, length)

    def _hold_schedules(self) -> None:
        """Keep the schedules' values on the device: a graph would repeat a Python number."""
        experiment = self.experiment
        for group in experiment.optimizer.param_groups:
            if not isinstance(group["lr"], Tensor):
                group["lr"] = torch.full((), group["lr"], device=experiment.device)
        if experiment.scheduled is None:
            like = experiment.model.air.generative.prior.z_where_mean
            experiment.scheduled = like.new_ones(3)

    def _state_addresses(self) -> list[int]:
        """Where some of what the graph reads and writes lies; loading a state replaces all."""
        optimizer, addresses = self.experiment.optimizer, []
        for group in optimizer.param_groups:
            first = group["params"][0]
            moment = optimizer.state[first].get("exp_avg", first)
            addresses += [tensor.data_ptr() for tensor in (first, moment, group["lr"])]
        return addresses

    def _run_aside(self) -> None:
        """Take the step eagerly, on a stream of its own where there are streams."""
        assert self._inputs is not None
        if self.experiment.device.type != "cuda":
            self.step.update(*self._inputs)
            return
        if self._stream is None:
            self._stream = torch.cuda.Stream()
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            self.step.update(*self._inputs)
        torch.cuda.current_stream().wait_stream(self._stream)

    def _try_to_record(self) -> None:
        inputs = self._inputs
        assert inputs is not None
        # Gradients made while recording lie in the graph's own memory, and a replay writes them
        # anew instead of adding to them.
        optimizer = self.experiment.optimizer
        optimizer.zero_grad(set_to_none=True)
        try:
            # Adam wants to be told; told too early, it warns of the steps that are not recorded.
            for group in optimizer.param_groups:
                group["capturable"] = True
            self._replay = self._record(lambda: self.step.update(*inputs))
        except RuntimeError as error:
            self.failed = True
            optimizer.zero_grad(set_to_none=True)
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            print(
                f"warning: the training step runs without a CUDA graph: {reason}", file=sys.stderr
            )
        else:
            self.recorded += 1
            self._addresses = self._state_addresses()
        finally:
            for group in optimizer.param_groups:
                group["capturable"] = False


def record_cuda_graph(work: Callable[[], None]) -> Callable[[], None]:
    """Record work on the current CUDA device as one graph; random numbers differ at each replay.

    Raises:
        RuntimeError: if the work cannot be recorded, such as for reading a number from the device.
    """
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            work()
    except BaseException:
        # Up to PyTorch 2.10 a failed recording leaves the generator waiting for its end, and
        # every later draw refused. A copy of its state has no part in that.
        generator = torch.cuda.default_generators[torch.cuda.current_device()]
        generator.graphsafe_set_state(generator.clone_state())
        raise
    return graph.replay


def make_step(
    experiment: AIRExperiment, step: EagerStep | None = None
) -> EagerStep | CudaGraphStep:
    """The step that the settings and the device ask for.

    Args:
        experiment: set up.
        step: what to take; default: a step of the experiment's one model.
    """
    step = EagerStep(experiment) if step is None else step
    # A graph would have to record the exchange of gradients between processes, too.
    alone = distributed.world_size() == 1
    wanted = experiment.args.cuda_graph and experiment.device.type == "cuda"
    if wanted and not alone and distributed.is_main():
        print("steps of several processes stay eager: no CUDA graph", file=sys.stderr)
    if wanted and alone:
        return CudaGraphStep(step)
    return step
