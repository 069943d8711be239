"""Makes copies what they should be: the one place where a key becomes work.

A batch of keys flows in; what is read from the rows decides: sources that may be shared and that Immich is done
with get a copy or have theirs mended, sources that may not lose it. It is never asked which event named the
key, and doing it twice changes nothing. First sync, changes, deletions and repair are this same path.

For a new copy the order is: a mark that it is begun, its files, its rows in one transaction, the link of its
original, and the mark goes. After a crash at any point the key does the rest.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import UUID

from listener.database import Connection, fetch, query, uuids
from listener.immich.api import Features
from listener.immich.catalog import Catalog
from listener.immich.layout import Layout, RefusedPathError
from listener.ops import logs
from listener.ops.metrics import Metrics
from listener.settings import Job
from listener.sync.assets import Rows, WantedCopy, Written
from listener.sync.files import FileProblemError, LinkMode, OriginalLinks, remove_files
from listener.sync.marks import left_if_cut_off, to_the_end
from listener.sync.outcome import Outcome, halving, record
from listener.sync.people import Person
from listener.sync.placing import Failure, Placer
from listener.sync.plan import Planner, Sorted, Source, batch_params, by_source, job_params, sort
from listener.sync.removal import remove, remove_all_files

log = logs.get("reconciler")


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
    catalog: Catalog

    @classmethod
    def compose(
        cls,
        catalog: Catalog,
        *,
        layout: Layout,
        link_mode: LinkMode,
        metrics: Metrics,
        features: Features,
        ml_wait: float,
    ) -> "Reconciler":
        """Compose a reconciler for what this Immich has. ``ml_wait`` is in seconds."""
        return cls(
            layout,
            Planner.compose(catalog),
            Rows.compose(catalog),
            Placer(layout, link_mode, metrics),
            metrics,
            features,
            ml_wait,
            logs.Limited(log),
            catalog,
        )

    def links(self, job: Job) -> OriginalLinks:
        """Return how the originals of this job's copies are linked."""
        return OriginalLinks(self.layout, job.target_path_prefix)

    async def assets(self, connection: Connection, job: Job, ids: Sequence[UUID]) -> Outcome:
        """Bring the copies that these asset ids lead to, sources or copies, to what they should be.

        Where the database refuses something the batch is halved until the one bad key stands alone, and is
        recorded with its reason. Raises psycopg.OperationalError when the connection is lost, ChangedError when the
        tables are no longer those of the catalog; then the whole batch is to be tried again.
        """
        outcome = Outcome()
        work = lambda some: self._assets(connection, job, some, outcome)  # noqa: E731 - twice the same
        await halving(connection, self.catalog, ids, outcome.failed, work)
        if outcome.changed:
            changed, outcome.changed = list(outcome.changed), set()
            await halving(connection, self.catalog, changed, outcome.failed, work)
            outcome.failed |= dict.fromkeys(outcome.changed, Failure("lock", "its copy changed again and again"))
        await self._settle_held(connection, job, outcome)
        if outcome.failed:
            await record(connection, job, outcome.failed, self.metrics, self.limited)
        return outcome

    async def people(self, connection: Connection, job: Job, ids: Sequence[UUID]) -> Outcome:
        """Bring the mirrors of these people to what they should be; those that no face needs go."""
        outcome = Outcome()
        await self._settle_people(connection, job, ids, outcome)
        return outcome

    async def remove_orphans(self, connection: Connection, job: Job, orphans: Sequence[Source]) -> Outcome:
        """Remove copies that no source stands for, with their files. Raises psycopg.Error."""
        outcome = Outcome()
        await self._remove(connection, job, self.links(job), orphans, outcome)
        await self._settle_held(connection, job, outcome)
        return outcome

    async def _assets(self, connection: Connection, job: Job, ids: Sequence[UUID], outcome: Outcome) -> None:
        sources = await self.planner.sources(connection, job, ids, self.features, self.ml_wait)
        links = self.links(job)
        todo = sort(sources, job)
        # What a try of a larger batch found may be over: the source may have gone since.
        for id_ in {*ids, *(source.id for source in sources)}:
            outcome.failed.pop(id_, None)
            outcome.waiting.pop(id_, None)
        outcome.waiting |= {source.id: source.waiting or "" for source in todo.wait}
        # First what goes: a new source may have taken the path of one that is gone.
        if todo.remove:
            await self._remove(connection, job, links, todo.remove, outcome)
        if todo.respect:
            await self._respect(connection, job, links, todo.respect, outcome)
        if todo.skip or todo.unskip:
            await self._skip(connection, job, todo)
        if todo.copy:
            await self._copy(connection, job, links, todo.copy, outcome)

    async def _hold(self, connection: Connection, sources: Sequence[Source], outcome: Outcome) -> None:
        """Keep in mind whom these copies hold before anything is done to them."""
        held = await self.rows.people.held(connection, [source.target_id for source in sources])
        outcome.held |= held
        # Whoever was written for another part of the batch may lose their feature face in this one.
        outcome.written -= held

    async def _settle_held(self, connection: Connection, job: Job, outcome: Outcome) -> None:
        """Settle the people of the copies at hand: those who lost a face may have lost their last one.

        After all else, since what has to be tried again finds the faces gone, and nothing that tells whose they were.
        """
        await self._settle_people(connection, job, list(outcome.held | outcome.named), outcome)

    async def _settle_people(self, connection: Connection, job: Job, ids: Sequence[UUID], outcome: Outcome) -> None:
        """Mend the mirrors among these people, and remove those that no face needs."""
        mirrors: dict[UUID, UUID] = {}

        async def settle(some: Sequence[UUID]) -> None:
            to_mend = [id_ for id_ in some if id_ not in outcome.written]
            people = await self.rows.people.mirrored(connection, job, to_mend, self.layout) if to_mend else []
            if people:
                mirrors.update({person.source_id: person.target_id for person in people})
                people, problems = await asyncio.to_thread(self.placer.people, people)
                outcome.failed_people |= problems
                outcome.placed |= _with_thumbnail(people)
                async with self.rows.phones.writing(connection, job):
                    await self.rows.people.write(connection, job, [], people)
            concerned = {*some, *(mirrors[id_] for id_ in some if id_ in mirrors)}
            await self._drop_empty(connection, job, people=concerned, held=concerned & (outcome.held | outcome.placed))

        if ids:
            await halving(connection, self.catalog, ids, outcome.failed_people, settle)
        for person_id, failure in outcome.failed_people.items():
            self.metrics.failures.labels(job=job.name, reason=failure.kind).inc()
            if failure.kind == "lock":
                self.limited.warning("the database is busy: people are tried again", job=job.name)
            else:
                log.warning("a person is not as they should be", person=person_id, job=job.name, reason=failure.text)

    async def _copy(
        self, connection: Connection, job: Job, links: OriginalLinks, sources: Sequence[Source], outcome: Outcome
    ) -> None:
        async with connection.pipeline():
            files = by_source(await self.planner.files(connection, sources))
            people = await self.rows.people.of(connection, job, sources, self.layout)
            await self._hold(connection, sources, outcome)
        begun = await asyncio.to_thread(self.placer.unmade, job, sources, files)
        if begun:
            await connection.execute(query("plan", "begin"), {**job_params(job), **batch_params(begun)})
        if people:
            outcome.named |= {person.target_id for person in people}
            await self.rows.people.begin(connection, job, people)
        async with left_if_cut_off(connection, job, sources):
            copies, failed = await to_the_end(self.placer.copies, job, links, sources, files)
            outcome.failed |= failed
            if people:
                people, failed = await to_the_end(self.placer.people, people)
                outcome.placed |= _with_thumbnail(people)
                outcome.failed_people |= failed
            album = await self._album(connection, job)
            if copies:
                await self._leave_former_prefix(connection, links, copies)
                written = await self.rows.write(
                    connection, job, copies, people, album=album, own_sidecars=not links.directory
                )
                outcome.written |= {person.target_id for person in people}
                linked, failed = await to_the_end(self.placer.originals, links, written.copies)
                outcome.failed |= failed
                left = await to_the_end(self.placer.strays, job, written)
                whole = [copy.source for copy in written.copies if copy.source.id not in {*failed, *left}]
                if begun or written.leaving or any(source.begun for source in whole):
                    await connection.execute(query("rows", "whole"), {**job_params(job), **batch_params(whole)})
                self._count(written, outcome)
                outcome.changed |= await self._changed_meanwhile(connection, links, copies, written.copies, linked)

    async def _leave_former_prefix(
        self, connection: Connection, links: OriginalLinks, copies: Sequence[WantedCopy]
    ) -> None:
        """Take away the links of copies that another prefix has been given to, unless the path is another's by now."""
        former = {
            copy.source.target_id: copy.source.copy_original
            for copy in copies
            if copy.source.copy_original is not None and not links.holds(copy.source.copy_original)
        }
        if not former:
            return
        params = {"paths": list(former.values()), "targets": uuids(former)}
        others = {row[0] for row in await fetch(connection, query("rows", "originals_of_others"), params)}
        left = [copy for copy in copies if former.get(copy.source.target_id) not in {None, *others}]
        await asyncio.to_thread(self.placer.leave, links, left)

    async def _changed_meanwhile(
        self,
        connection: Connection,
        links: OriginalLinks,
        copies: Sequence[WantedCopy],
        written: Sequence[WantedCopy],
        linked: Sequence[WantedCopy],
    ) -> set[UUID]:
        """Return the sources of copies that their user deleted or edited while the batch was in hand.

        The link of one that was deleted just before it was made is taken back: whoever looked after the deletion
        may have found nothing to remove yet.
        """
        left_out = {copy.source.id for copy in copies} - {copy.source.id for copy in written}
        if linked:
            targets = uuids(copy.source.target_id for copy in linked)
            there = {row[0] for row in await fetch(connection, query("rows", "there"), {"targets": targets})}
            gone = [copy for copy in linked if copy.source.target_id not in there]
            await asyncio.to_thread(self.placer.take_back, links, gone)
            left_out |= {copy.source.id for copy in gone}
        return left_out

    def _count(self, written: Written, outcome: Outcome) -> None:
        for table, count in written.rows.items():
            self.metrics.rows_written.labels(table=table).inc(count)
        made = [copy.source.id for copy in written.copies if not copy.source.made]
        outcome.made.extend(made)
        outcome.kept += len(written.copies) - len(made)

    async def _album(self, connection: Connection, job: Job) -> UUID | None:
        """Return the job's album if it is there and the target user's own, else say so and go on without."""
        if await self.album_usable(connection, job):
            return job.album_id
        self.limited.warning(
            "the album is not there or not the target user's: copies are made without it. Correct album_id",
            job=job.name,
            album=job.album_id,
        )
        return None

    async def album_usable(self, connection: Connection, job: Job) -> bool:
        """Tell whether the job's album is there and the target user's own; true for a job without one."""
        return job.album_id is None or await self.rows.extras.album_usable(connection, job)

    async def _remove(
        self, connection: Connection, job: Job, links: OriginalLinks, sources: Sequence[Source], outcome: Outcome
    ) -> None:
        await self._hold(connection, sources, outcome)
        async with left_if_cut_off(connection, job, sources):
            removed = await remove(connection, job, sources, self.layout, links, self.rows.extras, self.rows.phones)
        outcome.removed += len(removed.sources)
        outcome.owner_removed |= any(source.owner_removed for source in sources if source.id not in removed.failed)
        outcome.failed |= {id_: Failure("remove", reason) for id_, reason in removed.failed.items()}

    async def _respect(
        self, connection: Connection, job: Job, links: OriginalLinks, sources: Sequence[Source], outcome: Outcome
    ) -> None:
        """The target user deleted these copies for good: they stay deleted, and nothing is left of them."""
        gone = [replace(source, copy_original=self._path(job, source)) for source in sources]
        failed = await asyncio.to_thread(remove_all_files, job, gone, {}, self.layout, links)
        outcome.failed |= {id_: Failure("remove", reason) for id_, reason in failed.items()}
        respected = [source for source in gone if source.id not in failed]
        params = {**job_params(job), **batch_params(respected)}
        async with self.rows.phones.writing(connection, job):
            await connection.execute(query("removal", "respect"), params)
            await connection.execute(query("removal", "forget"), params)
            # Immich leaves the last other one in its stack.
            await self.rows.extras.restack(connection, params)
        for source in respected:
            log.info("a copy was deleted by its user: it is not made again", asset=source.id, job=job.name)

    def _path(self, job: Job, source: Source) -> str | None:
        try:
            return self.layout.copy_original(job, source.original or "")
        except RefusedPathError:
            return None

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
        """Remove mirrored people without a face: first the thumbnail, then the row. ``held``: see without_faces."""
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
        async with self.rows.phones.writing(connection, job, deletes=True):
            await self.rows.people.drop(connection, job, [id_ for id_, _ in empty if id_ not in failed])


def _with_thumbnail(people: Sequence[Person]) -> set[UUID]:
    """Return those whose thumbnail was placed: if another batch dropped them meanwhile, the file is to go again."""
    return {person.target_id for person in people if person.task is not None}
