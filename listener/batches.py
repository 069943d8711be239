"""Batches of keys: taken from the queue, and reconciled for each job that is ours.

What goes wrong with one key is that key's (`listener.sync.outcome`), and what goes wrong in one job is that job's: the
keys come again after a pause, and the other jobs go on.
"""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from uuid import UUID

from listener import condition
from listener.boundary import Boundary, ends_session
from listener.database import Connection, Pool
from listener.gate import Gate
from listener.ops.metrics import Metrics
from listener.ownership import Ownership
from listener.settings import Job
from listener.sync.outcome import Outcome, tell
from listener.sync.reconciler import Reconciler
from listener.threads import SilentFolderError
from listener.workqueue import Batch, Key, WorkQueue


@dataclass(slots=True)
class _Before:
    """Work that comes before a job's batches, and when it is tried again where it has failed."""

    work: Callable[[Connection], Awaitable[None]]
    again_at: float = 0.0
    pause: float = 0.0


class Batches:
    """What works on the keys of the queue, and keeps count."""

    def __init__(
        self,
        queue: WorkQueue,
        metrics: Metrics,
        ownership: Ownership,
        gate: Gate,
        watch: condition.Watch,
        boundary: Boundary,
    ) -> None:
        self._queue = queue
        self._metrics = metrics
        self._ownership = ownership
        self._gate = gate
        self._watch = watch
        self._boundary = boundary
        # A source and its copy are two keys, and people are shared: one batch at a time for each target user.
        self._alone: defaultdict[UUID, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._before: dict[str, _Before] = {}
        self.waiting: dict[str, Counter[str]] = {}
        # Of those that a sweep names just now, for which job: whatever failed, or waits for Immich.
        self.swept: Job | None = None
        self.named: set[UUID] = set()
        self.unsettled: set[UUID] = set()
        self.totals: defaultdict[str, Counter[str]] = defaultdict(Counter)
        # No new batch is taken while it is set.
        self.holding = False

    def begin(self) -> None:
        """Begin anew after a connect."""
        self.holding = False
        self._before.clear()

    def before_next(self, job: Job, work: Callable[[Connection], Awaitable[None]]) -> None:
        """Do something for a job before its next batch, while nothing else is done for its target user.

        What fails is done before a later one, after a growing pause.
        """
        self._before[job.name] = _Before(work)

    async def work(self, reconciler: Reconciler, pool: Pool, stop: asyncio.Event) -> None:
        """Take batches and reconcile them, for ever."""
        while not stop.is_set():
            batch = await self._queue.take(reconciler.portions.size)
            failed: set[Key] = set(batch.keys)
            try:
                with self._boundary.told("a batch"):
                    if not stop.is_set() and not self.holding:
                        failed = await self._reconcile(reconciler, pool, batch)
            finally:
                # What failed is not settled: all of it, where the batch ended by an error.
                self.unsettled |= self.named & {key.id for key in failed}
                self._queue.done(batch, failed)
                self.gauge()

    async def _reconcile(self, reconciler: Reconciler, pool: Pool, batch: Batch) -> set[Key]:
        """Reconcile one batch for each of our jobs; returns the keys that failed."""
        failed: set[Key] = set()
        self.gauge()
        async with pool.connection() as connection:
            for job in self._ownership.jobs:
                async with self._alone[job.target_user_id]:
                    if self.holding:
                        # While it waited here.
                        return set(batch.keys)
                    try:
                        failed |= await self._for_job(reconciler, connection, job, batch)
                    except SilentFolderError:
                        self._gate.silence.holds(job)
                        failed |= set(batch.keys)
                    except Exception as error:
                        if ends_session(error, connection):
                            raise
                        self._boundary.tell(error, "a batch", job)
                        failed |= set(batch.keys)
        return failed

    async def _for_job(self, reconciler: Reconciler, connection: Connection, job: Job, batch: Batch) -> set[Key]:
        rows_only = await self._gate.only_removes(connection, job)
        if rows_only and job is self.swept:
            # What is left out now, the sweep names again when the job is worked on.
            self.unsettled |= self.named
        with self._gate.silence.lane(job).used():
            if not rows_only and (before := self._before.get(job.name)) is not None:
                await self._do_before(connection, job, before)
            return await self._reconcile_job(reconciler.of_job(job), connection, job, batch, rows_only=rows_only)

    async def _do_before(self, connection: Connection, job: Job, before: "_Before") -> None:
        if time.monotonic() < before.again_at:
            return
        before.pause = self._boundary.longer(before.pause)
        before.again_at = time.monotonic() + before.pause
        with self._boundary.told("what comes before the first batch", connection, job):
            await before.work(connection)
            del self._before[job.name]

    async def _reconcile_job(
        self, reconciler: Reconciler, connection: Connection, job: Job, batch: Batch, *, rows_only: bool
    ) -> set[Key]:
        failed: set[Key] = set()
        if assets := batch.ids("asset"):
            outcome = await reconciler.assets(connection, job, assets, rows_only=rows_only)
            self._count(job, batch, outcome, len(assets))
            failed |= _again(outcome)
        if (people := batch.ids("person")) and not rows_only:
            outcome = await reconciler.people(connection, job, people)
            failed |= _again(outcome)
        return failed

    def _count(self, job: Job, batch: Batch, outcome: Outcome, keys: int) -> None:
        tell(outcome, job, keys, {key.id: at for key, at in batch.keys.items() if key.kind == "asset"}, self._metrics)
        self.waiting.setdefault(job.name, Counter()).update(outcome.waiting.values())
        self.unsettled |= self.named & outcome.waiting.keys()
        if outcome.owner_removed:
            self._watch.doubt()
        self.totals[job.name].update(
            made=len(outcome.made), removed=outcome.removed + outcome.parked, failed=len(outcome.failed)
        )

    def gauge(self) -> None:
        """Tell how many keys there are."""
        self._metrics.keys_queued.set(self._queue.waiting + self._queue.pausing)
        self._metrics.keys_in_flight.set(self._queue.in_hand)


def _again(outcome: Outcome) -> set[Key]:
    """Return what is to be tried again."""
    # What a slow batch had no time for comes again like what failed: behind what is new.
    assets = {*outcome.failed, *outcome.left, *outcome.later}
    return {Key("asset", id_) for id_ in assets} | {Key("person", id_) for id_ in outcome.failed_people}
