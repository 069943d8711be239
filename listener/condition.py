"""How Immich is at this moment: at work as we know it, upgrading, in maintenance, or not what it was.

Read at every proof of life, by two cheap statements. Immich runs all migrations of an upgrade in one transaction
under an advisory lock, and restores backups in its maintenance mode: while either is on, nothing is touched. A
changed catalog, also one that was restored with the same columns, needs statements composed anew. And some things
that decide what is shared change without an event: a removed user or library, a joined cluster group.
"""

import asyncio
import contextlib
from collections.abc import Collection
from dataclasses import dataclass, replace
from uuid import UUID

import psycopg
from psycopg import sql

from listener import tracking
from listener.database import Connection, fetch, query, statement, uuids
from listener.immich.catalog import Catalog, ChangedError
from listener.ops import http, logs
from listener.ops.metrics import Metrics

log = logs.get("condition")

UPGRADING = "Immich is starting or upgrading its database: waiting until it is done"
MAINTENANCE = "Immich is in maintenance mode: waiting until it is over"
REBUILDING = "Immich's tables are not there: waiting, a backup may be being restored"

# The listening connection must not wait long for a lock of somebody's.
_LOCK_TIMEOUT_MS = 200
_BUSY_PAUSE = 1.0  # seconds between two looks while Immich is busy
# The last two where the function is gone that tells the listener's own role of Immich's settings.
_NOT_ALLOWED = (
    psycopg.errors.InsufficientPrivilege,
    psycopg.errors.InvalidSchemaName,
    psycopg.errors.UndefinedFunction,
)


@dataclass(frozen=True, slots=True)
class Condition:
    """What was seen. ``busy``: words, if nothing may be done now.

    tables: a fingerprint of Immich's tables, equal to the catalog's. ours: of our own triggers and tables. version:
    of Immich. circumstances: a fingerprint of what decides about sharing and has no event. The last two are None
    where they could not be read now.
    """

    busy: str | None
    tables: str
    ours: str
    version: str | None = None
    circumstances: str | None = None


_STRUCTURE = statement("condition", "structure", tables=query("catalog", "fingerprint"))
# By whether this Immich has cluster groups (3.2+).
_CIRCUMSTANCES = {
    True: statement("condition", "circumstances", cluster_group=sql.SQL('who."clusterGroupId"')),
    False: statement("condition", "circumstances", cluster_group=sql.SQL("NULL")),
}


async def read(connection: Connection, users: Collection[UUID]) -> Condition:
    """Look at Immich; ``users`` are those of our jobs. Raises psycopg.OperationalError when the connection is lost."""
    ((migrating, tables, ours, readable, clusters),) = await fetch(connection, _STRUCTURE, {})
    if migrating:
        return Condition(UPGRADING, tables, ours)
    if not readable:
        return Condition(REBUILDING, tables, ours)
    try:
        async with connection.transaction():
            await connection.execute(query("condition", "set_lock_timeout"), {"milliseconds": _LOCK_TIMEOUT_MS})
            rows = await fetch(connection, _CIRCUMSTANCES[clusters], {"users": uuids(users)})
    except (psycopg.errors.LockNotAvailable, *_NOT_ALLOWED):
        # Somebody changes these tables right now: seen at the next look. Rights that are missing, preflight names.
        return Condition(None, tables, ours)
    except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn):
        return Condition(REBUILDING, tables, ours)
    ((maintenance, version, circumstances),) = rows
    return Condition(MAINTENANCE if maintenance else None, tables, ours, version, circumstances)


def changes(before: Condition, now: Condition) -> str | None:
    """Return words for a change that needs everything to be read anew, None for none."""
    if now.tables != before.tables:
        return "Immich's tables have changed"
    if now.ours != before.ours:
        return "our triggers or tables have changed"
    if now.version is not None and before.version is not None and now.version != before.version:
        return f"Immich is {now.version} now, and was {before.version}"
    return None


class Watch:
    """Keeps an eye on Immich for one listener, and tells readiness, the metric and the log."""

    def __init__(self, users: Collection[UUID], metrics: Metrics, readiness: http.Readiness) -> None:
        self._users = users
        self._metrics = metrics
        self._readiness = readiness
        self._before = Condition(None, "", "")
        self._begun = False
        self._unheard_before: str | None = None
        self._doubted = False

    def doubt(self) -> None:
        """Something was done for a user or library that is marked as removed: the next look asks for a sweep.

        Both may have come and gone between two looks, which would look the same then.
        """
        self._doubted = True

    async def until_calm(self, connection: Connection, stop: asyncio.Event) -> None:
        """Wait while Immich upgrades or is in maintenance, or until ``stop`` is set. Raises psycopg.Error."""
        said = None
        while not stop.is_set():
            busy = (await read(connection, self._users)).busy
            if busy == REBUILDING and not self._begun:
                # At a first start this is no Immich, which preflight says.
                busy = None
            self._metrics.immich_busy.set(busy is not None)
            if busy is None:
                if said is not None:
                    log.info("Immich is back: everything is looked at anew")
                return
            if busy != said:
                log.warning(busy)
            said = busy
            self._readiness.unmet(http.Condition.DATABASE, busy)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_BUSY_PAUSE):
                    await stop.wait()

    async def begin(self, connection: Connection, catalog: Catalog, *, unheard_before: str | None) -> None:
        """Take what is now as that with which a later look is compared.

        unheard_before: see `Ready`. Raises ChangedError if it is not what the catalog was read from, psycopg.Error.
        """
        self._before = await read(connection, self._users)
        if self._before.busy is not None:
            raise ChangedError(self._before.busy)
        if self._before.tables != catalog.fingerprint:
            raise ChangedError("Immich's tables have changed")
        self._begun = True
        self._unheard_before = unheard_before or self._unheard_before

    async def look(self, connection: Connection) -> bool:
        """Compare what is now with what was; tell whether a sweep is needed.

        Raises ChangedError where everything is to be read anew, psycopg.Error.
        """
        now, before = await read(connection, self._users), self._before
        self._metrics.immich_busy.set(now.busy is not None)
        if (words := now.busy or changes(before, now)) is not None:
            raise ChangedError(words)
        self._before = replace(
            now, version=now.version or before.version, circumstances=now.circumstances or before.circumstances
        )
        # Somebody else may have taken them out.
        unheard = await tracking.add_watched_users(connection, self._users) or self._unheard_before
        self._unheard_before = unheard
        if (
            unheard is not None
            and (await fetch(connection, query("condition", "over"), {"transaction": unheard}))[0][0]
        ):
            # The first sweep did not see yet what they did.
            self._unheard_before = None
            return True
        doubted, self._doubted = self._doubted, False
        return doubted or (
            None not in {before.circumstances, now.circumstances} and before.circumstances != now.circumstances
        )
