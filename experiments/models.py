"""Trained models by name: a run's, one that comes with the package, or a folder's."""

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import torch

from air import AIR, AIRConfig
from air.images import Preparation
from air.memory import check_memory
from air.weights import check_finite, find_folder, shipped_models
from experiments.boilr_folder import read_run_config
from experiments.boilr_model import check_shapes, read_checkpoint
from experiments.cpu import check_threads
from experiments.datasets.folder import PREFIX, parse_folder
from experiments.runs import Run

__all__ = [
    "LoadedModel",
    "add_model_arguments",
    "complete_models",
    "load_model",
    "load_run",
    "preparation_of",
]


class LoadedModel(NamedTuple):
    """A model and where it is from."""

    air: AIR
    run: Run | None
    """The run that trained it, if it is one of the output folder's."""


def add_model_arguments(
    parser: argparse.ArgumentParser, default: str | None = None, *, threads: int | None = None
) -> None:
    """Add the flags that say which model, and where it works.

    Args:
        parser: to add them to.
        default: of ``--load``, which must be given if there is none.
        threads: default of ``--threads``; none for PyTorch's choice.
    """
    load = parser.add_argument(
        "--load",
        metavar="MODEL",
        required=default is None,
        default=default,
        help="name of a run ('latest': the one started last), a folder made by save_pretrained, "
        f"or a model that comes with the package: {', '.join(shipped_models())}"
        + ("" if default is None else " (default: %(default)s)"),
    )
    load.completer = complete_models  # type: ignore[attr-defined]
    parser.add_argument(
        "--output-root",
        metavar="DIR",
        default="output",
        help="folder of all runs (default: %(default)s)",
    )
    choice = "PyTorch's choice" if threads is None else threads
    parser.add_argument(
        "--threads",
        metavar="N",
        type=int,
        default=threads,
        help=f"CPU threads (default: {choice})",
    )
    parser.add_argument("--nocuda", action="store_true", dest="no_cuda", help="do not use CUDA")


def use_device(args: argparse.Namespace) -> torch.device:
    """Where to work; sets the number of threads.

    Raises:
        ValueError: if that is below 1.
    """
    if args.threads is not None:
        check_threads(args.threads)
        torch.set_num_threads(args.threads)
    return torch.device("cuda" if torch.cuda.is_available() and not args.no_cuda else "cpu")


def load_model(name: str, output: str, device: torch.device) -> LoadedModel:
    """A trained model, in evaluation mode.

    A run in the output folder comes first, then a folder, then a model of the package.

    Args:
        name: of the run or model, or a folder.
        output: folder of all runs.
        device: where it shall be.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if its files cannot be read.
    """
    is_run = name == "latest" or (
        name not in ("", ".", "..") and Path(name).name == name and (Path(output) / name).is_dir()
    )
    if is_run:
        run = Run.find(output, name)
        _, air = load_run(run, None, device)
        return LoadedModel(air, run)
    try:
        folder = find_folder(name)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{str(error)[:-1]}; {output} holds no run of that name.") from None
    return LoadedModel(AIR.from_pretrained(folder).to(device), None)


def load_run(run: Run, step: int | None, device: torch.device) -> tuple[int, AIR]:
    """The model of a run's checkpoint, in evaluation mode, and the checkpoint's step.

    Raises:
        FileNotFoundError: if there is no such checkpoint.
        ValueError: if it cannot be read.
    """
    step, state = read_checkpoint(run.checkpoint_folder, step=step)
    settings = read_run_config(run)
    config = AIRConfig.from_dict(settings["air"])
    prefix = "air."  # the rest is the estimator's
    own = {
        name.removeprefix(prefix): tensor
        for name, tensor in state.items()
        if name.startswith(prefix)
    }
    check_shapes(lambda: AIR(config), own, f"the checkpoint of step {step}")
    check_finite(own, f"the checkpoint of step {step}")
    check_memory(config, 1, device, advice="This model cannot be used here.")
    air = AIR(config)
    air.load_state_dict(own)
    air.preparation = preparation_of(settings.get("dataset"), config.channels)
    return step, air.to(device).eval()


def preparation_of(dataset: object, channels: int) -> Preparation:
    """What must be done to images before a model reads them that this data set trained.

    Args:
        dataset: its name. ``folder:PATH`` shows the model its images as they are, whatever their
            background, and ``folder:PATH?invert=yes`` inverted.
        channels: of the model.
    """
    if isinstance(dataset, str) and dataset.startswith(PREFIX):
        return Preparation(background=(float(parse_folder(dataset).invert),) * channels)
    return Preparation()


def complete_models(
    prefix: str = "", parsed_args: argparse.Namespace | None = None, **_: Any
) -> list[str]:
    """Names that ``--load`` may be completed to, for argcomplete."""
    output = Path(getattr(parsed_args, "output_root", None) or "output")
    runs = sorted(path.parent.name for path in output.glob("*/config.json"))
    return [name for name in ["latest", *runs, *shipped_models()] if name.startswith(prefix)]
