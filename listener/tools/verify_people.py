"""The judge's look at faces and people, in the model that this server has.

Up to Immich 3.1 a face has a person of the asset's owner, so the target has a mirror of each person that a
copied face needs. From 3.2 on people are groups that users may share; there only what both models have in
common is judged.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from psycopg import sql

from listener.settings import Job
from listener.tools.verify_files import GeneratedFile
from listener.tools.verify_model import Difference, Pair
from listener.tools.verify_rows import FACE, STAMPS, Snapshot, differing


@dataclass(frozen=True, slots=True)
class PeopleFindings:
    """What differs, and the thumbnails of mirrors, whose files are still to be compared."""

    differences: tuple[Difference, ...]
    thumbnails: tuple[GeneratedFile, ...]


async def judge_people(
    snapshot: Snapshot, jobs: Sequence[Job], pairs: Sequence[Pair], media_root: Path
) -> PeopleFindings:
    """Judge all faces of the copies and the people they belong to."""
    judge = _PeopleJudge(snapshot, jobs, pairs, media_root)
    if snapshot.face_person == "personGroupId":
        # Faces there may be `manual` and are not necessarily all copied: what is copied must be right.
        faces = await judge.faces(ruled={*STAMPS, "personGroupId", "sourceType"})
        return PeopleFindings(tuple(d for d in faces if d.rule != f"{FACE}.missing"), ())
    faces = await judge.faces(ruled={*STAMPS, "personId"})
    belongings = await judge.belongings()
    mirrors, thumbnails = await judge.mirrors()
    return PeopleFindings((*faces, *belongings, *mirrors), tuple(thumbnails))


class _PeopleJudge:
    def __init__(self, snapshot: Snapshot, jobs: Sequence[Job], pairs: Sequence[Pair], media_root: Path) -> None:
        self._db = snapshot
        self._thumbs = media_root / "thumbs"
        self._pairs = {pair.target: pair for pair in pairs}
        self._job_of_user = {job.target_user_id: job.name for job in reversed(jobs)}
        self._params = {
            "sources": [pair.source for pair in pairs],
            "targets": [pair.target for pair in pairs],
            "target_users": [pair.job.target_user_id for pair in pairs],
            "job_source_users": [job.source_user_id for job in jobs],
            "job_target_users": [job.target_user_id for job in jobs],
        }

    async def faces(self, ruled: set[str]) -> list[Difference]:
        """Compare the copied faces by the face map; other faces on a copy are the target's own."""
        person = sql.Identifier(self._db.face_person)
        columns = [column for column in self._db.columns[FACE] if column not in ruled]
        rows = await self._db.rows("faces", self._params, person=person, differing=differing(columns))
        found = [
            self._pairs[target].differs(f"{FACE}.{kind}", f"face {face} {', '.join(names)}".strip())
            for _, target, face, kind, names in rows
        ]
        for user, source, target, rule, face in await self._db.rows("faces_extra", self._params, person=person):
            detail = f"face {face} has no source's face to stand for it"
            found.append(Difference(rule, self._job_of_user.get(user, ""), source, target, detail))
        return found

    async def belongings(self) -> list[Difference]:
        """Compare embeddings, and whether each copied face is of the mirror of its source's person."""
        found = [
            self._pairs[target].differs(rule, f"face {face}")
            for _, target, rule, face in await self._db.rows("embeddings", self._params)
        ]
        for _, target, face, person, mirror in await self._db.rows("face_people", self._params):
            detail = f"face {face} is of person {person}, not {mirror}"
            found.append(self._pairs[target].differs(f"{FACE}.person", detail))
        return found

    async def mirrors(self) -> tuple[list[Difference], list[GeneratedFile]]:
        """Judge the mirrored people; the files of those that are there come second."""
        found: list[Difference] = []
        thumbnails: list[GeneratedFile] = []
        for source, user, target, source_file, file, rule, detail in await self._db.rows("people", self._params):
            if rule is not None:
                found.append(self._of_person(rule, user, f"person {target or source}: {detail}"))
            elif file != (path := self._thumbnail_path(user, target) if source_file else ""):
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
                    )
                )
        for name in ("people_unneeded", "missing_person_thumbnails"):
            found += [
                self._of_person(rule, user, f"person {target} {detail}")
                for user, target, rule, detail in await self._db.rows(name, self._params)
            ]
        return found, thumbnails

    def _thumbnail_path(self, user: UUID, person: UUID) -> str:
        name = str(person)
        return str(self._thumbs / str(user) / name[0:2] / name[2:4] / f"{name}.jpeg")

    def _of_person(self, rule: str, user: UUID, detail: str) -> Difference:
        return Difference(rule, self._job_of_user[user], None, None, detail)
