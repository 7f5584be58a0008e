"""What is packed, what is said of it, and what importing it brings in."""

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = SETTINGS["project"]
EXTRAS = PROJECT["optional-dependencies"]


def python(code, *options):
    """What a fresh interpreter prints."""
    result = subprocess.run(
        [sys.executable, *options, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stderr == ""
    return result.stdout


def test_every_file_that_is_no_code_is_packed():
    packed = SETTINGS["tool"]["setuptools"]["package-data"]
    listed = {
        path
        for package, patterns in packed.items()
        for pattern in patterns
        for path in (ROOT / package.replace(".", "/")).glob(pattern)
        if path.is_file()
    }
    found = {
        path
        for package in ("air", "experiments")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    # Records of measurements and the folders' pages belong to the repository alone.
    records = ROOT / "experiments" / "benchmarks" / "records"
    pages = {
        ROOT / folder / "README.md" for folder in ("air", "experiments", "experiments/benchmarks")
    }
    assert {path for path in found - listed - pages if records not in path.parents} == set()
    for part in ("air/py.typed", "air/pretrained/multi-mnist/model.safetensors"):
        assert ROOT / part in listed


def test_every_folder_of_code_is_a_package():
    for folder in ("air", "experiments"):
        for path in (ROOT / folder).rglob("*.py"):
            assert (path.parent / "__init__.py").is_file(), path


def test_supported_versions_are_said_once():
    versions = [
        name.rsplit(" :: ")[-1] for name in PROJECT["classifiers"] if "Python :: 3." in name
    ]
    assert PROJECT["requires-python"] == f">={versions[0]}"
    assert SETTINGS["tool"]["mypy"]["python_version"] == versions[0]
    assert SETTINGS["tool"]["ruff"]["target-version"] == f"py{versions[0].replace('.', '')}"
    assert f"{sys.version_info.major}.{sys.version_info.minor}" in versions


def test_the_extras_that_are_named_exist():
    texts = [
        path.read_text(encoding="utf-8")
        for path in (ROOT / "README.md", *ROOT.glob("air/*.py"), *ROOT.glob("experiments/**/*.py"))
    ]
    named = {name for text in texts for name in re.findall(r"'\.\[(\w+)\]'", text)}
    named |= {name for text in texts for name in re.findall(r"extra (?:'|`{1,2})(\w+)", text)}
    assert {"notebook", "docs", "onnx"} <= named
    assert named <= set(EXTRAS)


def test_the_test_extra_holds_what_tests_would_leave_out():
    (own,) = (
        re.fullmatch(r"attend-infer-repeat\[(.+)\]", text)
        for text in EXTRAS["test"]
        if text.startswith("attend-infer-repeat")
    )
    assert {"benchmarks", "docs", "notebook"} <= set(own[1].split(","))


def test_the_console_script_is_the_command_line():
    module, function = PROJECT["scripts"]["air"].split(":")
    assert python(f"from {module} import {function}; print({function}.__name__)") == "main\n"


def test_importing_air_warns_of_nothing_and_brings_in_nothing():
    code = (
        "import sys, torch, torch.distributed, numpy, safetensors.torch\n"
        "before = {name.split('.')[0] for name in sys.modules}\n"
        "import air\n"
        "after = {name.split('.')[0] for name in sys.modules} - before\n"
        "print(sorted(after - set(sys.stdlib_module_names)))"
    )
    assert python(code, "-W", "error::Warning:air") == "['air']\n"


def test_the_metadata_is_read_from_here():
    try:
        found = importlib.metadata.version("attend-infer-repeat")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("not installed")
    assert f'"{found}"' in (ROOT / "air" / "__init__.py").read_text(encoding="utf-8")
