"""One reader and one writer for all files: nobody opens one by himself."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OPENERS = {"open", "fdopen", "read_bytes", "read_text", "write_text", "write_bytes", "savefig"}
OWN_PAGES = ("experiments/benchmarks/", "experiments/figures/", "experiments/api_pages.py")
"""They work on this repository's own pages and records."""
ALLOWED = {
    "air/files.py": {"fdopen", "open"},  # the one reader and the one writer
    "air/export.py": {"file.read_bytes"},  # made a moment ago, in a temporary folder
    "air/memory.py": {"_SYSTEM.read_text", "_GROUP.read_text"},  # the kernel's own
    "air/images/files.py": {"pillow.open(file", "archive.open"},  # what open_file opened
    "experiments/calibration.py": {"figure.savefig"},  # into memory
    "experiments/commands/demo.py": {"webbrowser.open"},
    "experiments/datasets/image_files.py": {"Image.open"},  # what open_file opened
    "experiments/demo/images.py": {"path.write_bytes", "Image.open(io.BytesIO"},  # in memory
    "experiments/demo/screenshot.py": {"args.output.write_bytes", "browser.open"},
    "experiments/demo/server.py": {"folder.joinpath(file).read_bytes"},  # the package's own page
    "experiments/distributed.py": {"open(os.devnull"},
    "experiments/locks.py": {"Path('/proc/sys/", "Path(f'/proc/{pid}/stat').", "os.open(folder"},
    "experiments/npz.py": {"archive.open"},  # a member of what open_file opened
    "experiments/report/page.py": {"files('experiments.report').joinpath('page.html').read_text"},
    "experiments/shard_loader.py": {"scenes.open"},  # a method of ours
}
"""Who may, and how the calls begin."""

FILES = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ("air", "experiments")
    for path in (ROOT / folder).rglob("*.py")
)


@pytest.mark.parametrize("name", [name for name in FILES if not name.startswith(OWN_PAGES)])
def test_files_are_opened_in_one_place(name):
    allowed = tuple(ALLOWED.get(name, ()))
    if name != "air/files.py":
        calls = list(opening_calls((ROOT / name).read_text(encoding="utf-8")))
        assert [call for call in calls if not (allowed and call.startswith(allowed))] == []


def opening_calls(text):
    """Calls that open a file by its path, or look like it."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call):
            called = getattr(node.func, "attr", getattr(node.func, "id", None))
            # read_bytes(content), of the demo, reads bytes.
            if called in OPENERS and not (called == "read_bytes" and node.args):
                yield ast.unparse(node)


def test_each_way_to_open_a_file_is_found():
    for call in ("open(p)", "p.open()", "os.open(p, 0)", "p.read_text()", "p.read_bytes()"):
        assert list(opening_calls(f"x = {call}")) == [call]
