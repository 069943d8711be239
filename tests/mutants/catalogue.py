"""All mutants there are, each with a name that stays the same while the code around it changes."""

import ast
import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.mutants import pythontext, sqltext
from tests.mutants.reach import QUERIES, SYNC, functions
from tests.mutants.sqltext import Change
from tests.mutants.tree import ROOT

# What judges and what shows is not what is judged.
_NOT_THE_LISTENER = re.compile(r"^(demo|verify\w*)\.sql$")
_BLOCK = re.compile(r"^-- name: ([a-z][a-z0-9_]*)[ \t]*\n", re.MULTILINE)
MODULE = "module"


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change of one file. ``block``: the query or function that it is in, whose text is ``before``."""

    path: str
    block: str
    before: str
    change: Change
    number: int

    @property
    def name(self) -> str:
        """What it is called: file, query or function, and the change; with a number where there are several."""
        again = f" ({self.number})" if self.number > 1 else ""
        return f"{Path(self.path).name}:{self.block}: {self.change.what}{again}"

    @property
    def place(self) -> str:
        """Under what it is known which tests reach it."""
        return f"{self.path}:{self.block}"

    @property
    def digest(self) -> str:
        """The same as long as the mutated query or function is."""
        text = f"{self.path}\0{self.block}\0{self.before}\0{self.name}"
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def exchanges(self) -> bool:
        """Tell whether it is AND for OR in SQL, or OR for AND."""
        return self.change.what.startswith(("AND is OR:", "OR is AND:"))

    def applied(self, text: str) -> str:
        """Return the file's text with the change."""
        return self.change.applied(text)

    def line(self, text: str) -> int:
        """Return the number of the line in which it is."""
        return text.count("\n", 0, self.change.start) + 1


def catalogue(only: Sequence[str] = ()) -> list[Mutant]:
    """Return the mutants of this checkout; ``only`` those of ``FILE`` or ``FILE:NAME``, without its folder."""
    wanted = [part.partition(":")[::2] for part in only]
    files = [
        *(file for file in sorted((ROOT / QUERIES).glob("*.sql")) if only or not _NOT_THE_LISTENER.match(file.name)),
        *sorted((ROOT / SYNC).glob("*.py")),
    ]
    unknown = {file for file, _ in wanted} - {file.name for file in files}
    if unknown:
        raise SystemExit(f"there is no such file in {QUERIES} or {SYNC}: {', '.join(sorted(unknown))}")
    found = []
    for file in files:
        names = {name for name_of, name in wanted if name_of == file.name}
        if wanted and not names:
            continue
        path = str(file.relative_to(ROOT))
        text = file.read_text(encoding="utf-8")
        mutants = of_queries(path, text) if file.suffix == ".sql" else of_module(path, text)
        found += [mutant for mutant in mutants if not names or "" in names or mutant.block in names]
    return found


def queries() -> Iterator[Mutant]:
    """Yield the mutants of all named queries of this checkout."""
    for file in sorted((ROOT / QUERIES).glob("*.sql")):
        yield from of_queries(f"{QUERIES}/{file.name}", file.read_text(encoding="utf-8"))


def of_queries(path: str, text: str) -> Iterator[Mutant]:
    """Yield the mutants of a file of named queries."""
    heads = list(_BLOCK.finditer(text))
    for head, following in zip(heads, [*heads[1:], None], strict=True):
        start, end = head.end(), following.start() if following else len(text)
        yield from _numbered(path, head[1], text[start:end], start, sqltext.changes(text[start:end]))


def of_module(path: str, text: str) -> Iterator[Mutant]:
    """Yield the mutants of a module; those in no function are the module's own."""
    starts = [0, 0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    blocks = [
        (name, starts[min([node.lineno, *(d.lineno for d in node.decorator_list)])], starts[(node.end_lineno or 0) + 1])
        for name, node in functions(ast.parse(text))
    ]
    inside: dict[str, list[Change]] = {}
    for change in pythontext.changes(text):
        block = next((name for name, start, end in blocks if start <= change.start < end), MODULE)
        inside.setdefault(block, []).append(change)
    texts = {name: text[start:end] for name, start, end in blocks}
    for block, changes in inside.items():
        yield from _numbered(path, block, texts.get(block, text), 0, changes)


def _numbered(path: str, block: str, before: str, offset: int, changes: Sequence[Change]) -> Iterator[Mutant]:
    seen: Counter[str] = Counter()
    for change in changes:
        seen[change.what] += 1
        moved = Change(change.start + offset, change.end + offset, change.new, change.what)
        yield Mutant(path, block, before, moved, seen[change.what])
