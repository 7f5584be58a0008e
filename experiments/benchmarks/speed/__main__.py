"""``python -m experiments.benchmarks.speed``: see the package for what is compared."""

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.benchmarks.markdown import insert
from experiments.benchmarks.speed.machine import available_cores, describe
from experiments.benchmarks.speed.parts import PARTS, Settings, run_part
from experiments.benchmarks.speed.plot import save_plot
from experiments.benchmarks.speed.processes import WorkerError
from experiments.benchmarks.speed.report import format_reports
from experiments.benchmarks.speed.systems import (
    PEERS,
    VARIANTS,
    System,
    find_peer,
    missing_settings,
    own_system,
)
from experiments.datasets import DEFAULT_DATASET, load_dataset

RECORDS = Path(__file__).parent.parent / "records" / "speed"
NUM_IMAGES = 10_000
"""Training scenes that every process holds in memory."""
DEFAULT_SYSTEMS = ("air", "air-reinforce", "air-bf16", "air-compile", *PEERS)


def make_parser() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmarks.speed",
        description="Measure the speed of AIR beside its peers.",
    )
    for peer, what in (
        ("addtt", "github.com/addtt/attend-infer-repeat-pytorch"),
        ("pyro", "github.com/pyro-ppl/pyro, or its examples/air with pyro-ppl installed"),
    ):
        parser.add_argument(
            f"--peer-{peer}", metavar="PATH", type=Path, help=f"folder of {what}; absent: left out"
        )
    parser.add_argument(
        "--peer-deps",
        metavar="PATH",
        type=Path,
        help="folder of packages that only the peers need (pip install --target)",
    )
    parser.add_argument(
        "--systems",
        metavar="NAMES",
        type=_names((*VARIANTS, *PEERS)),
        default=DEFAULT_SYSTEMS,
        help=f"of: {', '.join((*VARIANTS, *PEERS))} (default: {','.join(DEFAULT_SYSTEMS)})",
    )
    parser.add_argument(
        "--only",
        metavar="PARTS",
        type=_names(tuple(PARTS)),
        default=tuple(PARTS),
        help=f"of: {','.join(PARTS)} (default: all)",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where available")
    parser.add_argument("--threads", metavar="N", type=_positive, help="default: all cores")
    for field in dataclasses.fields(Settings):
        if field.name in ("batch_size", "rounds", "steps", "warmup", "repeats", "infer_images"):
            parser.add_argument(
                f"--{field.name.replace('_', '-')}",
                metavar="N",
                type=_positive,
                default=field.default,
                help="default: %(default)s",
            )
    output = parser.add_argument_group("output")
    output.add_argument(
        "--json",
        metavar="FILE",
        type=Path,
        default=Path("output/benchmarks/speed.json"),
        help="default: %(default)s",
    )
    output.add_argument(
        "--record", metavar="NAME", help="keep it with the project, as records/speed/NAME.json"
    )
    output.add_argument("--plot", metavar="FILE", type=Path, help="draw it, as PNG")
    output.add_argument(
        "--write", metavar="FILE", type=Path, help="put the tables between the markers of a file"
    )
    output.add_argument(
        "--from",
        metavar="FILE",
        dest="saved",
        nargs="+",
        type=Path,
        help="measure nothing: take what earlier runs saved",
    )
    return parser


def find_systems(args: argparse.Namespace) -> tuple[list[System], list[str]]:
    """The systems to measure, and a line for each that is left out.

    Raises:
        ValueError: if a peer's folder does not hold it.
    """
    systems, skipped = [], []
    for name in args.systems:
        if name in PEERS:
            folder = getattr(args, f"peer_{name}")
            if folder is None:
                skipped.append(f"{name}: give the folder of its sources as --peer-{name} PATH.")
            else:
                systems.append(find_peer(name, folder, args.peer_deps))
        elif missing := missing_settings(name):
            skipped.append(f"{name}: the experiment has no setting {', '.join(missing)}.")
        else:
            systems.append(own_system(name))
    return systems, skipped


def measure(
    args: argparse.Namespace, save: Callable[[dict[str, Any]], None] = lambda _: None
) -> dict[str, Any]:
    """Carry out the parts; returns the report as plain data.

    Args:
        args: of the command line.
        save: called after each part with the report so far.

    Raises:
        ValueError: if the arguments make no sense.
        WorkerError: if a system fails.
    """
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: PyTorch finds no GPU here. Leave it out, or give cpu.")
    systems, skipped = find_systems(args)
    for line in skipped:
        _say(f"skipped: {line}")
    with tempfile.TemporaryDirectory() as folder:
        images = str(Path(folder) / "images.npz")
        settings = Settings(
            images=images,
            device=device,
            threads=args.threads or available_cores(),
            batch_size=args.batch_size,
            rounds=args.rounds,
            steps=args.steps,
            warmup=args.warmup,
            repeats=args.repeats,
            infer_images=args.infer_images,
        )
        scenes = load_dataset(DEFAULT_DATASET).train
        np.savez(
            images,
            images=scenes.images[:NUM_IMAGES].numpy(),
            num_objects=scenes.num_objects[:NUM_IMAGES].numpy(),
        )
        report: dict[str, Any] = {
            "machine": describe(device, settings.threads),
            "settings": dataclasses.asdict(settings) | {"images": scenes.name},
            "skipped": skipped,
        }
        for part in args.only:
            _say(f"measuring {part}")
            report[part] = run_part(part, settings, systems, _say)
            save(report)
    return report


def main(argv: list[str] | None = None) -> int:
    """Measure or read, then print and write what was asked for."""
    parser = make_parser()
    args = parser.parse_args(argv)
    try:
        if args.saved:
            reports = [json.loads(path.read_text(encoding="utf-8")) for path in args.saved]
        else:
            reports = [measure(args, lambda report: _save(report, args.json))]
            if args.record:
                _save(reports[0], RECORDS / f"{args.record}.json")
        if args.plot:
            save_plot(reports[0], args.plot)
        if args.write:
            page = args.write.read_text(encoding="utf-8")
            page = insert(page, format_reports(reports), "speed")
            args.write.write_text(page, encoding="utf-8")
    except (ValueError, WorkerError, OSError) as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2
    print(format_reports(reports))
    return 0


def _save(report: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def _names(known: tuple[str, ...]) -> Any:
    def parse(text: str) -> tuple[str, ...]:
        names = tuple(name.strip() for name in text.split(",") if name.strip())
        unknown = [name for name in names if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(
                f"unknown: {', '.join(unknown)}. Expected some of: {', '.join(known)}."
            )
        return names

    return parse


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}.")
    return number


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
