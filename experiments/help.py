"""Help that fits a screen: the flags of every day, all of them on demand, and what to type."""

import argparse
import importlib.util
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["Parser", "check_packages", "program"]


def program() -> str:
    """How this program was called: ``air`` where it is installed, else ``python main.py``."""
    return "air" if Path(sys.argv[0]).stem == "air" else "python main.py"


def check_packages(flag: str, *names: str) -> None:
    """Check that what a flag needs is installed, before any work is done for it.

    Args:
        flag: that needs it, for the message.
        *names: of packages, as they are imported.

    Raises:
        ImportError: if one cannot be found.
    """
    for name in names:
        try:
            found = importlib.util.find_spec(name) is not None
        except ValueError:  # of a package that was put out of reach
            found = False
        if not found:
            raise ImportError(f"{flag} needs {name}, which is not installed: pip install {name}.")


class Parser(argparse.ArgumentParser):
    """A parser whose ``--help`` can be told to leave most flags to ``--help-all``.

    A flag that ``--help`` does not show is parsed, checked and completed as any other.
    """

    _everyday: frozenset[str] | None = None

    def show_first(self, flags: Iterable[str]) -> None:
        """Let ``--help`` show these flags only, and add ``--help-all``.

        Args:
            flags: as they are typed.

        Raises:
            ValueError: if there is no such flag.
        """
        everyday = frozenset(flags)
        unknown = everyday - set(self._option_string_actions)
        if unknown:
            raise ValueError(f"{self.prog} has no flag {', '.join(sorted(unknown))}.")
        self.add_argument(
            "--help-all", action=_HelpAll, help="show every flag, boilr's among them, and exit"
        )
        self._everyday = everyday | {"--help", "--help-all"}

    def format_help(self) -> str:
        """The help; without the flags that are left to ``--help-all``, if any are."""
        with self._without_the_others():
            return super().format_help()

    def format_full_help(self) -> str:
        """The help with every flag."""
        return super().format_help()

    def format_usage(self) -> str:
        """The usage that precedes an error; as short as the help's."""
        with self._without_the_others():
            return super().format_usage()

    @contextmanager
    def _without_the_others(self) -> Iterator[None]:
        """Hide what is not of every day, for a moment."""
        everyday = self._everyday
        others = (
            []
            if everyday is None
            else [
                (action, action.help)
                for action in self._actions
                if action.option_strings and not everyday.intersection(action.option_strings)
            ]
        )
        for action, _ in others:
            action.help = argparse.SUPPRESS
        usage = self.usage
        if everyday is not None:
            # Python 3.11 cannot write a usage with a hidden flag that excludes a shown one.
            self.usage = "%(prog)s [FLAG ...]"
        try:
            yield
        finally:
            self.usage = usage
            for action, text in others:
                action.help = text


class _HelpAll(argparse.Action):
    """``--help-all``: print the whole help and exit, as ``--help`` does."""

    def __init__(self, option_strings: Sequence[str], dest: str, **options: Any) -> None:
        super().__init__(
            option_strings, argparse.SUPPRESS, nargs=0, default=argparse.SUPPRESS, **options
        )

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        """Print and exit."""
        assert isinstance(parser, Parser)
        parser._print_message(parser.format_full_help(), sys.stdout)
        parser.exit()
