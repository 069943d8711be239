"""The photos that have no copy and why, and how things stand: ``skipped``, ``failures`` and ``status``.

Retrying a photo takes its note away and tells the running listener, in one transaction; where no listener runs,
the sweep with which one begins finds the photo.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from listener import tracking
from listener.channel import CHANNEL
from listener.database import JOB_LOCK, Connection, fetch, query, uuids
from listener.settings import Job, RemovalLimit
from listener.sync import brake
from listener.sync.plan import job_params


@dataclass(frozen=True, slots=True)
class Note:
    """Why a photo has no copy. ``file`` and ``job`` are None where the photo is gone or no job would share it."""

    asset: UUID
    file: str | None
    job: str | None
    reason: str | None
    at: datetime | None
    attempts: int | None = None


@dataclass(frozen=True, slots=True)
class JobCounts:
    """How one job stands. ``waiting``: shared, and neither copied nor skipped nor failed yet.

    held: copies that would go in a mass and are held, held_because: why they would go, and what to do.
    """

    job: str
    copies: int
    waiting: int
    failed: int
    skipped: int
    held: int
    held_because: str


async def skipped(connection: Connection, jobs: Sequence[Job]) -> tuple[Note, ...]:
    """Return what is left out on purpose, the newest first. Raises TrackingError."""
    await _require_tables(connection)
    return tuple(Note(*row) for row in await fetch(connection, query("notes", "skipped"), _job_arrays(jobs)))


async def failures(connection: Connection) -> tuple[Note, ...]:
    """Return what could not be copied, the newest first. Raises TrackingError."""
    await _require_tables(connection)
    return tuple(Note(*row) for row in await fetch(connection, query("notes", "failures"), {}))


async def retry_skipped(connection: Connection, jobs: Sequence[Job], notes: Collection[Note]) -> None:
    """Let these photos be copied after all; a reason that still holds leaves them out again."""
    by_name = {job.name: job.target_user_id for job in jobs}
    named = [(note.asset, by_name[note.job]) for note in notes if note.job is not None]
    async with connection.transaction():
        await connection.execute(
            query("notes", "drop_skipped"),
            {"ids": uuids(asset for asset, _ in named), "targets": uuids(target for _, target in named)},
        )
        await _notify(connection, notes)


async def retry_failures(connection: Connection, notes: Collection[Note]) -> None:
    """Let these photos be tried at once, and counted anew."""
    async with connection.transaction():
        await connection.execute(
            query("notes", "drop_failures"),
            {"ids": uuids(note.asset for note in notes), "jobs": [note.job for note in notes]},
        )
        await _notify(connection, notes)


async def listening(connection: Connection) -> bool:
    """Tell whether a listener serves a job of this database."""
    rows = await fetch(connection, query("notes", "listening"), {"lock_class": JOB_LOCK})
    return bool(rows[0][0])


async def counts(connection: Connection, jobs: Sequence[Job], limit: RemovalLimit | None) -> tuple[JobCounts, ...]:
    """Return how each job stands. Raises TrackingError."""
    await _require_tables(connection)
    found = []
    for job in jobs:
        params = {
            **job_params(job),
            "job": job.name,
            "source_prefix": job.source_path_prefix,
            "uploads": job.kind == "uploads",
        }
        rows = await fetch(connection, query("notes", "job_counts"), params)
        verdict = await brake.judge(connection, job, limit)
        why = (
            f"{await brake.why(connection, job, verdict)}. To let them go: {brake.command(job)}" if verdict.held else ""
        )
        copies, waiting, failed, left_out = rows[0]
        found.append(JobCounts(job.name, copies, waiting, failed, left_out, verdict.count, why))
    return tuple(found)


async def _notify(connection: Connection, notes: Collection[Note]) -> None:
    ids = uuids(note.asset for note in notes)
    await connection.execute(query("notes", "notify"), {"channel": CHANNEL, "ids": ids})


async def _require_tables(connection: Connection) -> None:
    if (await tracking.read_version(connection) or 0) < tracking.latest_version():
        raise tracking.TrackingError(
            "The tracking tables are not there, or are older than this program. "
            "'listener triggers install' brings them up to date, as does 'listener run'."
        )


def _job_arrays(jobs: Sequence[Job]) -> dict[str, object]:
    return {
        "names": [job.name for job in jobs],
        "uploads": [job.kind == "uploads" for job in jobs],
        "sources": uuids(job.source_user_id for job in jobs),
        "targets": uuids(job.target_user_id for job in jobs),
        "prefixes": [job.source_path_prefix for job in jobs],
    }
