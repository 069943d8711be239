"""Jobs that pause because one of their folders does not answer; tells readiness, the metric and the log.

What nobody may see any more is taken out of Immich all the same; nothing is made, and no file is looked at, until the
threads that hang have come back (`listener.threads`).
"""

from collections.abc import Callable, Sequence

from listener.immich.layout import Layout
from listener.ops import http, logs
from listener.ops.metrics import Metrics
from listener.settings import Job
from listener.threads import Lane

log = logs.get("silence")


class Silence:
    """Which jobs have a folder that does not answer. ``over``: called when all answer again for one."""

    def __init__(
        self, layout: Layout, jobs: Sequence[Job], metrics: Metrics, readiness: http.Readiness, over: Callable[[], None]
    ) -> None:
        self._layout = layout
        self._metrics = metrics
        self._readiness = readiness
        self._over = over
        self._told: dict[str, str] = {}
        for job in jobs:
            metrics.silent.labels(job=job.name).set(0)
        readiness.met(http.Condition.ANSWERING)

    def lane(self, job: Job) -> Lane:
        """Return the threads of a job."""
        return self._layout.lane(job)

    def holds(self, job: Job) -> bool:
        """Tell whether a job pauses now."""
        words, before = self.lane(job).silent, self._told.get(job.name)
        if words is not None and words != before:
            self._told[job.name] = words
            self._tell(job)
            log.warning(
                "a folder does not answer: the job pauses, the others go on. "
                "What nobody may see any more is taken out of Immich all the same; its files are removed afterwards",
                job=job.name,
                reason=words,
            )
        elif words is None and before is not None:
            del self._told[job.name]
            self._tell(job)
            log.info("all folders of a job answer again", job=job.name)
            self._over()
        return words is not None

    def _tell(self, job: Job) -> None:
        self._metrics.silent.labels(job=job.name).set(job.name in self._told)
        if self._told:
            reasons = "; ".join(f"job {name!r}: {words}" for name, words in sorted(self._told.items()))
            self._readiness.unmet(http.Condition.ANSWERING, f"{http.Condition.ANSWERING.value}: {reasons}")
        else:
            self._readiness.met(http.Condition.ANSWERING)
