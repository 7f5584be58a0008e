"""The command line of the estimators' benchmark."""

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from experiments.arguments import add_data_arguments
from experiments.benchmarks.estimators import curves, report, variance
from experiments.benchmarks.record_files import RECORDS
from experiments.datasets import DATASETS

COMMANDS = {"variance": variance, "curves": curves, "report": report}


def make_parser() -> argparse.ArgumentParser:
    """The parser of all three parts."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmarks.estimators",
        description="Measure every estimator against the others.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, module in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=module.DESCRIPTION.splitlines()[0],
            description=module.DESCRIPTION,
            allow_abbrev=False,
        )
        command.add_argument(
            "--dataset",
            metavar="NAME",
            default="multi-mnist-pyro",
            help=f"one of: {', '.join(DATASETS)} (default: %(default)s)",
        )
        command.add_argument(
            "--records",
            metavar="DIR",
            type=Path,
            default=RECORDS / "estimators",
            help="where the JSON is kept (default: in the package)",
        )
        if module is not report:
            add_data_arguments(command)
            command.add_argument(
                "--estimators",
                metavar="LIST",
                help="names separated by commas, or 'all' (default: "
                f"{'all' if module is variance else 'all of the registry'})",
            )
            command.add_argument(
                "--batch-size",
                metavar="N",
                type=int,
                default=64,
                help="images a batch (default: %(default)s)",
            )
            command.add_argument(
                "--threads",
                metavar="N",
                type=int,
                default=1,
                help="CPU threads of a process (default: %(default)s)",
            )
            command.add_argument(
                "--nocuda", action="store_true", dest="no_cuda", help="do not use CUDA"
            )
        module.add_arguments(command)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a part; returns its exit status, 2 for what the caller can mend."""
    args = make_parser().parse_args(argv)
    try:
        return COMMANDS[args.command].run(args)
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _stop(number: int, frame: FrameType | None) -> None:
    """Leave by way of every ``finally``: processes that were started are ended too."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _stop)
    sys.exit(main())
