"""The training loop: boilr's, with its faults mended."""

import itertools
import math
from collections.abc import Iterator
from typing import Any

import boilr
import torch
from boilr.utils import set_rnd_seed
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from air.checkpoint import save_pretrained
from experiments import distributed
from experiments.experiment import AIRExperiment
from experiments.runs import Run
from experiments.step import make_step


class Trainer(boilr.Trainer):
    """Trains an experiment and keeps what comes of it in ``output/<run>``.

    What is different from ``boilr.Trainer``: the last step is logged, tested and saved too;
    settings and metrics are JSON; checkpoints appear whole or not at all; nothing is read from
    the device between two logs; a bound that is no longer finite ends the run before it is saved.

    Args:
        experiment: what to train.

    Raises:
        FileExistsError: if the run's name is taken.
    """

    def __init__(self, experiment: AIRExperiment) -> None:
        # boilr's own constructor pickles the settings and cannot name a run.
        args = experiment.args
        self.experiment = experiment
        writes = not args.dry_run and distributed.is_main()
        if writes:
            Run.check_free(args.output, args.run_name, experiment.run_description)
        if args.threads:
            torch.set_num_threads(args.threads)
        self.device = distributed.local_device(cuda=not args.no_cuda)
        set_rnd_seed(args.seed)
        experiment.setup(self.device)
        distributed.same_weights(experiment.model)
        distributed.spread_seeds(args.seed)
        self._check_experiment(experiment)
        self._update = make_step(experiment)
        self.run_folder: Run | None = None
        self.tb_writer: SummaryWriter | None = None
        if writes:
            run = Run.create(args.output, args.run_name, experiment.run_description)
            run.write_config(
                args,
                # Not always the one asked for: without the full MNIST another takes its place.
                dataset=experiment.dataloaders.splits.name,
                air=experiment.model.air.config.to_dict(),
                torch_version=str(torch.__version__),
            )
            self.run_folder = run
            self.tb_writer = SummaryWriter(str(run.tensorboard_folder))
            print(f"Run {run.name} in {run.folder}")

    def run(self) -> dict[str, float]:
        """Train to the last step; returns the last held-out metrics."""
        experiment, model = self.experiment, self.experiment.model
        args, last_step = experiment.args, experiment.num_steps
        window = _Window()
        held_out: dict[str, float] = {}
        model.train()
        hidden = not distributed.is_main()
        with tqdm(
            total=last_step, desc="train", unit="step", dynamic_ncols=True, disable=hidden
        ) as bar:
            for epoch, x, y in self._batches():
                self._step(x, y, window)
                bar.update()
                step = model.global_step
                last = step == last_step
                if last or step % args.train_log_every == 0:
                    images_per_s = window.length * args.batch_size / window.seconds(bar)
                    metrics = distributed.average_metrics(self._update.metrics())
                    metrics |= {"images_per_s": images_per_s}
                    self._guard(metrics, step)
                    self._log(metrics, step, "train")
                    bar.set_postfix_str(_postfix(metrics))
                    window = _Window(bar)
                if last or step % args.test_log_every == 0:
                    held_out = self._held_out(step, epoch, last)
                    window = _Window(bar)  # testing is no part of the training speed
                if self.run_folder and (last or step % args.checkpoint_every == 0):
                    model.checkpoint(
                        str(self.run_folder.checkpoint_folder), args.keep_checkpoint_max
                    )
        if self.run_folder:
            save_pretrained(model.air, self.run_folder.pretrained_folder)
        if self.tb_writer:
            self.tb_writer.close()
        return held_out

    def _batches(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Epoch, images and labels, until the last step."""
        experiment = self.experiment
        for epoch in itertools.count(1):
            for x, y in self._update.batches(experiment.dataloaders.train):
                if experiment.model.global_step >= experiment.num_steps:
                    return
                yield epoch, x, y

    def _step(self, x: Tensor, y: Tensor, window: "_Window") -> None:
        self._update(x, y)
        self.experiment.model.increment_global_step()
        window.length += 1

    def _held_out(self, step: int, epoch: int, last: bool) -> dict[str, float]:
        """Test, log and save pictures."""
        experiment = self.experiment
        experiment.model.eval()
        metrics = experiment.test_procedure()
        self._guard(metrics, step)  # the last update may have broken what was fine before it
        tqdm.write(experiment.test_log_str(metrics, step, epoch))
        self._log(metrics, step, "held_out")
        if self.run_folder and (last or step % experiment.args.test_imgs_every == 0):
            experiment.save_images(str(self.run_folder.image_folder))
        experiment.model.train()
        return metrics

    def _log(self, metrics: dict[str, float], step: int, split: str) -> None:
        if self.run_folder is None or self.tb_writer is None:
            return
        self.run_folder.append_metrics(step, split, metrics)
        for name, value in metrics.items():
            self.tb_writer.add_scalar(f"{split}/{name}", value, step)

    def _guard(self, metrics: dict[str, float], step: int) -> None:
        """Stop before a broken model is tested and saved over a good one."""
        broken = [name for name, value in metrics.items() if not math.isfinite(value)]
        if broken:
            raise FloatingPointError(
                f"training broke down: {', '.join(broken)} not finite in the steps up to {step}. "
                "Nothing of it was saved. Lower --lr, or give --max-grad-norm."
            )


class _Window:
    """Counts the steps and the seconds between two logs."""

    def __init__(self, bar: Any = None) -> None:
        self._start = 0.0 if bar is None else bar.format_dict["elapsed"]
        self.length = 0

    def seconds(self, bar: Any) -> float:
        """Time since the window began."""
        return max(bar.format_dict["elapsed"] - self._start, 1e-9)


def _postfix(metrics: dict[str, float]) -> str:
    return (
        f"ELBO {metrics['elbo']:.1f}, accuracy {metrics['count_accuracy']:.1%}, "
        f"{metrics['images_per_s']:,.0f} images/s"
    )
