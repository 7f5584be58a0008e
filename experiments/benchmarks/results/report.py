"""A table of results in Markdown, from its records."""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.benchmarks import markdown
from experiments.benchmarks.record_files import read_record, record_path
from experiments.benchmarks.results.tables import ASKED, ELSEWHERE, PLAIN, VIEWS, Row, Table
from experiments.calibration import TITLES
from experiments.datasets.sources import folder_name

__all__ = ["copy_pictures", "format_table", "read_row"]

Record = dict[str, Any]
Runs = dict[Row, list[Record]]
"""The finished runs of each row."""

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

    Where there is no record, a line says so.

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
        return "*No run is kept yet.*"
    parts = [markdown.table(HEADER, rows)]
    finished = {
        row: [record for record in read_row(folder, row) if record["status"] == "finished"]
        for row in table.rows
    }
    for make in (_elsewhere, _localisation, _calibration, _learned_priors):
        if text := make(finished):
            parts.append(text)
    return "\n\n".join([*parts, "\n".join(commands)])


def copy_pictures(run: Path, row: Row, folder: Path, name: str) -> list[Path]:
    """Copy the pictures of a run's newest evaluations.

    Args:
        run: the run's folder.
        row: whose run it is: on which other data sets it was evaluated.
        folder: where to.
        name: how the copies' names begin; they end in ``_reconstructions.png`` and so on.

    Returns:
        The copies.

    Raises:
        FileNotFoundError: if there are no pictures.
    """
    copies = []
    places = ["", *(f"{folder_name(dataset)}_" for dataset in row.elsewhere)]
    for kind in ("reconstructions", "localisation", "calibration"):
        for place in places:
            pattern = re.compile(rf"evaluation_(\d+)_{re.escape(place)}{kind}\.png")
            found = {
                int(match[1]): path
                for path in run.glob(f"results/imgs/evaluation_*_{kind}.png")
                if (match := pattern.fullmatch(path.name))
            }
            if found:
                folder.mkdir(parents=True, exist_ok=True)
                copies.append(folder / f"{name}_{place}{kind}.png")
                shutil.copyfile(found[max(found)], copies[-1])
    if not copies:
        raise FileNotFoundError(f"{run} holds no pictures of an evaluation: say --output.")
    return copies


def _elsewhere(finished: Runs) -> str:
    """Accuracy on other data sets than the runs' own."""
    rows = []
    for row, records in finished.items():
        for dataset in row.elsewhere:
            name = f"{ELSEWHERE}{dataset}"
            judged = [record for record in records if name in record]
            if judged:
                own = _accuracies([record[PLAIN] for record in judged])
                other = _accuracies([record[name] for record in judged])
                cells = [f"`{row.dataset}`", own, f"`{dataset}`", other]
                rows.append([row.title, str(len(judged)), *cells])
    header = ("run", "seeds", "trained on", "count accuracy there")
    return _if_any((*header, "judged by", "count accuracy there"), rows)


def _localisation(finished: Runs) -> str:
    """Scores of boxes and masks."""
    rows = []
    for row, records in finished.items():
        asked = [record[ASKED]["localisation"] for record in records if ASKED in record]
        if asked:
            scores = [("window", "iou"), ("tight", "iou"), ("tight", "ap50"), ("tight", "ap")]
            scores += [("masks", "ari"), ("masks", "covering")]
            found = [
                [None if one[kind] is None else one[kind][score] for one in asked]
                for kind, score in scores
            ]
            found.append([one["found_without_objects"] for one in asked])
            rows.append([row.title, str(len(asked)), *map(_shares, found)])
    header = ("run", "seeds", "IoU of the window", "IoU of the tight box", "AP50", "AP")
    return _if_any((*header, "foreground ARI", "covering", "found in empty scenes"), rows)


def _calibration(finished: Runs) -> str:
    """Expected calibration errors of the three posteriors over counts."""
    rows, most = [], 0
    for row, records in finished.items():
        asked = [record[ASKED]["calibration"] for record in records if ASKED in record]
        for name, title in TITLES.items():
            judged = [one[name] for one in asked]
            if judged:
                counts = list(zip(*(one["error_by_count"] for one in judged), strict=True))
                most = max(most, len(counts))
                overall = [[one[key] for one in judged] for key in ("accuracy", "confidence")]
                overall.append([one["error"] for one in judged])
                cells = [_shares(values) for values in (*overall, *counts)]
                rows.append([row.title, title.replace("|", r"\|"), str(len(judged)), *cells])
    header = ["run", "posterior", "seeds", "right", "sure", "calibration error"]
    header += [f"n = {count}" for count in range(most)]
    return _if_any(header, [row + ["–"] * (len(header) - len(row)) for row in rows])


def _learned_priors(finished: Runs) -> str:
    """What a learned probability of one more object came to."""
    rows = []
    for row, records in finished.items():
        if "--learn-continue-prob-from" not in row.flags or not records:
            continue
        learned = [record[PLAIN]["continue_prob"] for record in records]
        counts = zip(*(record[PLAIN]["prior_num_steps"] for record in records), strict=True)
        cells = [markdown.spread(learned, 1, 3, ""), *map(_shares, counts)]
        rows.append([row.title, str(len(learned)), *cells])
    header = ["run", "seeds", "learned probability of one more object"]
    header += [f"p({count})" for count in range(max(map(len, rows), default=3) - 3)]
    return _if_any(header, [row + ["–"] * (len(header) - len(row)) for row in rows])


def _if_any(header: Sequence[str], rows: list[list[str]]) -> str:
    return markdown.table(header, rows) if rows else ""


def _accuracies(evaluations: list[Record]) -> str:
    return _shares([evaluation["count_accuracy_mode"] for evaluation in evaluations])


def _shares(values: Sequence[float | None]) -> str:
    """Mean and spread in per cent; a dash where a score is not defined."""
    known = [value for value in values if value is not None]
    return markdown.spread(known, 100, 2, " %") if known else "–"


def _cells(row: Row, records: list[Record]) -> list[str]:
    found = [record[PLAIN] for record in records if record["status"] == "finished"]
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
