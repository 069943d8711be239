"""People and faces of copies, in both of Immich's models.

Up to 3.1 a face names a person of its asset's owner. From 3.2 on it names a person group, and each user has a
view of their own of it: in one cluster group source and target share the group, else the group is mirrored as
the person was before. What differs is in ``PeopleModel``; everything else is one logic.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any
from uuid import UUID

from psycopg import sql
from psycopg.types.json import Jsonb

from listener.database import Connection, fetch, query, statement, uuids
from listener.immich.catalog import Catalog
from listener.immich.layout import Layout
from listener.settings import Job
from listener.sync.files import FileTask
from listener.sync.people_rules import face_rule, person_rule, said
from listener.sync.pictures import Picture, Use
from listener.sync.plan import Source, batch_params, job_params
from listener.sync.rules import FACE_SEARCH, parts


@dataclass(frozen=True, slots=True)
class Person:
    """A source's person and who stands for them at the target.

    theirs: the target's own person, or one whom another of the source's people says: whom we do not write. needed: a
    copied face names them, and is not one that the target user gave to somebody else. there: who stands for them was
    there when this was read. path: where a copied thumbnail belongs. each_own: thumbnails are each user's own.
    use, notes, present: what was decided of the thumbnail once its file was looked at (`decided`).
    """

    source_id: UUID
    target_id: UUID
    theirs: bool
    needed: bool
    there: bool
    picture: Picture
    path: str
    each_own: bool
    use: Use = "none"
    notes: Mapping[str, object] = field(default_factory=dict)
    present: bool = False

    @property
    def ours(self) -> bool:
        """Whether we write who stands for them."""
        return self.needed and not self.theirs

    def decided(self, time: int | None, *, present: bool, use: Use | None = None) -> "Person":
        """Decide what the thumbnail is to be; see `Picture.use`. ``use``: it is known already."""
        use = use or self.picture.use(time, each_own=self.each_own, present=present)
        return replace(self, use=use, notes=self.picture.notes(use, time), present=present)

    @property
    def places(self) -> set[str]:
        """Where the files of thumbnails of who stands for them may be."""
        return {self.path, self.picture.now} - {""}

    @property
    def task(self) -> FileTask | None:
        """The thumbnail to be copied: never one inode, the target user may choose another feature photo."""
        return FileTask(self.picture.source, self.path, shared=False) if self.ours and self.use == "source" else None

    @property
    def thumbnail(self) -> str:
        """What the row of who stands for them is to name."""
        if self.use == "source":
            return self.path
        return "" if self.use == "none" else self.picture.now

    @property
    def withheld(self) -> bool:
        """Whether the source's thumbnail shows a photo that is not shared, or not yet; or a former one is to go."""
        return self.use == "none" and (self.picture.source != "" or self.leaving)

    @property
    def leaving(self) -> bool:
        """Whether the file of a former thumbnail is to be removed."""
        return self.ours and self.use == "none" and (self.present or self.picture.now != "")


class GoneError(Exception):
    """People of the target's were merged or deleted since the batch was planned: it is to be planned anew."""


@dataclass(frozen=True, slots=True)
class People:
    """The statements for one catalog."""

    follow_keys: tuple[bytes, ...]
    adopt: bytes
    tell_adopted: bytes
    of_assets: bytes
    by_id: bytes
    hold: bytes
    groups: bytes | None
    upsert: bytes
    face_search: bytes
    silence: bytes
    adopt_faces: bytes
    delete_faces: bytes
    empty: bytes
    delete: bytes
    forsaken: bytes
    let_go: bytes
    note: bytes
    pictured: bytes
    unpicture: bytes
    of_parked: bytes
    unpicture_people: bytes

    @classmethod
    def compose(cls, catalog: Catalog) -> "People":
        """Compose the statements for the people model that this Immich has."""
        groups = catalog.person_groups
        names = {
            "person_id": sql.Identifier("personGroupId" if groups else "id"),
            "face_person": sql.Identifier("personGroupId" if groups else "personId"),
        }
        one_group = query("people", "one_group") if groups else sql.SQL("false")
        mirror = query("people", "mirror_group" if groups else "mirror_person").format(one_group=one_group)
        person = parts(catalog, "person", person_rule(catalog))
        face = parts(catalog, "asset_face", face_rule(catalog))
        search = parts(catalog, "face_search", FACE_SEARCH)
        may_go = query("people", "may_go").format(**names)
        own = query("people", "own_choice").format(**names)
        shared = query("pictures", "shared").format()
        stands = query("pictures", "stands").format(**names)
        looks = {
            "back": query("people", "back").format(**names),
            "mine": query("people", "mine").format(mirror_id=mirror, **names),
            "second": query("people", "second").format(**names),
            "picture": query("pictures", "picture").format(
                shared=shared, stands=stands, same=query("pictures", "same").format(**names)
            ),
        }
        feature = query("people", "feature_of_group" if groups else "feature_of_person").format(
            copied_feature=query("people", "copied_feature"), any_feature=query("people", "any_feature")
        )
        notes = [
            query("people", "note_said").format(name=sql.Literal(column), column=sql.Identifier(column))
            for column in said(catalog)
        ]
        return cls(
            follow_keys=tuple(
                statement("people", name, concerned=query("people", "concerned"))
                for name in ("follow_sources", "follow_targets")
                if groups
            ),
            adopt=statement("people", "adopt_survivors", **names),
            tell_adopted=statement("people", "tell_adopted", **names),
            of_assets=statement("people", "people_of_assets", own=own, mirror_id=mirror, **looks, **names),
            by_id=statement("people", "people_by_id", mirror_id=mirror, **looks, **names),
            hold=statement("people", "hold", **names),
            groups=statement("people", "person_groups") if groups else None,
            upsert=statement(
                "people",
                "upsert_people_and_faces",
                **person.named("person_"),
                **face.named("face_"),
                feature=feature,
                own=own,
                one_group=one_group,
                **names,
            ),
            face_search=statement("people", "upsert_face_search", one_group=one_group, **search.named()),
            silence=statement("people", "delete_face_search", one_group=one_group, **names),
            adopt_faces=statement("people", "adopt_faces", **names),
            delete_faces=statement("people", "delete_faces", own=own, **names),
            empty=statement("people", "empty_people", may_go=may_go, **names),
            delete=statement("people", "delete_people", may_go=may_go, **names),
            forsaken=statement("people", "forsaken", **names),
            let_go=statement("people", "let_go", forsaken=query("people", "forsaken").format(**names), **names),
            note=statement("people", "note_people", said=sql.SQL(", ").join(notes), **names),
            pictured=statement("pictures", "pictured", **names),
            unpicture=statement("pictures", "unpicture", **names),
            of_parked=statement("pictures", "of_parked", **names),
            unpicture_people=statement("pictures", "unpicture_people", **names),
        )

    async def of(self, connection: Connection, job: Job, sources: Sequence[Source], layout: Layout) -> list[Person]:
        """Read the people that the copied faces of these sources need."""
        params = {**job_params(job), **batch_params(sources), "ids": uuids([])}
        return await self._read(connection, job, self.of_assets, params, layout)

    async def mirrored(self, connection: Connection, job: Job, ids: Sequence[UUID], layout: Layout) -> list[Person]:
        """Read the people named by these ids, of the source or mirrored, that have a mirror."""
        params = {**job_params(job), **batch_params([]), "ids": uuids(ids)}
        return await self._read(connection, job, self.by_id, params, layout)

    async def _read(
        self, connection: Connection, job: Job, wanted: bytes, params: dict[str, object], layout: Layout
    ) -> list[Person]:
        for text in self.follow_keys:
            await connection.execute(text, params)
        adopting = await connection.execute(self.adopt, params)
        rows = await fetch(connection, wanted, params)
        if adopted := await adopting.fetchall():
            gone, survivors = (uuids({row[column] for row in adopted}) for column in (0, 1))
            await connection.execute(self.tell_adopted, {**job_params(job), "gone": gone, "survivors": survivors})
        return [self._person(job, layout, *row) for row in rows]

    def _person(
        self,
        job: Job,
        layout: Layout,
        source_id: UUID,
        target_id: UUID,
        theirs: bool,
        needed: bool,
        there: bool,
        *seen: Any,
    ) -> Person:
        thumbnail, feature, shared, *rest = seen
        suffix = PurePosixPath(thumbnail).suffix
        path = layout.person_thumbnail(target_id, job.target_user_id, suffix) if thumbnail else ""
        picture = Picture(thumbnail, feature, frozenset(shared), *rest)
        return Person(source_id, target_id, theirs, needed, there, picture, path, self.groups is not None)

    async def begin(self, connection: Connection, job: Job, people: Sequence[Person]) -> None:
        """Leave a mark of each mirror before its thumbnail is made, so that a crash orphans nothing."""
        needed = [person for person in people if person.needed]
        await connection.execute(query("people", "map_people"), {**job_params(job), **_person_arrays(needed)})

    async def held(self, connection: Connection, targets: Sequence[UUID]) -> set[UUID]:
        """Read the mirrored people that these copies hold now."""
        rows = await fetch(connection, query("people", "held_people"), {"targets": uuids(targets)})
        return {row[0] for row in rows}

    async def concerned(self, connection: Connection, job: Job, sources: Sequence[Source]) -> set[UUID]:
        """Read the mirrored people whose thumbnail depends on whether these photos are shared."""
        rows = await fetch(connection, self.pictured, {**job_params(job), **batch_params(sources)})
        return {row[0] for row in rows}

    async def showing_parked(self, connection: Connection, job: Job, ids: Collection[UUID]) -> dict[UUID, str]:
        """Read those of these people whose thumbnail shows a parked copy, each with the path of its file."""
        return dict(await fetch(connection, self.of_parked, {**job_params(job), "people": uuids(ids)}))

    async def unpicture_all(self, connection: Connection, job: Job, ids: Collection[UUID]) -> None:
        """Take their thumbnails from these people of the target's."""
        await connection.execute(self.unpicture_people, {**job_params(job), "people": uuids(ids)})

    async def hide(self, connection: Connection, job: Job, sources: Sequence[Source]) -> list[tuple[UUID, str]]:
        """Take the thumbnails that show one of these photos from all of the target's people, their own too.

        Returns who lost theirs, each with the path of the file that is to be removed then.
        """
        rows = await fetch(connection, self.unpicture, {**job_params(job), **batch_params(sources)})
        return [(row[0], row[1]) for row in rows]

    async def adopt_copies(self, connection: Connection, params: Mapping[str, object]) -> None:
        """Take over the faces of copies that another sidecar made, before anything is noted about these copies."""
        await connection.execute(self.adopt_faces, params)

    async def write(
        self, connection: Connection, job: Job, sources: Sequence[Source], people: Sequence[Person]
    ) -> None:
        """Make and mend the faces of these copies and the people they need. Part of a serialised transaction.

        Raises GoneError.
        """
        params = {
            **job_params(job),
            **batch_params(sources),
            **_person_arrays(people),
            "own_edits": uuids(source.target_id for source in sources if source.own_edits),
        }
        there = {person.target_id for person in people if person.there}
        if there:
            held = await fetch(connection, self.hold, {**job_params(job), "there": uuids(there)})
            if there - {row[0] for row in held}:
                raise GoneError("a person of the target's was merged or deleted meanwhile")
        await connection.execute(self.delete_faces, params)
        await connection.execute(query("people", "delete_strays"), params)
        if self.groups is not None:
            await connection.execute(self.groups, params)
        await connection.execute(self.upsert, params)
        await connection.execute(self.note, params)
        await connection.execute(self.silence, params)
        await connection.execute(self.face_search, params)

    async def without_faces(
        self, connection: Connection, job: Job, people: Collection[UUID], held: Collection[UUID]
    ) -> list[tuple[UUID, str | None]]:
        """Return those of these people, or of those we once wrote into faces, that no face needs any more.

        ``(id, thumbnail path)`` each; never a person of the target's own.
        """
        params = {**job_params(job), "people": uuids({*people, *held}), "held": uuids(held)}
        return [(row[0], row[1]) for row in await fetch(connection, self.empty, params)]

    async def forsaken_by_source(self, connection: Connection, job: Job, ids: Collection[UUID]) -> bool:
        """Tell whether mappings of these people, of the source or mirrored, name nobody of the source's any more."""
        return bool(await fetch(connection, self.forsaken, {**job_params(job), "ids": uuids(ids)}))

    async def release(self, connection: Connection, job: Job, ids: Collection[UUID]) -> dict[UUID, str | None]:
        """Give the mirrors of such people to the target user, or to another of the source's for whom they stand.

        Returns the mirrors, with the file of a thumbnail that is to be removed then.
        """
        return dict(await fetch(connection, self.let_go, {**job_params(job), "ids": uuids(ids)}))

    async def drop(self, connection: Connection, job: Job, people: Sequence[UUID]) -> None:
        """Delete those of these mirrored people that still have no face."""
        await connection.execute(self.delete, {**job_params(job), "people": uuids(people)})


def _person_arrays(people: Sequence[Person]) -> dict[str, object]:
    return {
        "person_sources": uuids(person.source_id for person in people),
        "person_targets": uuids(person.target_id for person in people),
        "person_thumbnails": [person.thumbnail for person in people],
        "person_theirs": [person.theirs for person in people],
        "person_needed": [person.needed for person in people],
        "person_chosen": [person.picture.chosen for person in people],
        "person_notes": [Jsonb(person.notes) for person in people],
    }
