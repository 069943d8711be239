"""Keeps our triggers where somebody has installed them: a restored backup may have taken them along.

Where nobody installed them, nothing is done, and the sweep is all there is. Installing needs a lock on each table
and a role that owns Immich's tables; where one of them is not to be had now, it is tried again at each look.
"""

from listener import tracking, triggers
from listener.database import Connection
from listener.ops import logs
from listener.ops.metrics import Metrics

log = logs.get("upkeep")

# Immich waits behind our lock for as long as we wait for it.
_LOCK_TIMEOUT_MS = 500


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
