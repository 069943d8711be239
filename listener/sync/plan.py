"""What is to be done for a batch of keys: reads the rows as they are now, and decides nothing else.

A key is the id of an asset, source or copy. One query follows it to the source assets concerned and says for
each whether it may be shared, whether Immich is done with it, and what there is of its copy.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from uuid import UUID

from psycopg import sql

from listener.database import Connection, fetch, query, statement, uuids
from listener.immich.api import Features
from listener.immich.catalog import Catalog
from listener.immich.layout import below
from listener.settings import Job

REMOVED_BY_TARGET = "removed by target"


# Why a source may not be shared for now (plan.sql): its copy is parked. For every other reason it goes for good.
FOR_NOW = frozenset({"settings", "owner", "offline", "trashed", "still"})
# For these a copy goes that lies in no place of a job any more; else such a copy is kept (README).
_PRIVATE = frozenset({"locked", "deleted", "gone", "moved"})


@dataclass(frozen=True, slots=True)
class Source:
    """One source asset and its copy as they are. ``original`` is None where the source's row is gone.

    reason: why it may not be shared, None if it may. in_scope: it is this job's by its place, whether or not it may be
    shared. waiting: what Immich has not done yet, None when the asset is ready. mapped: it was made once. begun: there
    is a mark of it, files may be there. made: the copy's row is there. parked: it was put away. out_of_sight: and its
    row is as it should be then. lost: its row went, not by its user's will. copy_status: as Immich has it. encoded: the
    source's encodedVideoPath (up to 2.5). skipped: why it was not made so far. own_edits: its user has edited the
    copy's picture. double_id, double_reason: the photo that a new copy would double. hidden: the motion part of a live
    photo, which is judged by its stills and may lie out of the job's place. motion: the motion part of a still.
    """

    id: UUID
    target_id: UUID
    original: str | None
    reason: str | None
    in_scope: bool
    waiting: str | None
    mapped: bool
    begun: bool
    made: bool
    parked: bool
    out_of_sight: bool
    lost: bool
    copy_status: str | None
    copy_original: str | None
    encoded: str | None
    skipped: str | None
    own_edits: bool
    double_id: UUID | None
    double_reason: str | None
    hidden: bool = False
    motion: UUID | None = None


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
    features: Callable[[], Features]
    ml_wait: float
    jobs: tuple[Job, ...]

    @classmethod
    def compose(
        cls, catalog: Catalog, jobs: Sequence[Job], features: Callable[[], Features], ml_wait: float
    ) -> "Planner":
        """Compose the statements from what this Immich has. ``ml_wait`` is in seconds; ``jobs``: all that there are.

        features: tells which machine learning is on at this moment.
        """
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
                embedded=query("plan", "embedded"),
                in_scope=query("plan", "in_scope"),
                reasons=query("plan", "reasons"),
            ),
            statement("plan", "files", is_edited=edited),
            features,
            ml_wait,
            tuple(jobs),
        )

    def of_pair(self, job: Job) -> list[Job]:
        """Return the jobs of the same two users, this one first."""
        users = (job.source_user_id, job.target_user_id)
        others = [other for other in self.jobs if other.identity != job.identity]
        return [job, *(other for other in others if (other.source_user_id, other.target_user_id) == users)]

    def other_prefixes(self, job: Job) -> list[str]:
        """Return where the other jobs of the same two users have their copies."""
        return [other.target_path_prefix for other in self.of_pair(job)[1:]]

    async def sources(self, connection: Connection, job: Job, ids: Sequence[UUID]) -> list[Source]:
        """Read the source assets of one job that these keys lead to, with their copies."""
        features = self.features()
        sharing = [of_pair for of_pair in self.of_pair(job) if not of_pair.remove_copies]
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
                "other_prefixes": self.other_prefixes(job),
                "pair_uploads": [of_pair.kind == "uploads" for of_pair in sharing],
                "pair_prefixes": [of_pair.source_path_prefix for of_pair in sharing],
                "ml_wait": self.ml_wait,
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


def without_place(sources: Sequence[Source], job: Job) -> list[Source]:
    """Return the sources of a job whose originals have no links of their own, as behind a symlinked folder.

    Motion parts from elsewhere have no place there: their stills go without.
    """
    return [
        replace(source, reason="place")
        if source.hidden and source.reason is None and not below(str(source.original), job.source_path_prefix)
        else source
        for source in sources
    ]


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
    """The sources of a batch, by what is to be done with them. ``clear``: only their marks are to be gone through."""

    copy: tuple[Source, ...]
    remove: tuple[Source, ...]
    park: tuple[Source, ...]
    clear: tuple[Source, ...]
    respect: tuple[Source, ...]
    skip: tuple[Source, ...]
    unskip: tuple[Source, ...]
    wait: tuple[Source, ...]


def sort(sources: Sequence[Source], job: Job, others: Sequence[str]) -> Sorted:
    """Decide what is to be done with each source, from the rows alone. ``others``: prefixes of other jobs.

    A copy that was made and is no more was deleted by its user, and is respected. One that would double a photo
    of theirs is skipped, until that one goes.
    """
    lists: dict[str, list[Source]] = {field.name: [] for field in fields(Sorted)}
    for source in sources:
        for name in _what(source, job, others):
            lists[name].append(source)
    return Sorted(**{name: tuple(found) for name, found in lists.items()})


def _what(source: Source, job: Job, others: Sequence[str]) -> Iterator[str]:
    if source.lost:
        # Forgotten first; where it may be shared it is made anew then.
        yield "remove"
    elif source.in_scope and source.mapped and not source.made:
        yield "respect"
    elif source.reason is not None:
        yield from _goes(source, job, others)
    elif source.skipped == REMOVED_BY_TARGET:
        if source.begun:
            yield "remove"
    elif source.double_id is not None:
        yield "skip"
    else:
        if source.skipped is not None:
            yield "unskip"
        yield "copy" if source.made or source.waiting is None else "wait"


def _goes(source: Source, job: Job, others: Sequence[str]) -> Iterator[str]:
    if source.copy_original is not None:
        place = source.copy_original
        if any(place.startswith(prefix + "/") for prefix in others):
            return
        if not place.startswith(job.target_path_prefix + "/") and source.reason not in _PRIVATE:
            return
    elif not source.begun and not (source.mapped and source.original is None):
        return
    if source.reason not in FOR_NOW or not source.made:
        yield "remove"
    elif not source.out_of_sight and source.copy_status != "deleted":
        yield "park"
    elif source.begun:
        yield "clear"


def by_source(files: Sequence[SourceFile]) -> dict[UUID, list[SourceFile]]:
    """Return the files by their source's id."""
    found: dict[UUID, list[SourceFile]] = {}
    for file in files:
        found.setdefault(file.source_id, []).append(file)
    return found
