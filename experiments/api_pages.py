r"""The API pages: HTML of every public docstring of ``air``, formulas included.

``python -m experiments.api_pages`` writes them (extra ``docs``: pdoc and latex2mathml). pdoc reads
the docstrings; what it does not know of reStructuredText is done here, before it looks at them:

- ``:math:`` and ``.. math::`` become MathML, which browsers draw without scripts and offline.
  Each formula is first a word that Markdown leaves alone, and MathML once the page is written.
- Examples and blocks after ``::`` become fenced code, which Markdown takes for nested quotes.
"""

import argparse
import html
import importlib
import itertools
import pkgutil
import re
import tempfile
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import air

__all__ = ["Formulas", "write_pages"]

DEFAULT_OUTPUT = Path("build") / "api"

_DISPLAY = re.compile(
    r"^(?P<indent> *)\.\. math::(?P<first>[^\n]*)\n(?P<rest>(?:(?P=indent) +\S[^\n]*(?:\n|$))*)",
    re.MULTILINE,
)
_INLINE = re.compile(r":math:`(?P<tex>[^`]+)`")
_EXAMPLE = re.compile(r"^Example:\n(?P<code>(?:(?: +[^\n]*)?(?:\n|$))+)", re.MULTILINE)
_LITERAL = re.compile(r"::\n\n(?P<code>(?:(?: +[^\n]*)?(?:\n|$))+)")

_STYLE = """\
math[display="block"] { margin: 0.8em 0; font-size: 1.1em; }
mtd[columnalign="left"] { text-align: left; }
mtd[columnalign="right"] { text-align: right; }
.inherited { display: none; }
"""
"""Chromium knows no ``columnalign``. Without what every torch module inherits: a page of it for
each class."""


class Formulas:
    """Formulas, each with the word that stands for it in the meantime."""

    def __init__(self) -> None:
        self._of_word: dict[str, tuple[str, bool]] = {}

    def hide(self, docstring: str) -> str:
        """The docstring with a word in the place of each formula, and its code fenced."""
        docstring = _EXAMPLE.sub(lambda m: "###### Example:\n" + _fence(m["code"]), docstring)
        docstring = _LITERAL.sub(lambda m: ":\n\n" + _fence(m["code"]), docstring)
        docstring = _DISPLAY.sub(
            lambda m: f"{m['indent']}{self._word(m['first'] + ' ' + m['rest'], True)}\n", docstring
        )
        return _INLINE.sub(lambda m: self._word(m["tex"], False), docstring)

    def _word(self, tex: str, display: bool) -> str:
        word = f"airformula{len(self._of_word)}x"
        self._of_word[word] = (" ".join(tex.split()), display)
        return word

    def show(self, page: str) -> str:
        """The page with its formulas as MathML."""
        return self._replace(page, to_mathml)

    def name(self, index: str) -> str:
        """The search index with its formulas as TeX, inside JSON strings."""
        return self._replace(index, lambda tex, _: html.escape(tex).replace("\\", "\\\\"))

    def _replace(self, text: str, render: Callable[[str, bool], str]) -> str:
        return re.sub(r"airformula\d+x", lambda m: render(*self._of_word[m[0]]), text)


def to_mathml(tex: str, display: bool) -> str:
    """A formula as MathML.

    Args:
        tex: LaTeX; several lines, aligned at ``&``, are parted by two backslashes.
        display: whether it stands on lines of its own.
    """
    from latex2mathml.converter import convert

    if "&" in tex:
        tex = rf"\begin{{align*}}{tex}\end{{align*}}"
    return str(convert(tex, display="block" if display else "inline"))


def write_pages(output: Path) -> list[Path]:
    """Write one page a module, an index and what the search looks in; hands back the pages.

    Args:
        output: folder; made if it does not exist, and pages in it written anew.

    Raises:
        ImportError: if the extra ``docs`` is not installed.
        ValueError: if the folder holds something else than such pages.
    """
    try:
        import latex2mathml.converter  # noqa: F401
        import pdoc
        import pdoc.doc
    except ImportError as error:
        raise ImportError(
            "the API pages need pdoc and latex2mathml: pip install '.[docs]'"
        ) from error

    _check_folder(output)
    formulas = Formulas()
    modules = [pdoc.doc.Module(module) for module in _modules()]
    for doc in itertools.chain.from_iterable(map(_members, modules)):
        doc.docstring = formulas.hide(doc.docstring)
    pages = {module.fullname: module for module in modules}
    with tempfile.TemporaryDirectory() as templates:
        (Path(templates) / "custom.css").write_text(_STYLE, encoding="utf-8")
        pdoc.render.configure(
            docformat="google",
            template_directory=Path(templates),
            footer_text=f"air {air.__version__}",
        )
        written = {}
        for name, module in pages.items():
            path = output / f"{name.replace('.', '/')}.html"
            written[path] = formulas.show(pdoc.render.html_module(module, pages))
        written[output / "index.html"] = pdoc.render.html_index(pages)
        index = formulas.name(pdoc.render.search_index(pages))
    for path, text in written.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (output / "search.js").write_text(index, encoding="utf-8")
    return list(written)


def _fence(code: str) -> str:
    language = "pycon" if ">>>" in code else "python"
    return f"\n```{language}\n{textwrap.dedent(code).strip()}\n```\n\n"


def _modules() -> Iterator[ModuleType]:
    """``air`` and all that is in it."""
    yield air
    for info in pkgutil.walk_packages(air.__path__, "air."):
        yield importlib.import_module(info.name)


def _members(doc: Any) -> Iterator[Any]:
    """A module, class or other thing that pdoc knows, and all that is in it."""
    yield doc
    for member in getattr(doc, "own_members", ()):
        yield from _members(member)


def _check_folder(output: Path) -> None:
    """Refuse a folder of somebody's own."""
    if output.exists() and any(output.iterdir()) and not (output / "search.js").is_file():
        raise ValueError(f"{output} holds something else than API pages. Name another folder.")


def main(argv: Sequence[str] | None = None) -> None:
    """Write the pages and say where they are."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.api_pages", description="Write the API pages of air as HTML."
    )
    parser.add_argument(
        "--output",
        metavar="DIR",
        type=Path,
        default=DEFAULT_OUTPUT,
        help="folder to write to (default: %(default)s)",
    )
    args = parser.parse_args(argv)
    pages = write_pages(args.output)
    print(f"{len(pages)} pages: {args.output / 'index.html'}")


if __name__ == "__main__":
    main()
