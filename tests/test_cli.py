"""The command line, as a user meets it."""

import argparse
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from air import AIR
from air.shifts import shift_grid
from experiments import cli
from experiments.cli import COMMANDS, main, make_parser
from experiments.commands import train
from experiments.experiment import AIRExperiment

ROOT = Path(__file__).resolve().parents[1]


def call(*argv):
    """Exit status of a command, also where argparse exits by itself."""
    try:
        return main([str(argument) for argument in argv])
    except SystemExit as exit:
        return exit.code


@pytest.fixture
def taken_by_train(monkeypatch):
    """What ``train`` was called with; it does not train."""
    calls = []
    monkeypatch.setattr(train, "run", lambda args: calls.append(args) or 0)
    return calls


@pytest.fixture
def small_run(one_thread, tiny_data, tmp_path):
    """Flags of a run of a few steps in ``tmp_path / "output"``."""
    flags = {
        "--output": tmp_path / "output",
        "--threads": 1,
        "--batch-size": 8,
        "--test-batch-size": 4,
        "--z-what-size": 5,
        "--max-steps": 3,
        "--tr-log-every": 2,
        "--ts-log-every": 2,
        "--checkpoint-every": 2,
    }
    return ["--nocuda", *(str(part) for flag in flags.items() for part in flag)]


@pytest.fixture
def trained(small_run, tmp_path, capsys):
    """A run named "mine"; hands back the flags by which ``evaluate`` finds it."""
    assert call("train", *small_run, "--run-name", "mine") == 0
    capsys.readouterr()
    return ["--load", "latest", "--output", tmp_path / "output", "--threads", 1, "--nocuda"]


def assert_refused(capsys, status, *parts):
    out, err = capsys.readouterr()
    assert status == 2
    assert "Traceback" not in out + err
    for part in parts:
        assert part in err, err


# Which command


@pytest.mark.parametrize("argv", [[], ["train"]])
def test_no_command_means_train_with_its_defaults(argv, taken_by_train):
    assert call(*argv) == 0
    (args,) = taken_by_train
    assert args == cli.train.AIRExperiment.default_args()


@pytest.mark.parametrize("command", [[], ["train"]])
def test_flags_without_a_command_are_those_of_train(command, taken_by_train):
    assert call(*command, "--lr", "0.25", "--estimator", "reinforce", "--dry-run") == 0
    (args,) = taken_by_train
    assert (args.lr, args.estimator, args.dry_run) == (0.25, "reinforce", True)


def test_without_arguments_the_command_line_is_read(monkeypatch, taken_by_train):
    monkeypatch.setattr(sys, "argv", ["main.py", "--seed", "9"])
    assert main() == 0
    assert taken_by_train[0].seed == 9


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (ValueError("bad value"), 2, "error: bad value\n"),
        (FileNotFoundError("no run"), 2, "error: no run\n"),
        (FloatingPointError("broke down"), 2, "error: broke down\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_errors_of_the_caller_are_one_line_on_stderr(error, status, message, monkeypatch, capsys):
    def fail(args):
        raise error

    monkeypatch.setattr(train, "run", fail)
    assert call("train") == status
    assert capsys.readouterr() == ("", message)


def test_faults_of_ours_are_not_hidden(monkeypatch):
    def fail(args):
        raise TypeError("a bug")

    monkeypatch.setattr(train, "run", fail)
    with pytest.raises(TypeError, match="a bug"):
        main(["train"])


# Refusals


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (["trian"], ["'trian'", "train", "evaluate", "data"]),
        (["--learning-rate", "1"], ["--learning-rate"]),
        (["train", "--learning-rate", "1"], ["--learning-rate"]),
        (["train", "--max-step", "1"], ["--max-step"]),  # no abbreviations
        (["--lr", "fast"], ["--lr", "'fast'"]),
        (["--lr"], ["--lr", "expected one argument"]),
        (["--dataset", "cifar"], ["unknown data set 'cifar'", "multi-mnist"]),
        (["--estimator", "vimco2"], ["unknown estimator 'vimco2'", "enumerate", "reinforce"]),
        (["--continue-prob", "often"], ["cannot read the schedule 'often'"]),
        (
            ["--batch-size", "8", "--inference", "x"],
            ["unknown inference 'x'", "paper", "residual"],
        ),
        (["--learn-continue-prob-from", "-1"], ["learn_continue_prob_from must be at least 0"]),
        (["--lr", "-1"], ["lr must be above 0, got -1.0"]),
        (["--max-steps", "0"], ["max_steps must be at least 1, got 0"]),
        (["--resume", "x"], ["output holds no run", "Train one first"]),
        (["--on-nan", "go on"], ["--on-nan must be stop, or skip:N", "'go on'"]),
        (["--batch-size", "8", "--run-name", "../x"], ["'../x' cannot name a run"]),
        (["--batch-size", "27"], ["batch size 27 is larger than the data set of 26 scenes"]),
        (["--max-objects", "1"], ["Raise --max-objects to 2"]),
        (["evaluate"], ["--load"]),
        (["evaluate", "--load", "x", "--lod"], ["--lod"]),
        (["evaluate", "--load", "x", "--output", "nowhere"], ["nowhere holds no run", "Train"]),
        (["evaluate", "--load", "x", "--samples", "-1"], ["samples must be at least 0, got -1"]),
        (["evaluate", "--load", "x", "--images", "0"], ["images must be at least 1, got 0"]),
        (["evaluate", "--load", "x", "--batch-size", "0"], ["batch_size must be at least 1"]),
        (["data", "cifar"], ["unknown data set 'cifar'"]),
    ],
    ids=" ".join,
)
@pytest.mark.usefixtures("one_thread", "tiny_data")
def test_bad_command_lines_are_refused(argv, parts, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_refused(capsys, call(*argv), *parts)
    assert not (tmp_path / "output").exists()
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "argv",
    [
        ["--tr-log-every", "0"],
        ["--ts-log-every", "0"],
        ["--max-grad-norm", "0"],
        ["--threads", "-1"],
        ["evaluate", "--load", "x", "--threads", "-1"],
    ],
    ids=" ".join,
)
@pytest.mark.usefixtures("one_thread", "tiny_data")
def test_numbers_out_of_range_are_refused(argv, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        status = call(*argv)
    except Exception as error:  # whatever it is, the user would see its traceback
        pytest.fail(f"{type(error).__name__}: {error}")
    assert_refused(capsys, status, "error: ", argv[-2].strip("-")[-4:])


# Training and evaluating


def test_train_says_what_came_of_it(small_run, tmp_path, capsys):
    assert call(*small_run, "--run-name", "mine") == 0
    out = capsys.readouterr().out
    assert "Held-out count accuracy" in out
    assert str(tmp_path / "output" / "mine") in out
    assert "python main.py evaluate --load mine" in out


def test_dry_run_says_nothing_of_files(small_run, tmp_path, capsys):
    assert call(*small_run, "--dry-run") == 0
    out = capsys.readouterr().out
    assert "Held-out count accuracy" in out
    assert "evaluate --load" not in out
    assert not (tmp_path / "output").exists()


def test_a_taken_run_name_is_refused(small_run, trained, capsys):
    assert_refused(capsys, call(*small_run, "--run-name", "mine"), "'mine' exists", "--run-name")


def test_a_breakdown_is_refused_with_advice(small_run, capsys):
    status = call(*small_run, "--lr", "1e30", "--max-steps", "6")
    assert_refused(capsys, status, "training broke down", "Lower --lr")


def test_evaluate_prints_one_json_object(trained, tmp_path, capsys, tiny_data):
    assert call("evaluate", *trained, "--samples", 5, "--json") == 0
    out, err = capsys.readouterr()
    assert out.count("\n") == 1
    report = json.loads(out)
    assert "Traceback" not in err
    assert (report["run"], report["step"], report["dataset"]) == ("mine", 3, "multi-mnist")
    assert (report["num_images"], report["num_samples"]) == (10, 5)
    numbers = (
        "count_accuracy",
        "count_accuracy_mode",
        "elbo",
        "log_likelihood",
        "kl_num_steps",
        "kl_z_where",
        "kl_z_what",
        "log_likelihood_bound",
        "ess",
    )
    assert all(type(report[name]) is float and math.isfinite(report[name]) for name in numbers)
    kl = report["kl_num_steps"] + report["kl_z_where"] + report["kl_z_what"]
    assert report["elbo"] == pytest.approx(report["log_likelihood"] - kl, rel=1e-5)
    assert 1 <= report["ess"] <= 5
    confusion = torch.tensor(report["confusion"])
    assert confusion.shape == (4, 4)
    assert confusion.sum() == 10
    # Its rows are the true counts.
    assert confusion.sum(dim=1)[:3].tolist() == tiny_data.held_out.num_objects.bincount().tolist()
    assert confusion.trace() / 10 == pytest.approx(report["count_accuracy_mode"])
    results = tmp_path / "output" / "mine" / "results"
    (path,) = results.glob("evaluation_*.json")
    assert json.loads(path.read_text(encoding="utf-8")) == report
    for kind in ("reconstructions", "samples"):
        with Image.open(results / "imgs" / f"evaluation_3_{kind}.png") as picture:
            picture.load()


def test_evaluate_gives_the_same_numbers_each_time(trained, capsys):
    reports = []
    for seed in (0, 0, 1):
        assert call("evaluate", *trained, "--samples", 3, "--seed", seed, "--json") == 0
        reports.append(json.loads(capsys.readouterr().out))
    assert reports[0] == reports[1]
    assert reports[0]["elbo"] != reports[2]["elbo"]


def test_localisation_and_calibration_on_demand(trained, tmp_path, capsys):
    flags = ["--samples", 3, "--images", 6, "--localisation", "--calibration"]
    assert call("evaluate", *trained, *flags, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert set(report["calibration"]) == {"means", "q", "p"}
    assert report["calibration"]["p"]["error_by_count"][3] >= 0
    assert report["localisation"]["num_without_objects"] == 2
    assert 0 <= report["localisation"]["tight"]["iou"] <= 1
    pictures = {path.name for path in (tmp_path / "output/mine/results/imgs").iterdir()}
    assert {"evaluation_3_localisation.png", "evaluation_3_calibration.png"} <= pictures
    assert call("evaluate", *trained, *flags) == 0
    out = capsys.readouterr().out
    assert "boxes around what is drawn" in out
    assert "p(n | x), importance-weighted" in out
    assert_refused(
        capsys,
        call("evaluate", *trained, "--samples", 0, "--calibration"),
        "--calibration weighs samples",
    )


def test_all_is_measured_from_the_best_views_if_so_asked(trained, tmp_path, capsys, monkeypatch):
    """Counts, bounds, boxes and calibration: each of its own reading, all of the same views."""
    grid, seen = shift_grid(3), {"infer": [], "log_likelihood": [], "count_posterior": []}
    for name, calls in seen.items():
        method = getattr(AIR, name)

        def spy(self, *args, method=method, calls=calls, **options):
            calls.append(options.get("shifts"))
            return method(self, *args, **options)

        monkeypatch.setattr(AIR, name, spy)
    flags = ["--samples", 2, "--images", 4, "--max-shift", 3, "--localisation", "--calibration"]
    assert call("evaluate", *trained, *flags, "--json") == 0
    assert json.loads(capsys.readouterr().out)["max_shift"] == 3
    asked = [shifts for shifts in seen["infer"] if shifts is not None]
    assert len(asked) == 3
    assert all(torch.equal(shifts, grid) for shifts in asked)
    for name in ("log_likelihood", "count_posterior"):
        assert [shifts.shape for shifts in seen[name]] == [(4, 2)], name
    (path,) = (tmp_path / "output/mine/results").glob("evaluation_*.json")
    assert path.stem.endswith("_shift3")
    assert call("evaluate", *trained, "--samples", 0, "--max-shift", 3) == 0
    assert "best of 25 views, moved by up to 3 pixels" in capsys.readouterr().out
    assert_refused(capsys, call("evaluate", *trained, "--max-shift", -1), "max_shift must be at")


def test_evaluate_prints_a_table(trained, capsys):
    assert call("evaluate", *trained, "--samples", 5) == 0
    out = capsys.readouterr().out
    for part in (
        "mine, step 3: 10 held-out scenes of multi-mnist",
        "count accuracy, one posterior sample",
        "count accuracy, posterior mode",
        "ELBO",
        "log-likelihood",
        "KL of n",
        "KL of z_where",
        "KL of z_what",
        "log p(x) is at least",
        "5 samples, effective",
        "true count \\ inferred",
        "Written: ",
    ):
        assert part in out
    rows = [line.split() for line in out.split("inferred\n")[1].splitlines()]
    assert rows[0] == ["0", "1", "2", "3"]
    assert [row[0] for row in rows[1:4]] == ["0", "1", "2"]
    assert sum(int(cell) for row in rows[1:4] for cell in row[1:]) == 10


def test_without_samples_there_is_no_bound(trained, capsys):
    assert call("evaluate", *trained, "--samples", 0, "--json") == 0
    report = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert report["log_likelihood_bound"] is None
    assert report["ess"] is None
    assert math.isfinite(report["elbo"])
    assert call("evaluate", *trained, "--samples", 0) == 0
    assert "log p(x) is at least" not in capsys.readouterr().out


def test_step_and_number_of_images_can_be_chosen(trained, capsys):
    flags = ("--samples", 0, "--json", "--step", 2, "--images", 4, "--batch-size", 3)
    assert call("evaluate", *trained, *flags) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["step"], report["num_images"]) == (2, 4)
    assert sum(map(sum, report["confusion"])) == 4


def test_a_reinforce_run_can_be_evaluated(small_run, tmp_path, capsys):
    assert call(*small_run, "--estimator", "reinforce", "--run-name", "r") == 0
    capsys.readouterr()
    flags = ("--load", "r", "--output", tmp_path / "output", "--samples", 0, "--json")
    assert call("evaluate", *flags) == 0
    assert json.loads(capsys.readouterr().out)["run"] == "r"


def test_an_unknown_run_is_refused(trained, tmp_path, capsys):
    status = call("evaluate", "--load", "yours", "--output", tmp_path / "output")
    assert_refused(capsys, status, "no run named 'yours'", "Runs found: mine")


def test_a_missing_step_is_refused(trained, capsys):
    status = call("evaluate", *trained, "--step", 99)
    assert_refused(capsys, status, "no checkpoint of step 99. Steps found: 2, 3.")


def test_a_damaged_run_is_refused(trained, tmp_path, capsys):
    (tmp_path / "output" / "mine" / "config.json").write_bytes(b"damaged")
    assert_refused(capsys, call("evaluate", *trained), "config.json")


def test_of_damaged_checkpoints_the_one_before_is_used_and_named(trained, tmp_path, capsys):
    folder = tmp_path / "output" / "mine" / "checkpoints"
    (folder / "model_3.pt").write_bytes(b"damaged")
    assert call("evaluate", *trained, "--samples", 0, "--json") == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["step"] == 2
    assert "model_3.pt" in err
    assert "Step 2 is used instead" in err
    assert_refused(capsys, call("evaluate", *trained, "--step", 3), "model_3.pt")
    (folder / "model_2.pt").write_bytes(b"damaged")
    assert_refused(capsys, call("evaluate", *trained), "model_3.pt", "model_2.pt")


def test_a_run_whose_config_names_no_data_set_is_refused(trained, tmp_path, capsys):
    path = tmp_path / "output" / "mine" / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    del config["dataset"]
    path.write_text(json.dumps(config), encoding="utf-8")
    assert_refused(capsys, call("evaluate", *trained), "config.json")


def test_an_unknown_data_set_to_evaluate_on_is_refused(trained, capsys):
    status = call("evaluate", *trained, "--dataset", "cifar")
    assert_refused(capsys, status, "unknown data set 'cifar'", "multi-mnist")


# Help


def test_help_names_the_commands(capsys):
    assert call("--help") == 0
    out = capsys.readouterr().out
    for name, (_, summary) in COMMANDS.items():
        assert name in out
        assert summary in out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command_mentions_each_flag(command, capsys):
    (commands,) = (
        action
        for action in make_parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    actions = commands.choices[command]._actions
    long = "--help-all" in commands.choices[command]._option_string_actions
    assert call(command, "--help-all" if long else "--help") == 0
    out = capsys.readouterr().out
    shown = [action for action in actions if action.help is not argparse.SUPPRESS]
    assert shown == actions
    for action in shown:
        assert action.help, action.dest
        for flag in action.option_strings:
            assert flag in out


def test_main_py_runs_as_a_script(tmp_path):
    result = subprocess.run(
        [sys.executable, str(ROOT / "main.py"), "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0
    assert "evaluate" in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_flags_say_settings_as_the_command_line_reads_them():
    settings = {"translate": False, "num_samples": 5, "no_cuda": True, "max_steps": 7}
    flags = train.flags_of(settings)
    assert flags == "--no-translate --num-samples 5 --max-steps 7 --nocuda"
    assert train.given_settings(flags.split()) == settings
    assert train.flags_of({"no_cuda": False, "deterministic": False}) == ""


def test_without_flags_there_are_the_default_settings(taken_by_train, capsys):
    assert call("train", "--dataset", "multi-mnist") == 0
    assert capsys.readouterr().out == ""
    (args,) = taken_by_train
    assert vars(args) == vars(AIRExperiment.default_args())
