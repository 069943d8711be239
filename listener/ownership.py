"""Which jobs are this process's: one listener for each job, and nobody else writes for it.

A job is held by an advisory lock of the listening session: it goes when that session goes, and another listener
takes the job. A process that was only thought dead may still write through its other connections; so whoever takes
a job over notes itself as its owner, behind the lock under which all copies of that target user are written, and
every writing transaction looks whose the job is (``serialise`` in ``session.sql``).
"""

from collections.abc import Awaitable, Callable, Sequence
from uuid import UUID

import psycopg

from listener.database import JOB_LOCK, Connection, fetch, query, writing
from listener.faults import is_everyones
from listener.ops import logs
from listener.settings import Job

log = logs.get("ownership")


class Ownership:
    """The jobs of the configuration that this process serves."""

    def __init__(self, jobs: Sequence[Job], owner: UUID) -> None:
        self._jobs = jobs
        self._owner = owner
        self._mine: set[str] = set()

    @property
    def jobs(self) -> list[Job]:
        """Jobs that are ours, in the order of the configuration."""
        return [job for job in self._jobs if job.name in self._mine]

    def lost(self) -> None:
        """Forget all: the session that held the locks is gone."""
        self._mine.clear()

    async def take(self, connection: Connection, before: Callable[[Job], Awaitable[None]] | None = None) -> list[Job]:
        """Take the jobs that nobody holds, and return those that are newly ours. Raises psycopg.Error.

        ``before`` is awaited for each that is ours and not worked on yet. Where one cannot be taken the others are, and
        then what was raised is raised.
        """
        taken: list[Job] = []
        problem: Exception | None = None
        for job in self._jobs:
            try:
                if job.name not in self._mine and await self._take(connection, job):
                    if before is not None:
                        await before(job)
                    self._mine.add(job.name)
                    taken.append(job)
                    log.info("serving a job", job=job.name)
            except Exception as error:
                if is_everyones(error, connection):
                    raise
                problem = problem or error
        if problem is not None:
            raise problem
        return taken

    async def _take(self, connection: Connection, job: Job) -> bool:
        lock = {"lock_class": JOB_LOCK, "job": job.identity}
        rows = await fetch(connection, query("ownership", "lock_job"), lock)
        if not rows[0][0]:
            return False
        try:
            # Not fenced itself: the listening session has no owner.
            async with writing(connection, job.target_user_id, job.identity):
                await connection.execute(query("ownership", "take_over"), {"job": job.identity, "owner": self._owner})
        except psycopg.errors.LockNotAvailable:
            # What the former owner was writing is not over yet: at the next turn.
            await connection.execute(query("ownership", "unlock_job"), lock)
            return False
        return True
