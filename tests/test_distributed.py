"""Several processes: the same step as one, one writer, and an end where one of them fails.

What takes two processes is done by ``distributed_worker.py``, once, and judged here.
"""

import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from itertools import chain
from pathlib import Path

import pytest
import torch

from air.estimators import ESTIMATORS
from experiments import distributed
from experiments.datasets.shards import write_shards
from experiments.loaders import SceneManager
from tests.conftest import make_scenes
from tests.distributed_worker import numbered

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")


def free_ports(number):
    sockets = [socket.socket() for _ in range(number)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [str(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports


def environment(**changes):
    return {**os.environ, "OMP_NUM_THREADS": "1", **changes}


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """21 scenes to learn from and 5 held out, in shards of 4."""
    folder = tmp_path_factory.mktemp("distributed") / "shards"
    write_shards(
        folder, name="tiny", train=[numbered(21)], held_out=[make_scenes(5, seed=1)], shard_size=4
    )
    return folder


@pytest.fixture(scope="module")
def seen(shards):
    """What two processes saw, rank 0 first."""
    folder = shards.parent
    port, second_port = free_ports(2)
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.distributed_worker", str(folder), second_port],
            cwd=ROOT,
            env=environment(
                RANK=str(rank),
                LOCAL_RANK=str(rank),
                WORLD_SIZE="2",
                MASTER_ADDR="127.0.0.1",
                MASTER_PORT=port,
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        outputs = [worker.communicate(timeout=240) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    for worker, (_, errors) in zip(workers, outputs, strict=True):
        assert worker.returncode == 0, errors
    records = [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]
    for record, (output, _) in zip(records, outputs, strict=True):
        record["output"] = output
    return records


def test_both_know_who_they_are(seen):
    assert [(record["rank"], record["world_size"]) for record in seen] == [(0, 2), (1, 2)]
    assert all(record["group_left"] for record in seen)


@pytest.mark.parametrize("name", sorted(ESTIMATORS))
def test_two_halves_of_a_batch_give_the_gradient_of_the_whole(seen, name):
    # Gradients, losses and moving statistics of three steps, float64.
    for record in seen:
        assert record["differences"][name] < 1e-11


def test_weights_and_statistics_start_and_stay_the_same_to_the_bit(seen):
    for record in seen:
        assert not record["same_at_random"]  # or the next one would say nothing
        assert record["same_after_broadcast"]
        assert record["same_after_training"]


def test_a_signal_to_one_stops_both_at_the_next_log_and_they_go_on_together(seen):
    for record in seen:
        assert record["stopped"] == [15, 2]
        assert record["began"] == 2
        assert record["ended"] == 6
        assert record["same_after_resuming"]


def test_each_process_draws_noise_of_its_own(seen):
    first, second = (record["noise"] for record in seen)
    torch.manual_seed(5)
    assert first == torch.rand(3).tolist()  # as one process would
    assert not set(first) & set(second)
    assert not any(record["same_noise_after_training"] for record in seen)


def test_a_batch_of_scenes_is_shared_without_overlap(seen):
    orders = []
    for epoch in range(2):
        first, second = (record["batches"][epoch] for record in seen)
        assert [len(batch) for batch in first + second] == [3] * 6
        order = list(chain(*first, *second))
        assert len(set(order)) == 18
        orders.append(order)
    assert orders[0] != orders[1]


def test_each_process_reads_its_part_of_the_shards(seen):
    first, second = (record["shard_batches"] for record in seen)
    assert [len(batch) for batch in first + second] == [3] * 6
    assert len(set(chain(*first))) == len(set(chain(*second))) == 9
    assert max(chain(*first)) < 10 <= min(chain(*second))


def test_metrics_are_averaged_by_weight_and_nan_is_not_lost(seen):
    for record in seen:
        assert record["metrics"]["a"] == pytest.approx(3 / 4)
        assert math.isnan(record["metrics"]["b"])


def test_a_batch_that_cannot_be_shared_evenly_is_refused(seen):
    for record in seen:
        assert "multiple of 2" in record["odd_batch"]


def test_rank_0_goes_first(seen):
    assert [record["was_there"] for record in seen] == [False, True]


def test_processes_that_start_with_other_settings_or_data_do_not_train(seen, shards):
    for record in seen:
        settings, data, same = record["differ"]
        assert "they differ in --lr. Start all with the same" in settings
        assert "they differ in the data." in data
        assert same is None


def test_only_rank_0_writes_and_prints(seen, shards):
    run = shards.parent / "output_of_rank_0" / "run"
    lines = (run / "results" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["split"] for line in lines] == ["train", "held_out"] * 2
    assert (run / "model" / "model.safetensors").is_file()
    assert not (shards.parent / "output_of_rank_1").exists()
    assert "held out [step 4]" in seen[0]["output"]
    assert seen[1]["output"] == ""


def test_held_out_metrics_are_those_of_all_parts(seen, shards):
    assert seen[0]["held_out"] == seen[1]["held_out"]
    accuracy = seen[0]["held_out"]["count_accuracy_mode"]
    assert accuracy * 5 == pytest.approx(round(accuracy * 5))  # of 5 scenes, 2 and 3


def test_the_failure_of_one_is_an_error_of_the_other(seen):
    assert seen[1]["other_failed"] == "FloatingPointError: broke down"
    assert seen[0]["other_failed"].startswith("ConnectionError: process 0 lost another one")


def test_one_that_hangs_is_an_error_of_the_other(seen):
    assert seen[0]["other_hung"].startswith("ConnectionError: process 0 lost another one")


# torchrun itself


def ranks_of(launcher):
    """Process numbers of torchrun's workers, by rank."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
            if parent == str(launcher):
                variables = (entry / "environ").read_bytes().split(b"\0")
                rank = next(v for v in variables if v.startswith(b"RANK="))
                found[int(rank.removeprefix(b"RANK="))] = int(entry.name)
        except (OSError, StopIteration, IndexError):
            continue
    return found


def wait_until(condition, seconds=300):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_one_killed_process_ends_all_with_an_error(shards, tmp_path):
    with open(tmp_path / "log", "w") as log:
        launcher = subprocess.Popen(
            [
                *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
                *("--nproc-per-node", "2", "main.py", "--threads", "1", "--nocuda"),
                *("--dataset", f"shards:{shards}", "--max-steps", "1000000"),
                *("--batch-size", "4", "--tr-log-every", "1", "--z-what-size", "5"),
                *("--output", str(tmp_path / "output"), "--run-name", "run"),
            ],
            cwd=ROOT,
            env=environment(),
            stdout=log,
            stderr=log,
        )
        metrics = tmp_path / "output" / "run" / "results" / "metrics.jsonl"
        workers = {}
        try:
            wait_until(lambda: metrics.exists() or launcher.poll() is not None)
            workers = ranks_of(launcher.pid)
            assert sorted(workers) == [0, 1], (tmp_path / "log").read_text()
            os.kill(workers[1], signal.SIGKILL)
            assert launcher.wait(timeout=300) != 0
            wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers.values()))
        finally:
            launcher.kill()
            launcher.wait()
            for pid in workers.values():
                if Path(f"/proc/{pid}").exists():
                    os.kill(pid, signal.SIGKILL)
    assert "SIGKILL" in (tmp_path / "log").read_text()


# One process


def test_alone_everything_is_as_it_was(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with distributed.processes():
        assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 1, True)
        values = torch.arange(5)
        assert distributed.own_part(values) is not None
        assert torch.equal(distributed.own_part(values), values)
        assert distributed.from_main(values) is values
        assert distributed.average_metrics({"a": 0.1}, weight=0.3) == {"a": 0.1}
        state = torch.get_rng_state()
        distributed.spread_seeds(3)
        assert torch.equal(torch.get_rng_state(), state)
        assert distributed.local_batch_size(7) == 7


def test_incomplete_settings_of_a_group_are_an_error(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with (
        pytest.raises(ValueError, match=r"RANK, LOCAL_RANK.* not set.*torchrun"),
        distributed.processes(),
    ):
        pass


@pytest.mark.parametrize("world_size", [1, 2, 3, 8, 64])
@pytest.mark.parametrize("number", [0, 1, 7, 64, 1000])
def test_parts_cover_everything_once(monkeypatch, world_size, number):
    monkeypatch.setattr(distributed, "world_size", lambda: world_size)
    parts = []
    for rank in range(world_size):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        parts.append(distributed.own_part(torch.arange(number)))
    assert torch.cat(parts).tolist() == list(range(number))
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1


def test_batches_and_held_out_scenes_must_suffice_for_all(monkeypatch, make_args):
    monkeypatch.setattr(distributed, "world_size", lambda: 3)
    with pytest.raises(ValueError, match="multiple of 3"):
        SceneManager(make_args(batch_size=8), CPU)
    monkeypatch.setattr(distributed, "world_size", lambda: 11)
    monkeypatch.setattr("torch.distributed.barrier", lambda: None)
    with pytest.raises(ValueError, match="10 held-out scenes are too few for 11 processes"):
        SceneManager(make_args(batch_size=22), CPU)
