"""Tables in Markdown, and the markers between which a page holds them."""

import statistics
from collections.abc import Iterable, Sequence

SUCCESS = 0.98
"""Held-out count accuracy from which on a run counts as a success."""


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table.

    >>> print(table(["a", "b"], [["1", "2"]]))
    | a | b |
    |---|---|
    | 1 | 2 |
    """
    lines = [header, None, *rows]
    return "\n".join(
        f"|{'---|' * len(header)}" if line is None else f"| {' | '.join(line)} |" for line in lines
    )


def spread(values: Sequence[float], factor: float, digits: int, unit: str) -> str:
    """Mean and, of several values, the standard deviation.

    >>> spread([0.5, 0.7], 100, 1, " %")
    '60.0 ± 14.1 %'
    """
    values = [value * factor for value in values]
    text = f"{statistics.fmean(values):.{digits}f}"
    if len(values) > 1:
        text += f" ± {statistics.stdev(values):.{digits}f}"
    return text + unit


def insert(text: str, table: str, name: str) -> str:
    """``text`` with the table between its markers, ``<!-- NAME -->`` and ``<!-- end of NAME -->``.

    Raises:
        ValueError: if a marker is missing.
    """
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    if begin not in text or end not in text:
        raise ValueError(f"the file lacks the markers {begin} and {end}.")
    before, rest = text.split(begin, 1)
    return f"{before}{begin}\n{table}\n{end}{rest.split(end, 1)[1]}"
