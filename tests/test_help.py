"""Help that fits a screen, and all of it on demand."""

import argparse

import pytest

from experiments.cli import COMMANDS, main
from experiments.help import Parser, program

MOST_LINES, COLUMNS = 40, 100


@pytest.fixture
def parser():
    parser = Parser(prog="tool", formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--often", metavar="N", type=int, default=1, help="often needed")
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--rarely", action="store_true", help="rarely needed")
    either.add_argument("--or-this", action="store_true", help="needed now and then")
    parser.add_argument_group("boilr").add_argument("--other", help="of another library")
    parser.show_first(["--often", "--or-this"])
    return parser


def help_of(capsys, *argv):
    with pytest.raises(SystemExit) as exit:
        main([*argv])
    assert exit.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)], ids=str)
def test_help_fits_a_screen(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(COLUMNS))
    lines = help_of(capsys, *command, "--help").splitlines()
    assert len(lines) <= MOST_LINES
    assert max(map(len, lines)) <= COLUMNS


def test_help_of_train_names_the_way_to_the_rest(capsys):
    out = help_of(capsys, "train", "--help")
    assert "--help-all" in out
    assert "--estimator" in out
    assert "--ll-samples" not in out
    assert "--ll-samples" in help_of(capsys, "train", "--help-all")


def test_the_short_help_leaves_out_flags_and_empty_groups(parser):
    text = parser.format_help()
    assert "--often" in text
    assert "--or-this" in text
    assert "--rarely" not in text
    assert "boilr:" not in text
    assert "[FLAG ...]" in text


def test_the_whole_help_is_what_argparse_makes(parser):
    text = parser.format_full_help()
    assert text == argparse.ArgumentParser.format_help(parser)
    for flag in ("--often", "--rarely", "--or-this", "--other", "--help-all"):
        assert flag in text


def test_help_all_prints_it_and_exits(parser, capsys):
    with pytest.raises(SystemExit) as exit:
        parser.parse_args(["--help-all"])
    assert exit.value.code == 0
    assert capsys.readouterr().out == parser.format_full_help()


def test_a_flag_that_is_not_shown_works_as_before(parser, capsys):
    args = parser.parse_args(["--rarely", "--other", "x"])
    assert vars(args) == {"often": 1, "rarely": True, "or_this": False, "other": "x"}
    with pytest.raises(SystemExit):
        parser.parse_args(["--rarely", "--or-this"])
    assert "not allowed with argument --rarely" in capsys.readouterr().err


def test_the_help_can_be_asked_for_again(parser):
    before = parser.format_full_help()
    assert parser.format_help() == parser.format_help()
    assert parser.format_full_help() == before


def test_a_parser_that_was_told_nothing_shows_all():
    parser = Parser(prog="tool")
    parser.add_argument("--rarely", help="rarely needed")
    assert parser.format_help() == parser.format_full_help()


def test_an_unknown_flag_is_refused(parser):
    with pytest.raises(ValueError, match="tool has no flag --never"):
        parser.show_first(["--often", "--never"])


@pytest.mark.parametrize(
    ("called", "said"),
    [("/usr/bin/air", "air"), ("air.exe", "air"), ("main.py", "python main.py")],
)
def test_what_to_type_is_what_was_typed(called, said, monkeypatch):
    monkeypatch.setattr("sys.argv", [called])
    assert program() == said
