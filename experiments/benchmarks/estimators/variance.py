"""``variance``: the gradients of all estimators at the same weights, on one fixed batch."""

import argparse
import sys
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from air.config import check_images
from experiments.benchmarks.estimators.gradients import (
    GradientStatistics,
    bias,
    draw_gradients,
    group_sizes,
    measure_cost,
    train_baseline,
)
from experiments.benchmarks.estimators.variants import PAPER, VARIANTS, Variant, find_variants
from experiments.benchmarks.estimators.weights import WeightSet, loaded_weights, trained_weights
from experiments.benchmarks.record_files import read_finished, record_path, write_record
from experiments.datasets.scenes import DataSplits
from experiments.experiment import AIRExperiment
from experiments.loaders import load_splits

DESCRIPTION = """\
Variance of each estimator's gradient over repeated draws on one batch, by parameter group; its
signal-to-noise ratio, its bias against the exact gradient, and its cost. One JSON a measurement."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``variance``."""
    parser.add_argument(
        "--half-steps",
        metavar="N",
        type=int,
        default=300,
        help="steps of 'enumerate' to the half-trained weights (default: %(default)s)",
    )
    parser.add_argument(
        "--trained-steps",
        metavar="N",
        type=int,
        default=6_000,
        help="steps of 'enumerate' to the trained weights (default: %(default)s)",
    )
    parser.add_argument(
        "--weights",
        metavar="DIR",
        type=Path,
        default=Path("output", "estimators-weights"),
        help="where the weights trained for this are kept (default: %(default)s)",
    )
    parser.add_argument(
        "--load",
        metavar="LABEL=RUN[@STEP]",
        nargs="+",
        help="measure at these runs' weights instead; fresh, half-trained and trained are the "
        "labels that the report orders",
    )
    parser.add_argument(
        "--output", metavar="DIR", default="output", help="folder of those runs (default: output)"
    )
    parser.add_argument(
        "--draws",
        metavar="N",
        type=int,
        default=300,
        help="gradients drawn of each estimator (default: %(default)s)",
    )
    parser.add_argument(
        "--baseline-steps",
        metavar="N",
        type=int,
        default=2_000,
        help="steps that a baseline is trained for on the frozen model, before it is measured "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--cost-rounds",
        metavar="N",
        type=int,
        default=30,
        help="steps timed of each estimator, in turn with 'enumerate' (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Measure what is not measured yet; returns the exit status."""
    for name, least in (
        *(("draws", 2), ("half_steps", 1), ("baseline_steps", 0), ("cost_rounds", 1)),
        *(("batch_size", 1), ("trained_steps", args.half_steps)),
    ):
        if getattr(args, name) < least:
            raise ValueError(f"{name} must be at least {least}, got {getattr(args, name)}.")
    variants = find_variants(args.estimators, list(VARIANTS))
    torch.set_num_threads(args.threads)
    splits = load_splits(args)  # says so on stderr where another takes the asked one's place
    if not isinstance(splits, DataSplits):
        raise ValueError("gradients are measured on a registered data set, not on shards.")
    args.dataset = splits.name
    if args.load:
        weight_sets = loaded_weights(args.load, args.output)
    else:
        settings = AIRExperiment.default_args(
            **{name: getattr(args, name) for name in ("dataset", "data_root", "mnist_root")},
            **{name: getattr(args, name) for name in ("batch_size", "threads", "no_cuda")},
            **PAPER,
        )
        steps = {"fresh": 0, "half-trained": args.half_steps, "trained": args.trained_steps}
        weight_sets = trained_weights(settings, steps, args.weights)
    use_cuda = torch.cuda.is_available() and not args.no_cuda
    device = torch.device("cuda" if use_cuda else "cpu")
    for weights in weight_sets:
        check_images(splits.train.images, weights.air.config)
        measure_weights(weights, variants, splits.train.images.to(device), args)
    return 0


def measure_weights(
    weights: WeightSet, variants: list[Variant], images: Tensor, args: argparse.Namespace
) -> None:
    """Measure all variants at one set of weights; write a record of each.

    Args:
        weights: where.
        variants: what.
        images: of the training half, uint8; the fixed batch is its first images.
        args: the settings.
    """
    settings = {name: getattr(args, name) for name in ("draws", "baseline_steps", "batch_size")}
    settings |= {"weights": weights.source, "device": images.device.type}
    folder = args.records / "variance"
    missing = []
    for variant in variants:
        path = record_path(folder, args.dataset, weights.label, variant.name)
        if read_finished(path, settings | variant.settings) is None:
            missing.append((variant, path))
    if not missing:
        return
    model = weights.air.to(images.device)
    model.validate_args = False  # checked already
    batch = model.as_input(images[: args.batch_size])
    sizes = group_sizes(model)
    exact_variant = VARIANTS["enumerate"]
    exact_estimator = exact_variant.make(model.config).to(images.device)
    total = args.draws * (2 + sum(variant is not exact_variant for variant, _ in missing))
    with tqdm(total=total, desc=weights.label, unit="draw", file=sys.stderr) as bar:

        def draw(estimator: Any, statistics: GradientStatistics, name: str) -> GradientStatistics:
            torch.manual_seed(zlib.crc32(f"{weights.label} {name}".encode()))
            draw_gradients(estimator, model, batch, statistics, args.draws, bar.update)
            return statistics

        # The direction that bias is measured along comes from draws of its own.
        pilot = draw(exact_estimator, GradientStatistics(sizes), "pilot").mean
        exact = draw(exact_estimator, GradientStatistics(sizes, pilot), "exact")
        for variant, path in missing:
            torch.manual_seed(zlib.crc32(f"{weights.label} baseline".encode()))
            estimator = variant.make(model.config).to(images.device)
            warmed = train_baseline(
                estimator, model, images, steps=args.baseline_steps, batch_size=args.batch_size
            )
            found = exact
            if variant is not exact_variant:
                found = draw(estimator, GradientStatistics(sizes, pilot), variant.name)
            seconds, exact_seconds = measure_cost(
                estimator, exact_estimator, model, batch, args.cost_rounds
            )
            record = {
                "estimator": variant.name,
                "dataset": args.dataset,
                "weights": weights.label,
                "settings": settings | variant.settings,
                "trained_own_parameters_for": args.baseline_steps if warmed else 0,
                "groups": summarise(found, exact if variant.follows_elbo else None),
                "seconds": seconds,
                "enumerate_seconds": exact_seconds,
                "threads": args.threads,
                "torch_version": str(torch.__version__),
            }
            write_record(path, record)
            total_variance = found.variance[-1].item()
            bar.write(
                f"{weights.label:>14}  {variant.name:<15} variance {total_variance:10.3g}  "
                f"cost {seconds / exact_seconds:.2f}",
                file=sys.stdout,
            )


def summarise(
    found: GradientStatistics, exact: GradientStatistics | None
) -> dict[str, dict[str, float]]:
    """The figures of each parameter group, and of all together, ready for JSON.

    Args:
        found: of an estimator.
        exact: of the exact one, where that is what the estimator means to give.
    """
    off = {} if exact is None or exact is found else bias(found, exact)
    sizes = {**found.sizes, "total": sum(found.sizes.values())}
    return {
        name: {
            "parameters": sizes[name],
            "variance": found.variance[i].item(),
            "mean_square": found.mean_square[i].item(),
            "signal_to_noise": (found.mean_square[i] / found.variance[i].clamp(min=1e-300)).item(),
            **off.get(name, {}),
        }
        for i, name in enumerate(found.names)
    }
