"""The judge's view of motion parts: the moving half of a live photo, which is shared as its stills are.

An iPhone's is a file of its own beside the still; Android's is inside the still's file, and Immich takes it out into a
folder of its own.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from pathlib import Path
from uuid import UUID

from listener.settings import Job
from listener.tools.verify_files import leads_to_source, unsafe
from listener.tools.verify_model import Pair, SourceAsset
from listener.tools.verify_snapshot import Snapshot

Users = tuple[UUID, UUID]
"""Source user and target user of a job."""

# Barriers of sources that will be shared again: their copies are only put away.
FOR_A_WHILE = frozenset({"source.trashed", "source.offline", "source.library", "source.user", "source.still"})
# Barriers that count wherever the source lies.
_FIRST = frozenset({"source.locked", "source.deleted", "source.copy"})


def judge_motion_parts(
    jobs: Sequence[Job],
    sources: Mapping[str, Mapping[UUID, SourceAsset]],
    paths: Mapping[tuple[Users, UUID], str | None],
    unmoved: AbstractSet[tuple[Users, UUID]],
) -> dict[str, dict[UUID, SourceAsset]]:
    """Return the sources with the last barriers: of place, and of motion parts, which are judged by their stills.

    A part may have stills in the places of several jobs of the same users. It is shared once: by the job in whose place
    its copy lies, as long as any of them shares a still of it. ``paths``: of copies, by their users and source;
    ``unmoved``: those whose sources are where they were when they were copied.
    """
    placed = {name: {s.id: _by_place(s) for s in found.values()} for name, found in sources.items()}
    claims = {job.name: _claims(users_of(job), placed[job.name].values(), unmoved) for job in jobs}
    judged: dict[str, dict[UUID, SourceAsset]] = {}
    for job in jobs:
        pair = [other for other in jobs if users_of(other) == users_of(job)]
        sharing = [other.name for other in pair if not other.remove_copies]
        claimed, resting = claims[job.name]
        in_pair = claimed.union(*(claims[name][0] for name in sharing))
        resting = resting.union(*(claims[name][1] for name in sharing))
        places = {s.id for name in sharing for s in sources[name].values() if s.place}
        judged[job.name] = {}
        for source in placed[job.name].values():
            barrier = source.barrier
            if source.motion and barrier not in _FIRST:
                here = (paths.get((users_of(job), source.id)) or "").startswith(job.target_path_prefix + "/")
                if source.id not in places and not source.extracted:
                    barrier = "source.prefix"
                elif source.id not in (in_pair if here else claimed):
                    # Hidden, and no shared photo's motion part: nobody but its owner is to see it.
                    barrier = (barrier or "source.still") if source.id in resting else "source.hidden"
                elif barrier is None and not source.place and leads_to_source(job):
                    # Behind a symlinked folder there is no place for a link to it.
                    barrier = "source.hidden"
            if job.remove_copies and barrier is None:
                # The job is there only to take its copies away.
                barrier = "source.removed"
            judged[job.name][source.id] = replace(source, barrier=barrier)
    return judged


def _by_place(source: SourceAsset) -> SourceAsset:
    if source.motion or source.barrier in _FIRST or source.place:
        return source
    return replace(source, barrier="source.prefix")


def _claims(
    users: Users, sources: Iterable[SourceAsset], unmoved: AbstractSet[tuple[Users, UUID]]
) -> tuple[set[UUID], set[UUID]]:
    """Return the motion parts of stills that one job shares, and of those that it will share again."""
    stills = [(still.live, still) for still in sources if still.live and not still.motion and not unsafe(still.path)]
    shared = {part for part, still in stills if still.barrier is None}
    resting = {
        part
        for part, still in stills
        if still.barrier in FOR_A_WHILE or (still.barrier == "source.prefix" and (users, still.id) in unmoved)
    }
    return shared, resting


def expected_original(job: Job, source: SourceAsset) -> str:
    """Return where the original of a copy belongs: a motion part from elsewhere has a place by its id."""
    if source.motion and not source.path.startswith(job.source_path_prefix + "/"):
        return f"{job.target_path_prefix}/motion-parts/{source.id}{Path(source.path).suffix}"
    rest = source.path.removeprefix(job.source_path_prefix)
    return job.target_path_prefix + re.sub("(/[.]?)+/", "/", rest)


def also_expected(path: str, source: UUID) -> str:
    """Return where a link is whose own place another one has, to a file system that does not tell their names apart."""
    place = Path(path)
    return str(place.with_name(f"{place.stem}~{str(source)[:8]}{place.suffix}"))


async def with_same_content(
    snapshot: Snapshot, pairs: Sequence[Pair], sources: Mapping[str, Mapping[UUID, SourceAsset]]
) -> list[Pair]:
    """Return the pairs, those without a copy of their motion part with whatever has the same content beside them."""
    parts = {}
    for pair in pairs:
        of_job = sources[pair.job.name]
        part = of_job.get(of_job[pair.source].live or pair.source)
        if pair.live is None and part is not None and part.extracted:
            parts[pair.target] = part.id
    if not parts:
        return list(pairs)
    rows = await snapshot.rows("same_content", {"targets": list(parts), "parts": list(parts.values())})
    same: dict[UUID, UUID] = dict(rows)
    return [replace(pair, live=pair.live or same.get(pair.target)) for pair in pairs]


def users_of(job: Job) -> Users:
    """Return the two users of a job."""
    return job.source_user_id, job.target_user_id
