"""The table of what was tried and what came of it, for the terminal and for docs/reliability.md."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from rich import box
from rich.console import Console
from rich.table import Table

_HEADERS = ("Fault", "Tried", "Copies", "Lost", "Doubled", "Orphaned", "Immich statements", "Failed")


@dataclass
class Line:
    """One kind of fault. ``left_out``: why it could not be tried here."""

    name: str
    what: str
    tried: int = 0
    copies: int = 0
    statements: int = 0
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    orphaned: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    left_out: str = ""

    @property
    def findings(self) -> list[str]:
        """Everything that should not be."""
        return [*self.lost, *self.doubled, *self.orphaned, *self.failed]

    @property
    def cells(self) -> tuple[str, ...]:
        if self.left_out:
            return (self.name, f"left out: {self.left_out}", *[""] * (len(_HEADERS) - 2))
        counts = (self.tried, self.copies, len(self.lost), len(self.doubled), len(self.orphaned))
        return (self.name, *(f"{number:,}" for number in (*counts, self.statements, len(self.failed))))


@dataclass(frozen=True)
class Report:
    """All lines, and under what they were made. ``seconds``: how long it took."""

    lines: Sequence[Line]
    seed: int
    release: str
    postgres: str
    seconds: float

    @property
    def total(self) -> Line:
        """The sum of all lines; the copies are those of the different databases."""
        total = Line("All", "")
        for line in self.lines:
            for name in ("tried", "copies", "statements", "lost", "doubled", "orphaned", "failed"):
                setattr(total, name, getattr(total, name) + getattr(line, name))
        return total

    def show(self, console: Console) -> None:
        """Print the table, and then what should not be."""
        table = Table(*_HEADERS, box=box.SIMPLE, show_footer=False)
        for line in (*self.lines, self.total):
            table.add_row(*line.cells)
        console.print(table)
        total = self.total
        console.print(
            f"faults tried {total.tried:,}: lost {len(total.lost)}, doubled {len(total.doubled)}, "
            f"orphaned {len(total.orphaned)}, Immich statements failed {len(total.failed)}"
        )
        console.print(
            f"Immich {self.release}, PostgreSQL {self.postgres}, {self.seconds:.0f} s. "
            f"Again: python -m tests.chaos --seed {self.seed}"
        )
        for line in self.lines:
            for text in line.findings:
                console.print(f"{line.name}: {text}", markup=False)

    def page(self, before: str) -> str:
        """Return docs/reliability.md: this, and what it had of others."""
        others = before.find("\n# ", 1)
        return self.markdown() + (before[others:] if others > 0 else "")

    def markdown(self) -> str:
        """Return the part of docs/reliability.md that is about faults."""
        rows = [line.cells for line in (*self.lines, self.total)]
        table = [_HEADERS, ("---", *["---:"] * (len(_HEADERS) - 1)), *rows]
        tried = "\n".join(f"- **{line.name}**: {line.what}." for line in self.lines)
        return _PAGE.format(
            table="\n".join(f"| {' | '.join(cells)} |" for cells in table),
            tried=tried,
            seed=self.seed,
            release=self.release,
            postgres=self.postgres,
            minutes=f"{self.seconds / 60:.0f}",
        )


_PAGE = """\
# What faults do

Made by `make chaos`, in {minutes} minutes: Immich {release}, PostgreSQL {postgres}, seed {seed}
(`make chaos SEED={seed}` draws the same faults again; the moments at which they strike are never quite the same).

{table}

While the faults happen, two users who share both ways go on clicking: uploads, edits, people, faces, albums, tags,
stacks, the trash, the locked folder, and what one may do with copies of the other's photos. Their statements are
those of Immich's server.

- **Copies**: how many there were in the end, each compared with its source, rule by rule.
- **Lost**: a copy that is missing or differs from its source, a failure that stays, or something of a user's own that
  is not as they left it.
- **Doubled**: two copies of one photo, or two links to one original.
- **Orphaned**: a file, a link or a row of ours that belongs to no copy, a mark of a copy that was begun, half a file.
- **Failed**: a statement of Immich's that PostgreSQL refused.

What is tried:

{tried}
"""
