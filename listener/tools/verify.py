"""The judge: reads source and copy side by side and tells everything that is not as the rules say.

First it decides, from the rows alone, which assets a job shares and which of them Immich has finished with.
Each copy on record then either stands beside a source that may be shared, and is compared with it in full
(`verify_rows`, `verify_people`, `verify_files`), or is a difference itself; so is what surrounds the copies
(`verify_extras`). What the target user has changed themselves is left to them (`verify_own`). It knows nothing
of how copies are made, reads one snapshot of the database, and writes nothing.
"""

import asyncio
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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
    check_originals,
    compare_files,
    find_orphan_files,
    find_orphan_links,
    unsafe,
)
from listener.tools.verify_model import Difference, Pair, Report, render
from listener.tools.verify_own import read_own
from listener.tools.verify_people import judge_people
from listener.tools.verify_rows import RowJudge
from listener.tools.verify_snapshot import Snapshot, open_snapshot

__all__ = ["Difference", "Report", "render", "verify"]

# A copy whose source is away for a while stays, in no view of Immich's.
_FOR_A_WHILE = frozenset({"source.trashed", "source.offline", "source.library", "source.user", "source.still"})
_EVERYTHING = Features(smart_search=True, facial_recognition=True, ocr=True)


@dataclass(frozen=True, slots=True)
class _Source:
    """An asset of a job's source user; ``barrier`` names the rule that forbids sharing it."""

    id: UUID
    path: str
    live: UUID | None
    motion: bool
    barrier: str | None
    ready: bool


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
        waiting = left_out = 0
        for job in jobs:
            lacking = _Lacking(job, sources[job.name], copies, skipped, failures)
            paths = await snapshot.rows("paths_of_source", {"sources": [id_ for id_, _ in lacking.failed]})
            missing_files = {source for source, path in paths if not _exists(path)}
            doubles = await _read_doubles(snapshot, job, [*lacking.forgotten, *lacking.skipped])
            found += lacking.differences(missing_files, doubles)
            waiting += lacking.waiting + len(missing_files)
            left_out += len(lacking.skipped)
        found += await _find_orphan_assets(snapshot, jobs)
        own = await read_own(snapshot, [pair.target for pair in pairs])
        judge = RowJudge(snapshot, jobs, pairs, own, media_root)
        found += await judge.differences()
        files, wrong_paths = await judge.files()
        people = await judge_people(snapshot, jobs, pairs, own, media_root)
        found += await judge_extras(snapshot, jobs, pairs)
        originals = await judge.originals()
        named = await judge.named_files()
        begun = await judge.begun()
        found += await judge.marks()
        rows = await judge.count_rows()
    found += [*wrong_paths, *people.differences]
    by_target = {pair.target: pair for pair in pairs}
    found += _check_checksums(by_target, originals)

    def look_at_disk() -> list[Difference]:
        times = [(target, path, modified) for target, path, _, modified in originals]
        return [
            *compare_files([*files, *people.thumbnails]),
            *check_originals(by_target, times, media_root),
            *find_orphan_links(jobs, named, media_root),
            *find_orphan_files(jobs, named, begun, media_root),
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


async def _read_sources(snapshot: Snapshot, job: Job, features: Features, ml_wait: float) -> dict[UUID, _Source]:
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
    found = [_Source(*row) for row in rows]
    stills = [s for s in found if s.live and not s.motion and not unsafe(s.path)]
    motion_parts = {s.live for s in stills if s.barrier is None}
    resting_parts = {s.live for s in stills if s.barrier in _FOR_A_WHILE}
    sources = {}
    for source in found:
        barrier = source.barrier
        if barrier is None and source.motion and source.id not in motion_parts:
            # Hidden, and no shared photo's motion part: nobody but its owner is to see it.
            barrier = "source.still" if source.id in resting_parts else "source.hidden"
        if job.remove_copies and barrier is None:
            # The job is there only to take its copies away.
            barrier = "source.removed"
        sources[source.id] = _Source(source.id, source.path, source.live, source.motion, barrier, bool(source.ready))
    return sources


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
    sources: Mapping[str, Mapping[UUID, _Source]],
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
        job = (sharing or near or of_users)[0]
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
            if rule in _FOR_A_WHILE or (rule == "source.prefix" and copy.unmoved):
                found += _judge_parked(copy, job, rule)
                continue
            found.append(Difference(rule, job.name, copy.source, copy.target, "the copy may not be there"))
            continue
        if copy.parked:
            found.append(Difference("map.parked", job.name, copy.source, copy.target, "noted as away, and is shared"))
        source = sources[job.name][copy.source]
        path = job.target_path_prefix + source.path.removeprefix(job.source_path_prefix)
        pairs.append(Pair(job, copy.source, copy.target, source.path, path, source.motion, source.live))
    targets = {(pair.job.name, pair.source): pair.target for pair in pairs}
    linked = [Pair(p.job, p.source, p.target, p.source_path, p.path, p.motion, _live(p, targets)) for p in pairs]
    return linked, found


def _judge_parked(copy: _Copy, job: Job, rule: str) -> Iterator[Difference]:
    """Judge a copy whose source is away: nobody sees it, and at its path is nothing that Immich could unlink."""
    if not copy.hidden:
        yield Difference(rule, job.name, copy.source, copy.target, "the copy is to be in no view, and is")
    if not copy.parked:
        yield Difference("map.parked", job.name, copy.source, copy.target, "how its user had it is not noted")
    if os.path.lexists(str(copy.path)):
        yield Difference("parked.originalPath", job.name, copy.source, copy.target, f"something is at {copy.path}")


def _live(pair: Pair, targets: Mapping[tuple[str, UUID], UUID]) -> UUID | None:
    return targets.get((pair.job.name, pair.live)) if pair.live else None


def _barrier(copy: _Copy, sources: Mapping[UUID, _Source]) -> str | None:
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
        sources: Mapping[UUID, _Source],
        copies: Sequence[_Copy],
        skipped: Mapping[tuple[UUID, UUID], str],
        failures: Mapping[tuple[str, UUID], str],
    ) -> None:
        self._job = job
        self._sources = sources
        users = (job.source_user_id, job.target_user_id)
        self._copied = {copy.source for copy in copies if copy.users == users and copy.path is not None}
        stills = {source.live: source for source in sources.values() if source.live and source.barrier is None}
        self.failed: list[tuple[UUID, str]] = []
        self.forgotten: list[UUID] = []
        self.skipped: dict[UUID, str] = {}
        self.waiting = 0
        for source in sources.values():
            still = stills.get(source.id) if source.motion else None
            reason = skipped.get((source.id, job.target_user_id))
            if source.barrier is None and reason is not None:
                self.skipped[source.id] = reason
            if (
                source.barrier
                or source.id in self._copied
                or reason is not None
                or (still and (still.id, job.target_user_id) in skipped)
            ):
                continue
            if (job.name, source.id) in failures:
                self.failed.append((source.id, failures[job.name, source.id]))
            elif not self._due(source, still):
                self.waiting += 1
            else:
                self.forgotten.append(source.id)

    def _due(self, source: _Source, still: _Source | None) -> bool:
        """Return whether the copy should be there: a live photo comes with both parts."""
        if still:
            return source.ready and still.id in self._copied
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
            if reason.startswith("duplicate_") and (source not in doubles or source in self._copied):
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


def _check_checksums(
    pairs: Mapping[UUID, Pair], originals: Sequence[tuple[UUID, str, bytes, int]]
) -> Iterator[Difference]:
    """Compare with the hash of the path, which Immich gives to assets of external libraries.

    With the hash of the content, the target's phone would not back up the user's own file of the same photo.
    """
    for target, path, checksum, _ in originals:
        if checksum != hashlib.sha1(b"path:" + path.encode(), usedforsecurity=False).digest():
            yield pairs[target].differs("asset.checksum", f"{checksum.hex()} is not the hash of path:{path}")
