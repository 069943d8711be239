"""Jobs that are refused: not served as they are configured, while the others are.

Of a refused job nothing is made or mended and no file is removed. But what its target user must not see any more is
taken out of Immich all the same. Whether jobs can be served is looked at again every few seconds.
"""

import contextlib
from collections.abc import Mapping, Sequence

import psycopg

from listener import preflight
from listener.database import Connection, query
from listener.ops import http, logs
from listener.ops.metrics import Metrics
from listener.settings import Job
from listener.startup import Ready

log = logs.get("refusals")

# A look must not wait long for a lock of somebody's: the next one comes soon.
_LOCK_TIMEOUT_MS = 200
_NOT_NOW = (psycopg.errors.LockNotAvailable, psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn)


class Refusals:
    """Which jobs are refused, and why; tells readiness, the metric and the log. `begin` comes before all else."""

    def __init__(self, jobs: Sequence[Job], metrics: Metrics, readiness: http.Readiness) -> None:
        self._jobs = jobs
        self._metrics = metrics
        self._readiness = readiness
        self._ready: Ready
        self._refused: Mapping[str, tuple[str, ...]] = {}
        readiness.met(http.Condition.SERVED)

    def begin(self, ready: Ready) -> None:
        """Begin anew with what was judged at the connect."""
        before, self._refused, self._ready = self._refused, ready.refused, ready
        for job in self._jobs:
            problems = ready.refused.get(job.name)
            self._metrics.refused.labels(job=job.name).set(problems is not None)
            if problems is not None and problems != before.get(job.name):
                log.warning(
                    "a job is refused, the others are served: nothing of it is made until that is corrected. "
                    "What nobody may see any more is taken out of Immich all the same",
                    job=job.name,
                    reason=" ".join(problems),
                )
            elif problems is None and job.name in before:
                log.info("a job is not refused any more", job=job.name)
        if ready.refused:
            reasons = "; ".join(line for problems in ready.refused.values() for line in problems)
            self._readiness.unmet(http.Condition.SERVED, f"{http.Condition.SERVED.value}: {reasons}")
        else:
            self._readiness.met(http.Condition.SERVED)

    def holds(self, job: Job) -> bool:
        """Tell whether a job is refused."""
        return job.name in self._refused

    async def look_again(self, connection: Connection) -> None:
        """Raise ChangedError if other jobs can be served now: then everything begins anew. Raises psycopg.Error."""
        # While Immich is rebuilt, its condition tells.
        with contextlib.suppress(*_NOT_NOW):
            async with connection.transaction():
                await connection.execute(query("condition", "set_lock_timeout"), {"milliseconds": _LOCK_TIMEOUT_MS})
                await preflight.look_again(
                    connection, self._ready.catalog, self._jobs, self._ready.reconciler.layout, self._ready.unfit
                )
