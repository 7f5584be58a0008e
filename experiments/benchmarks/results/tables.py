"""Which runs make which table."""

from dataclasses import dataclass

__all__ = ["TABLES", "Row", "Table"]


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

    @property
    def settings(self) -> dict[str, str | list[str]]:
        """What its results depend on besides the seed, ready for JSON."""
        return {"dataset": self.dataset, "flags": list(self.flags)}

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
                name="enumerate",
                title="`enumerate`, 6000 steps",
                dataset="multi-mnist-pyro",
                flags=("--max-steps", "6000"),
            ),
            Row(
                name="reinforce",
                title="`reinforce`, 6000 steps",
                dataset="multi-mnist-pyro",
                flags=("--estimator", "reinforce", "--max-steps", "6000"),
            ),
        ),
    ),
}
"""By the name that ``--table`` takes."""
