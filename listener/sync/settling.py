"""Settles people after what became of copies: who lost a face, whose thumbnail shows what is not shared any more.

Mirrors are mended, and those that no face needs go: the rows first, with a mark of the thumbnail, and then the file.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from uuid import UUID

from listener import threads
from listener.database import Connection
from listener.faults import is_everyones, words
from listener.immich.catalog import Catalog
from listener.immich.layout import Layout
from listener.ops import logs
from listener.ops.metrics import Metrics
from listener.settings import Job
from listener.sync import marks
from listener.sync.marks import Marks
from listener.sync.outcome import AGAIN, Outcome, failure_of, halving
from listener.sync.people import People, Person
from listener.sync.phones import Phones
from listener.sync.placing import Placer
from listener.sync.plan import Source

log = logs.get("settling")

_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Settler:
    """The statements about people for one catalog, and what else settling needs."""

    people: People
    phones: Phones
    placer: Placer
    marks: Marks
    metrics: Metrics
    limited: logs.Limited
    catalog: Catalog
    layout: Layout

    async def hold(self, connection: Connection, job: Job, sources: Sequence[Source], outcome: Outcome) -> None:
        """Keep in mind whom these copies hold before anything is done to them."""
        held = await self.people.held(connection, [source.target_id for source in sources])
        pictured = await self.people.concerned(connection, job, sources)
        outcome.held |= held
        outcome.named |= pictured
        # Whoever was written for another part of the batch may lose their feature face in this one.
        outcome.written -= held | pictured

    async def settle_held(self, connection: Connection, job: Job, outcome: Outcome, *, rows_only: bool) -> None:
        """Settle the people of the copies at hand: those who lost a face may have lost their last one.

        After all else, since what has to be tried again finds the faces gone, and nothing that tells whose they were.
        """
        await self.settle(connection, job, list(outcome.held | outcome.named), outcome, rows_only=rows_only)
        if outcome.hidden and not rows_only:

            async def clear(some: Sequence[UUID]) -> None:
                await self._clear_people(connection, job, some, outcome)

            await halving(connection, self.catalog, list(outcome.hidden), outcome.failed_people, clear)

    async def hide(self, connection: Connection, job: Job, sources: Sequence[Source], outcome: Outcome) -> None:
        """Take away what shows these photos of people, before the copies themselves go.

        That waits for nobody: a thumbnail that cannot be taken away now is told, and most are settled afterwards.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                async with self.phones.writing(connection, job):
                    hidden = await self.people.hide(connection, job, sources)
                    await marks.leave(connection, job, {(id_, id_): [path] for id_, path in hidden})
            except Exception as error:
                if is_everyones(error, connection):
                    raise
                if attempt < _ATTEMPTS and isinstance(error, AGAIN):
                    continue
                self.metrics.failures.labels(job=job.name, reason=failure_of(error).kind).inc()
                log.warning(
                    "thumbnails of people who are on photos that go could not be taken away",
                    job=job.name,
                    reason=words(error),
                )
                return
            else:
                outcome.hidden |= {id_ for id_, _ in hidden}
                return

    async def _clear_people(self, connection: Connection, job: Job, people: Collection[UUID], outcome: Outcome) -> None:
        """Remove the thumbnails that these people's marks name and no row does."""
        failed = await self.marks.clear(connection, job, people)
        outcome.left |= failed.keys()
        for person_id, reason in failed.items():
            log.warning("a thumbnail of a person could not be removed", person=person_id, job=job.name, reason=reason)

    async def settle(
        self, connection: Connection, job: Job, ids: Sequence[UUID], outcome: Outcome, *, rows_only: bool
    ) -> None:
        """Mend the mirrors among these people, and remove those that no face needs."""
        mirrors: dict[UUID, UUID] = {}

        async def settled(some: Sequence[UUID]) -> None:
            await self._unpicture_parked(connection, job, some, outcome, rows_only=rows_only)
            released = await self._let_go(connection, job, some, outcome, rows_only=rows_only)
            to_mend = list({*some} - outcome.written | released) if not rows_only else []
            people = await self.people.mirrored(connection, job, to_mend, self.layout) if to_mend else []
            if people:
                mirrors.update({person.source_id: person.target_id for person in people})
                people, problems = await threads.run(self.placer.people, people)
                outcome.failed_people |= problems
                outcome.placed |= with_thumbnail(people)
                leaving = {person.target_id: person.places for person in people if person.leaving}
                async with self.phones.writing(connection, job):
                    await marks.leave(connection, job, {(id_, id_): paths for id_, paths in leaving.items()})
                    await self.people.write(connection, job, [], people)
                await self._clear_people(connection, job, leaving, outcome)
            concerned = {*some, *(mirrors[id_] for id_ in some if id_ in mirrors)}
            held = concerned & (outcome.held | outcome.placed)
            await self._drop_empty(connection, job, outcome, people=concerned, held=held, rows_only=rows_only)

        if ids:
            await halving(connection, self.catalog, ids, outcome.failed_people, settled)
        for person_id, failure in outcome.failed_people.items():
            self.metrics.failures.labels(job=job.name, reason=failure.kind).inc()
            if failure.kind == "lock":
                self.limited.warning("the database is busy: people are tried again", job=job.name)
            else:
                log.warning("a person is not as they should be", person=person_id, job=job.name, reason=failure.text)

    async def _unpicture_parked(
        self, connection: Connection, job: Job, people: Sequence[UUID], outcome: Outcome, *, rows_only: bool
    ) -> None:
        """Take thumbnails away that Immich has made of copies which were parked in between, of anybody's people."""
        showing = await self.people.showing_parked(connection, job, people)
        if not showing:
            return
        async with self.phones.writing(connection, job):
            await marks.leave(connection, job, {(id_, id_): [path] for id_, path in showing.items()})
            await self.people.unpicture_all(connection, job, showing.keys())
        if not rows_only:
            await self._clear_people(connection, job, showing.keys(), outcome)

    async def _let_go(
        self, connection: Connection, job: Job, people: Sequence[UUID], outcome: Outcome, *, rows_only: bool
    ) -> set[UUID]:
        """Forget whom mirrors stood for that are gone. Returns these mirrors."""
        if not await self.people.forsaken_by_source(connection, job, people):
            return set()
        async with self.phones.writing(connection, job):
            released = await self.people.release(connection, job, people)
            await marks.leave(connection, job, {(id_, id_): [path] for id_, path in released.items() if path})
        if not rows_only:
            await self._clear_people(connection, job, released.keys(), outcome)
        return set(released)

    async def _drop_empty(
        self, connection: Connection, job: Job, outcome: Outcome, *, people: set[UUID], held: set[UUID], rows_only: bool
    ) -> None:
        """Remove mirrored people without a face, and then their thumbnails. ``held``: see without_faces."""
        empty = await self.people.without_faces(connection, job, people, held)
        if not empty:
            return
        async with self.phones.writing(connection, job, deletes=True):
            # A person's mark is known by the person, for want of a source.
            await marks.leave(connection, job, {(id_, id_): [path] if path else [] for id_, path in empty})
            await self.people.drop(connection, job, [id_ for id_, _ in empty])
        if not rows_only:
            await self._clear_people(connection, job, {id_ for id_, _ in empty}, outcome)


def with_thumbnail(people: Sequence[Person]) -> set[UUID]:
    """Return those whose thumbnail was placed: if another batch dropped them meanwhile, the file is to go again."""
    return {person.target_id for person in people if person.task is not None}
