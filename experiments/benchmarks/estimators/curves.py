"""``curves``: train with every estimator, several seeds, the same budget for all."""

import argparse
import contextlib
import math
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import Tensor

from experiments.benchmarks.estimators.variants import (
    PAPER,
    Variant,
    find_variants,
    registry_variants,
)
from experiments.benchmarks.record_files import read_finished, record_path, write_record
from experiments.boilr_model import AIRModel
from experiments.experiment import AIRExperiment
from experiments.loaders import load_splits
from experiments.trainer import Trainer

DESCRIPTION = """\
Train with every estimator and several seeds, testing on all held-out scenes on the way. One JSON a
finished run: started again, the command goes on at the first run that has none. A run that breaks
down is a finished one too, and counts as a failure."""

POINT = ("count_accuracy_mode", "count_accuracy", "elbo")
"""Held-out metrics that make a point of a curve."""

_SETTINGS = (
    *("batch_size", "max_steps", "test_log_every", "lr", "baseline_lr", "max_grad_norm"),
    *("max_objects", "z_what_size", "likelihood", "likelihood_sd", "continue_prob", "translate"),
    *("encoder_hidden", "decoder_hidden"),
)
"""Settings of a run that its result depends on."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``curves``."""
    parser.add_argument(
        "--seeds", metavar="LIST", default="0-4", help="such as 0-4 or 0,3 (default: %(default)s)"
    )
    parser.add_argument(
        "--max-steps",
        metavar="N",
        type=int,
        default=6_000,
        help="steps of every run (default: %(default)s)",
    )
    parser.add_argument(
        "--test-every",
        metavar="N",
        type=int,
        default=500,
        help="steps between held-out tests (default: %(default)s)",
    )
    parser.add_argument(
        "--jobs",
        metavar="J",
        type=int,
        default=1,
        help="runs side by side, in processes of their own (default: %(default)s)",
    )


@dataclass(frozen=True)
class Job:
    """One run to make: a variant, a seed, and where its record goes."""

    variant: Variant
    seed: int
    path: Path
    settings: dict[str, Any]

    @property
    def title(self) -> str:
        """For messages."""
        return f"{self.variant.name} seed {self.seed}"


def run(args: argparse.Namespace) -> int:
    """Make the runs that have no record yet; returns the exit status."""
    for name in ("max_steps", "test_every", "jobs", "threads", "batch_size"):
        if getattr(args, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(args, name)}.")
    variants = find_variants(args.estimators, registry_variants())
    seeds = parse_seeds(args.seeds)
    # Says so on stderr where another takes the asked one's place: the records bear its name.
    args.dataset = load_splits(args).name
    jobs = []
    for seed in seeds:  # seed by seed, so that a table of few seeds is there early
        for variant in variants:
            path = record_path(args.records / "curves", args.dataset, variant.name, f"seed{seed}")
            settings = run_settings(experiment_args(variant, seed, args), variant)
            if read_finished(path, settings) is None:
                jobs.append(Job(variant, seed, path, settings))
    total = len(seeds) * len(variants)
    print(f"{total - len(jobs)} of {total} runs are there already.", flush=True)
    if args.jobs > 1:
        return _run_side_by_side(jobs, args)
    for number, job in enumerate(jobs, start=1):
        record = train(job, args)
        write_record(job.path, record)
        print(f"[{number}/{len(jobs)}] {job.title}: {outcome(record)}", flush=True)
    return 0


def parse_seeds(text: str) -> list[int]:
    """Seeds from a list of numbers and ranges.

    >>> parse_seeds("0-2,7")
    [0, 1, 2, 7]

    Raises:
        ValueError: if it is none.
    """
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ValueError(f"--seeds takes numbers and ranges, such as 0-4 or 0,3; got {text!r}.")
        seeds += range(int(first), int(last if dash else first) + 1)
    if not seeds:
        raise ValueError(f"--seeds {text!r} holds no seed.")
    return list(dict.fromkeys(seeds))


def experiment_args(variant: Variant, seed: int, args: argparse.Namespace) -> argparse.Namespace:
    """Settings of one run: the experiment's own, but for what is compared."""
    return AIRExperiment.default_args(
        **{name: getattr(args, name) for name in ("dataset", "data_root", "mnist_root")},
        **{name: getattr(args, name) for name in ("batch_size", "threads", "no_cuda")},
        **PAPER,
        estimator=variant.estimator,
        num_samples=variant.num_samples,
        seed=seed,
        max_steps=args.max_steps,
        test_log_every=args.test_every,
        train_log_every=math.gcd(args.test_every, 100),  # tests must fall on it
        checkpoint_every=args.test_every,
        dry_run=True,  # the record is all that is kept
    )


def run_settings(settings: argparse.Namespace, variant: Variant) -> dict[str, Any]:
    """What a run's result depends on, besides data set and seed."""
    use_cuda = torch.cuda.is_available() and not settings.no_cuda
    return {
        **variant.settings,
        **{name: getattr(settings, name) for name in _SETTINGS},
        "device": "cuda" if use_cuda else "cpu",
        "threads": settings.threads,
    }


class CurveExperiment(AIRExperiment):
    """The experiment of a variant, which notes down the held-out tests and the time between them.

    Args:
        args: settings.
        variant: whose estimator is trained.
    """

    def __init__(self, args: argparse.Namespace, variant: Variant) -> None:
        super().__init__(args)
        self._variant = variant
        self._started: tuple[float, float] | None = None
        self.seconds = 0.0
        """Training time so far, tests excluded, by the clock."""
        self.cpu_seconds = 0.0
        """The same, as this process's CPU time: what else the machine does is no part of it."""
        self.curve: list[dict[str, float]] = []

    def _make_model(self) -> AIRModel:
        model = super()._make_model()
        if self._variant.options:
            model.estimator = self._variant.make(model.air.config)
        return model

    def forward_pass(self, x: Tensor, y: Tensor | None = None) -> dict[str, Any]:
        """As always; starts the clock unless it runs."""
        if self._started is None:
            self._started = self._now()
        return super().forward_pass(x, y)

    def test_procedure(self, iw_samples: int | None = None) -> dict[str, float]:
        """As always, with the clock stopped; adds a point to the curve."""
        if self._started is not None:
            now = self._now()
            self.seconds += now[0] - self._started[0]
            self.cpu_seconds += now[1] - self._started[1]
            self._started = None
        metrics = super().test_procedure(iw_samples)
        point = {name: metrics[name] for name in POINT}
        if all(math.isfinite(value) for value in point.values()):
            times = {"seconds": self.seconds, "cpu_seconds": self.cpu_seconds}
            self.curve.append({"step": self.model.global_step, **point, **times})
        return metrics

    @property
    def is_broken(self) -> bool:
        """Whether a parameter of the model is not finite."""
        return not all(p.isfinite().all() for p in self.model.parameters())

    def _now(self) -> tuple[float, float]:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter(), time.process_time()


def train(job: Job, args: argparse.Namespace) -> dict[str, Any]:
    """Make one run; returns its record.

    Raises:
        Exception: whatever stops a run that is not training itself breaking down.
        KeyboardInterrupt: if a signal stopped it.
    """
    experiment = CurveExperiment(experiment_args(job.variant, job.seed, args), job.variant)
    reason = None
    try:
        with contextlib.redirect_stdout(sys.stderr):  # what boilr and the trainer have to say
            trainer = Trainer(experiment)
            trainer.run()
        if trainer.stopped_by is not None:  # a part of a run is no result
            raise KeyboardInterrupt
    except FloatingPointError as error:
        reason = str(error)
    except (ValueError, RuntimeError) as error:
        # Between two logs a broken model may trip over a check of its own distributions.
        if not experiment.is_broken:
            raise
        reason = f"parameters not finite at step {experiment.model.global_step}: {error}"
    return {
        "estimator": job.variant.name,
        "seed": job.seed,
        "dataset": experiment.dataloaders.splits.name,
        "held_out_scenes": len(experiment.dataloaders.test.images),
        "status": "finished" if reason is None else "failed",
        "reason": reason,
        "settings": job.settings,
        "command": command(job, args),
        "torch_version": str(torch.__version__),
        "curve": experiment.curve,
    }


def command(job: Job, args: argparse.Namespace) -> str:
    """What makes this one run, without the paths of a machine."""
    return (
        "python -m experiments.benchmarks.estimators curves "
        f"--dataset {args.dataset} --estimators {job.variant.name} --seeds {job.seed} "
        f"--batch-size {args.batch_size} --max-steps {args.max_steps} "
        f"--test-every {args.test_every} --threads {args.threads}"
    )


def outcome(record: dict[str, Any]) -> str:
    """One line on a finished run."""
    if record["status"] == "failed":
        return f"broke down ({record['reason']})"
    last = record["curve"][-1]
    return (
        f"{last['count_accuracy_mode']:.2%} held out, ELBO {last['elbo']:.1f}, "
        f"{last['seconds']:.0f} s"
    )


def _run_side_by_side(jobs: list[Job], args: argparse.Namespace) -> int:
    """Make the runs in processes of their own, ``args.jobs`` at a time."""
    waiting = list(jobs)
    running: list[tuple[Job, subprocess.Popen[bytes], TextIO]] = []
    done, lost = 0, []
    try:
        while waiting or running:
            while waiting and len(running) < args.jobs:
                job = waiting.pop(0)
                log = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115
                process = subprocess.Popen(_child(job, args), stdout=log, stderr=subprocess.STDOUT)
                running.append((job, process, log))
            time.sleep(0.2)
            still: list[tuple[Job, subprocess.Popen[bytes], TextIO]] = []
            for entry in running:
                job, process, output = entry
                if process.poll() is None:
                    still.append(entry)
                    continue
                done += 1
                record = read_finished(job.path, job.settings)
                text = outcome(record) if record else f"stopped ({process.returncode})"
                print(f"[{done}/{len(jobs)}] {job.title}: {text}", flush=True)
                if record is None:
                    lost.append(job.title)
                    print(_tail(output), file=sys.stderr, flush=True)
                output.close()
            running = still
    finally:  # interrupted: a run without its record is made anew
        for _, process, _ in running:
            process.terminate()
        for _, process, _ in running:
            process.wait()
    if lost:
        print(
            f"{len(lost)} run(s) stopped without a record: {', '.join(lost)}. "
            "The same command makes them again.",
            file=sys.stderr,
        )
    return 1 if lost else 0


def _child(job: Job, args: argparse.Namespace) -> list[str]:
    _, *words = command(job, args).split()
    words += ["--records", str(args.records)]
    for name in ("data_root", "mnist_root"):
        if getattr(args, name) is not None:
            words += [f"--{name.replace('_', '-')}", str(getattr(args, name))]
    return [sys.executable, *words, *(["--nocuda"] if args.no_cuda else [])]


def _tail(log: TextIO, lines: int = 15) -> str:
    log.seek(0)
    return "".join(log.readlines()[-lines:])
