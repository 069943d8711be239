"""Looks at what is installed: compares the catalog with what install would make."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import psycopg
from psycopg.rows import class_row, tuple_row

from listener import sqlfiles
from listener.tracking import read_note
from listener.triggers.definitions import (
    EVENTS,
    FUNCTIONS,
    GUARD,
    GUARD_FUNCTION,
    QUERIES,
    TABLES,
    function_definition,
    guard_definition,
    trigger_definition,
    trigger_name,
)

State = Literal["installed", "outdated", "disabled", "missing", "absent"]
"""``absent``: this Immich has no such table. The others are about our own objects."""

GuardState = Literal["installed", "outdated", "disabled", "missing", "not needed", "left over"]
"""``left over``: it is there, and no job needs it any more."""


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
class _TriggerRow:
    """One row of the query trigger_states."""

    table_name: str
    present: bool
    name: str | None
    enabled: bool | None
    ours: bool | None
    comment: str | None


NOTE: Final = "triggers"
"""Key of ``_face_sync_meta`` that holds what was asked for last: one of the three below."""
INSTALLED: Final = "installed"
INSTALLED_WITH_GUARD: Final = "installed with guard"
UNINSTALLED: Final = "uninstalled"


async def put_back_is_wanted(conn: psycopg.AsyncConnection, found: TriggerStatus) -> bool:
    """Tell whether somebody installed the triggers, and something of them is gone without an uninstall.

    A restored backup may lack them, and the note as well; the functions, in a schema of their own, are then still
    there. What somebody only disabled stays so, and where nobody installed anything nothing is wanted.
    """
    noted = await read_note(conn, NOTE)
    if noted is None:
        noted = INSTALLED if any(function.state != "missing" for function in found.functions) else UNINSTALLED
    return noted != UNINSTALLED and (
        any(function.state != "installed" for function in found.functions)
        or any(table.state in {"missing", "outdated"} for table in found.tables)
        # A guard that was never there is for people to decide on: the listener refuses to run without it.
        or (noted == INSTALLED_WITH_GUARD and found.guard in {"missing", "outdated"})
    )


async def status(conn: psycopg.AsyncConnection, *, guard: bool | None = None) -> TriggerStatus:
    """Compare the catalog with what install would make.

    ``guard``: whether a job needs the guard, None where that cannot be told.
    """
    queries = sqlfiles.named_queries(QUERIES)
    async with conn.transaction(), conn.cursor(row_factory=class_row(_TriggerRow)) as cursor:
        comments = await function_comments(conn)
        functions = tuple(_function_status(name, comments) for name in FUNCTIONS)
        guard_state = await _guard_state(conn, guard, functions)
        await cursor.execute(queries["trigger_states"], {"tables": list(TABLES)})
        rows = await cursor.fetchall()

    found = {(row.table_name, row.name): _trigger_state(row) for row in rows}
    present = {row.table_name for row in rows if row.present}
    return TriggerStatus(
        functions=functions,
        tables=tuple(
            _table_status(table, found) if table in present else TableStatus(table, "absent") for table in TABLES
        ),
        guard=guard_state,
    )


async def function_comments(conn: psycopg.AsyncConnection) -> dict[str, str | None]:
    """Return the functions that are there, each with the comment that holds its hash."""
    async with conn.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(sqlfiles.named_queries(QUERIES)["function_comments"])
        return dict(await cursor.fetchall())


async def _guard_state(
    conn: psycopg.AsyncConnection, needed: bool | None, functions: Sequence[FunctionStatus]
) -> GuardState:
    async with conn.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(sqlfiles.named_queries(QUERIES)["guard_state"], {"trigger": GUARD})
        row = await cursor.fetchone()
    if row is None:
        return "missing" if needed else "not needed"
    enabled, ours, comment = row
    if needed is False:
        return "left over"
    # An older function may let an original go where this one does not.
    function = {each.name: each.state for each in functions}[GUARD_FUNCTION]
    if not ours or comment != guard_definition().comment or function != "installed":
        return "outdated"
    return "installed" if enabled else "disabled"


def _function_status(name: str, comments: dict[str, str | None]) -> FunctionStatus:
    if name not in comments:
        return FunctionStatus(name, "missing")
    same = comments[name] == function_definition(name).comment
    return FunctionStatus(name, "installed" if same else "outdated")


def _trigger_state(row: _TriggerRow) -> State:
    event = (row.name or "").removeprefix("_face_sync_")
    if event not in EVENTS:
        return "missing"
    if not row.ours or row.comment != trigger_definition(row.table_name, event).comment:
        return "outdated"
    return "installed" if row.enabled else "disabled"


def _table_status(table: str, found: dict[tuple[str, str | None], State]) -> TableStatus:
    by_event = {event: found.get((table, trigger_name(event)), "missing") for event in EVENTS}

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
