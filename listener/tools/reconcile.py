"""Reconcile now: asks the running listener to look at everything, and follows it until it is done.

A job that no listener serves is taken and done right here, in the same way as the service does it: by the same
pages of keys and the same reconciler, as the job's owner. ``preview`` changes nothing, and asks the judge.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from uuid import UUID, uuid4

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

from listener import asking, mounts, preflight, roots, startup, tracking
from listener.asking import Progress
from listener.channel import Ask
from listener.database import Connection, Pool, connect, query
from listener.immich import api
from listener.immich.layout import SwappedError
from listener.immich.learning import Learning
from listener.ops import logs
from listener.ops.metrics import Metrics
from listener.ownership import Ownership
from listener.settings import Job, Settings
from listener.sync.outcome import Outcome
from listener.tools import verify
from listener.upkeep import Upkeep

# A notification holds a few hundred ids at most.
MOST_ASSETS = 100
_BATCH = 500
_ASK_AGAIN = 2.0  # seconds without an answer until it is seen whether the listener still has the job

log = logs.get("reconcile")

Report = Callable[[Job, Progress], None]


@contextmanager
def bar() -> Iterator[Report]:
    """Show a bar for each job at a terminal, and nothing elsewhere."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with RichProgress(*columns, console=console, disable=not console.is_terminal) as shown:
        tasks: dict[str, TaskID] = {}

        def report(job: Job, progress: Progress) -> None:
            if job.name not in tasks:
                tasks[job.name] = shown.add_task(escape(job.name), total=progress.total)
            shown.update(tasks[job.name], completed=progress.looked_at, total=progress.total)

        yield report


@dataclass(frozen=True, slots=True)
class Change:
    """What a reconcile would do, and why. ``what``: copy, remove, mend or look at."""

    what: str
    job: str
    asset: UUID | None
    why: str


async def preview(
    connection: Connection, settings: Settings, jobs: Sequence[Job], assets: Sequence[UUID]
) -> list[Change]:
    """Return what would change for these jobs, and of these assets if any are named. Raises TrackingError."""
    if (await tracking.read_version(connection) or 0) < tracking.latest_version():
        raise tracking.TrackingError("the tracking tables are not there yet: everything would be copied")
    settings = await roots.as_immich_says(connection, settings)
    names = {job.name for job in jobs}
    jobs = [job for job in settings.jobs if job.name in names]
    features = await api.features(settings.api_url, settings.api_key)
    report = await verify.verify(connection, jobs, settings.media_root, features=features, ml_wait=settings.ml_wait)
    return [
        Change(_what(found), found.job, found.source_asset_id or found.target_asset_id, f"{found.rule}: {found.detail}")
        for found in report.differences
        if not assets or {found.source_asset_id, found.target_asset_id} & {*assets}
    ]


def _what(found: verify.Difference) -> str:
    if found.rule in {"source.uncopied", "failed", "skipped.stale"}:
        return "copy"
    if found.rule.startswith("source.") or found.rule == "map.orphan":
        return "remove"
    return "look at" if found.rule.endswith((".orphan", ".duplicate")) else "mend"


async def reconcile(
    settings: Settings, jobs: Sequence[Job], assets: Sequence[UUID], report: Report, *, allow_removal: bool = False
) -> Counter[str]:
    """Bring all copies of these jobs to what they should be, or those that these assets lead to.

    allow_removal: also what the brake holds goes. Returns how many were made, removed, and failed. Raises RefusedError,
    TrackingError or psycopg.Error.
    """
    try:
        return await _reconcile(settings, jobs, assets, report, allow_removal=allow_removal)
    except SwappedError as error:
        raise preflight.RefusedError([f"{error}. Run it again when all of Immich's folders are there"]) from error


async def _reconcile(
    settings: Settings, jobs: Sequence[Job], assets: Sequence[UUID], report: Report, *, allow_removal: bool
) -> Counter[str]:
    owner = uuid4()
    totals: Counter[str] = Counter()
    async with AsyncExitStack() as connections:
        listening = await connections.enter_async_context(await connect(settings.conninfo))
        settings = await roots.as_immich_says(listening, settings)
        names = {job.name for job in jobs}
        jobs = [job for job in settings.jobs if job.name in names]
        await listening.execute(query("channel", "listen_progress"))
        ready = await startup.prepare(
            listening, settings, Metrics(), Upkeep(Metrics()), Learning(settings.api_url, settings.api_key)
        )
        # Where a prefix matches nothing its job is refused: what goes then are rows, whatever the folders are.
        if not allow_removal and (refused := [line for job in jobs for line in ready.refused.get(job.name, ())]):
            raise preflight.RefusedError(refused)
        if problems := await mounts.problems(listening, jobs, ready.reconciler.layout):
            raise preflight.RefusedError(problems)
        writing = await connections.enter_async_context(Pool(settings.conninfo, 1, owner))
        ownership = Ownership(jobs, owner)
        left = {job.identity: job for job in jobs}
        while left:
            for job in await ownership.take(listening):
                async with writing.connection() as connection:
                    with ready.reconciler.brake.lifted(job) if allow_removal else nullcontext():
                        await _do(ready, connection, job, assets, report, totals)
                del left[job.identity]
            for job in list(left.values()):
                question = Ask(str(uuid4()), job.identity, tuple(assets), allow_removal=allow_removal)
                if await _follow(listening, job, question, report, totals):
                    del left[job.identity]
    return totals


async def _follow(connection: Connection, job: Job, question: Ask, report: Report, totals: Counter[str]) -> bool:
    """Ask the listener that serves this job, and hear it to the end. False if it is served no more."""
    await asking.ask(connection, question)
    silent = False
    while True:
        heard = False
        async for notify in connection.notifies(timeout=_ASK_AGAIN, stop_after=1):
            progress = asking.read_answer(notify.payload, question.id)
            if progress is None:
                continue
            heard = True
            report(job, progress)
            if progress.ended:
                totals.update(made=progress.made, removed=progress.removed, failed=progress.failed)
                return True
        if not heard and not await asking.is_served(connection, job):
            return False
        if not heard and not silent:
            # It may be in the middle of another sweep.
            log.warning("the listener that serves this job has not answered yet: waiting", job=job.name)
            silent = True


async def _do(
    ready: startup.Ready,
    connection: Connection,
    job: Job,
    assets: Sequence[UUID],
    report: Report,
    totals: Counter[str],
) -> None:
    counts: Counter[str] = Counter(made=0, removed=0, failed=0)
    rows_only = job.name in ready.refused

    def count(outcome: Outcome) -> set[UUID]:
        failed = {*outcome.failed, *outcome.failed_people}
        counts.update(made=len(outcome.made), removed=outcome.removed + outcome.parked, failed=len(outcome.failed))
        return failed | outcome.waiting.keys()

    async def work(ids: Sequence[UUID], kind: str = "asset") -> set[UUID]:
        if kind == "person":
            return set() if rows_only else count(await ready.reconciler.people(connection, job, ids))
        unsettled: set[UUID] = set()
        while ids:
            outcome = await ready.reconciler.assets(connection, job, ids, rows_only=rows_only)
            unsettled |= count(outcome)
            ids = list(outcome.later)
        return unsettled

    def tell(looked_at: int, total: int, *, ended: bool) -> None:
        report(job, Progress([], job.identity, looked_at, max(total, looked_at), **counts, ended=ended))

    looked_at = 0
    if assets:
        await work(assets)
        looked_at = len(assets)
    else:
        total = await ready.sweep.how_many(connection, job)
        usable = await ready.reconciler.album_usable(connection, job)
        links = None if rows_only else ready.reconciler.links(job)
        async for page in ready.sweep.pages(connection, job, links, album_usable=usable, everything=True):
            unsettled: set[UUID] = set()
            for start in range(0, len(page.found), _BATCH):
                ids = [found.key.id for found in page.found[start : start + _BATCH]]
                unsettled |= await work(ids, page.found[0].key.kind)
            if not rows_only:
                await ready.sweep.remember(connection, page, unsettled)
            looked_at += page.looked_at
            tell(looked_at, total, ended=False)
    tell(looked_at, looked_at, ended=True)
    totals.update(counts)
