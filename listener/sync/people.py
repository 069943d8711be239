"""People and faces of copies, in both of Immich's models.

Up to 3.1 a face names a person of its asset's owner. From 3.2 on it names a person group, and each user has a
view of their own of it: in one cluster group source and target share the group, else the group is mirrored as
the person was before. What differs is in ``PeopleModel``; everything else is one logic.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from uuid import UUID

from psycopg import sql

from listener.database import Connection, fetch, query, statement, uuids
from listener.immich.catalog import Catalog
from listener.immich.layout import Layout
from listener.settings import Job
from listener.sync.files import FileTask
from listener.sync.plan import Source, batch_params, job_params
from listener.sync.rules import FACE_SEARCH, Rule, parts

_BASE_PERSON = "(SELECT map.target_person_id FROM public._face_sync_face_map AS map WHERE map.target_face_id = mine.id)"


@dataclass(frozen=True, slots=True)
class Person:
    """A source's person and who stands for them at the target.

    thumbnail: '' while the source has none. theirs: the target's own person, whom we do not write. once: the
    thumbnail is theirs to change once it is there (from 3.2 on, as long as the feature photo shows that person).
    needed: a copied face names them, and is not one that the target user gave to somebody else.
    there: who stands for them was there when this was read.
    """

    source_id: UUID
    target_id: UUID
    source_thumbnail: str
    thumbnail: str
    theirs: bool
    once: bool
    needed: bool
    there: bool

    @property
    def task(self) -> FileTask | None:
        """The thumbnail to be copied: never one inode, the target user may choose another feature photo."""
        if self.theirs or not self.needed or not self.source_thumbnail:
            return None
        return FileTask(self.source_thumbnail, self.thumbnail, shared=False, once=self.once)


class GoneError(Exception):
    """People of the target's were merged or deleted since the batch was planned: it is to be planned anew."""


@dataclass(frozen=True, slots=True)
class People:
    """The statements for one catalog."""

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
        person = parts(catalog, "person", _person_rule(groups))
        face = parts(catalog, "asset_face", _face_rule(groups))
        search = parts(catalog, "face_search", FACE_SEARCH)
        may_go = query("people", "may_go").format(**names)
        own = query("people", "own_choice").format(**names)
        looks = {
            "mirror_id": mirror,
            "stands": query("people", "feature_stands").format(mirror_id=mirror) if groups else sql.SQL("false"),
            "there": query("people", "there").format(mirror_id=mirror, **names),
            "back": query("people", "back").format(**names),
        }
        feature = query("people", "feature_of_group" if groups else "feature_of_person").format(**names)
        return cls(
            adopt=statement("people", "adopt_survivors", **names),
            tell_adopted=statement("people", "tell_adopted", **names),
            of_assets=statement("people", "people_of_assets", own=own, **looks, **names),
            by_id=statement("people", "people_by_id", **looks, **names),
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
            delete_faces=statement("people", "delete_faces", **names),
            empty=statement("people", "empty_people", may_go=may_go, **names),
            delete=statement("people", "delete_people", may_go=may_go, **names),
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
        thumbnail: str,
        *flags: bool,
    ) -> Person:
        suffix = PurePosixPath(thumbnail).suffix
        path = layout.person_thumbnail(target_id, job.target_user_id, suffix) if thumbnail else ""
        return Person(source_id, target_id, thumbnail, path, *flags)

    async def begin(self, connection: Connection, job: Job, people: Sequence[Person]) -> None:
        """Leave a mark of each mirror before its thumbnail is made, so that a crash orphans nothing."""
        needed = [person for person in people if person.needed]
        await connection.execute(query("people", "map_people"), {**job_params(job), **_person_arrays(needed)})

    async def held(self, connection: Connection, targets: Sequence[UUID]) -> set[UUID]:
        """Read the mirrored people that these copies hold now."""
        rows = await fetch(connection, query("people", "held_people"), {"targets": uuids(targets)})
        return {row[0] for row in rows}

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
    }


def _person_rule(groups: bool) -> Rule:
    rule = Rule(
        key=("id",),
        values={
            "id": "people.target_id",
            "ownerId": "%(target_user)s",
            "thumbnailPath": "people.thumbnail",
            "faceAssetId": "featured.face_id",
            "isFavorite": "false",
            "updateId": "pg_temp.ahead()",
        },
        own=frozenset({"isFavorite", "createdAt", "updateId"}),
    )
    if not groups:
        return rule
    return replace(
        rule,
        key=("ownerId", "personGroupId"),
        # Who joins or leaves a cluster group keeps what they said of a person.
        values={
            **rule.values,
            "personGroupId": "people.target_id",
            "name": "coalesce(nullif(former.name, ''), source.name)",
            "birthDate": 'coalesce(former."birthDate", source."birthDate")',
            "isFavorite": 'coalesce(former."isFavorite", false)',
            "isHidden": 'coalesce(former."isHidden", source."isHidden")',
            "color": "coalesce(former.color, source.color)",
        },
        # Each user's own from 3.2 on; only what is still empty is filled in, as Immich does when it shares a person.
        own=rule.own | {"isHidden", "color"},
        mend={
            "name": "CASE WHEN mine.name = '' THEN excluded.name ELSE mine.name END",
            "birthDate": 'coalesce(mine."birthDate", excluded."birthDate")',
            "thumbnailPath": """CASE WHEN mine."thumbnailPath" = '' THEN excluded."thumbnailPath"
                                     ELSE mine."thumbnailPath" END""",
        },
    )


def _face_rule(groups: bool) -> Rule:
    person = "personGroupId" if groups else "personId"
    values = {
        "id": "source.new_id",
        "assetId": "source.new_asset",
        person: "source.new_person",
        "deletedAt": "NULL",
        "updateId": "pg_temp.ahead()",
    }
    if groups:
        # In one cluster group the source's face stands for both: an equal embedding would vote twice.
        values["sourceType"] = """(CASE WHEN source.in_one_group THEN 'manual'
                                        ELSE source."sourceType"::text END)::sourcetype"""
    return Rule(
        key=("id",),
        values=values,
        # A face that its user deleted on the copy stays deleted.
        own=frozenset({"deletedAt", "updateId"}),
        mend={
            person: f"""CASE WHEN mine."{person}" IS NULL OR mine."{person}" IS NOT DISTINCT FROM {_BASE_PERSON}
                 THEN excluded."{person}" ELSE mine."{person}" END""",
            # Faces that the target's own crop hides (2.5+).
            "isVisible": """CASE WHEN mine."assetId" = ANY(%(own_edits)s::uuid[]) THEN mine."isVisible"
                                 ELSE excluded."isVisible" END""",
        },
    )
