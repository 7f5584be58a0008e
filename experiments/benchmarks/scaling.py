"""Images a second of one process and of several, and what a ring of more would do.

    python -m experiments.benchmarks.scaling --dataset multi-mnist

Runs ``main.py train`` as it is, alone and under torchrun, one CPU thread a process, and reads the
speed that it logs. Rows for more processes than were run are computed, not measured:

    step(N) = step(1) + 2 (N - 1) / N * bytes / bandwidth + 2 (N - 1) * latency

which is the time of a ring all-reduce of the gradients (Patarasuk and Yuan, 2009) after a backward
pass that it does not overlap with.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from air import AIR

__all__ = ["gradient_bytes", "main", "measure", "ring_seconds"]

ROOT = Path(__file__).resolve().parents[2]


def gradient_bytes() -> int:
    """Bytes of the standard model's gradients in float32."""
    return 4 * sum(parameter.numel() for parameter in AIR().parameters())


def ring_seconds(processes: int, size: int, *, bandwidth: float, latency: float) -> float:
    """Time of a ring all-reduce.

    Args:
        processes: N.
        size: bytes to be reduced.
        bandwidth: bytes a second that each process sends, and receives at the same time.
        latency: seconds of one message.
    """
    return 2 * (processes - 1) * (size / processes / bandwidth + latency)


def measure(processes: int, batch_size: int, *, dataset: str, steps: int) -> float:
    """Images a second of a training run: the median of what it logs, without the first tenth.

    Args:
        processes: N; 1 runs without torchrun.
        batch_size: of all processes together.
        dataset: as ``--dataset`` takes it.
        steps: of the run; a multiple of 10.
    """
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc-per-node", str(processes)]
    with tempfile.TemporaryDirectory() as output:
        command += ["main.py", "train", "--nocuda", "--threads", "1", "--dataset", dataset]
        command += ["--batch-size", str(batch_size), "--max-steps", str(steps)]
        command += ["--tr-log-every", str(steps // 10), "--ts-log-every", str(steps)]
        command += ["--checkpoint-every", str(steps), "--ll-every", str(steps * 10)]
        command += ["--output", output, "--run-name", "run"]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if result.returncode:
            raise RuntimeError(f"the run of {processes} processes failed:\n{result.stderr}")
        text = (Path(output) / "run" / "results" / "metrics.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    return statistics.median([x["images_per_s"] for x in lines if x["split"] == "train"][1:])


def main(argv: list[str] | None = None) -> int:
    """Measure, compute and print the table; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--dataset", metavar="NAME", default="multi-mnist")
    parser.add_argument("--processes", metavar="N", type=int, default=2)
    parser.add_argument("--batch-sizes", metavar="B", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--steps", metavar="N", type=int, default=200)
    parser.add_argument("--repeats", metavar="N", type=int, default=3)
    parser.add_argument("--computed", metavar="N", type=int, nargs="+", default=[8, 64])
    parser.add_argument(
        "--bandwidth", metavar="GB/s", type=float, default=1.25, help="default: 10 Gbit/s Ethernet"
    )
    parser.add_argument("--latency", metavar="US", type=float, default=50.0)
    parser.add_argument(
        "--step-ms", metavar="MS", type=float, help="compute only, from this time of a step"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args(argv)
    if args.steps % 10 or args.steps < 20:
        parser.error(f"--steps must be a multiple of 10 and at least 20, got {args.steps}")
    rows = [] if args.step_ms else _measured_rows(args)
    for batch_size in args.batch_sizes:
        step = args.step_ms and args.step_ms / 1000
        if not step:
            alone = next(r for r in rows if r["batch_size"] == batch_size and r["processes"] == 1)
            step = batch_size / alone["images_per_s"]
        rows += [_computed_row(step, batch_size, number, args) for number in args.computed]
    if args.json:
        print(json.dumps({"gradient_bytes": gradient_bytes(), "rows": rows}))
    else:
        _print_table(rows)
    return 0


def _measured_rows(args: argparse.Namespace) -> list[dict[str, Any]]:
    """All settings in turn, several times over, so that all share the machine's moods."""
    cases = [(number, size) for size in args.batch_sizes for number in (1, args.processes)]
    speeds: dict[tuple[int, int], list[float]] = {case: [] for case in cases}
    for _ in range(args.repeats):
        for case in cases:
            speeds[case].append(measure(*case, dataset=args.dataset, steps=args.steps))
            print(f"{case[0]} x, batch {case[1]}: {speeds[case][-1]:.0f} images/s", file=sys.stderr)
    return [
        {
            "kind": "measured",
            "processes": number,
            "batch_size": size,
            "images_per_s": statistics.median(found),
            "lowest": min(found),
            "highest": max(found),
            "speedup": statistics.median(found) / statistics.median(speeds[1, size]),
        }
        for (number, size), found in speeds.items()
    ]


def _computed_row(
    step: float, batch_size: int, processes: int, args: argparse.Namespace
) -> dict[str, Any]:
    """Weak scaling: each process has the whole batch size."""
    transfer = ring_seconds(
        processes, gradient_bytes(), bandwidth=args.bandwidth * 1e9, latency=args.latency / 1e6
    )
    efficiency = step / (step + transfer)
    return {
        "kind": "computed",
        "processes": processes,
        "batch_size": batch_size * processes,
        "images_per_s": processes * batch_size / (step + transfer),
        "transfer_ms": 1000 * transfer,
        "speedup": processes * efficiency,
    }


def _print_table(rows: list[dict[str, Any]]) -> None:
    print("| | processes | batch, together | images/s | lowest - highest | times one process |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        spread = f"{row['lowest']:,.0f} - {row['highest']:,.0f}" if "lowest" in row else ""
        print(
            f"| {row['kind']} | {row['processes']} | {row['batch_size']} | "
            f"{row['images_per_s']:,.0f} | {spread} | {row['speedup']:.2f} |"
        )


if __name__ == "__main__":
    sys.exit(main())
