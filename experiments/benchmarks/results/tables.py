"""Which runs make which table."""

from dataclasses import dataclass

__all__ = ["ASKED", "ELSEWHERE", "MAX_SHIFT", "PLAIN", "TABLES", "VIEWS", "Row", "Table"]

PLAIN = "evaluation"
"""Where a record keeps what was found on the held-out scenes as they are."""

VIEWS = "evaluation_of_best_views"
"""Where a record keeps what was found with the best of several views of each scene."""

ASKED = "localisation_and_calibration"
"""Where a record keeps what else was asked."""

ELSEWHERE = "evaluation_on_"
"""How the names begin under which a record keeps what was found on other data sets."""

MAX_SHIFT = 6
"""Every run is evaluated as it is, and with the best of 25 views of each scene, moved by up to so
many pixels. Chosen by the ELBO: two of three runs in the manner of the row ``dip`` had it
higher than with 4."""


_PAPER = ("--inference", "paper", "--z-where-sd", "0.2,1,1")
"""The paper's network and prior."""

_RAISED = ("--continue-prob", "exponential:1e-5:0.01:1500")
"""The prior of the count, sparse at first, is the model's after 1500 steps."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A kind of run, made with several seeds."""

    name: str
    """Part of its records' names."""
    title: str
    """What the table calls it, in Markdown."""
    dataset: str
    """As ``--dataset`` takes it."""
    flags: tuple[str, ...] = ()
    """Further flags of ``main.py train``; none are the defaults."""

    samples: int = 20
    """Importance-weighted samples of the bound of log p(x)."""

    elsewhere: tuple[str, ...] = ()
    """Other data sets that its runs are evaluated on too."""

    asked: bool = False
    """Whether its runs are asked where the objects are, and how sure they are, too."""

    @property
    def evaluations(self) -> dict[str, list[str]]:
        """Flags of ``main.py evaluate`` for each evaluation, by its name in a record."""
        found = {
            PLAIN: ["--samples", str(self.samples)],
            VIEWS: ["--max-shift", str(MAX_SHIFT), "--samples", "0"],
        }
        for dataset in self.elsewhere:
            found[f"{ELSEWHERE}{dataset}"] = ["--dataset", dataset, "--samples", "0"]
        if self.asked:
            samples = ["--samples", str(self.samples)]
            found[ASKED] = ["--localisation", "--calibration", *samples]
        return found

    @property
    def settings(self) -> dict[str, str | int | list[str]]:
        """What its results depend on besides the seed, ready for JSON."""
        return {"dataset": self.dataset, "flags": list(self.flags), "samples": self.samples}

    def train_flags(self, seed: int) -> list[str]:
        """Flags of ``main.py train`` for one seed."""
        return ["--dataset", self.dataset, *self.flags, "--seed", str(seed)]


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows that are compared with each other."""

    title: str
    rows: tuple[Row, ...]

    def find(self, name: str) -> Row:
        """The row of this name.

        Raises:
            ValueError: if there is none.
        """
        for row in self.rows:
            if row.name == name:
                return row
        names = ", ".join(row.name for row in self.rows)
        raise ValueError(f"unknown row {name!r}. Expected one of: {names}.")


TABLES: dict[str, Table] = {
    "multi-mnist": Table(
        title="original multi-MNIST",
        rows=(
            Row(
                name="enumerate-long",
                title="`enumerate`, 20 000 steps, constant prior",
                dataset="multi-mnist-pyro",
                flags=(*_PAPER, "--max-steps", "20000", "--continue-prob", "0.01"),
                samples=100,
            ),
            Row(
                name="reinforce-long",
                title="`reinforce`, 20 000 steps, constant prior",
                dataset="multi-mnist-pyro",
                flags=(
                    *_PAPER,
                    *("--estimator", "reinforce"),
                    *("--max-steps", "20000", "--continue-prob", "0.01"),
                ),
                samples=100,
            ),
            Row(
                name="dip",
                title="`enumerate`, the prior lowered twice, sharper, larger",
                dataset="multi-mnist-pyro",
                flags=(
                    *_PAPER,
                    *("--max-steps", "12000", "--translate", "--likelihood-sd", "0.2"),
                    *("--encoder-hidden", "512,512", "--decoder-hidden", "512,512"),
                    "--continue-prob",
                    "exponential:0.01@0,0.01@960,1e-35@1080,1e-35@2640,0.1@5400,"
                    "1e-35@5520,1e-35@7200,1e-3@10800",
                ),
                samples=10,
            ),
            Row(
                name="reinforce",
                title="`reinforce`, the prior lowered once",
                dataset="multi-mnist-pyro",
                flags=(
                    *_PAPER,
                    *("--estimator", "reinforce", "--max-steps", "9000", "--translate"),
                    "--continue-prob",
                    "exponential:1e-5@0,0.01@1500,1e-14@1560,1e-14@2700,0.5@6300",
                ),
                asked=True,
            ),
            Row(
                name="enumerate",
                title="`enumerate`, 6000 steps",
                dataset="multi-mnist-pyro",
                flags=(*_PAPER, *_RAISED, "--max-steps", "6000"),
                asked=True,
            ),
        ),
    ),
    "generalisation": Table(
        title="more or other counts than seen",
        rows=tuple(
            Row(
                name=f"air-{seen}",
                title=f"AIR, trained on {seen_title}",
                dataset=dataset,
                flags=_PAPER + _RAISED,
                samples=10,
                elsewhere=(other,),
            )
            for seen, seen_title, dataset, other in (
                ("0-2", "0 to 2", "multi-mnist", "multi-mnist-3"),
                ("0-1-3", "0, 1, 3", "multi-mnist-0-1-3", "multi-mnist-2"),
            )
        ),
    ),
    "learned-prior": Table(
        title="a learned prior over counts",
        rows=(
            Row(
                name="late",
                title="learned once the model has converged, from step 4000",
                dataset="multi-mnist-pyro",
                flags=(
                    *(*_PAPER, *_RAISED),
                    *("--max-steps", "6000", "--learn-continue-prob-from", "4000"),
                ),
            ),
            Row(
                name="early",
                title="learned from the first step",
                dataset="multi-mnist-pyro",
                flags=(
                    *(*_PAPER, *_RAISED),
                    *("--max-steps", "6000", "--learn-continue-prob-from", "0"),
                ),
            ),
        ),
    ),
    "more": Table(
        title="other objects, and backgrounds",
        rows=tuple(
            Row(
                name=name,
                title=title,
                dataset=f"scenes:{scenes}",
                flags=_PAPER + _RAISED,
                samples=10,
            )
            for name, title, scenes in (
                ("strokes", "made-up characters of pen strokes", "size=20,sprites=strokes"),
                ("noise", "digits, noise of standard deviation 0.1", "size=28,noise=0.1"),
                ("uniform", "digits on uniform grey", "size=28,background=uniform"),
                ("grid", "digits on a grid", "size=28,background=grid"),
            )
        ),
    ),
}
"""By the name that ``--table`` takes."""
