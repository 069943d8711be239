"""Makes copies what they should be: the one place where a key becomes work.

A batch of keys flows in; what is read from the rows decides: sources that may be shared and that Immich is done
with get a copy or have theirs mended, sources that may not lose it. It is never asked which event named the
key, and doing it twice changes nothing. First sync, changes, deletions and repair are this same path.

For a new copy the order is: a mark that it is begun, its files, its rows in one transaction, the link of its
original. After a crash at any point the key does the rest.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from uuid import UUID

import psycopg

from listener.database import Connection, query, uuids, writing
from listener.immich.api import Features
from listener.immich.catalog import Catalog
from listener.immich.layout import Layout
from listener.ops import logs
from listener.ops.metrics import Metrics
from listener.settings import Job
from listener.sync.assets import Rows, TooSlowError, WantedCopy, Written
from listener.sync.files import FileProblemError, LinkMode, OriginalLinks, remove_files
from listener.sync.people import Person
from listener.sync.placing import Failure, Placer
from listener.sync.plan import Planner, Sorted, Source, batch_params, by_source, job_params, sort
from listener.sync.removal import remove

log = logs.get("reconciler")

# Another transaction was in the way: the same again may do.
_AGAIN = (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure, psycopg.errors.LockNotAvailable)
_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class _Batch:
    """Copies whose files are in place, the people they need, and the album they go into."""

    copies: Sequence[WantedCopy]
    people: Sequence[Person]
    album: UUID | None


@dataclass(slots=True)
class Outcome:
    """What one batch did. ``failed`` has source ids, or person ids; they are to be tried again later."""

    made: list[UUID] = field(default_factory=list)
    kept: int = 0
    removed: int = 0
    waiting: Counter[str] = field(default_factory=Counter)
    failed: dict[UUID, Failure] = field(default_factory=dict)
    failed_people: dict[UUID, Failure] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reconciler:
    """The statements for one catalog, and what else stays the same between two connects."""

    layout: Layout
    planner: Planner
    rows: Rows
    placer: Placer
    metrics: Metrics
    features: Features
    ml_wait: float
    limited: logs.Limited

    @classmethod
    def compose(
        cls,
        catalog: Catalog,
        *,
        media_root: Path,
        external_root: Path,
        link_mode: LinkMode,
        metrics: Metrics,
        features: Features,
        ml_wait: float,
    ) -> "Reconciler":
        """Compose a reconciler for what this Immich has. ``ml_wait`` is in seconds."""
        layout = Layout(media_root, external_root)
        return cls(
            layout,
            Planner.compose(catalog),
            Rows.compose(catalog),
            Placer(layout, link_mode, metrics),
            metrics,
            features,
            ml_wait,
            logs.Limited(log),
        )

    def links(self, job: Job) -> OriginalLinks:
        """Return how the originals of this job's copies are linked."""
        return OriginalLinks(self.layout, job.source_path_prefix, job.target_path_prefix)

    async def assets(self, connection: Connection, job: Job, ids: Sequence[UUID]) -> Outcome:
        """Bring the copies that these asset ids lead to, sources or copies, to what they should be.

        Raises psycopg.OperationalError when the connection is lost; then the whole batch is to be tried again.
        """
        outcome = Outcome()
        sources = await self.planner.sources(connection, job, ids, self.features, self.ml_wait)
        links = self.links(job)
        todo = sort(sources, job)
        outcome.waiting.update(source.waiting or "" for source in todo.wait)
        # First what goes: a new source may have taken the path of one that is gone.
        if todo.remove:
            await self._remove(connection, job, links, todo.remove, outcome)
        if todo.respect:
            await self._respect(connection, job, todo.respect)
        if todo.skip or todo.unskip:
            await self._skip(connection, job, todo)
        if todo.copy:
            await self._copy(connection, job, links, todo.copy, outcome)
        if outcome.failed:
            await self._record(connection, job, outcome.failed)
        return outcome

    async def people(self, connection: Connection, job: Job, ids: Sequence[UUID]) -> Outcome:
        """Bring the mirrors of these people to what they should be; those that no face needs go."""
        outcome = Outcome()
        people = await self.rows.people.mirrored(connection, job, ids, self.layout)
        if people:
            placed, outcome.failed_people = await asyncio.to_thread(self.placer.people, people)
            async with writing(connection, job.target_user_id):
                await self.rows.people.write(connection, job, [], placed)
        await self._drop_empty(connection, job, people=set(ids), held=set())
        return outcome

    async def _copy(
        self, connection: Connection, job: Job, links: OriginalLinks, sources: Sequence[Source], outcome: Outcome
    ) -> None:
        async with connection.pipeline():
            files = by_source(await self.planner.files(connection, sources))
            people = await self.rows.people.of(connection, job, sources, self.layout)
            held = await self.rows.people.held(connection, [source.target_id for source in sources])
        begun = await asyncio.to_thread(self.placer.unmade, job, sources, files)
        if begun:
            await connection.execute(query("plan", "begin"), {**job_params(job), **batch_params(begun)})
        if people:
            await self.rows.people.begin(connection, job, people)
        copies, outcome.failed = await asyncio.to_thread(self.placer.copies, job, links, sources, files)
        if people:
            people, outcome.failed_people = await asyncio.to_thread(self.placer.people, people)
        album = await self._album(connection, job)
        await self._write(connection, job, links, _Batch(copies, people, album), outcome)
        await self._drop_empty(connection, job, people={person.target_id for person in people}, held=held)

    async def _album(self, connection: Connection, job: Job) -> UUID | None:
        """Return the job's album if it is there and the target user's own, else say so and go on without."""
        if job.album_id is None or await self.rows.extras.album_usable(connection, job):
            return job.album_id
        self.limited.warning(
            "the album is not there or not the target user's: copies are made without it. Correct album_id",
            job=job.name,
            album=job.album_id,
        )
        return None

    async def _write(
        self, connection: Connection, job: Job, links: OriginalLinks, batch: "_Batch", outcome: Outcome
    ) -> None:
        """Write a batch; where the database refuses it, halve it until the one bad asset stands alone."""
        copies = batch.copies
        if not copies:
            return
        written = await self._try(connection, job, links, batch)
        if isinstance(written, Failure):
            if len(copies) == 1:
                outcome.failed[copies[0].source.id] = written
                return
            middle = len(copies) // 2
            await self._write(connection, job, links, replace(batch, copies=copies[:middle]), outcome)
            await self._write(connection, job, links, replace(batch, copies=copies[middle:]), outcome)
            return
        outcome.failed |= await asyncio.to_thread(self.placer.originals, links, copies)
        for table, count in written.rows.items():
            self.metrics.rows_written.labels(table=table).inc(count)
        for copy in copies:
            if not copy.source.made:
                outcome.made.append(copy.source.id)
        outcome.kept += sum(copy.source.made for copy in copies)
        await asyncio.to_thread(self.placer.strays, job, copies, written)

    async def _try(self, connection: Connection, job: Job, links: OriginalLinks, batch: "_Batch") -> Written | Failure:
        """Write the rows of a batch, again where another transaction was in the way."""
        failure = Failure("lock", "")
        for _ in range(_ATTEMPTS):
            try:
                return await self.rows.write(
                    connection, job, batch.copies, batch.people, album=batch.album, own_sidecars=not links.directory
                )
            except _AGAIN as error:
                failure = Failure("lock", f"the database was busy: {_words(error)}")
            except (psycopg.Error, TooSlowError) as error:
                if connection.closed or connection.broken:
                    raise
                return Failure("database", f"the database refused the copy: {_words(error)}")
        return failure

    async def _remove(
        self, connection: Connection, job: Job, links: OriginalLinks, sources: Sequence[Source], outcome: Outcome
    ) -> None:
        held = await self.rows.people.held(connection, [source.target_id for source in sources])
        removed = await remove(connection, job, sources, self.layout, links, self.rows.extras)
        outcome.removed += len(removed.sources)
        outcome.failed |= {id_: Failure("remove", reason) for id_, reason in removed.failed.items()}
        await self._drop_empty(connection, job, people=set(), held=held)

    async def _respect(self, connection: Connection, job: Job, sources: Sequence[Source]) -> None:
        """The target user deleted these copies for good: they stay deleted."""
        params = {**job_params(job), **batch_params(sources)}
        async with connection.transaction():
            await connection.execute(query("removal", "respect"), params)
            await connection.execute(query("removal", "forget"), params)
        for source in sources:
            log.info("a copy was deleted by its user: it is not made again", asset=source.id, job=job.name)

    async def _skip(self, connection: Connection, job: Job, todo: Sorted) -> None:
        """Note which sources would double photos of the target user's own, and which do no more."""
        await connection.execute(
            query("removal", "skip_doubles"),
            {
                **job_params(job),
                "sources": uuids(source.id for source in todo.skip),
                "reasons": [source.double_reason for source in todo.skip],
                "others": uuids(source.double_id for source in todo.skip),
            },
        )
        await connection.execute(query("removal", "unskip"), {**job_params(job), **batch_params(todo.unskip)})

    async def _drop_empty(self, connection: Connection, job: Job, *, people: set[UUID], held: set[UUID]) -> None:
        """Remove mirrored people without a face: first the thumbnail, then the row."""
        if not people and not held:
            return
        empty = await self.rows.people.without_faces(connection, job, people, held)
        if not empty:
            return
        failed: set[UUID] = set()
        for person_id, thumbnail in empty:
            folders = (Path(self.layout.person_thumbnail(person_id, job.target_user_id, "")).parent,)
            try:
                await asyncio.to_thread(
                    remove_files, self.layout, folders, str(person_id), [thumbnail] if thumbnail else []
                )
            except FileProblemError as problem:
                log.warning(
                    "a thumbnail of a person could not be removed", person=person_id, job=job.name, reason=str(problem)
                )
                failed.add(person_id)
        await self.rows.people.drop(connection, job, [person_id for person_id, _ in empty if person_id not in failed])

    async def _record(self, connection: Connection, job: Job, failed: dict[UUID, Failure]) -> None:
        await connection.execute(
            query("rows", "failed"),
            {"job": job.name, "sources": uuids(failed), "reasons": [failure.text for failure in failed.values()]},
        )
        for source_id, failure in failed.items():
            self.metrics.failures.labels(job=job.name, reason=failure.kind).inc()
            log.warning(
                "photo could not be shared, it is tried again", asset=source_id, job=job.name, reason=failure.text
            )


def _words(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
