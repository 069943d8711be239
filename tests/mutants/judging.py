"""Judges mutants: each by the tests that reach it, the most telling first, until one fails."""

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

from listener.standin.postgres import drop_database, embedded
from tests.mutants.catalogue import MODULE, Mutant
from tests.mutants.ledger import KILLED, SURVIVED, TIMED_OUT, UNREACHED, Verdict
from tests.mutants.reach import Reach
from tests.mutants.tree import Ended, Tree

# One test may take no longer. pytest's own limit is for what hangs.
_ONE_TEST = 60
_FAILED = re.compile(r"^(?:FAILED|ERROR) (tests/\S+?\.py(?:::.*?)?)(?: - .*)?$", re.MULTILINE)
_FAILS, _CUT, _NO_TESTS = 1, 2, 5
# Nearly every test reaches what each batch runs: those whose file's name says that they are about it come first.
_THEMES = {
    "people.sql": ("people", "faces", "merges", "person_groups", "adoption"),
    "people.sql:adopt_faces": ("adoption",),
    "people.sql:adopt_survivors": ("merges",),
    "people.sql:tell_adopted": ("merges",),
    "people.sql:may_go": ("merges",),
    "people.sql:delete_strays": ("test_faces",),
    "people.sql:delete_faces": ("test_faces",),
    "people.sql:own_choice": ("test_faces",),
    "people.sql:feature": ("feature_faces", "person_groups", "test_people"),
    "extras.sql:stack": ("stacks",),
    "extras.sql:tags": ("tags",),
    "extras.sql:album": ("albums",),
    "extras.sql": ("removal", "own_deletion", "scans", "stacks", "albums"),
    "phones.sql": ("told_deletions", "phones"),
    "plan.sql": ("duplicates", "live_photos", "removal", "adoption", "source_photo"),
    "recovery.sql": ("restore", "marks", "crashes"),
    "removal.sql": ("removal", "own_deletion", "scans"),
    "rows.sql": ("metadata", "files", "live_photos", "scans"),
    "sweep.sql": ("sweep", "reconcile"),
    "files.py": ("test_files", "original_links", "swapped_folders", "disk", "hostile_paths"),
    "folders.py": ("swapped_folders", "hostile_paths", "test_files", "original_links", "disk"),
    "people.py": ("people", "faces", "merges", "person_groups"),
    "phones.py": ("told_deletions", "phones"),
    "rules.py": ("metadata", "files", "live_photos", "scans", "faces"),
}
# A behaviour on another release is tried after all of those on 3.0.3.
_LATER = ("[3.2.0", "[2.7.5", "[2.0.0")
# As much of its usual time may the run of a mutant take; what it waits for in vain comes on top.
_SLOWER = 4


@dataclass
class Judge:
    """A tree to be mutated, with a server of its own; None where the tests need none."""

    tree: Tree
    server: str | None
    patience: float

    def tests(self, tests: Sequence[str], usual: float) -> Ended:
        """Run these tests in their order, until one fails."""
        listed = self.tree.folder / "tests.txt"
        listed.write_text("\n".join(tests))
        words = ["-x", f"--timeout={_ONE_TEST}", f"@{listed}"]
        environment = {"TEST_PATIENCE": str(self.patience)}
        if self.server is not None:
            environment["TEST_DATABASE_URL"] = self.server
        ended = self.tree.test(words, environment, within=_SLOWER * usual)
        if ended.code != 0 and self.server is not None:
            _tidy(self.server)
        return ended

    def judge(self, mutant: Mutant, tests: Sequence[str], usual: float) -> Verdict:
        """Run the tests with the mutant in the tree; afterwards it is as before."""
        if not tests:
            return Verdict(UNREACHED, "", 0, 0.0)
        began = time.monotonic()
        before = self.tree.read(mutant.path)
        # The tree is of the moment at which the run began.
        assert mutant.before in before, f"{mutant.path} has been changed since"
        try:
            self.tree.write(mutant.path, mutant.applied(before))
            ended = self.tests(tests, usual)
        finally:
            self.tree.write(mutant.path, before)
        took = round(time.monotonic() - began, 1)
        if ended.code is None:
            return Verdict(TIMED_OUT, "", len(tests), took)
        if ended.code == 0:
            return Verdict(SURVIVED, "", len(tests), took)
        failed = failing(ended.output)
        if ended.code not in {_FAILS, _CUT} or not failed:
            raise RuntimeError(f"pytest ended with {ended.code} over {mutant.name}:\n{ended.output[-3000:]}")
        return Verdict(KILLED, failed, len(tests), took)


def _tidy(server: str) -> None:
    """Drop what tests that were cut have left in a server."""
    with psycopg.connect(server, autocommit=True) as connection:
        names = connection.execute("SELECT datname FROM pg_database WHERE datname ~ '^(test|template)_'").fetchall()
    for (name,) in names:
        drop_database(server, name)


@contextmanager
def judge(folder: Path, patience: float) -> Iterator[Judge]:
    """Make a judge, whose server and folder are gone after the block."""
    with ExitStack() as closing:
        server = closing.enter_context(embedded(folder / "postgres", durable=False))
        yield Judge(Tree.of_checkout(folder / "tree"), server, patience)


def failing(output: str) -> str:
    """Return the test that failed first, by pytest's summary."""
    found = _FAILED.search(output)
    return found[1].strip() if found else ""


@dataclass(frozen=True, slots=True)
class Choice:
    """Chooses the tests for a mutant. ``seconds``: no more of them than usually take so long; None is all."""

    reach: Reach
    seconds: float | None

    def of(self, mutant: Mutant, kills: Mapping[str, int]) -> list[str]:
        """Return the tests that reach a mutant: first those that killed its likes, then those that are about it."""
        if mutant.block == MODULE:
            prefix = f"{mutant.path}:"
            found = {test for place, tests in self.reach.tests.items() if place.startswith(prefix) for test in tests}
        else:
            found = set(self.reach.tests.get(mutant.place, ()))
        rarity = self.reach.rarities
        themes = themes_of(mutant)

        def place(test: str) -> tuple[int, bool, int, int, str]:
            about = any(theme in test.partition("::")[0] for theme in themes)
            later = next((place for place, release in enumerate(_LATER, 1) if release in test), 0)
            return -kills.get(test, 0), not about, later, rarity[test], test

        chosen: list[str] = []
        usual = 0.0
        for test in sorted(found, key=place):
            usual += self.reach.seconds[test]
            if self.seconds is not None and chosen and usual > self.seconds:
                break
            chosen.append(test)
        return chosen

    def usual(self, tests: Sequence[str]) -> float:
        """Return how long these tests take together."""
        return sum(self.reach.seconds[test] for test in tests)


def themes_of(mutant: Mutant) -> tuple[str, ...]:
    """Return what is in the names of the files whose tests are about this mutant's query or function."""
    place = f"{Path(mutant.path).name}:{mutant.block}"
    known = sorted((theme for theme in _THEMES if place.startswith(theme)), key=len)
    return _THEMES[known[-1]] if known else ()
