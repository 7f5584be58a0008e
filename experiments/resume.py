"""Continue a run: its saved settings, and which of them may be changed."""

import argparse
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from air import AIR, AIRConfig, make_estimator
from experiments.arguments import complete_recipe, make_absolute
from experiments.boilr_model import AIRModel, check_shapes
from experiments.checkpoints import Checkpoint
from experiments.datasets.sources import check_dataset
from experiments.experiment import AIRExperiment, make_config
from experiments.files import DamagedFileError
from experiments.runs import Run

_FROM_DATA = ("likelihood_sd", "z_where_mean", "z_where_sd")
"""Settings that a run finds in its data where they are not given."""

_NONE = "none on the weights"
_LENGTH = "learning rates and schedules follow the new length from here on"
_OTHER_BITS = "sums are rounded otherwise: not the same bits"
_OTHER_RUN = "another run from here on"

CHANGEABLE = {
    "max_steps": _LENGTH,
    "max_epochs": _LENGTH,
    "lr": _OTHER_RUN,
    "baseline_lr": _OTHER_RUN,
    "max_grad_norm": _OTHER_RUN,
    "on_nan": "what happens at the next breakdown",
    "train_log_every": _NONE,
    "test_log_every": _NONE,
    "test_imgs_every": _NONE,
    "checkpoint_every": _NONE,
    "loglikelihood_every": _NONE,
    "loglikelihood_samples": _NONE,
    "test_batch_size": _NONE,
    "keep_checkpoint_max": _NONE,
    "threads": _OTHER_BITS,
    "no_cuda": _OTHER_BITS,
    "cuda_graph": _OTHER_BITS,
    "compile": _OTHER_BITS,
    "precision": _OTHER_BITS,
    "deterministic": _OTHER_BITS,
    "output": _NONE,
    "data_root": _NONE,
    "mnist_root": _NONE,
}
"""Settings that a continued run may change, and what that does."""

_IGNORED = {"resume", "run_name", "dry_run"}


@dataclass(frozen=True)
class Change:
    """A setting that differs from the saved one."""

    name: str
    before: Any
    now: Any

    @property
    def effect(self) -> str:
        """What it does to the run."""
        return CHANGEABLE[self.name]


def resumed_args(output: str, name: str, **changes: Any) -> tuple[argparse.Namespace, list[Change]]:
    """The settings of a saved run, some of them changed.

    Args:
        output: folder of all runs.
        name: of the run, or ``latest``.
        **changes: settings that win over the saved ones.

    Returns:
        The settings, with ``resume`` naming the run, and what differs from the saved ones.

    Raises:
        FileNotFoundError: if there is no such run.
        ValueError: if a change is not allowed, or the saved settings make no sense.
    """
    run = Run.find(output, name)
    saved = read_settings(run)
    changes = {key: value for key, value in changes.items() if key not in _IGNORED}
    if "test_log_every" in changes and saved.test_imgs_every == saved.test_log_every:
        changes.setdefault("test_imgs_every", changes["test_log_every"])
    args = argparse.Namespace(**{**vars(saved), **changes})
    make_absolute(args)
    found = changed_settings(saved, args)
    args.resume, args.output = run.name, output
    return args, found


def changed_settings(saved: argparse.Namespace, args: argparse.Namespace) -> list[Change]:
    """What differs between two settings; those that are found in the data are taken over.

    Raises:
        ValueError: if a setting differs that must not.
    """
    for name in _FROM_DATA:
        if getattr(args, name, None) is None:
            setattr(args, name, getattr(saved, name, None))
    found = [
        Change(name, before, now)
        for name, now in vars(args).items()
        if name not in _IGNORED and (before := getattr(saved, name, None)) != now
    ]
    bad = [change for change in found if change.name not in CHANGEABLE]
    if bad:
        listed = ", ".join(f"{change.name} ({change.before} -> {change.now})" for change in bad)
        raise ValueError(
            f"a continued run cannot change {listed}: start a new one. "
            f"Only these can: {', '.join(sorted(CHANGEABLE))}."
        )
    return found


def format_changes(changes: list[Change]) -> str:
    """A table of what differs, or a line that says that nothing does."""
    if not changes:
        return "All settings are those of the run so far."
    rows = [("setting", "before", "now", "effect")]
    rows += [(c.name, str(c.before), str(c.now), c.effect) for c in changes]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]])
        for row in rows
    )


def read_settings(run: Run) -> argparse.Namespace:
    """The settings that a run was started with, each of its type.

    Raises:
        ValueError: if one is unknown or of another type, or the model saved beside them is not
            the one that they describe.
    """
    config = run.read_config()
    parser = argparse.ArgumentParser()
    AIRExperiment.add_arguments(parser)
    actions = {action.dest: action for action in parser._actions if action.dest != "help"}
    saved = config["args"]
    if isinstance(saved.get("likelihood_sd"), float):  # it was no schedule once
        saved["likelihood_sd"] = str(saved["likelihood_sd"])
    unknown = sorted(set(saved) - set(actions))
    if unknown:
        raise ValueError(f"{run.config_path} has unknown settings: {', '.join(unknown)}.")
    for name, value in saved.items():
        if not _fits(actions[name], value):
            raise ValueError(f"{run.config_path}: {name} cannot be {value!r}.")
    args = argparse.Namespace(**{name: action.default for name, action in actions.items()})
    vars(args).update(saved)
    make_absolute(args)
    complete_recipe(args)
    _check_model(run, args, config["air"])
    return args


def check_weights(run: Run, args: argparse.Namespace, weights: dict[str, Tensor]) -> None:
    """Check that saved weights are of the model that the settings describe, before it is made.

    Raises:
        ValueError: if they are not.
    """
    config = AIRConfig.from_dict(run.read_config()["air"])

    def make() -> AIRModel:
        return AIRModel(AIR(config), make_estimator(args.estimator, config, args.num_samples))

    check_shapes(make, weights, str(run.checkpoint_folder))


def check_saved_settings(run: Run, args: argparse.Namespace, checkpoint: Checkpoint) -> None:
    """Check the settings against those that a checkpoint was made with.

    ``config.json`` is easily edited by hand, a checkpoint has a checksum.

    Raises:
        ValueError: if a setting differs that a continued run cannot change.
    """
    saved = checkpoint.training.facts.get("settings") if checkpoint.training else None
    if not isinstance(saved, dict):
        raise DamagedFileError(f"the checkpoint of step {checkpoint.step} lacks its settings.")
    known = {name: saved.get(name, value) for name, value in vars(args).items()}
    try:
        changed_settings(argparse.Namespace(**known), args)
    except ValueError as error:
        raise ValueError(
            f"{run.config_path} is not what the checkpoint of step {checkpoint.step} was made "
            f"with: {error}"
        ) from None


def _fits(action: argparse.Action, value: object) -> bool:
    if value is None:
        return action.default is None
    if action.nargs == 0:
        return isinstance(value, bool)
    if isinstance(value, bool):
        return False
    return isinstance(value, {int: int, float: (int, float)}.get(action.type, str))  # type: ignore[call-overload]


def _check_model(run: Run, args: argparse.Namespace, saved: dict[str, Any]) -> None:
    """Check that settings and model say the same, before either is made."""
    config = AIRConfig.from_dict(saved)
    check_dataset(args.dataset)
    described = make_config(args, config.image_shape, 1).to_dict()
    # The model keeps what a schedule ends with, which the length of the run decides.
    differ = {key for key, value in config.to_dict().items() if described[key] != value}
    differ -= {"continue_prob", "likelihood_sd"}
    if differ:
        raise ValueError(
            f"{run.config_path}: settings and model do not fit in {', '.join(sorted(differ))}."
        )
