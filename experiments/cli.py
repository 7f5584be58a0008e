"""The command line: one parser, one subcommand a module of ``experiments.commands``."""

import argparse
import sys
from collections.abc import Sequence

from experiments.commands import data, doctor, evaluate, report, train

COMMANDS = {
    "train": (train, "train a model (the default)"),
    "evaluate": (evaluate, "count accuracy and bounds of a trained model"),
    "report": (report, "one HTML page about a run, or its pictures"),
    "data": (data, "make and describe a data set"),
    "doctor": (doctor, "check that a run would work, and change nothing"),
}


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="python main.py",
        description="Attend, Infer, Repeat: count, find and describe objects without labels.",
        epilog="'python main.py' alone is 'python main.py train'. "
        "'python main.py COMMAND --help' explains a command.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (module, summary) in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=summary,
            description=getattr(module, "DESCRIPTION", summary),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        module.add_arguments(command)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status, 2 for what the caller can mend."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or (argv[0].startswith("-") and argv[0] not in ("-h", "--help")):
        argv.insert(0, "train")
    args = make_parser().parse_args(argv)
    # What was needed to get here is no setting of the command's.
    module, _ = COMMANDS[vars(args).pop("command")]
    try:
        if prepare := getattr(module, "prepare", None):
            args = prepare(args, argv[1:])
        return module.run(args)
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
