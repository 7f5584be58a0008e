"""The command line: one parser, one subcommand a module of ``experiments.commands``."""

import argparse
import io
import sys
from collections.abc import Sequence

from air import __version__
from experiments.commands import (
    data,
    demo,
    doctor,
    evaluate,
    export,
    predict,
    report,
    sample,
    train,
)
from experiments.help import Parser, program

COMMANDS = {
    "train": (train, "train a model (the default)"),
    "evaluate": (evaluate, "count accuracy and bounds of a trained model"),
    "report": (report, "one HTML page about a run, or its pictures"),
    "predict": (predict, "find the objects of your images"),
    "sample": (sample, "draw scenes from a trained model"),
    "demo": (demo, "drag digits about and see AIR look, in a browser"),
    "export": (export, "write a trained model to share, or as ONNX"),
    "data": (data, "make and describe a data set"),
    "doctor": (doctor, "check that a run would work, and change nothing"),
}


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    prog = program()
    parser = Parser(
        prog=prog,
        description="Attend, Infer, Repeat: count, find and describe objects without labels.",
        epilog=f"'{prog}' alone is '{prog} train'. '{prog} COMMAND --help' explains a command.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"air {__version__}")
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
        if everyday := getattr(module, "EVERYDAY", None):
            command.show_first(everyday)
    return parser


def _complete(parser: argparse.ArgumentParser) -> None:
    """Answer the shell, where it asks for completions and argcomplete is installed."""
    try:
        import argcomplete
    except ImportError:
        return
    argcomplete.autocomplete(parser)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status, 2 for what the caller can mend."""
    argv = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):  # no work is lost to a name that they cannot print
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if not argv or (argv[0].startswith("-") and argv[0] not in ("-h", "--help", "--version")):
        argv.insert(0, "train")
    parser = make_parser()
    _complete(parser)
    args = parser.parse_args(argv)
    # What was needed to get here is no setting of the command's.
    module, _ = COMMANDS[vars(args).pop("command")]
    try:
        if prepare := getattr(module, "prepare", None):
            args = prepare(args, argv[1:])
        return module.run(args)
    except (ValueError, OSError, FloatingPointError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
