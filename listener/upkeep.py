"""Keeps our triggers where somebody has installed them: a restored backup may have taken them along.

Where nobody installed them, nothing is done, and the sweep is all there is. Installing needs a lock on each table
and a role that owns Immich's tables; where one of them is not to be had now, it is tried again at each look.
"""

import json
from collections.abc import Iterable

from listener import threads, tracking, triggers
from listener.database import Connection
from listener.immich.layout import Layout, empty
from listener.ops import logs
from listener.ops.metrics import Metrics
from listener.sync.files import OriginalLinks

log = logs.get("upkeep")

# Immich waits behind our lock for as long as we wait for it.
_LOCK_TIMEOUT_MS = 500
# Key of _face_sync_meta, which guard_original.sql reads.
_GUARDED = "guarded prefixes"


async def note_guarded(connection: Connection, prefixes: Iterable[str], layout: Layout) -> None:
    """Note for the guard which target prefixes lead through a symlinked directory. Raises psycopg.Error.

    By it the guard knows copies that the map does not know. What was noted before stays while it leads so. Nothing is
    done where there are no tracking tables, and while a root of external libraries is not mounted.
    """
    noted = await tracking.read_note(connection, _GUARDED)
    now = await threads.run(_guarded, {*prefixes, *json.loads(noted or "[]")}, layout)
    if now is not None and now != noted:
        await tracking.write_note(connection, _GUARDED, now)


def _guarded(prefixes: Iterable[str], layout: Layout) -> str | None:
    prefixes = [*prefixes]
    if any(empty(layout.external_of(prefix).path) for prefix in prefixes):
        return None
    return json.dumps(sorted(prefix for prefix in prefixes if OriginalLinks(layout, prefix).directory))


class Upkeep:
    """The triggers as one listener looks after them."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._limited = logs.Limited(log)
        self._guard: bool | None = None
        self._lost = False

    async def put_back(self, connection: Connection, *, guard: bool | None) -> triggers.TriggerStatus:
        """Put back what is gone, and return how the triggers are then. ``guard``: whether a job needs it.

        Raises TrackingError, psycopg.Error.
        """
        self._guard = guard
        found = await triggers.status(connection, guard=guard)
        self._lost = await triggers.put_back_is_wanted(connection, found)
        if self._lost:
            # The functions write to our tables, and the guard asks them.
            await tracking.migrate(connection)
            try:
                result = await triggers.install(connection, guard=guard, lock_timeout_ms=_LOCK_TIMEOUT_MS, attempts=1)
            except triggers.TriggerError as error:
                self._limited.warning(
                    "triggers are gone and cannot be put back now: changes are seen by the slow sweep only. "
                    "It is tried again",
                    reason=str(error),
                )
            else:
                self._lost = False
                log.info("triggers were gone, perhaps by a restored backup: they are back", changed=result.changed)
            found = await triggers.status(connection, guard=guard)
        self._metrics.triggers_installed.set(found.ok)
        if not found.ok and not self._lost:
            log.warning(
                "the triggers are not installed as they should be: changes are seen by the slow sweep only. "
                "Run: listener triggers install"
            )
        return found

    async def try_again(self, connection: Connection) -> None:
        """Try once more if something could not be put back. Raises TrackingError, psycopg.Error."""
        if self._lost:
            await self.put_back(connection, guard=self._guard)
