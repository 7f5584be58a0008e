"""A table of results in Markdown, from its records."""

from pathlib import Path
from typing import Any

from experiments.benchmarks import markdown
from experiments.benchmarks.record_files import read_record, record_path
from experiments.benchmarks.results.runs import VIEWS
from experiments.benchmarks.results.tables import Row, Table

__all__ = ["format_table", "read_row"]

Record = dict[str, Any]

HEADER = (
    *("run", "seeds", "at least 98 %", "count accuracy, mode", "worst", "one draw"),
    *("best of 25 views", "worst", "ELBO", "log p(x) is at least"),
)


def read_row(folder: Path, row: Row) -> list[Record]:
    """Records of a row, in the order of seeds.

    Args:
        folder: of the table's records.
        row: whose.

    Raises:
        ValueError: if one was made with other settings than the row's.
    """
    seeds = sorted(int(path.stem.rpartition("seed")[2]) for path in folder.glob(f"{row.name}_*"))
    records = [read_record(record_path(folder, row.name, f"seed{seed}")) for seed in seeds]
    for record in records:
        settings = record["settings"]
        if settings != row.settings:
            raise ValueError(
                f"the record of {row.name}, seed {record['seed']}, was made with {settings} "
                f"instead of {row.settings}. Remove it, or make it anew."
            )
    return records


def format_table(table: Table, folder: Path) -> str:
    """The table and the commands that made it; every seed counts, a broken one as a failure.

    Nothing where there is no record.

    Args:
        table: which rows.
        folder: of its records.
    """
    rows, commands = [], []
    for row in table.rows:
        records = read_row(folder, row)
        if not records:
            continue
        rows.append(_cells(row, records))
        commits = ", ".join(sorted({str(record["commit"]) for record in records}))
        flags = " ".join(["--dataset", row.dataset, *row.flags])
        commands.append(f"- {row.title}: `python main.py train {flags} --seed SEED` ({commits})")
    if not rows:
        return ""
    return "\n".join([markdown.table(HEADER, rows), "", *commands])


def _cells(row: Row, records: list[Record]) -> list[str]:
    found = [record["evaluation"] for record in records if record["status"] == "finished"]
    accuracies = [evaluation["count_accuracy_mode"] for evaluation in found]
    successes = sum(accuracy >= markdown.SUCCESS for accuracy in accuracies)
    cells = [row.title, _seeds(records), f"{successes} of {len(records)}"]
    if len(found) < len(records):
        cells[-1] += f" ({len(records) - len(found)} broke down)"
    if not found:
        return [*cells, *["–"] * (len(HEADER) - len(cells))]
    return [
        *cells,
        markdown.spread(accuracies, 100, 2, " %"),
        _percent(min(accuracies)),
        markdown.spread([evaluation["count_accuracy"] for evaluation in found], 100, 2, " %"),
        *_with_views(records),
        markdown.spread([evaluation["elbo"] for evaluation in found], 1, 1, ""),
        _bound(found),
    ]


def _with_views(records: list[Record]) -> list[str]:
    """Accuracy with the best views, where every finished run was evaluated so."""
    finished = [record for record in records if record["status"] == "finished"]
    if not all(VIEWS in record for record in finished):
        return ["–", "–"]
    accuracies = [record[VIEWS]["count_accuracy_mode"] for record in finished]
    return [markdown.spread(accuracies, 100, 2, " %"), _percent(min(accuracies))]


def _percent(share: float) -> str:
    return f"{share:.2%}".replace("%", " %")


def _bound(found: list[Record]) -> str:
    bounds = [evaluation["log_likelihood_bound"] for evaluation in found]
    if None in bounds:
        return "–"
    return markdown.spread(bounds, 1, 1, "")


def _seeds(records: list[Record]) -> str:
    """Seeds as a range where they are one.

    >>> _seeds([{"seed": 0}, {"seed": 1}, {"seed": 2}]), _seeds([{"seed": 1}, {"seed": 3}])
    ('0 to 2', '1, 3')
    """
    seeds = [record["seed"] for record in records]
    if len(seeds) > 2 and seeds == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]} to {seeds[-1]}"
    return ", ".join(map(str, seeds))
