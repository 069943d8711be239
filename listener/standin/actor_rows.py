"""Writes rows as Immich's server does: each statement on the next connection of a pool, in its own transaction.

What flows in are `Write`s: rows as mappings from column to value, with every column that any release has.
Those that the database at hand does not have are left out, so that one actor fits all releases.
"""

import itertools
import json
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import psycopg
from psycopg import sql
from psycopg.rows import DictRow, dict_row
from psycopg.types.json import Jsonb

from listener.sqlfiles import named_queries

_CONNECTIONS = 3

Values = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Write:
    """One statement: rows that all have the same columns.

    An update's and a deletion's rows hold the key, an update's besides that what it changes; an upsert's rows
    meet those that are equal in ``conflict``.
    """

    op: Literal["insert", "upsert", "update", "delete"]
    table: str
    rows: tuple[Values, ...]
    conflict: tuple[str, ...] = ("assetId",)


def insert(table: str, *rows: Values) -> Write:
    """Return the statement that inserts these rows."""
    return Write("insert", table, rows)


def upsert(table: str, *rows: Values, conflict: tuple[str, ...] = ("assetId",)) -> Write:
    """Return the statement that inserts these rows, or changes those that are there."""
    return Write("upsert", table, rows, conflict)


def update(table: str, *rows: Values) -> Write:
    """Return the statement that changes these rows."""
    return Write("update", table, rows)


def delete(table: str, *rows: Values) -> Write:
    """Return the statement that deletes these rows."""
    return Write("delete", table, rows)


class Rows:
    """Reads and writes the tables of one Immich database. Holds connections: close it.

    ``names`` are the identifiers that differ between releases, under the names of ``actor.sql``.
    """

    def __init__(self, conninfo: str) -> None:
        self._connections = [
            psycopg.connect(conninfo, autocommit=True, row_factory=dict_row) for _ in range(_CONNECTIONS)
        ]
        self._turn = itertools.cycle(self._connections)
        connection = self._connections[0]
        self._types: dict[str, dict[str, str]] = {}
        for row in connection.execute(_query("actor", "columns")).fetchall():
            self._types.setdefault(row["table"], {})[row["column"]] = row["type"]
        found = connection.execute(_query("player", "primary_keys")).fetchall()
        self._keys: dict[str, list[str]] = {row["table"]: row["columns"] for row in found}
        self.names = {
            "face_person": self._first("asset_face", "personGroupId", "personId"),
            "person_id": self._first("person", "personGroupId", "id"),
            "album_asset": self._first("album_asset", "assetId", "assetsId"),
            "album_id": self._first("album_asset", "albumId", "albumsId"),
            "album_member": self._first("album_user", "userId", "usersId"),
            "tag_tag": self._first("tag_asset", "tagId", "tagsId"),
            "tag_asset": self._first("tag_asset", "assetId", "assetsId"),
        }

    def close(self) -> None:
        """Close the connections."""
        for connection in self._connections:
            connection.close()

    def has(self, table: str, column: str | None = None) -> bool:
        """Tell whether this release has a table, or a column of it."""
        return table in self._types and (column is None or column in self._types[table])

    def type(self, table: str, column: str) -> str:
        """Return a column's type as PostgreSQL writes it, such as ``vector(512)``."""
        return self._types[table][column]

    def execute(self, *writes: Write, as_one: bool = False) -> None:
        """Execute statements: several are one transaction, or one statement of several parts if ``as_one``."""
        made = [
            self._statement(write, f"rows_{number}")
            for number, write in enumerate(writes)
            if write.rows and self.has(write.table)
        ]
        if not made:
            return
        connection = next(self._turn)
        if as_one and len(made) > 1:
            parts = [sql.SQL("part_{} AS ({})").format(n, query) for n, (query, _) in enumerate(made[:-1])]
            query = sql.SQL("WITH {} {}").format(sql.SQL(", ").join(parts), made[-1][0])
            made = [(query, {name: rows for _, parameters in made for name, rows in parameters.items()})]
        # A single statement is a transaction by itself, as with Immich's server: nothing is sent around it.
        with connection.transaction() if len(made) > 1 else nullcontext():
            for query, parameters in made:
                connection.execute(query, parameters)

    def run(self, query: str, **parameters: Any) -> list[DictRow]:
        """Run one named statement of actor.sql and return its rows."""
        return self._run(sql.SQL(_query("actor", query)).format(**_identifiers(self.names)), parameters)

    def where(self, table: str, **equal: Any) -> list[DictRow]:
        """Return the rows whose columns equal these values, in the order of their key."""
        conditions = sql.SQL(" AND ").join(
            sql.SQL("{} = {}").format(sql.Identifier(column), sql.Placeholder(column)) for column in equal
        )
        block = sql.SQL(_query("actor", "rows_where"))
        query = block.format(table=sql.Identifier(table), conditions=conditions, order=_columns(self._keys[table]))
        return self._run(query, equal)

    def the(self, table: str, **equal: Any) -> DictRow:
        """Return the only such row; LookupError if there is none or more than one."""
        found = self.where(table, **equal)
        if len(found) != 1:
            raise LookupError(f"{len(found)} rows of {table} with {equal}, expected one")
        return found[0]

    def _run(self, query: sql.Composed, parameters: Values) -> list[DictRow]:
        cursor = next(self._turn).execute(query, parameters)
        return cursor.fetchall() if cursor.description else []

    def _first(self, table: str, *candidates: str) -> str:
        return next(name for name in candidates if self.has(table, name))

    def _statement(self, write: Write, name: str) -> tuple[sql.Composed, dict[str, Jsonb]]:
        known = self._types[write.table]
        rows = [{column: value for column, value in row.items() if column in known} for row in write.rows]
        parameters = {name: Jsonb(rows, dumps=_DUMPS)}
        parts: dict[str, sql.Composable] = {
            "table": sql.Identifier(write.table),
            "rows": sql.Placeholder(name),
        }
        given = list(rows[0])
        if write.op == "insert":
            return _block("player", "insert").format(**parts, columns=_columns(given)), parameters
        if write.op == "upsert":
            conflict = [column for column in write.conflict if column in known]
            changed = [column for column in given if column not in {*conflict, "id"}]
            excluded = sql.SQL(", ").join(
                sql.SQL("{} = excluded.{}").format(sql.Identifier(c), sql.Identifier(c)) for c in changed
            )
            parts |= {"columns": _columns(given), "conflict": _columns(conflict), "excluded": excluded}
            return _block("actor", "upsert").format(**parts), parameters
        keys = self._keys[write.table]
        parts["same_row"] = sql.SQL(" AND ").join(_equals(sql.Identifier(write.table, key), key) for key in keys)
        if write.op == "delete":
            return _block("player", "delete").format(**parts), parameters
        # None is left where this release has none of the columns: an update that only stamps.
        changed = [column for column in given if column not in keys] or [keys[0]]
        parts["changes"] = sql.SQL(", ").join(_equals(sql.Identifier(column), column) for column in changed)
        return _block("player", "update").format(**parts), parameters


def _equals(left: sql.Identifier, column: str) -> sql.Composed:
    return sql.SQL("{} = played.{}").format(left, sql.Identifier(column))


def _columns(names: Iterable[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, names))


def _identifiers(names: Mapping[str, str]) -> dict[str, sql.Identifier]:
    return {key: sql.Identifier(name) for key, name in names.items()}


def _block(file: str, name: str) -> sql.SQL:
    return sql.SQL(_query(file, name))


def _query(file: str, name: str) -> str:
    return named_queries(f"standin/{file}.sql")[name]


def _plain(value: object) -> str:
    if isinstance(value, bytes):
        return "\\x" + value.hex()
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, UUID | Path):
        return str(value)
    raise TypeError(f"no JSON for {value!r}")


_DUMPS = partial(json.dumps, default=_plain)
