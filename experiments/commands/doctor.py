"""``doctor``: look at everything that a run needs, and change nothing."""

import argparse
import contextlib
import importlib.metadata
import io
import json
import math
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from experiments.checkpoints import check_checkpoints, check_room, load_checkpoint
from experiments.commands import train
from experiments.cpu import busy_hint, load
from experiments.datasets.sharded_scenes import ShardedScenes
from experiments.datasets.sources import canonical_name
from experiments.ensemble_trainer import make_seed_run
from experiments.experiment import AIRExperiment
from experiments.locks import RunLock
from experiments.runs import Run
from experiments.trainer import Trainer

DESCRIPTION = """\
Check what a run needs: the environment, the device, the data, the output folder, and some training
steps. Takes the flags of 'train', trains nothing and writes nothing but the data set's cache. Says
what 'train' would do and what is wrong; exits with 1 if anything is."""

_STEPS = 20
_FIRST_SCENES = 10_000
"""Of a data set in shards; all of it may not fit into memory."""
_PACKAGES = ("torch", "torchvision", "numpy", "boilr", "multiobject", "safetensors", "tensorboard")

EVERYDAY = (*train.EVERYDAY, "--json")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``doctor``: those of ``train``, and one of its own."""
    train.add_arguments(parser)
    parser.add_argument(
        "--json",
        action="store_true",
        help="print one JSON object on standard output instead of the lines",
    )


def prepare(args: argparse.Namespace, argv: Sequence[str]) -> argparse.Namespace:
    """As for ``train``, what is said of a continued run's settings apart."""
    with contextlib.redirect_stdout(sys.stderr) if args.json else contextlib.nullcontext():
        prepared = train.prepare(args, [word for word in argv if word != "--json"])
    prepared.json = args.json
    return prepared


def run(args: argparse.Namespace) -> int:
    """Examine; returns the exit status."""
    report = _Report(quiet=vars(args).pop("json"))
    _environment(report)
    _device(report, args)
    with report.section("settings"):
        AIRExperiment(argparse.Namespace(**vars(args)))  # it completes what it is given
        report.ok("settings", "they fit each other")
    with report.section("output"):
        _output(report, args)
    if not report.failed:
        with report.section("training"):
            _training(report, args)
    if report.quiet:
        print(json.dumps({"ok": not report.failed, "findings": report.findings}))
    elif report.failed:
        print(f"\nWrong: {', '.join(report.failed)}. 'train' would fail.")
    else:
        print("\nNothing is wrong.")
    return 1 if report.failed else 0


class _Report:
    """Prints findings unless it is quiet, and remembers them.

    Args:
        quiet: keep them for later.
    """

    def __init__(self, *, quiet: bool) -> None:
        self.quiet = quiet
        self.findings: list[dict[str, str]] = []

    @property
    def failed(self) -> list[str]:
        """What is wrong."""
        return [found["what"] for found in self.findings if found["status"] == "fail"]

    def ok(self, what: str, text: str) -> None:
        self._add("ok", what, text)

    def warn(self, what: str, text: str) -> None:
        self._add("warn", what, text)

    def fail(self, what: str, text: str) -> None:
        self._add("fail", what, text)

    def _add(self, status: str, what: str, text: str) -> None:
        self.findings.append({"status": status, "what": what, "text": text})
        if not self.quiet:
            print(f"{'FAIL' if status == 'fail' else status:<5} {what:<12} {text}")

    @contextlib.contextmanager
    def section(self, what: str) -> Iterator[None]:
        """What would end 'train' with a message is a finding."""
        try:
            yield
        except (ValueError, OSError, FloatingPointError, RuntimeError) as error:
            self.fail(what, str(error))


def _environment(report: _Report) -> None:
    report.ok("python", f"{platform.python_version()} on {platform.platform()}")
    versions = []
    for name in _PACKAGES:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            report.fail(name, f"is not installed: pip install {name}")
    report.ok("packages", ", ".join(versions))


def _device(report: _Report, args: argparse.Namespace) -> None:
    cores = os.cpu_count() or 1
    threads = args.threads or torch.get_num_threads()
    text = f"{cores} cores, {threads} threads"
    if threads > cores:
        report.warn("cpu", f"{text}: more threads than cores slow each other down (--threads).")
    elif hint := busy_hint(threads, load(), cores):
        report.warn("cpu", hint)
    else:
        report.ok("cpu", text)
    if not torch.cuda.is_available():
        report.ok("gpu", "none that PyTorch can use: the run would be on the CPU")
    elif args.no_cuda:
        report.warn("gpu", f"{torch.cuda.get_device_name()} is there, --nocuda leaves it unused")
    else:
        free, total = torch.cuda.mem_get_info()
        report.ok(
            "gpu",
            f"{torch.cuda.get_device_name()}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free",
        )


def _output(report: _Report, args: argparse.Namespace) -> None:
    if args.resume:
        run = Run.find(args.output, args.resume)
        RunLock(run.folder).check()
        found = check_checkpoints(run.checkpoint_folder)
        for step, problem in found:
            if problem:
                report.warn("checkpoint", f"step {step}: {problem}")
        whole = [step for step, problem in found if problem is None]
        if found and not whole:
            report.fail("checkpoint", "none is whole")
        if whole and load_checkpoint(run.checkpoint_folder, whole[-1]).training is None:
            report.fail(
                "checkpoint",
                f"step {whole[-1]} holds weights only: {run.name} can be evaluated, not continued",
            )
            return
        start = f"step {whole[-1]}" if whole else "its first step: it has no checkpoint"
        report.ok("run", f"{run.folder} would go on from {start}")
    elif not args.dry_run:
        seeds = [args]
        if args.num_seeds > 1:
            seeds = [make_seed_run(args, index).args for index in range(args.num_seeds)]
        for own in seeds:
            description = AIRExperiment(argparse.Namespace(**vars(own))).run_description
            Run.check_free(own.output, own.run_name, description)
            name = own.run_name or f"<date>_{description}"
            report.ok("run", f"{Path(own.output) / name} would be made")
    folder = Path(args.output)
    while not folder.exists():
        folder = folder.parent
    report.ok("disk", f"{shutil.disk_usage(folder).free / 1e9:.1f} GB free in {folder}")


def _training(report: _Report, args: argparse.Namespace) -> None:
    dry = argparse.Namespace(**{**vars(args), "dry_run": True, "resume": ""})
    trainer = _quietly(lambda: Trainer(AIRExperiment(dry)))
    experiment, model = trainer.experiment, trainer.experiment.model
    splits = experiment.dataloaders.splits
    for half in (splits.train, splits.held_out):
        if isinstance(half, ShardedScenes):
            half = half.part(slice(_FIRST_SCENES)).load()
        low, high = int(half.images.min()), int(half.images.max())
        counts = half.num_objects.bincount().tolist() if half.is_counted else "unknown"
        report.ok(
            "data",
            f"{half.name}: {len(half)} scenes {tuple(half.images.shape[1:])}, pixels {low} to "
            f"{high} (0 to 255), scenes by number of objects {counts}",
        )
        if low == high:
            report.fail("data", f"all pixels of {half.name} are the same")
    if splits.name != canonical_name(args.dataset):
        report.warn("data", f"{args.dataset} cannot be had: {splits.name} takes its place")
    check_room(Path(args.output), model, args.keep_checkpoint_max)
    number = min(_STEPS, experiment.num_steps)
    seconds, metrics = trainer.dry_steps(number)
    if not metrics or not all(map(math.isfinite, metrics.values())):
        report.fail("steps", f"after {number} steps the metrics are {metrics}")
        return
    parameters = sum(p.numel() for p in model.parameters())
    report.ok("model", f"{parameters:,} weights, trained by {args.estimator}")
    report.ok(
        "steps",
        f"{number} steps on {trainer.device}: {seconds * 1e3:.1f} ms each, "
        f"ELBO {metrics['elbo']:.1f}",
    )
    total = experiment.num_steps * seconds / 60
    report.ok(
        "train",
        f"would take {experiment.num_steps} steps of {args.batch_size} scenes, some "
        f"{total:.0f} minutes; a test every {args.test_log_every} steps, a checkpoint every "
        f"{args.checkpoint_every}",
    )


def _quietly(make: Callable[[], Any]) -> Any:
    """Without what boilr prints while it sets up."""
    with contextlib.redirect_stdout(io.StringIO()):
        return make()
