"""A measurement as text for people: Markdown tables, made from its JSON."""

from collections.abc import Callable
from typing import Any

from experiments.benchmarks.speed.systems import PEERS

TITLES = {
    "air": "`air`, float32",
    "air-reinforce": "`air`, float32, REINFORCE",
    "air-bf16": "`air`, bf16",
    "air-compile": "`air`, float32, compiled",
    "air-bf16-compile": "`air`, bf16, compiled",
    "addtt": "plain-PyTorch peer (addtt)",
    "pyro": "Pyro's example",
}
_AXES = {
    "max_objects": "T",
    "canvas": "canvas (slopes by its area)",
    "batch_size": "batch",
}


def format_report(report: dict[str, Any]) -> str:
    """All parts that a measurement has, one after another; ratios last in their table."""
    sections = [_machine(report)]
    for name, section in _SECTIONS.items():
        if name in report:
            sections.append(section(report[name]))
    sections += [f"Not measured: {line}" for line in report.get("skipped", [])]
    return "\n\n".join(sections)


def format_reports(reports: list[dict[str, Any]]) -> str:
    """Several measurements, one after another."""
    return "\n\n".join(map(format_report, reports))


def _machine(report: dict[str, Any]) -> str:
    machine, settings = report["machine"], report["settings"]
    where = machine["cpu"] if machine["gpu"] is None else f"{machine['gpu']} ({machine['cpu']})"
    threads = _number(machine["threads"], "thread")
    return (
        f"{where}, {threads} of {_number(machine['cores'], 'core')}, torch {machine['torch']}, "
        f"{machine['date']}. Batch {settings['batch_size']}, T = {settings['max_objects']}."
    )


def _number(number: int, thing: str) -> str:
    return f"{number} {thing}" + ("" if number == 1 else "s")


def _step(part: dict[str, Any]) -> str:
    peers = [peer for peer in PEERS if peer in part["systems"]]
    header = ["one training step", "ms, median", "quartiles", "images/s"]
    header += [f"times {TITLES[peer]}" for peer in peers]
    rows = []
    for name, system in part["systems"].items():
        low, high = system["quartiles_ms"]
        row = [
            TITLES.get(name, name),
            _digits(system["median_ms"]),
            f"{_digits(low)} to {_digits(high)}",
            f"{system['images_per_s']:,.0f}",
        ]
        ratios = part["ratios"].get(name, {})
        rows.append(row + [_ratio(ratios.get(peer)) for peer in peers])
    return _table(header, rows)


def _ratio(ratio: dict[str, float] | None) -> str:
    if ratio is None:
        return ""
    return f"**{ratio['median']:.1f}** ({ratio['least']:.1f} to {ratio['greatest']:.1f})"


def _scaling(part: dict[str, Any]) -> str:
    rows = []
    for axis, result in part.items():
        points = result["points"]
        rows.append(
            [
                _AXES[axis],
                ", ".join(str(point[axis]) for point in points),
                ", ".join(_digits(point["step_ms"]) for point in points),
                ", ".join(_megabytes(point["peak_bytes"]) for point in points),
                _slope(result["time_slopes"]),
                _slope(result["memory_slopes"]),
            ]
        )
    header = ["varied", "values", "ms a step", "MB a step", "slopes of time", "of memory"]
    return (
        f"{_table(header, rows)}\n\nMemory is what a step takes beyond parameters, gradients "
        "and Adam's state. Slopes are of the logarithms, 1 is linear: over all values, and over "
        "the last two."
    )


def _slope(slopes: dict[str, float | None]) -> str:
    return ", ".join(f"{slope:.2f}" for slope in slopes.values() if slope is not None)


def _infer(part: dict[str, Any]) -> str:
    return (
        f"`infer` on {part['num_images']:,} images: {part['images_per_s']:,.0f} images/s, "
        f"{_megabytes(part['peak_bytes'])} MB (the results are {_megabytes(part['result_bytes'])})."
    )


def _latency(part: dict[str, Any]) -> str:
    parts = [f"{name} {_digits(times['median_ms'])} ms" for name, times in part.items()]
    return f"One image at a time: {', '.join(parts)}."


def _bound(part: list[dict[str, Any]]) -> str:
    rows = [
        [
            f"{row['num_samples']:,}",
            f"{row['seconds_per_image']:.3g}",
            _megabytes(row["peak_bytes"]),
        ]
        for row in part
    ]
    return _table(["samples of `log_likelihood`", "seconds an image", "MB"], rows)


def _profile(part: dict[str, Any]) -> str:
    rows = [
        [f"`{row['operator']}`", f"{row['calls']:g}", f"{row['ms']:.3f}", f"{row['share']:.1%}"]
        for row in part["operators"]
    ]
    table = _table(["operator", "calls a step", "ms a step", "share"], rows)
    rates, flop = part["rates"], part["flop"]
    gflop, moved = sum(flop.values()) / 1e9, sum(part["bytes"].values()) / 1e6
    largest = sorted(flop.items(), key=lambda item: -item[1])[:3]
    shares = ", ".join(f"{name} {value / 1e9 / gflop:.0%}" for name, value in largest)
    gflops = max(rates["gflops"], rates["gflops_at_projection"])
    gbytes = max(rates["gbytes_per_s"], rates["gbytes_per_s_at_state"])
    return (
        f"{table}\n\n"
        f"The floor of the step: {gflop:.2f} GFLOP ({shares}) at the {gflops:,.0f} GFLOP/s that a "
        f"large product attains here are {_digits(part['arithmetic_ms'])} ms; {moved:.0f} MB at "
        f"{gbytes:,.0f} GB/s are {_digits(part['traffic_ms'])} ms. The floor is the larger, "
        f"{_digits(part['floor_ms'])} ms; the step took {_digits(part['step_ms'])} ms, "
        f"{part['distance']:.2f} times that. In bf16 a large product attains "
        f"{rates['gflops_bf16']:,.0f} GFLOP/s. The matrix products of this implementation are "
        f"{part['counted_flop'] / 1e9:.2f} GFLOP."
    )


_SECTIONS: dict[str, Callable[[Any], str]] = {
    "step": _step,
    "scaling": _scaling,
    "infer": _infer,
    "latency": _latency,
    "bound": _bound,
    "profile": _profile,
}


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _digits(milliseconds: float) -> str:
    """Three digits that count."""
    return f"{milliseconds:.{0 if milliseconds >= 100 else 1 if milliseconds >= 10 else 2}f}"


def _megabytes(number: int) -> str:
    return f"{number / 1e6:,.0f}" if number >= 10e6 else f"{number / 1e6:.1f}"
