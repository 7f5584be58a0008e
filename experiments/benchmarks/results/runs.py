"""Makes the runs of a table: whole processes, side by side, continued where they were cut short."""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from experiments.benchmarks.record_files import (
    current_commit,
    read_finished,
    read_record,
    record_path,
    write_record,
)
from experiments.benchmarks.results.tables import PLAIN, Row
from experiments.commands.train import given_settings

__all__ = ["Job", "RunError", "make_runs", "outcome"]

ROOT = Path(__file__).resolve().parents[3]


class RunError(RuntimeError):
    """A run could not be made, for a reason that is not its training breaking down."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run to make, and where its record goes."""

    table: str
    row: Row
    seed: int
    records: Path

    @property
    def name(self) -> str:
        """Of the run's folder."""
        return f"{self.table}-{self.row.name}-seed{self.seed}"

    @property
    def path(self) -> Path:
        """Of the record."""
        return record_path(self.records / self.table, self.row.name, f"seed{self.seed}")

    def read(self) -> dict[str, Any] | None:
        """The record, if the run was made."""
        return read_finished(self.path, self.row.settings)

    def missing(self, record: dict[str, Any]) -> dict[str, list[str]]:
        """Flags of the evaluations that are still to be made, by their names."""
        if record["status"] != "finished":
            return {}
        return {name: flags for name, flags in self.row.evaluations.items() if name not in record}

    def is_to_do(self, output: Path) -> bool:
        """Whether there is no record, or one that can be completed: the run is still there."""
        record = self.read()
        if record is None:
            return True
        return bool(self.missing(record)) and (output / self.name / "config.json").exists()


class _Processes:
    """Processes that are ended together with this one, whichever thread waits for them."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()
        self._stopped = False

    def run(self, command: Sequence[str], threads: int) -> subprocess.CompletedProcess[str]:
        """Run a command of this project to its end; standard error is kept apart."""
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        with tempfile.TemporaryFile("w+", encoding="utf-8") as errors:
            with self._lock:
                if self._stopped:
                    raise KeyboardInterrupt
                process = subprocess.Popen(
                    [sys.executable, *command],
                    cwd=ROOT,
                    env=environment,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    text=True,
                )
                self._running.add(process)
            output, _ = process.communicate()
            with self._lock:
                self._running.discard(process)
            errors.seek(0)
            return subprocess.CompletedProcess(command, process.returncode, output, errors.read())

    def stop(self) -> None:
        """Ask all to end: a training run saves where it is."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                process.terminate()


def make_runs(jobs: Sequence[Job], output: Path, side_by_side: int, threads: int) -> None:
    """Make all runs and write their records.

    Args:
        jobs: runs that have no record yet, or only half of one.
        output: folder of the run folders; those of finished runs stay there.
        side_by_side: how many at a time.
        threads: CPU threads of each.

    Raises:
        RunError: if one could not be made.
    """
    processes = _Processes()
    total = len(jobs)
    with ThreadPoolExecutor(side_by_side) as pool:
        try:
            futures = [pool.submit(_make, job, output, threads, processes) for job in jobs]
            pending = set(futures)
            while pending:
                done, pending = wait(pending, timeout=1, return_when=FIRST_EXCEPTION)
                for future in done:
                    job, record = future.result()
                    number = total - sum(not f.done() for f in futures)
                    print(f"[{number}/{total}] {job.name}: {outcome(record)}", flush=True)
        except BaseException:
            processes.stop()
            pool.shutdown(cancel_futures=True)
            raise


def outcome(record: dict[str, Any]) -> str:
    """One line on a finished run."""
    if record["status"] == "failed":
        return f"broke down ({record['reason']})"
    found = record[PLAIN]
    return (
        f"{found['count_accuracy_mode']:.2%} held out, ELBO {found['elbo']:.1f}, "
        f"{record['seconds']:.0f} s"
    )


def _make(
    job: Job, output: Path, threads: int, processes: _Processes
) -> tuple[Job, dict[str, Any]]:
    """Train and evaluate; writes and returns the record. What was done is not done again."""
    record = job.read()
    if record is None:
        record = _train(job, output, threads, processes)
        if record["status"] == "failed":
            write_record(job.path, record)
    for name, flags in job.missing(record).items():
        record[name] = _evaluate(job, record, flags, output, threads, processes)
        write_record(job.path, record)
    return job, record


def _train(job: Job, output: Path, threads: int, processes: _Processes) -> dict[str, Any]:
    """Train, or go on; returns the record's beginning."""
    flags = [*job.row.train_flags(job.seed), "--threads", str(threads)]
    command = ["main.py", "train", *flags]
    place = ["--output", str(output)]
    commit = current_commit()  # of the code that trains, not of one that came meanwhile
    if _can_go_on(output / job.name, given_settings(job.row.train_flags(job.seed))):
        training = ["main.py", "train", "--resume", job.name, *place]
    else:
        training = [*command, *place, "--run-name", job.name]
    start = time.perf_counter()
    trained = processes.run(training, threads)
    return {
        "table": job.table,
        "row": job.row.name,
        "seed": job.seed,
        "status": "failed" if trained.returncode else "finished",
        "reason": _breakdown(job, output, trained) if trained.returncode else None,
        "settings": job.row.settings,
        "commands": [f"python {' '.join(command)}"],
        "commit": commit,
        "torch_version": str(torch.__version__),
        "threads": threads,
        "seconds": time.perf_counter() - start,
    }


def _evaluate(
    job: Job,
    record: dict[str, Any],
    flags: Sequence[str],
    output: Path,
    threads: int,
    processes: _Processes,
) -> dict[str, Any]:
    """Evaluate the run once and note the command down; returns what was found.

    Raises:
        RunError: if it could not be evaluated.
    """
    command = ["main.py", "evaluate", *flags, "--json"]
    place = ["--load", job.name, "--output", str(output), "--threads", str(threads)]
    evaluated = processes.run([*command, *place], threads)
    if evaluated.returncode:
        raise RunError(f"{job.name} could not be evaluated: {_tail(evaluated.stderr)}")
    record["commands"].append(f"python {' '.join(command)} --load RUN")
    found: dict[str, Any] = json.loads(evaluated.stdout)
    return found


def _can_go_on(folder: Path, settings: dict[str, Any]) -> bool:
    """Whether a run was begun with these settings.

    What has others, or died before it wrote them down, is put aside.
    """
    if not folder.exists():
        return False
    path = folder / "config.json"
    saved = read_record(path)["args"] if path.exists() else {}
    if all(saved.get(name) == value for name, value in settings.items()):
        return True
    folder.rename(folder.with_name(f"{folder.name}.put-aside-{time.time_ns()}"))
    return False


def _breakdown(job: Job, output: Path, finished: subprocess.CompletedProcess[str]) -> str:
    """Why a run broke down, without the places of this machine.

    Raises:
        RunError: if it stopped for another reason than its training: that is not its result.
    """
    lines = [line for line in finished.stderr.splitlines() if "not finite" in line]
    if finished.returncode < 0 or finished.returncode > 128 or not lines:
        raise RunError(
            f"{job.name} stopped with exit status {finished.returncode}: {_tail(finished.stderr)}"
        )
    return lines[-1].strip().replace(str(output), output.name)


def _tail(text: str, lines: int = 15) -> str:
    # Progress bars overwrite themselves with carriage returns.
    return "\n".join([line.split("\r")[-1] for line in text.splitlines()][-lines:])
