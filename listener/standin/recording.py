"""Reads a recording of a real Immich: every row that its server wrote for one user, in order.

One line of a recording is one statement as JSON: ``step`` (what the user did), ``at_ms`` (milliseconds since
the first line), ``tx`` (lines with the same number were one transaction), ``table``, ``op`` and ``rows``. The
paths in it are those of the server it was made on; `Recording.rerooted` moves them to other folders.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

_DATA = Path(__file__).parent / "data" / "recording"

RECORDED_MEDIA_ROOT = Path("/data")
RECORDED_EXTERNAL_ROOT = Path("/external_library")

# What the database stamps by itself at the time of the write.
STAMPED = frozenset({"createdAt", "updatedAt", "updateId"})

_PATH_COLUMNS: Mapping[str, frozenset[str]] = {
    "asset": frozenset({"originalPath", "encodedVideoPath", "sidecarPath"}),
    "asset_file": frozenset({"path"}),
    "person": frozenset({"thumbnailPath"}),
    "library": frozenset({"importPaths"}),
}

Values = Mapping[str, Any]
"""Column name to value, as PostgreSQL's ``to_jsonb`` gives it (bytea as ``\\x…``, vectors as text)."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a statement.

    ``new`` is the whole row after it, None for DELETE. ``old`` is the whole row before a DELETE, only the
    columns that changed for UPDATE, and None for INSERT.
    """

    new: Values | None
    old: Values | None

    @property
    def values(self) -> Values:
        """The whole row: after the statement, or before it if that deletes the row."""
        return cast("Values", self.old if self.new is None else self.new)

    @property
    def changed(self) -> frozenset[str]:
        """The columns that an UPDATE changed, without those that the database stamps by itself."""
        if self.new is None or self.old is None:
            return frozenset()
        return frozenset(self.old) - STAMPED

    def before(self, column: str) -> Any:
        """Return a column's value before an UPDATE or DELETE."""
        if self.old is not None and column in self.old:
            return self.old[column]
        return None if self.new is None or self.old is None else self.new.get(column)


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement; rows that foreign keys' cascades and triggers wrote have statements of their own."""

    step: str
    at_ms: int
    tx: int
    table: str
    op: Literal["INSERT", "UPDATE", "DELETE"]
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Transaction:
    """The statements of one transaction, in order."""

    number: int
    statements: tuple[Statement, ...]

    @property
    def step(self) -> str:
        """The step it belongs to."""
        return self.statements[-1].step

    @property
    def at_ms(self) -> int:
        """When it ended, in milliseconds since the recording's first line."""
        return self.statements[-1].at_ms


@dataclass(frozen=True)
class Recording:
    """A recording: its Immich release without the ``v``, and its statements in order."""

    release: str
    statements: tuple[Statement, ...]

    @cached_property
    def steps(self) -> tuple[str, ...]:
        """The names of the steps, in order."""
        return tuple(dict.fromkeys(statement.step for statement in self.statements))

    @cached_property
    def owner_id(self) -> str:
        """Id of the one user whose rows these are."""
        owners = {row.values["ownerId"] for s in self.statements for row in s.rows if "ownerId" in row.values}
        if len(owners) != 1:
            raise ValueError(f"a recording holds one user's rows, this one has {len(owners)} owners")
        return str(owners.pop())

    @cached_property
    def other_users(self) -> tuple[str, ...]:
        """Ids of users whom the owner shares an album with: they must be there."""
        found = {row.values["userId"] for s in self.statements if s.table == "album_user" for row in s.rows}
        return tuple(sorted(found - {self.owner_id}))

    def transactions(self, step: str | None = None) -> tuple[Transaction, ...]:
        """Return the transactions of one step, or of all, in the order of their ends.

        Transactions of parallel jobs overlap; the order of their ends is what others saw of them.
        """
        if step is not None and step not in self.steps:
            raise ValueError(f"no step {step!r} in the recording; there are: {', '.join(self.steps)}")
        found: dict[int, list[Statement]] = {}
        for statement in self.statements:
            # Taken out and put back: a dict keeps the order in which keys came in.
            found[statement.tx] = [*found.pop(statement.tx, ()), statement]
        whole = (Transaction(number, tuple(statements)) for number, statements in found.items())
        return tuple(t for t in whole if step is None or t.step == step)

    def rerooted(self, media_root: Path, external_root: Path) -> "Recording":
        """Return the same recording as if Immich had kept its files below other folders.

        The checksum of an external asset is the one of its path (`path_checksum`), so it changes too.
        """
        roots = {RECORDED_MEDIA_ROOT: media_root, RECORDED_EXTERNAL_ROOT: external_root}
        return Recording(self.release, tuple(_rerooted(statement, roots) for statement in self.statements))


def recorded_releases() -> tuple[str, ...]:
    """Return the releases of which there is a recording in this package."""
    return tuple(sorted(path.stem.removeprefix("v") for path in _DATA.glob("v*.jsonl")))


def recorded(release: str) -> Recording:
    """Return this package's recording of a release; FileNotFoundError names those that are there."""
    path = _DATA / f"v{release}.jsonl"
    if not path.exists():
        raise FileNotFoundError(f"no recording of Immich {release}; there are: {', '.join(recorded_releases())}")
    return read(path)


def read(path: Path) -> Recording:
    """Read a recording from a file named by its release: ``v<release>.jsonl``."""
    with path.open(encoding="utf-8") as lines:
        statements = tuple(_statement(json.loads(line)) for line in lines if line.strip())
    return Recording(path.stem.removeprefix("v"), statements)


def path_checksum(path: str) -> str:
    """Return an external asset's checksum as bytea text: the SHA-1 of ``path:`` and its path."""
    return "\\x" + hashlib.sha1(f"path:{path}".encode(), usedforsecurity=False).hexdigest()


def _statement(line: Mapping[str, Any]) -> Statement:
    rows = tuple(Row(row.get("new"), row.get("old")) for row in line["rows"])
    return Statement(line["step"], line["at_ms"], line["tx"], line["table"], line["op"], rows)


def _rerooted(statement: Statement, roots: Mapping[Path, Path]) -> Statement:
    columns = _PATH_COLUMNS.get(statement.table)
    if columns is None:
        return statement
    rows = tuple(Row(_moved(row.new, columns, roots), _moved(row.old, columns, roots)) for row in statement.rows)
    return replace(statement, rows=rows)


def _moved(values: Values | None, columns: Iterable[str], roots: Mapping[Path, Path]) -> Values | None:
    if values is None:
        return None
    moved = {**values, **{c: _moved_value(values[c], roots) for c in columns if c in values}}
    # Up to 2.6 the algorithm had no column; external assets had the path's checksum then, too.
    if moved.get("isExternal") and moved.get("checksumAlgorithm", "sha1-path") == "sha1-path":
        moved["checksum"] = path_checksum(moved["originalPath"])
    return moved


def _moved_value(value: Any, roots: Mapping[Path, Path]) -> Any:
    if isinstance(value, list):
        return [_moved_value(part, roots) for part in value]
    if value:
        for root, other in roots.items():
            if Path(value).is_relative_to(root):
                return str(other / Path(value).relative_to(root))
    return value
