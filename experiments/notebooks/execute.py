"""Run a notebook from a fresh kernel, and keep its outputs.

``python -m experiments.notebooks.execute`` does it to the one of this folder, in place (extra
``notebook``). ``--quick`` takes a few steps of everything and keeps nothing, as the tests do.
"""

import argparse
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.files import write_file

if TYPE_CHECKING:
    from nbformat import NotebookNode

__all__ = ["NOTEBOOK", "execute"]

NOTEBOOK = Path(__file__).parent / "attend_infer_repeat.ipynb"

QUICK_VARIABLE = "AIR_NOTEBOOK_QUICK"
"""What the notebook looks at: set, it takes a few steps only."""


def execute(path: Path = NOTEBOOK, *, quick: bool = False, timeout: int = 1200) -> "NotebookNode":
    """Run all cells in order; hands back the notebook with its outputs, which is not saved.

    What differs from run to run though nothing has changed (times, the machine's Python) is left
    out.

    Args:
        path: of the notebook.
        quick: take a few steps only.
        timeout: of one cell, in seconds.

    Raises:
        ImportError: if the extra ``notebook`` is not installed.
        nbclient.exceptions.CellExecutionError: if a cell fails.
    """
    try:
        import nbformat
        from nbclient import NotebookClient
    except ImportError as error:
        raise ImportError("notebooks need nbclient: pip install '.[notebook]'") from error
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    with _environment(QUICK_VARIABLE, "1" if quick else ""):
        # From the repository's root, so that what is not installed is found as well.
        place = {"metadata": {"path": str(Path(__file__).parents[2])}}
        client = NotebookClient(notebook, timeout=timeout, kernel_name="python3", resources=place)
        client.execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    notebook.metadata["language_info"] = {"name": "python"}
    return notebook


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """An environment variable, for the processes that are started meanwhile."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def main(argv: Sequence[str] | None = None) -> None:
    """Run the notebook, and save it with its outputs."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.notebooks.execute",
        description="Run the notebook and keep its outputs (some minutes).",
    )
    parser.add_argument("--quick", action="store_true", help="a few steps only; save nothing")
    args = parser.parse_args(argv)
    notebook = execute(quick=args.quick)
    if not args.quick:
        import nbformat

        text = nbformat.writes(notebook) + "\n"
        write_file(NOTEBOOK, text.encode())
    print(f"{NOTEBOOK}: {'runs' if args.quick else 'written'}")


if __name__ == "__main__":
    main()
