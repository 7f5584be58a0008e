"""The command line: fit, count, and write the table."""

import argparse
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import air
from air.object_size import count_regions
from experiments.benchmarks import markdown
from experiments.benchmarks.own_images.cases import KINDS, make
from experiments.benchmarks.record_files import (
    RECORDS,
    current_commit,
    read_finished,
    read_record,
    record_path,
    write_record,
)

HEADER = ("pictures", "seeds", "AIR: right", "worst", "mean error", "regions: right", "mean error")


def measure(name: str, seed: int, num_steps: int) -> dict[str, Any]:
    """Fit a model to a kind of pictures and count them, with it and without.

    Args:
        name: of the kind.
        seed: of the training; the pictures are the same.
        num_steps: of :func:`air.fit`.
    """
    pictures, true = make(name)
    kind, start = KINDS[name], time.process_time()
    # In tiles there are fewer than in the picture: one more than a tile may hold is enough.
    most = min(kind.most + 1, 6)
    log: list[str] = []
    model = air.fit(pictures, max_objects=most, num_steps=num_steps, seed=seed, log=log.append)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = np.array([detections.count for detections in model.predict(pictures)])
    seconds = time.process_time() - start
    regions = np.array(
        [
            count_regions(
                model.preparation.prepare(torch.from_numpy(p.astype("f4")), model.config)[0]
            )
            for p in pictures
        ]
    )
    counts = {"air": found, "regions": regions}
    return {
        "kind": name,
        "seed": seed,
        "settings": {"num_steps": num_steps, "max_objects": most},
        "commit": current_commit(),
        "cpu_seconds": round(seconds),
        "warnings": sorted({str(warning.message) for warning in said}),
        "log": [line for line in log if "ELBO" not in line],
        **{
            f"{who}_{what}": round(float(value), 4)
            for who, count in counts.items()
            for what, value in (
                ("right", (count == true).mean()),
                ("within_one", (abs(count - true) <= 1).mean()),
                ("mean_error", abs(count - true).mean()),
            )
        },
    }


def format_table(records: Sequence[dict[str, Any]]) -> str:
    """The table in Markdown, a row for each kind, every seed counted."""
    rows = []
    for name in KINDS:
        own = [record for record in records if record["kind"] == name]
        if own:
            right = [record["air_right"] for record in own]
            rows.append(
                [
                    f"`{name}`",
                    str(len(own)),
                    markdown.spread(right, 100, 1, " %"),
                    f"{100 * min(right):.1f} %",
                    markdown.spread([record["air_mean_error"] for record in own], 1, 2, ""),
                    f"{100 * own[0]['regions_right']:.1f} %",
                    f"{own[0]['regions_mean_error']:.2f}",
                ]
            )
    return markdown.table(HEADER, rows) if rows else "*No run is kept yet.*"


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmarks.own_images",
        description="Fit a model to kinds of pictures and count what they hold.",
    )
    parser.add_argument("--kinds", default=",".join(KINDS), help="names separated by commas")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0 to N - 1 (default: 3)")
    parser.add_argument("--num-steps", type=int, default=2000, help="of air.fit (default: 2000)")
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument("--records", type=Path, default=RECORDS / "own_images")
    parser.add_argument("--report", action="store_true", help="make no run: only the table")
    parser.add_argument("--write", type=Path, help="Markdown file that holds the table's markers")
    args = parser.parse_args(argv)
    if unknown := sorted(set(args.kinds.split(",")) - set(KINDS)):
        parser.error(f"unknown kind {unknown[0]!r}. Expected some of: {', '.join(KINDS)}.")
    if args.threads:
        torch.set_num_threads(args.threads)
    for seed in range(0 if args.report else args.seeds):
        for name in args.kinds.split(","):
            path = record_path(args.records, name.replace("_", "-"), f"seed{seed}")
            settings = {"num_steps": args.num_steps, "max_objects": min(KINDS[name].most + 1, 6)}
            record = read_finished(path, settings)
            if record is None:
                record = measure(name, seed, args.num_steps)
                write_record(path, record)
            print(
                f"{name}, seed {seed}: {record['air_right']:.1%} right, regions "
                f"{record['regions_right']:.1%}, {record['cpu_seconds']} s of CPU",
                flush=True,
            )
    text = format_table([read_record(path) for path in sorted(args.records.glob("*.json"))])
    if args.write is None:
        print(text)
    else:
        page = args.write.read_text(encoding="utf-8")
        args.write.write_text(markdown.insert(page, text, "own_images"), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
