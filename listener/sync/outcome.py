"""What became of a batch of keys, and how the one bad key in it is found, told apart and recorded."""

import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

import psycopg

from listener.database import Connection, fetch, query, uuids
from listener.faults import is_everyones, place, storable, words
from listener.immich.catalog import MAYBE_CHANGED, Catalog, refuse_changed
from listener.ops import logs
from listener.ops.metrics import Metrics
from listener.settings import Job
from listener.sync.assets import WRITTEN_WITHIN, TooSlowError
from listener.sync.files import FileProblemError
from listener.sync.people import GoneError
from listener.sync.placing import Failure

log = logs.get("outcome")

# Another transaction was in the way: the same again may do.
AGAIN = (
    psycopg.errors.DeadlockDetected,
    psycopg.errors.SerializationFailure,
    psycopg.errors.LockNotAvailable,
    GoneError,
)
_ATTEMPTS = 3


@dataclass(slots=True)
class Outcome:
    """What one batch did. ``failed`` has source ids, or person ids; they are to be tried again later.

    made: sources whose copies are new, or back from where they were parked.
    owner_removed: copies were parked because a user or library is marked as removed. No event tells when that is taken
    back.
    changed: sources whose copies their users deleted or edited while the batch was in hand.
    later: ids for which a slow batch had no time. within: the seconds that writing copies may take; writing: those that
    it took.
    left: of which files are left that could not be removed; they have a mark, and are to be tried again as assets.

    Of the target's people, held: whom copied faces named before; named: whom they name now; placed: those whose
    thumbnails were placed; written: those who are as they should be; hidden: whose thumbnails are to be removed.
    """

    made: list[UUID] = field(default_factory=list)
    kept: int = 0
    removed: int = 0
    parked: int = 0
    owner_removed: bool = False
    waiting: dict[UUID, str] = field(default_factory=dict)
    failed: dict[UUID, Failure] = field(default_factory=dict)
    failed_people: dict[UUID, Failure] = field(default_factory=dict)
    changed: set[UUID] = field(default_factory=set)
    later: set[UUID] = field(default_factory=set)
    within: float = WRITTEN_WITHIN
    writing: float = 0.0
    left: set[UUID] = field(default_factory=set)
    held: set[UUID] = field(default_factory=set)
    named: set[UUID] = field(default_factory=set)
    placed: set[UUID] = field(default_factory=set)
    written: set[UUID] = field(default_factory=set)
    hidden: set[UUID] = field(default_factory=set)


async def halving(
    connection: Connection,
    catalog: Catalog,
    ids: Sequence[UUID],
    failed: dict[UUID, Failure],
    work: Callable[[Sequence[UUID]], Awaitable[None]],
) -> None:
    """Do the work for these ids; whatever goes wrong, for each half, until the bad ones stand alone.

    Those go into ``failed``, each with its reason. Raises only what is not about one key: EveryonesError, as when the
    tables are no longer those of the catalog, and whatever a lost connection ends in; then the whole batch is to be
    tried again. Raises TooSlowError.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            await work(ids)
        except AGAIN as error:
            if attempt == _ATTEMPTS:
                failed |= dict.fromkeys(ids, Failure("lock", f"the database is busy: {words(error)}"))
                return
        except Exception as error:
            # What is too slow is not of one bad key: fewer of them may do (portions.py).
            if isinstance(error, TooSlowError) or is_everyones(error, connection):
                raise
            if isinstance(error, MAYBE_CHANGED):
                await refuse_changed(connection, catalog)
            if len(ids) == 1:
                failed[ids[0]] = failure = failure_of(error)
                if failure.kind == "unexpected":
                    log.trace("a key could not be worked on", key=ids[0])
                return
            middle = len(ids) // 2
            await halving(connection, catalog, ids[:middle], failed, work)
            await halving(connection, catalog, ids[middle:], failed, work)
            return
        else:
            return


async def record(
    connection: Connection, job: Job, outcome_failed: dict[UUID, Failure], metrics: Metrics, limited: logs.Limited
) -> None:
    """Record failures with their reasons; a busy database is none, and is only tried again.

    Raises only what is not about these photos.
    """
    failed = {id_: failure for id_, failure in outcome_failed.items() if failure.kind != "lock"}
    if len(failed) < len(outcome_failed):
        metrics.failures.labels(job=job.name, reason="lock").inc(len(outcome_failed) - len(failed))
        limited.warning("the database is busy: photos are tried again", job=job.name)
    if not failed:
        return
    reasons = [storable(failure.text) for failure in failed.values()]
    try:
        await connection.execute(
            query("rows", "failed"), {"job": job.name, "sources": uuids(failed), "reasons": reasons}
        )
    except Exception as error:
        if is_everyones(error, connection):
            raise
        # The disk may be full for our own tables, too: the log has the reasons, and all are tried again.
        limited.warning("why photos failed could not be noted", job=job.name, reason=words(error))
    for source_id, failure in failed.items():
        metrics.failures.labels(job=job.name, reason=failure.kind).inc()
        log.warning("photo could not be shared, it is tried again", asset=source_id, job=job.name, reason=failure.text)


async def failed_of(connection: Connection, job: Job) -> list[UUID]:
    """Return the photos of a job that could not be copied or mended when they were tried last. Raises psycopg.Error."""
    return [row[0] for row in await fetch(connection, query("rows", "failing"), {"job": job.name})]


async def recovered(connection: Connection, job: Job, keys: Collection[UUID]) -> None:
    """Forget why these failed once: there was nothing wrong now. Raises psycopg.Error."""
    await connection.execute(query("rows", "recovered"), {"job": job.name, "sources": uuids(keys)})


def tell(outcome: Outcome, job: Job, keys: int, heard_at: Mapping[UUID, float | None], metrics: Metrics) -> None:
    """Tell the metrics and the log what a batch of so many keys did; heard_at: Unix seconds, None for a sweep's."""
    metrics.copies_made.labels(job=job.name).inc(len(outcome.made))
    metrics.copies_removed.labels(job=job.name).inc(outcome.removed)
    metrics.copies_parked.labels(job=job.name).inc(outcome.parked)
    metrics.keys_reconciled.labels(job=job.name, outcome="failed").inc(len(outcome.failed))
    metrics.keys_reconciled.labels(job=job.name, outcome="done").inc(keys - len(outcome.failed) - len(outcome.later))
    now = time.time()
    for id_ in outcome.made:
        at = heard_at.get(id_)
        if at is not None:
            metrics.latency.observe(max(0.0, now - at))
            log.debug("copied", job=job.name, asset=id_, latency_ms=round((now - at) * 1000, 3))
    if outcome.made or outcome.removed or outcome.parked:
        log.info(
            "reconciled",
            job=job.name,
            keys=keys,
            made=len(outcome.made),
            removed=outcome.removed,
            parked=outcome.parked,
            failed=len(outcome.failed),
        )


def failure_of(error: Exception) -> Failure:
    """Return why a key could not be done, whatever was raised."""
    match error:
        case FileProblemError():
            return Failure(error.kind, str(error))
        case OSError():
            return Failure("os", f"a file could not be handled: {words(error)}")
        case psycopg.Error() | TooSlowError():
            return Failure("database", f"the database refused the copy: {words(error)}")
        case _:
            return Failure("unexpected", f"an error that nobody foresaw: {words(error)} (in {place(error)})")
