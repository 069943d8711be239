"""Puts the triggers in and takes them out, one short transaction for each table."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from listener import sqlfiles
from listener.tracking import LOCK_SPACE, TRIGGER_LOCK, write_note
from listener.triggers.definitions import (
    EVENTS,
    FUNCTIONS,
    GUARD,
    QUERIES,
    function_definition,
    guard_definition,
    trigger_definition,
)
from listener.triggers.status import INSTALLED, INSTALLED_WITH_GUARD, NOTE, UNINSTALLED, function_comments, status

_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 3.0


class TriggerError(Exception):
    """The triggers cannot be installed or removed; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class InstallResult:
    """What install did: names of functions and tables whose definitions it wrote, and tables not there."""

    changed: tuple[str, ...]
    absent: tuple[str, ...]


async def install(
    conn: psycopg.AsyncConnection, *, guard: bool | None = None, lock_timeout_ms: int = 2000, attempts: int = 10
) -> InstallResult:
    """Bring functions and triggers to the definitions of this program; what is right already is not touched.

    With ``guard`` there will be a guard of the originals, without there will be none; None leaves it there or not,
    as it is. A guard that is new also protects the originals of copies that are deleted already.

    Each table has its own short transaction, since CREATE TRIGGER takes a SHARE ROW EXCLUSIVE lock, which
    stops Immich's writes to that table. A lock not granted within ``lock_timeout_ms`` milliseconds is
    asked for again, ``attempts`` times in all, with growing pauses in which Immich's queue of waiting
    statements runs empty. The connection must not be in a transaction. The tracking tables should be there
    first (``tracking.migrate``): without them the triggers are silent, and a guard is refused by the database.

    Raises TriggerError if a lock is not to be had, or the role may not do it.
    """
    before = await status(conn, guard=guard)
    changed: list[str] = []

    if any(function.state != "installed" for function in before.functions):

        async def create_functions() -> None:
            await _install_functions(conn, lock_timeout_ms)

        await _retry(create_functions, conn, "the functions in _face_sync", lock_timeout_ms, attempts)
        changed += [f"{function.name}()" for function in before.functions if function.state != "installed"]

    for table in before.tables:
        if table.state in {"installed", "absent"}:
            continue

        async def create_triggers(name: str = table.table) -> None:
            await _install_table(conn, name, lock_timeout_ms)

        await _retry(create_triggers, conn, f"the table {table.table}", lock_timeout_ms, attempts)
        changed.append(table.table)

    if before.guard not in {"installed", "not needed"}:

        async def change_guard() -> None:
            await _change_guard(conn, wanted=before.guard != "left over", lock_timeout_ms=lock_timeout_ms)

        await _retry(change_guard, conn, "the table asset", lock_timeout_ms, attempts)
        changed.append("the guard of originals" + (", taken away" if before.guard == "left over" else ""))
    guarded = before.guard not in {"not needed", "left over"}
    await write_note(conn, NOTE, INSTALLED_WITH_GUARD if guarded else INSTALLED)
    return InstallResult(changed=tuple(changed), absent=before.absent)


async def uninstall(
    conn: psycopg.AsyncConnection, *, purge: bool = False, lock_timeout_ms: int = 2000, attempts: int = 10
) -> None:
    """Take out triggers, functions and the schema ``_face_sync``: the catalog is as before install.

    With ``purge`` the tracking tables go as well, and with them the knowledge which photo is a copy: ask
    first. Nothing there is no error. Locks and errors are those of ``install``.
    """
    queries = sqlfiles.named_queries(QUERIES)
    # First, so that a running listener does not put back what goes here one by one.
    await write_note(conn, NOTE, UNINSTALLED)
    async with conn.transaction(), conn.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(queries["triggers_to_drop"])
        doomed: list[tuple[str, str, str]] = await cursor.fetchall()

    for schema, table, trigger in doomed:
        statement = sql.SQL(queries["drop_trigger"]).format(
            trigger=sql.Identifier(trigger), table=sql.Identifier(schema, table)
        )

        async def drop(statement: sql.Composed = statement) -> None:
            async with _short_transaction(conn, lock_timeout_ms):
                await conn.execute(statement)

        await _retry(drop, conn, f"the table {table}", lock_timeout_ms, attempts)

    async def drop_rest() -> None:
        async with _short_transaction(conn, lock_timeout_ms):
            await conn.execute(queries["drop_functions"])
            await conn.execute(queries["drop_schema"])
            if purge:
                await conn.execute(queries["purge"])
                await conn.execute(queries["purge_sequence"])
                await conn.execute(queries["purge_role_function"])
                await conn.execute(queries["purge_role_schema"])

    try:
        await _retry(drop_rest, conn, "the tracking tables", lock_timeout_ms, attempts)
    except psycopg.errors.DependentObjectsStillExist as error:
        raise TriggerError(
            "The triggers are gone, but something else depends on what was to go: "
            f"{error.diag.message_detail}. It is not ours: remove it by hand, then run this again."
        ) from error


async def _install_functions(conn: psycopg.AsyncConnection, lock_timeout_ms: int) -> None:
    queries = sqlfiles.named_queries(QUERIES)
    async with _short_transaction(conn, lock_timeout_ms), conn.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(queries["schema_exists"])
        if await cursor.fetchone() == (False,):
            await cursor.execute(queries["create_schema"])
        # Asked again, because another installer may have been faster while we waited for the lock.
        comments = await function_comments(conn)
        for name in FUNCTIONS:
            definition = function_definition(name)
            if comments.get(name) != definition.comment:
                await cursor.execute(definition.create)
                await cursor.execute(definition.set_comment)


async def _install_table(conn: psycopg.AsyncConnection, table: str, lock_timeout_ms: int) -> None:
    # CREATE OR REPLACE also enables again what somebody disabled.
    async with _short_transaction(conn, lock_timeout_ms), conn.cursor() as cursor:
        for event in EVENTS:
            definition = trigger_definition(table, event)
            await cursor.execute(definition.create)
            await cursor.execute(definition.set_comment)


async def _change_guard(conn: psycopg.AsyncConnection, *, wanted: bool, lock_timeout_ms: int) -> None:
    queries = sqlfiles.named_queries(QUERIES)
    names = {"trigger": sql.Identifier(GUARD), "table": sql.Identifier("public", "asset")}
    async with _short_transaction(conn, lock_timeout_ms), conn.cursor() as cursor:
        if not wanted:
            await cursor.execute(sql.SQL(queries["drop_trigger"]).format(**names))
            return
        definition = guard_definition()
        await cursor.execute(definition.create)
        await cursor.execute(definition.set_comment)
        await cursor.execute(queries["guard_deleted"])


async def _retry(
    work: Callable[[], Awaitable[None]],
    conn: psycopg.AsyncConnection,
    what: str,
    lock_timeout_ms: int,
    attempts: int,
) -> None:
    pause = _FIRST_PAUSE
    for attempt in range(1, attempts + 1):
        try:
            await work()
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected) as error:
            if attempt == attempts:
                raise TriggerError(
                    f"Another session kept {what} locked: {attempts} attempts of {lock_timeout_ms} ms each. "
                    "Immich may be starting, upgrading or restoring; run this again when it is done. "
                    "What was done so far stays, and is not done twice."
                ) from error
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        except psycopg.errors.InsufficientPrivilege as error:
            raise TriggerError(
                f"The role {conn.info.user!r} may not change {what}: {error.diag.message_primary}. It must "
                "own Immich's tables and may need CREATE on the database, for the schema _face_sync. "
                "Connect as the role that Immich uses, or let an administrator run the output of "
                "'triggers print'."
            ) from error
        else:
            return


@asynccontextmanager
async def _short_transaction(conn: psycopg.AsyncConnection, lock_timeout_ms: int) -> AsyncIterator[None]:
    # Inside somebody's transaction ours would be a savepoint, and the table locks would live on after it.
    if conn.info.transaction_status is not TransactionStatus.IDLE:
        raise psycopg.ProgrammingError("the connection is in a transaction already")
    queries = sqlfiles.named_queries(QUERIES)
    async with conn.transaction():
        await conn.execute(queries["set_lock_timeout"], {"milliseconds": lock_timeout_ms})
        await conn.execute(queries["lock"], {"space": LOCK_SPACE, "key": TRIGGER_LOCK})
        yield
