"""What became of a batch of keys, and how the one bad key in it is found, told apart and recorded."""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

import psycopg

from listener.database import Connection, query, uuids
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
    """Do the work for these ids; where the database refuses it, for each half, until the bad ones stand alone.

    Those go into ``failed``. Raises psycopg.OperationalError when the connection is lost, ChangedError when the tables
    are no longer those of the catalog; then the whole batch is to be tried again. Raises TooSlowError.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            await work(ids)
        except AGAIN as error:
            if attempt == _ATTEMPTS:
                failed |= dict.fromkeys(ids, Failure("lock", f"the database is busy: {_words(error)}"))
                return
        except TooSlowError:
            # Not of one bad key: fewer of them may do (portions.py).
            raise
        except (psycopg.Error, FileProblemError, OSError) as error:
            if connection.closed or connection.broken:
                raise
            if isinstance(error, MAYBE_CHANGED):
                await refuse_changed(connection, catalog)
            if len(ids) == 1:
                failed[ids[0]] = _failure(error)
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
    """Record failures with their reasons; a busy database is none, and is only tried again. Raises psycopg.Error."""
    failed = {id_: failure for id_, failure in outcome_failed.items() if failure.kind != "lock"}
    if len(failed) < len(outcome_failed):
        metrics.failures.labels(job=job.name, reason="lock").inc(len(outcome_failed) - len(failed))
        limited.warning("the database is busy: photos are tried again", job=job.name)
    if not failed:
        return
    reasons = [failure.text for failure in failed.values()]
    try:
        await connection.execute(
            query("rows", "failed"), {"job": job.name, "sources": uuids(failed), "reasons": reasons}
        )
    except psycopg.Error as error:
        if connection.closed or connection.broken:
            raise
        # The disk may be full for our own tables, too: the log has the reasons, and all are tried again.
        limited.warning("why photos failed could not be noted", job=job.name, reason=_words(error))
    for source_id, failure in failed.items():
        metrics.failures.labels(job=job.name, reason=failure.kind).inc()
        log.warning("photo could not be shared, it is tried again", asset=source_id, job=job.name, reason=failure.text)


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


def _failure(error: psycopg.Error | FileProblemError | OSError) -> Failure:
    match error:
        case FileProblemError():
            return Failure(error.kind, str(error))
        case OSError():
            return Failure("os", f"a file could not be handled: {error}")
        case _:
            return Failure("database", f"the database refused the copy: {_words(error)}")


def _words(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
