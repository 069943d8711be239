"""How copies go: for good, or parked for a while. The rows first, with a mark of every path; then the files.

One way for everything that goes, in three steps: a transaction that takes the rows away (or out of sight) and leaves
the mark, the files from the mark, the mark (`listener.sync.marks`). Nobody who must not see a photo waits for a disk.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from uuid import UUID

from psycopg import sql

from listener.database import Connection, fetch, query, statement, uuids
from listener.immich.catalog import Catalog
from listener.immich.layout import Layout, path_checksum
from listener.settings import Job
from listener.sync import marks
from listener.sync.extras import Extras, tagged_columns
from listener.sync.kept import Kept
from listener.sync.phones import Phones
from listener.sync.plan import Source, batch_params, job_params
from listener.sync.rules import LOCKABLE, own_name


@dataclass(frozen=True, slots=True)
class Removal:
    """The statements for one catalog."""

    layout: Layout
    paths: bytes
    note_parked: bytes
    park_rows: bytes
    set_aside: bytes
    lock_own: bytes | None
    kept: Kept
    extras: Extras
    phones: Phones

    @classmethod
    def compose(cls, catalog: Catalog, layout: Layout, extras: Extras, phones: Phones) -> "Removal":
        """Compose the statements from what this Immich has."""
        has_column = catalog.has("asset", "sidecarPath")
        more = [
            query("removal", name)
            for name, column in (("path_algorithm", "checksumAlgorithm"), ("no_sidecar", "sidecarPath"))
            if catalog.has("asset", column)
        ]
        parts = {"more": sql.SQL(" ").join(more)}
        own_names = [own_name(column) for column in LOCKABLE if catalog.has("asset_exif", column)]
        locks = catalog.has("asset_exif", "lockedProperties")
        return cls(
            layout,
            statement(
                "removal",
                "paths",
                sidecar=query("removal", "sidecar_column" if has_column else "sidecar_file"),
                encoded=query("removal", "encoded_video") if catalog.has("asset", "encodedVideoPath") else sql.SQL(""),
            ),
            statement("removal", "note_parked", **tagged_columns(catalog)),
            statement("removal", "park", **parts),
            statement("removal", "aside", **parts),
            statement("removal", "lock_own", own_names=sql.SQL(", ").join(own_names)) if locks else None,
            Kept.compose(catalog),
            extras,
            phones,
        )

    async def remove(
        self,
        connection: Connection,
        job: Job,
        sources: Sequence[Source],
        places: Mapping[tuple[UUID, UUID], Sequence[str]],
        *,
        own_sidecars: bool,
    ) -> None:
        """Take the rows of these copies away, and leave marks of their files. Raises psycopg.Error.

        places: of links that no row names any more. own_sidecars: copies have links of their own, and what lies beside
        those is theirs.
        """
        params = {**job_params(job), **batch_params(sources), "job": job.name}
        # Not there, and not lost: their user was faster.
        by_user = [source.mapped and not source.lost for source in sources]
        async with self.phones.writing(connection, job, deletes=True):
            await connection.execute(query("removal", "hold"), params)
            await self._mark(connection, job, sources, own_sidecars=own_sidecars)
            await marks.leave(connection, job, places)
            await connection.execute(query("removal", "respect_deleted"), {**params, "by_user": by_user})
            await self.kept.note(connection, params)
            await self.extras.before(connection, params)
            await connection.execute(query("removal", "delete_copies"), params)
            await self.extras.after(connection, params)
            await connection.execute(query("removal", "forget"), params)
            await connection.execute(query("rows", "recovered"), params)

    async def park(self, connection: Connection, job: Job, sources: Sequence[Source], *, own_sidecars: bool) -> None:
        """Put these copies out of sight with all that hangs on them; only links and XMP files go.

        Raises psycopg.Error.
        """
        params = {**job_params(job), **batch_params(sources), "job": job.name}
        async with self.phones.writing(connection, job):
            await connection.execute(query("removal", "hold"), params)
            await self.kept.note(connection, params)
            await connection.execute(self.note_parked, params)
            await self.extras.before_parking(connection, params)
            if own_sidecars:
                await self._leave_place(connection, job, [(source.id, source.target_id) for source in sources])
            await connection.execute(self.park_rows, {**params, **self._nowhere(job, sources)})
            await self.extras.restack(connection, params)
            await connection.execute(query("rows", "recovered"), params)

    async def aside(
        self, connection: Connection, job: Job, holders: Sequence[tuple[UUID, UUID, str]], *, own_sidecars: bool
    ) -> None:
        """Take copies, ``(source, copy, path)`` each, out of the places that others get. Part of a transaction."""
        if own_sidecars:
            await self._leave_place(connection, job, [(source, target) for source, target, _ in holders])
        paths = [self.layout.nowhere(job, target, PurePosixPath(path).suffix) for _, target, path in holders]
        params = {
            **job_params(job),
            "targets": uuids(target for _, target, _ in holders),
            "nowhere": paths,
            "checksums": [path_checksum(path) for path in paths],
        }
        await connection.execute(self.set_aside, params)

    async def leave_place(
        self, connection: Connection, job: Job, sources: Iterable[Source], *, but: Collection[str]
    ) -> None:
        """Leave marks of the links of copies that move, ``but`` these, and of the XMP beside them.

        What their user typed is no longer in an XMP then: it is locked. Part of a transaction.
        """
        await self._leave_place(connection, job, [(source.id, source.target_id) for source in sources], but=but)

    async def skip(self, connection: Connection, job: Job, doubles: Sequence[Source], others: Sequence[Source]) -> None:
        """Note which sources would double photos of the target user's own, and which ``others`` do no more."""
        await connection.execute(
            query("removal", "skip_doubles"),
            {
                **job_params(job),
                "sources": uuids(source.id for source in doubles),
                "reasons": [source.double_reason for source in doubles],
                "others": uuids(source.double_id for source in doubles),
            },
        )
        await connection.execute(query("removal", "unskip"), {**job_params(job), **batch_params(others)})

    async def _mark(self, connection: Connection, job: Job, sources: Sequence[Source], *, own_sidecars: bool) -> None:
        """Leave marks of all files of these copies, also where their rows are gone. Part of a transaction."""
        params = {**batch_params(sources), **job_params(job), "own_sidecars": own_sidecars}
        named = await self._named(connection, params)
        await marks.leave(
            connection, job, {(source.id, source.target_id): named.get(source.target_id, []) for source in sources}
        )

    async def _leave_place(
        self, connection: Connection, job: Job, copies: Sequence[tuple[UUID, UUID]], *, but: Collection[str] = ()
    ) -> None:
        if not copies:
            return
        params = {
            **job_params(job),
            "targets": uuids(target for _, target in copies),
            "own_sidecars": True,
        }
        named = await self._named(connection, params)
        await marks.leave(
            connection,
            job,
            {
                (source, target): [
                    path for path in named.get(target, ()) if self.layout.is_external(path) and path not in but
                ]
                for source, target in copies
            },
        )
        if self.lock_own is not None:
            await connection.execute(self.lock_own, params)
        await connection.execute(query("removal", "drop_sidecars"), params)

    async def _named(self, connection: Connection, params: Mapping[str, Any]) -> dict[UUID, list[str]]:
        named: dict[UUID, list[str]] = {}
        for target_id, path in await fetch(connection, self.paths, dict(params)):
            named.setdefault(target_id, []).append(path)
        return named

    def _nowhere(self, job: Job, sources: Sequence[Source]) -> dict[str, list[Any]]:
        paths = [
            self.layout.nowhere(job, source.target_id, PurePosixPath(source.copy_original or "").suffix)
            for source in sources
        ]
        return {"nowhere": paths, "checksums": [path_checksum(path) for path in paths]}
