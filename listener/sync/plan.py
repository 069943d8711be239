"""What is to be done for a batch of keys: reads the rows as they are now, and decides nothing else.

A key is the id of an asset, source or copy. One query follows it to the source assets concerned and says for
each whether it may be shared, whether Immich is done with it, and what there is of its copy.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from psycopg import sql

from listener.database import Connection, fetch, query, statement, uuids
from listener.immich.api import Features
from listener.immich.catalog import Catalog
from listener.settings import Job

REMOVED_BY_TARGET = "removed by target"


@dataclass(frozen=True, slots=True)
class Source:
    """One source asset and its copy as they are. ``original`` is None where the source's row is gone.

    in_scope: it is this job's by its place, whether or not it may be shared. owner_removed: its user or library is
    marked as removed. waiting: what Immich has not done
    yet, None when the asset is ready. made: the copy's row is there. mapped: it was made once. begun: files of it
    may be there. encoded: the source's encodedVideoPath (up to 2.5).
    skipped: why it was not made so far. own_edits: its user has edited the copy's picture.
    double_id, double_reason: the target's own photo that a new copy would double.
    """

    id: UUID
    target_id: UUID
    original: str | None
    qualifies: bool
    in_scope: bool
    owner_removed: bool
    waiting: str | None
    mapped: bool
    begun: bool
    made: bool
    copy_original: str | None
    encoded: str | None
    skipped: str | None
    own_edits: bool
    double_id: UUID | None
    double_reason: str | None


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One row of asset_file of a source; ``kind`` is its type."""

    source_id: UUID
    id: UUID
    kind: str
    edited: bool
    path: str


@dataclass(frozen=True, slots=True)
class Planner:
    """The reading statements for one catalog."""

    sources_query: bytes
    files_query: bytes

    @classmethod
    def compose(cls, catalog: Catalog) -> "Planner":
        """Compose the statements from what this Immich has."""
        ocr = query("plan", "ocr_missing") if catalog.has("asset_job_status", "ocrAt") else sql.SQL("false")
        encoded = sql.SQL('source."encodedVideoPath"' if catalog.has("asset", "encodedVideoPath") else "NULL")
        own_edits = own_edits_of(catalog)
        edited = sql.SQL('file."isEdited"' if catalog.has("asset_file", "isEdited") else "false")
        return cls(
            statement(
                "plan",
                "sources",
                ocr_missing=ocr,
                encoded_video=encoded,
                own_edits=own_edits,
            ),
            statement("plan", "files", is_edited=edited),
        )

    async def sources(
        self, connection: Connection, job: Job, ids: Sequence[UUID], features: Features, ml_wait: float
    ) -> list[Source]:
        """Read the source assets of one job that these keys lead to, with their copies."""
        rows = await fetch(
            connection,
            self.sources_query,
            {
                **job_params(job),
                "ids": uuids(ids),
                "uploads": job.kind == "uploads",
                "source_prefix": job.source_path_prefix,
                "remove_copies": job.remove_copies,
                "duplicates": job.duplicates,
                "ml_wait": ml_wait,
                "smart_search": features.smart_search,
                "faces": features.facial_recognition,
                "ocr": features.ocr,
            },
        )
        return [Source(*row) for row in rows]

    async def files(self, connection: Connection, sources: Sequence[Source]) -> list[SourceFile]:
        """Read the generated files of these sources."""
        rows = await fetch(connection, self.files_query, batch_params(sources))
        return [SourceFile(*row) for row in rows]


def own_edits_of(catalog: Catalog) -> sql.SQL:
    """Return the expression that tells whether the user of a ``copy`` has edited its picture (2.5+)."""
    return query("plan", "own_edits") if catalog.has("asset_edit") else sql.SQL("false")


def job_params(job: Job) -> dict[str, object]:
    """Return the parameters that most statements share."""
    return {
        "source_user": job.source_user_id,
        "target_user": job.target_user_id,
        "target_library": job.target_library_id,
        "target_prefix": job.target_path_prefix,
    }


def batch_params(sources: Sequence[Source]) -> dict[str, object]:
    """Return the arrays that name a batch: source ids and copy ids, in the same order."""
    return {"sources": uuids(source.id for source in sources), "targets": uuids(source.target_id for source in sources)}


@dataclass(frozen=True, slots=True)
class Sorted:
    """The sources of a batch, by what is to be done with them."""

    copy: tuple[Source, ...]
    remove: tuple[Source, ...]
    respect: tuple[Source, ...]
    skip: tuple[Source, ...]
    unskip: tuple[Source, ...]
    wait: tuple[Source, ...]


def sort(sources: Sequence[Source], job: Job) -> Sorted:
    """Decide what is to be done with each source, from the rows alone.

    A copy that was made and is no more was deleted by its user, and is respected. One that would double a photo
    of theirs is skipped, until that one goes.
    """
    lists: dict[str, list[Source]] = {name: [] for name in ("copy", "remove", "respect", "skip", "unskip", "wait")}
    for source in sources:
        if source.in_scope and source.mapped and not source.made:
            lists["respect"].append(source)
        elif not source.qualifies:
            if _belongs(source, job):
                lists["remove"].append(source)
        elif source.skipped == REMOVED_BY_TARGET:
            if source.begun:
                lists["remove"].append(source)
        elif source.double_id is not None:
            lists["skip"].append(source)
        else:
            if source.skipped is not None:
                lists["unskip"].append(source)
            lists["copy" if source.made or source.waiting is None else "wait"].append(source)
    return Sorted(**{name: tuple(found) for name, found in lists.items()})


def _belongs(source: Source, job: Job) -> bool:
    """Tell whether there is something of this job's to remove: a copy below its prefix, or a begun one."""
    if source.copy_original is not None:
        return source.copy_original.startswith(job.target_path_prefix + "/")
    return source.begun or (source.mapped and source.original is None)


def by_source(files: Sequence[SourceFile]) -> dict[UUID, list[SourceFile]]:
    """Return the files by their source's id."""
    found: dict[UUID, list[SourceFile]] = {}
    for file in files:
        found.setdefault(file.source_id, []).append(file)
    return found
