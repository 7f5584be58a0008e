"""One table of counts: AIR beside connected regions, which learn nothing.

    python -m experiments.benchmarks.summary --regions          # measure connected regions
    python -m experiments.benchmarks.summary --write README.md  # the table, from the records

AIR's rows come from the records of ``experiments.benchmarks.results --table one-recipe``, and those
of the paper's network from the tables that hold its runs.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from air.object_size import count_regions
from experiments.benchmarks import markdown
from experiments.benchmarks.record_files import RECORDS, read_record, write_record
from experiments.benchmarks.results.report import read_row
from experiments.benchmarks.results.tables import ELSEWHERE, PLAIN, TABLES, Row
from experiments.datasets import load_dataset

__all__ = ["format_summary", "measure_regions"]

TABLE = "one-recipe"
MAX_SCENES = 2000
"""Held-out scenes that connected regions count: every so many of all."""

HEADER = ("data", "seeds", "right", "worst seed", "ELBO", "paper's LSTM", "regions")

PAPER = {
    "pyro": ("multi-mnist", "enumerate"),
    "reinforce": ("multi-mnist", "reinforce"),
    "digits": ("generalisation", "air-0-2"),
    "0-1-3": ("generalisation", "air-0-1-3"),
    "strokes": ("more", "strokes"),
}
"""Where the paper's network has runs on the same data: table and row."""


def measure_regions(dataset: str) -> dict[str, Any]:
    """How many counts are right by one threshold and connected regions, on held-out scenes."""
    scenes = load_dataset(dataset).held_out
    rows = torch.linspace(0, len(scenes.images) - 1, min(len(scenes.images), MAX_SCENES)).long()
    counts = torch.tensor([count_regions(scenes.images[row] / 255) for row in rows.tolist()])
    right = (counts == scenes.num_objects[rows]).float().mean().item()
    return {"dataset": dataset, "scenes": len(rows), "right": round(right, 4)}


def format_summary(records: Path = RECORDS) -> str:
    """The table in Markdown; rows without a run are left out."""
    regions = read_record(records / "regions.json") if (records / "regions.json").exists() else {}
    rows = []
    for row in TABLES[TABLE].rows:
        own = _finished(records, TABLE, row)
        if not own:
            continue
        baseline = regions.get(row.dataset)
        right = [record[PLAIN]["count_accuracy_mode"] for record in own]
        cells = _cells(right)
        elbo = markdown.spread([record[PLAIN]["elbo"] for record in own], 1, 1, "")
        rows.append(
            [
                *(row.title, str(len(own)), *cells, elbo, _paper(records, row, PLAIN)),
                "-" if baseline is None else f"{100 * baseline['right']:.1f} %",
            ]
        )
        for other in row.elsewhere:
            name = f"{ELSEWHERE}{other}"
            baseline = regions.get(other)
            right = [record[name]["count_accuracy_mode"] for record in own]
            rows.append(
                [
                    *(f"the same runs on `{other}`, a count never seen", str(len(own))),
                    *(*_cells(right), "-", _paper(records, row, name)),
                    "-" if baseline is None else f"{100 * baseline['right']:.1f} %",
                ]
            )
    return markdown.table(HEADER, rows) if rows else "*No run is kept yet.*"


def _cells(right: Sequence[float]) -> list[str]:
    return [markdown.spread(right, 100, 2, " %"), f"{100 * min(right):.2f} %"]


def _finished(records: Path, table: str, row: Row) -> list[dict[str, Any]]:
    found = read_row(records / "results" / table, row)
    return [record for record in found if record["status"] == "finished"]


def _paper(records: Path, row: Row, evaluation: str) -> str:
    """Mean accuracy of the paper's network on the same data, with its number of seeds."""
    if row.name not in PAPER:
        return "-"
    table, name = PAPER[row.name]
    found = _finished(records, table, TABLES[table].find(name))
    right = [record[evaluation]["count_accuracy_mode"] for record in found if evaluation in record]
    return f"{100 * sum(right) / len(right):.1f} % ({len(right)})" if right else "-"


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmarks.summary", description="One table of counts."
    )
    parser.add_argument("--regions", action="store_true", help="measure connected regions")
    parser.add_argument("--write", type=Path, help="Markdown file that holds the table's markers")
    args = parser.parse_args(argv)
    if args.regions:
        path = RECORDS / "regions.json"
        found = read_record(path) if path.exists() else {}
        for row in TABLES[TABLE].rows:
            for dataset in (row.dataset, *row.elsewhere):
                if dataset not in found:
                    found[dataset] = measure_regions(dataset)
                    write_record(path, found)
    text = format_summary()
    if args.write is None:
        print(text)
    else:
        page = args.write.read_text(encoding="utf-8")
        args.write.write_text(markdown.insert(page, text, "summary"), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
