"""Marks: of which copies files may be there that no row names, and how those files go.

A mark is left before the first file of a copy is made, and in the very transaction that takes rows away: it holds
every path to be removed. Then the files go, from the mark, and then the mark. Whatever the disk says, the rows are gone
by then; what cannot be removed now keeps its mark, and is tried again.

Also marks for work that is cut off: another listener may have the job by now, and go on where we do not. A process that
stood still for a while, and a batch that loses its connection, have files in the making. Whoever took the job over may
have removed the copies meanwhile, and their marks with them: nobody would know of files that come later. So whoever is
cut off waits for its own hands, leaves the marks once more, and tells the owner.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from uuid import UUID

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from listener.database import Connection, FencedError, RefusedError, connect, fetch, query, statement, uuids
from listener.faults import is_everyones, place, words
from listener.immich.catalog import Catalog
from listener.immich.layout import Layout, SwappedError
from listener.ops import logs
from listener.ops.metrics import Metrics
from listener.settings import Job
from listener.sync.clearing import remove_beside, remove_files
from listener.sync.files import FileProblemError
from listener.sync.plan import Source, batch_params, job_params
from listener.threads import SilentFolderError, to_the_end

log = logs.get("marks")

_XMP = ".xmp"
_PREFIX_AWAY = (
    "the folder {!r} is not there, and a link that is to be removed may be in it: put it back, or make an empty one"
)


@dataclass(frozen=True, slots=True)
class Mark:
    """What is to be removed of one copy, or of one mirrored person. there: its row is; its files stay then."""

    source_id: UUID
    target_id: UUID
    prefix: str
    paths: tuple[str, ...]
    there: bool


@dataclass(frozen=True, slots=True)
class Marks:
    """The statements for one catalog, and where the files are."""

    layout: Layout
    metrics: Metrics
    read: bytes
    named: bytes

    @classmethod
    def compose(cls, catalog: Catalog, layout: Layout, metrics: Metrics) -> "Marks":
        """Compose the statements from what this Immich has."""
        person_id = sql.Identifier("personGroupId" if catalog.person_groups else "id")
        columns = [
            query("marks", name)
            for name, column in (("encoded_videos", "encodedVideoPath"), ("sidecars", "sidecarPath"))
            if catalog.has("asset", column)
        ] or [query("marks", "nothing_more")]
        return cls(
            layout,
            metrics,
            statement("marks", "read", person_id=person_id),
            statement("marks", "named", person_id=person_id, columns=sql.SQL("\nUNION ALL\n").join(columns)),
        )

    async def clear(
        self, connection: Connection, job: Job, sources: Collection[UUID], *, wholly: Collection[UUID] = ()
    ) -> dict[UUID, str]:
        """Remove what the marks of these sources name and no row does, and then the marks. Returns failures in words.

        wholly: of copies that are there, those of which any file that is named by the id goes, as after a crash. Raises
        SwappedError, with all marks kept, where a disk came or went meanwhile.
        """
        if not sources:
            return {}
        params = {**job_params(job), "sources": uuids(sources)}
        marks = [Mark(*row) for row in await fetch(connection, self.read, params)]
        if not marks:
            return {}
        paths = [path for mark in marks for path in mark.paths]
        about = {
            "paths": paths,
            "targets": uuids(mark.target_id for mark in marks),
            "beside": [path.removesuffix(_XMP) for path in paths if path.endswith(_XMP)],
        }
        named = {row[0] for row in await fetch(connection, self.named, about)}
        failed = await to_the_end(self._remove, job, marks, named, set(wholly))
        done = [mark.source_id for mark in marks if mark.source_id not in failed]
        await connection.execute(query("marks", "done"), {**job_params(job), "sources": uuids(done)})
        return failed

    async def clear_generated(self, connection: Connection, job: Job, sources: Collection[UUID]) -> None:
        """Remove generated files of copies that are gone, as far as can be while another disk is away; marks stay."""
        params = {**job_params(job), "sources": uuids(sources)}
        gone = [mark for row in await fetch(connection, self.read, params) if not (mark := Mark(*row)).there]
        if gone:
            # They go by their marks, too, when the folders answer again.
            with contextlib.suppress(SilentFolderError):
                await to_the_end(self._remove_generated, job, gone)

    def _remove_generated(self, job: Job, marks: Sequence[Mark]) -> None:
        for mark in marks:
            folders = self.layout.folders_of(mark.target_id, job.target_user_id)
            # Where the media root itself is another one nothing is removed; what is left is removed by the mark.
            with contextlib.suppress(FileProblemError, SwappedError, OSError, ValueError):
                remove_files(self.layout, folders, str(mark.target_id), mark.paths)

    def _remove(
        self, job: Job, marks: Sequence[Mark], named: Collection[str], wholly: Collection[UUID]
    ) -> dict[UUID, str]:
        failed: dict[UUID, str] = {}
        removed = 0
        for mark in marks:
            everything = not mark.there or mark.source_id in wholly
            folders = self.layout.folders_of(mark.target_id, job.target_user_id) if everything else ()
            paths = [path for path in mark.paths if path not in named]
            if any(path.startswith(mark.prefix + "/") for path in paths) and not os.path.lexists(mark.prefix):
                failed[mark.source_id] = _PREFIX_AWAY.format(mark.prefix)
                continue
            try:
                removed += remove_files(self.layout, folders, str(mark.target_id), paths, but=named)
                for path in paths:
                    removed += remove_beside(self.layout, mark.prefix, path)
            except FileProblemError as problem:
                failed[mark.source_id] = str(problem)
            except Exception as error:
                if is_everyones(error):
                    raise
                log.trace("a mark could not be gone through", asset=mark.source_id)
                failed[mark.source_id] = f"its files cannot be removed: {words(error)} ({place(error)})"
        # What a disk that went away took with it was not found, and would be found by nobody later.
        self.layout.confirm()
        self.metrics.files.labels(how="removed").inc(removed)
        return failed


async def begin(connection: Connection, job: Job, sources: Sequence[Source]) -> None:
    """Leave a mark of these copies before the first of their files is made. Raises psycopg.Error."""
    await connection.execute(query("marks", "begin"), {**job_params(job), **batch_params(sources)})


async def leave(connection: Connection, job: Job, paths: Mapping[tuple[UUID, UUID], Collection[str]]) -> None:
    """Leave marks by ``(source, copy)``, with the paths that are to go beside the files named by the copy's id.

    Part of the transaction that takes the rows away. Raises psycopg.Error.
    """
    if not paths:
        return
    listed = [(*ids, path) for ids, of_copy in paths.items() for path in (of_copy or (None,))]
    await connection.execute(
        query("marks", "leave"),
        {
            **job_params(job),
            "mark_sources": uuids(source for source, _, _ in listed),
            "mark_targets": uuids(target for _, target, _ in listed),
            "mark_paths": [path for _, _, path in listed],
        },
    )


@asynccontextmanager
async def left_if_cut_off(connection: Connection, job: Job, sources: Sequence[Source]) -> AsyncIterator[None]:
    """Leave the marks of these copies once more where the block is cancelled, fenced, or loses its connection."""
    # Not by info.dsn, which asks for a home directory: a user known by a number only (PUID) may have none.
    given = {
        option.keyword.decode(): option.val.decode() for option in connection.pgconn.info if option.val is not None
    }
    conninfo = make_conninfo(**given)
    try:
        yield
    except (asyncio.CancelledError, FencedError, psycopg.OperationalError) as error:
        if connection.closed or not isinstance(error, psycopg.OperationalError):
            await _leave(conninfo, job, sources)
        raise
    except SilentFolderError as error:
        # What hangs there may go on any time, and make files.
        error.afterwards(partial(_leave, conninfo, job, sources))
        raise


async def _leave(conninfo: str, job: Job, sources: Sequence[Source]) -> None:
    try:
        async with await connect(conninfo) as connection:
            await begin(connection, job, sources)
            await connection.execute(query("marks", "tell_owner"))
    except (psycopg.Error, RefusedError) as error:
        # As after a crash then: only what another listener has removed in between may be left over.
        log.warning("photos in the making could not be marked", job=job.name, photos=len(sources), reason=str(error))
