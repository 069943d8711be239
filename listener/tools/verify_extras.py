"""The judge's look at what surrounds copies in their user's library: stacks, tags, an album, and what is kept.

What the target user has done themselves is in no table of ours and is not judged: their own stacks and tags, and
a copy or a tag that was given once and is not there any more.
"""

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

from psycopg import sql

from listener.settings import Job
from listener.tools.verify_model import Difference, Pair
from listener.tools.verify_snapshot import Snapshot, block, uuids


async def judge_extras(snapshot: Snapshot, jobs: Sequence[Job], pairs: Sequence[Pair]) -> list[Difference]:
    """Judge stacks, tags and albums of all copies, and the notes of copies that are gone."""
    judge = _ExtrasJudge(snapshot, jobs, pairs)
    return [*await judge.stacks(), *await judge.tags(), *await judge.albums(), *await judge.kept()]


class _ExtrasJudge:
    def __init__(self, snapshot: Snapshot, jobs: Sequence[Job], pairs: Sequence[Pair]) -> None:
        self._db = snapshot
        self._jobs = jobs
        self._pairs = {pair.target: pair for pair in pairs}
        self._job_of_user = {job.target_user_id: job.name for job in reversed(jobs)}
        self._users = {"target_users": uuids(self._job_of_user)}
        self._params = _arrays(pairs) | {"tags": [pair.job.tags for pair in pairs]}

    async def stacks(self) -> list[Difference]:
        """Judge the mirrored stacks and which copies are in them."""
        found = self._of_pairs(await self._db.rows("extras/stacks", self._params))
        for user, stack in await self._db.rows("extras/stacks_unneeded", self._users):
            found.append(self._of_user("stack_map.orphan", user, f"stack {stack} holds no copy"))
        return found

    async def tags(self) -> list[Difference]:
        """Judge the tags given to copies, the tags above those, and what is noted of them."""
        plural = self._db.has("tag_asset", "tagsId")
        parts = {
            "asset": sql.Identifier("assetsId" if plural else "assetId"),
            "tag": sql.Identifier("tagsId" if plural else "tagId"),
        }
        wanted = block("extras/tags_wanted").format(**parts)
        found = self._of_pairs(await self._db.rows("extras/tags", self._params, wanted=wanted))
        for target, value in await self._db.rows("extras/tags_unneeded", {}):
            # The note names no user: it is told with the first job.
            found += [
                Difference("tag_map.extra", j.name, None, target, f"{value}: the copy is gone") for j in self._jobs[:1]
            ]
        for user, tag, value, parent in await self._db.rows("extras/tag_line", self._params, wanted=wanted):
            found.append(self._of_user("tag.parentId", user, f"tag {tag} {value} is not below {parent}"))
        if self._db.has("tag_closure", "id_ancestor"):
            for user, value, above in await self._db.rows("extras/tag_closure", self._params, wanted=wanted):
                found.append(self._of_user("tag_closure.missing", user, f"{value} is not known to be below {above}"))
        return found

    async def albums(self) -> list[Difference]:
        """Judge for each job with an album that its copies were put into it, and for all the covers of albums."""
        plural = self._db.has("album_asset", "albumsId")
        parts = {
            "asset": sql.Identifier("assetsId" if plural else "assetId"),
            "album": sql.Identifier("albumsId" if plural else "albumId"),
            "owned": block(f"extras/album_of_{'owner' if self._db.has('album', 'ownerId') else 'member'}"),
        }
        found = []
        for job in self._jobs:
            params = _arrays(pair for pair in self._pairs.values() if pair.job == job)
            params |= {"album": job.album_id, "target_user": job.target_user_id}
            covers = await self._db.rows("extras/covers", params, **parts)
            found += self._of_pairs(
                (source, target, "album.cover", f"it cannot be the cover of {album}")
                for source, target, album in covers
            )
            if job.album_id is None:
                continue
            rows = await self._db.rows("extras/album", params, **parts)
            found += self._of_pairs((*row, "album.missing", f"was never put into {job.album_id}") for row in rows)
        return found

    async def kept(self) -> list[Difference]:
        """Judge that nothing is kept of copies that are there."""
        return [
            Difference("kept.stale", self._job_of_user[user], source, target, "kept though the copy is there")
            for user, source, target in await self._db.rows("extras/kept", self._users)
        ]

    def _of_pairs(self, rows: Iterable[Sequence[Any]]) -> list[Difference]:
        return [self._pairs[target].differs(rule, detail) for _, target, rule, detail in rows]

    def _of_user(self, rule: str, user: UUID, detail: str) -> Difference:
        return Difference(rule, self._job_of_user[user], None, None, detail)


def _arrays(pairs: Iterable[Pair]) -> dict[str, Any]:
    listed = list(pairs)
    return {
        "sources": uuids(pair.source for pair in listed),
        "targets": uuids(pair.target for pair in listed),
        "target_users": uuids(pair.job.target_user_id for pair in listed),
    }
