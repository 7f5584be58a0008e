import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.benchmarks import markdown
from experiments.benchmarks.record_files import RECORDS
from experiments.benchmarks.results import runs
from experiments.benchmarks.results.__main__ import main
from experiments.benchmarks.results.report import format_table
from experiments.benchmarks.results.tables import TABLES, Row, Table

ROOT = Path(__file__).parent.parent

STAND_IN = '''
"""Stands in for the real main.py: keeps the same files and exit codes, and learns nothing."""
import json, sys, time
from pathlib import Path
words = sys.argv[1:]
with open("calls.txt", "a") as file:
    file.write(" ".join(words) + "\\n")
flag = lambda name, default=None: words[words.index(name) + 1] if name in words else default
if words[0] == "train":
    name = flag("--run-name") or flag("--resume")
    folder = Path(flag("--output")) / name
    folder.mkdir(parents=True, exist_ok="--resume" in words)
    if Path("dies").exists():
        Path("dies").unlink()
        sys.exit(-9)
    if "--resume" not in words:
        args = {"dataset": flag("--dataset"), "seed": int(flag("--seed"))}
        args |= {"lr": float(flag("--lr"))} if flag("--lr") else {}
        (folder / "config.json").write_text(json.dumps({"args": args}))
    if Path("slow").exists() and "--resume" not in words:
        time.sleep(60)
    if name.endswith("seed1") and Path("breaks").exists():
        sys.exit(f"error: the loss is not finite at step 7. See {folder.absolute()}")
    if name.endswith("seed1") and Path("bug").exists():
        sys.exit("error: no such data set")
else:
    if Path("blind").exists() and "--dataset" in words:
        sys.exit("error: killed")
    accuracy = 0.97 if flag("--load").endswith("seed0") else 0.99
    report = {"count_accuracy_mode": accuracy, "count_accuracy": accuracy, "continue_prob": 0.5,
              "prior_num_steps": [0.6, 0.3, 0.1],
              "elbo": 600.0, "log_likelihood_bound": 610.0}
    if flag("--dataset"):
        report["count_accuracy_mode"] = 0.04
    if "--localisation" in words:
        box = {"iou": 0.8, "ap": 0.5, "ap50": 0.9, "ap75": 0.4}
        report["localisation"] = {"window": box, "tight": box | {"iou": 0.85},
                                  "masks": {"ari": 0.7, "covering": None},
                                  "found_without_objects": 0.0}
    if "--calibration" in words:
        one = {"accuracy": 0.9, "confidence": 0.95, "error": 0.05, "error_by_count": [0.01, 0.02]}
        report["calibration"] = {"means": one, "q": one, "p": one}
    print(json.dumps(report))
'''


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with a stand-in for ``main.py``, and a table of one row."""
    (tmp_path / "main.py").write_text(STAND_IN)
    monkeypatch.setattr(runs, "ROOT", tmp_path)
    row = Row(name="plain", title="`plain`", dataset="a-set", flags=("--lr", "0.1"))
    monkeypatch.setitem(TABLES, "some", Table(title="some", rows=(row,)))
    return tmp_path


def make(project, *flags):
    folders = ["--records", str(project / "records"), "--output", str(project / "output")]
    return main(["--table", "some", *folders, *flags])


def calls(project):
    return (project / "calls.txt").read_text().splitlines()


def test_runs_are_made_once_and_every_seed_is_counted(project, capsys):
    page = project / "page.md"
    page.write_text("a\n<!-- results: some -->\nold\n<!-- end of results: some -->\nb\n")
    assert make(project, "--seeds", "2", "--jobs", "2") == 0
    assert make(project, "--seeds", "3", "--write", str(page)) == 0
    trained = sorted(call for call in calls(project) if call.startswith("train"))  # by seed
    assert len(trained) == 3
    assert "train --dataset a-set --lr 0.1 --seed 0 --threads 1" in trained[0]
    text = page.read_text()
    assert (
        "| `plain` | 0 to 2 | 2 of 3 | 98.33 ± 1.15 % | 97.00 % | 98.33 ± 1.15 % | – | – | "
        "600.0 ± 0.0 |"
    ) in text
    assert "`python main.py train --dataset a-set --lr 0.1 --seed SEED`" in text
    assert "old" not in text


def test_what_else_a_row_asks_is_measured_and_shown(project, monkeypatch, capsys):
    assert make(project, "--seeds", "2") == 0
    capsys.readouterr()
    row = Row(
        name="plain",
        title="`plain`",
        dataset="a-set",
        flags=("--lr", "0.1"),
        elsewhere=("b-set",),
        asked=True,
    )
    monkeypatch.setitem(TABLES, "some", Table(title="some", rows=(row,)))
    assert make(project, "--seeds", "2") == 0
    text = capsys.readouterr().out
    assert "| `plain` | 2 | `a-set` | 98.00 ± 1.41 % | `b-set` | 4.00 ± 0.00 % |" in text
    found = "80.00 ± 0.00 % | 85.00 ± 0.00 % | 90.00 ± 0.00 % | 50.00 ± 0.00 % | 70.00 ± 0.00 %"
    assert f"| `plain` | 2 | {found} | – | 0.00 ± 0.00 % |" in text
    sure = "2 | 90.00 ± 0.00 % | 95.00 ± 0.00 % | 5.00 ± 0.00 % | 1.00 ± 0.00 % | 2.00 ± 0.00 %"
    assert f"| `plain` | q(n \\| x) | {sure} |" in text
    assert "learned probability" not in text
    words = [call.split()[0] for call in calls(project)]
    assert words.count("train") == 2  # none is trained again
    assert words.count("evaluate") == 2 * 3
    assert "--dataset b-set --samples 0" in " ".join(calls(project))


def test_a_learned_prior_is_shown(project, monkeypatch, capsys):
    flags = ("--learn-continue-prob-from", "100")
    row = Row(name="prior", title="`prior`", dataset="a-set", flags=flags)
    monkeypatch.setitem(TABLES, "some", Table(title="some", rows=(row,)))
    assert make(project, "--seeds", "1") == 0
    assert "| `prior` | 1 | 0.500 | 60.00 % | 30.00 % | 10.00 % |" in (capsys.readouterr().out)


def test_a_run_that_breaks_down_is_a_failure_and_is_not_made_again(project, capsys):
    (project / "breaks").touch()
    assert make(project, "--seeds", "3") == 0
    assert "1 of 3 (1 broke down)" in capsys.readouterr().out
    assert make(project, "--seeds", "3") == 0
    assert sum("train" in call for call in calls(project)) == 3
    record = json.loads((project / "records/some/plain_seed1.json").read_text())
    assert record["status"] == "failed"
    assert record["reason"].endswith("not finite at step 7. See output/some-plain-seed1")


def test_another_failure_is_an_error_and_leaves_no_record(project, capsys):
    (project / "bug").touch()
    assert make(project, "--seeds", "2") == 1
    assert "no such data set" in capsys.readouterr().err
    assert not (project / "records/some/plain_seed1.json").exists()
    (project / "bug").unlink()
    assert make(project, "--seeds", "2") == 0
    assert "--resume some-plain-seed1" in " ".join(calls(project))


def test_a_run_that_died_before_it_saved_is_made_anew(project):
    (project / "dies").touch()
    assert make(project, "--seeds", "1") == 1
    assert make(project, "--seeds", "1") == 0
    assert "--run-name some-plain-seed0" in calls(project)[1]
    assert len(list((project / "output").iterdir())) == 2


def test_a_run_that_was_begun_with_other_settings_is_made_anew(project, monkeypatch):
    (project / "bug").touch()
    assert make(project, "--seeds", "2") == 1
    (project / "bug").unlink()
    (project / "records/some/plain_seed0.json").unlink()
    changed = Row(name="plain", title="`plain`", dataset="a-set", flags=("--lr", "0.2"))
    monkeypatch.setitem(TABLES, "some", Table(title="some", rows=(changed,)))
    assert make(project, "--seeds", "2") == 0
    trained = [call for call in calls(project) if call.startswith("train")]
    assert [("--resume" in call, "--lr 0.2" in call) for call in trained[2:]] == [(False, True)] * 2
    assert len(list((project / "output").glob("*.put-aside-*"))) == 2


def test_a_run_whose_second_evaluation_failed_is_not_trained_again(project, monkeypatch, capsys):
    row = Row(name="plain", title="`plain`", dataset="a-set", flags=(), elsewhere=("b-set",))
    monkeypatch.setitem(TABLES, "some", Table(title="some", rows=(row,)))
    (project / "blind").touch()
    assert make(project, "--seeds", "1") == 1
    assert make(project, "--report") == 0
    out = capsys.readouterr().out
    assert "97.00 % | 97.00 % | – | – | 600.0" in out
    assert "`b-set` | 4.00 %" not in out
    (project / "blind").unlink()
    assert make(project, "--seeds", "1") == 0
    assert "`b-set` | 4.00 %" in capsys.readouterr().out
    assert make(project, "--seeds", "1") == 0
    words = [call.split()[0] for call in calls(project)]
    assert words == ["train", *["evaluate"] * 3]


def test_a_killed_benchmark_goes_on(project):
    (project / "slow").touch()
    script = (
        "import sys; from pathlib import Path; from experiments.benchmarks.results import runs;"
        "from experiments.benchmarks.results.tables import TABLES, Row, Table;"
        "from experiments.benchmarks.results import __main__ as command;"
        f"runs.ROOT = Path({str(project)!r});"
        "TABLES['some'] = Table(title='some', rows=(Row(name='plain', title='p', dataset='d'),));"
        "command.signal.signal(command.signal.SIGTERM, command._stop);"
        "sys.exit(command.main(sys.argv[1:]))"
    )
    flags = ["--table", "some", "--seeds", "1", "--records", str(project / "records")]
    flags += ["--output", str(project / "output")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", script, *flags], env=environment)
    for _ in range(1200):
        if (project / "output/some-plain-seed0/config.json").exists():
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 130
    again = subprocess.run([sys.executable, "-c", script, *flags], env=environment, check=True)
    assert again.returncode == 0
    assert "--resume some-plain-seed0" in calls(project)[1]
    assert (project / "records/some/plain_seed0.json").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--table", "none"], "unknown table 'none'"),
        (["--table", "some", "--rows", "none"], "unknown row 'none'"),
        (["--table", "some", "--jobs", "0"], "jobs must be at least 1"),
    ],
)
def test_bad_flags_are_refused(project, flags, message, capsys):
    assert main(flags) == 2
    assert message in capsys.readouterr().err


def test_a_record_of_other_settings_is_refused(project, monkeypatch, capsys):
    assert make(project, "--seeds", "1") == 0
    changed = Row(name="plain", title="`plain`", dataset="a-set", samples=7)
    monkeypatch.setitem(TABLES, "some", Table(title="some", rows=(changed,)))
    assert make(project, "--seeds", "1") == 2
    assert "samples = 20 instead of 7" in capsys.readouterr().err
    assert make(project, "--report") == 2
    assert "was made with" in capsys.readouterr().err


def test_insert_needs_its_markers():
    text = "a\n<!-- results -->\nold\n<!-- end of results -->\nb"
    inserted = markdown.insert(text, "new", "results")
    assert inserted == "a\n<!-- results -->\nnew\n<!-- end of results -->\nb"
    with pytest.raises(ValueError, match="lacks the markers"):
        markdown.insert("no markers", "new", "results")


@pytest.mark.parametrize("name", TABLES)
def test_readme_shows_the_records(name):
    text = format_table(TABLES[name], RECORDS / "results" / name)
    page = (ROOT / "experiments" / "benchmarks" / "README.md").read_text(encoding="utf-8")
    assert markdown.insert(page, text, f"results: {name}") == page


def test_pictures_of_the_newest_evaluation_are_copied(project, monkeypatch, tmp_path, capsys):
    row = Row(name="plain", title="p", dataset="a-set", elsewhere=("b-set",))
    monkeypatch.setitem(TABLES, "some", Table(title="some", rows=(row,)))
    folder = tmp_path / "pictures"
    assert make(project, "--report", "--pictures", str(folder)) == 2
    assert "holds no pictures" in capsys.readouterr().err
    pictures = project / "output/some-plain-seed0/results/imgs"
    pictures.mkdir(parents=True)
    for step in (900, 1000):
        for kind in ("localisation", "reconstructions", "b-set_reconstructions"):
            (pictures / f"evaluation_{step}_{kind}.png").write_text(f"{kind} {step}")
    assert make(project, "--report", "--pictures", str(folder)) == 0
    copies = {path.name: path.read_text() for path in folder.iterdir()}
    assert copies == {
        f"results_some_plain_{kind}.png": f"{kind} 1000"
        for kind in ("localisation", "reconstructions", "b-set_reconstructions")
    }
