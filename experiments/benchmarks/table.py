"""The README's table of results, made from the records of finished runs.

A record is what ``python main.py evaluate --json`` printed for one run, saved as
``records/DATASET_ESTIMATOR_seedN.json``. ``python -m experiments.benchmarks.table`` prints the
table; ``--write`` puts it between its two markers in a file.
"""

import argparse
import json
import re
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

RECORDS = Path(__file__).parent / "records"
SUCCESS = 0.98
"""Held-out count accuracy from which on a run counts as a success."""

_NAME = re.compile(r"(?P<dataset>.+)_(?P<estimator>[^_]+)_seed(?P<seed>\d+)")


def read_records(folder: Path = RECORDS) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Records by data set and estimator, each list in the order of seeds."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for path in sorted(folder.glob("*.json")):
        match = _NAME.fullmatch(path.stem)
        if match is None:
            raise ValueError(f"{path} is not named DATASET_ESTIMATOR_seedN.json.")
        record = json.loads(path.read_text(encoding="utf-8"))
        groups[match["dataset"], match["estimator"]].append(record | {"seed": int(match["seed"])})
    return {key: sorted(records, key=lambda r: r["seed"]) for key, records in groups.items()}


def format_table(groups: dict[tuple[str, str], list[dict[str, Any]]]) -> str:
    """One row a data set and estimator, every seed counted, as Markdown."""
    lines = [
        "| data set | estimator | seeds | at least 98 % | count accuracy, mode | one draw "
        "| ELBO | log p(x) is at least |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (dataset, estimator), records in sorted(groups.items()):
        successes = sum(record["count_accuracy_mode"] >= SUCCESS for record in records)
        seeds = ", ".join(str(record["seed"]) for record in records)
        cells = [
            f"`{dataset}`",
            f"`{estimator}`",
            seeds,
            f"{successes} of {len(records)}",
            spread(records, "count_accuracy_mode", 100, 2, " %"),
            spread(records, "count_accuracy", 100, 2, " %"),
            spread(records, "elbo", 1, 1, ""),
            spread(records, "log_likelihood_bound", 1, 1, ""),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(records: list[dict[str, Any]], name: str, factor: float, digits: int, unit: str) -> str:
    """Mean and, over several seeds, the standard deviation."""
    values = [record[name] * factor for record in records]
    text = f"{statistics.fmean(values):.{digits}f}"
    if len(values) > 1:
        text += f" ± {statistics.stdev(values):.{digits}f}"
    return text + unit


def insert(text: str, table: str, name: str = "results") -> str:
    """``text`` with the table between its markers, ``<!-- NAME -->`` and ``<!-- end of NAME -->``.

    Raises:
        ValueError: if a marker is missing.
    """
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    if begin not in text or end not in text:
        raise ValueError(f"the file lacks the markers {begin} and {end}.")
    before, rest = text.split(begin, 1)
    return f"{before}{begin}\n{table}\n{end}{rest.split(end, 1)[1]}"


def main() -> int:
    """Print the table, or write it into a file."""
    parser = argparse.ArgumentParser(description="Make the table of results from the records.")
    parser.add_argument("--write", metavar="FILE", type=Path, help="put it between the markers")
    args = parser.parse_args()
    table = format_table(read_records())
    if args.write is None:
        print(table)
    else:
        args.write.write_text(
            insert(args.write.read_text(encoding="utf-8"), table), encoding="utf-8"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
