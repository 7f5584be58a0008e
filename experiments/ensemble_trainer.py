"""The training loop of ``--num-seeds``: many runs at once, each with a folder of its own."""

import argparse
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from boilr.utils import set_rnd_seed
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from air.checkpoint import save_pretrained
from experiments.bars import step_bar
from experiments.boilr_model import AIRModel
from experiments.determinism import make_deterministic
from experiments.ensemble import StackedLoader, StackedStep
from experiments.experiment import AIRExperiment
from experiments.models import preparation_of
from experiments.runs import Run
from experiments.state import machine
from experiments.step import make_step
from experiments.trainer import TEST_SEED


@dataclass(kw_only=True, eq=False)
class SeedRun:
    """One of the seeds that are trained together."""

    seed: int
    """What a single run would be given as ``--seed``."""
    index: int
    """Its place in the stack."""
    args: argparse.Namespace
    """The settings of this seed's run."""
    folder: Run | None = None
    """Laid out as a single run's; None in a dry run."""
    tb_writer: SummaryWriter | None = None
    held_out: dict[str, float] = field(default_factory=dict)
    """The last held-out metrics."""
    failed_at: int | None = None
    """The step at which a metric was found not to be finite; nothing is saved from there on."""

    def log(self, metrics: dict[str, float], step: int, split: str) -> None:
        """Write metrics, if this run is kept."""
        if self.folder is None or self.tb_writer is None:
            return
        self.folder.append_metrics(step, split, metrics)
        for name, value in metrics.items():
            self.tb_writer.add_scalar(f"{split}/{name}", value, step)


class EnsembleTrainer:
    """Trains seeds ``args.seed`` to ``args.seed + num_seeds - 1`` of an experiment at once.

    Each seed starts as a single run with that seed does and meets the data in the order that
    such a run would begin with. A seed whose metrics are no longer finite is reported and left
    behind; the others go on. Unlike a single run's, these checkpoints hold the weights only:
    such a run can be evaluated and not continued.

    Args:
        experiment: what to train; not set up yet.

    Raises:
        FileExistsError: if one of the runs' names is taken.
    """

    def __init__(self, experiment: AIRExperiment) -> None:
        args = experiment.args
        self.experiment = experiment
        self.seeds = [make_seed_run(args, index) for index in range(args.num_seeds)]
        if not args.dry_run:
            for seed in self.seeds:
                Run.check_free(args.output, seed.args.run_name, _describe(seed.args))
        if args.deterministic:
            make_deterministic()
        if args.threads:
            torch.set_num_threads(args.threads)
        use_cuda = torch.cuda.is_available() and not args.no_cuda
        self.device = torch.device("cuda" if use_cuda else "cpu")
        models, generators = self._start()
        # Once more: by now the data has said what the flags left open.
        self.seeds = [make_seed_run(args, index) for index in range(args.num_seeds)]
        self.stack = StackedStep(experiment, models)
        self._update = make_step(experiment, self.stack)
        self._loader = StackedLoader(experiment.dataloaders.train, generators)
        self._images, self._seconds = 0, 0.0
        if not args.dry_run:
            for seed in self.seeds:
                self._make_folder(seed)

    @property
    def images_per_s(self) -> float:
        """Training speed, of all seeds together and without tests."""
        return self._images / max(self._seconds, 1e-9)

    def run(self) -> list[SeedRun]:
        """Train to the last step; returns the seeds with their last held-out metrics.

        Raises:
            FloatingPointError: if every seed failed.
        """
        try:
            self._train()
        finally:
            for seed in self.seeds:
                if seed.tb_writer:
                    seed.tb_writer.close()
        self._alive()
        return self.seeds

    def _train(self) -> None:
        experiment, model = self.experiment, self.experiment.model
        args, last_step = experiment.args, experiment.num_steps
        model.train()
        start = time.perf_counter()
        with step_bar(total=last_step, desc="train") as bar:
            for x, y in self._batches():
                self._update(x, y)
                model.increment_global_step()
                bar.update()
                step = model.global_step
                last = step == last_step
                test = last or step % args.test_log_every == 0
                if test or step % args.train_log_every == 0:
                    self._log_training(step, start)
                    bar.set_postfix_str(self._postfix())
                    if test:
                        self._test(step, last)
                    start = time.perf_counter()  # testing is no part of the training speed

    def _start(self) -> tuple[list[AIRModel], list[torch.Generator]]:
        """Each seed's model and order of the data, as a single run's would be."""
        experiment = self.experiment
        models: list[AIRModel] = []
        generators = []
        for seed in self.seeds:
            set_rnd_seed(seed.seed)
            if not models:
                experiment.setup(self.device)
                model = experiment.model
            else:
                model = experiment._make_model().to(self.device)
            models.append(model)
            # What a single run would go on with after it made its model.
            generator = torch.Generator()
            generator.set_state(torch.get_rng_state())
            generators.append(generator)
        return models, generators

    def _make_folder(self, seed: SeedRun) -> None:
        args, experiment = seed.args, self.experiment
        run = Run.create(args.output, args.run_name, _describe(args))
        run.write_config(
            args,
            dataset=experiment.dataloaders.splits.name,
            air=experiment.model.air.config.to_dict(),
            torch_version=str(torch.__version__),
            machine=machine(self.device),
        )
        seed.folder, seed.tb_writer = run, SummaryWriter(str(run.tensorboard_folder))
        print(f"Seed {seed.seed}: run {run.name} in {run.folder}")

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and labels of all seeds, until the last step."""
        while True:
            for x, y in self._update.batches(self._loader):
                if self.experiment.model.global_step >= self.experiment.num_steps:
                    return
                yield x, y

    def _log_training(self, step: int, start: float) -> None:
        length = self.stack.length
        stacked = self.stack.metrics()  # waits for the device: the time is read after it
        seconds = max(time.perf_counter() - start, 1e-9)
        images = length * self.experiment.args.batch_size
        self._images += images * len(self.seeds)
        self._seconds += seconds
        for seed in self._alive():
            metrics = {name: values[seed.index] for name, values in stacked.items()}
            if self._is_finite(seed, metrics, step):
                seed.log(metrics | {"images_per_s": images / seconds}, step, "train")

    def _test(self, step: int, last: bool) -> None:
        """Test, log and save each seed that is still sound."""
        experiment, model = self.experiment, self.experiment.model
        args = experiment.args
        devices = [self.device] if self.device.type == "cuda" else []
        model.eval()
        for seed in self._alive():
            self.stack.select(seed.index)
            with torch.random.fork_rng(devices=devices):
                torch.manual_seed(TEST_SEED)
                metrics = experiment.test_procedure()
            if not self._is_finite(seed, metrics, step):
                continue
            seed.held_out = metrics
            tqdm.write(f"seed {seed.seed}: {experiment.test_log_str(metrics, step)}")
            seed.log(metrics, step, "held_out")
            if seed.folder is None:
                continue
            if last or step % args.test_imgs_every == 0:
                images = seed.folder.make_folder(seed.folder.image_folder)
                experiment.save_images(str(images))
            if last or step % args.checkpoint_every == 0:
                model.checkpoint(str(seed.folder.checkpoint_folder), args.keep_checkpoint_max)
            if last:
                model.air.preparation = preparation_of(args.dataset, model.air.config.channels)
                save_pretrained(model.air, seed.folder.pretrained_folder)
        model.train()

    def _alive(self) -> list[SeedRun]:
        """The seeds that have not failed.

        Raises:
            FloatingPointError: if there is none left.
        """
        alive = [seed for seed in self.seeds if seed.failed_at is None]
        if not alive:
            raise FloatingPointError(
                "training broke down for every seed: see the lines above. "
                "Lower --lr, or give --max-grad-norm."
            )
        return alive

    def _is_finite(self, seed: SeedRun, metrics: dict[str, float], step: int) -> bool:
        """Whether all metrics are finite; if not, the seed has failed, and a line says so."""
        broken = [name for name, value in metrics.items() if not math.isfinite(value)]
        if broken:
            seed.failed_at = step
            tqdm.write(
                f"seed {seed.seed} failed: {', '.join(broken)} not finite in the steps up to "
                f"{step}. Nothing more of it is saved; the other seeds go on."
            )
        return not broken

    def _postfix(self) -> str:
        alive = sum(seed.failed_at is None for seed in self.seeds)
        return f"{alive} seeds, {self.images_per_s:,.0f} images/s together"


def make_seed_run(args: argparse.Namespace, index: int) -> SeedRun:
    """The seed at this place in the stack; no folder is made yet."""
    seed = args.seed + index
    name = None if args.run_name is None else f"{args.run_name}-seed{seed}"
    changes = {"seed": seed, "run_name": name, "num_seeds": 1}
    own = argparse.Namespace(**(vars(args) | changes))
    return SeedRun(seed=seed, index=index, args=own)


def _describe(args: argparse.Namespace) -> str:
    return AIRExperiment._make_run_description(args)
