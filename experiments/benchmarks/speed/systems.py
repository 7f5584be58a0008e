"""The systems that are measured: variants of this library, and its peers from their sources."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.benchmarks.speed.processes import HERE, ROOT

DRIVERS = HERE / "drivers"

VARIANTS: dict[str, dict[str, Any]] = {
    "air": {},
    "air-reinforce": {"estimator": "reinforce"},
    "air-bf16": {"precision": "bf16"},
    "air-compile": {"compile": True},
    "air-bf16-compile": {"precision": "bf16", "compile": True},
}
"""Settings of the experiment that a variant of this library changes."""

PEERS = ("addtt", "pyro")


@dataclass(frozen=True, kw_only=True)
class System:
    """What a system's process needs to know."""

    name: str
    driver: Path
    path: tuple[str, ...]
    """Folders to put in front of ``sys.path``."""
    fields: dict[str, Any] = field(default_factory=dict)
    """What its driver reads besides what all are told."""
    is_peer: bool = False

    def spec(self, common: dict[str, Any]) -> dict[str, Any]:
        """The first message to its process."""
        return common | {"driver": str(self.driver), "path": list(self.path)} | self.fields


def own_system(name: str, **fields: Any) -> System:
    """A variant of this library, by its name."""
    fields = {"task": "step", "settings": VARIANTS[name]} | fields
    return System(name=name, driver=DRIVERS / "air.py", path=(str(ROOT),), fields=fields)


def missing_settings(name: str) -> list[str]:
    """Settings of a variant that the experiment does not have."""
    from experiments.experiment import AIRExperiment

    return sorted(set(VARIANTS[name]) - set(vars(AIRExperiment.default_args())))


def find_peer(name: str, folder: Path, dependencies: Path | None = None) -> System:
    """A peer, from the folder of its sources.

    Args:
        name: one of ``PEERS``.
        folder: of its sources.
        dependencies: folder of further packages that it needs.

    Raises:
        ValueError: if a folder does not hold what it should.
    """
    further = []
    if dependencies is not None:
        if not dependencies.is_dir():
            raise ValueError(
                f"--peer-deps: there is no folder {dependencies}. Expected one that holds the "
                "packages that a peer needs, as 'pip install --target DIR' makes it."
            )
        further = [str(dependencies.resolve())]
    folder = folder.resolve()
    if name == "addtt":
        _expect(
            name,
            folder,
            ["models/air.py", "experiments/air_experiment/experiment_manager.py"],
            "a checkout of github.com/addtt/attend-infer-repeat-pytorch",
        )
        path, fields = [str(folder)], {}
    else:
        example = folder / "examples" / "air"
        if not example.is_dir() and (folder / "air.py").is_file():
            example = folder  # the example alone; Pyro itself is installed
        _expect(
            name,
            example,
            ["main.py", "air.py", "modules.py"],
            "a checkout of github.com/pyro-ppl/pyro, or of its folder examples/air with "
            "pyro-ppl installed",
        )
        path, fields = [str(example)], {"folder": str(example)}
        if (folder / "pyro" / "__init__.py").is_file():
            path.append(str(folder))
    return System(
        name=name,
        driver=DRIVERS / f"{name}.py",
        path=(*path, *further),
        fields=fields,
        is_peer=True,
    )


def _expect(name: str, folder: Path, files: list[str], what: str) -> None:
    missing = [file for file in files if not (folder / file).is_file()]
    if missing:
        raise ValueError(
            f"--peer-{name}: {folder} lacks {', '.join(missing)}. Expected the folder of {what}."
        )
