"""``evaluate``: counts and honest bounds of a trained model, on held-out scenes."""

import argparse
import json
import sys
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from air import AIR
from air.evaluation import evaluate
from air.files import check_free
from air.shifts import shift_grid
from air.types import Evaluation
from experiments.arguments import add_data_arguments
from experiments.boilr_folder import convert_log, read_run_config
from experiments.calibration import calibrate, draw_reliability, format_calibration
from experiments.calibration import to_dict as calibration_to_dict
from experiments.datasets import Scenes, check_max_objects
from experiments.datasets.sources import check_dataset, folder_name, open_dataset
from experiments.files import to_json, write_files
from experiments.help import check_packages
from experiments.localisation import check_boxes, format_localisation, localise
from experiments.models import load_run, use_device
from experiments.pictures import draw_localisation, draw_reconstructions, draw_samples
from experiments.runs import Run

DESCRIPTION = """\
Evaluate a trained model on held-out scenes: count accuracy (in one draw from the posterior, and at
its mode), confusion of counts, the ELBO with its parts, and the importance-weighted bound of
log p(x) with its effective sample size. On demand how well objects are localised, and how well the
posterior over counts is calibrated. Prints a table, writes JSON and pictures into the run."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``evaluate``."""
    parser.add_argument(
        "--load",
        metavar="RUN",
        required=True,
        help="name of the run, or 'latest' for the one started last",
    )
    parser.add_argument(
        "--output",
        metavar="DIR",
        default="output",
        help="folder of all runs (default: %(default)s)",
    )
    parser.add_argument(
        "--step", metavar="N", type=int, help="which checkpoint (default: the newest)"
    )
    parser.add_argument(
        "--samples",
        metavar="K",
        type=int,
        default=5,
        help="importance-weighted samples an image, 0 for none (default: %(default)s)",
    )
    parser.add_argument(
        "--images",
        metavar="N",
        type=int,
        help="evaluate the first N held-out scenes only (default: all)",
    )
    parser.add_argument(
        "--batch-size",
        metavar="N",
        type=int,
        default=100,
        help="scenes in work at a time (default: %(default)s)",
    )
    parser.add_argument(
        "--dataset", metavar="NAME", help="evaluate on another data set than the run's own"
    )
    add_data_arguments(parser)
    parser.add_argument(
        "--max-shift",
        metavar="PIXELS",
        type=int,
        default=0,
        help="read each scene from 25 views, moved by up to so much, and keep the one of the "
        "highest ELBO (default: the scene as it is)",
    )
    parser.add_argument(
        "--localisation",
        action="store_true",
        help="score boxes and masks against the true ones (needs '.[benchmarks]')",
    )
    parser.add_argument(
        "--calibration",
        action="store_true",
        help="how far q(n | x), and p(n | x) by importance weighting, can be believed",
    )
    parser.add_argument(
        "--seed", metavar="N", type=int, default=0, help="random seed (default: %(default)s)"
    )
    parser.add_argument(
        "--threads", metavar="N", type=int, help="CPU threads (default: PyTorch's choice)"
    )
    parser.add_argument("--nocuda", action="store_true", dest="no_cuda", help="do not use CUDA")
    parser.add_argument(
        "--json",
        action="store_true",
        help="print one JSON object on standard output instead of the table",
    )


def run(args: argparse.Namespace) -> int:
    """Evaluate; returns the exit status."""
    for name, least in (("samples", 0), ("max_shift", 0), ("batch_size", 1)):
        if getattr(args, name) < least:
            raise ValueError(f"{name} must be at least {least}, got {getattr(args, name)}.")
    if args.calibration and not args.samples:
        raise ValueError("--calibration weighs samples: give --samples of at least 1.")
    if args.images is not None and args.images < 1:
        raise ValueError(f"images must be at least 1, got {args.images}.")
    if args.localisation:
        check_packages("--localisation", "torchmetrics", "torchvision", "scipy", "sklearn")
    if args.calibration:
        check_packages("--calibration", "matplotlib")
    device = use_device(args)
    torch.manual_seed(args.seed)
    source = Run.find(args.output, args.load)
    config = read_run_config(source)
    source.make_folders()
    check_free(source.result_folder / "evaluation.json", overwrite=True)
    convert_log(source)
    dataset = args.dataset or config["dataset"]
    check_dataset(dataset)
    step, air = load_run(source, args.step, device)
    splits = open_dataset(
        dataset,
        data_root=args.data_root or config["args"].get("data_root"),
        mnist_root=args.mnist_root or config["args"].get("mnist_root"),
    )
    check_max_objects(splits.held_out, air.max_objects)
    scenes = splits.held_out[: args.images]
    images = scenes.images.to(device)
    num_objects = scenes.num_objects.to(device) if scenes.is_counted else None
    if args.localisation:
        check_boxes(scenes)
    if args.calibration and num_objects is None:
        raise ValueError(f"--calibration needs the true counts of {scenes.name}: they are unknown.")
    shifts = shift_grid(args.max_shift) if args.max_shift else None
    with tqdm(total=len(scenes), desc="evaluate", unit="scene", file=sys.stderr) as bar:
        evaluation = evaluate(
            air,
            images,
            num_objects,
            num_samples=args.samples,
            shifts=shifts,
            batch_size=args.batch_size,
            on_batch=bar.update,
        )
    report = {"run": source.name, "step": step, "dataset": splits.name, **evaluation.to_dict()}
    report["max_shift"] = args.max_shift
    prior = air.prior()
    report["continue_prob"] = air.generative.prior.continue_prob.item()
    report["prior_num_steps"] = prior.num_steps.probs.tolist()
    picture = f"imgs/evaluation_{step}"
    if splits.name != config["dataset"]:
        picture += f"_{folder_name(splits.name)}"
    more, texts, pictures = _more(args, air, scenes, shifts, picture)
    report |= more
    if not args.samples:  # JSON has no NaN
        report |= {"log_likelihood_bound": None, "ess": None}
    if num_objects is None:
        report |= {"count_accuracy": None, "count_accuracy_mode": None}
    stem = f"step{step}_{folder_name(splits.name)}_{len(scenes)}scenes_{args.samples}samples"
    stem += f"_shift{args.max_shift}" if args.max_shift else ""
    path = source.result_folder / f"evaluation_{stem}.json"
    pictures |= {
        f"{picture}_reconstructions.png": draw_reconstructions(air, images[:32]),
        f"imgs/evaluation_{step}_samples.png": draw_samples(air),
    }
    write_files(source.result_folder, {path.name: to_json(report), **pictures})
    if args.json:
        print(json.dumps(report))
    else:
        print("\n\n".join([format_table(report, evaluation), *texts]))
        print(f"\nWritten: {path}\nPictures: {source.image_folder}")
    return 0


def _more(
    args: argparse.Namespace, air: AIR, scenes: Scenes, shifts: Tensor | None, picture: str
) -> tuple[dict[str, Any], list[str], dict[str, bytes]]:
    """What is measured on demand: fields of the report, their tables, and pictures by their names.

    Args:
        args: of the command.
        air: the model.
        scenes: to judge by.
        shifts: views to choose from.
        picture: how the pictures' names begin.
    """
    report: dict[str, Any] = {}
    texts, pictures = [], {}
    if args.localisation:
        with tqdm(total=len(scenes), desc="localise", unit="scene", file=sys.stderr) as bar:
            localisation = localise(
                air, scenes, shifts=shifts, batch_size=args.batch_size, on_batch=bar.update
            )
        report["localisation"] = localisation.to_dict()
        texts.append(format_localisation(localisation))
        pictures[f"{picture}_localisation.png"] = draw_localisation(air, scenes[:32])
    if args.calibration:
        device = next(air.parameters()).device
        with tqdm(total=len(scenes), desc="calibrate", unit="scene", file=sys.stderr) as bar:
            calibrations = calibrate(
                air,
                scenes.images.to(device),
                scenes.num_objects,
                num_samples=args.samples,
                shifts=shifts,
                batch_size=args.batch_size,
                on_batch=bar.update,
            )
        report["calibration"] = calibration_to_dict(calibrations)
        texts.append(format_calibration(calibrations))
        pictures[f"{picture}_calibration.png"] = draw_reliability(calibrations)
    return report, texts, pictures


def format_table(report: dict[str, Any], evaluation: Evaluation) -> str:
    """The evaluation as text."""
    lines = [
        f"{report['run']}, step {report['step']}: {evaluation.num_images} held-out scenes of "
        f"{report['dataset']}",
        *(
            [f"each read from the best of 25 views, moved by up to {report['max_shift']} pixels"]
            if report["max_shift"]
            else []
        ),
        "",
        *_format_accuracy(evaluation),
        "",
        f"  ELBO                                   {evaluation.elbo:8.1f} nats",
        f"    log-likelihood                       {evaluation.log_likelihood:8.1f}",
        f"    - KL of n                            {evaluation.kl_num_steps:8.1f}",
        f"    - KL of z_where                      {evaluation.kl_z_where:8.1f}",
        f"    - KL of z_what                       {evaluation.kl_z_what:8.1f}",
    ]
    if evaluation.num_samples:
        lines += [
            f"  log p(x) is at least                   {evaluation.log_likelihood_bound:8.1f} nats "
            f"({evaluation.num_samples} samples, effective {evaluation.ess:.1f})",
        ]
    confusion = evaluation.confusion
    if len(confusion) == 0:
        return "\n".join(lines)
    header = "".join(f"{count:>8}" for count in range(confusion.shape[1]))
    lines += ["", "  true count \\ inferred", f"            {header}"]
    for count, row in enumerate(confusion.tolist()):
        if sum(row):
            lines.append(f"    {count:>8}" + "".join(f"{cell:>8}" for cell in row))
    return "\n".join(lines)


def _format_accuracy(evaluation: Evaluation) -> list[str]:
    """Two lines of the table; without true counts, what was inferred."""
    if len(evaluation.confusion) == 0:
        inferred = evaluation.inferred_counts.tolist()
        listed = ", ".join(f"{count}: {number}" for count, number in enumerate(inferred))
        return [
            "  the true counts are unknown",
            f"  images by inferred count               {listed}",
        ]
    return [
        f"  count accuracy, one posterior sample   {evaluation.count_accuracy:8.2%}",
        f"  count accuracy, posterior mode         {evaluation.count_accuracy_mode:8.2%}",
    ]
