"""The tracking tables: which asset, person and face is the copy of which, and what could not be copied.

They live in the schema ``public``, where Immich's own restore brings them back, and are named as older
sidecars of this kind name them, so that an installation that comes from one keeps its copies. The version of
the layout stands in ``_face_sync_meta``. Migrations are files ``sql/migrations/NNNN_name.sql``, where NNNN is
the version that the file leads to; they go forwards only. Versions 1 to 4 belong to those older sidecars: our
first file takes any of them, or nothing at all, to version 5.
"""

import re
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Final
from uuid import UUID

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from listener import sqlfiles

LOCK_SPACE: Final = 0x66737963
"""First integer of all two-integer advisory locks of this program; Immich uses one-argument locks."""

MIGRATION_LOCK: Final = 1
TRIGGER_LOCK: Final = 2

LOCK_TIMEOUT_MS: Final = 30_000

_QUERIES: Final = "queries/tracking.sql"
_FILE_NAME = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")


class TrackingError(Exception):
    """The tracking tables cannot be used or migrated; the text says why and what to do."""


def migrations() -> dict[int, str]:
    """Return the migrations as ``{version: path below sql/}``, in order.

    Raises ValueError if a file in ``sql/migrations`` is misnamed or two lead to the same version.
    """
    found: dict[int, str] = {}
    for path in sorted((sqlfiles.sql_dir() / "migrations").glob("*.sql")):
        match = _FILE_NAME.fullmatch(path.name)
        if match is None or int(match[1]) in found:
            raise ValueError(f"sql/migrations/{path.name}: not NNNN_name.sql, or the number stands twice")
        found[int(match[1])] = f"migrations/{path.name}"
    return found


def latest_version() -> int:
    """Return the version of the tracking tables that this program works with."""
    return max(migrations())


async def read_version(conn: psycopg.AsyncConnection) -> int | None:
    """Return the version recorded in the database, None where there are no tracking tables yet.

    Raises TrackingError if what is recorded is no number.
    """
    queries = sqlfiles.named_queries(_QUERIES)
    async with conn.transaction(), conn.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(queries["meta_exists"])
        if await cursor.fetchone() != (True,):
            return None
        await cursor.execute(queries["read_version"])
        row = await cursor.fetchone()
    if row is None:
        return None
    text = str(row[0])
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise TrackingError(
            f"_face_sync_meta holds schema_version {text!r}, which is no version of the tracking tables. "
            "Another program has written it: restore the table from a backup, or ask before going on."
        )
    return int(text)


async def migrate(conn: psycopg.AsyncConnection) -> list[int]:
    """Bring the tracking tables to the version of this program and return the versions applied, in order.

    One transaction under an advisory lock: of several processes at once, one does the work and the others
    find it done. The connection must not be in a transaction.

    Raises TrackingError if the database is at a version this program does not know, if the role may not
    create the tables, or if another session holds one of them for longer than LOCK_TIMEOUT_MS.
    """
    queries = sqlfiles.named_queries(_QUERIES)
    try:
        async with _own_transaction(conn), conn.cursor() as cursor:
            await cursor.execute(queries["set_lock_timeout"], {"milliseconds": LOCK_TIMEOUT_MS})
            await cursor.execute(queries["lock"], {"space": LOCK_SPACE, "key": MIGRATION_LOCK})
            recorded = await read_version(conn) or 0
            if recorded > latest_version():
                raise TrackingError(
                    f"The tracking tables are at version {recorded}, and this program knows versions up to "
                    f"{latest_version()}: a newer version of it has run here. Install that version again; "
                    "nothing was changed."
                )
            applied = []
            for version, name in migrations().items():
                if version > recorded:
                    await cursor.execute(sqlfiles.read_sql(name))
                    await cursor.execute(queries["write_version"], {"version": version})
                    applied.append(version)
    except psycopg.errors.InsufficientPrivilege as error:
        raise TrackingError(
            f"The role {conn.info.user!r} may not create or change the tracking tables: "
            f"{_first_line(error)}. As the role that Immich uses, run: listener triggers install, and after it the SQL "
            "of: listener role print. Or grant CREATE on the schema public."
        ) from error
    except psycopg.errors.LockNotAvailable as error:
        raise TrackingError(
            f"Another session held a tracking table for {LOCK_TIMEOUT_MS // 1000} s: {_first_line(error)}. "
            "Stop the other sidecar or the backup that holds it, then start again; nothing was changed."
        ) from error
    return applied


async def read_note(conn: psycopg.AsyncConnection, key: str) -> str | None:
    """Return what ``_face_sync_meta`` holds under a key; None also where there are no tracking tables."""
    queries = sqlfiles.named_queries(_QUERIES)
    async with conn.transaction(), conn.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(queries["meta_exists"])
        if await cursor.fetchone() != (True,):
            return None
        await cursor.execute(queries["read_note"], {"key": key})
        row = await cursor.fetchone()
    return None if row is None else str(row[0])


async def write_note(conn: psycopg.AsyncConnection, key: str, value: str) -> None:
    """Keep a value under a key of ``_face_sync_meta``; nothing where there are no tracking tables."""
    queries = sqlfiles.named_queries(_QUERIES)
    async with conn.transaction(), conn.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(queries["meta_exists"])
        if await cursor.fetchone() == (True,):
            await cursor.execute(queries["write_note"], {"key": key, "value": value})


async def set_watched_users(conn: psycopg.AsyncConnection, user_ids: Iterable[UUID]) -> str | None:
    """Make the users that the triggers speak for exactly these: sources and targets of all jobs.

    An empty set silences the triggers. If users are new in it, returns a transaction id: what a transaction below it
    did to their photos, the triggers may not have told.
    """
    return await _watch(conn, "set_watched_users", user_ids)


async def add_watched_users(conn: psycopg.AsyncConnection, user_ids: Iterable[UUID]) -> str | None:
    """Make sure that the triggers speak for these users, as before; returns the same."""
    return await _watch(conn, "add_watched_users", user_ids)


async def _watch(conn: psycopg.AsyncConnection, how: str, user_ids: Iterable[UUID]) -> str | None:
    queries = sqlfiles.named_queries(_QUERIES)
    cursor = await conn.execute(queries[how], {"users": sorted(set(user_ids))})
    if cursor.rowcount == 0:
        return None
    row = await (await conn.execute(queries["next_transaction"])).fetchone()
    return str(row[0]) if row is not None else None


@asynccontextmanager
async def _own_transaction(conn: psycopg.AsyncConnection) -> AsyncIterator[None]:
    # Inside somebody's transaction ours would be a savepoint, and locks would live on after it.
    if conn.info.transaction_status is not TransactionStatus.IDLE:
        raise psycopg.ProgrammingError("the connection is in a transaction already")
    async with conn.transaction():
        yield


def _first_line(error: psycopg.Error) -> str:
    return error.diag.message_primary or str(error)
