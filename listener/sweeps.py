"""When the sweep runs, for whom, and who hears of it: at each connect, from time to time, and when somebody asks.

A sweep that fails in one job goes on with the others, and is begun anew for all soon.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack

from listener import asking, channel, sweep
from listener.batches import Batches
from listener.boundary import Boundary, ends_session
from listener.database import Connection, Pool
from listener.faults import words
from listener.gate import Gate
from listener.immich.catalog import MAYBE_CHANGED, refuse_changed
from listener.immich.learning import Learning
from listener.ops import http, logs
from listener.ops.metrics import Metrics
from listener.ownership import Ownership
from listener.settings import Job, Settings
from listener.startup import Ready
from listener.sync.outcome import failed_of
from listener.workqueue import Key, WorkQueue, set_within

log = logs.get("sweeps")


def _outcome(problems: Mapping[str, str]) -> str | None:
    """Return in a word what was wrong with a sweep, by job; None where nothing was."""
    if not problems:
        return None
    words = set(problems.values())
    return words.pop() if len(words) == 1 and words <= {"locked", "slow"} else "failed"


class Sweeps:
    """The sweeps of one process, and the asks that are to be answered; those live on from session to session."""

    def __init__(
        self,
        settings: Settings,
        learning: Learning,
        queue: WorkQueue,
        batches: Batches,
        ownership: Ownership,
        gate: Gate,
        *,
        boundary: Boundary,
        metrics: Metrics,
        readiness: http.Readiness,
    ) -> None:
        self._interval = settings.reconcile_interval
        self._jobs = settings.jobs
        self._learning = learning
        # How long a sweep waits that was put off, by what was in its way.
        self._put_off: dict[str, float] = {}
        self._queue = queue
        self._batches = batches
        self._ownership = ownership
        self._gate = gate
        self._boundary = boundary
        self._metrics = metrics
        self._readiness = readiness
        self.now = asyncio.Event()
        self._asks: list[channel.Ask] = []
        self._urgent: asyncio.Queue[channel.Ask] = asyncio.Queue()
        self._ready: Ready
        self._pool: Pool

    def begin(self, ready: Ready, pool: Pool) -> None:
        """Begin anew after a connect."""
        self._ready, self._pool = ready, pool

    def soon(self, ask: channel.Ask | None = None) -> None:
        """Sweep now, or when the sweep that runs is done. ``ask``: who wants to hear of it."""
        if ask is not None and ask.ids:
            self._urgent.put_nowait(ask)
            return
        self._asks += [ask] if ask is not None else []
        self.now.set()

    async def often(self) -> None:
        """Sweep when asked and from time to time; soon again where it has failed."""
        wait = self._interval
        pause = 0.0
        while True:
            await set_within(self.now, wait)
            self.now.clear()
            problem = await self._sweep()
            pause = 0.0 if problem is None else self._put_off.get(problem) or self._boundary.longer(pause)
            wait = min(self._interval, pause) if problem is not None else self._interval

    async def _sweep(self) -> str | None:
        """Sweep all our jobs. Returns in a word what went wrong, None if nothing did."""
        started = time.monotonic()
        self._batches.waiting.clear()
        with self._boundary.told("asking which machine learning is on"):
            await self._learning.ask()
        jobs = self._ownership.jobs
        asks, self._asks = self._asks, []
        problems: dict[str, str] = {}
        try:
            async with self._pool.connection() as connection:
                with self._boundary.told("tidying", connection):
                    await sweep.tidy(connection, self._jobs)
                for job in jobs:
                    mine = [ask for ask in asks if ask.job == job.identity]
                    if (problem := await self._try_job(connection, job, mine)) is not None:
                        problems[job.name] = problem
                    else:
                        asks = [ask for ask in asks if ask not in mine]
        finally:
            # Who has not heard is answered by the next one.
            mine_now = {job.identity for job in jobs}
            self._asks = [ask for ask in asks if ask.job in mine_now] + self._asks
        self._told(jobs, problems, time.monotonic() - started)
        return _outcome(problems)

    def _told(self, jobs: list[Job], problems: dict[str, str], seconds: float) -> None:
        self._metrics.sweeps.labels(outcome=_outcome(problems) or "done").inc()
        if not problems:
            self._metrics.sweep_duration.observe(seconds)
        self._metrics.waiting.clear()
        for name, reasons in self._batches.waiting.items():
            for reason, count in reasons.items():
                self._metrics.waiting.labels(job=name, reason=reason).set(count)
        if problems:
            if self._readiness.lacks(http.Condition.FIRST_SWEEP):
                lines = "; ".join(f"job {name!r}: {problem}" for name, problem in problems.items())
                self._readiness.unmet(http.Condition.FIRST_SWEEP, f"{http.Condition.FIRST_SWEEP.value}: {lines}")
        # Jobs that were taken meanwhile have their sweep next.
        elif jobs and {*jobs} >= {*self._ownership.jobs}:
            self._readiness.met(http.Condition.FIRST_SWEEP)
        if jobs and not problems:
            log.info("swept", jobs=len(jobs), seconds=round(seconds, 3))

    async def _try_job(self, connection: Connection, job: Job, asks: list[channel.Ask]) -> str | None:
        """Sweep one job; returns what went wrong. Raises what ends the session."""
        try:
            with ExitStack() as allowed:
                if any(ask.allow_removal for ask in asks):
                    allowed.enter_context(self._ready.reconciler.brake.lifted(job))
                # Not in the lane of the job before it began: whoever is silent is looked at by rows alone.
                await self._sweep_job(connection, job, [ask.id for ask in asks])
        except Exception as error:
            if ends_session(error, connection):
                raise
            if isinstance(error, sweep.PUT_OFF):
                outcome, self._put_off[outcome] = sweep.put_off(error)
                return outcome
            if isinstance(error, MAYBE_CHANGED):
                await refuse_changed(connection, self._ready.catalog)
            if not self._gate.silence.holds(job):
                self._boundary.tell(error, "a sweep", job)
            return words(error)
        return None

    async def _sweep_job(self, connection: Connection, job: Job, asks: list[str]) -> None:
        """Name what may need work, a page after the other, and note what is settled. Those who asked hear of it."""
        ready, batches = self._ready, self._batches
        before = batches.totals[job.name].copy()
        batches.swept = job
        # Where the folders are away, only the rows are looked at.
        on_disk = not await self._gate.only_removes(connection, job)
        total = await ready.sweep.how_many(connection, job) if asks else 0
        looked_at = 0
        await ready.reconciler.brake.look_again(connection, job)
        usable = await ready.reconciler.album_usable(connection, job)
        links = ready.reconciler.links(job) if on_disk else None
        with self._gate.silence.lane(job).used():
            pages = ready.sweep.pages(connection, job, links, album_usable=usable, everything=bool(asks))
            async for page in pages:
                if asks:
                    await self._answer(connection, job, asks, before, looked_at=looked_at, total=total)
                looked_at += page.looked_at
                batches.named, batches.unsettled = {found.key.id for found in page.found}, set()
                batches.named |= {found.other_id for found in page.found if found.other_id is not None}
                self._queue.add(page.keys, urgent=False)
                await self._queue.until(lambda page=page: not self._queue.holds(page.keys))  # type: ignore[misc]
                await ready.sweep.remember(connection, page, batches.unsettled)
        await self._try_failed(connection, job)
        if asks:
            await self._answer(connection, job, asks, before, looked_at=looked_at, total=looked_at, ended=True)

    async def _try_failed(self, connection: Connection, job: Job) -> None:
        """Look at what failed before, too: it may be out of the job by now, and its failure over."""
        keys = [Key("asset", id_) for id_ in await failed_of(connection, job)]
        self._queue.add(keys, urgent=False)
        await self._queue.until(lambda: not self._queue.holds(keys))
        self._metrics.failing.labels(job=job.name).set(len(await failed_of(connection, job)))

    async def answer_urgent(self) -> None:
        """Look at the assets that somebody asks for, without waiting for a sweep."""
        while True:
            ask = await self._urgent.get()
            try:
                await self._answer_ask(ask)
            except BaseException:
                # Whoever asked waits until it is answered.
                self._urgent.put_nowait(ask)
                raise

    async def _answer_ask(self, ask: channel.Ask) -> None:
        for job in self._ownership.jobs:
            if job.identity == ask.job:
                before, keys = self._batches.totals[job.name].copy(), [Key("asset", id_) for id_ in ask.ids]
                self._queue.add(keys)
                await self._queue.until(lambda keys=keys: not self._queue.holds(keys))  # type: ignore[misc]
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
        now = self._batches.totals[job.name]
        counts = {name: now[name] - before[name] for name in ("made", "removed", "failed")}
        progress = asking.Progress(asks, job.identity, looked_at, max(total, looked_at), **counts, ended=ended)
        await asking.answer(connection, progress)
