"""Which ids are ours: a file that is named by another one is Immich's, and none of the judge's business.

Immich leaves files behind by itself: thumbnails of photos that library watching took away, and of uploads newer than
a restored backup.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import LiteralString
from uuid import UUID

from psycopg import sql

from listener.settings import Job
from listener.tools.verify_snapshot import Snapshot, uuids


def derived(source: UUID, target_user: UUID) -> str:
    """Return the id that the copy of an asset or person has, if no other sidecar gave it one at random.

    Half of a SHA-256 of the two ids, shaped as a UUID of version 4.
    """
    digest = hashlib.sha256(f"{source}/{target_user}".encode()).digest()[:16]
    # The variant is chosen among four by the digit that stands there.
    variant = 8 + (digest[8] >> 4) % 4
    shaped = digest[:6] + bytes([0x40 | digest[6] & 0x0F, digest[7], variant << 4 | digest[8] & 0x0F]) + digest[9:]
    return str(UUID(bytes=shaped))


class OurIds:
    """The ids of copies and mirrored people that are there, are in the making, or have been there."""

    def __init__(self, known: Mapping[UUID, set[str]], sources: Mapping[UUID, set[UUID]]) -> None:
        self._known = known
        self._sources = sources
        self._derived: dict[UUID, set[str]] = {}

    def has(self, user: UUID, id_: str) -> bool:
        """Tell whether an id, as text, is ours in the folders of a target user."""
        if id_ in self._known.get(user, ()):
            return True
        if user not in self._derived:
            # Only where there is a file to be judged: a source user may have very many photos.
            self._derived[user] = {derived(source, user) for source in self._sources.get(user, ())}
        return id_ in self._derived[user]


async def read_our_ids(snapshot: Snapshot, jobs: Sequence[Job], sources: Mapping[str, Iterable[UUID]]) -> OurIds:
    """Read which ids are ours. ``sources``: the assets of each job's source user."""
    known: dict[UUID, set[str]] = {}
    for user, id_ in await snapshot.rows("our_ids", {"target_users": uuids(job.target_user_id for job in jobs)}):
        known.setdefault(user, set()).add(str(id_))
    others: dict[UUID, set[UUID]] = {}
    names: list[LiteralString] = ["source_people"]
    names += ["deleted_assets"] if "asset_audit" in snapshot.columns else []
    names += ["deleted_people"] if "person_audit" in snapshot.columns else []
    for name in names:
        rows = await snapshot.rows(
            name,
            {"source_users": uuids(job.source_user_id for job in jobs)},
            person_id=_person_id(snapshot, "person", "id"),
            audit_person=_person_id(snapshot, "person_audit", "personId"),
        )
        for owner, id_ in rows:
            others.setdefault(owner, set()).add(id_)
    of_user: dict[UUID, set[UUID]] = {}
    for job in jobs:
        of_user.setdefault(job.target_user_id, set()).update(sources[job.name], others.get(job.source_user_id, ()))
    return OurIds(known, of_user)


def _person_id(snapshot: Snapshot, table: str, before: str) -> sql.Identifier:
    """Return the column that says who it is: from Immich 3.2 on a person is known by their group."""
    return sql.Identifier("personGroupId" if snapshot.has(table, "personGroupId") else before)
