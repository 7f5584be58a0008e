"""Several processes that train one model: torchrun's environment, collectives, who writes.

Every process (rank) holds the whole model and sees its own part of each batch. After the
backward pass the gradients are averaged over the ranks, so that all take the step that one
process would take on the whole batch. Without torchrun there is one process, and every function
here hands back what it was given.

Why not ``DistributedDataParallel``: it wants one module whose forward gives the loss, while an
estimator's loss has two parts on two modules; its names would be in every checkpoint. An explicit
all-reduce works for whatever got a gradient. What is given up is the overlap with the backward
pass, which is worth little here: four fifths of the bytes are the weights of the image's
projection, the model's first layer, whose gradient is the last to be known. Measured on two CPU
processes with gloo, it was no slower (48 ms a step against 56 ms).
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

__all__ = [
    "TIMEOUT",
    "any_rank",
    "average_gradients",
    "average_metrics",
    "check_same",
    "from_main",
    "is_main",
    "local_batch_size",
    "local_device",
    "main_first",
    "own_part",
    "own_range",
    "processes",
    "rank",
    "same_weights",
    "spread_seeds",
    "world_size",
]

TIMEOUT = timedelta(minutes=10)
"""How long a rank waits for the others: longer than any of them is legitimately late (rank 0
makes the data set, writes checkpoints and pictures), and finite, so that a rank that hangs ends
the run with an error. A rank that dies is noticed at once, by its closed connections and by
torchrun."""

_LARGE = 1 << 16
"""Gradients of at least this many numbers travel by themselves, in place."""


@contextmanager
def processes(*, cuda: bool = False, timeout: timedelta = TIMEOUT) -> Iterator[None]:
    """Join the group of processes that torchrun started, if it did; leave it at the end.

    What other ranks than 0 print is discarded meanwhile; what they say on stderr is not.

    Args:
        cuda: whether GPUs are to be used where there are some; each rank takes its own.
        timeout: see :data:`TIMEOUT`.

    Raises:
        ValueError: if torchrun's variables are incomplete, or there are fewer GPUs than ranks.
        ConnectionError: if another rank failed, was killed or did not answer in time.
    """
    local_rank = _local_rank()
    if local_rank is None:
        yield
        return
    cuda = cuda and torch.cuda.is_available()
    if cuda:
        if local_rank >= torch.cuda.device_count():
            raise ValueError(
                f"process {local_rank} of this machine has no GPU of its own: there are "
                f"{torch.cuda.device_count()}. Start as many processes as GPUs, or give --nocuda."
            )
        torch.cuda.set_device(local_rank)
    # Small things that live on the CPU (orders, metrics) go through gloo in both cases.
    backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
    with _clear_errors():
        dist.init_process_group(backend, timeout=timeout)
    try:
        with _clear_errors(), _quiet(not is_main()):
            yield
            dist.barrier()  # nobody leaves while somebody still needs an answer
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """This process's number, 0 to ``world_size() - 1``."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this process is the one that writes and prints, also before they know each other."""
    if dist.is_initialized() or _local_rank() is None:
        return rank() == 0
    return int(os.environ["RANK"]) == 0


def local_device(*, cuda: bool) -> torch.device:
    """The device of this process.

    Args:
        cuda: whether a GPU is to be used where there is one.
    """
    if cuda and torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


@contextmanager
def main_first() -> Iterator[None]:
    """Let rank 0 do something before the others do it, such as making a file they then find."""
    if not is_main():
        dist.barrier()
    yield
    if is_main() and world_size() > 1:
        dist.barrier()


def spread_seeds(seed: int) -> None:
    """Give each rank random numbers of its own; those of rank 0 stay as they are.

    To be called when all ranks are in one random state: after the model is made, and after a
    random state was restored.

    Args:
        seed: the run's; another one (or the same and the step) at each call.
    """
    if rank() > 0:
        own = np.random.SeedSequence([seed % 2**64, rank()]).generate_state(1, np.uint64)[0]
        torch.manual_seed(int(own))  # the GPU's too


@torch.no_grad()
def same_weights(module: nn.Module) -> None:
    """Give all ranks rank 0's parameters and buffers."""
    if world_size() > 1:
        for tensor in (*module.parameters(), *module.buffers()):
            dist.broadcast(tensor, src=0)


def from_main(tensor: Tensor) -> Tensor:
    """Rank 0's values of a tensor whose shape and type all ranks know."""
    if world_size() > 1:
        dist.broadcast(tensor, src=0)
    return tensor


def check_same(facts: Mapping[str, object]) -> None:
    """Check that all ranks start from the same; to be called by all.

    Args:
        facts: by names that an error can tell, the same names on all ranks.

    Raises:
        ValueError: on all ranks, if something differs.
    """
    if world_size() == 1:
        return
    # First the names: with others, another rank would send another number of digests.
    _check_digests({"the names of the settings": list(facts)})
    _check_digests(facts)


def _check_digests(facts: Mapping[str, object]) -> None:
    texts = [repr(value).encode(errors="replace") for value in facts.values()]
    own = torch.tensor([int.from_bytes(hashlib.sha256(text).digest()[:7]) for text in texts])
    least, most = own.clone(), own.clone()
    dist.all_reduce(least, op=dist.ReduceOp.MIN)
    dist.all_reduce(most, op=dist.ReduceOp.MAX)
    odd = [name for name, same in zip(facts, (least == most).tolist(), strict=True) if not same]
    if odd:
        raise ValueError(
            f"the processes cannot train together: they differ in {', '.join(odd)}. Start all "
            "with the same command, software and data."
        )


def own_range(number: int) -> slice:
    """This rank's part of ``number`` things: parts are adjacent, and differ by one at most."""
    return slice(number * rank() // world_size(), number * (rank() + 1) // world_size())


def own_part(batch: Tensor) -> Tensor:
    """This rank's part of the first axis."""
    return batch[own_range(len(batch))]


def local_batch_size(batch_size: int) -> int:
    """This rank's part of a batch.

    Raises:
        ValueError: if the parts would differ: then their means would weigh images unequally.
    """
    if batch_size % world_size():
        raise ValueError(
            f"a batch of {batch_size} cannot be shared evenly by {world_size()} processes. "
            f"Give a --batch-size that is a multiple of {world_size()}."
        )
    return batch_size // world_size()


@torch.no_grad()
def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its mean over the ranks.

    With a loss that is a mean over equal parts of a batch, this is the whole batch's gradient.
    Parameters without a gradient are left out: which these are does not depend on the images, so
    that it is the same on all ranks.

    Args:
        parameters: of the model, the same on all ranks, in the same order.
    """
    if world_size() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    large = [gradient for gradient in gradients if gradient.numel() >= _LARGE]
    small = [gradient for gradient in gradients if gradient.numel() < _LARGE]
    # The few large ones need no copy, the many small ones no transfer each.
    transfers = [dist.all_reduce(gradient, async_op=True) for gradient in large]
    if small:
        packed = torch.cat([gradient.flatten() for gradient in small])
        dist.all_reduce(packed)
        parts = packed.split([gradient.numel() for gradient in small])
        for gradient, part in zip(small, parts, strict=True):
            gradient.copy_(part.view_as(gradient))
    for transfer in transfers:
        transfer.wait()
    torch._foreach_div_(gradients, world_size())


def any_rank(flag: Tensor) -> Tensor:
    """Raise a flag, 1 or 0, on all ranks if it is raised on one of them; in place."""
    if world_size() > 1:
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    return flag


def average_metrics(metrics: Mapping[str, float], weight: float = 1.0) -> dict[str, float]:
    """Weighted mean of each metric over the ranks; NaN if it is NaN on one of them.

    Args:
        metrics: the same names, in the same order, on all ranks.
        weight: of this rank, such as the number of images that the metrics are means over.
    """
    if world_size() == 1:
        return dict(metrics)
    sums = torch.tensor([*metrics.values(), 1.0], dtype=torch.float64) * weight
    dist.all_reduce(sums)
    means = sums[:-1] / sums[-1]
    return dict(zip(metrics, means.tolist(), strict=True))


def _local_rank() -> int | None:
    """This process's number on its machine; None where no group was started."""
    names = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return None
    missing = [name for name in names if name not in os.environ]
    if missing:
        raise ValueError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but {', '.join(missing)} is not set. "
            "Start the processes with torchrun, or unset WORLD_SIZE."
        )
    return int(os.environ["LOCAL_RANK"])


@contextmanager
def _quiet(quiet: bool) -> Iterator[None]:
    if not quiet:
        yield
        return
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        yield


@contextmanager
def _clear_errors() -> Iterator[None]:
    """Say what it means when a collective fails."""
    try:
        yield
    except RuntimeError as error:
        # gloo has no type of its own for them.
        if not (isinstance(error, dist.DistError) or "/gloo/" in str(error)):
            raise
        raise ConnectionError(
            f"process {os.environ.get('RANK')} lost another one, which failed, was killed or "
            f"did not answer in time; see its own message. ({' '.join(str(error).split())})"
        ) from error
