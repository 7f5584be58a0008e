"""``predict``: find the objects of images with a trained model."""

import argparse
import io
import json
import sys
from pathlib import Path
from typing import cast

from tqdm import tqdm

from air.detections import Detections, Predictions
from air.files import check_free, write_new
from air.images import find_images
from experiments.models import add_model_arguments, load_model, use_device

DESCRIPTION = """\
Find the objects of images of any size with a trained model. Boxes are in the images' own pixels.
Prints the count of each image; writes them, or boxes and all else, to a file."""

_ENDINGS = (".coco.json", ".json", ".csv")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``predict``."""
    parser.add_argument("paths", metavar="PATH", nargs="+", help="images, or folders of images")
    add_model_arguments(parser)
    parser.add_argument(
        "--output",
        metavar="FILE",
        type=Path,
        help="FILE.csv: the counts and their probabilities; FILE.json: boxes, scores and "
        "appearances too; FILE.coco.json: boxes and masks as a COCO data set",
    )
    parser.add_argument(
        "--draw", metavar="FOLDER", type=Path, help="write each image with its boxes, as PNG"
    )
    parser.add_argument(
        "--max-objects",
        metavar="T",
        type=int,
        help="most objects that can be found in an image (default: the model's own)",
    )
    parser.add_argument(
        "--max-shift",
        metavar="PX",
        type=int,
        default=0,
        help="read each image from 25 views, moved by up to so many pixels of the model's canvas, "
        "and keep the one of the highest ELBO: 26 times the work (default: one view)",
    )
    parser.add_argument(
        "--batch-size",
        metavar="N",
        type=int,
        default=100,
        help="images in work at a time (default: %(default)s)",
    )
    parser.add_argument("--force", action="store_true", help="replace files that exist")
    parser.add_argument(
        "--json",
        action="store_true",
        help="print one JSON object an image on standard output, instead of its count",
    )


def run(args: argparse.Namespace) -> int:
    """Predict; returns the exit status."""
    files = find_images(args.paths)
    # Before the work, not after it.
    _check_output(args.output, force=args.force)
    pictures = _pictures(args.draw, files, force=args.force)
    if pictures:
        args.draw.mkdir(parents=True, exist_ok=True)
        check_free(pictures[0], overwrite=args.force)
    model = load_model(args.load, args.output_root, use_device(args)).air
    with tqdm(total=len(files), desc="predict", unit="image", file=sys.stderr) as bar:
        predictions = model.predict(
            files,
            max_objects=args.max_objects,
            max_shift=args.max_shift,
            batch_size=args.batch_size,
            on_batch=bar.update,
        )
    if args.output is not None:
        _write(predictions, args.output, force=args.force)
    if pictures:
        names = dict(zip(files, pictures, strict=True))
        for detections in tqdm(predictions, desc="draw", unit="image", file=sys.stderr):
            path = names[cast(Path, detections.source)]
            if detections.page:
                path = path.with_stem(f"{path.stem}_page{detections.page}")
            write_new(path, _png(detections), overwrite=args.force)
    for detections in predictions:
        file = str(detections.source)
        if detections.file and detections.file.endswith("]"):  # a page of a stack
            file += detections.file.removeprefix(Path(file).name)
        if args.json:
            print(json.dumps(detections.to_record() | {"path": file}))
        elif args.output is None and args.draw is None:
            print(f"{file}\t{detections.count}")
    if not args.json:
        objects = sum(map(len, predictions))
        written = [str(path) for path in (args.output, args.draw) if path is not None]
        print(
            f"{len(predictions)} images, {objects} objects."
            + (f" Written: {', '.join(written)}" if written else "")
        )
    return 0


def _png(detections: Detections) -> bytes:
    content = io.BytesIO()
    detections.draw().save(content, format="PNG")
    return content.getvalue()


def _check_output(path: Path | None, *, force: bool) -> None:
    if path is None:
        return
    if not path.name.endswith(_ENDINGS):
        raise ValueError(f"--output must end in one of: {', '.join(_ENDINGS)}; got {path.name!r}.")
    if path.is_dir() or (path.exists() and not force):
        raise FileExistsError(f"{path} exists. Give another --output, or --force.")
    path.parent.mkdir(parents=True, exist_ok=True)
    check_free(path, overwrite=force)


def _pictures(folder: Path | None, files: list[Path], *, force: bool) -> list[Path]:
    """Where the picture of each image goes: its name, made unique."""
    if folder is None:
        return []
    pictures: list[Path] = []
    taken: set[str] = set()
    for file in files:
        name, number = f"{file.stem}.png", 1
        while name in taken:
            number += 1
            name = f"{file.stem}_{number}.png"
        taken.add(name)
        pictures.append(folder / name)
    exist = [path for path in pictures if path.exists()]
    own = {file.resolve() for file in files}
    if any(path.resolve() in own for path in exist):
        raise FileExistsError(f"--draw {folder} holds the images themselves. Give another folder.")
    if exist and not force:
        raise FileExistsError(
            f"{exist[0]} exists{', and others' if exist[1:] else ''}. "
            "Give another --draw, or --force."
        )
    return pictures


def _write(predictions: Predictions, path: Path, *, force: bool) -> None:
    if path.name.endswith(".coco.json"):
        predictions.to_coco(path, overwrite=force)
    elif path.name.endswith(".json"):
        predictions.to_json(path, overwrite=force)
    else:
        predictions.to_csv(path, overwrite=force)
