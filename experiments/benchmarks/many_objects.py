"""How many of up to six digits does ``air.fit`` find, on 100x100 and with room for eight?

    python -m experiments.benchmarks.many_objects --seeds 2 --write README.md

Each seed is fitted as a user would, without labels, and then counts all held-out scenes from one
view. A record is kept of each; those there are, are not made again.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import air
from experiments.arguments import add_data_arguments
from experiments.benchmarks import markdown
from experiments.benchmarks.record_files import (
    RECORDS,
    current_commit,
    read_finished,
    read_record,
    record_path,
    write_record,
)
from experiments.datasets import Scenes
from experiments.datasets.sources import open_dataset

__all__ = ["format_table", "main", "measure"]

DATASET = "scenes:canvas=100,max_objects=6"
_SHOWN = 12
"""Scenes in the picture."""


def measure(
    train: Scenes, held_out: Scenes, settings: dict[str, Any], seed: int
) -> tuple[dict[str, Any], air.Predictions]:
    """Fit one model, and count.

    Args:
        train: scenes to learn from; their labels are not looked at.
        held_out: scenes to count in.
        settings: ``images``, how many of the former to take; others are those of :func:`air.fit`.
        seed: of the fit.

    Returns:
        What was found, and the detections in the first scenes.
    """
    own = {name: value for name, value in settings.items() if name not in ("dataset", "images")}
    commit, start = current_commit(), time.perf_counter()
    model = air.fit(
        train.images[: settings["images"]],
        longest_side=max(train.images.shape[2:]),
        seed=seed,
        **own,
    )
    seconds = time.perf_counter() - start
    counts = torch.cat(
        [torch.as_tensor(model.predict(part).counts) for part in held_out.images.split(1000)]
    )
    right = (counts == held_out.num_objects).double()
    by_count = [
        float(right[held_out.num_objects == number].mean())
        for number in range(held_out.max_count + 1)
    ]
    found = {
        "seed": seed,
        "settings": settings,
        "held_out": len(held_out),
        "count_accuracy": float(right.mean()),
        "count_accuracy_by_count": by_count,
        "off_by_one": float(((counts - held_out.num_objects).abs() <= 1).double().mean()),
        "seconds": seconds,
        "commit": commit,
        "torch_version": str(torch.__version__),
    }
    return found, model.predict(held_out.images[:_SHOWN])


def format_table(records: Sequence[dict[str, Any]]) -> str:
    """Counts that are right, over all and by the true number; the command below."""
    if not records:
        return "*No run is kept yet.*"
    counts = zip(*(record["count_accuracy_by_count"] for record in records), strict=True)
    overall = [[record[name] for record in records] for name in ("count_accuracy", "off_by_one")]
    cells = [markdown.spread(values, 100, 1, " %") for values in (*overall, *map(list, counts))]
    header = ["seeds", "right", "at most one off"]
    header += [f"n = {number}" for number in range(len(cells) - 2)]
    seeds = ", ".join(str(record["seed"]) for record in records)
    settings = records[0]["settings"]
    return (
        f"{markdown.table(header, [[seeds, *cells]])}\n\n"
        f"`air.fit` on {settings['images']:,} of the training scenes of `{settings['dataset']}`, "
        f"`max_objects={settings['max_objects']}`, {settings['num_steps']:,} steps; "
        f"{records[0]['held_out']:,} held-out scenes, one view "
        f"({', '.join(sorted({str(record['commit']) for record in records}))})."
    )


def make_parser() -> argparse.ArgumentParser:
    """The parser."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmarks.many_objects",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--dataset", metavar="NAME", default=DATASET, help="default: %(default)s")
    add_data_arguments(parser)
    numbers = {"seeds": 1, "images": 20_000, "max-objects": 8, "num-steps": 2500, "threads": None}
    for name, default in numbers.items():
        parser.add_argument(
            f"--{name}", metavar="N", type=int, default=default, help="default: %(default)s"
        )
    parser.add_argument(
        "--records",
        metavar="DIR",
        type=Path,
        default=RECORDS / "many_objects",
        help="where the JSON is kept (default: in the package)",
    )
    parser.add_argument("--report", action="store_true", help="fit nothing: only the table")
    parser.add_argument("--picture", metavar="FILE", type=Path, help="draw some scenes, as PNG")
    parser.add_argument("--write", metavar="FILE", type=Path, help="put the table into a page")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    args = make_parser().parse_args(argv)
    try:
        if not args.report:
            _make(args)
        records = [read_record(path) for path in sorted(args.records.glob("seed*.json"))]
        table = format_table(records)
        print(table)
        if args.write is not None:
            page = args.write.read_text(encoding="utf-8")
            text = markdown.insert(page, table, "many objects")
            args.write.write_text(text, encoding="utf-8")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _make(args: argparse.Namespace) -> None:
    """Fit what has no record yet."""
    for name in ("seeds", "images", "max_objects", "num_steps", "threads"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(args, name)}.")
    if args.threads:
        torch.set_num_threads(args.threads)
    splits = open_dataset(args.dataset, data_root=args.data_root, mnist_root=args.mnist_root)
    train, held_out = splits.train, splits.held_out
    if not isinstance(train, Scenes) or not isinstance(held_out, Scenes):
        raise ValueError("the scenes must fit into memory: give a registered data set.")
    settings = {
        "dataset": args.dataset,
        "images": args.images,
        "max_objects": args.max_objects,
        "num_steps": args.num_steps,
    }
    for seed in range(args.seeds):
        path = record_path(args.records, f"seed{seed}")
        if read_finished(path, settings) is not None:
            continue
        found, detections = measure(train, held_out, settings, seed)
        write_record(path, found)
        if args.picture is not None and seed == 0:
            args.picture.parent.mkdir(parents=True, exist_ok=True)
            detections.draw().save(args.picture)


if __name__ == "__main__":
    sys.exit(main())
