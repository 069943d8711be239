"""What comes before the first key, at every connect: what this Immich is, whether the jobs fit it, our tables.

Nothing is written to a database that is unfit.
"""

from dataclasses import dataclass
from pathlib import Path

from listener import preflight, recovery, threads, tracking
from listener.database import Connection
from listener.immich.catalog import Catalog
from listener.immich.layout import Layout, identity
from listener.immich.learning import Learning
from listener.ops import logs
from listener.ops.metrics import Metrics
from listener.settings import Job, Settings
from listener.sweep import Sweep
from listener.sync.reconciler import Reconciler
from listener.upkeep import Upkeep, note_guarded

log = logs.get("startup")


@dataclass(frozen=True, slots=True)
class Ready:
    """What works for the catalog that was found.

    refused: jobs that cannot be served, each with its problems; unfit: those that users, libraries and folders refuse.
    unheard_before: transactions below this id may have changed things before the triggers spoke for our users; None
    where they spoke for them all along.
    """

    catalog: Catalog
    reconciler: Reconciler
    sweep: Sweep
    unheard_before: str | None
    unfit: preflight.Problems
    refused: preflight.Problems


async def prepare(
    connection: Connection, settings: Settings, metrics: Metrics, upkeep: Upkeep, learning: Learning
) -> Ready:
    """Read what this Immich is, judge the jobs, and bring our tables there.

    A job that cannot be served is refused by itself. Raises RefusedError where none can be served, and none has copies
    that may have to go; TrackingError, psycopg.Error, SilentFolderError where a folder that all need does not answer.
    """
    layout = await _seen(settings)
    catalog = await preflight.check(connection)
    unfit = await preflight.unfit(connection, catalog, settings.jobs, layout)
    await preflight.refuse_if_nothing_is_left(connection, catalog, settings.jobs, unfit)
    for warning in catalog.warnings():
        log.warning(warning)
    guard = await preflight.guard_needed(connection, catalog, settings.jobs, layout)
    installed = await upkeep.put_back(connection, guard=guard)
    unguarded = preflight.unguarded(catalog, settings.jobs, layout, guarded=installed.guard == "installed")
    refused = {name: (*unfit.get(name, ()), *unguarded.get(name, ())) for name in {*unfit, *unguarded}}
    await preflight.refuse_if_nothing_is_left(connection, catalog, settings.jobs, refused)
    applied = await tracking.migrate(connection)
    if applied:
        log.info("tracking tables are ready", versions=applied)
    await note_guarded(connection, [job.target_path_prefix for job in settings.jobs], layout)
    users = {user for job in settings.jobs for user in (job.source_user_id, job.target_user_id)}
    unheard_before = await tracking.set_watched_users(connection, users)
    for left in await preflight.leftovers(connection, settings.jobs):
        log.warning(
            "copies belong to no job of the configuration: they are kept. "
            "To remove them, add their job again with remove_copies: true",
            copies=left.copies,
            source=left.source,
            target=left.target,
            folder=left.folder,
        )
    await learning.ask()
    reconciler = Reconciler.compose(
        catalog,
        layout=layout,
        link_mode=settings.link_mode,
        metrics=metrics,
        jobs=settings.jobs,
        features=lambda: learning.now,
        ml_wait=settings.ml_wait,
        removal_limit=settings.removal_limit,
    )
    await recovery.mend_notes(connection, reconciler, settings.jobs)
    sweep = Sweep.compose(catalog, reconciler.planner, (settings.link_mode, *settings.jobs))
    return Ready(catalog, reconciler, sweep, unheard_before, unfit, refused)


async def _seen(settings: Settings) -> Layout:
    """Look which folders there are. A source's own folder that does not answer concerns its jobs alone."""
    layout = Layout.of(settings)
    targets = [Path(job.target_path_prefix) for job in settings.jobs]
    shared = threads.lane_of(*(str(folder) for folder in (layout.media_root, *layout.external_roots, *targets)))
    with shared.used():
        await threads.run(layout.as_seen, targets)
    silent = {Path(job.source_path_prefix) for job in settings.jobs if await _is_silent(layout, job)}
    prefixes = [*(Path(job.source_path_prefix) for job in settings.jobs), *targets]
    with shared.used():
        return await threads.run(layout.as_seen, prefixes, silent=silent)


async def _is_silent(layout: Layout, job: Job) -> bool:
    with layout.lane(job).used():
        try:
            await threads.run(identity, Path(job.source_path_prefix))
        except threads.SilentFolderError:
            return True
    return False
