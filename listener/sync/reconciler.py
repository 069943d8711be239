"""Makes copies what they should be: the one place where a key becomes work.

A batch of keys flows in; what is read from the rows decides: sources that may be shared and that Immich is done
with get a copy or have theirs mended, sources that may not lose it, or have it parked. It is never asked which event
named the key, and doing it twice changes nothing. First sync, changes, deletions and repair are this same path.

For a new copy the order is: a mark that it is begun, its files, its rows in one transaction, the link of its
original, and the mark goes. What goes, goes the other way: the rows and a mark, the files, the mark. After a crash at
any point the key does the rest.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from listener.database import Connection, fetch, query, uuids
from listener.immich.api import Features
from listener.immich.catalog import Catalog
from listener.immich.layout import Layout, RefusedPathError, apart
from listener.ops import logs
from listener.ops.metrics import Metrics
from listener.settings import Job, RemovalLimit
from listener.sync import marks
from listener.sync.assets import Rows, WantedCopy, Written
from listener.sync.brake import Brake
from listener.sync.files import LinkMode, OriginalLinks
from listener.sync.marks import Marks, left_if_cut_off
from listener.sync.outcome import Outcome, record, recovered
from listener.sync.people import Person
from listener.sync.placing import Failure, Placer
from listener.sync.plan import Planner, Source, batch_params, by_source, job_params, sort, without_place
from listener.sync.portions import Portions
from listener.sync.removal import Removal
from listener.sync.settling import Settler, with_thumbnail
from listener.threads import run, to_the_end

log = logs.get("reconciler")


@dataclass(frozen=True, slots=True)
class Reconciler:
    """The statements for one catalog, and what else stays the same between two connects."""

    layout: Layout
    planner: Planner
    rows: Rows
    placer: Placer
    marks: Marks
    settler: Settler
    metrics: Metrics
    limited: logs.Limited
    catalog: Catalog
    brake: Brake
    portions: Portions

    @property
    def removal(self) -> Removal:
        """How copies go."""
        return self.rows.removal

    @classmethod
    def compose(
        cls,
        catalog: Catalog,
        *,
        layout: Layout,
        link_mode: LinkMode,
        metrics: Metrics,
        jobs: Sequence[Job],
        features: Callable[[], Features],
        ml_wait: float,
        removal_limit: RemovalLimit | None,
    ) -> "Reconciler":
        """Compose a reconciler for what this Immich has. ``ml_wait`` is in seconds; ``jobs``: all that there are."""
        rows, placer = Rows.compose(catalog, layout), Placer(layout, link_mode, metrics)
        of_files, limited = Marks.compose(catalog, layout, metrics), logs.Limited(log)
        return cls(
            layout,
            Planner.compose(catalog, jobs, features, ml_wait),
            rows,
            placer,
            of_files,
            Settler(rows.people, rows.phones, placer, of_files, metrics, limited, catalog, layout),
            metrics,
            limited,
            catalog,
            Brake(removal_limit, metrics),
            Portions(),
        )

    def of_job(self, job: Job) -> "Reconciler":
        """Return this reconciler with the folders of one job: those of the others are not asked for."""
        layout = self.layout.of_job(job)
        placer, of_files = replace(self.placer, layout=layout), replace(self.marks, layout=layout)
        settler = replace(self.settler, placer=placer, marks=of_files, layout=layout)
        return replace(self, layout=layout, placer=placer, marks=of_files, settler=settler)

    def links(self, job: Job) -> OriginalLinks:
        """Return how the originals of this job's copies are linked: by what was noted of folders, without a look."""
        return OriginalLinks(self.layout, job.target_path_prefix, job.source_path_prefix)

    async def assets(
        self, connection: Connection, job: Job, ids: Sequence[UUID], *, rows_only: bool = False
    ) -> Outcome:
        """Bring the copies that these asset ids lead to, sources or copies, to what they should be.

        Where the database is slow, it is done by portions. Where it refuses something, one is halved until the one bad
        key stands alone, and is recorded with its reason. Raises psycopg.OperationalError when the connection is lost,
        ChangedError when the tables are no longer those of the catalog; then the whole batch is to be tried again.

        rows_only: take away what must not be seen, and make nothing; for a job that pauses or is refused. Files that
        cannot go now go later, by their marks.
        """
        outcome = Outcome()
        work = lambda some: self._assets(connection, job, some, outcome, rows_only=rows_only)  # noqa: E731 - twice
        await self.portions.work(connection, self.catalog, ids, outcome, work)
        if outcome.changed and not rows_only:
            changed, outcome.changed = list(outcome.changed), set()
            await self.portions.work(connection, self.catalog, changed, outcome, work)
            outcome.failed |= dict.fromkeys(outcome.changed, Failure("lock", "its copy changed again and again"))
        await self.settler.settle_held(connection, job, outcome, rows_only=rows_only)
        if outcome.failed:
            await record(connection, job, outcome.failed, self.metrics, self.limited)
        if not rows_only:
            # Also what is out of the job by now, and has nothing left that could fail.
            await recovered(connection, job, {*ids} - outcome.failed.keys() - outcome.later)
        return outcome

    async def people(self, connection: Connection, job: Job, ids: Sequence[UUID]) -> Outcome:
        """Bring the mirrors of these people to what they should be; those that no face needs go."""
        outcome = Outcome()
        await self.settler.settle(connection, job, ids, outcome, rows_only=False)
        return outcome

    async def remove_orphans(self, connection: Connection, job: Job, orphans: Sequence[Source]) -> Outcome:
        """Remove copies that no source stands for, with their files. Raises psycopg.Error."""
        outcome = Outcome()
        await self._remove(connection, job, self.links(job), orphans, outcome, rows_only=False)
        await self.settler.settle_held(connection, job, outcome, rows_only=False)
        return outcome

    async def _assets(
        self, connection: Connection, job: Job, ids: Sequence[UUID], outcome: Outcome, *, rows_only: bool
    ) -> None:
        sources = await self.planner.sources(connection, job, ids)
        links = self.links(job)
        if links.directory:
            sources = without_place(sources, job)
        todo = sort(sources, job, self.planner.other_prefixes(job))
        # What a try of a larger batch found may be over: the source may have gone since.
        for id_ in {*ids, *(source.id for source in sources)}:
            outcome.failed.pop(id_, None)
            outcome.waiting.pop(id_, None)
        todo, held = await self.brake.hold(connection, job, todo)
        outcome.waiting |= {source.id: source.waiting or "" for source in todo.wait} | held
        # First what goes: a new source may have taken the path of one that is gone.
        if todo.remove:
            await self._remove(connection, job, links, todo.remove, outcome, rows_only=rows_only)
            outcome.changed |= {source.id for source in todo.remove if source.lost and source.reason is None}
        if todo.park:
            await self._park(connection, job, links, todo.park, outcome)
        if todo.respect:
            await self._respect(connection, job, links, todo.respect, outcome, rows_only=rows_only)
        if rows_only:
            return
        await self._clear(connection, job, [*todo.park, *todo.clear], outcome)
        if todo.skip or todo.unskip:
            await self.removal.skip(connection, job, todo.skip, todo.unskip)
        if todo.copy:
            await self._copy(connection, job, links, todo.copy, outcome)

    async def _copy(
        self, connection: Connection, job: Job, links: OriginalLinks, sources: Sequence[Source], outcome: Outcome
    ) -> None:
        async with connection.pipeline():
            files = by_source(await self.planner.files(connection, sources))
            people = await self.rows.people.of(connection, job, sources, self.layout)
            await self.settler.hold(connection, job, sources, outcome)
        begun = await run(self.placer.unmade, job, sources, files)
        if begun:
            await marks.begin(connection, job, begun)
        if people:
            outcome.named |= {person.target_id for person in people}
            await self.rows.people.begin(connection, job, people)
        ours = await self._places_of_ours(connection, job, sources)
        async with left_if_cut_off(connection, job, sources):
            copies, failed = await to_the_end(self.placer.copies, job, links, sources, files, ours)
            outcome.failed |= failed
            if people:
                people, problems = await to_the_end(self.placer.people, people)
                outcome.placed |= with_thumbnail(people)
                outcome.failed_people |= problems
            if copies:
                await self._write(connection, job, links, copies, people, outcome)
            # A row that names what is not ours hands it over, whatever its user does with it: it is put away.
            blocked = [source for source in sources if source.made and _is_blocked(failed.get(source.id))]
            if blocked := [source for source in blocked if source.copy_original == self._path(job, source)]:
                await self._park(connection, job, links, blocked, outcome)

    async def _write(
        self,
        connection: Connection,
        job: Job,
        links: OriginalLinks,
        copies: Sequence[WantedCopy],
        people: Sequence[Person],
        outcome: Outcome,
    ) -> None:
        """Write the rows of copies whose files are in place, link their originals, and go through their marks."""
        written = await self.rows.write(
            connection,
            job,
            copies,
            people,
            album=await self._album(connection, job),
            own_sidecars=not links.directory,
            again=lambda ids: self.planner.sources(connection, job, ids),
            within=outcome.within,
        )
        outcome.writing += written.seconds
        # A photo may be there only now that a thumbnail shows.
        outcome.written |= {person.target_id for person in people if not person.withheld}
        outcome.changed |= written.moved
        linked, failed = await to_the_end(self.placer.originals, links, written.copies)
        if failed:
            await self._take_back(connection, job, links, written.copies, failed, outcome)
        done = [copy.source for copy in written.copies if copy.source.id not in failed]
        crashed = {source.id for source in done if source.begun}
        # Whoever was moved out of the way has a mark of their own, and is looked at next.
        left = await self.marks.clear(connection, job, {source.id for source in done}, wholly=crashed)
        for source_id, reason in left.items():
            log.warning("a file that no row names could not be removed", asset=source_id, job=job.name, reason=reason)
        outcome.left |= left.keys()
        outcome.failed |= failed
        self._count(written, outcome)
        outcome.changed |= await self._changed_meanwhile(connection, job, copies, written.copies, linked)

    async def _take_back(
        self,
        connection: Connection,
        job: Job,
        links: OriginalLinks,
        written: Sequence[WantedCopy],
        failed: dict[UUID, Failure],
        outcome: Outcome,
    ) -> None:
        """Take back copies whose links cannot be made: no row is left that names what is not our link.

        One that was there before is only put away where something else is at its place; else its link is missing, and
        is tried again.
        """
        sources = [copy.source for copy in written if copy.source.id in failed]
        fresh = [source for source in sources if not source.made]
        blocked = [source for source in sources if source.made and _is_blocked(failed[source.id])]
        if fresh:
            await self._remove(connection, job, links, fresh, outcome, rows_only=False)
            outcome.removed -= len(fresh)
        if blocked:
            await self._park(connection, job, links, blocked, outcome)

    async def _places_of_ours(self, connection: Connection, job: Job, sources: Sequence[Source]) -> Collection[str]:
        """Return at which places of these copies a link of ours may be: of a copy, or of one that went."""
        paths = self.placer.paths(job, sources)
        params = {**job_params(job), "paths": paths}
        return frozenset(row[0] for row in await fetch(connection, query("rows", "places_of_ours"), params))

    async def _changed_meanwhile(
        self,
        connection: Connection,
        job: Job,
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
            gone = {(c.source.id, c.source.target_id): [c.path] for c in linked if c.source.target_id not in there}
            await marks.leave(connection, job, gone)
            await self.marks.clear(connection, job, {source_id for source_id, _ in gone})
            left_out |= {source_id for source_id, _ in gone}
        return left_out

    def _count(self, written: Written, outcome: Outcome) -> None:
        for table, count in written.rows.items():
            self.metrics.rows_written.labels(table=table).inc(count)
        # New, or back.
        came = [c.source for c in written.copies if not c.source.made or c.source.parked]
        outcome.made.extend(source.id for source in came if source.id not in outcome.failed)
        outcome.kept += len(written.copies) - len(came)

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
        self,
        connection: Connection,
        job: Job,
        links: OriginalLinks,
        sources: Sequence[Source],
        outcome: Outcome,
        *,
        rows_only: bool,
    ) -> None:
        await self.settler.hold(connection, job, sources, outcome)
        await self.settler.hide(connection, job, sources, outcome)
        async with left_if_cut_off(connection, job, sources):
            # No row tells where the link of one that was lost is.
            lost = [] if links.directory else [source for source in sources if source.lost]
            places = {(source.id, source.target_id): self._places(job, source) for source in lost}
            await self.removal.remove(connection, job, sources, places, own_sidecars=not links.directory)
            outcome.removed += len(sources)
            if rows_only:
                await self.marks.clear_generated(connection, job, {source.id for source in sources})
            else:
                await self._clear(connection, job, sources, outcome)

    async def _park(
        self, connection: Connection, job: Job, links: OriginalLinks, sources: Sequence[Source], outcome: Outcome
    ) -> None:
        await self.settler.hold(connection, job, sources, outcome)
        await self.settler.hide(connection, job, sources, outcome)
        await self.removal.park(connection, job, sources, own_sidecars=not links.directory)
        outcome.parked += len(sources)
        outcome.owner_removed |= any(source.reason == "owner" for source in sources)

    async def _clear(self, connection: Connection, job: Job, sources: Sequence[Source], outcome: Outcome) -> None:
        """Remove what the marks of these name; what cannot be removed is tried again."""
        # Of one that had a mark before: whoever was killed may have made files that no row of the copy names.
        crashed = {source.id for source in sources if source.begun}
        failed = await self.marks.clear(connection, job, {source.id for source in sources}, wholly=crashed)
        outcome.failed |= {id_: Failure("remove", reason) for id_, reason in failed.items()}

    async def _respect(
        self,
        connection: Connection,
        job: Job,
        links: OriginalLinks,
        sources: Sequence[Source],
        outcome: Outcome,
        *,
        rows_only: bool,
    ) -> None:
        """The target user deleted these copies for good: they stay deleted, and nothing is left of them."""
        await self.settler.hold(connection, job, sources, outcome)
        params = {**job_params(job), **batch_params(sources)}
        places = {
            (source.id, source.target_id): [] if links.directory else self._places(job, source) for source in sources
        }
        async with left_if_cut_off(connection, job, sources):
            async with self.rows.phones.writing(connection, job):
                await marks.leave(connection, job, places)
                await connection.execute(query("removal", "respect"), params)
                await self.rows.extras.after(connection, params)
                await connection.execute(query("removal", "forget"), params)
                # Immich leaves the last other one in its stack.
                await self.rows.extras.restack(connection, params)
            if not rows_only:
                await self._clear(connection, job, sources, outcome)
        for source in sources:
            log.info("a copy was deleted by its user: it is not made again", asset=source.id, job=job.name)

    def _places(self, job: Job, source: Source) -> list[str]:
        path = self._path(job, source)
        return [path, apart(path, source.id)] if path is not None else []

    def _path(self, job: Job, source: Source) -> str | None:
        try:
            return self.layout.copy_original(job, source.original or "", source.id if source.hidden else None)
        except RefusedPathError:
            return None


def _is_blocked(failure: Failure | None) -> bool:
    return failure is not None and failure.kind == "in the way"
