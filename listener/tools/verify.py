"""The judge: reads source and copy side by side and tells everything that is not as the rules say.

First it decides, from the rows alone, which assets a job shares and which of them Immich has finished with.
Each copy on record then either stands beside a source that may be shared, and is compared with it in full
(`verify_rows`, `verify_people`, `verify_files`), or is a difference itself; so is what surrounds the copies
(`verify_extras`). What the target user has changed themselves is left to them (`verify_own`). It knows nothing
of how copies are made, reads one snapshot of the database, and writes nothing.
"""

import asyncio
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus

from listener.immich.api import Features
from listener.settings import Job
from listener.tools.verify_extras import judge_extras
from listener.tools.verify_files import (
    check_checksums,
    check_originals,
    compare_files,
    find_orphan_files,
    find_orphan_links,
    unsafe,
)
from listener.tools.verify_ids import read_our_ids
from listener.tools.verify_model import Difference, Pair, Report, SourceAsset, render
from listener.tools.verify_motion import (
    FOR_A_WHILE,
    also_expected,
    expected_original,
    judge_motion_parts,
    users_of,
    with_same_content,
)
from listener.tools.verify_own import read_own
from listener.tools.verify_people import judge_people
from listener.tools.verify_rows import RowJudge
from listener.tools.verify_snapshot import Snapshot, open_snapshot

__all__ = ["Difference", "Report", "render", "verify"]

# A copy whose source is away for a while stays, in no view of Immich's.
_EVERYTHING = Features(smart_search=True, facial_recognition=True, ocr=True)


@dataclass(frozen=True, slots=True)
class _Copy:
    """A map row; ``path`` is its asset's originalPath, None if there is no such row.

    parked: it is noted that it is away for a while. hidden: its row is in no view of Immich's. unmoved: its source is
    where it was when it was copied.
    """

    source: UUID
    target: UUID
    users: tuple[UUID, UUID]
    source_there: bool
    path: str | None
    parked: bool
    hidden: bool
    unmoved: bool


_OUTSIDE = "its source lies outside the media root, where nobody can judge it: the copy stays as it is"


async def verify(
    conn: psycopg.AsyncConnection[Any],
    jobs: Sequence[Job],
    media_root: Path,
    *,
    features: Features | None = None,
    ml_wait: float = 86400,
) -> Report:
    """Prove every rule of a copy for all copies of the jobs.

    Paths are judged as this process sees them, so it must have Immich's mounts. ``features`` is the machine
    learning that this server does (None: all), ``ml_wait`` the seconds a source may wait for it. Meant for a
    moment when nothing changes. Raises ValueError on a connection inside a transaction or a database that
    has nothing to verify.
    """
    if conn.info.transaction_status != TransactionStatus.IDLE:
        raise ValueError("verify needs a connection that is in no transaction")
    async with conn.transaction():
        snapshot = await open_snapshot(conn)
        sources = {job.name: await _read_sources(snapshot, job, features or _EVERYTHING, ml_wait) for job in jobs}
        copies = await _read_copies(snapshot, jobs)
        paths = {(copy.users, copy.source): copy.path for copy in copies}
        unmoved = {(copy.users, copy.source) for copy in copies if copy.unmoved}
        sources = judge_motion_parts(jobs, sources, paths, unmoved)
        skipped = {
            (source, user): reason
            for source, user, reason in await snapshot.rows(
                "skipped", {"target_users": [job.target_user_id for job in jobs]}
            )
        }
        failures = {
            (job, source): reason
            for job, source, reason in await snapshot.rows("failures", {"jobs": [job.name for job in jobs]})
        }
        pairs, found = _match(jobs, sources, copies, failures)
        pairs = await with_same_content(snapshot, pairs, sources)
        waiting = left_out = 0
        for job in jobs:
            lacking = _Lacking(job, sources[job.name], copies, skipped, failures)
            needed = await snapshot.rows("paths_of_source", {"sources": [id_ for id_, _ in lacking.failed]})
            missing_files = {source for source, path in needed if not _exists(path)}
            doubles = await _read_doubles(snapshot, job, [*lacking.forgotten, *lacking.skipped])
            found += lacking.differences(missing_files, doubles)
            waiting += lacking.waiting + len(missing_files - lacking.copied)
            left_out += len(lacking.skipped)
        found += await _find_orphan_assets(snapshot, jobs)
        own = await read_own(snapshot, [pair.target for pair in pairs])
        judge = RowJudge(snapshot, jobs, pairs, own, media_root)
        found += await judge.differences()
        files, wrong_paths = await judge.files()
        people = await judge_people(snapshot, jobs, pairs, own, media_root)
        found += await judge_extras(snapshot, jobs, pairs)
        originals = await judge.originals()
        contents = await judge.contents()
        named = await judge.named_files()
        begun = await judge.begun()
        found += await judge.marks()
        ours = await read_our_ids(snapshot, jobs, sources)
        rows = await judge.count_rows()
    found += [*wrong_paths, *people.differences]
    by_target = {pair.target: pair for pair in pairs}
    found += check_checksums(by_target, originals, contents)

    def look_at_disk() -> list[Difference]:
        times = [(target, path, modified) for target, path, _, modified in originals]
        return [
            *compare_files([*files, *people.thumbnails]),
            *check_originals(by_target, times, media_root),
            *find_orphan_links(jobs, named, media_root),
            *find_orphan_files(jobs, named, begun, ours.has, media_root),
        ]

    found += await asyncio.to_thread(look_at_disk)
    found.sort(key=lambda d: (d.job, d.rule, str(d.source_asset_id), str(d.target_asset_id), d.detail))
    return Report(
        differences=tuple(found),
        copies=sum(copy.path is not None and not copy.parked for copy in copies),
        sources=sum(source.barrier is None for of_job in sources.values() for source in of_job.values()),
        waiting=waiting,
        skipped=left_out,
        rows=rows,
    )


async def _read_sources(snapshot: Snapshot, job: Job, features: Features, ml_wait: float) -> dict[UUID, SourceAsset]:
    """Return all assets of the job's source user, each with what keeps it from being shared."""
    has_ocr = snapshot.has("asset_job_status", "ocrAt")
    rows = await snapshot.rows(
        "sources",
        {
            "source_user": job.source_user_id,
            "kind": job.kind,
            "prefix": job.source_path_prefix,
            "ml_wait": ml_wait,
            "smart_search": features.smart_search,
            "facial_recognition": features.facial_recognition,
            "ocr": features.ocr and has_ocr,
        },
        unedited=snapshot.unedited("file"),
        ocr_mark=sql.SQL('job."ocrAt"' if has_ocr else "NULL::timestamptz"),
    )
    return {source.id: source for source in (SourceAsset(*row) for row in rows)}


async def _read_copies(snapshot: Snapshot, jobs: Sequence[Job]) -> list[_Copy]:
    rows = await snapshot.rows(
        "map_rows",
        {
            "source_users": [job.source_user_id for job in jobs],
            "target_users": [job.target_user_id for job in jobs],
        },
    )
    return [
        _Copy(source, target, (source_user, target_user), there, path, parked, bool(hidden), bool(unmoved))
        for source, target, source_user, target_user, there, path, parked, hidden, unmoved in rows
    ]


def _match(
    jobs: Sequence[Job],
    sources: Mapping[str, Mapping[UUID, SourceAsset]],
    copies: Sequence[_Copy],
    failures: Mapping[tuple[str, UUID], str],
) -> tuple[list[Pair], list[Difference]]:
    """Put each copy beside its source; what has no source that may be shared is a difference."""
    pairs: list[Pair] = []
    found: list[Difference] = []
    for copy in copies:
        of_users = [job for job in jobs if (job.source_user_id, job.target_user_id) == copy.users]
        sharing = [job for job in of_users if _barrier(copy, sources[job.name]) is None]
        # A source that no job shares is judged by the job in whose place its copy lies.
        near = [job for job in of_users if (copy.path or "").startswith(job.target_path_prefix + "/")]
        job = ([job for job in sharing if job in near] or sharing or near or of_users)[0]
        if copy.path is None:
            # Immich's purge may have taken one that was away.
            if (job.name, copy.source) not in failures and not (copy.parked and not sharing):
                detail = "the copy's row is gone, its map row is not"
                found.append(Difference("map.orphan", job.name, copy.source, copy.target, detail))
            continue
        if not sharing:
            rule = _barrier(copy, sources[job.name]) or ""
            if not near and rule in {"source.prefix", "source.removed"}:
                # The copy of a job that is no more: it is kept, and lies in no place of these jobs.
                continue
            if rule in FOR_A_WHILE or (rule == "source.prefix" and copy.unmoved):
                found += _judge_parked(copy, job, rule)
                continue
            words = "the copy may not be there" if rule != "source.outside" else _OUTSIDE
            found.append(Difference(rule, job.name, copy.source, copy.target, words))
            continue
        if copy.parked:
            found.append(Difference("map.parked", job.name, copy.source, copy.target, "noted as away, and is shared"))
        source = sources[job.name][copy.source]
        path = expected_original(job, source)
        if copy.path == (other := also_expected(path, source.id)):
            path = other
        pairs.append(
            Pair(job, copy.source, copy.target, source.path, path, source.motion, source.live, source.extracted)
        )
    # The motion part may lie in the place of another job of the same users, and be away for a while.
    targets = {(copy.users, copy.source): copy.target for copy in copies if copy.path is not None}
    return [replace(p, live=targets.get((users_of(p.job), p.live)) if p.live else None) for p in pairs], found


def _judge_parked(copy: _Copy, job: Job, rule: str) -> Iterator[Difference]:
    """Judge a copy whose source is away: nobody sees it, and at its path is nothing that Immich could unlink."""
    if not copy.hidden:
        yield Difference(rule, job.name, copy.source, copy.target, "the copy is to be in no view, and is")
    elif not copy.parked:
        yield Difference("map.parked", job.name, copy.source, copy.target, "how its user had it is not noted")
    elif os.path.lexists(str(copy.path)):
        yield Difference("parked.originalPath", job.name, copy.source, copy.target, f"something is at {copy.path}")


def _barrier(copy: _Copy, sources: Mapping[UUID, SourceAsset]) -> str | None:
    """Return the rule that forbids this copy, None if it may be there."""
    source = sources.get(copy.source)
    if source is None:
        return "source.owner" if copy.source_there else "source.missing"
    if source.barrier is None and unsafe(source.path):
        return "source.path"
    return source.barrier


class _Lacking:
    """Sorts the sources of one job that have no copy: rightly so, still waiting, failed, or forgotten."""

    def __init__(
        self,
        job: Job,
        sources: Mapping[UUID, SourceAsset],
        copies: Sequence[_Copy],
        skipped: Mapping[tuple[UUID, UUID], str],
        failures: Mapping[tuple[str, UUID], str],
    ) -> None:
        self._job = job
        self._sources = sources
        users = (job.source_user_id, job.target_user_id)
        self.copied = {copy.source for copy in copies if copy.users == users and copy.path is not None}
        stills: dict[UUID, list[SourceAsset]] = {}
        for source in sources.values():
            if source.live and source.barrier is None:
                stills.setdefault(source.live, []).append(source)
        self.failed: list[tuple[UUID, str]] = []
        self.forgotten: list[UUID] = []
        self.skipped: dict[UUID, str] = {}
        self.waiting = 0
        for source in sources.values():
            of_part = stills.get(source.id, []) if source.motion else []
            reason = skipped.get((source.id, job.target_user_id))
            if source.barrier is None and reason is not None:
                self.skipped[source.id] = reason
            failure = failures.get((job.name, source.id))
            if source.id in self.copied and failure is not None:
                self.failed.append((source.id, failure))
            if (
                source.barrier
                or source.id in self.copied
                or reason is not None
                or (of_part and all((still.id, job.target_user_id) in skipped for still in of_part))
            ):
                continue
            if failure is not None:
                self.failed.append((source.id, failure))
            elif not self._due(source, of_part):
                self.waiting += 1
            else:
                self.forgotten.append(source.id)

    def _due(self, source: SourceAsset, stills: Sequence[SourceAsset]) -> bool:
        """Return whether the copy should be there: a live photo comes with both parts."""
        if stills:
            return source.ready and any(still.id in self.copied for still in stills)
        motion = self._sources.get(source.live) if source.live else None
        return source.ready and (motion is None or motion.barrier is not None or motion.ready)

    def differences(self, missing_files: set[UUID], doubles: set[UUID]) -> Iterator[Difference]:
        """Yield what is forgotten, wrongly skipped, or failed for another reason than a file that is not there.

        ``doubles`` are sources that the target user has as photos of their own.
        """
        for source in self.forgotten:
            path = self._sources[source].path
            if source in doubles:
                detail = f"{path} is a photo of the target's own, and is not noted as skipped"
                yield Difference("skipped.missing", self._job.name, source, None, detail)
            else:
                yield Difference("source.uncopied", self._job.name, source, None, f"{path} is ready and has no copy")
        for source, reason in self.skipped.items():
            if reason.startswith("duplicate_") and (source not in doubles or source in self.copied):
                detail = f"{self._sources[source].path}: {reason}, and that is not so any more"
                yield Difference("skipped.stale", self._job.name, source, None, detail)
        for source, reason in self.failed:
            if source not in missing_files:
                detail = f"{self._sources[source].path}: {reason}"
                yield Difference("failed", self._job.name, source, None, detail)


def _exists(path: str) -> bool:
    return Path(path).exists()


async def _read_doubles(snapshot: Snapshot, job: Job, sources: Sequence[UUID]) -> set[UUID]:
    """Return those of these sources that a copy of would double a photo of the target user's own."""
    if not job.duplicates or not sources:
        return set()
    rows = await snapshot.rows("doubles", {"sources": sources, "target_user": job.target_user_id})
    return {source for (source,) in rows}


async def _find_orphan_assets(snapshot: Snapshot, jobs: Sequence[Job]) -> list[Difference]:
    found = []
    for job in jobs:
        rows = await snapshot.rows(
            "orphan_assets",
            {
                "target_user": job.target_user_id,
                "target_library": job.target_library_id,
                "prefix": job.target_path_prefix,
            },
        )
        found += [
            Difference("copy.duplicate" if doubled else "asset.orphan", job.name, None, target, path)
            for target, path, doubled in rows
        ]
    return found
