"""Works on a batch in portions that the database can write in time, and gives one slow photo longer.

What is committed late a phone may miss, so the transaction that writes copies is bounded. Where a portion does not end
within that, fewer are tried. One photo that is too slow by itself is tried again with more time, and stamped so much
further ahead. What the disk can do is kept in mind for the next batch.
"""

import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from uuid import UUID

import psycopg

from listener.database import Connection
from listener.immich.catalog import Catalog
from listener.ops import logs
from listener.pace import Pace
from listener.sync.assets import WRITTEN_WITHIN, TooSlowError
from listener.sync.outcome import Outcome, halving
from listener.sync.placing import Failure

log = logs.get("portions")

MOST = 500
# Of what a transaction may take: the next portion may be somewhat slower.
_AIM = 0.8 * WRITTEN_WITHIN
# What one photo may take, in seconds. PostgreSQL ends whatever takes a minute (session.sql).
_LONGER = (WRITTEN_WITHIN, 10.0, 40.0)
# Keys that come by events wait for the batch that is in hand: the rest of a slow one goes behind them.
_PATIENCE = 10.0

Work = Callable[[Sequence[UUID]], Awaitable[None]]


class Portions:
    """How many photos are written at once, and how long one by itself may take."""

    def __init__(self) -> None:
        self._pace = Pace(MOST, aim=_AIM)
        self._longer = 0
        self._limited = logs.Limited(log)

    @property
    def size(self) -> int:
        """How many keys to take next."""
        return self._pace.size

    async def work(
        self, connection: Connection, catalog: Catalog, ids: Sequence[UUID], outcome: Outcome, work: Work
    ) -> None:
        """Do the work for these ids, by portions. What a slow batch has no time for goes to ``outcome.later``.

        Raises psycopg.OperationalError when the connection is lost, ChangedError when the tables are no longer those of
        the catalog.
        """

        async def in_time(some: Sequence[UUID]) -> None:
            try:
                await work(some)
            except psycopg.errors.QueryCanceled as error:
                if connection.closed or connection.broken:
                    raise
                raise TooSlowError(f"the database took too long: {error}", longer=False) from error

        began, waiting = time.monotonic(), deque(ids)
        while waiting:
            if time.monotonic() - began > _PATIENCE:
                outcome.later |= {*waiting}
                return
            portion = [waiting.popleft() for _ in range(min(self.size, len(waiting)))]
            outcome.within = _LONGER[self._longer] if len(portion) == 1 else WRITTEN_WITHIN
            outcome.writing = 0.0
            try:
                await halving(connection, catalog, portion, outcome.failed, in_time)
            except TooSlowError as error:
                self._pace.too_slow(len(portion))
                if self._is_last_try(portion, error):
                    outcome.failed[portion[0]] = Failure("slow", str(error))
                else:
                    waiting.extendleft(reversed(portion))
                    self._tell(portion)
            else:
                self._pace.took(len(portion), outcome.writing)
                self._longer = next(
                    (step for step, seconds in enumerate(_LONGER) if outcome.writing <= 0.8 * seconds), self._longer
                )

    def _is_last_try(self, portion: Sequence[UUID], error: TooSlowError) -> bool:
        """Tell whether nothing is left to try; else the next try has more time, or less to do."""
        if len(portion) > 1:
            return False
        if not error.longer or self._longer == len(_LONGER) - 1:
            return True
        self._longer += 1
        return False

    def _tell(self, portion: Sequence[UUID]) -> None:
        if len(portion) > 1:
            self._limited.warning(
                "the database takes long to write copies: fewer are written at once. Look at its disk",
                tried=len(portion),
                next=self.size,
            )
        else:
            self._limited.warning(
                "the database takes long to write one copy: it is given more time. Look at its disk",
                seconds=_LONGER[self._longer],
            )
