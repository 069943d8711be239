"""Connections to Immich's PostgreSQL, set up the same way everywhere.

Every session of ours is quiet (``face_sync.quiet``), so that our triggers never tell us of our own writes,
and has the two session functions of ``sql/queries/session.sql`` in ``pg_temp``.
"""

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool

from listener.sqlfiles import named_queries

Connection = psycopg.AsyncConnection[TupleRow]

# First keys of our advisory locks: two-integer locks, since Immich uses the one-integer form.
JOB_LOCK = 0x66736A6F
WRITE_LOCK = 0x66737772


def query(file: str, name: str) -> sql.SQL:
    """Return a named query of ``sql/queries/<file>.sql``, ready to be run or composed."""
    return sql.SQL(named_queries(f"queries/{file}.sql")[name])


def statement(file: str, name: str, **parts: sql.Composable) -> bytes:
    """Return a named query composed with its parts, as text: composing it at each run would cost a third of it."""
    return query(file, name).format(**parts).as_bytes(None)


def identifiers(names: Sequence[str], *, of: str | None = None) -> sql.Composed:
    """Return ``"a", "b"`` or, with a row's alias, ``of."a", of."b"``."""
    return sql.SQL(", ").join(sql.Identifier(of, name) if of else sql.Identifier(name) for name in names)


class FencedError(Exception):
    """Another listener owns the job now: nothing was written, and nothing may be until the job is ours again."""


async def connect(conninfo: str) -> Connection:
    """Open one autocommit connection of ours. Raises psycopg.OperationalError."""
    connection = await psycopg.AsyncConnection.connect(conninfo, autocommit=True)
    await prepare_session(connection)
    return connection


async def prepare_session(connection: Connection, owner: UUID | None = None) -> None:
    """Make a fresh connection one of ours: quiet, bounded, with the session functions.

    ``owner``: the process, for whose jobs alone it may write then.
    """
    await connection.set_autocommit(True)
    # The statements of a batch are few and always the same: prepare them at once.
    connection.prepare_threshold = 1
    await connection.execute(query("session", "settings"))
    await connection.execute(query("session", "functions"))
    if owner is not None:
        await connection.execute(query("session", "owner"), {"owner": owner})


def pool(conninfo: str, size: int, owner: UUID) -> AsyncConnectionPool[Connection]:
    """Return a closed pool of connections of one process: open it with ``async with`` or ``open()``."""
    return AsyncConnectionPool(
        conninfo,
        min_size=1,
        max_size=size,
        configure=partial(prepare_session, owner=owner),
        check=AsyncConnectionPool.check_connection,
        kwargs={"autocommit": True},
        open=False,
        name="reconcilers",
    )


@asynccontextmanager
async def writing(connection: Connection, target_user: UUID, job: str) -> AsyncIterator[None]:
    """Open a transaction that is the only one to write copies of this target user; ``job``: its identity.

    Raises FencedError where the connection has an owner, and the job another one by now.
    """
    async with connection.transaction():
        params = {"lock_class": WRITE_LOCK, "target_user": target_user, "job": job}
        cursor = await connection.execute(query("session", "serialise"), params)
        if await cursor.fetchone() == (False,):
            raise FencedError("another listener serves this job now")
        yield


def uuids(ids: Iterable[UUID | None]) -> str:
    """Return ids as the text of a uuid[]: the same list goes to thirty statements, and is rendered once."""
    return "{" + ",".join("NULL" if id_ is None else str(id_) for id_ in ids) + "}"


async def fetch(connection: Connection, text: sql.SQL | bytes, params: dict[str, Any]) -> list[TupleRow]:
    """Run one statement and return its rows."""
    cursor = await connection.execute(text, params)
    return await cursor.fetchall()
