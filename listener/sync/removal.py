"""How copies go: first the files, then the rows, so that a crash between leaves what the next sweep finds.

The link of the original goes first of all: whatever follows, no path of the target leads to the source's file.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from listener.database import Connection, fetch, query
from listener.immich.layout import Layout
from listener.settings import Job
from listener.sync.extras import Extras
from listener.sync.files import FileProblemError, OriginalLinks, remove_files
from listener.sync.marks import to_the_end
from listener.sync.phones import Phones
from listener.sync.plan import Source, batch_params, job_params


@dataclass(frozen=True, slots=True)
class Removed:
    """The sources whose copies are gone, and those whose files could not be removed, with the reason."""

    sources: tuple[UUID, ...]
    failed: dict[UUID, str]


async def remove(
    connection: Connection,
    job: Job,
    sources: Sequence[Source],
    layout: Layout,
    links: OriginalLinks,
    extras: Extras,
    phones: Phones,
) -> Removed:
    """Remove these copies. A copy whose files cannot be removed keeps its rows, to be tried again.

    Raises SwappedError, with all rows kept, where a disk came or went meanwhile.
    """
    named: dict[UUID, list[str]] = {}
    for target_id, path in await fetch(connection, query("removal", "files"), batch_params(sources)):
        named.setdefault(target_id, []).append(path)
    failed = await to_the_end(remove_all_files, job, sources, named, layout, links)
    gone = [source for source in sources if source.id not in failed]
    params = {**job_params(job), **batch_params(gone), "job": job.name}
    async with phones.writing(connection, job, deletes=True):
        await connection.execute(query("removal", "hold"), params)
        await connection.execute(query("removal", "respect_trashed"), params)
        await extras.before(connection, params)
        await connection.execute(query("removal", "delete_copies"), params)
        await extras.after(connection, params)
        await connection.execute(query("removal", "forget"), params)
        await connection.execute(query("rows", "recovered"), params)
    return Removed(tuple(source.id for source in gone), failed)


def remove_all_files(
    job: Job, sources: Sequence[Source], named: dict[UUID, list[str]], layout: Layout, links: OriginalLinks
) -> dict[UUID, str]:
    """Remove the links and files of these copies, ``named`` ones and any named by their ids. Returns failures.

    Raises SwappedError where a disk came or went meanwhile.
    """
    failed: dict[UUID, str] = {}
    for source in sources:
        try:
            if source.copy_original is not None:
                links.unlink(source.copy_original)
            remove_files(
                layout,
                layout.folders_of(source.target_id, job.target_user_id),
                str(source.target_id),
                named.get(source.target_id, ()),
            )
        except FileProblemError as problem:
            failed[source.id] = str(problem)
    if failed:
        layout.confirm()
    return failed
