"""Seconds from the command to a model that counts right: whole processes, every seed counted.

    python -m experiments.benchmarks.time_to_accuracy --seeds 0-4 --precisions float32,bf16

Starts ``main.py train`` with its default settings, one run after another, each with all cores, and
takes the time from the start of the process to its end: imports, data, training, held-out test,
pictures and all. The made data set is expected in the cache; it is made first if it is not there.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from experiments.benchmarks.markdown import SUCCESS, insert
from experiments.benchmarks.record_files import RECORDS
from experiments.objective import PRECISIONS

__all__ = ["format_table", "main", "measure"]

ROOT = Path(__file__).resolve().parents[2]
RECORD = RECORDS / "speed/time_to_accuracy.json"


def measure(dataset: str, seed: int, precision: str, more: list[str]) -> dict[str, Any]:
    """One run: its settings, its seconds and what it reached.

    Args:
        dataset: as ``--dataset`` takes it.
        seed: of the run.
        precision: as ``--precision`` takes it.
        more: further flags of ``main.py train``.
    """
    with tempfile.TemporaryDirectory() as output:
        flags = ["--dataset", dataset, "--seed", str(seed), "--precision", precision, *more]
        command = [sys.executable, "main.py", "train", *flags]
        place = ["--output", output, "--run-name", "run"]
        start = time.perf_counter()
        subprocess.run([*command, *place], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - start
        lines = (Path(output) / "run/results/metrics.jsonl").read_text().splitlines()
    held_out = [line for line in map(json.loads, lines) if line["split"] == "held_out"]
    names = ("step", "count_accuracy_mode", "count_accuracy", "elbo")
    return {
        "command": " ".join(["python", *command[1:]]),
        "dataset": dataset,
        "seed": seed,
        "precision": precision,
        "seconds": seconds,
        **{name: held_out[-1][name] for name in names},
    }


def format_table(records: list[dict[str, Any]]) -> str:
    """One row a precision, as Markdown."""
    lines = [
        "| precision | seeds | steps | at least 98 % | held-out accuracy, mode | worst | ELBO "
        "| seconds, whole process | slowest |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for precision in dict.fromkeys(record["precision"] for record in records):
        group = [record for record in records if record["precision"] == precision]
        accuracy = [100 * record["count_accuracy_mode"] for record in group]
        seconds = [record["seconds"] for record in group]
        steps = sorted({record["step"] for record in group})
        successes = sum(value >= 100 * SUCCESS for value in accuracy)
        cells = [
            precision,
            ", ".join(str(record["seed"]) for record in group),
            ", ".join(f"{step:,}" for step in steps),
            f"{successes} of {len(group)}",
            f"{statistics.mean(accuracy):.2f} %",
            f"{min(accuracy):.2f} %",
            f"{statistics.mean(record['elbo'] for record in group):.1f}",
            f"{statistics.median(seconds):.0f}",
            f"{max(seconds):.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmarks.time_to_accuracy",
        description="Time whole training runs. Flags that are not known go to 'main.py train'.",
    )
    parser.add_argument("--dataset", default="multi-mnist-pyro", help="default: %(default)s")
    parser.add_argument("--seeds", default="0-4", help="first-last (default: %(default)s)")
    parser.add_argument(
        "--precisions", default="float32", help=f"of: {','.join(PRECISIONS)} (default: %(default)s)"
    )
    parser.add_argument(
        "--json", type=Path, default=RECORD, help="where runs are added (default: the record)"
    )
    parser.add_argument("--write", type=Path, help="put the table between a file's markers")
    args, more = parser.parse_known_args(argv)
    first, _, last = args.seeds.partition("-")
    records = json.loads(args.json.read_text()) if args.json.exists() else []
    done = {(r["dataset"], r["precision"], r["seed"]) for r in records}
    for precision in args.precisions.split(","):
        for seed in range(int(first), int(last or first) + 1):
            if (args.dataset, precision, seed) in done:
                continue
            records.append(measure(args.dataset, seed, precision, more))
            args.json.parent.mkdir(parents=True, exist_ok=True)
            args.json.write_text(json.dumps(records, indent=1) + "\n")
    table = format_table(records)
    print(table)
    if args.write:
        text = insert(args.write.read_text(encoding="utf-8"), table, "time to accuracy")
        args.write.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
