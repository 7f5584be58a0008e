"""Folders that boilr's own trainer filled, read without unpickling them.

boilr keeps a run's settings in ``checkpoints/config.pkl`` and its metrics in
``results/log.pkl``. Unpickling somebody else's would run their code.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from experiments.arguments import complete_recipe
from experiments.datasets import find_spec
from experiments.experiment import AIRExperiment, make_config
from experiments.files import DamagedFileError, is_number, read_file
from experiments.runs import Run
from experiments.safe_pickle import MAX_BYTES, Record, read_pickle

_PLAIN = (str, int, float, bool, type(None))


def read_run_config(run: Run) -> dict[str, Any]:
    """A run's configuration, of ours or of one that boilr's trainer made.

    Raises:
        DamagedFileError: if it is damaged, or of another program.
        OSError: if it cannot be read.
    """
    path = run.boilr_config_path
    if run.config_path.exists() or not path.exists():
        return run.read_config()
    settings = read_config(path)
    known = vars(AIRExperiment.default_args())
    missing = sorted({"dataset", "estimator", "max_steps"} - set(settings))
    try:
        spec = find_spec(str(settings.get("dataset")))
    except ValueError:
        spec = None
    if missing or spec is None:
        raise DamagedFileError(
            f"{path} is of another program, or another version: it names no data set that we make"
            f"{' and lacks ' + ', '.join(missing) if missing else ''}."
        )
    args = argparse.Namespace(**(known | settings))
    try:
        # A stranger's settings can be of any type.
        complete_recipe(args)
        config = make_config(args, (spec.channels, *spec.canvas_size), int(args.max_steps))
    except (AttributeError, OverflowError, TypeError, ValueError) as error:
        raise DamagedFileError(f"{path} describes no model: {error}") from error
    return {"args": vars(args), "air": config.to_dict(), "dataset": args.dataset}


def convert_log(run: Run) -> None:
    """Write the metrics of a run that boilr's trainer made where ours are, if it made it.

    Raises:
        DamagedFileError: if they are damaged.
        OSError: if they cannot be read or written.
    """
    if run.metrics_path.exists() or not run.boilr_log_path.exists():
        return
    names = {"train": "train", "test": "held_out"}
    lines: dict[tuple[int, str], dict[str, float]] = {}
    for split, metrics in read_log(run.boilr_log_path).items():
        for name, pairs in metrics.items():
            for step, value in pairs:
                lines.setdefault((step, names[split]), {})[name] = value
    rows = [{"step": s, "split": split, **lines[s, split]} for s, split in sorted(lines)]
    run.write(run.metrics_path, "".join(f"{json.dumps(row)}\n" for row in rows).encode())


def read_config(path: Path) -> dict[str, str | int | float | bool | None]:
    """The settings in a ``config.pkl``: an ``argparse.Namespace`` of plain values.

    Raises:
        DamagedFileError: if it is anything else.
        OSError: if it cannot be read.
    """
    record = read_pickle(read_file(path, MAX_BYTES), str(path))
    if not isinstance(record, Record) or record.kind != "Namespace":
        raise DamagedFileError(f"{path} holds no settings.")
    for name, value in record.fields.items():
        if not isinstance(value, _PLAIN) or (type(value) is int and not is_number(value)):
            raise DamagedFileError(f"{path} has a setting {name!r} that is no plain value.")
    return record.fields


def read_log(path: Path) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """The metrics in a ``log.pkl``: by ``train`` and ``test``, by name, (step, value) pairs.

    Raises:
        DamagedFileError: if it is anything else.
        OSError: if it cannot be read.
    """
    log = read_pickle(read_file(path, MAX_BYTES), str(path))
    if not isinstance(log, dict) or set(log) != {"train", "test"}:
        raise DamagedFileError(f"{path} holds no metrics of training and test.")
    return {split: _read_collection(log[split], path) for split in log}


def _read_collection(collection: Any, path: Path) -> dict[str, list[tuple[int, float]]]:
    if not isinstance(collection, Record) or collection.kind != "SummarizerCollection":
        raise DamagedFileError(f"{path} holds no metrics.")
    summarizers = collection.fields.get("summarizers")
    if not isinstance(summarizers, dict):
        raise DamagedFileError(f"{path} holds no metrics.")
    metrics = {}
    for name, summarizer in summarizers.items():
        state = summarizer.fields.get("state") if isinstance(summarizer, Record) else None
        if not isinstance(state, list) or not all(map(_is_pair, state)):
            raise DamagedFileError(f"{path}: {name!r} are no pairs of step and value.")
        metrics[str(name)] = state
    return metrics


def _is_pair(pair: Any) -> bool:
    return (
        type(pair) is tuple
        and len(pair) == 2
        and type(pair[0]) is int
        and is_number(pair[0])
        and (is_number(pair[1]) or isinstance(pair[1], float))
    )
