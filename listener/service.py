"""The process: connects, wires the rooms together, and shuts down.

Immich's triggers → channel → workqueue → reconciler is one straight line; the sweep names keys beside it. The
listening connection is the heart: when it is lost everything pauses, when it is back the catalog is read anew
and the sweep runs, since anything may have happened meanwhile.
"""

import asyncio
import contextlib
import random
import time
from collections import Counter, defaultdict
from uuid import UUID, uuid4

import psycopg
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from listener import channel, preflight, sweep, tracking, triggers
from listener.database import Connection, FencedError, fetch, pool, query
from listener.immich import api
from listener.immich.layout import Layout
from listener.ops import http, logs
from listener.ops.metrics import Metrics
from listener.ownership import Ownership
from listener.settings import Job, Settings
from listener.sync.reconciler import Outcome, Reconciler
from listener.workqueue import Batch, Key, WorkQueue

log = logs.get("service")

BATCH = 500
# A sweep waits when this many keys wait already: memory stays bounded.
_BACKLOG = 4 * BATCH
_STOP_WITHIN = 4.0
_LONGEST_WAIT = 30.0
# Also what PostgreSQL says of a statement: Immich may be in the middle of an upgrade.
_LOST = (psycopg.Error, channel.SilentError, FencedError, PoolTimeout, OSError)


class Service:
    """One running listener."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.readiness = http.Readiness()
        self.queue = WorkQueue()
        self._stop = asyncio.Event()
        self._sweep_now = asyncio.Event()
        self._reconciler: Reconciler | None = None
        self._served = False
        # A source and its copy are two keys, and people are shared: one batch at a time for each target user.
        self._alone: defaultdict[UUID, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._waiting: dict[str, Counter[str]] = {}
        self._layout = Layout(settings.media_root, settings.external_root)
        owner = uuid4()
        self._ownership = Ownership(settings.jobs, owner)
        self._pool: AsyncConnectionPool[Connection] = pool(settings.conninfo, settings.workers + 1, owner)

    def stop(self) -> None:
        """Ask the service to end: what is in hand is finished, nothing new is begun."""
        self._stop.set()

    async def run(self) -> None:
        """Run until stopped. Raises RefusedError, TrackingError or CannotServeError for what people must mend."""
        tasks = [
            asyncio.create_task(
                http.serve(
                    self.settings.http_host, self.settings.http_port, self.metrics, self.readiness, stop=self._stop
                )
            ),
            asyncio.create_task(self._work()),
        ]
        stopping = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait([*tasks, stopping], return_when=asyncio.FIRST_COMPLETED)
            log.info("stopping")
        finally:
            self._stop.set()
            _, late = await asyncio.wait(tasks, timeout=_STOP_WITHIN)
            for task in (*late, stopping):
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            with contextlib.suppress(TimeoutError):
                await self._pool.close(timeout=1)
        for result in results:
            if isinstance(result, Exception):
                raise result
        log.info("stopped")

    async def _work(self) -> None:
        """Connect, and start again whenever the listening connection is lost, with a growing pause, for ever."""
        attempt = 0
        while not self._stop.is_set():
            try:
                await self._session()
            except (*_LOST, preflight.RefusedError) as error:
                if isinstance(error, preflight.RefusedError) and not self._served:
                    raise
                self.readiness.unmet(http.Condition.DATABASE)
                attempt = 1 if self._reconciler is not None else attempt + 1
                pause = min(_LONGEST_WAIT, 0.5 * 2.0 ** min(attempt, 10)) * random.uniform(0.5, 1)  # noqa: S311
                log.warning("the database cannot be used: trying again", reason=_first_line(error), pause_s=pause)
            else:
                return
            finally:
                self._reconciler = None
                self.metrics.listening.set(0)
                self.readiness.unmet(http.Condition.LISTENING)
                self.readiness.unmet(http.Condition.FIRST_SWEEP)
            self.metrics.reconnects.inc()
            await _set_within(self._stop, pause)

    async def _session(self) -> None:
        """Everything between two losses of the listening connection."""
        connection, listening = await channel.open_listening(self.settings.conninfo, self.metrics, self._notified)
        async with connection:
            self._reconciler = await self._prepare(connection)
            self._served = True
            self.readiness.met(http.Condition.DATABASE)
            self._ownership.lost()
            self.queue.clear()
            await self._pool.open()
            tasks = [
                asyncio.create_task(listening.run(self._proven)),
                asyncio.create_task(self._sweep_often()),
                *(asyncio.create_task(self._reconcile_batches()) for _ in range(self.settings.workers)),
            ]
            stopping = asyncio.create_task(self._stop.wait())
            try:
                done, _ = await asyncio.wait([*tasks, stopping], return_when=asyncio.FIRST_COMPLETED)
                if self._stop.is_set():
                    # No new batch is taken; those in hand are finished.
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(_STOP_WITHIN - 1):
                            await self.queue.until(lambda: self.queue.in_hand == 0)
                for task in done - {stopping}:
                    task.result()
            finally:
                for task in (*tasks, stopping):
                    task.cancel()
                await asyncio.gather(*tasks, stopping, return_exceptions=True)

    async def _prepare(self, connection: Connection) -> Reconciler:
        """Read what this Immich is, and bring our tables there. Nothing is written to an unfit database."""
        settings = self.settings
        catalog = await preflight.check(connection, settings.jobs, self._layout)
        for warning in catalog.warnings():
            log.warning(warning)
        guard = await preflight.guard_needed(connection, catalog, settings.jobs, self._layout)
        installed = await triggers.status(connection, guard=guard)
        preflight.refuse_unguarded(catalog, settings.jobs, self._layout, guarded=installed.guard == "installed")
        applied = await tracking.migrate(connection)
        if applied:
            log.info("tracking tables are ready", versions=applied)
        users = {user for job in settings.jobs for user in (job.source_user_id, job.target_user_id)}
        await tracking.set_watched_users(connection, users)
        for left in await preflight.leftovers(connection, settings.jobs):
            log.warning(
                "copies belong to no job of the configuration: they are kept. "
                "To remove them, add their job again with remove_copies: true",
                copies=left.copies,
                source=left.source,
                target=left.target,
                folder=left.folder,
            )
        if not installed.ok:
            log.warning(
                "the triggers are not installed as they should be: changes are seen by the slow sweep only. "
                "Run: listener triggers install"
            )
        known = await api.features(settings.api_url, settings.api_key)
        return Reconciler.compose(
            catalog,
            media_root=settings.media_root,
            external_root=settings.external_root,
            link_mode=settings.link_mode,
            metrics=self.metrics,
            # Unknown: wait for all of it, ML_WAIT_SECONDS at most.
            features=known or api.Features(smart_search=True, facial_recognition=True, ocr=True),
            ml_wait=settings.ml_wait,
        )

    def _notified(self, notification: channel.Notification) -> None:
        if notification.kind == "sweep":
            self._sweep_now.set()
        self.queue.add(notification.keys, at=notification.at)
        self._gauge()

    async def _proven(self, connection: Connection) -> None:
        """After each proof of life: take the jobs that nobody holds; for new ones everything is looked at."""
        self.readiness.met(http.Condition.LISTENING)
        if await self._ownership.take(connection):
            self._sweep_now.set()
        rows = await fetch(connection, query("service", "trigger_errors"), {})
        self.metrics.trigger_errors.set(rows[0][0])

    async def _sweep_often(self) -> None:
        while True:
            await _set_within(self._sweep_now, self.settings.reconcile_interval)
            self._sweep_now.clear()
            started = time.monotonic()
            self._waiting.clear()
            for job in self._ownership.jobs:
                async with self._pool.connection() as connection:
                    await sweep.tidy(connection)
                    async for keys in sweep.pages(connection, job):
                        await self.queue.until(lambda: self.queue.waiting < _BACKLOG)
                        self.queue.add(keys, urgent=False)
            await self.queue.until(lambda: self.queue.waiting + self.queue.in_hand == 0)
            self.metrics.sweeps.labels(outcome="done").inc()
            self.metrics.sweep_duration.observe(time.monotonic() - started)
            self.metrics.waiting.clear()
            for name, reasons in self._waiting.items():
                for reason, count in reasons.items():
                    self.metrics.waiting.labels(job=name, reason=reason).set(count)
            if self._ownership.jobs:
                self.readiness.met(http.Condition.FIRST_SWEEP)
                log.info("swept", jobs=len(self._ownership.jobs), seconds=round(time.monotonic() - started, 3))

    async def _reconcile_batches(self) -> None:
        while not self._stop.is_set():
            batch = await self.queue.take(BATCH)
            failed: set[Key] = set(batch.keys)
            try:
                if not self._stop.is_set():
                    failed = await self._reconcile(batch)
            finally:
                self.queue.done(batch, failed)
                self._gauge()

    async def _reconcile(self, batch: Batch) -> set[Key]:
        """Reconcile one batch for each of our jobs; returns the keys that failed."""
        failed: set[Key] = set()
        reconciler = self._reconciler
        if reconciler is None:
            return set(batch.keys)
        self._gauge()
        async with self._pool.connection() as connection:
            for job in self._ownership.jobs:
                async with self._alone[job.target_user_id]:
                    failed |= await self._reconcile_job(reconciler, connection, job, batch)
        return failed

    async def _reconcile_job(self, reconciler: Reconciler, connection: Connection, job: Job, batch: Batch) -> set[Key]:
        failed: set[Key] = set()
        if assets := batch.ids("asset"):
            outcome = await reconciler.assets(connection, job, assets)
            self._count(job, batch, outcome, len(assets))
            failed |= {Key("asset", id_) for id_ in outcome.failed}
            failed |= {Key("person", id_) for id_ in outcome.failed_people}
        if people := batch.ids("person"):
            outcome = await reconciler.people(connection, job, people)
            failed |= {Key("person", id_) for id_ in outcome.failed_people}
        return failed

    def _count(self, job: Job, batch: Batch, outcome: Outcome, keys: int) -> None:
        metrics = self.metrics
        metrics.copies_made.labels(job=job.name).inc(len(outcome.made))
        metrics.copies_removed.labels(job=job.name).inc(outcome.removed)
        metrics.keys_reconciled.labels(job=job.name, outcome="failed").inc(len(outcome.failed))
        metrics.keys_reconciled.labels(job=job.name, outcome="done").inc(keys - len(outcome.failed))
        self._waiting.setdefault(job.name, Counter()).update(outcome.waiting)
        now = time.time()
        for id_ in outcome.made:
            at = batch.keys.get(Key("asset", id_))
            if at is not None:
                metrics.latency.observe(max(0.0, now - at))
                log.debug("copied", job=job.name, asset=id_, latency_ms=round((now - at) * 1000, 3))
        if outcome.made or outcome.removed:
            log.info(
                "reconciled",
                job=job.name,
                keys=keys,
                made=len(outcome.made),
                removed=outcome.removed,
                failed=len(outcome.failed),
            )

    def _gauge(self) -> None:
        self.metrics.keys_queued.set(self.queue.waiting + self.queue.pausing)
        self.metrics.keys_in_flight.set(self.queue.in_hand)


async def _set_within(event: asyncio.Event, seconds: float) -> None:
    """Wait until an event is set or the time is over. Not by wait_for: up to Python 3.11 it may lose a cancel."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
