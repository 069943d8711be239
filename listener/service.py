"""The process: connects, wires the rooms together, and shuts down.

Immich's triggers → channel → workqueue → batches → reconciler is one straight line; the sweep names keys beside it. The
listening connection is the heart: when it is lost everything pauses, when it is back the catalog is read anew and the
sweep runs, since anything may have happened meanwhile.

Nothing ends the process but settings that people must mend: whatever else is raised is told, and begun anew
(docs/decisions/0020).
"""

import asyncio
import contextlib
import random
import time
from functools import partial
from uuid import uuid4

import psycopg

from listener import channel, condition, mounts, preflight, recovery, roots, startup, tracking
from listener.address import Address
from listener.batches import Batches
from listener.boundary import STEADY, Boundary, ends_session
from listener.database import Connection, Pool, end_former_sessions, fetch, pool, query
from listener.faults import EveryonesError
from listener.gate import Gate
from listener.immich.catalog import ChangedError
from listener.immich.layout import Layout, SwappedError
from listener.immich.learning import Learning
from listener.ops import http, logs
from listener.ops.metrics import Metrics
from listener.ownership import Ownership
from listener.refusals import Refusals
from listener.settings import Job, Settings
from listener.silence import Silence
from listener.sweeps import Sweeps
from listener.threads import SilentFolderError
from listener.upkeep import Upkeep
from listener.workqueue import WorkQueue, set_within

log = logs.get("service")

_STOP_WITHIN = 3.0
# A statement that is cancelled ends within two seconds (database.py).
_CANCEL_WITHIN = 3.0
_LONGEST_WAIT = 30.0
_CHANGED_PAUSE = 0.2
# What says that the database or the wire to it is in trouble. PostgreSQL also says so of a statement: Immich may be in
# the middle of an upgrade.
_OF_THE_DATABASE = (psycopg.Error, channel.SilentError, OSError, preflight.RefusedError, tracking.TrackingError)


class Service:
    """One running listener."""

    def __init__(self, settings: Settings) -> None:
        self.metrics = Metrics()
        self.readiness = http.Readiness()
        self.queue = WorkQueue()
        self._stop = asyncio.Event()
        self._ready: startup.Ready | None = None
        self._served = False
        self._trigger_errors: int | None = None
        self._owner = uuid4()
        users = {user for job in settings.jobs for user in (job.source_user_id, job.target_user_id)}
        self._boundary = Boundary(self.metrics)
        self._watch = condition.Watch(users, self.metrics, self.readiness)
        self._upkeep = Upkeep(self.metrics)
        self._learning = Learning(settings.api_url, settings.api_key)
        self._mounts = mounts.Mounts(self.metrics, self.readiness)
        self._take(settings)
        self._address = Address(settings)
        self._random = random.Random()  # noqa: S311 - spreads retries, guards nothing
        self._pool = self._new_pool()

    def _take(self, settings: Settings) -> None:
        """Wire the rooms together for these settings: Immich may say another media root at a connect."""
        self.settings = settings
        self._ownership = Ownership(settings.jobs, self._owner)
        self._refusals = Refusals(settings.jobs, self.metrics, self.readiness)
        silence = Silence(Layout.of(settings), settings.jobs, self.metrics, self.readiness, self._sweep_soon)
        self._gate = Gate(self._mounts, self._refusals, silence)
        self._batches = Batches(self.queue, self.metrics, self._ownership, self._gate, self._watch, self._boundary)
        self._sweeps = Sweeps(
            settings,
            self._learning,
            self.queue,
            self._batches,
            self._ownership,
            self._gate,
            boundary=self._boundary,
            metrics=self.metrics,
            readiness=self.readiness,
        )

    def _new_pool(self) -> Pool:
        # One for each worker, the sweep, and the look at the mounts.
        return pool(self._address, self.settings.workers + 2, self._owner)

    def stop(self) -> None:
        """Ask the service to end: what is in hand is finished, nothing new is begun."""
        self._stop.set()

    async def run(self) -> None:
        """Run until stopped. Raises RefusedError, TrackingError or CannotServeError for what people must mend."""
        tasks = [asyncio.create_task(self._serve()), asyncio.create_task(self._work())]
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

    async def _serve(self) -> None:
        """Serve metrics and health; where that ends by an error, again. Raises CannotServeError at the first time."""
        pause = 0.0
        while not self._stop.is_set():
            try:
                await http.serve(
                    self.settings.http_host, self.settings.http_port, self.metrics, self.readiness, stop=self._stop
                )
            except http.CannotServeError as error:
                if not pause:
                    raise
                self._boundary.tell(error, "metrics and health")
            except Exception as error:  # noqa: BLE001 - whatever it is, the work goes on
                self._boundary.tell(error, "metrics and health")
            pause = self._boundary.longer(pause)
            await set_within(self._stop, pause)

    async def _work(self) -> None:
        """Connect, and start again whatever ends a session, with a growing pause, for ever."""
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
                swaps = min(swaps + 1, 10) if time.monotonic() - began < STEADY else 1
                pause = min(_LONGEST_WAIT, 2.0**swaps)
                log.warning("everything is looked at anew", reason=str(error), pause_s=pause)
            except Exception as error:
                if isinstance(error, preflight.RefusedError | tracking.TrackingError) and not self._served:
                    raise
                attempt = 1 if self._ready is not None else attempt + 1
                pause = min(_LONGEST_WAIT, 0.5 * 2.0 ** min(attempt, 10)) * self._random.uniform(0.5, 1)
                self._told(error, pause)
            else:
                return
            finally:
                self._ready = None
                self.metrics.listening.set(0)
                self.readiness.unmet(http.Condition.LISTENING)
                self.readiness.unmet(http.Condition.FIRST_SWEEP)
            self.metrics.reconnects.inc()
            await set_within(self._stop, pause)

    def _told(self, error: Exception, pause: float) -> None:
        """Tell why a session has ended."""
        if isinstance(error, SilentFolderError):
            self.readiness.unmet(http.Condition.DATABASE, f"waiting: {error}")
            log.warning("a folder that all jobs need does not answer: trying again", reason=str(error), pause_s=pause)
        elif isinstance(error, (*_OF_THE_DATABASE, EveryonesError)):
            self.readiness.unmet(http.Condition.DATABASE)
            words = self._address.words(error)
            log.warning("the database cannot be used: trying again", reason=words, pause_s=pause)
        else:
            self.readiness.unmet(http.Condition.DATABASE, "an error ended the work: it is begun anew, see the log")
            self._boundary.tell(error, "a session", pause_s=pause)

    async def _session(self) -> None:
        """Everything between two losses of the listening connection."""
        connection, listening = await channel.open_listening(await self._address(), self.metrics, self._notified)
        async with connection:
            if ended := await end_former_sessions(connection, self._owner):
                log.warning("sessions from before were still there: the server has ended them", sessions=ended)
            self._batches.begin()
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
            self._sweeps.begin(ready, self._pool)
            await self._until_it_ends(listening, ready)

    async def _until_it_ends(self, listening: channel.Listening, ready: startup.Ready) -> None:
        kept = self._boundary.kept
        batches = partial(self._batches.work, ready.reconciler, self._pool, self._stop)
        tasks = [
            # What was heard while it failed may be lost.
            asyncio.create_task(kept("listening", lambda: listening.run(self._proven), again=self._sweeps.soon)),
            asyncio.create_task(kept("the sweeps", self._sweeps.often, again=self._sweeps.soon)),
            asyncio.create_task(kept("asking about machine learning", lambda: self._learning.follow(self._sweeps.now))),
            asyncio.create_task(kept("answering asks", self._sweeps.answer_urgent)),
            asyncio.create_task(kept("the watch over the folders", self._watch_mounts)),
            *(asyncio.create_task(kept("the work on batches", batches)) for _ in range(self.settings.workers)),
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
        self._batches.holding = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STOP_WITHIN - 1):
                await self.queue.until(lambda: self.queue.in_hand == 0)

    def _sweep_soon(self) -> None:
        self._sweeps.soon()

    def _notified(self, notification: channel.Notification) -> None:
        try:
            if notification.kind == "sweep":
                self._sweeps.soon(notification.ask)
            self.queue.add(notification.keys, at=notification.at)
            self._batches.gauge()
        except Exception as error:  # noqa: BLE001 - the sweep finds what it meant
            self._boundary.tell(error, "hearing a notification")
            self._sweeps.soon()

    async def _proven(self, connection: Connection) -> None:
        """After each proof of life: see how Immich is, and take the jobs that nobody holds.

        What goes wrong in one of the looks is told, and looked at again at the next one.
        """
        looks = (
            ("the look at Immich", self._look),
            ("the look at the triggers", self._upkeep.try_again),
            ("the look at the triggers' errors", self._count_trigger_errors),
            ("taking jobs", self._take_jobs),
        )
        for where, look in looks:
            with self._boundary.told(where, connection):
                await look(connection)
        self.readiness.met(http.Condition.LISTENING)

    async def _look(self, connection: Connection) -> None:
        try:
            if await self._watch.look(connection):
                self._sweeps.soon()
        except ChangedError:
            await self._finish_in_hand()
            raise

    async def _count_trigger_errors(self, connection: Connection) -> None:
        # Read before anything is swept: what is counted later was not seen by a sweep.
        ((errors,),) = await fetch(connection, query("service", "trigger_errors"), {})
        self.metrics.trigger_errors.set(errors)
        # Whatever the trigger would have told: a lock that it did not wait for, perhaps.
        if self._trigger_errors is not None and errors != self._trigger_errors:
            self._sweeps.soon()
        self._trigger_errors = errors

    async def _take_jobs(self, connection: Connection) -> None:
        """Take the jobs that nobody holds; for new ones everything is looked at."""
        if self._ready is None:
            return
        before = self._ownership.jobs
        try:
            await self._ownership.take(connection, partial(self._clean_up, connection, self._ready))
        finally:
            # When all jobs are taken: a sweep begun earlier would leave some out.
            if self._ownership.jobs != before:
                self._sweeps.soon()

    async def _clean_up(self, connection: Connection, ready: startup.Ready, job: Job) -> None:
        """Remove what is left over from before; where that fails the job is served all the same, and it is tried again.

        Else one odd thing among many would keep all photos from being shared.
        """
        if self._refusals.holds(job):
            return
        work = partial(recovery.clean_up, reconciler=ready.reconciler.of_job(job), job=job)
        try:
            with self._gate.silence.lane(job).used():
                await work(connection)
        except Exception as error:
            if ends_session(error, connection):
                raise
            if not self._gate.silence.holds(job):
                self._boundary.tell(error, "cleaning up", job)
            self._batches.before_next(job, work)

    async def _watch_mounts(self) -> None:
        """See also without work that a folder goes away, and that it is back."""
        while True:
            await asyncio.sleep(mounts.EVERY)
            async with self._pool.connection() as connection:
                for job in self._ownership.jobs:
                    with self._boundary.told("the look at a job's folders", connection, job):
                        await self._gate.only_removes(connection, job)
                with self._boundary.told("the look at refused jobs", connection):
                    await self._refusals.look_again(connection)
