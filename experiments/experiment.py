"""AIR as a boilr experiment: settings, data, model, optimiser, metrics."""

import argparse
import sys
from pathlib import Path
from typing import Any

import boilr
import torch
from torch import Tensor

from air import AIR, AIRConfig, Constant, Cosine, make_estimator
from air.config import check_images
from air.evaluation import evaluate
from air.memory import check_memory
from air.object_size import LEAST_SCALE_SD, position_sd, scale_prior
from air.recipe import likelihood_sd
from air.schedules import parse_schedule
from experiments import distributed
from experiments.arguments import (
    add_own_arguments,
    check_arguments,
    check_numbers,
    complete_help,
    complete_recipe,
    parse_sizes,
    parse_three,
)
from experiments.boilr_model import AIRModel
from experiments.datasets.scenes import DataSplits
from experiments.datasets.sharded_scenes import ShardedSplits
from experiments.datasets.sources import estimate_prior, folder_name, known_prior
from experiments.files import write_file
from experiments.loaders import SceneManager
from experiments.objective import make_objective
from experiments.pictures import draw_reconstructions, draw_samples

PRIOR_LR_FACTOR = 10
"""Of the learning rate of a learned ``continue_prob``, which stays constant: one number, which Adam
moves by that length at a time, with a way of five units to go on the scale of its logit, when the
others' rates are nearly zero."""


class AIRExperiment(boilr.VAEExperimentManager):
    """Trains AIR on a data set of scenes; runs under our trainer and under boilr's own.

    Args:
        args: settings, as :meth:`default_args` gives them. By default they are read from the
            command line, except in a notebook, whose command line is the kernel's.
    """

    scheduled: Tensor | None = None
    """On the device, ``(3,)``: the prior's probability of one more object, the most objects that
    may be found and the likelihood's standard deviation, filled by :meth:`set_schedules`, where
    they must not be Python numbers."""

    def __init__(self, args: argparse.Namespace | None = None) -> None:
        if args is None and "ipykernel" in sys.modules:
            args = self.default_args()
        super().__init__(args)

    @classmethod
    def default_args(cls, **changes: Any) -> argparse.Namespace:
        """The default settings, with some of them changed.

        Raises:
            ValueError: if there is no setting of that name.
        """
        parser = argparse.ArgumentParser()
        cls.add_arguments(parser)
        args = parser.parse_args([])
        unknown = sorted(set(changes) - set(vars(args)))
        if unknown:
            raise ValueError(
                f"unknown setting(s): {', '.join(unknown)}. "
                f"Expected some of: {', '.join(sorted(vars(args)))}."
            )
        vars(args).update(changes)
        return args

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """Add all settings to a parser, without making an experiment."""
        blank = cls.__new__(cls)
        blank._default_args = cls._define_args_defaults()
        blank._add_args(parser)

    @classmethod
    def _define_args_defaults(cls) -> dict[str, Any]:
        return super()._define_args_defaults() | {
            "batch_size": 64,
            "test_batch_size": 500,
            "max_steps": 3_000,
            "seed": 0,
            "train_log_every": 100,
            "test_log_every": 1_500,
            "checkpoint_every": 1_500,
            "loglikelihood_every": 6_000_000,
            "loglikelihood_samples": 100,
        }

    def _add_args(self, parser: argparse.ArgumentParser) -> None:
        add_own_arguments(parser)
        training = parser.add_argument_group("training (boilr)")
        super()._add_args(training)
        complete_help(training)

    @classmethod
    def _check_args(cls, args: argparse.Namespace) -> argparse.Namespace:
        check_numbers(args)
        args = super()._check_args(args)
        complete_recipe(args)
        check_arguments(args)
        return args

    @staticmethod
    def _make_run_description(args: argparse.Namespace) -> str:
        parts = [
            folder_name(args.dataset),
            args.estimator,
            f"seed{args.seed}",
            args.additional_descr,
        ]
        return "_".join(part for part in parts if part)

    def load_args_from_pickle(self, config_pickle_path: str) -> None:
        """Refused: boilr's trainer, which asks for it, unpickles a run's files."""
        raise ValueError(
            "boilr's own trainer cannot continue a run: it runs whatever code the run's files "
            "hold, and its optimiser is not saved. Use experiments.trainer.Trainer."
        )

    def _make_datamanager(self) -> SceneManager:
        return SceneManager(self.args, self.device)

    @property
    def num_steps(self) -> int:
        """Steps that the run will take: those of ``max_steps`` or ``max_epochs``."""
        return min(self.args.max_steps, self.args.max_epochs * len(self.dataloaders.train))

    @property
    def is_counted(self) -> bool:
        """Whether the number of objects is known of every scene, so that accuracy has a meaning."""
        return self.dataloaders.is_counted

    def _make_model(self) -> AIRModel:
        complete_prior(self.args, self.dataloaders.splits)
        data_shape = tuple(self.dataloaders.data_shape)
        config = make_config(self.args, data_shape, self.num_steps)
        for number, gradients in (
            (self.args.batch_size // distributed.world_size() * self.args.num_samples, True),
            (self.args.test_batch_size, False),
        ):
            check_memory(
                config,
                number,
                self.device,
                gradients=gradients,
                advice="Lower --max-objects, --batch-size, --test-batch-size or --num-samples.",
            )
        if self.args.likelihood_sd is None:
            self.args.likelihood_sd = f"{config.likelihood_sd:g}"
        air = AIR(config)
        # The data is checked here, once, and not again at every step: uint8 images of one shape.
        for loader in (self.dataloaders.train, self.dataloaders.test):
            check_images(loader.dataset[0][0].unsqueeze(0), config)
        air.validate_args = False
        estimator = make_estimator(self.args.estimator, config, self.args.num_samples)
        return AIRModel(air, estimator)

    def _make_optimizer(self) -> torch.optim.Optimizer:
        args, model = self.args, self.model
        length, prior = self.num_steps, list(model.air.generative.prior.parameters())
        others = [p for p in model.air.parameters() if not any(p is own for own in prior)]
        groups = [{"params": others, "lr": args.lr}]
        if prior:
            groups.append({"params": prior, "lr": PRIOR_LR_FACTOR * args.lr})
        if own := list(model.estimator.parameters()):
            groups.append({"params": own, "lr": args.baseline_lr})
        self._learning_rates = [
            Constant(group["lr"]) if group["params"] is prior else Cosine(group["lr"], 0.0, length)
            for group in groups
        ]
        self._schedules = (parse_schedule(args.continue_prob), parse_schedule(args.likelihood_sd))
        self._objective = make_objective(
            self.device, args.precision, compiled=args.compile, translated=args.translate
        )
        return torch.optim.Adam(groups, fused=True)

    def forward_pass(self, x: Tensor, y: Tensor | None = None) -> dict[str, Any]:
        """The objective on a batch, and its metrics as scalar tensors.

        Args:
            x: images, uint8 or float in [0, 1], ``(B, C, H, W)``.
            y: numbers of objects, int64 ``(B,)``.
        """
        labels = None if y is None or not self.is_counted else y.to(self.device)
        model, scheduled, step = self.model, self.scheduled, self.model.global_step
        continue_prob: float | Tensor
        limit: float | Tensor
        likelihood_sd: float | Tensor | None
        if scheduled is None:
            continue_prob, limit, likelihood_sd = self._scheduled(step)
        else:
            continue_prob, limit, likelihood_sd = scheduled.unbind()
        if isinstance(self._schedules[1], Constant):
            likelihood_sd = None  # the model's own: nothing to hand over
        images, used = x.to(self.device), None
        if model.air.config.learn_continue_prob:
            own = model.air.generative.prior.continue_prob
            continue_prob = used = _scheduled_or_own(continue_prob, own)
        results = self._objective(
            model.air, model.estimator, images, labels, continue_prob, limit, likelihood_sd
        )
        return results if used is None else results | {"continue_prob": used.detach()}

    def set_schedules(self) -> None:
        """Set the learning rates of this step, and the other schedules if they are tensors."""
        step = self.model.global_step
        for group, schedule in zip(self.optimizer.param_groups, self._learning_rates, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(schedule(step))
            else:
                group["lr"] = schedule(step)
        if self.scheduled is not None:
            for place, value in zip(self.scheduled, self._scheduled(step), strict=True):
                place.fill_(value)

    def _scheduled(self, step: int) -> tuple[float, float, float]:
        """What :attr:`scheduled` shall hold at a step."""
        limit = 1 if step < self.args.alone_until else self.model.air.max_objects
        return self._scheduled_prob(step), limit, self._schedules[1](step)

    def _scheduled_prob(self, step: int) -> float:
        """The prior's probability of one more object at a step; 0 where the model's own holds."""
        start = self.args.learn_continue_prob_from
        return self._schedules[0](step) if start is None or step < start else 0.0

    def post_backward_callback(self) -> None:
        """Set the learning rates of this step, just before boilr's trainer takes it."""
        self.set_schedules()

    @classmethod
    def get_metrics_dict(cls, results: dict[str, Any]) -> dict[str, float]:
        """The scalars among the results, as numbers."""
        return {
            name: value.item() if isinstance(value, Tensor) else float(value)
            for name, value in results.items()
            if not isinstance(value, Tensor) or value.numel() == 1
        }

    @classmethod
    def train_log_str(cls, summaries: dict[str, float], step: int, epoch: int | None = None) -> str:
        """One line of training metrics."""
        return f"train [step {step}]  {_summary(summaries)}"

    @classmethod
    def test_log_str(cls, summaries: dict[str, float], step: int, epoch: int | None = None) -> str:
        """One line of held-out metrics."""
        return f"held out [step {step}]  {_summary(summaries)}"

    @torch.no_grad()
    def test_procedure(self, iw_samples: int | None = None) -> dict[str, float]:
        """Metrics on all held-out scenes; each process that trains with us reads its part.

        Args:
            iw_samples: K of the importance-weighted bound of log p(x). By default it is computed
                every ``loglikelihood_every`` steps, with ``loglikelihood_samples``.
        """
        args, loader = self.args, self.dataloaders.test
        own = distributed.own_range(len(loader.images))
        if iw_samples is None:
            step = self.model.global_step
            due = step > 0 and step % args.loglikelihood_every == 0
            iw_samples = args.loglikelihood_samples if due else 0
        evaluation = evaluate(
            self.model.air,
            loader.images[own],
            loader.num_objects[own] if self.is_counted else None,
            num_samples=iw_samples,
            batch_size=args.test_batch_size if not iw_samples else 100,
        )
        metrics = evaluation.to_dict()
        left_out = {"confusion", "inferred_counts", "num_images", "num_samples"}
        if not self.is_counted:
            left_out |= {"count_accuracy", "count_accuracy_mode"}
        if not iw_samples:
            left_out |= {"log_likelihood_bound", "ess"}
        return distributed.average_metrics(
            {name: value for name, value in metrics.items() if name not in left_out},
            weight=evaluation.num_images,
        )

    def save_images(self, img_folder: str, nrows: int = 8) -> None:
        """Save reconstructions of held-out scenes, with boxes, and samples of the prior."""
        air, step = self.model.air, self.model.global_step
        images = self.dataloaders.test.images[: nrows * nrows // 2]
        folder = Path(img_folder)
        write_file(folder / f"reconstruction_{step}.png", draw_reconstructions(air, images))
        write_file(folder / f"sample_{step}.png", draw_samples(air, columns=nrows))


def make_config(args: argparse.Namespace, data_shape: tuple[int, ...], num_steps: int) -> AIRConfig:
    """The model that the settings describe.

    Args:
        args: the settings.
        data_shape: of an image, ``(C, H, W)``.
        num_steps: steps of the run; the model keeps what a schedule ends with.
    """
    channels, height, width = data_shape
    mean, sd = _z_where_prior(args, (height, width))
    pixel_sd = likelihood_sd(channels) if args.likelihood_sd is None else args.likelihood_sd
    return AIRConfig(
        canvas_size=(height, width),
        channels=channels,
        max_objects=args.max_objects,
        z_what_size=args.z_what_size,
        inference=args.inference,
        num_candidates=args.num_candidates,
        encoder_hidden=parse_sizes(args.encoder_hidden),
        decoder_hidden=parse_sizes(args.decoder_hidden),
        learn_continue_prob=args.learn_continue_prob_from is not None,
        likelihood=args.likelihood,
        overlap=args.overlap,
        likelihood_sd=parse_schedule(pixel_sd)(num_steps),
        continue_prob=parse_schedule(args.continue_prob)(num_steps),
        z_where_mean=mean,
        z_where_sd=sd,
    )


def complete_prior(args: argparse.Namespace, splits: DataSplits | ShardedSplits) -> None:
    """Set the prior of z_where among the settings where neither these nor the data set say it.

    It is estimated from the images then, and told; so it is among the settings that a run keeps,
    and need not be estimated again to continue it.

    Raises:
        ValueError: if no object stands out from the background.
    """
    if known_prior(args.dataset) is not None or args.z_where_mean or args.object_size:
        return
    assert isinstance(splits, DataSplits)
    try:
        prior = estimate_prior(splits)
    except ValueError as error:
        raise ValueError(f"{splits.name}: {error} Give --object-size.") from error
    args.z_where_mean = _to_text(prior.mean)
    args.z_where_sd = args.z_where_sd or _to_text(prior.sd)
    if distributed.is_main():
        print(
            f"Prior of z_where: {prior.source}: --z-where-mean {args.z_where_mean} "
            f"--z-where-sd {args.z_where_sd}"
        )
        if prior.doubt:
            print(f"warning: {prior.doubt}. Or give --object-size.", file=sys.stderr)


def _z_where_prior(
    args: argparse.Namespace, canvas: tuple[int, int]
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and standard deviation: from the settings, else from the data set."""
    known, mean = known_prior(args.dataset), None
    if args.z_where_mean is not None:
        mean = parse_three("z_where_mean", args.z_where_mean)
    elif args.object_size is not None:
        if args.object_size > max(canvas):
            raise ValueError(
                f"object_size must be at most the {max(canvas)} pixels of the canvas, got "
                f"{args.object_size:g}."
            )
        mean = scale_prior(canvas, args.object_size)["z_where_mean"]
    if args.z_where_sd is not None:
        sd = parse_three("z_where_sd", args.z_where_sd)
    elif mean is not None:
        place = position_sd(mean[0])
        sd = (known.sd[0] if known else LEAST_SCALE_SD, place, place)
    elif known is not None:
        sd = known.sd
    if mean is None:
        if known is None:
            raise ValueError(f"the settings of {args.dataset} lack z_where_mean and z_where_sd.")
        mean = known.mean
    return mean, sd


def _to_text(three: tuple[float, float, float]) -> str:
    return ",".join(f"{value:g}" for value in three)


def _scheduled_or_own(scheduled: float | Tensor, own: Tensor) -> Tensor:
    """The schedule's value, or the model's own where that is 0.

    Chosen on the device: a recorded step takes either way. The way not taken has a gradient of 0.
    """
    if not isinstance(scheduled, Tensor):
        scheduled = own.new_full((), scheduled)
    return torch.where(scheduled > 0, scheduled, own)


def _summary(metrics: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.5g}" for name, value in metrics.items())
