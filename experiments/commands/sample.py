"""``sample``: scenes that a trained model imagines."""

import argparse
import json
from pathlib import Path

import torch

from air.files import check_free, write_new
from air.visualization import image_grid
from experiments.models import add_model_arguments, load_model, use_device
from experiments.pictures import to_png

DESCRIPTION = """\
Draw scenes from a trained model's prior and write them as one picture: a row for each number of
objects, unless --objects says how many. (Under the prior of that number nearly all are empty.)"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``sample``."""
    add_model_arguments(parser)
    parser.add_argument(
        "--output", metavar="FILE.png", type=Path, required=True, help="where to write the picture"
    )
    parser.add_argument(
        "--number",
        metavar="N",
        type=int,
        default=8,
        help="scenes in a row (default: %(default)s)",
    )
    parser.add_argument(
        "--objects", metavar="N", type=int, help="objects in each scene (default: 1 to the most)"
    )
    parser.add_argument(
        "--seed", metavar="N", type=int, default=0, help="random seed (default: %(default)s)"
    )
    parser.add_argument("--force", action="store_true", help="replace a file that exists")
    parser.add_argument(
        "--json", action="store_true", help="print the scenes' numbers of objects as JSON"
    )


def run(args: argparse.Namespace) -> int:
    """Sample; returns the exit status."""
    if args.number < 1:
        raise ValueError(f"number must be at least 1, got {args.number}.")
    if args.output.suffix.lower() != ".png":
        raise ValueError(f"--output must end in .png, got {args.output.name!r}.")
    if args.output.is_dir() or (args.output.exists() and not args.force):
        raise FileExistsError(f"{args.output} exists. Give another --output, or --force.")
    args.output.parent.mkdir(parents=True, exist_ok=True)
    check_free(args.output, overwrite=args.force)
    device = use_device(args)
    model = load_model(args.load, args.output_root, device).air
    torch.manual_seed(args.seed)
    counts = range(1, model.max_objects + 1) if args.objects is None else [args.objects]
    num_objects = torch.tensor(list(counts), device=device).repeat_interleave(args.number)
    images = model.sample(len(num_objects), num_objects=num_objects).images.clamp(0, 1)
    enlarged = images.repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2)
    picture = to_png(image_grid(enlarged, columns=args.number))
    write_new(args.output, picture, overwrite=args.force)
    if args.json:
        print(json.dumps({"output": str(args.output), "num_objects": num_objects.tolist()}))
    else:
        print(f"{len(num_objects)} scenes. Written: {args.output}")
    return 0
