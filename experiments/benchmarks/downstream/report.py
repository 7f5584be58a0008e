"""What was measured, as a table and as a picture."""

import statistics
from pathlib import Path
from typing import Any

from experiments.benchmarks.downstream.probes import INPUTS, TASKS
from experiments.commands.train import flags_of
from experiments.experiment import AIRExperiment

__all__ = ["format_table", "save_picture"]


def format_table(report: dict[str, Any]) -> str:
    """Mean and standard deviation over the seeds, as Markdown: a row a task and input.

    Below it, what was measured and how.
    """
    numbers = report["settings"]["num_labels"]
    lines = [
        "| task | input | " + " | ".join(f"{number:,} labels" for number in numbers) + " |",
        "|---|---|" + "---|" * len(numbers),
    ]
    for task, kind in _groups(report):
        cells = []
        for number in numbers:
            values = [100 * value for value in _accuracies(report, task, kind, number)]
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{statistics.fmean(values):.1f}{spread} %")
        lines.append(f"| {TASKS[task].title} | {INPUTS[kind]} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", _notes(report)])


def _notes(report: dict[str, Any]) -> str:
    """What the table's numbers are of."""
    settings, run = report["settings"], report["train"]
    guesses = (f"{100 * share:.1f} % of {task}" for task, share in report["most_common"].items())
    right = f"{100 * report['counts_right']:.1f} %"
    defaults = vars(AIRExperiment.default_args())
    changed = {name: value for name, value in run.items() if value != defaults.get(name)}
    flags = flags_of({"dataset": run["dataset"], **changed})
    return (
        f"{report['held_out']:,} held-out scenes of `{settings['dataset']}`, of which the model "
        f"counts {right} right; {settings['seeds']} subset(s) of labels, {settings['steps']:,} "
        f"steps a probe; measured at {report.get('commit')}. Always giving the most common answer: "
        f"{' and '.join(guesses)}. The model, after {report['step']:,} steps of "
        f"`python main.py train {flags}`."
    )


def save_picture(report: dict[str, Any], path: Path) -> None:
    """Accuracy against the number of labels, a panel a task, a dot a seed; as PNG."""
    from matplotlib.figure import Figure

    colours = {"latents": "#0072B2", "pixels": "#D55E00"}
    numbers = report["settings"]["num_labels"]
    tasks = list(dict.fromkeys(task for task, _ in _groups(report)))
    figure = Figure(figsize=(4.2 * len(tasks), 3.6), layout="constrained")
    panels = figure.subplots(1, len(tasks), squeeze=False)[0]
    for panel, task in zip(panels, tasks, strict=True):
        for kind in (kind for name, kind in _groups(report) if name == task):
            values = [_accuracies(report, task, kind, number) for number in numbers]
            panel.plot(
                numbers,
                [statistics.fmean(some) for some in values],
                color=colours[kind],
                label=INPUTS[kind],
            )
            for number, some in zip(numbers, values, strict=True):
                panel.plot([number] * len(some), some, "o", color=colours[kind], markersize=3)
        chance = report["most_common"][task]
        panel.axhline(chance, color="#999999", linewidth=1, label="most common answer")
        panel.set(xscale="log", ylim=(0, 1), title=TASKS[task].title, xlabel="labels")
        panel.set_xticks(numbers, [f"{number:,}" for number in numbers])
        panel.minorticks_off()
    panels[0].set_ylabel("held-out scenes right")
    panels[0].legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _groups(report: dict[str, Any]) -> list[tuple[str, str]]:
    """Tasks and inputs that were measured."""
    return list(dict.fromkeys((r["task"], r["input"]) for r in report["records"]))


def _accuracies(report: dict[str, Any], task: str, kind: str, number: int) -> list[float]:
    wanted = (task, kind, number)
    return [
        record["accuracy"]
        for record in report["records"]
        if (record["task"], record["input"], record["num_labels"]) == wanted
    ]
