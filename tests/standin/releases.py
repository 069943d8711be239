"""Databases of Immich's releases, and the rows that tests of their functions and triggers write over and over."""

import datetime as dt
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg import sql

from listener.standin import facts, schema

RELEASES = schema.releases()

_FILLERS: dict[str, Callable[[], object]] = {
    "uuid": uuid.uuid4,
    "text": lambda: "filler",
    "character varying": lambda: uuid.uuid4().hex,
    "timestamp with time zone": lambda: dt.datetime.now(dt.UTC),
    "bytea": lambda: uuid.uuid4().bytes,
    "jsonb": lambda: "{}",
    "integer": lambda: 1,
    "real": lambda: 0.5,
    "asset_checksum_algorithm_enum": lambda: "sha1",
    "person_user_role_enum": lambda: "read",
}


def numbers(release: str) -> list[int]:
    return [int(part) for part in release.split(".")]


def on(first: str = "0.0.0", before: str = "9.9.9") -> pytest.MarkDecorator:
    """Run a test on a database of each release from ``first`` up to, not including, ``before``."""
    chosen = [r for r in RELEASES if numbers(first) <= numbers(r) < numbers(before)]
    return pytest.mark.parametrize("db", chosen, indirect=True)


@dataclass(frozen=True)
class Database:
    """A connection to a database of one release, with what the tests do over and over."""

    conn: psycopg.Connection[tuple[Any, ...]]
    release: str
    facts: facts.Facts

    def column(self, table: str, *candidates: str) -> str:
        """Return the one of the names that the table has: releases differ."""
        return next(name for name in candidates if name in self.facts.tables[table].column_names())

    def insert(self, table: str, **values: object) -> None:
        """Insert a row; columns that must be given and are not get fillers."""
        for column in self.facts.tables[table].columns if table in self.facts.tables else ():
            if not column.nullable and column.default is None and column.name not in values:
                values[column.name] = _FILLERS[column.type]()
        self.conn.execute(
            sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
                sql.Identifier(table),
                sql.SQL(", ").join(sql.Identifier(name) for name in values),
                sql.SQL(", ").join(sql.Placeholder() for _ in values),
            ),
            list(values.values()),
        )

    def delete(self, table: str, **where: object) -> None:
        """Delete the rows with these values."""
        self.conn.execute(
            sql.SQL("DELETE FROM {} WHERE {}").format(sql.Identifier(table), _matches(where)),
            list(where.values()),
        )

    def rows(self, table: str, *columns: str, **where: object) -> list[tuple[Any, ...]]:
        """Return these columns of the rows with these values, in any order."""
        query = sql.SQL("SELECT {} FROM {} WHERE {}").format(
            sql.SQL(", ").join(sql.Identifier(name) for name in columns),
            sql.Identifier(table),
            _matches(where),
        )
        return self.conn.execute(query, list(where.values())).fetchall()

    def user(self) -> UUID:
        key = uuid.uuid4()
        if "cluster_group" in self.facts.tables:
            self.insert("cluster_group", id=key)
            self.insert("user", id=key, clusterGroupId=key)
        else:
            self.insert("user", id=key)
        return key

    def asset(self, owner: UUID) -> UUID:
        key = uuid.uuid4()
        self.insert("asset", id=key, ownerId=owner)
        return key

    def person(self, owner: UUID, **values: object) -> UUID:
        """Make a person, from 3.2.0 with a group of its own; return what a face refers to."""
        key = uuid.uuid4()
        if "person_group" in self.facts.tables:
            self.insert("person_group", id=key, clusterGroupId=owner)
            self.insert("person", ownerId=owner, personGroupId=key, **values)
        else:
            self.insert("person", ownerId=owner, id=key, **values)
        return key

    def album(self, owner: UUID) -> UUID:
        key = uuid.uuid4()
        if "ownerId" in self.facts.tables["album"].column_names():
            self.insert("album", id=key, ownerId=owner)
        else:
            self.insert("album", id=key)
            self.member(key, owner, role="owner")
        return key

    def member(self, album: UUID, user: UUID, **values: object) -> None:
        album_id = self.column("album_user", "albumId", "albumsId")
        user_id = self.column("album_user", "userId", "usersId")
        self.insert("album_user", **{album_id: album, user_id: user}, **values)

    def remove_member(self, user: UUID) -> None:
        self.delete("album_user", **{self.column("album_user", "userId", "usersId"): user})


def _matches(where: dict[str, object]) -> sql.Composable:
    conditions = [sql.SQL("{} = %s").format(sql.Identifier(name)) for name in where]
    return sql.SQL(" AND ").join([sql.SQL("true"), *conditions])
