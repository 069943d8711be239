"""Looks at a database before anything is written there: is it Immich's, and do the jobs fit it?"""

from collections.abc import Sequence

from listener.database import Connection, fetch, query
from listener.immich import catalog
from listener.immich.layout import Layout
from listener.settings import Job
from listener.sync.files import OriginalLinks


class RefusedError(Exception):
    """The database or a job cannot be used; ``problems`` has one line for each reason."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


async def check(connection: Connection, jobs: Sequence[Job], layout: Layout) -> catalog.Catalog:
    """Return the catalog of an Immich that these jobs fit. Raises RefusedError."""
    found = await check_immich(connection)
    problems = [problem for job in jobs for problem in await _job_problems(connection, job, layout)]
    if problems:
        raise RefusedError(problems)
    return found


async def check_immich(connection: Connection) -> catalog.Catalog:
    """Return the catalog of an Immich 2.0 or later. Raises RefusedError."""
    try:
        return await catalog.read(connection)
    except catalog.NotImmichError as error:
        raise RefusedError([str(error)]) from error


async def _job_problems(connection: Connection, job: Job, layout: Layout) -> list[str]:
    rows = await fetch(
        connection,
        query("preflight", "job"),
        {"source_user": job.source_user_id, "target_user": job.target_user_id, "library": job.target_library_id},
    )
    source_known, target_known, library_owner, exclusions = rows[0]
    problems = []
    if not source_known:
        problems.append(f"job {job.name!r}: source_user_id {job.source_user_id} is no user of this Immich: correct it")
    if not target_known:
        problems.append(f"job {job.name!r}: target_user_id {job.target_user_id} is no user of this Immich: correct it")
    if library_owner is None:
        problems.append(
            f"job {job.name!r}: target_library_id {job.target_library_id} is no library of this Immich: correct it"
        )
    elif library_owner != job.target_user_id:
        problems.append(
            f"job {job.name!r}: the library {job.target_library_id} is not the target user's: "
            "make an external library whose owner is the target user, and name that"
        )
    elif exclusions:
        problems.extend(_exclusion_problems(job, exclusions))
    if OriginalLinks(layout, job.source_path_prefix, job.target_path_prefix).directory:
        problems.append(
            f"job {job.name!r}: target_path_prefix {job.target_path_prefix!r} leads through a symlink: deleting a copy "
            "could delete the source's original. Use a directory of its own"
        )
    return problems


def _exclusion_problems(job: Job, exclusions: Sequence[str]) -> list[str]:
    everything = {"**/*", "**", "*", ".*"}
    return [
        f"job {job.name!r}: the target library's exclusion pattern {pattern!r} takes every copy offline at each library "
        "scan: remove the pattern in Immich (Administration, External Libraries)"
        for pattern in exclusions
        if pattern in everything
    ]
