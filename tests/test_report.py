"""The report: what it reads, what the page says, what the command writes and refuses."""

import base64
import dataclasses
import io
import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from experiments.cli import main
from experiments.datasets import DATASETS, DataSplits
from experiments.files import DamagedFileError
from experiments.report.gather import find_run, find_seeds, read_evaluations, read_metrics
from experiments.report.page import facts, metrics_table, render
from experiments.report.pictures import PICTURES, draw, parse_names
from experiments.runs import Run
from tests.conftest import make_scenes
from tests.report_runs import example, make_findings
from tests.runs import use_tiny_models


@pytest.fixture(scope="module")
def findings():
    return example()[0]


@pytest.fixture(scope="module")
def drawn():
    return example()[1]


@pytest.fixture(scope="module")
def html(findings, drawn):
    return render(findings, drawn)


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """Two seeds of a run of three steps, and a run with another learning rate."""
    folder = tmp_path_factory.mktemp("runs")
    splits = DataSplits(train=make_scenes(26), held_out=make_scenes(10), name="multi-mnist")
    spec = dataclasses.replace(
        DATASETS["multi-mnist"], make=lambda *_: splits, pixel_sum=splits.pixel_sum
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DATASETS, "multi-mnist", spec)
        patch.setenv("AIR_DATA_ROOT", str(folder / "data"))
        use_tiny_models(patch)
        common = f"--output {folder / 'output'} --nocuda --threads 1 --batch-size 8 --max-steps 3 "
        common += "--tr-log-every 1 --ts-log-every 3 --checkpoint-every 3 --z-what-size 5"
        for own in ("--run-name a", "--run-name b --seed 1", "--run-name c --lr 0.01"):
            assert main([*common.split(), *own.split()]) == 0
        yield folder / "output"


class Tags(HTMLParser):
    """All tags of a page, and whether they are closed as they were opened."""

    void = frozenset({"meta", "link", "img", "source", "br"})

    def __init__(self, html):
        super().__init__()
        self.found, self.open = [], []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


# What is read


def write_lines(run, *lines):
    run.result_folder.mkdir(parents=True, exist_ok=True)
    run.metrics_path.write_bytes(b"".join(lines))


def test_metrics_are_read_by_split_and_name(tmp_path):
    run = Run(tmp_path)
    assert read_metrics(run) == {}
    write_lines(
        run,
        b'{"step": 2, "split": "train", "elbo": 5, "note": "x"}\n',
        b'{"step": 1, "split": "train", "elbo": 4.5}\n',
        b'{"step": 2, "split": "held_out", "elbo": 3.0}\n',
        b'{"step": 2, "split": "train", "elbo": 6}\n',
        b'{"step": 3, "split": "tra',
    )
    assert read_metrics(run) == {
        "train": {"elbo": [(1, 4.5), (2, 6.0)]},
        "held_out": {"elbo": [(2, 3.0)]},
    }


@pytest.mark.parametrize(
    "line",
    [
        b"no json\n",
        b'{"step": "2", "split": "train"}\n',
        b'{"step": 2, "split": "other"}\n',
        b'{"step": true, "split": "train"}\n',
        b'{"step": 1, "split": "train", "elbo": NaN}\n',
        b"[1]\n",
    ],
)
def test_metrics_that_are_none_are_refused(tmp_path, line):
    write_lines(Run(tmp_path), line)
    with pytest.raises(DamagedFileError, match=r"metrics\.jsonl"):
        read_metrics(Run(tmp_path))


def test_damaged_evaluations_are_told_and_left_out(tmp_path, capsys):
    run = Run(tmp_path)
    run.result_folder.mkdir()
    (run.result_folder / "evaluation_1.json").write_text('{"elbo": 3.5, "step": 1}', "utf-8")
    (run.result_folder / "evaluation_2.json").write_text("damaged", "utf-8")
    (run.result_folder / "evaluation_3.json").write_text('{"elbo": "3"}', "utf-8")
    assert read_evaluations(run) == [{"elbo": 3.5, "step": 1}]
    err = capsys.readouterr().err
    assert "evaluation_2.json" in err
    assert "evaluation_3.json" in err


def test_other_seeds_are_found_and_other_settings_are_not(output):
    assert list(find_seeds(Run(output / "a"))) == ["b"]
    assert find_seeds(Run(output / "c")) == {}
    assert find_seeds(Run(output / "a"))["b"] == read_metrics(Run(output / "b"))


def test_runs_are_found_by_name_and_by_path(output):
    assert find_run("a", str(output)).folder == output / "a"
    assert find_run(str(output / "b"), "nowhere").folder == output / "b"
    assert find_run("latest", str(output)).name == "c"
    with pytest.raises(FileNotFoundError, match="no run named 'd'"):
        find_run(str(output / "d"), "nowhere")


def test_readings_are_those_of_the_model(findings):
    air, scenes, readings = findings.air, findings.scenes, findings.readings
    reading = air.infer(scenes.images)
    assert torch.equal(readings.counts, reading.counts)
    right = (reading.counts == scenes.num_objects).double().mean()
    assert readings.accuracy == pytest.approx(float(right))
    assert readings.confusion.sum() == len(scenes)
    assert readings.elbos.shape == (30,)
    assert readings.elbos.isfinite().all()


# The page


def test_the_page_is_well_formed_and_asks_nothing_of_a_network(html):
    tags = Tags(html).found
    for tag, attributes in tags:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            value = attributes.get(name, "data:")
            assert value.startswith(("data:", "#")), (tag, name)
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|https?://(?!www\.w3\.org)", html)
    targets = [a["href"][1:] for tag, a in tags if tag == "a"]
    ids = [a["id"] for _, a in tags if "id" in a]
    assert set(targets) <= set(ids)
    assert len(ids) == len(set(ids))
    assert "default-src 'none'" in html


def test_every_picture_is_there_for_light_and_for_dark(html, drawn):
    assert [picture.name for picture in drawn] == list(PICTURES)
    tags = Tags(html).found
    light = [a for tag, a in tags if tag == "img"]
    dark = [a for tag, a in tags if tag == "source"]
    assert len(light) == len(dark) == len(drawn)
    for picture, first, second in zip(drawn, light, dark, strict=True):
        assert first["alt"] == picture.picture.alt
        if not picture.picture.vector:
            with Image.open(io.BytesIO(picture.light)) as image:
                assert (int(first["width"]), int(first["height"])) == image.size
        assert second["media"] == "(prefers-color-scheme: dark)"
        for uri, content in ((first["src"], picture.light), (second["srcset"], picture.dark)):
            assert base64.b64decode(uri.split(",")[1]) == content
        assert picture.light != picture.dark


def test_pngs_have_the_page_as_background_and_something_on_it(drawn):
    for picture in drawn:
        for content, page in ((picture.light, 255), (picture.dark, 23)):
            if picture.picture.vector:
                assert b"<svg" in content
                assert content.count(b"<path") > 10
                continue
            with Image.open(io.BytesIO(content)) as image:
                shown = np.asarray(image.convert("RGB"))
            assert (shown[:2] == page).all(), picture.name
            assert shown.std() > 10


def test_pictures_are_the_same_each_time(findings, drawn):
    for picture in drawn:
        if picture.name in ("samples", "counts"):  # a PNG with random scenes, an SVG
            assert draw(picture.name, findings) == picture


def test_the_page_says_the_figures(html, findings):
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "|", html))
    assert f"|{100 * findings.readings.accuracy:.2f} %|" in text
    assert "|490.8|nats, a lower bound of log p(x)" in text
    assert "|1,000|training steps" in text
    rows = {row[0]: row[1:] for row in table(html)}
    assert rows["counts right, posterior mode"] == ["", "98.70 %", "98.71 %"]
    assert rows["ELBO"] == ["500.0", "480.5", "481.2"]
    assert rows["effective samples of that bound"] == ["", "", "3.46"]
    assert "images a second" not in rows
    assert "Here: small-seed1." in html


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ({}, True),
        ({"max_shift": 6}, False),
        ({"dataset": "x"}, False),
        ({"step": 9}, False),
        ({"num_images": 29}, False),
    ],
)
def test_the_bound_at_the_head_is_of_these_scenes_as_they_are(findings, change, shown):
    report = findings.evaluations[0] | change
    findings = dataclasses.replace(findings, evaluations=[report])
    assert ("490.8" in dict(facts(findings))) == shown
    ((_, detail),) = metrics_table(findings)["heads"][2:]
    assert ("best of 25 views within 6 pixels" in detail) == ("max_shift" in change)


def table(html):
    body = re.search(r"<tbody>(.*?)</tbody>", html, re.DOTALL)[1]
    for row in re.findall(r"<tr>(.*?)</tr>", body, re.DOTALL):
        yield re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)


def test_settings_show_what_was_changed_and_nothing_of_the_disk(html):
    settings = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", html))
    assert settings["lr"] == "<b>0.0123</b><small>default: 0.002</small>"
    assert settings["batch_size"] == "<b>64</b>"
    assert "output" not in settings
    assert "/somewhere" not in html


def test_names_of_strangers_are_no_html():
    evil = "<script>alert(1)</script>\"'"
    config = make_findings().config
    findings = make_findings(
        name=evil,
        dataset=evil,
        others={evil: {}},
        evaluations=[{"elbo": 1.0, "step": evil, "dataset": evil, "num_images": evil}],
        config=config | {"args": {evil: evil, "lr": [evil]}},
    )
    page = render(findings, [draw("curves", findings)])
    assert "<script>alert" not in page
    assert page.count("<script>") == 1
    Tags(page)


def test_a_run_without_logs_and_a_model_without_objects_have_a_page():
    findings = make_findings(curves={}, others={}, evaluations=[])
    readings = dataclasses.replace(
        findings.readings,
        counts=torch.zeros_like(findings.readings.counts),
        boxes=torch.full_like(findings.readings.boxes, math.nan),
    )
    findings = dataclasses.replace(findings, readings=readings)
    for name in ("curves", "walk_z_what", "walk_z_where"):
        assert draw(name, findings) is None
    page = render(findings, [draw("looks", findings)])
    assert 'id="metrics"' not in page


def test_scenes_of_unknown_counts_have_a_page_without_the_truth():
    findings = make_findings()
    readings = dataclasses.replace(findings.readings, true=None)
    findings = dataclasses.replace(findings, readings=readings)
    assert draw("counts", findings) is None
    page = render(findings, [draw(name, findings) for name in ("reconstructions", "hardest")])
    mean = findings.readings.counts.double().mean()
    assert f"<strong>{float(mean):.2f}</strong>objects in each of 30 held-out scenes" in page
    assert "counts right</li>" not in page


# The command


def test_the_command_writes_a_page_and_never_over_another(output, tmp_path, capsys):
    target = tmp_path / "page.html"
    call = ["report", "a", "--runs", str(output), "--output", str(target), "--nocuda"]
    call += ["--threads", "1", "--only", "reconstructions,counts"]
    assert main(call) == 0
    assert str(target) in capsys.readouterr().out
    page = target.read_text(encoding="utf-8")
    ids = [attributes["id"] for _, attributes in Tags(page).found if "id" in attributes]
    assert ids == ["reconstructions", "counts", "metrics", "settings"]
    target.write_text("mine", encoding="utf-8")
    assert main(call) == 2
    assert "--force" in capsys.readouterr().err
    assert target.read_text(encoding="utf-8") == "mine"
    assert main([*call, "--force"]) == 0
    assert target.read_text(encoding="utf-8") == page


def test_the_page_goes_into_the_run_where_no_file_is_named(output, capsys):
    call = ["report", str(output / "b"), "--nocuda", "--only", "counts"]
    assert main([*call, "--images", "5", "--threads", "1"]) == 0
    assert "of 5 held-out counts right" in (output / "b/report.html").read_text(encoding="utf-8")


def test_pictures_are_written_alone(output, tmp_path, capsys):
    folder = tmp_path / "new" / "pictures"
    call = ["report", "a", "--runs", str(output), "--pictures", str(folder), "--nocuda"]
    call += ["--threads", "1"]
    assert main([*call, "--only", "counts,curves"]) == 0
    assert sorted(path.name for path in folder.iterdir()) == ["counts.png", "curves.png"]
    with Image.open(folder / "curves.png") as image:
        assert image.width > 1000
    capsys.readouterr()
    assert main([*call, "--only", "samples,curves"]) == 2
    assert "curves.png exists" in capsys.readouterr().err
    assert not (folder / "samples.png").exists()
    assert not (output / "a" / "report.html").exists()


def test_what_evaluate_wrote_is_in_the_table(output, tmp_path, capsys):
    assert main(["evaluate", "--load", "c", "--output", str(output), "--samples", "3"]) == 0
    page = tmp_path / "c.html"
    call = ["report", "c", "--runs", str(output), "--output", str(page), "--only", "counts"]
    assert main(call) == 0
    html = page.read_text(encoding="utf-8")
    assert "10 scenes, 3 samples" in html
    (path,) = (output / "c" / "results").glob("evaluation_*.json")
    bound = json.loads(path.read_text(encoding="utf-8"))["log_likelihood_bound"]
    assert f"<strong>{bound:.1f}</strong>nats, a lower bound of log p(x)" in html


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--output", "page.txt"], ["must end in .html"]),
        (["--output", "nowhere/page.html"], ["nowhere is no folder"]),
        (["--output", "x.html", "--pictures", "y"], ["leave --output out"]),
        (["--only", "steps,heads"], ["unknown picture 'heads'", "walk_z_where"]),
        (["--images", "0"], ["images must be at least 1"]),
        (["--step", "99"], ["no checkpoint of step 99"]),
        (["--dataset", "cifar"], ["unknown data set 'cifar'"]),
    ],
    ids=" ".join,
)
def test_bad_flags_are_refused(output, flags, parts, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["report", "a", "--runs", str(output), "--nocuda", *flags]) == 2
    err = capsys.readouterr().err
    assert "Traceback" not in err
    for part in parts:
        assert part in err
    assert list(tmp_path.iterdir()) == []
    assert not (output / "a" / "report.html").exists()


def test_names_of_pictures_are_those_of_the_help(capsys):
    with pytest.raises(SystemExit):
        main(["report", "--help"])
    out = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert ", ".join(PICTURES) in out
    assert parse_names("curves, steps,curves") == ["curves", "steps"]
