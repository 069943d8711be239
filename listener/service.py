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
from functools import partial
from uuid import UUID, uuid4

import psycopg
from psycopg_pool import PoolTimeout

from listener import asking, channel, condition, mounts, preflight, recovery, roots, startup, sweep
from listener.address import Address
from listener.database import Connection, FencedError, Pool, end_former_sessions, fetch, pool, query
from listener.immich.catalog import ChangedError
from listener.immich.layout import SwappedError
from listener.immich.learning import Learning
from listener.ops import http, logs
from listener.ops.metrics import Metrics
from listener.ownership import Ownership
from listener.refusals import Refusals
from listener.settings import Job, Settings
from listener.sync.outcome import Outcome, tell
from listener.sync.reconciler import Reconciler
from listener.upkeep import Upkeep
from listener.workqueue import Batch, Key, WorkQueue, set_within

log = logs.get("service")

_STOP_WITHIN = 3.0
# A statement that is cancelled ends within two seconds (database.py).
_CANCEL_WITHIN = 3.0
_LONGEST_WAIT = 30.0
_CHANGED_PAUSE = 0.2
_STEADY = 60.0  # a session that lasted so long ended by something new
# Also what PostgreSQL says of a statement: Immich may be in the middle of an upgrade.
_LOST = (psycopg.Error, channel.SilentError, FencedError, PoolTimeout, OSError)


class Service:
    """One running listener."""

    def __init__(self, settings: Settings) -> None:
        self.metrics = Metrics()
        self.readiness = http.Readiness()
        self.queue = WorkQueue()
        self._stop = asyncio.Event()
        self._sweep_now = asyncio.Event()
        self._asks: list[channel.Ask] = []
        self._urgent_asks: asyncio.Queue[channel.Ask] = asyncio.Queue()
        self._ready: startup.Ready | None = None
        self._served = False
        self._trigger_errors: int | None = None
        # A source and its copy are two keys, and people are shared: one batch at a time for each target user.
        self._alone: defaultdict[UUID, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._waiting: dict[str, Counter[str]] = {}
        # Of those that a sweep names just now, for which job: whatever failed, or waits for Immich.
        self._swept: Job | None = None
        self._named: set[UUID] = set()
        self._unsettled: set[UUID] = set()
        self._totals: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._users = {user for job in settings.jobs for user in (job.source_user_id, job.target_user_id)}
        self._watch = condition.Watch(self._users, self.metrics, self.readiness)
        self._upkeep = Upkeep(self.metrics)
        self._learning = Learning(settings.api_url, settings.api_key)
        # No new batch is taken while it is set.
        self._holding = False
        self._owner = uuid4()
        self._mounts = mounts.Mounts(self.metrics, self.readiness)
        self._take(settings)
        self._address = Address(settings)
        self._random = random.Random()  # noqa: S311 - spreads retries, guards nothing
        self._pool = self._new_pool()

    def _take(self, settings: Settings) -> None:
        self.settings = settings
        self._ownership = Ownership(settings.jobs, self._owner)
        self._refusals = Refusals(settings.jobs, self.metrics, self.readiness)

    def _new_pool(self) -> Pool:
        # One for each worker, the sweep, and the look at the mounts.
        return pool(self._address, self.settings.workers + 2, self._owner)

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
        attempt = swaps = 0
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                await self._session()
            except ChangedError as error:
                log.info("Immich's database is not what it was: everything is looked at anew", reason=str(error))
                self.readiness.unmet(http.Condition.DATABASE, str(error))
                pause = _CHANGED_PAUSE
            except mounts.MountedAgainError as error:
                log.info("everything is looked at anew", reason=str(error))
                pause = 0.0
            except SwappedError as error:
                # A disk came or went while a batch was in hand: whether it is away is judged next.
                swaps = min(swaps + 1, 10) if time.monotonic() - began < _STEADY else 1
                pause = min(_LONGEST_WAIT, 2.0**swaps)
                log.warning("everything is looked at anew", reason=str(error), pause_s=pause)
            except (*_LOST, preflight.RefusedError) as error:
                if isinstance(error, preflight.RefusedError) and not self._served:
                    raise
                self.readiness.unmet(http.Condition.DATABASE)
                attempt = 1 if self._ready is not None else attempt + 1
                pause = min(_LONGEST_WAIT, 0.5 * 2.0 ** min(attempt, 10)) * self._random.uniform(0.5, 1)
                words = self._address.words(error)
                log.warning("the database cannot be used: trying again", reason=words, pause_s=pause)
            else:
                return
            finally:
                self._ready = None
                self.metrics.listening.set(0)
                self.readiness.unmet(http.Condition.LISTENING)
                self.readiness.unmet(http.Condition.FIRST_SWEEP)
            self.metrics.reconnects.inc()
            await set_within(self._stop, pause)

    async def _session(self) -> None:
        """Everything between two losses of the listening connection."""
        connection, listening = await channel.open_listening(self._address(), self.metrics, self._notified)
        async with connection:
            if ended := await end_former_sessions(connection, self._owner):
                log.warning("sessions from before were still there: the server has ended them", sessions=ended)
            self._holding = False
            await self._watch.until_calm(connection, self._stop)
            if self._stop.is_set():
                return
            if (settings := await roots.as_immich_says(connection, self.settings)) != self.settings:
                self._take(settings)
            ready = self._ready = await startup.prepare(
                connection, self.settings, self.metrics, self._upkeep, self._learning
            )
            await self._watch.begin(connection, ready.catalog, unheard_before=ready.unheard_before)
            self._served = True
            self.readiness.met(http.Condition.DATABASE)
            self._ownership.lost()
            self.queue.clear()
            layout, follows = ready.reconciler.layout, self.settings.follows_immich
            await self._mounts.begin(connection, layout, self.settings.jobs, follows=follows)
            self._refusals.begin(ready)
            self._pool = self._new_pool()
            await self._pool.open()
            tasks = [
                asyncio.create_task(listening.run(self._proven)),
                asyncio.create_task(self._sweep_often(ready)),
                asyncio.create_task(self._learning.follow(self._sweep_now)),
                asyncio.create_task(self._answer_urgent()),
                asyncio.create_task(self._watch_mounts()),
                *(asyncio.create_task(self._reconcile_batches(ready)) for _ in range(self.settings.workers)),
            ]
            stopping = asyncio.create_task(self._stop.wait())
            try:
                done, _ = await asyncio.wait([*tasks, stopping], return_when=asyncio.FIRST_COMPLETED)
                if self._stop.is_set():
                    await self._finish_in_hand()
                for task in done - {stopping}:
                    task.result()
            finally:
                for task in (*tasks, stopping):
                    task.cancel()
                _, late = await asyncio.wait((*tasks, stopping), timeout=_CANCEL_WITHIN)
                if late:
                    # What waits for a frozen server, or rolls back there.
                    self._pool.give_up()
                await asyncio.gather(*tasks, stopping, return_exceptions=True)
                # Connections from before are not to be trusted, nor is what they have prepared.
                await self._pool.close(timeout=1)

    async def _finish_in_hand(self) -> None:
        """Take no new batch, and wait a while for those in hand."""
        self._holding = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STOP_WITHIN - 1):
                await self.queue.until(lambda: self.queue.in_hand == 0)

    def _notified(self, notification: channel.Notification) -> None:
        ask = notification.ask
        if ask is not None and ask.ids:
            self._urgent_asks.put_nowait(ask)
        elif notification.kind == "sweep":
            self._asks += [ask] if ask is not None else []
            self._sweep_now.set()
        self.queue.add(notification.keys, at=notification.at)
        self._gauge()

    async def _proven(self, connection: Connection) -> None:
        """After each proof of life: take the jobs that nobody holds; for new ones everything is looked at."""
        try:
            sweep_now = await self._watch.look(connection)
        except ChangedError:
            await self._finish_in_hand()
            raise
        await self._upkeep.try_again(connection)
        # Read before anything is swept: what is counted later was not seen by a sweep.
        ((errors,),) = await fetch(connection, query("service", "trigger_errors"), {})
        self.metrics.trigger_errors.set(errors)
        # Whatever the trigger would have told: a lock that it did not wait for, perhaps.
        sweep_now |= self._trigger_errors is not None and errors != self._trigger_errors
        self._trigger_errors = errors
        self.readiness.met(http.Condition.LISTENING)
        ready = self._ready
        if ready is not None:
            before = partial(self._clean_up, connection, ready)
            sweep_now |= bool(await self._ownership.take(connection, before))
        # When all jobs are taken: a sweep begun earlier would leave some out.
        if sweep_now:
            self._sweep_now.set()

    async def _clean_up(self, connection: Connection, ready: startup.Ready, job: Job) -> None:
        if not self._refusals.holds(job):
            await recovery.clean_up(connection, ready.reconciler, job)

    async def _sweep_often(self, ready: startup.Ready) -> None:
        while True:
            await set_within(self._sweep_now, self.settings.reconcile_interval)
            self._sweep_now.clear()
            asks, self._asks = self._asks, []
            try:
                await self._sweep(ready, asks)
            except sweep.PUT_OFF as error:
                # Who asked is answered by the next one.
                self._asks = asks + self._asks
                outcome, pause = sweep.put_off(error)
                self.metrics.sweeps.labels(outcome=outcome).inc()
                await asyncio.sleep(pause)
                self._sweep_now.set()

    async def _sweep(self, ready: startup.Ready, asks: list[channel.Ask]) -> None:
        started = time.monotonic()
        self._waiting.clear()
        await self._learning.ask()
        jobs = self._ownership.jobs
        async with self._pool.connection() as connection:
            await sweep.tidy(connection)
            for job in jobs:
                asked = [ask for ask in asks if ask.job == job.identity]
                with contextlib.ExitStack() as allowed:
                    if any(ask.allow_removal for ask in asked):
                        allowed.enter_context(ready.reconciler.brake.lifted(job))
                    await self._sweep_job(ready, connection, job, [ask.id for ask in asked])
        self.metrics.sweeps.labels(outcome="done").inc()
        self.metrics.sweep_duration.observe(time.monotonic() - started)
        self.metrics.waiting.clear()
        for name, reasons in self._waiting.items():
            for reason, count in reasons.items():
                self.metrics.waiting.labels(job=name, reason=reason).set(count)
        # Jobs that were taken meanwhile have their sweep next.
        if jobs and {*jobs} >= {*self._ownership.jobs}:
            self.readiness.met(http.Condition.FIRST_SWEEP)
        if jobs:
            log.info("swept", jobs=len(jobs), seconds=round(time.monotonic() - started, 3))

    async def _sweep_job(self, ready: startup.Ready, connection: Connection, job: Job, asks: list[str]) -> None:
        """Name what may need work, a page after the other, and note what is settled. Those who asked hear of it."""
        before = self._totals[job.name].copy()
        self._swept = job
        # Where the folders are away, only the rows are looked at.
        on_disk = not await self._only_removes(connection, job)
        total = await ready.sweep.how_many(connection, job) if asks else 0
        looked_at = 0
        await ready.reconciler.brake.look_again(connection, job)
        usable = await ready.reconciler.album_usable(connection, job)
        links = ready.reconciler.links(job) if on_disk else None
        pages = ready.sweep.pages(connection, job, links, album_usable=usable, everything=bool(asks))
        async for page in pages:
            if asks:
                await self._answer(connection, job, asks, before, looked_at=looked_at, total=total)
            looked_at += page.looked_at
            self._named, self._unsettled = {found.key.id for found in page.found}, set()
            self._named |= {found.other_id for found in page.found if found.other_id is not None}
            self.queue.add(page.keys, urgent=False)
            await self.queue.until(lambda page=page: not self.queue.holds(page.keys))  # type: ignore[misc]
            await ready.sweep.remember(connection, page, self._unsettled)
        if asks:
            await self._answer(connection, job, asks, before, looked_at=looked_at, total=looked_at, ended=True)

    async def _answer_urgent(self) -> None:
        """Look at the assets that somebody asks for, without waiting for a sweep."""
        while True:
            ask = await self._urgent_asks.get()
            for job in self._ownership.jobs:
                if job.identity == ask.job:
                    before, keys = self._totals[job.name].copy(), [Key("asset", id_) for id_ in ask.ids]
                    self.queue.add(keys)
                    await self.queue.until(lambda keys=keys: not self.queue.holds(keys))  # type: ignore[misc]
                    count = len(keys)
                    async with self._pool.connection() as connection:
                        await self._answer(connection, job, [ask.id], before, looked_at=count, total=count, ended=True)

    async def _answer(
        self,
        connection: Connection,
        job: Job,
        asks: list[str],
        before: Counter[str],
        *,
        looked_at: int,
        total: int,
        ended: bool = False,
    ) -> None:
        counts = {name: self._totals[job.name][name] - before[name] for name in ("made", "removed", "failed")}
        progress = asking.Progress(asks, job.identity, looked_at, max(total, looked_at), **counts, ended=ended)
        await asking.answer(connection, progress)

    async def _watch_mounts(self) -> None:
        """See also without work that a folder goes away, and that it is back."""
        while True:
            await asyncio.sleep(mounts.EVERY)
            async with self._pool.connection() as connection:
                for job in self._ownership.jobs:
                    await self._only_removes(connection, job)
                await self._refusals.look_again(connection)

    async def _only_removes(self, connection: Connection, job: Job) -> bool:
        """Tell whether for this job rows are taken away only: it is refused, or its folders are away."""
        refused = self._refusals.holds(job)
        return await self._mounts.paused(connection, job, makes=not refused) or refused

    async def _reconcile_batches(self, ready: startup.Ready) -> None:
        while not self._stop.is_set():
            batch = await self.queue.take(ready.reconciler.portions.size)
            failed: set[Key] = set(batch.keys)
            try:
                if not self._stop.is_set() and not self._holding:
                    failed = await self._reconcile(ready.reconciler, batch)
            finally:
                # What failed is not settled: all of it, where the batch ended by an error.
                self._unsettled |= self._named & {key.id for key in failed}
                self.queue.done(batch, failed)
                self._gauge()

    async def _reconcile(self, reconciler: Reconciler, batch: Batch) -> set[Key]:
        """Reconcile one batch for each of our jobs; returns the keys that failed."""
        failed: set[Key] = set()
        self._gauge()
        async with self._pool.connection() as connection:
            for job in self._ownership.jobs:
                async with self._alone[job.target_user_id]:
                    if self._holding:
                        # While it waited here.
                        return set(batch.keys)
                    rows_only = await self._only_removes(connection, job)
                    if rows_only and job is self._swept:
                        # What is left out now, the sweep names again when the job is worked on.
                        self._unsettled |= self._named
                    failed |= await self._reconcile_job(reconciler, connection, job, batch, rows_only=rows_only)
        return failed

    async def _reconcile_job(
        self, reconciler: Reconciler, connection: Connection, job: Job, batch: Batch, *, rows_only: bool
    ) -> set[Key]:
        failed: set[Key] = set()
        if assets := batch.ids("asset"):
            outcome = await reconciler.assets(connection, job, assets, rows_only=rows_only)
            self._count(job, batch, outcome, len(assets))
            # What a slow batch had no time for comes again like what failed: behind what is new.
            failed |= {Key("asset", id_) for id_ in outcome.failed.keys() | outcome.later}
            failed |= {Key("person", id_) for id_ in outcome.failed_people}
        if (people := batch.ids("person")) and not rows_only:
            outcome = await reconciler.people(connection, job, people)
            failed |= {Key("person", id_) for id_ in outcome.failed_people}
        return failed

    def _count(self, job: Job, batch: Batch, outcome: Outcome, keys: int) -> None:
        tell(outcome, job, keys, {key.id: at for key, at in batch.keys.items() if key.kind == "asset"}, self.metrics)
        self._waiting.setdefault(job.name, Counter()).update(outcome.waiting.values())
        self._unsettled |= self._named & outcome.waiting.keys()
        if outcome.owner_removed:
            self._watch.doubt()
        self._totals[job.name].update(
            made=len(outcome.made), removed=outcome.removed + outcome.parked, failed=len(outcome.failed)
        )

    def _gauge(self) -> None:
        self.metrics.keys_queued.set(self.queue.waiting + self.queue.pausing)
        self.metrics.keys_in_flight.set(self.queue.in_hand)
