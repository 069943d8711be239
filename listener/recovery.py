"""After a restored backup: brings our notes and our files in line with the rows that are there now.

Our tables may come out of the backup, be gone, or be newer than the rows. So notes of copies that are not there are
forgotten, copies that no note knows are adopted, and what is left over is removed, if it is surely ours: links below
our own prefix that lead where ours lead, files named by an id that is derived from one of the source's, rows below our
prefix whose original is such a link. That nothing is at a place proves nothing. The sweep then makes the rest what it
should be.

It is known by the number of the table asset, which is noted for each job: a restored table is another one.
"""

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from uuid import UUID, uuid4

from psycopg import sql

from listener import mounts, threads, tracking
from listener.database import Connection, fetch, query, statement, uuids, writing
from listener.faults import is_everyones, words
from listener.immich.layout import Layout, path_checksum
from listener.ops import logs
from listener.settings import Job
from listener.sync.clearing import remove_beside, remove_files
from listener.sync.files import OriginalLinks
from listener.sync.plan import Source, job_params
from listener.sync.reconciler import Reconciler
from listener.sync.rules import LOCKABLE

log = logs.get("recovery")

_PAGE = 1000
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Job:
    """One job, with what is at hand for it."""

    connection: Connection
    reconciler: Reconciler
    job: Job

    @property
    def layout(self) -> Layout:
        return self.reconciler.layout

    @property
    def links(self) -> OriginalLinks:
        return self.reconciler.links(self.job)

    @property
    def params(self) -> dict[str, object]:
        return {**job_params(self.job), "source_prefix": self.job.source_path_prefix}


async def mend_notes(connection: Connection, reconciler: Reconciler, jobs: Sequence[Job]) -> None:
    """Bring the notes of each job in line whose database is another one than it was. Raises psycopg.Error.

    For all jobs at once, before anything is copied: what is known as a copy is not copied again by another job.
    """
    for job in jobs:
        noted = await _noted(connection, job)
        if noted != await _generation(connection):
            with reconciler.layout.lane(job).used():
                await _mend_notes(_Job(connection, reconciler, job), restored=noted is not None)


async def clean_up(connection: Connection, reconciler: Reconciler, job: Job) -> None:
    """Remove what is left over from before, if the job's database is another one than it was, and note that it is done.

    For the owner of the job, before its first batch. Where its folders are not mounted it is left to a later start.
    Raises psycopg.Error, and SwappedError where a disk came or went meanwhile.
    """
    generation = await _generation(connection)
    at = _Job(connection, reconciler, job)
    if await _noted(connection, job) == generation or await _away(at):
        return
    ((any_copies,),) = await fetch(connection, query("recovery", "any_copies"), at.params)
    rows = await _remove_orphan_rows(at)
    links = await _remove_orphan_links(at)
    # Where there is neither a copy nor a link, nothing was ever made; the files of a big library take long to walk.
    files = await _remove_orphan_files(at) if any_copies or links else 0
    # What a disk that went away took with it would be found by nobody later.
    await threads.run(at.layout.confirm)
    if rows or links or files:
        log.info("left over from before a restored backup: removed", job=job.name, rows=rows, links=links, files=files)
    await tracking.write_note(connection, _note(job), generation)


async def _generation(connection: Connection) -> str:
    ((generation,),) = await fetch(connection, query("recovery", "generation"), {})
    return str(generation)


async def _noted(connection: Connection, job: Job) -> str | None:
    return await tracking.read_note(connection, _note(job))


def _note(job: Job) -> str:
    return f"database {job.identity}"


async def _away(at: _Job) -> bool:
    return await mounts.wrong(at.connection, at.job, at.layout) is not None


async def _mend_notes(at: _Job, *, restored: bool) -> None:
    """Mend the notes of one job. Where it is the first start, a note of a copy that is not there is to be believed."""
    catalog = at.reconciler.catalog
    async with writing(at.connection, at.job.target_user_id, at.job.identity):
        missing = await fetch(at.connection, query("recovery", "missing_copies"), at.params) if restored else []
        named = {
            **at.params,
            "sources": uuids(source for source, _ in missing),
            "targets": uuids(target for _, target in missing),
        }
        await at.connection.execute(query("removal", "forget"), named)
        await at.connection.execute(query("recovery", "forget_marks"), named)
        await at.connection.execute(query("recovery", "forget_albums"), named)
        adopted = await _adopt(at)
        plural = catalog.has("tag_asset", "tagsId")
        tag_asset = {
            "tag_asset_asset": sql.Identifier("assetsId" if plural else "assetId"),
            "tag_asset_tag": sql.Identifier("tagsId" if plural else "tagId"),
        }
        await at.connection.execute(statement("recovery", "note_tags", **tag_asset), at.params)
        edits = query("recovery", "edits") if catalog.has("asset_edit") else sql.SQL("'[]'")
        values = {**at.params, "lockable": list(LOCKABLE)}
        await at.connection.execute(statement("recovery", "note_values", edits=edits), values)
        await at.connection.execute(query("recovery", "unskip"), at.params)
        await at.connection.execute(query("recovery", "forget_seen"))
    if missing or adopted:
        log.info(
            "the database is another one than it was, as after a restored backup: our notes are in line with it",
            job=at.job.name,
            forgotten=len(missing),
            adopted=adopted,
        )


async def _adopt(at: _Job) -> int:
    """Note copies that are there and not known, where there is proof that they are: returns how many."""
    ((by_id,),) = await fetch(at.connection, query("recovery", "adopt_by_id"), at.params)
    rows = await fetch(at.connection, query("recovery", "adoptable"), at.params)
    # As the disk has it: our link, or a folder that leads to the source's own.
    proved = await threads.run(_lead_to_sources, at, rows) if rows else []
    named = {"sources": uuids(source for source, _ in proved), "targets": uuids(target for _, target in proved)}
    await at.connection.execute(query("recovery", "adopt_by_path"), {**at.params, **named})
    return int(by_id) + len(proved)


def _lead_to_sources(at: _Job, rows: Sequence[tuple[UUID, UUID, str, str]]) -> list[tuple[UUID, UUID]]:
    same = at.layout.leads_to(at.job.target_path_prefix) == at.layout.leads_to(at.job.source_path_prefix)
    return [
        (source, target)
        for source, target, path, original in rows
        if (same if at.links.directory else _leads_to(path, original))
    ]


def _leads_to(path: str, original: str) -> bool:
    try:
        return str(Path(path).readlink()) == original
    except OSError:
        return False


async def _remove_orphan_rows(at: _Job) -> int:
    """Remove copies whose source is nowhere. Through a symlinked directory nothing can be told to be ours."""
    rows = await fetch(at.connection, query("recovery", "orphans"), at.params)
    alike = [(id_, path) for id_, path, checksum in rows if checksum == path_checksum(path)]
    ours = await threads.run(_surely_ours, at, alike)
    if len(ours) < len(rows):
        log.warning(
            "photos below target_path_prefix belong to no copy and may be the target user's: they are left alone",
            job=at.job.name,
            photos=len(rows) - len(ours),
        )
    if not ours:
        return 0
    # A source of an id that nothing has: it is only to be gone.
    orphans = [_gone(uuid4(), id_, path) for id_, path in ours]
    outcome = await at.reconciler.remove_orphans(at.connection, at.job, orphans)
    for failure in outcome.failed.values():
        log.warning("a photo that is left over could not be removed", job=at.job.name, reason=failure.text)
    return outcome.removed


def _surely_ours(at: _Job, rows: Sequence[tuple[UUID, str]]) -> list[tuple[UUID, str]]:
    if at.links.directory:
        return []
    return [(id_, path) for id_, path in rows if _is_our_link(at, path)]


def _our_links(at: _Job) -> list[str]:
    return [path for path in _walk(at.job.target_path_prefix) if _is_our_link(at, path)]


def _is_our_link(at: _Job, path: str) -> bool:
    """Tell whether a path is a symlink to where a link of ours at this path leads."""
    try:
        return at.layout.is_place_of(at.job, path, os.readlink(path))  # noqa: PTH115 - the text as it is
    except OSError:
        return False


def _gone(source_id: UUID, target_id: UUID, path: str) -> Source:
    return Source(
        id=source_id,
        target_id=target_id,
        original=None,
        reason="gone",
        in_scope=False,
        waiting=None,
        mapped=False,
        begun=False,
        made=True,
        parked=False,
        out_of_sight=False,
        lost=False,
        copy_status=None,
        copy_original=path,
        encoded=None,
        skipped=None,
        own_edits=False,
        double_id=None,
        double_reason=None,
    )


async def _remove_orphan_links(at: _Job) -> int:
    """Remove links of ours that no row of the target names."""
    if at.links.directory:
        return 0
    found = await threads.run(_our_links, at)
    removed = 0
    for page in _pages(found):
        rows = await fetch(at.connection, query("recovery", "paths_known"), {**at.params, "paths": page})
        known = {row[0] for row in rows}
        removed += await threads.run(_unlink, at, [path for path in page if path not in known])
    return removed


def _unlink(at: _Job, paths: Sequence[str]) -> int:
    removed = 0
    for path in paths:
        try:
            removed += remove_beside(at.layout, at.job.target_path_prefix, path)
        except Exception as error:
            if is_everyones(error):
                raise
            log.warning("a link that is left over could not be removed", job=at.job.name, reason=words(error))
    return removed


async def _remove_orphan_files(at: _Job) -> int:
    """Remove generated files of copies and mirrored people that are no more, known by ids derived from the source's."""
    target_user = at.job.target_user_id
    on_disk = await threads.run(_named_ids, at.layout, target_user)
    names = {"person_id": sql.Identifier("personGroupId" if at.reconciler.catalog.person_groups else "id")}
    ids_known = statement("recovery", "ids_known", **names)
    unknown: set[UUID] = set()
    for page in _pages(list(on_disk)):
        unknown |= set(page) - {row[0] for row in await fetch(at.connection, ids_known, {"ids": uuids(page)})}
    if not unknown:
        return 0
    removed = 0
    for page in _pages(list(await threads.run(_named_ids, at.layout, at.job.source_user_id))):
        derived = await fetch(at.connection, query("recovery", "copy_ids"), {**at.params, "ids": uuids(page)})
        removed += await threads.run(_remove_named, at, unknown & {row[0] for row in derived})
    return removed


def _named_ids(layout: Layout, user: UUID) -> set[UUID]:
    """Return the ids by which the files in a user's folders of generated files are named."""
    found: set[UUID] = set()
    for folder in layout.user_folders(user):
        for path in _walk(str(folder)):
            try:
                found.add(UUID(path.rpartition("/")[2][:36]))
            except ValueError:
                continue
    return found


def _remove_named(at: _Job, ids: Collection[UUID]) -> int:
    removed = 0
    for id_ in ids:
        try:
            removed += remove_files(at.layout, at.layout.folders_of(id_, at.job.target_user_id), str(id_), ())
        except Exception as error:
            if is_everyones(error):
                raise
            log.warning("a file that is left over could not be removed", job=at.job.name, reason=words(error))
    return removed


def _walk(top: str) -> Iterator[str]:
    for folder, folders, names in os.walk(top):
        yield from (f"{folder}/{name}" for name in names)
        # A link to a folder stands among the folders, and is not entered.
        yield from (path for name in folders if os.path.islink(path := f"{folder}/{name}"))  # noqa: PTH114


def _pages(items: Sequence[_T]) -> Iterator[list[_T]]:
    for start in range(0, len(items), _PAGE):
        yield list(items[start : start + _PAGE])
