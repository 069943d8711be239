"""What became of mutants, kept beside the checkout so that a run that was cut goes on; and which are known to live."""

import re
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.mutants.catalogue import Mutant

KILLED, SURVIVED, TIMED_OUT, UNREACHED = "killed", "survived", "timed out", "unreached"
HEADING = "# What mutants survive"
_ROW = re.compile(r"^\| `(.+?)` \| (.+?) \|$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Verdict:
    """How one mutant ended. ``test``: what killed it. ``tests``: how many were to be run, at most."""

    outcome: str
    test: str
    tests: int
    seconds: float

    @property
    def lives(self) -> bool:
        """Tell whether no test has seen it."""
        return self.outcome in {SURVIVED, UNREACHED}


class Ledger:
    """The verdicts of former runs, each of a query or function as it was then."""

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(exist_ok=True)
        self._database = sqlite3.connect(file, check_same_thread=False, isolation_level=None)
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS verdict (digest TEXT PRIMARY KEY, name TEXT NOT NULL, outcome TEXT NOT NULL,"
            " test TEXT NOT NULL, tests INTEGER NOT NULL, seconds REAL NOT NULL)"
        )
        self._database.execute("CREATE TABLE IF NOT EXISTS passed (test TEXT, code TEXT, PRIMARY KEY (test, code))")

    def close(self) -> None:
        self._database.close()

    def known(self, mutant: Mutant) -> Verdict | None:
        """Return what became of a mutant of this very text."""
        row = self._database.execute(
            "SELECT outcome, test, tests, seconds FROM verdict WHERE digest = ?", [mutant.digest]
        ).fetchone()
        return Verdict(*row) if row else None

    def note(self, mutant: Mutant, verdict: Verdict) -> None:
        """Keep what became of a mutant."""
        self._database.execute(
            "INSERT OR REPLACE INTO verdict VALUES (?, ?, ?, ?, ?, ?)",
            [mutant.digest, mutant.name, verdict.outcome, verdict.test, verdict.tests, verdict.seconds],
        )

    def kills(self, mutant: Mutant) -> dict[str, int]:
        """Return how many mutants of the same query or function each test has killed."""
        like = f"{Path(mutant.path).name}:{mutant.block}: "
        return dict(
            self._database.execute(
                "SELECT test, count(*) FROM verdict WHERE test <> '' AND substr(name, 1, ?) = ? GROUP BY test",
                [len(like), like],
            )
        )

    def passed(self, codes: Mapping[str, str]) -> set[str]:
        """Return those of these tests that pass without a mutant, each with the code that is given for it."""
        return {
            row[0] for row in self._database.execute("SELECT test, code FROM passed") if codes.get(row[0]) == row[1]
        }

    def note_passed(self, codes: Mapping[str, str]) -> None:
        """Keep that these tests pass."""
        self._database.executemany("INSERT OR IGNORE INTO passed VALUES (?, ?)", codes.items())


def equivalents(page: Path) -> dict[str, str]:
    """Return the mutants that are known to change nothing, each with why, from the page's table."""
    _, heading, table = page.read_text(encoding="utf-8").partition(HEADING)
    return {row[1].replace(r"\|", "|"): row[2] for row in _ROW.finditer(heading and table)}


def as_row(name: str, why: str) -> str:
    """Return a line of that table."""
    return f"| `{name.replace('|', chr(92) + '|')}` | {why} |"
