"""The role that the listener runs as in tests: made by the SQL of ``listener role print``, owner of nothing."""

import asyncio
import contextlib

import psycopg
from psycopg.conninfo import make_conninfo

from listener import preflight, roles, tracking
from listener.database import connect

NAME = "listener"
# A word of its own: wherever it stands in what the listener prints, it is masked.
_PASSWORD = "opensesame"
_ATTEMPTS = 5


_granted: set[str] = set()


def as_listener(immich: str) -> str:
    """Return how the listener connects to Immich's database, whose tracking tables and rights are made first."""
    if immich not in _granted:
        # A database that is away has no tables; the listener is to wait for it.
        with contextlib.suppress(psycopg.OperationalError):
            grant(immich)
            _granted.add(immich)
    return address(immich)


def address(immich: str) -> str:
    """Return how the role connects to a database in which it has its rights, such as the clone of one."""
    return make_conninfo(immich, user=NAME, password=_PASSWORD)


def grant(immich: str) -> None:
    """Give the role its rights on this database as it is now: after an upgrade or a restore, once more."""
    sql = asyncio.run(_render(immich))
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            with psycopg.connect(immich, autocommit=True) as connection:
                connection.execute(sql.encode())
                connection.execute(f"ALTER ROLE {NAME} PASSWORD '{_PASSWORD}'".encode())
        except (psycopg.errors.UniqueViolation, psycopg.errors.DuplicateObject, psycopg.errors.InternalError_):
            # Roles belong to the whole server: another worker of pytest-xdist may be making it at this moment.
            if attempt == _ATTEMPTS:
                raise
        else:
            return


async def _render(immich: str) -> str:
    async with await connect(immich) as connection:
        await tracking.migrate(connection)
        return await roles.render(connection, await preflight.check_immich(connection), NAME)
