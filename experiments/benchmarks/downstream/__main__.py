"""The command: see the package for the rules."""

import argparse
import sys
from pathlib import Path
from typing import Any

import torch

from experiments.arguments import add_data_arguments
from experiments.benchmarks import downstream
from experiments.benchmarks.downstream.probes import TASKS, measure
from experiments.benchmarks.downstream.report import format_table, save_picture
from experiments.benchmarks.markdown import insert
from experiments.benchmarks.record_files import current_commit, read_record
from experiments.boilr_folder import read_run_config
from experiments.datasets import Scenes
from experiments.datasets.sources import open_dataset
from experiments.files import to_json, write_file
from experiments.models import load_run
from experiments.runs import Run

DATASET = "multi-mnist-2"

_ELSEWHERE = (
    *("data_root", "mnist_root", "output", "run_name", "threads", "resume"),
    *("train_log_every", "test_log_every", "test_imgs_every", "checkpoint_every"),
)
"""Settings of a run that change nothing it found; some say where things lay on one machine."""


def make_parser() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmarks.downstream",
        description=downstream.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--load", metavar="RUN", help="name of the run, or 'latest'")
    parser.add_argument(
        "--output", metavar="DIR", default="output", help="folder of all runs (default: output)"
    )
    parser.add_argument("--step", metavar="N", type=int, help="which checkpoint (default: newest)")
    parser.add_argument(
        "--dataset",
        metavar="NAME",
        default=DATASET,
        help="its scenes of two digits are used (default: %(default)s)",
    )
    add_data_arguments(parser)
    parser.add_argument(
        "--labels",
        metavar="LIST",
        type=_numbers,
        default=[100, 1000, 10_000, 50_000],
        help="numbers of labels, separated by commas (default: 100,1000,10000,50000)",
    )
    parser.add_argument(
        "--seeds", metavar="N", type=int, default=5, help="subsets of labels (default: %(default)s)"
    )
    parser.add_argument(
        "--steps", metavar="N", type=int, default=3000, help="of a probe (default: %(default)s)"
    )
    parser.add_argument("--threads", metavar="N", type=int, help="CPU threads")
    parser.add_argument(
        "--json",
        metavar="FILE",
        type=Path,
        help="where the record goes (default: results/downstream.json in the run)",
    )
    parser.add_argument(
        "--from", metavar="FILE", dest="saved", type=Path, help="measure nothing: read this record"
    )
    parser.add_argument("--picture", metavar="FILE", type=Path, help="draw it, as PNG")
    parser.add_argument(
        "--write", metavar="FILE", type=Path, help="put the table between a file's markers"
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    args = make_parser().parse_args(argv)
    try:
        if args.saved:
            report = read_record(args.saved)
        else:
            report, folder = _measure_run(args)
            args.picture = args.picture or folder / "imgs" / "downstream.png"
        table = format_table(report)
        print(table)
        if args.picture:
            save_picture(report, args.picture)
        if args.write:
            page = args.write.read_text(encoding="utf-8")
            args.write.write_text(insert(page, table, "downstream"), encoding="utf-8")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _measure_run(args: argparse.Namespace) -> tuple[dict[str, Any], Path]:
    """The report on a run, and the run's folder of results.

    Saved after each probe; what an earlier call with the same settings saved is not done again.
    """
    if args.load is None:
        raise ValueError("give --load RUN, or --from FILE to read what was measured before.")
    for name in ("seeds", "steps", "threads"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(args, name)}.")
    if args.threads:
        torch.set_num_threads(args.threads)
    run = Run.find(args.output, args.load)
    config = read_run_config(run)
    step, air = load_run(run, args.step, torch.device("cpu"))
    splits = open_dataset(
        args.dataset,
        data_root=args.data_root or config["args"].get("data_root"),
        mnist_root=args.mnist_root or config["args"].get("mnist_root"),
    )
    train, held_out = (_of_two(scenes) for scenes in (splits.train, splits.held_out))
    most_common = {}
    for name, task in TASKS.items():
        shares = torch.bincount(task.labels(held_out)).double() / len(held_out)
        most_common[name] = float(shares.max())
    settings = {
        "dataset": splits.name,
        "num_labels": args.labels,
        "seeds": args.seeds,
        "steps": args.steps,
    }
    report = {
        "run": run.name,
        "step": step,
        "train": {name: value for name, value in config["args"].items() if name not in _ELSEWHERE}
        # Where full MNIST was not to be had, it is not the one that was asked for.
        | {"dataset": config.get("dataset", config["args"]["dataset"])},
        "commit": current_commit(),
        "settings": settings,
        "held_out": len(held_out),
        "counts_right": float((air.infer(held_out.images).counts == 2).double().mean()),
        "most_common": most_common,
    }
    path = args.json or run.result_folder / "downstream.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    report, records = _begun(path, report)
    more = measure(
        air,
        train,
        held_out,
        num_labels=args.labels,
        seeds=args.seeds,
        steps=args.steps,
        done=records,
        progress=True,
    )
    for record in more:
        records.append(record)
        write_file(path, to_json(report | {"records": records}))
    return report | {"records": records}, run.result_folder


def _begun(path: Path, report: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What was begun in a file, and the records in it; none if there is no such file.

    Raises:
        ValueError: if they were made with other settings.
    """
    if not path.exists():
        return report, []
    saved = read_record(path)
    records: list[dict[str, Any]] = saved.pop("records", [])
    # The commit is that of the first probe: what came later changed nothing that is compared.
    if saved | {"commit": None} != report | {"commit": None}:
        raise ValueError(
            f"{path} holds a measurement with other settings. "
            "Give another --json FILE, or remove it."
        )
    return saved, records


def _of_two(scenes: Any) -> Scenes:
    """The scenes of exactly two objects.

    Raises:
        ValueError: if there are none.
    """
    if not isinstance(scenes, Scenes):
        raise ValueError("the tasks need classes and boxes in memory: give a registered data set.")
    two = scenes[scenes.num_objects == 2]
    if len(two) == 0:
        raise ValueError(f"{scenes.name} holds no scene of two digits. Use {DATASET}.")
    return two


def _numbers(text: str) -> list[int]:
    numbers = sorted({int(part) for part in text.split(",")})
    if numbers[0] < 5:
        raise argparse.ArgumentTypeError(f"a number of labels must be at least 5, got {text}.")
    return numbers


if __name__ == "__main__":
    sys.exit(main())
