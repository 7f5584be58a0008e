"""``train``: train a model on a data set."""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from experiments import distributed
from experiments.ensemble_trainer import EnsembleTrainer
from experiments.experiment import AIRExperiment
from experiments.help import program
from experiments.resume import format_changes, resumed_args
from experiments.trainer import Trainer

DESCRIPTION = """\
Train AIR on a data set of scenes. With no flag: the recommended settings on the embedded digits,
some minutes on two CPU cores. Metrics, pictures, TensorBoard logs and the model land in
output/<run>. Labels are never used to train, only to measure."""


EVERYDAY = (
    "--dataset",
    "--estimator",
    "--max-objects",
    "--continue-prob",
    "--run-name",
    "--output",
    "--threads",
    "--num-seeds",
    "--batch-size",
    "--lr",
    "--seed",
    "--max-steps",
    "--nocuda",
    "--resume",
)
"""What ``--help`` shows; ``--help-all`` shows the other flags too."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``train``."""
    AIRExperiment.add_arguments(parser)


def prepare(args: argparse.Namespace, argv: Sequence[str]) -> argparse.Namespace:
    """The settings of a run: those it had, if it is continued.

    Args:
        args: all settings, defaults among them.
        argv: the flags that were given.
    """
    given = given_settings(argv)
    if not args.resume:
        return args
    if given.get("num_seeds", 1) != 1:
        raise ValueError("--resume does not work with --num-seeds. Leave one of them out.")
    if "run_name" in given or "dry_run" in given:
        raise ValueError("--resume takes neither --run-name nor --dry-run.")
    given.pop("output", None)
    args, changes = resumed_args(args.output, args.resume, **given)
    if distributed.is_main():
        print(format_changes(changes))
    return args


def flags_of(settings: Mapping[str, Any]) -> str:
    """Flags of ``train`` that say some settings."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    flags = []
    for action in parser._actions:
        if action.dest in settings:
            value, names = settings[action.dest], action.option_strings
            if value is True:
                flags.append(names[0])
            elif value is not False:
                flags.append(f"{names[0]} {value}")
            elif isinstance(action, argparse.BooleanOptionalAction):  # others are off without it
                flags.append(names[-1])
    return " ".join(flags)


def given_settings(argv: Sequence[str]) -> dict[str, Any]:
    """The settings that a command line names, without the defaults."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_arguments(parser)
    for action in parser._actions:
        action.default = argparse.SUPPRESS
    return vars(parser.parse_args(argv))


def run(args: argparse.Namespace) -> int:
    """Train; returns the exit status: 143 or 130 after SIGTERM or SIGINT."""
    with distributed.processes(cuda=not args.no_cuda):
        return _train(args) if args.num_seeds == 1 else _train_many(args)


def _train(args: argparse.Namespace) -> int:
    trainer = Trainer(AIRExperiment(args))
    metrics = trainer.run()
    if trainer.stopped_by is not None:
        step, folder = trainer.experiment.model.global_step, trainer.run_folder
        print(f"Stopped by {trainer.stopped_by.name} after step {step}.")
        if folder:
            print(f"Next: {program()} train --resume {folder.name}")
        return 128 + trainer.stopped_by
    print(f"Held-out {_accuracy(metrics)}; ELBO {metrics['elbo']:.1f} nats.")
    if trainer.run_folder:
        print(
            f"Model, metrics and pictures: {trainer.run_folder.folder}\n"
            f"Next: {program()} evaluate --load {trainer.run_folder.name}"
        )
    return 0


def _train_many(args: argparse.Namespace) -> int:
    """Train several seeds at once; 1 if one of them failed."""
    if distributed.world_size() > 1:
        raise ValueError("--num-seeds trains in one process: start it without torchrun.")
    trainer = EnsembleTrainer(AIRExperiment(args))
    seeds = trainer.run()
    print(
        f"{len(seeds)} seeds, {trainer.images_per_s:,.0f} images/s together. "
        "Held-out count accuracy at the posterior's mode (in one draw), ELBO:"
    )
    for seed in seeds:
        if seed.failed_at is not None:
            print(f"seed {seed.seed}: failed at step {seed.failed_at}")
            continue
        metrics = seed.held_out
        print(
            f"seed {seed.seed}: {_both(metrics)}{metrics['elbo']:.1f} nats"
            + (f"  {seed.folder.folder}" if seed.folder else "")
        )
    return int(any(seed.failed_at is not None for seed in seeds))


def _accuracy(metrics: dict[str, float]) -> str:
    if "count_accuracy_mode" not in metrics:
        return "counts are unknown"
    return (
        f"count accuracy {metrics['count_accuracy_mode']:.2%} at the posterior's mode, "
        f"{metrics['count_accuracy']:.2%} in one draw"
    )


def _both(metrics: dict[str, float]) -> str:
    if "count_accuracy_mode" not in metrics:
        return ""
    return f"{metrics['count_accuracy_mode']:.2%} ({metrics['count_accuracy']:.2%}), "
