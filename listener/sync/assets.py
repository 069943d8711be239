"""The rows of copies: one transaction for a whole batch, a statement for each table, pipelined.

Nothing is committed but whole copies. The transaction is bounded in time, since its rows carry an ``updateId``
only a few seconds ahead: a phone's mark must not pass them before they are there.
"""

import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from uuid import UUID

import psycopg
from psycopg import sql

from listener import threads
from listener.database import Connection, fetch, query, statement, uuids
from listener.immich.catalog import Catalog
from listener.immich.layout import Layout, path_checksum
from listener.settings import Job
from listener.sync import marks
from listener.sync.extras import Extras
from listener.sync.people import People, Person
from listener.sync.phones import STAMPED_AHEAD, Phones
from listener.sync.plan import Source, batch_params, job_params, own_edits_of
from listener.sync.removal import Removal
from listener.sync.rules import LOCKABLE, asset_rule, child_statements, file_rule, parts

# Reads sources anew: what is planned for them now.
Again = Callable[[Sequence[UUID]], Awaitable[list[Source]]]

# Rows are stamped three seconds ahead; of any lead a sixth is left for the commit.
WRITTEN_WITHIN = STAMPED_AHEAD / 1.2

# The first time that PostgreSQL knows, in 4714 BC, and the last that Immich knows, in 275760.
_EARLIEST_MS = -210_866_803_200_000
_LATEST_MS = 8_640_000_000_000_000


class TooSlowError(Exception):
    """It took longer than it may: it was rolled back, a smaller batch may do; ``longer``: or one photo more time."""

    def __init__(self, words: str, *, longer: bool) -> None:
        super().__init__(words)
        self.longer = longer


@dataclass(frozen=True, slots=True)
class PlacedFile:
    """A generated file that is in place: the row of asset_file that it copies, and its path."""

    source_file_id: UUID
    path: str


@dataclass(frozen=True, slots=True)
class WantedCopy:
    """A copy whose files are in place and whose rows are to be written.

    path: of the copy's original. modified_ns: of the original file; None: as the source's row has it.
    encoded: the copy's asset.encodedVideoPath.
    """

    source: Source
    path: str
    modified_ns: int | None
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
    removal: Removal
    note_edits: bytes | None

    @classmethod
    def compose(cls, catalog: Catalog, layout: Layout) -> "Rows":
        """Compose the statements from what this Immich has."""
        asset = parts(catalog, "asset", asset_rule(catalog))
        rule = file_rule(catalog)
        file = parts(catalog, "asset_file", rule)
        extras, phones = Extras.compose(catalog), Phones.compose(catalog)
        return cls(
            hold=statement("rows", "hold", own_edits=own_edits_of(catalog)),
            assets=statement("rows", "upsert_assets", **asset.named()),
            children=child_statements(catalog),
            delete_files=statement("rows", "delete_files", same=sql.SQL(rule.same), ours=sql.SQL(rule.ours)),
            upsert_files=statement("rows", "upsert_files", **file.named()),
            people=People.compose(catalog),
            extras=extras,
            phones=phones,
            removal=Removal.compose(catalog, layout, extras, phones),
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
        again: Again,
        within: float = WRITTEN_WITHIN,
    ) -> "Written":
        """Write the rows of these copies. Raises psycopg.Error, or TooSlowError; then nothing was written.

        album: where the copies belong, if it can be used. own_sidecars: an XMP beside a copy is its user's, since
        copies have links of their own. again: tells once more what is to be done, now that the sources are held.
        within: the seconds that all of it may take.
        """
        async with self.phones.writing(connection, job, ahead=1.2 * within) as transaction:
            # Each statement has the time that is left. Asked for between statements, also where nobody waits there.
            in_time = partial(connection.execute, query("rows", "in_time"), {"end": transaction.ends_by(within)})
            try:
                await in_time()
                copies = await self._still_wanted(connection, job, copies, again)
                await in_time()
                moved = await self._make_way(connection, job, copies, own_sidecars=own_sidecars)
                written = await self._write(connection, job, copies, people, album, in_time, own_sidecars=own_sidecars)
                # Files that no row names any more go after the commit: a crash between leaves a mark.
                await marks.leave(connection, job, written.leaving)
            except psycopg.errors.QueryCanceled as error:
                # Somebody else may have cancelled it.
                if connection.closed or connection.broken or transaction.took < within:
                    raise
                raise TooSlowError(_too_slow(copies, within), longer=True) from error
            took = transaction.took
            if took > within:
                raise TooSlowError(_too_slow(copies, within), longer=True)
        return replace(written, moved=frozenset(moved), seconds=took)

    async def _still_wanted(
        self, connection: Connection, job: Job, copies: Sequence[WantedCopy], again: Again
    ) -> list[WantedCopy]:
        """Leave out copies of which the plan is no longer true: they are planned anew.

        Their user has deleted them since, or edited them, or another batch has made them; or the source's user has
        locked, trashed or moved the photo. From here on the sources stay what they are until the commit.
        """
        sources = [copy.source for copy in copies]
        made = [source.target_id for source in sources if source.made]
        fresh = [source.id for source in sources if not source.made]
        params = {**job_params(job), **batch_params(sources), "made": uuids(made), "fresh": uuids(fresh)}
        await connection.execute(query("rows", "hold_sources"), params)
        there: dict[UUID, bool] = dict(await fetch(connection, self.hold, params)) if made else {}
        unwanted = {row[0] for row in await fetch(connection, query("rows", "unwanted"), params)} if fresh else set()
        now = {source.id: source for source in await again([source.id for source in sources])}
        return [
            copy
            for copy in copies
            if _same_plan(copy.source, now.get(copy.source.id))
            and (
                there.get(copy.source.target_id) == copy.source.own_edits
                if copy.source.made
                else copy.source.id not in unwanted
            )
        ]

    async def _make_way(
        self, connection: Connection, job: Job, copies: Sequence[WantedCopy], *, own_sidecars: bool
    ) -> list[UUID]:
        """Free the places that these copies get: of their own former places, and of other copies there.

        Photos may exchange their paths, and (owner, library, path) is unique. Returns the sources of those others.
        """
        prefix = job.target_path_prefix + "/"
        moving = [
            copy.source
            for copy in copies
            if copy.source.copy_original not in {None, copy.path}
            and (own_sidecars or not str(copy.source.copy_original).startswith(prefix))
        ]
        former = [source for source in moving if not str(source.copy_original).startswith(prefix)]
        others = await threads.run(_led_elsewhere, former) if former else set()
        await self.removal.leave_place(connection, job, moving, but=others)
        params = {
            **job_params(job),
            "targets": uuids(copy.source.target_id for copy in copies),
            "checksums": [path_checksum(copy.path) for copy in copies],
        }
        holders = await fetch(connection, query("rows", "holders"), params)
        if holders:
            listed = [(row[0], row[1], row[2]) for row in holders]
            await self.removal.aside(connection, job, listed, own_sidecars=own_sidecars)
        return [row[0] for row in holders]

    async def _write(
        self,
        connection: Connection,
        job: Job,
        copies: Sequence[WantedCopy],
        people: Sequence[Person],
        album: UUID | None,
        in_time: Callable[[], Awaitable[object]],
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
            "made": uuids(source.target_id for source in sources if source.made),
            "originals": [copy.path for copy in copies],
            "source_paths": [source.original for source in sources],
            "checksums": [path_checksum(copy.path) for copy in copies],
            "modified": [None if copy.modified_ns is None else _to_millisecond(copy.modified_ns) for copy in copies],
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
                await in_time()
                await connection.execute(delete, params)
                rows[table] = await connection.execute(upsert, params)
            await in_time()
            await connection.execute(self.delete_files, params)
            rows["asset_file"] = await connection.execute(self.upsert_files, params)
            await in_time()
            await self.people.write(connection, job, sources, people)
            await in_time()
            named = await connection.execute(query("rows", "named_files"), params)
            await self.removal.kept.give(connection, params)
            await connection.execute(query("rows", "finish"), params)
            if self.note_edits is not None:
                await connection.execute(self.note_edits, params)
            await in_time()
            await self.extras.write(connection, job, params)
            await in_time()
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
    that the copies' rows named before. named: those that they name now. moved: sources of other copies that had to make
    way. seconds: how long it took.
    """

    copies: tuple[WantedCopy, ...]
    rows: dict[str, int]
    before: frozenset[str]
    named: frozenset[str]
    moved: frozenset[UUID] = frozenset()
    seconds: float = 0.0

    @property
    def leaving(self) -> dict[tuple[UUID, UUID], list[str]]:
        """Files that no row names any more, by source and copy: rows that went, or went while the files were placed."""
        leaving: dict[tuple[UUID, UUID], list[str]] = {}
        for copy in self.copies:
            id_ = str(copy.source.target_id)
            placed = {file.path for file in copy.files} | self.before
            if gone := [path for path in placed - self.named if id_ in path]:
                leaving[copy.source.id, copy.source.target_id] = gone
        return leaving


def _too_slow(copies: Sequence[WantedCopy], within: float) -> str:
    what = "one copy" if len(copies) == 1 else f"{len(copies)} copies"
    return f"the database took over {within:g} s to write {what}: look at its disk, and for what keeps it busy"


def _led_elsewhere(sources: Sequence[Source]) -> set[str]:
    """Return the places below a former prefix at which something else is than the link of this very copy."""
    others = set()
    for source in sources:
        path = str(source.copy_original)
        try:
            ours = os.readlink(path) == source.original  # noqa: PTH115 - the text, not a path made of it
        except OSError:
            ours = False
        if not ours:
            others.add(path)
    return others


def _same_plan(planned: Source, now: Source | None) -> bool:
    return now is not None and now.reason is None and now.original == planned.original


def _to_millisecond(time_ns: int) -> int:
    """Round as Immich does when it reads a file's time: to the nearest millisecond since 1970.

    Some file systems hold times that neither PostgreSQL nor Immich can: of those the nearest.
    """
    return min(_LATEST_MS, max(_EARLIEST_MS, (time_ns + 500_000) // 1_000_000))
