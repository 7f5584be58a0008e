"""The API pages are made without a warning, and show formulas, examples and every public name."""

import re
import warnings
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

import air

pytest.importorskip("pdoc")
pytest.importorskip("latex2mathml")

from experiments.api_pages import Formulas, main, to_mathml, write_pages

ROOT = Path(__file__).parent.parent
SOURCE = re.compile(r"<pre><span></span><span id=.*?</pre>", re.DOTALL)
MATH = re.compile(r"<math.*?</math>", re.DOTALL)


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The pages by their path, without the sources that they also show."""
    folder = tmp_path_factory.mktemp("api")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        written = write_pages(folder)
    assert all(path.is_file() for path in written)
    return {
        path.relative_to(folder).as_posix(): SOURCE.sub("", path.read_text("utf-8"))
        for path in folder.rglob("*.*")
    }


def test_every_module_has_a_page_and_every_public_name_its_place(pages):
    expected = {path.relative_to(ROOT).with_suffix(".html") for path in ROOT.glob("air/*.py")}
    expected.remove(Path("air/__init__.html"))
    assert {path.as_posix() for path in expected} < set(pages)
    for name in air.__all__:
        assert f'<section id="{name}">' in pages["air.html"]


def test_formulas_are_mathml(pages):
    assert len(MATH.findall(pages["air/elbo.html"])) == 2
    assert len(MATH.findall(pages["air/distributions.html"])) == 3
    for page in pages.values():
        for formula in MATH.findall(page):
            ElementTree.fromstring(formula)
            assert "\\" not in "".join(ElementTree.fromstring(formula).itertext())


def test_nothing_of_restructured_text_is_left(pages):
    for name, page in pages.items():
        left = re.findall(r":(?:math|func|meth|class|mod|attr|data):`|\.\. math|airformula", page)
        assert left == [], name


def test_examples_are_code(pages):
    page = pages["air/distributions.html"]
    assert '<span class="gp">' in page
    assert "&gt;&gt;&gt;" not in re.sub(r"<pre>.*?</pre>", "", page, flags=re.DOTALL)


def test_pages_need_no_network(pages):
    for name, page in pages.items():
        assert not re.search(r'(?:src|href)="https?://(?!pdoc\.dev)', page), name


def test_a_formula_keeps_its_lines():
    # Two rows of two cells, not one row with ampersands in it.
    tree = ElementTree.fromstring(to_mathml(r"a &= b \\ cc &= d", True))
    assert [tag.tag.split("}")[-1] for tag in tree.iter()].count("mtr") == 2
    assert "&" not in "".join(tree.itertext())


def test_a_formula_is_hidden_from_markdown_and_comes_back():
    formulas = Formulas()
    hidden = formulas.hide("So :math:`a_1 * a_2` is.\n\n    .. math:: x^2 \\\\\n        + 1\n\nEnd")
    assert not set(hidden) & set("*_^$\\")
    assert hidden.count("airformula") == 2
    assert formulas.show(hidden).count("<math") == 2
    assert "a_1 * a_2" in formulas.name(hidden)


def test_a_folder_of_somebody_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match="something else than API pages"):
        write_pages(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_the_command_writes_into_an_ignored_folder(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "build/api" in capsys.readouterr().out
    assert "/build/" in (ROOT / ".gitignore").read_text("utf-8").splitlines()
