"""The commands of the README and of the folders' pages are those that are run; their code runs."""

import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import air
from air import AIR

ROOT = Path(__file__).parent.parent
PAGES = {
    path: path.read_text(encoding="utf-8")
    for path in (
        ROOT / "README.md",
        ROOT / "air" / "README.md",
        ROOT / "experiments" / "README.md",
        ROOT / "experiments" / "benchmarks" / "README.md",
    )
}
README = "\n".join(PAGES.values())
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.DOTALL)


def test_the_first_page_is_short():
    assert len(PAGES[ROOT / "README.md"].splitlines()) <= 200


def test_ci_runs_the_readme_command():
    commands = [text.strip() for kind, text in BLOCKS if kind == "bash"]
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert ci[-1] in commands
    assert "pytest" in ci[-1]


@pytest.mark.filterwarnings("ignore:.*background is not black")  # it is not
@pytest.mark.parametrize("text", [text for kind, text in BLOCKS if kind == "python"])
def test_python_blocks_run(text, tmp_path, monkeypatch):
    AIR().save_pretrained(tmp_path / "output" / "first" / "model")
    (tmp_path / "my" / "images").mkdir(parents=True)
    for number in range(4):
        page = np.full((40, 50), 255, np.uint8)
        page[5 : 15 + number, 8:18] = 0
        Image.fromarray(page).save(tmp_path / "my" / "images" / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(air, "fit", partial(air.fit, num_steps=2))  # as it is, but for the time
    exec(compile(text, "README.md", "exec"), {})


@pytest.mark.parametrize(
    "line",
    [
        line.split("#")[0].strip()
        for kind, text in BLOCKS
        if kind == "bash"
        for line in text.splitlines()
        if line.startswith(("python main.py", "air "))
    ],
)
def test_command_lines_parse(line):
    from experiments.cli import make_parser

    arguments = line.removeprefix("python main.py").removeprefix("air").split() or ["train"]
    if "--help" not in arguments:
        make_parser().parse_args(arguments)


@pytest.mark.parametrize(
    "module", sorted(set(re.findall(r"python -m (experiments[\w.]*)", README)))
)
def test_modules_that_are_run_exist(module):
    path = ROOT / module.replace(".", "/")
    path = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
    assert '__name__ == "__main__"' in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.parent.name)
def test_linked_files_and_headings_exist(page):
    targets = re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", PAGES[page])
    assert len(targets) > 0 or page.parent.name == "air"
    for target in targets:
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), target
        if anchor:
            headings = re.findall(r"(?m)^#+ (.*)$", path.read_text(encoding="utf-8"))
            slugs = {re.sub(r"[^a-z0-9 -]", "", h.lower()).replace(" ", "-") for h in headings}
            assert anchor in slugs, target
