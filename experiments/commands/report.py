"""``report``: one HTML page about a run, or its pictures as PNG files."""

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from air.files import check_free
from experiments.arguments import add_data_arguments
from experiments.boilr_folder import convert_log, read_run_config
from experiments.datasets import check_max_objects
from experiments.datasets.sources import check_dataset, open_dataset
from experiments.files import write_file
from experiments.models import load_run, use_device
from experiments.runs import Run

DESCRIPTION = """\
Make one HTML page about a run: how it reads held-out scenes, step by step; where it looks; what it
gets wrong; what it makes up; learning curves, metrics and settings. The file needs nothing beside
it, no network either. With --pictures its pictures are written as PNG files instead."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``report``."""
    parser.add_argument(
        "run",
        metavar="RUN",
        help="name of the run, 'latest' for the one started last, or the path of its folder",
    )
    parser.add_argument(
        "--output",
        metavar="FILE.html",
        type=Path,
        help="where the page goes (default: report.html in the run)",
    )
    parser.add_argument(
        "--pictures",
        metavar="FOLDER",
        type=Path,
        help="write the pictures as PNG files into this folder, and no page",
    )
    parser.add_argument(
        "--only",
        metavar="NAMES",
        help="these pictures, separated by commas, of: reconstructions, steps, looks, counts, "
        "hardest, samples, walk_z_what, walk_z_where, curves (default: all)",
    )
    parser.add_argument(
        "--force", action="store_true", help="take the place of files that are there already"
    )
    parser.add_argument(
        "--runs", metavar="DIR", default="output", help="folder of all runs (default: %(default)s)"
    )
    parser.add_argument(
        "--step", metavar="N", type=int, help="which checkpoint (default: the newest)"
    )
    parser.add_argument(
        "--images",
        metavar="N",
        type=int,
        help="look at the first N held-out scenes only (default: all)",
    )
    parser.add_argument(
        "--batch-size",
        metavar="N",
        type=int,
        default=100,
        help="scenes in work at a time (default: %(default)s)",
    )
    parser.add_argument("--dataset", metavar="NAME", help="another data set than the run's own")
    add_data_arguments(parser)
    parser.add_argument(
        "--seed", metavar="N", type=int, default=0, help="random seed (default: %(default)s)"
    )
    parser.add_argument(
        "--threads", metavar="N", type=int, help="CPU threads (default: PyTorch's choice)"
    )
    parser.add_argument("--nocuda", action="store_true", dest="no_cuda", help="do not use CUDA")


def run(args: argparse.Namespace) -> int:
    """Make the page or the pictures; returns the exit status."""
    # Here, because importing matplotlib takes half a second, of other commands too.
    from experiments.report.gather import find_run
    from experiments.report.pictures import PICTURES, draw, draw_png, parse_names

    for name in ("images", "batch_size"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(args, name)}.")
    names = list(PICTURES) if args.only is None else parse_names(args.only)
    if args.pictures is not None and args.output is not None:
        raise ValueError("--pictures writes no page: leave --output out, or call report twice.")
    source = find_run(args.run, args.runs)
    if args.pictures is None:
        targets = [args.output or source.folder / "report.html"]
        if targets[0].suffix.lower() not in (".html", ".htm"):
            raise ValueError(f"--output {targets[0]} must end in .html: that is what is written.")
    else:
        targets = [args.pictures / f"{name}.png" for name in names]
    _check_targets(targets, force=args.force)
    findings = _gather(args, source, use_device(args))
    drawing = tqdm(names, desc="draw", unit="picture", file=sys.stderr)
    if args.pictures is not None:
        for name, target in zip(drawing, targets, strict=True):
            content = draw_png(name, findings, args.seed)
            if content is None:
                print(f"{name}: there is nothing to show.", file=sys.stderr)
            else:
                write_file(target, content)
                print(target)
        return 0
    from experiments.report.page import render

    pictures = [drawn for name in drawing if (drawn := draw(name, findings, args.seed))]
    write_file(targets[0], render(findings, pictures).encode())
    print(f"Written: {targets[0]}")
    return 0


def _check_targets(targets: list[Path], *, force: bool) -> None:
    """Before the work, not after it."""
    for target in targets:
        if target.is_dir():
            raise IsADirectoryError(f"{target} is a folder. Give the name of a file.")
        if target.exists() and not force:
            raise FileExistsError(
                f"{target} exists. Give another name, or --force to take its place."
            )
    parent = targets[0].parent
    if targets[0].suffix == ".png":
        parent.mkdir(parents=True, exist_ok=True)
    if not parent.is_dir():
        raise FileNotFoundError(f"{parent} is no folder: make it first, or give another --output.")
    check_free(targets[0], overwrite=True)


def _gather(args: argparse.Namespace, source: Run, device: torch.device) -> Any:
    """All that the run and its model tell."""
    from experiments.report.gather import (
        Findings,
        find_seeds,
        read_evaluations,
        read_metrics,
        read_scenes,
    )

    config = read_run_config(source)
    convert_log(source)
    dataset = args.dataset or config["dataset"]
    check_dataset(dataset)
    step, air = load_run(source, args.step, device)
    curves = read_metrics(source)
    splits = open_dataset(
        dataset,
        data_root=args.data_root or config["args"].get("data_root"),
        mnist_root=args.mnist_root or config["args"].get("mnist_root"),
    )
    check_max_objects(splits.held_out, air.max_objects)
    scenes = splits.held_out[: args.images]
    torch.manual_seed(args.seed)
    with tqdm(total=len(scenes), desc="read", unit="scene", file=sys.stderr) as bar:
        readings = read_scenes(air, scenes, batch_size=args.batch_size, on_batch=bar.update)
    return Findings(
        name=source.name,
        step=step,
        air=air,
        dataset=splits.name,
        scenes=scenes,
        readings=readings,
        config=config,
        curves=curves,
        others=find_seeds(source),
        evaluations=read_evaluations(source),
    )
