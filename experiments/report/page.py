"""The page: one HTML file that needs nothing else, no network and no other file."""

import argparse
import base64
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined

from air.recipe import likelihood_sd
from experiments.arguments import complete_recipe
from experiments.experiment import AIRExperiment
from experiments.report.gather import Findings, is_number
from experiments.report.pictures import Drawn

_ROWS = (
    ("count_accuracy_mode", "counts right, posterior mode", "share"),
    ("count_accuracy", "counts right, one draw", "share"),
    ("elbo", "ELBO", "nats"),
    ("log_likelihood", "– log-likelihood", "nats"),
    ("kl_num_steps", "– KL of n", "nats"),
    ("kl_z_where", "– KL of z_where", "nats"),
    ("kl_z_what", "– KL of z_what", "nats"),
    ("log_likelihood_bound", "log p(x) is at least", "nats"),
    ("ess", "effective samples of that bound", "plain"),
    ("continue_prob", "probability of one more object", "plain"),
    ("images_per_s", "images a second", "count"),
)
"""Metrics: their name, what the page calls them, their unit."""

_PRIVATE = frozenset({"output", "data_root", "mnist_root", "resume"})
"""Settings that tell of somebody's disk, and of nothing else."""


def render(findings: Findings, pictures: Sequence[Drawn]) -> str:
    """The page as HTML.

    Args:
        findings: about the run.
        pictures: in the order in which they are shown.
    """
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source = files("experiments.report").joinpath("page.html").read_text(encoding="utf-8")
    return environment.from_string(source).render(
        name=findings.name,
        dataset=findings.dataset,
        facts=facts(findings),
        pictures=[
            {
                "name": drawn.name,
                "title": drawn.picture.title,
                "caption": drawn.picture.caption,
                "alt": drawn.picture.alt,
                "width": drawn.size[0],
                "height": drawn.size[1],
                "light": _data_uri(drawn.light, drawn.mime),
                "dark": _data_uri(drawn.dark, drawn.mime),
            }
            for drawn in pictures
        ],
        metrics=metrics_table(findings),
        settings=settings_table(findings),
        seeds=sorted(findings.others),
    )


def facts(findings: Findings) -> list[tuple[str, str]]:
    """The few figures at the head of the page: value, and what it is."""
    readings = findings.readings
    number = f"{len(readings.counts):,}"
    if readings.accuracy is None:
        found = [(f"{float(readings.counts.double().mean()):.2f}", f"objects in each of {number} "
                  "held-out scenes, whose true counts are unknown")]  # fmt: skip
    else:
        found = [(_format(readings.accuracy, "share"), f"of {number} held-out counts right")]
    found.append((f"{float(readings.elbos.mean()):.1f}", "nats of ELBO, held out"))
    bounds = [
        report
        for report in findings.evaluations
        if is_number(report.get("log_likelihood_bound"))
        and report.get("step") == findings.step
        and report.get("dataset") == findings.dataset
        and report.get("num_images") == len(readings.counts)
        and not report.get("max_shift")
    ]
    if bounds:
        bound = f"{bounds[-1]['log_likelihood_bound']:.1f}"
        found.append((bound, "nats, a lower bound of log p(x)"))
    found.append((f"{findings.step:,}", "training steps"))
    weights = sum(parameter.numel() for parameter in findings.air.parameters())
    return [*found, (f"{weights / 1e6:.2f} M", "weights")]


def metrics_table(findings: Findings) -> dict[str, Any]:
    """Last metrics of training and held out, and every evaluation: heads, and rows of cells."""
    columns: list[tuple[str, str, dict[str, Any]]] = []
    for split, title in (("train", "training"), ("held_out", "held out")):
        last = {name: points[-1] for name, points in findings.curves.get(split, {}).items()}
        if last:
            step = max(step for step, _ in last.values())
            values = {name: value for name, (at, value) in last.items() if at == step}
            columns.append((title, f"step {step:,}", values))
    for report in findings.evaluations:
        at, scenes, samples = map(_number, map(report.get, ("step", "num_images", "num_samples")))
        detail = f"step {at}, {report.get('dataset')}, {scenes} scenes, {samples} samples"
        if shift := report.get("max_shift"):
            detail += f", best of 25 views within {_number(shift)} pixels"
        columns.append(("evaluate", detail, report))
    rows = [
        (label, [_format(values.get(name), unit) for *_, values in columns])
        for name, label, unit in _ROWS
        if any(is_number(values.get(name)) for *_, values in columns)
    ]
    return {"heads": [(title, detail) for title, detail, _ in columns], "rows": rows}


def settings_table(findings: Findings) -> list[tuple[str, str, str]]:
    """Settings of the run: name, value, and the default where it is another one."""
    args = findings.config["args"]
    defaults = _defaults(args, findings.config["air"])
    rows = []
    for name, value in sorted(args.items()):
        if name in _PRIVATE:
            continue
        default = defaults.get(name)
        rows.append((name, _text(value), _text(default) if value != default else ""))
    return rows


def _defaults(args: dict[str, Any], air: dict[str, Any]) -> dict[str, Any]:
    """The default settings of a run like this one: those of the recipe for it among them."""
    defaults = vars(AIRExperiment.default_args())
    recipe = argparse.Namespace(
        **(defaults | {name: args[name] for name in ("inference", "max_steps") if name in args})
    )
    complete_recipe(recipe)
    return defaults | {
        "lr": recipe.lr,
        "continue_prob": recipe.continue_prob,
        "likelihood_sd": f"{likelihood_sd(air['channels']):g}",
    }


def _format(value: Any, unit: str) -> str:
    if not is_number(value):
        return ""
    if unit == "share":
        return f"{100 * value:.2f} %"
    formats = {"nats": "{:.1f}", "count": "{:,.0f}"}
    return formats.get(unit, "{:.3g}").format(value)


def _number(value: Any) -> str:
    """A number as the page shows it, anything else as it is."""
    return f"{value:,}" if is_number(value) else str(value)


def _text(value: Any) -> str:
    """A setting as the page shows it.

    >>> _text(None), _text(""), _text(0.001), _text(True)
    ('none', 'none', '0.001', 'yes')
    """
    if value is None or value == "":
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def _data_uri(content: bytes, mime: str) -> str:
    return f"data:{mime};base64,{base64.b64encode(content).decode()}"
