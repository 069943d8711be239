"""Whose error is it: one key's, or everybody's?

Whatever is raised while one key is worked on is that key's, and whatever is raised in one job is that job's. Only what
says that the ground is gone under all of them is passed on: the connection, the catalog, a disk. So nothing has to be
foreseen to be contained (docs/decisions/0020).
"""

import traceback
from pathlib import Path

import psycopg

_PACKAGE = f"{Path(__file__).parent}/"
# Of a connection that is gone, or of a server that goes: classes 08 and 57P (by whom, for what).
_LOST_STATES = ("08", "57P")
_LONGEST_WORDS = 2000


class EveryonesError(Exception):
    """Something that all keys depend on is gone or changed: whatever is in hand is given up, and begun anew."""


def is_everyones(error: BaseException, connection: psycopg.AsyncConnection[tuple[object, ...]] | None = None) -> bool:
    """Tell whether an error is no single key's and no single job's. ``connection``: on which it was worked."""
    if connection is not None and (connection.closed or connection.broken):
        return True
    return isinstance(error, EveryonesError) or not isinstance(error, Exception)


def connection_lost(error: BaseException) -> bool:
    """Tell whether an error of psycopg says that a connection is gone, not only that a statement failed."""
    if isinstance(error, psycopg.InterfaceError):
        return True
    if type(error).__module__.startswith("psycopg_pool"):
        # All are in use, or none can be had now: whoever waits waits once more.
        return False
    if not isinstance(error, psycopg.OperationalError):
        return False
    return error.sqlstate is None or error.sqlstate.startswith(_LOST_STATES)


def foreseen(error: BaseException) -> bool:
    """Tell whether an error is of a kind that databases and disks raise: its words say enough, without a traceback."""
    return isinstance(error, psycopg.Error | OSError | EveryonesError)


def words(error: BaseException) -> str:
    """Return what went wrong in one line, as text that a database takes; with its kind where that is not told."""
    text = str(error).strip()
    line = text.splitlines()[0] if text else ""
    if not foreseen(error):
        line = f"{type(error).__name__}: {line}".removesuffix(": ")
    return storable(line or type(error).__name__)


def storable(text: str) -> str:
    """Return a text as PostgreSQL can hold it: names of files may be no UTF-8."""
    text = text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
    return text if len(text) <= _LONGEST_WORDS else f"{text[:_LONGEST_WORDS]}…"


def place(error: BaseException) -> str:
    """Return where in this program an error was raised: the innermost line of ours."""
    ours = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(_PACKAGE)]
    return f"{ours[-1].filename.removeprefix(_PACKAGE)}:{ours[-1].lineno}" if ours else "unknown"
