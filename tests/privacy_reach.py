"""Everything that one user of Immich can come to: rows of every table there is, and files.

Generic on purpose: it goes by the ids that rows hold and by the database's own foreign keys, so that a table that a
later release or we ourselves add is looked at without a word here. What is reached is

- each row that holds the user's id, and the albums that they are a member of;
- what hangs on those by a foreign key, and on that in turn, unless it is another user's;
- what any of those rows names by a foreign key, of whomever.
"""

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from tests.conftest import Roots

Row = dict[str, Any]
OURS = "_face_sync_"
# What many users share: a row that names one of these is not therefore everybody's.
_COMMON = frozenset({"user", "cluster_group", "person_group"})
_FOLDERS = ("thumbs", "encoded-video", "upload", "library", "profile")

_TABLES = """
SELECT c.relname, coalesce(array_agg(a.attname::text) FILTER (WHERE t.typname = 'vector'), '{}')
FROM pg_class c
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
JOIN pg_type t ON t.oid = a.atttypid
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND c.relname !~ 'migration'
GROUP BY c.relname ORDER BY c.relname
"""
_KEYS = """
SELECT c.conrelid::regclass::text, c.confrelid::regclass::text,
  ARRAY(SELECT a.attname::text FROM unnest(c.conkey) WITH ORDINALITY k (n, i)
        JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.n ORDER BY k.i),
  ARRAY(SELECT a.attname::text FROM unnest(c.confkey) WITH ORDINALITY k (n, i)
        JOIN pg_attribute a ON a.attrelid = c.confrelid AND a.attnum = k.n ORDER BY k.i)
FROM pg_constraint c
WHERE c.contype = 'f' AND c.connamespace = 'public'::regnamespace
"""


@dataclass(frozen=True, slots=True)
class Key:
    """A foreign key."""

    table: str
    parent: str
    columns: tuple[str, ...]
    parents: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Reached:
    """A row that a user can come to. ``via``: the row that names it, for one that is not theirs."""

    table: str
    row: Row
    via: "Reached | None" = None

    @property
    def path(self) -> str:
        """How it is reached, for people."""
        key = self.row.get("id") or self.row.get("assetId") or self.row.get("faceId") or ""
        here = f"{self.table} {key}".strip()
        return f"{here} <- {self.via.path}" if self.via else here


@dataclass(frozen=True, slots=True)
class Seen:
    """A file or link that a user can come to: its name, and what it holds. ``original``: through a link to it."""

    path: Path
    name: str
    content: str
    original: bool
    named_by: str = ""


class Tables:
    """All rows of one moment."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        self.rows: dict[str, list[Row]] = {}
        self.read()

    def read(self) -> None:
        """Read everything anew: the tables that there are now, in one snapshot, and their foreign keys."""
        query = sql.SQL(" UNION ALL ").join(
            sql.SQL("SELECT {}, to_jsonb(t) - {}::text[] FROM public.{} AS t").format(
                sql.Literal(name), sql.Literal(vectors), sql.Identifier(name)
            )
            for name, vectors in self._connection.execute(_TABLES).fetchall()
        )
        found = self._connection.execute(_KEYS).fetchall()
        self.keys = [Key(t.strip('"'), p.strip('"'), tuple(c), tuple(pc)) for t, p, c, pc in found]
        self.rows = defaultdict(list)
        for table, row in self._connection.execute(query).fetchall():
            self.rows[table].append(row)

    @property
    def users(self) -> set[str]:
        return {row["id"] for row in self.rows["user"]}

    @property
    def immichs(self) -> dict[str, list[Row]]:
        return {table: rows for table, rows in self.rows.items() if not table.startswith(OURS)}

    @property
    def ours(self) -> dict[str, list[Row]]:
        return {table: rows for table, rows in self.rows.items() if table.startswith(OURS)}

    def reached_by(self, user: str) -> list[Reached]:
        """Return every row that a user can come to."""
        return _Reach(self, user).rows()


class _Reach:
    def __init__(self, tables: Tables, user: str) -> None:
        self._tables, self._user = tables, user
        self._others = tables.users - {user}
        self._found: dict[int, Reached] = {}
        self._children: dict[str, list[Key]] = defaultdict(list)
        self._parents: dict[str, list[Key]] = defaultdict(list)
        for key in tables.keys:
            self._children[key.parent].append(key)
            self._parents[key.table].append(key)
        self._indexes: dict[tuple[str, tuple[str, ...]], dict[tuple[Any, ...], list[Row]]] = {}

    def rows(self) -> list[Reached]:
        holding = [
            Reached(table, row)
            for table, rows in self._tables.immichs.items()
            for row in rows
            if self._user in row.values()
        ]
        for reached in holding:
            self._found[id(reached.row)] = reached
        for member in [reached for reached in holding if reached.table == "album_user"]:
            holding += [album for album in self._named_by(member, {"album"}) if self._add(album)]
        self._hang(holding)
        self._name([*self._found.values()])
        return [*self._found.values()]

    def _add(self, reached: Reached) -> bool:
        return self._found.setdefault(id(reached.row), reached) is reached

    def _hang(self, todo: list[Reached]) -> None:
        """Add what hangs on these rows and is nobody else's."""
        while todo:
            on = todo.pop()
            if on.table in _COMMON:
                continue
            for key in self._children[on.table]:
                for row in self._index(key.table, key.columns).get(_values(on.row, key.parents), ()):
                    reached = Reached(key.table, row)
                    if not self._others.intersection(_texts(row)) and self._add(reached):
                        todo.append(reached)

    def _name(self, todo: list[Reached]) -> None:
        """Add what these rows name. What another user's photo names in turn is Immich's own matter."""
        while todo:
            new = [reached for reached in self._named_by(todo.pop()) if self._add(reached)]
            todo += [r for r in new if r.table != "asset" or r.row["ownerId"] == self._user]

    def _named_by(self, by: Reached, tables: Iterable[str] = ()) -> Iterator[Reached]:
        for key in self._parents[by.table]:
            if key.parent in _COMMON or (tables and key.parent not in tables):
                continue
            for row in self._index(key.parent, key.parents).get(_values(by.row, key.columns), ()):
                yield Reached(key.parent, row, by)

    def _index(self, table: str, columns: tuple[str, ...]) -> dict[tuple[Any, ...], list[Row]]:
        if (table, columns) not in self._indexes:
            index: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
            for row in self._tables.rows.get(table, ()):
                values = _values(row, columns)
                if None not in values:
                    index[values].append(row)
            self._indexes[table, columns] = index
        return self._indexes[table, columns]


def _values(row: Row, columns: tuple[str, ...]) -> tuple[Any, ...]:
    return tuple(row[column] for column in columns)


def _texts(row: Row) -> Iterator[str]:
    return (value for value in row.values() if isinstance(value, str))


def files_of(user: str, name: str, roots: Roots, rows: Iterable[Reached]) -> list[Seen]:
    """Return every file that a user can come to: in their folders, through their links, and named by their rows."""
    found: dict[Path, Seen] = {}
    for path in _below(roots.media / folder / user for folder in _FOLDERS):
        found[path] = _seen(path, path.name, original=False)
    for path in _below(sorted((roots.external / "shared").glob(f"{name}_*"))):
        # What lies below a prefix has the name that it has at its source, folders among it.
        original = path.is_symlink() or (path.is_file() and path.suffix != ".xmp")
        found[path] = _seen(path, str(path.relative_to(roots.external / "shared")), original=original)
    for reached in rows:
        for text in _texts(reached.row):
            path = Path(text)
            if path in found or reached.via is not None or not text.startswith((str(roots.media), str(roots.external))):
                continue
            if path.is_file():
                found[path] = _seen(path, path.name, original=reached.table == "asset", named_by=reached.path)
    return [*found.values()]


def _seen(path: Path, name: str, *, original: bool, named_by: str = "") -> Seen:
    leads_to = f" -> {path.readlink()}" if path.is_symlink() else ""
    content = path.read_bytes().decode("latin-1") if path.is_file() else ""
    return Seen(path, name + leads_to, content, original, named_by)


def _below(folders: Iterable[Path]) -> Iterator[Path]:
    """Walk folders without going through links; links and folders are named too."""
    for folder in folders:
        for root, names, files in os.walk(folder):
            yield from (Path(root) / name for name in (*names, *files))
