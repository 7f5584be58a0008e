"""The benchmark of speed, at tiny sizes. What it measures is not asserted."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from air import AIR, make_estimator
from experiments.benchmarks.speed import floor, own, parts, step
from experiments.benchmarks.speed.__main__ import find_systems, main, make_parser
from experiments.benchmarks.speed.memory import PeakMemory
from experiments.benchmarks.speed.plot import save_plot
from experiments.benchmarks.speed.processes import Worker, WorkerError, run_task
from experiments.benchmarks.speed.report import format_report
from experiments.benchmarks.speed.systems import System, find_peer
from tests.conftest import make_scenes
from tests.small import CONFIG as RESIDUAL

CONFIG = dataclasses.replace(RESIDUAL, inference="paper")

COMMON = {"threads": 1, "device": "cpu", "warmup": 2}


@pytest.fixture
def fake_peer(tmp_path):
    """Makes a system out of the text of its driver."""

    def make(text, name="fake", **fields):
        (tmp_path / "sources").mkdir(exist_ok=True)
        (tmp_path / "sources" / "theirs.py").write_text("COUNT = []\n")
        driver = tmp_path / f"{name}.py"
        driver.write_text(text)
        path = (str(tmp_path / "sources"),)
        return System(name=name, driver=driver, path=path, fields=fields, is_peer=True)

    return make


@pytest.fixture
def spec(tmp_path):
    """What a process of our own is told, for tiny scenes."""
    scenes = make_scenes(12)
    np.savez(
        tmp_path / "images.npz",
        images=scenes.images.numpy(),
        num_objects=scenes.num_objects.numpy(),
    )
    sizes = {"batch_size": 4, "max_objects": 2, "repeats": 2, "settings": {"z_what_size": 5}}
    return COMMON | sizes | {"images": str(tmp_path / "images.npz")}


def test_a_peer_is_served_in_its_own_process(fake_peer):
    system = fake_peer(
        """
import sys
def run(spec, serve):
    import theirs
    print("a system may print what it likes")
    def step():
        theirs.COUNT.append(spec["grows_by"])
        if len(theirs.COUNT) == 9:
            raise ValueError(f"at step {sum(theirs.COUNT)}")
    assert not any(name.split(".")[0] in ("air", "experiments") for name in sys.modules)
    serve(step)
""",
        grows_by=1,
    )
    with Worker(system.name, system.spec(COMMON)) as worker:
        worker.wait_until_ready()
        seconds = worker.seconds(2, block=2)
        assert len(seconds) == 2
        assert min(seconds) > 0
        assert len(worker.seconds(2)) == 2  # 2 to warm up, 4 and 2: the next is the ninth
        with pytest.raises(WorkerError, match="fake failed: ValueError: at step 9"):
            worker.seconds(1)


def test_a_task_gives_its_result_and_a_dead_process_is_an_error(fake_peer):
    system = fake_peer(
        """
import os
def run(spec, serve):
    if spec["die"]:
        os._exit(3)
    return {"threads": __import__("torch").get_num_threads()}
""",
        die=False,
    )
    assert run_task("fake", system.spec(COMMON)) == {"threads": 1}
    with pytest.raises(WorkerError, match="ended with status 3"):
        run_task("fake", system.spec(COMMON) | {"die": True}, quiet=True)


def test_systems_take_turns(monkeypatch):
    log = []

    class FakeWorker:
        def __init__(self, name, spec, *, quiet):
            self.name = name

        def __enter__(self):
            return self

        def __exit__(self, *_):
            log.append(("end", self.name))

        def wait_until_ready(self):
            log.append(("ready", self.name))

        def seconds(self, blocks, block):
            log.append((self.name, blocks, block))
            return [0.001] * blocks

    monkeypatch.setattr(step, "Worker", FakeWorker)
    systems = [System(name=name, driver="", path=()) for name in "ab"]
    times = step.measure(systems, {}, rounds=2, steps=6, block=3)
    assert times == {"a": [[1.0, 1.0]] * 2, "b": [[1.0, 1.0]] * 2}
    assert log == [
        *[("ready", "a"), ("ready", "b")],
        *[("a", 2, 3), ("b", 2, 3)],
        *[("b", 2, 3), ("a", 2, 3)],  # another one begins
        *[("end", "b"), ("end", "a")],
    ]


def test_medians_quartiles_and_ratios():
    # The machine is half as fast in the second round: no ratio may see it.
    times = {
        "air": [[1.0, 2.0, 3.0], [2.0, 4.0, 6.0], [2.0, 2.0, 2.0]],
        "addtt": [[8.0, 8.0, 90.0], [16.0, 1.0, 16.0], [6.0, 6.0, 6.0]],
    }
    result = step.summarise(times, batch_size=64)
    air = result["systems"]["air"]
    assert air["median_ms"] == 2.0
    assert air["quartiles_ms"] == [2.0, 3.0]
    assert air["images_per_s"] == 32_000.0
    assert air["round_medians_ms"] == [2.0, 4.0, 2.0]
    assert air["steps"] == 9
    assert result["ratios"] == {"air": {"addtt": {"median": 4.0, "least": 3.0, "greatest": 4.0}}}


def test_slopes():
    sizes = [16, 64, 256]
    assert parts.log_slope(sizes, [3.0 * size**1.5 for size in sizes]) == 1.5
    assert parts.log_slope([3], [1.0]) is None
    points = [
        {"canvas": size, "step_ms": 2.0 * size**2, "peak_bytes": memory}
        for size, memory in zip((50, 100, 200), (100, 100, 400), strict=True)
    ]
    slopes = parts.slopes("canvas", points)
    assert slopes["time_slopes"] == {"all": 1.0, "last_two": 1.0}  # by area
    assert slopes["memory_slopes"] == {"all": 0.5, "last_two": 1.0}


def test_absent_peers_and_settings_are_left_out_with_a_line(monkeypatch):
    from experiments.benchmarks.speed import systems as module

    monkeypatch.setitem(module.VARIANTS, "air-compile", {"no_such_setting": True})
    args = make_parser().parse_args(["--systems", "air,air-compile,addtt,pyro"])
    systems, skipped = find_systems(args)
    assert [system.name for system in systems] == ["air"]
    assert skipped == [
        "air-compile: the experiment has no setting no_such_setting.",
        "addtt: give the folder of its sources as --peer-addtt PATH.",
        "pyro: give the folder of its sources as --peer-pyro PATH.",
    ]


def test_a_wrong_folder_is_an_error_that_says_what_was_expected(tmp_path, capsys):
    with pytest.raises(ValueError, match=r"lacks models/air.py, .* Expected the folder of a check"):
        find_peer("addtt", tmp_path)
    with pytest.raises(ValueError, match=r"--peer-deps: there is no folder .* Expected one that"):
        find_peer("addtt", tmp_path, tmp_path / "none")
    assert main(["--systems", "pyro", "--peer-pyro", str(tmp_path)]) == 2
    assert "lacks main.py, air.py, modules.py. Expected" in capsys.readouterr().err


def test_pyro_is_found_as_a_checkout_and_as_the_example_alone(tmp_path):
    example = tmp_path / "examples" / "air"
    example.mkdir(parents=True)
    (tmp_path / "pyro").mkdir()
    for file in ("main.py", "air.py", "modules.py", "../../pyro/__init__.py"):
        (example / file).touch()
    assert find_peer("pyro", tmp_path, example).path == (str(example), str(tmp_path), str(example))
    assert find_peer("pyro", example).path == (str(example),)


def test_our_step_trains(spec):
    experiment = own.make_experiment(spec)
    before = [parameter.clone() for parameter in experiment.model.parameters()]
    take = own.step_of(experiment)
    for _ in range(5):  # more than one pass over the 12 scenes
        take()
    assert experiment.model.global_step == 5
    pairs = zip(before, experiment.model.parameters(), strict=True)
    assert all((old != new).any() for old, new in pairs if new.requires_grad)


def test_images_are_repeated_to_the_number_and_canvas_asked_for(spec):
    images, num_objects = own.load_images(spec | {"num_images": 30, "canvas": 40})
    assert images.shape == (30, 1, 40, 40)
    assert images.dtype == torch.uint8
    assert torch.equal(images[12:24], images[:12])
    assert torch.equal(images[0, 0, :18, :16], images[0, 0, 18:36, 16:32])
    assert num_objects.shape == (30,)


def test_tasks(spec, monkeypatch):
    monkeypatch.setattr(floor, "machine_rates", lambda *_: dict.fromkeys(RATES, 2.0))
    scaling = own.scaling(spec | {"canvas": 20})
    assert scaling["step_ms"] > 0
    assert own.infer(spec | {"num_images": 9})["num_images"] == 9
    bound = own.bound(spec | {"num_images": 2, "num_samples": 20})
    assert bound["seconds_per_image"] > 0
    assert set(own.latency(spec)) == {"infer", "forward", "training step"}
    profile = own.profile(spec)
    assert len(profile["operators"]) == 10
    assert profile["operators"][0]["ms"] >= profile["operators"][9]["ms"] > 0
    assert profile["counted_flop"] > 0
    floor_ms = max(profile["arithmetic_ms"], profile["traffic_ms"])
    assert profile["floor_ms"] == floor_ms
    assert profile["distance"] == pytest.approx(profile["step_ms"] / floor_ms, rel=0.01)
    assert format_report(report(profile=profile)).count("times that") == 1


RATES = (
    "gflops",
    "gflops_at_projection",
    "gflops_bf16",
    "gbytes_per_s",
    "gbytes_per_s_at_state",
)


def test_the_floor_counts_the_layers_as_pytorch_does():
    batch = 7
    model = AIR(CONFIG).double()
    images = torch.rand(batch, *CONFIG.image_shape, dtype=torch.float64)
    with FlopCounterMode(display=False) as counter:
        make_estimator("enumerate", CONFIG)(model, images).total_loss.backward()
    counts = {str(op): count for op, count in counter.get_flop_counts()["Global"].items()}
    parts = floor.arithmetic(CONFIG, batch)
    layers = ("image projection", "recurrence", "step predictor", "encoder", "decoder")
    assert counts["aten.addmm"] + counts["aten.mm"] == sum(parts[name] for name in layers)


def test_traffic_is_at_least_what_adam_moves():
    moved = floor.traffic(CONFIG, batch_size=1, num_parameters=1_000_000)
    assert moved["Adam, read"] + moved["Adam, written"] == 28e6
    assert moved["parameters, backward"] < moved["parameters, forward"] == 4e6
    twice = floor.traffic(CONFIG, batch_size=2, num_parameters=1_000_000)
    assert twice["activations"] == 2 * moved["activations"]
    assert twice["gradients, written"] == moved["gradients, written"]


def test_peak_memory_sees_what_was_given_back():
    memory = PeakMemory("cpu")
    before = memory.bytes()
    torch.ones(64 << 20, dtype=torch.uint8)
    grown = memory.bytes() - before
    assert 60 << 20 <= grown <= 100 << 20


def report(**sections):
    machine = {"cpu": "A CPU", "gpu": None, "cores": 2, "threads": 1, "torch": "2", "date": "D"}
    settings = {"batch_size": 64, "max_objects": 3}
    return {"machine": machine, "settings": settings, "skipped": []} | sections


TIMES = {"air": [[10.0, 12.0, 11.0]], "addtt": [[66.0, 60.0, 72.0]], "pyro": [[110.0, 99, 121]]}


def test_the_table_is_made_from_json(tmp_path, capsys):
    file, page = tmp_path / "speed.json", tmp_path / "page.md"
    file.write_text(json.dumps(report(step=step.summarise(TIMES, 64))))
    page.write_text("above\n<!-- speed -->\n<!-- end of speed -->\nbelow\n")
    assert main(["--from", str(file), "--write", str(page)]) == 0
    lines = page.read_text().splitlines()
    assert "A CPU, 1 thread of 2 cores, torch 2, D. Batch 64, T = 3." in lines
    (row,) = (line for line in lines if line.startswith("| `air`"))
    assert row == (
        "| `air`, float32 | 11.0 | 10.5 to 11.5 | 5,818 | **6.0** (6.0 to 6.0) "
        "| **10.0** (10.0 to 10.0) |"
    )
    assert lines[0] == "above"
    assert lines[-1] == "below"
    assert row in capsys.readouterr().out
    page.write_text("no markers")
    assert main(["--from", str(file), "--write", str(page)]) == 2
    assert page.read_text() == "no markers"


def test_the_picture(tmp_path):
    pytest.importorskip("matplotlib")
    points = [{"batch_size": n, "step_ms": 1.0 * n, "peak_bytes": 1000 * n} for n in (16, 64)]
    scaling = {"batch_size": {"points": points} | parts.slopes("batch_size", points)}
    save_plot(report(step=step.summarise(TIMES, 64), scaling=scaling), tmp_path / "speed.png")
    assert (tmp_path / "speed.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="neither was measured"):
        save_plot(report(), tmp_path / "none.png")


def test_the_command_measures_and_saves(tiny_data, tmp_path, capsys):
    file = tmp_path / "new" / "speed.json"
    command = "--only step --systems air,addtt --device cpu --threads 1 --batch-size 4"
    command += f" --rounds 2 --steps 3 --warmup 1 --json {file}"
    assert main(command.split()) == 0
    saved = json.loads(file.read_text())
    air = saved["step"]["systems"]["air"]
    assert air["steps"] == 6
    assert air["images_per_s"] == pytest.approx(4000 / air["median_ms"], rel=0.01)
    assert saved["skipped"] == ["addtt: give the folder of its sources as --peer-addtt PATH."]
    assert str(tmp_path) not in file.read_text()
    output = capsys.readouterr()
    assert "Not measured: addtt" in output.out
    assert "skipped: addtt" in output.err
