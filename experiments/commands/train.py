"""``train``: train a model on a data set."""

import argparse

from experiments import distributed
from experiments.experiment import AIRExperiment
from experiments.trainer import Trainer

DESCRIPTION = """\
Train AIR on a data set of scenes. With no flag: the recommended settings on the embedded digits,
some minutes on two CPU cores. Metrics, pictures, TensorBoard logs and the model land in
output/<run>. Labels are never used to train, only to measure."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``train``."""
    AIRExperiment.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Train; returns the exit status."""
    with distributed.processes(cuda=not args.no_cuda):
        return _train(args)


def _train(args: argparse.Namespace) -> int:
    trainer = Trainer(AIRExperiment(args))
    metrics = trainer.run()
    print(
        f"Held-out count accuracy {metrics['count_accuracy_mode']:.2%} at the posterior's mode, "
        f"{metrics['count_accuracy']:.2%} in one draw; ELBO {metrics['elbo']:.1f} nats."
    )
    if trainer.run_folder:
        print(
            f"Model, metrics and pictures: {trainer.run_folder.folder}\n"
            f"Next: python main.py evaluate --load {trainer.run_folder.name}"
        )
    return 0
