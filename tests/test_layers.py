"""The library's layers, public names and what importing it brings in."""

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

LAYERS = [
    {"files"},
    {"types", "config", "functional", "distributions", "schedules", "visualization"},
    {"memory", "object_size", "shifts", "spatial_transformer"},
    {"images"},
    {"networks", "priors", "recipe"},
    {"detections", "generative", "inference", "elbo", "score_function", "weights"},
    {"prediction", "residual_inference"},
    {"model"},
    {"estimators", "evaluation", "checkpoint", "export", "traces", "walks"},
    {"training"},
    {"fitting"},
]
"""From the top: a module may import from layers above its own, never sideways or down."""

LEVELS = {name: level for level, names in enumerate(LAYERS) for name in names}
THIRD_PARTY = {"torch", "numpy", "safetensors"}
OPTIONAL = {
    "detections": {"pandas"},
    "export": {"onnxscript"},
    "images": {"PIL"},
    "weights": {"huggingface_hub"},
}
"""What a module may import inside a function, for those who have it; never when it is imported
itself. Pillow comes with the requirements, the others with extras."""

AIR_FILES = sorted((ROOT / "air").rglob("*.py"))
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted([*AIR_FILES, *(ROOT / "experiments").rglob("*.py")])
]


def imported(source, *, inside_functions=True):
    """Dotted names of all modules that a file imports, wherever in it; relative ones as '.'."""
    tree = ast.parse(source)
    if not inside_functions:
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
        for node in [node for node in ast.walk(tree) if isinstance(node, kinds)]:
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                yield "."
            elif node.module == "air":  # "from air import model" names a module, or a class
                yield from (f"air.{alias.name}" for alias in node.names)
            else:
                yield node.module


def violations(name, source):
    """Imports that module ``name`` of ``air`` may not have."""
    bad = []
    at_once = set(imported(source, inside_functions=False))
    for target in imported(source):
        package, *rest = target.split(".")
        if package == "air" and rest:
            # A module that grew into a package may import its own parts.
            fine = rest[0] == name or LEVELS.get(rest[0], 99) < LEVELS[name]
        else:
            fine = package in THIRD_PARTY or package in sys.stdlib_module_names
            fine |= package in OPTIONAL.get(name, ()) and target not in at_once
        if not fine:
            bad.append(target)
    return bad


def own_name(path):
    """The part of ``air`` that a file belongs to: its own name, or its package's."""
    return path.relative_to(ROOT / "air").parts[0].removesuffix(".py")


def test_every_module_has_its_layer():
    assert {own_name(path) for path in AIR_FILES} - {"__init__"} - set(LEVELS) == set()


@pytest.mark.parametrize("path", AIR_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_import_only_from_layers_above(path):
    name = own_name(path)
    source = path.read_text(encoding="utf-8")
    if name == "__init__":  # it gathers the public names
        packages = {target.split(".")[0] for target in imported(source)}
        assert packages <= {"air", *THIRD_PARTY, *sys.stdlib_module_names}
    else:
        assert violations(name, source) == []


@pytest.mark.parametrize(
    ("name", "source", "bad"),
    [
        ("types", "from air.schedules import Linear", ["air.schedules"]),  # sideways
        ("elbo", "from air.model import AIR", ["air.model"]),  # down
        ("elbo", "import air.model", ["air.model"]),
        ("elbo", "from air import model", ["air.model"]),
        ("elbo", "from air import AIR", ["air.AIR"]),
        ("elbo", "import air", ["air"]),
        ("elbo", "def f():\n    import air.generative", ["air.generative"]),
        ("elbo", "from . import types", ["."]),
        ("elbo", "from .types import Rollout", ["."]),
        ("model", "from experiments.runs import Run", ["experiments.runs"]),
        ("model", "import matplotlib.pyplot as plt", ["matplotlib.pyplot"]),
        ("images", "def f():\n    from PIL import Image", []),
        ("images", "from PIL import Image", ["PIL"]),
        ("images", "try:\n    from PIL import Image\nexcept ImportError: pass", ["PIL"]),
        ("model", "def f():\n    from PIL import Image", ["PIL"]),
        ("model", "import json, torch\nfrom air.types import Sample\nimport numpy.linalg", []),
    ],
)
def test_violations_are_seen(name, source, bad):
    assert violations(name, source) == bad


@pytest.mark.parametrize("module", MODULES)
def test_public_names_exist(module):
    module = importlib.import_module(module)
    names = getattr(module, "__all__", [])
    assert [name for name in names if not hasattr(module, name)] == []
    assert len(names) == len(set(names))


@pytest.mark.parametrize("module", [name for name in MODULES if name.split(".")[0] == "air"])
def test_public_names_of_the_library_are_listed_and_explained(module):
    module = importlib.import_module(module)
    assert module.__doc__
    assert module.__all__
    for name in module.__all__:
        thing = getattr(module, name)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            # Not inherited, and not the signature that dataclasses make one of.
            doc = thing.__dict__.get("__doc__") if inspect.isclass(thing) else thing.__doc__
            assert doc, name
            assert not doc.startswith(f"{name}("), name


def test_importing_the_library_brings_in_no_plotting_and_no_boilr():
    modules = ", ".join(name for name in MODULES if name.split(".")[0] == "air")
    code = (
        f"import sys, {modules}\n"
        "heavy = {'matplotlib', 'torchvision', 'boilr', 'PIL', 'tensorboard', 'experiments',\n"
        "         'pandas', 'onnx', 'onnxscript', 'huggingface_hub'}\n"
        "print(sorted(heavy & {name.split('.')[0] for name in sys.modules}))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
