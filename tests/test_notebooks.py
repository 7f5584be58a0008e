"""The notebook runs from a fresh kernel, teaches what it says, and is kept with its outputs."""

import json
import re

import pytest

pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

import nbformat

from experiments.notebooks.execute import NOTEBOOK, execute, main

MOST_BYTES = 1_500_000
MOST_LINES = 50


@pytest.fixture(scope="module")
def kept():
    """The notebook as it is in the repository."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    return notebook


def printed(notebook, tag):
    """What the cell with a tag printed."""
    (cell,) = [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def results(notebook):
    """The numbers of the summary by their name."""
    return {
        name: float(value)
        for name, value in re.findall(r"^(.+): ([\d.]+)$", printed(notebook, "summary"), re.M)
    }


def check_lesson(found):
    """What the text says of the numbers."""
    assert found["own model, counts right"] > 0.93
    assert found["prior never raised, counts right"] < 0.6
    assert found["shipped model, one view"] > 0.975
    assert found["shipped model, 25 views"] > found["shipped model, one view"]


def test_a_few_steps_of_everything_run():
    notebook = execute(quick=True)
    assert len(results(notebook)) == 5
    pictures = sum(
        "image/png" in output.get("data", {})
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    )
    assert pictures >= 12


def test_the_kept_outputs_are_those_of_a_whole_run(kept):
    cells = [cell for cell in kept.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    check_lesson(results(kept))
    kinds = {output.output_type for cell in cells for output in cell.outputs}
    assert "error" not in kinds
    names = {output.get("name") for cell in cells for output in cell.outputs}
    assert "stderr" not in names  # no warning either


def test_it_is_small_and_names_no_machine(kept):
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert len(text) < MOST_BYTES
    outputs = json.dumps([cell.get("outputs", []) for cell in kept.cells])
    assert not re.search(r"(?:/home/|/tmp/|/root/|/work/|site-packages)", outputs)
    assert set(kept.metadata) == {"kernelspec", "language_info"}


def test_cells_are_short(kept):
    for cell in kept.cells:
        assert len(cell.source.splitlines()) <= MOST_LINES, cell.source


def test_a_quick_run_keeps_nothing(monkeypatch, capsys):
    before = NOTEBOOK.read_bytes()
    monkeypatch.setattr("experiments.notebooks.execute.execute", lambda **_: None)
    main(["--quick"])
    assert NOTEBOOK.read_bytes() == before
    assert "runs" in capsys.readouterr().out


@pytest.mark.slow
def test_the_whole_notebook_runs():
    check_lesson(results(execute()))
