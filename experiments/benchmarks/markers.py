"""Text that a command keeps up to date between two markers of a file, such as the README."""

from pathlib import Path


def insert_between(text: str, marker: str, content: str) -> str:
    """``text`` with ``content`` between ``<!-- marker -->`` and ``<!-- end of marker -->``.

    Raises:
        ValueError: if a marker is missing.
    """
    begin, end = f"<!-- {marker} -->", f"<!-- end of {marker} -->"
    before, found_begin, rest = text.partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found_begin and found_end):
        raise ValueError(
            f"the file lacks the markers {begin} and {end}. Put them where the text shall be."
        )
    return f"{before}{begin}\n{content}\n{end}{after}"


def write_between(path: Path, marker: str, text: str) -> None:
    """Put ``text`` between the two markers of a file.

    Raises:
        ValueError: if a marker is missing.
    """
    old = path.read_text(encoding="utf-8")
    path.write_text(insert_between(old, marker, text), encoding="utf-8")
