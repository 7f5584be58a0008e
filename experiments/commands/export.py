"""``export``: a trained model as a folder to share, or as an ONNX file."""

import argparse
import json
import sys
from pathlib import Path

import torch
from tqdm import tqdm

from air import AIR
from air.evaluation import evaluate
from air.export import export_onnx
from air.files import check_free
from air.types import Evaluation
from experiments.boilr_folder import read_run_config
from experiments.datasets.sources import open_dataset
from experiments.help import check_packages
from experiments.models import LoadedModel, add_model_arguments, load_model, use_device

DESCRIPTION = """\
Write a trained model as a folder (config.json, preprocessor_config.json, model.safetensors and a
card), which AIR.from_pretrained and --load read and the Hugging Face hub takes; or, to a file
that ends in .onnx, as an ONNX graph of 'infer'."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``export``."""
    add_model_arguments(parser)
    parser.add_argument(
        "--output", metavar="FOLDER|FILE.onnx", type=Path, required=True, help="where to write"
    )
    parser.add_argument("--half", action="store_true", help="weights in half precision")
    parser.add_argument(
        "--measure",
        action="store_true",
        help="of a run: evaluate the model on all held-out scenes of the run's data set, and say "
        "in the card how good it is (minutes)",
    )
    parser.add_argument(
        "--push", metavar="OWNER/MODEL", help="upload the folder to the Hugging Face hub as well"
    )
    parser.add_argument("--force", action="store_true", help="replace files that exist")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    """Export; returns the exit status."""
    as_onnx = args.output.suffix == ".onnx"
    if as_onnx and (args.half or args.measure or args.push):
        raise ValueError("--half, --measure and --push are for folders, not for ONNX files.")
    taken = args.output.exists() if as_onnx else (args.output / "config.json").exists()
    if taken and not args.force:
        raise FileExistsError(f"{args.output} exists. Give another --output, or --force.")
    parent = args.output.parent if as_onnx else args.output
    parent.mkdir(parents=True, exist_ok=True)
    check_free(parent / "config.json", overwrite=True)  # whether anything can be written there
    if args.push:
        check_packages("--push", "huggingface_hub")
    use_device(args)
    loaded = load_model(args.load, args.output_root, torch.device("cpu"))
    result: dict[str, object] = {"output": str(args.output)}
    if as_onnx:
        export_onnx(loaded.air, args.output, overwrite=args.force)
    else:
        card = ""
        if args.measure:
            evaluation, card = _measure(loaded, half=args.half)
            result["evaluation"] = evaluation.to_dict() | {
                "log_likelihood_bound": None,
                "ess": None,
            }
        loaded.air.save_pretrained(args.output, card=card, half=args.half, overwrite=args.force)
        if args.push:
            result["pushed"] = AIR.from_pretrained(args.output).push_to_hub(args.push, card=card)
    if args.json:
        print(json.dumps(result))
    else:
        print(f"Written: {args.output}")
    return 0


def _measure(loaded: LoadedModel, *, half: bool) -> tuple[Evaluation, str]:
    """How good the model is, as it will be written, and a card that says so."""
    if loaded.run is None:
        raise ValueError("--measure needs a run: only of a run the data is known.")
    config = read_run_config(loaded.run)
    settings = config["args"]
    splits = open_dataset(
        config["dataset"],
        data_root=settings.get("data_root"),
        mnist_root=settings.get("mnist_root"),
    )
    model = AIR(loaded.air.config).eval()
    model.load_state_dict(loaded.air.state_dict())
    if half:
        model = model.half().float()
    scenes = splits.held_out[:]
    torch.manual_seed(0)
    with tqdm(total=len(scenes), desc="measure", unit="scene", file=sys.stderr) as bar:
        evaluation = evaluate(
            model,
            scenes.images,
            scenes.num_objects,
            num_samples=0,
            batch_size=500,
            on_batch=bar.update,
        )
    card = (
        f"Trained on `{splits.name}` with the estimator `{settings['estimator']}` for "
        f"{settings['max_steps']:,} steps, seed {settings['seed']}.\n\n"
        f"On the {len(scenes):,} held-out scenes of that data set"
        f"{', in half precision' if half else ''}: "
        f"{evaluation.count_accuracy_mode:.2%} of the counts are right at the posterior's mode; "
        f"ELBO {evaluation.elbo:.1f} nats."
    )
    return evaluation, card
