"""All that a run is continued from: collected into plain tensors and numbers, and put back."""

import platform
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments import distributed
from experiments.checkpoints import Training
from experiments.files import DamagedFileError, is_number


@dataclass(eq=False)
class Position:
    """Where in the data a run is."""

    epoch: int = 0
    """From 1 on; 0 before the first."""
    batch: int = 0
    """Batches of this epoch that were taken."""
    order: Tensor | None = None
    """Of this epoch, as the loader drew it; None before the first."""


def random_state(device: torch.device) -> Training:
    """The states of all generators of random numbers: torch's, CUDA's, numpy's, Python's."""
    kind, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002
    version, words, next_gauss = random.getstate()
    tensors = {
        "random.torch": torch.get_rng_state(),
        "random.numpy": torch.from_numpy(np.asarray(keys, dtype=np.int64)),
        "random.python": torch.tensor(words, dtype=torch.int64),
    }
    if device.type == "cuda":
        tensors["random.cuda"] = torch.cuda.get_rng_state(device)
    facts = {
        "numpy": [kind, int(position), int(has_gauss), float(gauss)],
        "python": [version, next_gauss],
    }
    return Training(tensors=tensors, facts=facts)


def set_random_state(state: Training, device: torch.device) -> None:
    """Put back what :func:`random_state` collected.

    Raises:
        DamagedFileError: if it is not that.
    """
    tensors = state.tensors
    try:
        kind, position, has_gauss, gauss = state.facts["numpy"]
        version, next_gauss = state.facts["python"]
        keys = tensors["random.numpy"].numpy().astype(np.uint32)
        if not 0 <= position <= 624:  # numpy itself would read outside of its keys
            raise ValueError(f"numpy's position {position}")
        np.random.set_state((kind, keys, position, has_gauss, gauss))  # noqa: NPY002
        random.setstate((version, tuple(tensors["random.python"].tolist()), next_gauss))
        torch.set_rng_state(tensors["random.torch"])
        if device.type == "cuda" and "random.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["random.cuda"], device)
    except (KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise DamagedFileError(f"the saved random state is none: {error}") from error


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's tensors, named ``optimizer.<parameter>.<name>``."""
    return {
        f"optimizer.{number}.{name}": tensor
        for number, entry in optimizer.state_dict()["state"].items()
        for name, tensor in entry.items()
    }


def set_optimizer_state(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put back what :func:`optimizer_state` collected.

    Raises:
        DamagedFileError: if it is of other parameters.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for full_name, tensor in tensors.items():
        prefix, _, rest = full_name.partition(".")
        if prefix != "optimizer":
            continue
        number, _, name = rest.partition(".")
        known = number.isdecimal() and int(number) < len(parameters)
        # A tensor of Adam's is a count of steps, or has its parameter's shape.
        if not known or (tensor.dim() > 0 and tensor.shape != parameters[int(number)].shape):
            raise DamagedFileError(f"the saved optimiser's {full_name} is of another model.")
        state.setdefault(int(number), {})[name] = tensor
    expected = {"step", "exp_avg", "exp_avg_sq"}
    if state and (
        len(state) != len(parameters) or any(set(entry) != expected for entry in state.values())
    ):
        raise DamagedFileError("the saved optimiser is another one, or of another model.")
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def position_state(position: Position) -> Training:
    """A position in the data."""
    tensors = {} if position.order is None else {"order": position.order}
    return Training(tensors=tensors, facts={"epoch": position.epoch, "batch": position.batch})


def read_position(state: Training, loader: Any) -> Position:
    """The inverse of :func:`position_state`.

    Args:
        state: to be read.
        loader: of the training data.

    Raises:
        DamagedFileError: if it does not fit the data.
    """
    order = state.tensors.get("order")
    epoch: Any = state.facts.get("epoch")
    batch: Any = state.facts.get("batch")
    plain = isinstance(epoch, int) and isinstance(batch, int) and (order is not None or not epoch)
    if not plain or epoch < 0 or not 0 <= batch <= len(loader):
        raise DamagedFileError(f"the saved position, batch {batch} of {len(loader)}, is none.")
    if order is not None:
        try:
            loader.check_order(order)
        except (ValueError, RuntimeError) as error:
            raise DamagedFileError(f"the saved order is none: {error}.") from error
    return Position(epoch=epoch, batch=batch, order=order)


def machine(device: torch.device) -> dict[str, Any]:
    """What the bits of a run depend on, besides its settings."""
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else platform.processor() or "cpu",
        "device_type": device.type,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "processes": distributed.world_size(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def differences(saved: object, now: dict[str, Any]) -> list[str]:
    """Why a continued run will not have the same bits, a line each."""
    if not isinstance(saved, dict):
        return ["it is not known on which machine the run began"]
    several = ["only process 0's random numbers were saved"] if now["processes"] > 1 else []
    return several + [
        f"{name}: {saved.get(name)} before, {value} now"
        for name, value in now.items()
        if saved.get(name) != value
    ]


def number(facts: dict[str, Any], name: str, check: Callable[[Any], bool]) -> Any:
    """A number among saved facts.

    Raises:
        DamagedFileError: if it is missing, of another type, or not as ``check`` wants it.
    """
    value = facts.get(name)
    if not is_number(value) or not check(value):
        raise DamagedFileError(f"the saved {name}, {value!r}, makes no sense.")
    return value
