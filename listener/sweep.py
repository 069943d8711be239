"""The slow way to the same keys: looks through the database for whatever may need work.

It runs at every (re)connect, on a slow timer and when asked. What it names goes behind what notifications name.
A photo whose state is the one that was noted when nothing was left to do for it is passed over, unless one of its
files or its link is not there; so is a person. See ``sweep.sql`` for what a state is.
"""

import hashlib
import os
import time
from collections.abc import AsyncIterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow

from listener import threads
from listener.database import JOB_LOCK, Connection, fetch, query, statement, uuids
from listener.immich.catalog import COPIED_TABLES, Catalog
from listener.ops import logs
from listener.pace import Pace
from listener.settings import Job
from listener.sync.files import OriginalLinks
from listener.sync.plan import Planner, job_params
from listener.workqueue import Key

log = logs.get("sweep")

PAGE = 2000
# Seconds that reading a page may take. What takes a minute PostgreSQL ends (session.sql).
_AIM = 5.0
_BEFORE_ALL = UUID(int=0)
# What only puts a sweep off: a lock, of a migration for instance, or a database that is too slow for one photo.
PUT_OFF = (psycopg.errors.LockNotAvailable, psycopg.errors.QueryCanceled)
_LOCKED_PAUSE = 5.0
_SLOW_PAUSE = 30.0


@dataclass(frozen=True, slots=True)
class Found:
    """One that may need work, the state it is in, and the source's person where it is a mirrored one."""

    key: Key
    state: int
    other_id: UUID | None


@dataclass(frozen=True, slots=True)
class Page:
    """Those that may need work, of ``looked_at`` photos or people; ``read_as``: how the page was read."""

    looked_at: int
    found: list[Found]
    read_as: tuple[bytes, dict[str, Any]]

    @property
    def keys(self) -> list[Key]:
        """The keys of those that may need work."""
        return [found.key for found in self.found]


@dataclass(frozen=True, slots=True)
class Sweep:
    """The statements for one catalog. ``house``: whatever else a copy depends on, the same for all jobs."""

    house: str
    planner: Planner
    assets: bytes
    people: bytes
    circumstances: bytes
    pace: Pace
    limited: logs.Limited

    @classmethod
    def compose(cls, catalog: Catalog, planner: Planner, house: Sequence[object]) -> "Sweep":
        """Compose the statements from what this Immich has."""
        groups = catalog.person_groups
        names = {
            "person_id": sql.Identifier("personGroupId" if groups else "id"),
            "face_person": sql.Identifier("personGroupId" if groups else "personId"),
        }
        edits = catalog.has("asset_file", "isEdited")
        files = {
            "edited": sql.SQL('file."isEdited"' if edits else "false"),
            "same_edit": sql.SQL('AND mine."isEdited" = file."isEdited"' if edits else ""),
            "encoded": query("sweep", "encoded_video")
            if catalog.has("asset", "encodedVideoPath")
            else sql.SQL("NULL::text[]"),
        }
        states = [query("sweep", "state_of_rows").format(rows=rows) for rows in _rows(catalog)]
        states.append(query("sweep", "state_of_people").format(**names))
        cluster_groups = query("sweep", "cluster_groups") if groups else sql.SQL("NULL")
        return cls(
            repr((sorted(catalog.tables.items(), key=lambda table: table[0]), *house)),
            planner,
            statement("sweep", "assets", states=sql.SQL(", ").join(states), **files),
            statement("sweep", "people", **names),
            statement("sweep", "circumstances", cluster_groups=cluster_groups),
            Pace(PAGE, aim=_AIM),
            logs.Limited(log),
        )

    async def pages(
        self, connection: Connection, job: Job, links: OriginalLinks | None, *, album_usable: bool, everything: bool
    ) -> AsyncIterator[Page]:
        """Yield what may need work, a page at a time: at most PAGE keys are in memory, and no transaction lasts.

        everything: also what is as it was left. Without links no file is looked at, as where folders are away. A page
        that takes the database too long is read again smaller. Raises QueryCanceled where the least one does.
        """
        rows = await fetch(connection, self.circumstances, job_params(job))
        others = self.planner.other_prefixes(job)
        around = repr((self.house, self.planner.features(), job, others, album_usable, rows))
        circumstances = hashlib.sha256(around.encode()).hexdigest()
        params = {**_params(job), "circumstances": circumstances, "other_prefixes": others}
        kinds: tuple[tuple[Literal["asset", "person"], bytes], ...] = (("asset", self.assets), ("person", self.people))
        for kind, text in kinds:
            after = _BEFORE_ALL
            while True:
                page = {**params, "after": after, "limit": self.pace.size}
                read = await self._read(connection, text, page)
                if read is None:
                    continue
                if not read:
                    break
                after = read[-1][0]
                if links is None:
                    found = _found(kind, read, None, everything=everything)
                else:
                    found = await threads.run(_found, kind, read, links, everything=everything)
                yield Page(len(read), found, (text, page))

    async def _read(self, connection: Connection, text: bytes, page: dict[str, Any]) -> list[TupleRow] | None:
        """Return the rows of a page, or None where it is to be tried smaller."""
        size, started = int(page["limit"]), time.monotonic()
        try:
            rows = await fetch(connection, text, page)
        except psycopg.errors.QueryCanceled:
            if size == 1 or connection.closed or connection.broken:
                raise
            self.pace.too_slow(size)
            self.limited.warning(
                "the database takes too long to look through so many photos: fewer are looked at once. "
                "Look at its disk",
                tried=size,
                next=self.pace.size,
            )
            return None
        self.pace.took(len(rows), time.monotonic() - started)
        return rows

    async def remember(self, connection: Connection, page: Page, unsettled: AbstractSet[UUID]) -> None:
        """Note the states of those of a page, reconciled by now, for which nothing was left to do or to wait for.

        That is who is in the same state as before: whatever was written, a later sweep looks at. A state that was noted
        before a copy was made would be that of the same photo after its copy is gone.
        """
        try:
            await self._remember(connection, page, unsettled)
        except psycopg.errors.QueryCanceled:
            # They are looked at again by the next sweep.
            if connection.closed or connection.broken:
                raise
            self.pace.too_slow(int(page.read_as[1]["limit"]))

    async def _remember(self, connection: Connection, page: Page, unsettled: AbstractSet[UUID]) -> None:
        text, params = page.read_as
        states = {found.key.id: found.state for found in page.found if not {found.key.id, found.other_id} & unsettled}
        if not states:
            return
        now = {row[0]: row[2] for row in await fetch(connection, text, params)}
        same = [id_ for id_, state in states.items() if now.get(id_) == state]
        noted = {"job": params["job"], "keys": uuids(same), "states": [states[id_] for id_ in same]}
        await connection.execute(query("sweep", "remember"), noted)

    async def how_many(self, connection: Connection, job: Job) -> int:
        """Count the photos in the job's place; 0 where that takes the database too long."""
        try:
            rows = await fetch(connection, query("sweep", "how_many"), _params(job))
        except psycopg.errors.QueryCanceled:
            if connection.closed or connection.broken:
                raise
            return 0
        return int(rows[0][0])


def put_off(error: Exception) -> tuple[str, float]:
    """Tell why a sweep is put off; returns the word for the metric, and the seconds until it begins again."""
    if isinstance(error, psycopg.errors.LockNotAvailable):
        log.warning("a table is locked for longer than we wait: the sweep begins again", pause_s=_LOCKED_PAUSE)
        return "locked", _LOCKED_PAUSE
    log.warning("the database takes too long to answer: the sweep begins again. Look at its disk", pause_s=_SLOW_PAUSE)
    return "slow", _SLOW_PAUSE


async def tidy(connection: Connection, jobs: Sequence[Job]) -> None:
    """Drop notes about sources that are gone for good, and about jobs that are; ``jobs``: all of the configuration.

    They do no harm: where it takes too long they stay.
    """
    params = {"jobs": [job.name for job in jobs], "identities": [job.identity for job in jobs], "lock_class": JOB_LOCK}
    try:
        await connection.execute(query("sweep", "tidy"), params)
    except psycopg.errors.QueryCanceled as error:
        if connection.closed or connection.broken:
            raise
        log.warning("the database takes too long to drop old notes: they stay until the next sweep", reason=str(error))


def _params(job: Job) -> dict[str, Any]:
    number = int.from_bytes(hashlib.sha256(job.identity.encode()).digest()[:8], signed=True)
    return {
        **job_params(job),
        "job": number,
        "uploads": job.kind == "uploads",
        "source_prefix": job.source_path_prefix,
    }


def _found(
    kind: Literal["asset", "person"], rows: Sequence[Sequence[Any]], links: OriginalLinks | None, *, everything: bool
) -> list[Found]:
    """Pass over what is known and in place."""
    return [
        Found(Key(kind, id_), state, other_id)
        for id_, other_id, state, known, link, original, files in rows
        if everything or not known or (links is not None and not _in_place(links, link, original, files or ()))
    ]


def _in_place(links: OriginalLinks, link: str | None, original: str | None, files: Sequence[Sequence[str]]) -> bool:
    try:
        if link is not None and not links.directory and str(os.readlink(link)) != original:  # noqa: PTH115 - any text
            return False
        return all(_same_file(source, copy) for source, copy in files)
    except Exception:  # noqa: BLE001 - whatever is odd about it: the reconciler looks at it, and tells
        return False


def _same_file(source: str, copy: str) -> bool:
    """Tell whether a file is a hardlink of the other, or a copy that carries its size and time."""
    one, two = os.stat(source), os.lstat(copy)  # noqa: PTH116 - texts of the database, many of them
    return os.path.samestat(one, two) or (one.st_size, one.st_mtime_ns) == (two.st_size, two.st_mtime_ns)


def _rows(catalog: Catalog) -> list[sql.Composed]:
    """Return, table by table, the rows that a reconcile reads for the assets ``concerned.ids``."""
    plural = catalog.has("tag_asset", "tagsId")
    tag_asset = {
        "asset": sql.Identifier("assetsId" if plural else "assetId"),
        "tag": sql.Identifier("tagsId" if plural else "tagId"),
    }
    children = [table for table in (*COPIED_TABLES, "asset_file", "asset_face") if catalog.has(table)]
    of_targets = ("asset_map", "base", "face_map", "tag_map", "album_map")
    of_sources = ("intent", "skipped", "kept")
    return [
        sql.SQL("asset AS row_of WHERE row_of.id = ANY(concerned.ids)").format(),
        *(
            sql.SQL('{} AS row_of WHERE row_of."assetId" = ANY(concerned.ids)').format(sql.Identifier(table))
            for table in children
        ),
        sql.SQL(
            'face_search AS row_of JOIN asset_face AS face ON face.id = row_of."faceId"'
            ' WHERE face."assetId" = ANY(concerned.ids)'
        ).format(),
        sql.SQL("tag_asset AS row_of WHERE row_of.{asset} = ANY(concerned.ids)").format(**tag_asset),
        sql.SQL(
            "tag AS row_of JOIN tag_asset AS given ON given.{tag} = row_of.id WHERE given.{asset} = ANY(concerned.ids)"
        ).format(**tag_asset),
        sql.SQL(
            'stack AS row_of JOIN asset AS member ON member."stackId" = row_of.id WHERE member.id = ANY(concerned.ids)'
        ).format(),
        sql.SQL(
            "public._face_sync_stack_map AS row_of"
            ' JOIN asset AS member ON member."stackId" = row_of.source_stack_id'
            " WHERE member.id = ANY(concerned.ids) AND row_of.target_user_id = %(target_user)s"
        ).format(),
        *(
            sql.SQL("public.{} AS row_of WHERE row_of.target_asset_id = ANY(concerned.ids)").format(
                sql.Identifier(f"_face_sync_{table}")
            )
            for table in of_targets
        ),
        *(
            sql.SQL(
                "public.{} AS row_of WHERE row_of.source_asset_id = ANY(concerned.ids)"
                " AND row_of.target_user_id = %(target_user)s"
            ).format(sql.Identifier(f"_face_sync_{table}"))
            for table in of_sources
        ),
        # The target's own photo that a source would double.
        sql.SQL(
            "asset AS row_of JOIN public._face_sync_skipped AS skipped ON skipped.other_asset_id = row_of.id"
            " WHERE skipped.source_asset_id = page.id AND skipped.target_user_id = %(target_user)s"
        ).format(),
        # Whatever has the content of a motion part that was taken out of its still.
        sql.SQL(
            "asset AS source JOIN asset AS row_of ON row_of.checksum = source.checksum"
            ' WHERE source.id = ANY(concerned.ids) AND {embedded} AND row_of."ownerId" = %(target_user)s'
        ).format(embedded=query("plan", "embedded")),
    ]
