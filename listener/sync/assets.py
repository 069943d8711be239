"""The rows of copies: one transaction for a whole batch, a statement for each table, pipelined.

Nothing is committed but whole copies. The transaction is bounded in time, since its rows carry an ``updateId``
only a few seconds ahead: a phone's mark must not pass them before they are there.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from psycopg import sql

from listener.database import Connection, fetch, query, statement, uuids
from listener.immich.catalog import Catalog
from listener.immich.layout import path_checksum
from listener.settings import Job
from listener.sync.extras import Extras
from listener.sync.people import People, Person
from listener.sync.phones import Phones
from listener.sync.plan import Source, batch_params, job_params, own_edits_of
from listener.sync.rules import LOCKABLE, asset_rule, child_statements, file_rule, parts

# pg_temp.ahead() stamps three seconds ahead; half a second is left for the commit.
TRANSACTION_SECONDS = 2.5


class TooSlowError(Exception):
    """The transaction took longer than its rows are stamped ahead: it was rolled back, a smaller batch may do."""


@dataclass(frozen=True, slots=True)
class PlacedFile:
    """A generated file that is in place: the row of asset_file that it copies, and its path."""

    source_file_id: UUID
    path: str


@dataclass(frozen=True, slots=True)
class WantedCopy:
    """A copy whose files are in place and whose rows are to be written.

    path: of the copy's original. modified_ns: of the original file. encoded: the copy's asset.encodedVideoPath.
    """

    source: Source
    path: str
    modified_ns: int
    encoded: str | None
    files: tuple[PlacedFile, ...]


@dataclass(frozen=True, slots=True)
class Rows:
    """The writing statements for one catalog: ``(table, statement)`` in the order of writing."""

    hold: bytes
    assets: bytes
    children: tuple[tuple[str, bytes, bytes], ...]
    delete_files: bytes
    upsert_files: bytes
    people: People
    extras: Extras
    phones: Phones
    note_edits: bytes | None

    @classmethod
    def compose(cls, catalog: Catalog) -> "Rows":
        """Compose the statements from what this Immich has."""
        asset = parts(catalog, "asset", asset_rule(catalog))
        rule = file_rule(catalog)
        file = parts(catalog, "asset_file", rule)
        return cls(
            hold=statement("rows", "hold", own_edits=own_edits_of(catalog)),
            assets=statement("rows", "upsert_assets", **asset.named()),
            children=child_statements(catalog),
            delete_files=statement("rows", "delete_files", same=sql.SQL(rule.same), ours=sql.SQL(rule.ours)),
            upsert_files=statement("rows", "upsert_files", **file.named()),
            people=People.compose(catalog),
            extras=Extras.compose(catalog),
            phones=Phones.compose(catalog),
            note_edits=statement("rows", "note_edits") if catalog.has("asset_edit") else None,
        )

    async def write(
        self,
        connection: Connection,
        job: Job,
        copies: Sequence[WantedCopy],
        people: Sequence[Person],
        *,
        album: UUID | None,
        own_sidecars: bool,
    ) -> "Written":
        """Write the rows of these copies. Raises psycopg.Error, or TooSlowError; then nothing was written.

        album: where the copies belong, if it can be used. own_sidecars: an XMP beside a copy is its user's, since
        copies have links of their own.
        """
        async with self.phones.writing(connection, job):
            started = time.monotonic()
            copies = await self._still_wanted(connection, job, copies)
            written = await self._write(connection, job, copies, people, album, own_sidecars=own_sidecars)
            # Files that no row names any more go after the commit: a crash between leaves a mark.
            if leaving := written.leaving:
                await connection.execute(query("plan", "begin"), {**job_params(job), **batch_params(leaving)})
            if time.monotonic() - started > TRANSACTION_SECONDS:
                raise TooSlowError(f"writing {len(copies)} copies took over {TRANSACTION_SECONDS} s")
        return written

    async def _still_wanted(self, connection: Connection, job: Job, copies: Sequence[WantedCopy]) -> list[WantedCopy]:
        """Leave out copies of which the plan is no longer true: they are planned anew.

        Their user has deleted them since, or edited them, or another batch has made them.
        """
        made = [copy.source.target_id for copy in copies if copy.source.made]
        fresh = [copy.source.id for copy in copies if not copy.source.made]
        params = {**job_params(job), "made": uuids(made), "fresh": uuids(fresh)}
        there: dict[UUID, bool] = dict(await fetch(connection, self.hold, params)) if made else {}
        unwanted = {row[0] for row in await fetch(connection, query("rows", "unwanted"), params)} if fresh else set()
        return [
            copy
            for copy in copies
            if (
                there.get(copy.source.target_id) == copy.source.own_edits
                if copy.source.made
                else copy.source.id not in unwanted
            )
        ]

    async def _write(
        self,
        connection: Connection,
        job: Job,
        copies: Sequence[WantedCopy],
        people: Sequence[Person],
        album: UUID | None,
        *,
        own_sidecars: bool,
    ) -> "Written":
        sources = [copy.source for copy in copies]
        files = [(copy.source.target_id, file) for copy in copies for file in copy.files]
        params = {
            **job_params(job),
            **batch_params(sources),
            "job": job.name,
            "album": album,
            "own_sidecars": own_sidecars,
            "lockable": list(LOCKABLE),
            "own_edits": uuids(source.target_id for source in sources if source.own_edits),
            "originals": [copy.path for copy in copies],
            "checksums": [path_checksum(copy.path) for copy in copies],
            "modified": [_to_millisecond(copy.modified_ns) for copy in copies],
            "encoded": [copy.encoded for copy in copies],
            "file_ids": uuids(file.source_file_id for _, file in files),
            "file_targets": uuids(target_id for target_id, _ in files),
            "file_paths": [file.path for _, file in files],
        }
        async with connection.pipeline():
            before = await connection.execute(query("rows", "named_files"), params)
            await self.people.adopt_copies(connection, params)
            rows = {"asset": await connection.execute(self.assets, params)}
            for table, delete, upsert in self.children:
                await connection.execute(delete, params)
                rows[table] = await connection.execute(upsert, params)
            await connection.execute(self.delete_files, params)
            rows["asset_file"] = await connection.execute(self.upsert_files, params)
            await self.people.write(connection, job, sources, people)
            named = await connection.execute(query("rows", "named_files"), params)
            await connection.execute(query("rows", "finish"), params)
            if self.note_edits is not None:
                await connection.execute(self.note_edits, params)
            await self.extras.write(connection, job, params)
            await connection.execute(query("rows", "recovered"), params)
        return Written(
            tuple(copies),
            {table: cursor.rowcount for table, cursor in rows.items()},
            frozenset(row[0] for row in await before.fetchall()),
            frozenset(row[0] for row in await named.fetchall()) | {copy.encoded or "" for copy in copies},
        )


@dataclass(frozen=True, slots=True)
class Written:
    """What one transaction did.

    copies: those that were written. rows: how many were made or mended, by table. before: paths of all files
    that the copies' rows named before. named: those that they name now.
    """

    copies: tuple[WantedCopy, ...]
    rows: dict[str, int]
    before: frozenset[str]
    named: frozenset[str]

    @property
    def leaving(self) -> list[Source]:
        """The sources of copies of which some file is to go."""
        gone = self.before - self.named
        return [copy.source for copy in self.copies if any(str(copy.source.target_id) in path for path in gone)]


def _to_millisecond(time_ns: int) -> datetime:
    """Round as Immich does when it reads a file's time: to the nearest millisecond."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=(time_ns + 500_000) // 1_000_000)
