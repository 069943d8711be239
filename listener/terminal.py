"""What all commands share: reading the settings, errors in words, tables.

Exit code 2 means that the settings or the database cannot be used.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from datetime import datetime
from typing import Any, NoReturn, TypeVar

import psycopg
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from listener import preflight, roles, settings, tracking, triggers
from listener.database import Connection, connect
from listener.ops import logs
from listener.settings import Settings

_T = TypeVar("_T")


def refuse(*problems: str) -> NoReturn:
    """End the command with these lines of advice."""
    for problem in problems:
        typer.echo(logs.masked(problem), err=True)
    raise typer.Exit(2)


def read_settings() -> Settings:
    """Read the settings, and set the log up; ends the command where they cannot be used."""
    try:
        loaded = settings.load()
    except settings.SettingsError as error:
        refuse(*error.problems)
    logs.setup(loaded.log_level, loaded.log_format, secrets=settings.secrets(loaded))
    # Python would print the traceback of an error as it is, and its text may quote what must stay secret.
    sys.excepthook = logs.uncaught
    for note in loaded.notes:
        logs.get("settings").info(note)
    return loaded


def with_database(work: Callable[[Connection], Awaitable[_T]], conninfo: str) -> _T:
    """Run something with a connection of ours; ends the command where it cannot be had."""

    async def connected() -> _T:
        async with await connect(conninfo) as connection:
            return await work(connection)

    return answered(connected())


def answered(work: Coroutine[Any, Any, _T]) -> _T:
    """Run something that needs the database, and say in words why it cannot be."""
    try:
        return asyncio.run(work)
    except psycopg.OperationalError as error:
        refuse(f"the database cannot be reached: {str(error).strip().splitlines()[0]}. Check DB_HOSTNAME or DB_URL")
    except preflight.RefusedError as error:
        refuse(*error.problems)
    except (triggers.TriggerError, tracking.TrackingError, roles.RoleError) as error:
        refuse(str(error))
    except psycopg.errors.InsufficientPrivilege as error:
        refuse(
            f"the database refused it: {error.diag.message_primary}. Use the role that Immich uses, or give the "
            "listener's own role its rights: listener role print"
        )


def print_table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table for a person at a terminal, else lines of cells with tabs between them."""
    cells = [[cell(value) for value in row] for row in rows]
    console = Console()
    if not console.is_terminal:
        for line in (headers, *cells):
            typer.echo("\t".join(line))
        return
    table = Table(*headers)
    for line in cells:
        table.add_row(*map(Text, line))
    console.print(table)


def cell(value: object) -> str:
    """Return a value for a table. File names may hold anything; a cell is one line."""
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="seconds")
    text = "" if value is None else str(value)
    return text if text.isprintable() else repr(text)[1:-1]
