"""The training loop: boilr's, with its faults mended."""

import argparse
import itertools
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boilr
import numpy as np
import torch
from boilr.utils import set_rnd_seed
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from air.checkpoint import save_pretrained
from experiments import distributed
from experiments.bars import step_bar
from experiments.checkpoints import (
    Checkpoint,
    check_room,
    clean,
    load_checkpoint,
    save_checkpoint,
)
from experiments.cpu import busy_hint, load
from experiments.determinism import make_deterministic
from experiments.experiment import AIRExperiment
from experiments.guard import NonFiniteError, NonFiniteGuard, parse_on_nan
from experiments.locks import RunLock
from experiments.models import preparation_of
from experiments.progress import Progress, Window, collect, restore
from experiments.resume import changed_settings, check_saved_settings, check_weights, read_settings
from experiments.runs import Run
from experiments.signals import StopSignals
from experiments.state import machine
from experiments.step import EagerStep, make_step

TEST_SEED = 0x5EED
"""Held-out tests draw from a stream of their own: how often one tests changes no run."""


class Trainer(boilr.Trainer):
    """Trains an experiment and keeps what comes of it in ``output/<run>``.

    What is different from ``boilr.Trainer``: the last step is logged, tested and saved too;
    settings and metrics are JSON; a run that died is continued to the same bits; checkpoints
    appear whole or not at all; nothing is read from a GPU between two logs; what is not finite
    never reaches the weights; SIGTERM and SIGINT save before they end the run.

    Args:
        experiment: what to train. With ``resume`` among its settings, that run is continued.

    Raises:
        FileExistsError: if a new run's name is taken.
        FileNotFoundError: if there is no run to continue.
        RunLockedError: if another process trains the run.
        OSError: if the output folder cannot be written or has not enough room.
        ValueError: if a run cannot be continued with these settings, or is damaged.
    """

    def __init__(self, experiment: AIRExperiment) -> None:
        # boilr's own constructor unpickles the settings and cannot name a run.
        args = experiment.args
        self.experiment = experiment
        self.stopped_by: signal.Signals | None = None
        """The signal that ended :meth:`run` early."""
        self.run_folder: Run | None = None
        self.tb_writer: SummaryWriter | None = None
        self._lock: RunLock | None = None
        self._saved_step: int | None = None
        self._progress = Progress()
        self._writes = not args.dry_run and distributed.is_main()
        if args.resume:
            self._resumed: Run | None = Run.find(args.output, args.resume)
            if self._writes:
                self._take_lock(self._resumed)
        else:
            self._resumed = None
            if self._writes:
                Run.check_free(args.output, args.run_name, experiment.run_description)
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

    def _prepare(self) -> None:
        experiment, args = self.experiment, self.experiment.args
        checkpoint = None
        if self._resumed:
            changed_settings(read_settings(self._resumed), args)
            checkpoint = self._find_checkpoint(self._resumed)
        if args.deterministic:
            make_deterministic()
        if args.threads:
            torch.set_num_threads(args.threads)
        self.device = distributed.local_device(cuda=not args.no_cuda)
        hint = busy_hint(torch.get_num_threads(), load())
        if hint and self.device.type == "cpu" and distributed.is_main():
            print(f"hint: {hint}", file=sys.stderr)
        if checkpoint and self._resumed:
            check_saved_settings(self._resumed, args, checkpoint)
            check_weights(self._resumed, args, checkpoint.weights)
        distributed.check_same(_settings(args))
        set_rnd_seed(args.seed)
        experiment.setup(self.device)
        distributed.check_same({"the data": experiment.dataloaders.identity})
        distributed.same_weights(experiment.model)
        self._check_experiment(experiment)
        self.guard = NonFiniteGuard(
            experiment.optimizer,
            experiment.model.estimator.buffers(),
            max_skips=parse_on_nan(args.on_nan),
            device=self.device,
        )
        self._update = make_step(experiment, EagerStep(experiment, self.guard))
        if checkpoint:
            self._restore(checkpoint)
        step = experiment.model.global_step
        distributed.spread_seeds(args.seed + step)
        if args.resume and distributed.average_metrics({"step": step})["step"] != step:
            raise ValueError("the processes found different checkpoints: do they share a disk?")
        if not self._writes:
            return
        check_room(Path(args.output), experiment.model, args.keep_checkpoint_max)
        run = self.run_folder = self._resumed or self._make_run()
        run.make_folders()
        if args.resume:
            run.remove_debris()
            run.write_config(args, **self._description())
            run.drop_metrics_after(step)
            clean(run.checkpoint_folder, step)
        # TensorBoard forgets what a dead process logged after the checkpoint.
        purge = step + 1 if args.resume else None
        self.tb_writer = SummaryWriter(str(run.tensorboard_folder), purge_step=purge)
        print(f"Run {run.name} in {run.folder}" + (f", from step {step}" if step else ""))

    def _restore(self, checkpoint: Checkpoint) -> None:
        self._progress, odd = restore(self.experiment, self.guard, checkpoint, self.device)
        self._saved_step = checkpoint.step
        names, sums, length, _ = self._progress.window
        self._update.set_state(names, sums, length)
        if odd and distributed.is_main():
            _say(f"the run goes on, but not to the same bits: {'; '.join(odd)}.")

    def _make_run(self) -> Run:
        experiment, args = self.experiment, self.experiment.args
        run = Run.create(
            args.output,
            args.run_name,
            experiment.run_description,
            config={"args": vars(args), **self._description()},
        )
        self._take_lock(run)
        return run

    def _take_lock(self, run: Run) -> None:
        lock = RunLock(run.folder)
        lock.acquire()
        self._lock = lock

    def _description(self) -> dict[str, Any]:
        experiment = self.experiment
        return {
            # Not always the one asked for: without the full MNIST another takes its place.
            "dataset": experiment.dataloaders.splits.name,
            "air": experiment.model.air.config.to_dict(),
            "torch_version": str(torch.__version__),
            "machine": machine(self.device),
        }

    def _find_checkpoint(self, run: Run) -> Checkpoint | None:
        """The newest checkpoint, None if the run died before its first."""
        try:
            checkpoint = load_checkpoint(run.checkpoint_folder)
        except FileNotFoundError:
            _say(f"{run.name} has no checkpoint yet: it starts again from its first step.")
            return None
        if checkpoint.training is None:
            raise ValueError(
                f"the checkpoint of step {checkpoint.step} holds weights only: there is no "
                f"optimiser to continue with. It can be evaluated: --load {run.name}."
            )
        return checkpoint

    def close(self) -> None:
        """Close the logs and give back the run's folder; :meth:`run` does it by itself."""
        if self.tb_writer:
            self.tb_writer.close()
        if self._lock:
            self._lock.release()

    def run(self) -> dict[str, float]:
        """Train to the last step, or to a signal; returns the last held-out metrics."""
        try:
            with StopSignals() as signals:
                held_out = self._train(signals)
            if self.run_folder and self.stopped_by is None:
                folder = self.run_folder.make_folder(self.run_folder.pretrained_folder)
                air = self.experiment.model.air
                air.preparation = preparation_of(self.experiment.args.dataset, air.config.channels)
                save_pretrained(air, folder, overwrite=True)
            return held_out
        finally:
            self.close()

    def dry_steps(self, number: int) -> tuple[float, dict[str, float]]:
        """Take some steps without any log or test; seconds of one, and their mean metrics."""
        self.experiment.model.train()
        start = time.monotonic()
        for x, y in itertools.islice(self._batches(), number):
            self._step(x, y)
            self._settle()
        self._check_guard()
        metrics = self._update.metrics()  # waits for the device
        return (time.monotonic() - start) / number, metrics

    def _train(self, signals: StopSignals) -> dict[str, float]:
        experiment, model, progress = self.experiment, self.experiment.model, self._progress
        args, last_step = experiment.args, experiment.num_steps
        model.train()
        self._since = time.monotonic() - progress.window.seconds
        with step_bar(total=last_step, initial=model.global_step, desc="train") as bar:
            for x, y in self._batches():
                self._step(x, y)
                self._settle()
                bar.update()
                step = model.global_step
                last, score = step == last_step, None
                log = last or step % args.train_log_every == 0
                if log:
                    self._log_window(step, bar)
                if last or step % args.test_log_every == 0:
                    progress.held_out = self._held_out(step, last)
                    score = progress.held_out["elbo"]
                    self._since = time.monotonic()  # testing is no part of the training speed
                stop = not last and self._is_to_stop(signals, log)
                if last or stop or step % args.checkpoint_every == 0:
                    self._save(score)
                if stop:
                    self.stopped_by = signals.received or signal.SIGTERM
                    break
        return progress.held_out

    def _is_to_stop(self, signals: StopSignals, at_log: bool) -> bool:
        """Whether a signal came. Several processes ask each other, and only where they meet."""
        received = float(signals.received is not None)
        if distributed.world_size() > 1:
            return at_log and distributed.average_metrics({"stop": received})["stop"] > 0
        return received > 0

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and labels, until the last step."""
        experiment, position = self.experiment, self._progress.position
        loader = experiment.dataloaders.train
        while experiment.model.global_step < experiment.num_steps:
            if position.order is None or position.batch == len(loader):
                position.order = loader.draw_order()
                position.epoch, position.batch = position.epoch + 1, 0
            for x, y in self._update.batches(loader, position.order, position.batch):
                position.batch += 1
                yield x, y
                if experiment.model.global_step >= experiment.num_steps:
                    return

    def _step(self, x: Tensor, y: Tensor) -> None:
        """One update, or none if the guard forbids it."""
        self._update(x, y)
        self.experiment.model.increment_global_step()

    def _settle(self) -> None:
        """Look at what the guard found, where that costs nothing."""
        indices = getattr(self.experiment.dataloaders.train, "current", None)
        if self.guard.settle(self.experiment.model.global_step, indices):
            self._check_guard()

    def _log_window(self, step: int, bar: Any) -> None:
        """Log the training metrics since the last time."""
        self._check_guard()
        images = self._update.length * self.experiment.args.batch_size
        metrics = distributed.average_metrics(self._update.metrics())  # waits for the device
        now = time.monotonic()
        if metrics:
            metrics["images_per_s"] = images / max(now - self._since, 1e-9)
            self._check_finite(metrics, step)
            self._log(metrics, step, "train")
            bar.set_postfix_str(_postfix(metrics), refresh=False)
        self._since = now

    def _held_out(self, step: int, last: bool) -> dict[str, float]:
        """Test, log and save pictures, without a change to the training's random stream."""
        experiment, epoch = self.experiment, self._progress.position.epoch
        experiment.model.eval()
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(TEST_SEED)
            metrics = experiment.test_procedure()
            self._check_finite(metrics, step)
            if self.run_folder and (last or step % experiment.args.test_imgs_every == 0):
                try:
                    images = self.run_folder.make_folder(self.run_folder.image_folder)
                    experiment.save_images(str(images))
                except OSError as error:  # no reason to lose the steps since the last checkpoint
                    _say(f"no pictures of step {step}: {error}")
        tqdm.write(experiment.test_log_str(metrics, step, epoch))
        self._log(metrics, step, "held_out")
        experiment.model.train()
        return metrics

    def _save(self, score: float | None) -> None:
        """Save all that the run is continued from, once a step."""
        model, run, progress = self.experiment.model, self.run_folder, self._progress
        step = model.global_step
        self._check_guard()  # on a GPU the last steps were not looked at yet
        self._check_guard(self.guard.check_state)
        if run is None or self._saved_step == step:
            return
        progress.window = Window(*self._update.state(), time.monotonic() - self._since)
        state = collect(self.experiment, self.guard, progress, self.device)
        try:
            save_checkpoint(
                run.checkpoint_folder,
                step,
                model.state_dict(),
                state,
                score=score,
                keep=self.experiment.args.keep_checkpoint_max,
            )
        except OSError as error:
            raise OSError(
                f"the checkpoint of step {step} could not be saved: {error}. {self._advice()}"
            ) from error
        self._saved_step = step

    def _log(self, metrics: dict[str, float], step: int, split: str) -> None:
        if self.run_folder is None or self.tb_writer is None:
            return
        self.run_folder.append_metrics(step, split, metrics)
        for name, value in metrics.items():
            self.tb_writer.add_scalar(f"{split}/{name}", value, step)

    def _check_guard(self, check: Callable[[], str | None] | None = None) -> None:
        """Say what the guard left out; stop if it was too much."""
        try:
            if said := (check or self.guard.check)():
                tqdm.write(f"warning: {said}", file=sys.stderr)
        except NonFiniteError as error:
            raise NonFiniteError(f"training broke down at {error} {self._advice()}") from None

    def _check_finite(self, metrics: dict[str, float], step: int) -> None:
        """Stop before metrics that are not finite are logged, or a model saved that has them."""
        broken = [name for name, value in metrics.items() if not math.isfinite(value)]
        if broken:
            raise NonFiniteError(
                f"training broke down: {', '.join(broken)} not finite in the steps up to {step}. "
                f"{self._advice()}"
            )

    def _advice(self) -> str:
        """What is left after a breakdown, and what can be done."""
        if self.run_folder is None or self._saved_step is None:
            return "Nothing was saved. Lower --lr, or give --max-grad-norm."
        return (
            f"The last good checkpoint is {self.run_folder.checkpoint_folder}/"
            f"model_{self._saved_step}.pt. Continue from it with --resume {self.run_folder.name}; "
            "after a breakdown with a lower --lr, or --max-grad-norm, or --on-nan skip:N."
        )


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    """What must be the same in all processes of a run, before the data and the model are made."""
    own = {"output", "data_root", "mnist_root", "threads"}  # each machine's
    found = {f"--{name.replace('_', '-')}": value for name, value in vars(args).items()}
    found = {name: value for name, value in found.items() if name[2:].replace("-", "_") not in own}
    versions = {"torch": str(torch.__version__), "numpy": np.__version__}
    return found | {f"the version of {name}": value for name, value in versions.items()}


def _postfix(metrics: dict[str, float]) -> str:
    accuracy = metrics.get("count_accuracy")  # unknown of images without labels
    return (
        f"ELBO {metrics['elbo']:.1f}, "
        + (f"accuracy {accuracy:.1%}, " if accuracy is not None else "")
        + f"{metrics['images_per_s']:,.0f} images/s"
    )


def _say(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr)
