"""The triggers on Immich's tables that tell which assets and people changed.

Six tables have three statement-level triggers each, one per event, and all call one function in the schema
``_face_sync``; what it does, and why Immich never fails because of it, stands in
``sql/triggers/notify_change.sql``. Here they are put in, looked at and taken out.

A seventh, the guard, is a row trigger on ``asset`` that keeps originals alive; it is there only where a job needs
it (``preflight.guard_needed``, and ``sql/triggers/guard_original.sql``).

A short hash of each definition is kept in the COMMENT of the function or trigger. Status compares the hashes;
install replaces what differs, so that a new version of this program brings its own definitions.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, Literal, LiteralString

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus
from psycopg.rows import class_row, tuple_row

from listener import sqlfiles
from listener.tracking import LOCK_SPACE, TRIGGER_LOCK

TABLES: Final = ("asset", "asset_job_status", "asset_file", "smart_search", "asset_face", "person")
"""Immich 2.0 to 3.3 has all of these."""

EVENTS: Final = ("insert", "update", "delete")
FUNCTIONS: Final = ("notify_change", "guard_original")

State = Literal["installed", "outdated", "disabled", "missing", "absent"]
"""``absent``: this Immich has no such table. The others are about our own objects."""

GuardState = Literal["installed", "outdated", "disabled", "missing", "not needed", "left over"]
"""``left over``: it is there, and no job needs it any more."""

_GUARD: Final = "_face_sync_guard"
_QUERIES: Final = "queries/triggers.sql"
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 3.0


class TriggerError(Exception):
    """The triggers cannot be installed or removed; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class TableStatus:
    """The triggers of one table, by event. ``state`` is the worst of them."""

    table: str
    state: State
    installed: tuple[str, ...] = ()
    outdated: tuple[str, ...] = ()
    disabled: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FunctionStatus:
    """One function of ours in the schema ``_face_sync``."""

    name: str
    state: Literal["installed", "outdated", "missing"]


@dataclass(frozen=True, slots=True)
class TriggerStatus:
    """What the catalog says about all of it."""

    functions: tuple[FunctionStatus, ...]
    tables: tuple[TableStatus, ...]
    guard: GuardState

    @property
    def absent(self) -> tuple[str, ...]:
        """Return the tables that this Immich does not have."""
        return tuple(table.table for table in self.tables if table.state == "absent")

    @property
    def ok(self) -> bool:
        """Whether everything is as install leaves it; tables that Immich does not have do not count."""
        present = [table.state for table in self.tables if table.state != "absent"]
        return (
            bool(present)
            and all(state == "installed" for state in present)
            and all(function.state == "installed" for function in self.functions)
            and self.guard in {"installed", "not needed", "left over"}
        )


@dataclass(frozen=True, slots=True)
class InstallResult:
    """What install did: names of functions and tables whose definitions it wrote, and tables not there."""

    changed: tuple[str, ...]
    absent: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Definition:
    create: str
    comment: str
    """The whole text of the COMMENT, with the hash."""
    set_comment: str


@dataclass(frozen=True, slots=True)
class _TriggerRow:
    """One row of the query trigger_states."""

    table_name: str
    present: bool
    name: str | None
    enabled: bool | None
    ours: bool | None
    comment: str | None


async def status(conn: psycopg.AsyncConnection, *, guard: bool | None = None) -> TriggerStatus:
    """Compare the catalog with what install would make.

    ``guard``: whether a job needs the guard, None where that cannot be told.
    """
    queries = sqlfiles.named_queries(_QUERIES)
    async with conn.transaction(), conn.cursor(row_factory=class_row(_TriggerRow)) as cursor:
        comments = await _function_comments(conn)
        guard_state = await _guard_state(conn, guard)
        await cursor.execute(queries["trigger_states"], {"tables": list(TABLES)})
        rows = await cursor.fetchall()

    found = {(row.table_name, row.name): _trigger_state(row) for row in rows}
    present = {row.table_name for row in rows if row.present}
    return TriggerStatus(
        functions=tuple(_function_status(name, comments) for name in FUNCTIONS),
        tables=tuple(
            _table_status(table, found) if table in present else TableStatus(table, "absent") for table in TABLES
        ),
        guard=guard_state,
    )


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
    return InstallResult(changed=tuple(changed), absent=before.absent)


async def uninstall(
    conn: psycopg.AsyncConnection, *, purge: bool = False, lock_timeout_ms: int = 2000, attempts: int = 10
) -> None:
    """Take out triggers, functions and the schema ``_face_sync``: the catalog is as before install.

    With ``purge`` the tracking tables go as well, and with them the knowledge which photo is a copy: ask
    first. Nothing there is no error. Locks and errors are those of ``install``.
    """
    queries = sqlfiles.named_queries(_QUERIES)
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

    try:
        await _retry(drop_rest, conn, "the tracking tables", lock_timeout_ms, attempts)
    except psycopg.errors.DependentObjectsStillExist as error:
        raise TriggerError(
            "The triggers are gone, but something else depends on what was to go: "
            f"{error.diag.message_detail}. It is not ours: remove it by hand, then run this again."
        ) from error


def render_install_sql(*, guard: bool = False) -> str:
    """Return what install does as SQL to be run by hand, for example by a database administrator.

    It makes the same definitions with the same hashes, so status reads them as installed. Running it again
    is safe; it stops with an error where a table is locked for longer than two seconds.
    """
    head = (
        "-- Functions and triggers of immich-shared-library. Run by a role that owns Immich's tables.\n"
        "-- Each part is a short transaction; if one ends with a lock timeout, run all of it again.\n"
        "BEGIN;\nSET LOCAL lock_timeout = '2s';\nCREATE SCHEMA IF NOT EXISTS _face_sync;"
    )
    parts = [head]
    for name in FUNCTIONS:
        definition = _function_definition(name)
        parts += [f"{definition.create};", f"{definition.set_comment};"]
    parts.append("COMMIT;")
    for table in TABLES:
        parts.append("BEGIN;\nSET LOCAL lock_timeout = '2s';")
        for event in EVENTS:
            definition = _trigger_definition(table, event)
            parts += [f"{definition.create};", f"{definition.set_comment};"]
        parts.append("COMMIT;")
    if guard:
        definition = _guard_definition()
        parts += ["BEGIN;\nSET LOCAL lock_timeout = '2s';", f"{definition.create};", f"{definition.set_comment};"]
        parts += ["COMMIT;", f"{sqlfiles.named_queries(_QUERIES)['guard_deleted']};"]
    return "\n\n".join(parts) + "\n"


async def _function_comments(conn: psycopg.AsyncConnection) -> dict[str, str | None]:
    async with conn.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(sqlfiles.named_queries(_QUERIES)["function_comments"])
        return dict(await cursor.fetchall())


async def _install_functions(conn: psycopg.AsyncConnection, lock_timeout_ms: int) -> None:
    queries = sqlfiles.named_queries(_QUERIES)
    async with _short_transaction(conn, lock_timeout_ms), conn.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(queries["schema_exists"])
        if await cursor.fetchone() == (False,):
            await cursor.execute(queries["create_schema"])
        # Asked again, because another installer may have been faster while we waited for the lock.
        comments = await _function_comments(conn)
        for name in FUNCTIONS:
            definition = _function_definition(name)
            if comments.get(name) != definition.comment:
                await cursor.execute(definition.create)
                await cursor.execute(definition.set_comment)


async def _install_table(conn: psycopg.AsyncConnection, table: str, lock_timeout_ms: int) -> None:
    # CREATE OR REPLACE also enables again what somebody disabled.
    async with _short_transaction(conn, lock_timeout_ms), conn.cursor() as cursor:
        for event in EVENTS:
            definition = _trigger_definition(table, event)
            await cursor.execute(definition.create)
            await cursor.execute(definition.set_comment)


async def _change_guard(conn: psycopg.AsyncConnection, *, wanted: bool, lock_timeout_ms: int) -> None:
    queries = sqlfiles.named_queries(_QUERIES)
    names = {"trigger": sql.Identifier(_GUARD), "table": sql.Identifier("public", "asset")}
    async with _short_transaction(conn, lock_timeout_ms), conn.cursor() as cursor:
        if not wanted:
            await cursor.execute(sql.SQL(queries["drop_trigger"]).format(**names))
            return
        definition = _guard_definition()
        await cursor.execute(definition.create)
        await cursor.execute(definition.set_comment)
        await cursor.execute(queries["guard_deleted"])


async def _guard_state(conn: psycopg.AsyncConnection, needed: bool | None) -> GuardState:
    async with conn.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(sqlfiles.named_queries(_QUERIES)["guard_state"], {"trigger": _GUARD})
        row = await cursor.fetchone()
    if row is None:
        return "missing" if needed else "not needed"
    enabled, ours, comment = row
    if needed is False:
        return "left over"
    if not ours or comment != _guard_definition().comment:
        return "outdated"
    return "installed" if enabled else "disabled"


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
    queries = sqlfiles.named_queries(_QUERIES)
    async with conn.transaction():
        await conn.execute(queries["set_lock_timeout"], {"milliseconds": lock_timeout_ms})
        await conn.execute(queries["lock"], {"space": LOCK_SPACE, "key": TRIGGER_LOCK})
        yield


def _trigger_name(event: str) -> str:
    return f"_face_sync_{event}"


def _trigger_definition(table: str, event: str) -> _Definition:
    template = sqlfiles.named_queries("triggers/statement_triggers.sql")[event]
    return _define_trigger(template, table, _trigger_name(event))


def _guard_definition() -> _Definition:
    return _define_trigger(sqlfiles.named_queries("triggers/guard_trigger.sql")["guard"], "asset", _GUARD)


def _define_trigger(template: LiteralString, table: str, trigger: str) -> _Definition:
    names = {"table": sql.Identifier("public", table), "trigger": sql.Identifier(trigger)}
    create = sql.SQL(template).format(**names).as_string()
    comment = _comment(create)
    set_comment = sql.SQL(sqlfiles.named_queries(_QUERIES)["comment_trigger"])
    return _Definition(create, comment, set_comment.format(**names, comment=sql.Literal(comment)).as_string())


def _function_definition(name: str) -> _Definition:
    create = sqlfiles.read_sql(f"triggers/{name}.sql").strip()
    comment = _comment(create)
    set_comment = sql.SQL(sqlfiles.named_queries(_QUERIES)["comment_function"])
    return _Definition(
        create,
        comment,
        set_comment.format(function=sql.Identifier("_face_sync", name), comment=sql.Literal(comment)).as_string(),
    )


def _comment(definition: str) -> str:
    return f"immich-shared-library {hashlib.sha256(definition.encode()).hexdigest()[:16]}"


def _function_status(name: str, comments: dict[str, str | None]) -> FunctionStatus:
    if name not in comments:
        return FunctionStatus(name, "missing")
    same = comments[name] == _function_definition(name).comment
    return FunctionStatus(name, "installed" if same else "outdated")


def _trigger_state(row: _TriggerRow) -> State:
    event = (row.name or "").removeprefix("_face_sync_")
    if event not in EVENTS:
        return "missing"
    if not row.ours or row.comment != _trigger_definition(row.table_name, event).comment:
        return "outdated"
    return "installed" if row.enabled else "disabled"


def _table_status(table: str, found: dict[tuple[str, str | None], State]) -> TableStatus:
    by_event = {event: found.get((table, _trigger_name(event)), "missing") for event in EVENTS}

    def events(state: State) -> tuple[str, ...]:
        return tuple(event for event in EVENTS if by_event[event] == state)

    order: tuple[State, ...] = ("missing", "outdated", "disabled", "installed")
    return TableStatus(
        table=table,
        state=next(state for state in order if events(state)),
        installed=events("installed"),
        outdated=events("outdated"),
        disabled=events("disabled"),
        missing=events("missing"),
    )
