"""What is to be done for a batch of keys: reads the rows as they are now, and decides nothing else.

A key is the id of an asset, source or copy. One query follows it to the source assets concerned and says for
each whether it may be shared, whether Immich is done with it, and what there is of its copy.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from psycopg import sql

from listener.database import Connection, fetch, query
from listener.immich.api import Features
from listener.immich.catalog import Catalog
from listener.settings import Job


@dataclass(frozen=True, slots=True)
class Source:
    """One source asset and its copy as they are. ``original`` is None where the source's row is gone.

    waiting: what Immich has not done yet, None when the asset is ready. made: the copy's row is there.
    mapped: it was made once. begun: files of it may be there. encoded: the source's encodedVideoPath (up to 2.5).
    skipped: why it must not be made.
    """

    id: UUID
    target_id: UUID
    original: str | None
    qualifies: bool
    waiting: str | None
    mapped: bool
    begun: bool
    made: bool
    copy_original: str | None
    encoded: str | None
    skipped: str | None


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

    sources_query: sql.Composed
    files_query: sql.Composed

    @classmethod
    def compose(cls, catalog: Catalog) -> "Planner":
        """Compose the statements from what this Immich has."""
        ocr = query("plan", "ocr_missing") if catalog.has("asset_job_status", "ocrAt") else sql.SQL("false")
        encoded = sql.SQL('source."encodedVideoPath"' if catalog.has("asset", "encodedVideoPath") else "NULL")
        edited = sql.SQL('file."isEdited"' if catalog.has("asset_file", "isEdited") else "false")
        return cls(
            query("plan", "sources").format(ocr_missing=ocr, encoded_video=encoded),
            query("plan", "files").format(is_edited=edited),
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
                "ids": list(ids),
                "uploads": job.kind == "uploads",
                "source_prefix": job.source_path_prefix,
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
    return {"sources": [source.id for source in sources], "targets": [source.target_id for source in sources]}


def by_source(files: Sequence[SourceFile]) -> dict[UUID, list[SourceFile]]:
    """Return the files by their source's id."""
    found: dict[UUID, list[SourceFile]] = {}
    for file in files:
        found.setdefault(file.source_id, []).append(file)
    return found
