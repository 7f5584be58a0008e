"""One process a run: who holds the lock, and who is dead."""

import json
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from experiments import locks
from experiments.locks import RunLock, RunLockedError, is_alive, process_start
from experiments.runs import Run


def owner(folder):
    return json.loads((folder / "lock.json").read_text())


def leave_lock(folder, **changes):
    """A lock that somebody else left."""
    content = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": process_start(os.getpid()),
        "key": "theirs",
    }
    (folder / "lock.json").write_text(json.dumps(content | changes))


def dead_pid():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_lock_names_its_owner_and_goes_with_it(tmp_path):
    lock = RunLock(tmp_path)
    lock.acquire()
    assert owner(tmp_path)["pid"] == os.getpid()
    assert owner(tmp_path)["host"] == socket.gethostname()
    lock.release()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_is_held_once(tmp_path):
    first = RunLock(tmp_path)
    first.acquire()
    with pytest.raises(RunLockedError, match=rf"in use by process {os.getpid()} on this machine"):
        RunLock(tmp_path).acquire()
    with pytest.raises(RunLockedError):
        RunLock(tmp_path).check()
    first.release()
    RunLock(tmp_path).acquire()


@pytest.mark.parametrize("kind", ["gone", "other start", "killed, not yet buried"])
def test_a_dead_ones_lock_is_taken_over(kind, tmp_path):
    if kind == "gone":
        leave_lock(tmp_path, pid=dead_pid())
    elif kind == "other start":  # another process has its number by now
        leave_lock(tmp_path, started="another boot 17")
    else:
        process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        leave_lock(tmp_path, pid=process.pid, started=process_start(process.pid))
        with pytest.raises(RunLockedError):
            RunLock(tmp_path).acquire()
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    RunLock(tmp_path).check()
    RunLock(tmp_path).acquire()
    assert owner(tmp_path)["key"] != "theirs"
    if kind.startswith("killed"):
        process.communicate()


def test_another_machines_lock_is_left_alone(tmp_path):
    leave_lock(tmp_path, host="elsewhere", pid=dead_pid())
    with pytest.raises(RunLockedError, match=r"on elsewhere\. .*remove .*lock\.json"):
        RunLock(tmp_path).acquire()


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '{"host": 1, "pid": "2", "started": 3}', "1" * 5000]
)
def test_a_strange_lock_is_an_error_that_says_what_to_do(content, tmp_path):
    (tmp_path / "lock.json").write_text(content)
    with pytest.raises(RunLockedError, match=r"no lock of ours.*remove it"):
        RunLock(tmp_path).acquire()


@pytest.mark.parametrize("content", ["", "\0" * 200])
def test_a_lock_that_a_power_cut_emptied_is_taken_over(content, tmp_path):
    (tmp_path / "lock.json").write_text(content)
    RunLock(tmp_path).acquire()
    assert owner(tmp_path)["pid"] == os.getpid()


def test_a_lock_that_another_took_is_not_released(tmp_path):
    lock = RunLock(tmp_path)
    lock.acquire()
    leave_lock(tmp_path)
    lock.release()
    assert owner(tmp_path)["key"] == "theirs"


@pytest.mark.parametrize("dead", [False, True])
def test_of_many_at_once_one_gets_it(dead, tmp_path):
    if dead:
        leave_lock(tmp_path, pid=dead_pid())

    def take(_):
        try:
            RunLock(tmp_path).acquire()
        except RunLockedError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(take, range(32))) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"lock.json"}


def test_where_the_system_tells_no_start(monkeypatch):
    monkeypatch.setattr(locks, "Path", lambda path: _Nowhere())
    assert process_start(os.getpid()) is None
    assert is_alive(os.getpid(), None)
    assert not is_alive(dead_pid(), None)


class _Nowhere:
    def exists(self):
        return False

    def read_text(self, **_):
        raise FileNotFoundError


def test_two_runs_of_one_name_at_once(tmp_path):
    def make(_):
        try:
            return Run.create(str(tmp_path), "mine", "", config={"args": {}})
        except FileExistsError:
            return None

    with ThreadPoolExecutor(8) as pool:
        made = [run for run in pool.map(make, range(16)) if run]
    assert len(made) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
