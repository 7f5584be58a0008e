"""The command line of the tables of results."""

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from experiments.benchmarks import markdown
from experiments.benchmarks.record_files import RECORDS
from experiments.benchmarks.results.report import copy_pictures, format_table
from experiments.benchmarks.results.runs import Job, RunError, make_runs
from experiments.benchmarks.results.tables import TABLES

DESCRIPTION = """\
Make the runs of a table of results, every seed counted, and the table from their records. Runs
that have a record are not made again; a run that was cut short is continued."""


def make_parser() -> argparse.ArgumentParser:
    """The parser."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmarks.results",
        description=DESCRIPTION,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--table", metavar="NAME", required=True, help=f"one of: {', '.join(TABLES)}"
    )
    parser.add_argument("--rows", metavar="LIST", help="names separated by commas (default: all)")
    parser.add_argument(
        "--seeds",
        metavar="N",
        type=int,
        default=10,
        help="make seeds 0 to N - 1 of each row (default: %(default)s)",
    )
    parser.add_argument(
        "--jobs",
        metavar="J",
        type=int,
        default=1,
        help="runs side by side, in processes of their own (default: %(default)s)",
    )
    parser.add_argument(
        "--threads",
        metavar="N",
        type=int,
        default=1,
        help="CPU threads of a run (default: %(default)s)",
    )
    parser.add_argument(
        "--output",
        metavar="DIR",
        type=Path,
        default=Path("output/results"),
        help="folder of the run folders (default: %(default)s)",
    )
    parser.add_argument(
        "--records",
        metavar="DIR",
        type=Path,
        default=RECORDS / "results",
        help="where the JSON is kept (default: in the package)",
    )
    parser.add_argument(
        "--report", action="store_true", help="make no run: only the table of those there are"
    )
    parser.add_argument(
        "--write",
        metavar="FILE",
        type=Path,
        help="put the table between <!-- results: NAME --> and <!-- end of results: NAME -->",
    )
    parser.add_argument(
        "--pictures",
        metavar="DIR",
        type=Path,
        help="copy there the pictures of seed 0's evaluations, from the run folders",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status, 2 for what the caller can mend."""
    args = make_parser().parse_args(argv)
    try:
        _run(args)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def _run(args: argparse.Namespace) -> None:
    if args.table not in TABLES:
        raise ValueError(f"unknown table {args.table!r}. Expected one of: {', '.join(TABLES)}.")
    for name, least in (("seeds", 1), ("jobs", 1), ("threads", 1)):
        if getattr(args, name) < least:
            raise ValueError(f"{name} must be at least {least}, got {getattr(args, name)}.")
    table = TABLES[args.table]
    rows = [table.find(name.strip()) for name in args.rows.split(",")] if args.rows else table.rows
    if not args.report:
        jobs = [
            Job(table=args.table, row=row, seed=seed, records=args.records)
            for seed in range(args.seeds)  # seed by seed: a table of few seeds is there early
            for row in rows
        ]
        output = args.output.absolute()
        waiting = [job for job in jobs if job.is_to_do(output)]
        print(f"{len(jobs) - len(waiting)} of {len(jobs)} runs are there already.", flush=True)
        make_runs(waiting, output, args.jobs, args.threads)
    if args.pictures is not None:
        for row in rows:
            run = args.output / Job(table=args.table, row=row, seed=0, records=args.records).name
            copy_pictures(run, row, args.pictures, f"results_{args.table}_{row.name}")
    text = format_table(table, args.records / args.table)
    if args.write is None:
        print(text)
    else:
        page = args.write.read_text(encoding="utf-8")
        name = f"results: {args.table}"
        args.write.write_text(markdown.insert(page, text, name), encoding="utf-8")


def _stop(number: int, frame: FrameType | None) -> None:
    """Leave by way of every ``finally``: processes that were started are ended too."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _stop)
    sys.exit(main())
