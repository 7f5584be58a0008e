"""Which runs make which table."""

from dataclasses import dataclass

__all__ = ["ASKED", "ELSEWHERE", "PLAIN", "TABLES", "VIEWS", "Row", "Table"]

PLAIN = "evaluation"
"""Where a record keeps what was found on the held-out scenes as they are."""

VIEWS = "evaluation_of_best_views"
"""Where records of the paper's network keep what was found with the best of 25 views of each scene,
moved by up to six pixels, chosen by the ELBO. Other runs are read from one view."""

ASKED = "localisation_and_calibration"
"""Where a record keeps what else was asked."""

ELSEWHERE = "evaluation_on_"
"""How the names begin under which a record keeps what was found on other data sets."""

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
        found = {PLAIN: ["--samples", str(self.samples)]}
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


_ONE_RECIPE = (
    ("pyro", "`multi-mnist-pyro`", "multi-mnist-pyro", ("--max-steps", "4000"), ()),
    ("digits", "`multi-mnist`", "multi-mnist", (), ("multi-mnist-3",)),
    ("small-9-18", "`multi-mnist-small-9-18`", "multi-mnist-small-9-18", (), ()),
    (
        *("six", "0 to 6 digits on 100x100, T = 8"),
        "scenes:canvas=100,max_objects=6",
        ("--max-objects", "8", "--max-steps", "1500"),
        (),
    ),
    ("shapes-9-18", "`multi-dsprites-9-18`", "multi-dsprites-9-18", (), ()),
    ("small", "`multi-mnist-small`", "multi-mnist-small", (), ()),
    ("shapes", "`multi-dsprites`", "multi-dsprites", (), ()),
    ("0-1-3", "`multi-mnist-0-1-3`", "multi-mnist-0-1-3", (), ("multi-mnist-2",)),
    ("strokes", "characters of pen strokes", "scenes:size=20,sprites=strokes", (), ()),
    (
        *("reinforce", "`multi-mnist-pyro`, REINFORCE", "multi-mnist-pyro"),
        ("--estimator", "reinforce", "--max-steps", "4000"),
        (),
    ),
)
"""Of each row: name, title, data set, flags, and other data sets that it is evaluated on."""


TABLES: dict[str, Table] = {
    "one-recipe": Table(
        title="the residual network, one recipe for all data sets",
        rows=tuple(
            Row(
                name=name,
                title=title,
                dataset=dataset,
                flags=flags,
                samples=0,
                elsewhere=elsewhere,
            )
            for name, title, dataset, flags, elsewhere in _ONE_RECIPE
        ),
    ),
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
