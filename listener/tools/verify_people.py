"""The judge's look at faces and people, in the model that this server has.

Up to Immich 3.1 a face has a person of the asset's owner, so the target has a mirror of each person that a
copied face needs. From 3.2 on a face has a person group of a cluster group, and each user a person row of their
own for it: in one cluster group both users' faces share the group, else the group is mirrored. What the models
have in common is asked once; what differs are blocks of SQL with two names.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from psycopg import sql

from listener.settings import Job
from listener.tools.verify_files import GeneratedFile
from listener.tools.verify_model import Difference, Pair
from listener.tools.verify_own import Own
from listener.tools.verify_snapshot import FACE, STAMPS, Snapshot, block, differing, uuids

_BY_MODEL = (
    "shared", "silent", "judged", "copy_of_target", "thumbnail_follows", "said_differs", "feature_wrong",
    "group_wrong",
)  # fmt: skip
# Judged by rules of their own; a face that the target user took away from a copy stays away.
_RULED = STAMPS | {"personId", "personGroupId", "sourceType", "deletedAt"}


@dataclass(frozen=True, slots=True)
class PeopleFindings:
    """What differs, and the thumbnails of the people made, whose files are still to be compared."""

    differences: tuple[Difference, ...]
    thumbnails: tuple[GeneratedFile, ...]


async def judge_people(
    snapshot: Snapshot, jobs: Sequence[Job], pairs: Sequence[Pair], own: Own, media_root: Path
) -> PeopleFindings:
    """Judge all faces of the copies and the people they belong to."""
    judge = _PeopleJudge(snapshot, jobs, pairs, media_root)
    faces = await judge.faces(own)
    belongings = await judge.belongings()
    people, thumbnails = await judge.people()
    return PeopleFindings((*faces, *belongings, *people), tuple(thumbnails))


class _PeopleJudge:
    def __init__(self, snapshot: Snapshot, jobs: Sequence[Job], pairs: Sequence[Pair], media_root: Path) -> None:
        self._db = snapshot
        self._thumbs = media_root / "thumbs"
        self._pairs = {pair.target: pair for pair in pairs}
        self._job_of_user = {job.target_user_id: job.name for job in reversed(jobs)}
        self._params = {
            "sources": uuids(pair.source for pair in pairs),
            "targets": uuids(pair.target for pair in pairs),
            "source_users": uuids(pair.job.source_user_id for pair in pairs),
            "target_users": uuids(pair.job.target_user_id for pair in pairs),
            "job_source_users": [job.source_user_id for job in jobs],
            "job_target_users": [job.target_user_id for job in jobs],
        }
        self._groups = groups = snapshot.face_person == "personGroupId"
        self._parts: dict[str, sql.Composable] = {
            "face_person": sql.Identifier(snapshot.face_person),
            "person_id": sql.Identifier("personGroupId" if groups else "id"),
        }
        for name in _BY_MODEL:
            self._parts[name] = block(f"people/{name}_{'group' if groups else 'person'}")
        self._parts["expected"] = block("people/expected").format(**self._parts)

    async def faces(self, own: Own) -> list[Difference]:
        """Compare the copied faces by the face map; hand-drawn faces outside of it are the target's own."""
        columns = [column for column in self._db.columns[FACE] if column not in _RULED]
        rows = await self._db.rows("people/faces", self._params, **self._parts, differing=differing(columns))
        found = []
        for target, face, kind, names in rows:
            theirs = [name for name in names if name not in own.columns(FACE, target)]
            if theirs or kind != "column":
                found.append(self._pairs[target].differs(f"{FACE}.{kind}", f"face {face} {', '.join(theirs)}".strip()))
        for user, source, target, rule, face in await self._db.rows("people/faces_extra", self._params, **self._parts):
            detail = f"face {face} has no source's face to stand for it"
            found.append(Difference(rule, self._job_of_user.get(user, ""), source, target, detail))
        return found

    async def belongings(self) -> list[Difference]:
        """Compare whose each copied face is, and the embeddings by which Immich knows whose others are."""
        found = [
            self._pairs[target].differs(rule, f"face {face}")
            for target, rule, face in await self._db.rows("people/embeddings", self._params, **self._parts)
        ]
        rows = await self._db.rows("people/face_people", self._params, **self._parts)
        return found + [
            self._pairs[target].differs(rule, f"face {face} {detail}") for target, face, rule, detail in rows
        ]

    async def people(self) -> tuple[list[Difference], list[GeneratedFile]]:
        """Judge the people made for the copies; the thumbnails of those that are there come second."""
        found: list[Difference] = []
        thumbnails: list[GeneratedFile] = []
        rows = await self._db.rows("people/people", self._params, **self._parts)
        shown = {row[3] for row in rows if row[5] is None}
        times = await asyncio.to_thread(lambda: {path: _time(path) for path in shown})
        for source, user, target, source_file, file, rule, detail, feature, seen, time, shared, chosen in rows:
            if rule is not None:
                found.append(self._of_person(rule, user, f"person {target or source}: {detail}"))
                continue
            # Immich writes the file some time after another feature photo was chosen.
            face = seen if time is not None and time == times[source_file] else feature
            may = face in shared
            path = self._thumbnail_path(user, target) if file or (source_file and may) else ""
            if file != path:
                wrong = f"person {target}: {file!r} is not {path!r}"
                found.append(self._of_person("person.thumbnailPath", user, wrong))
            elif file:
                thumbnails.append(
                    GeneratedFile(
                        rule="person.thumbnail",
                        job=self._job_of_user[user],
                        source_asset_id=None,
                        target_asset_id=None,
                        what=f"person {target}",
                        source=source_file,
                        copy=file,
                        shared=False,
                        # From 3.2 on the feature photo is each user's own, also among the copied faces.
                        own=self._groups or chosen or not may,
                        private=not may,
                    )
                )
        found += [
            self._of_person("person.thumbnail.private", user, f"person {target}: shows a photo whose copy is parked")
            for user, target in await self._db.rows("people/parked_pictures", self._params, **self._parts)
        ]
        found += [
            self._of_person(rule, user, f"person {target} {detail}")
            for user, target, rule, detail in await self._db.rows("people/people_unneeded", self._params, **self._parts)
        ]
        return found, thumbnails

    def _thumbnail_path(self, user: UUID, person: UUID) -> str:
        name = str(person)
        return str(self._thumbs / str(user) / name[0:2] / name[2:4] / f"{name}.jpeg")

    def _of_person(self, rule: str, user: UUID, detail: str) -> Difference:
        return Difference(rule, self._job_of_user[user], None, None, detail)


def _time(path: str) -> str | None:
    try:
        return str(Path(path).stat().st_mtime_ns)
    except OSError:
        return None
