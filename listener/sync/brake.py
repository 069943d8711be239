"""The brake on removal: copies that would go in a mass, and for no deed of their source's user, stay.

One wrong letter in a setting, or a disk that is away while Immich scans, would take every copy away. What the source
user does (lock, trash, delete, move) and what goes with a user or a library is never held, however much it is.
Whether it is many is read from the rows each time: a restart forgets nothing. See docs/decisions/0023.
"""

import asyncio
import difflib
import os
import shlex
import time
import unicodedata
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from uuid import UUID

from listener.database import Connection, fetch, query, statement
from listener.immich.layout import plain
from listener.ops import logs
from listener.ops.metrics import Metrics
from listener.settings import Job, RemovalLimit
from listener.sync.plan import Sorted, Source, job_params
from listener.threads import SilentFolderError, run

log = logs.get("brake")

# Why copies go that may be held: the settings do not name their sources any more; those lie elsewhere, and it is not
# known since when; Immich has not found their originals at a scan.
HELD_BACK = ("settings", "elsewhere", "offline")
_WORDS = {
    "settings": "the settings leave them out",
    "elsewhere": "their sources are not in the shared folder",
    "offline": "Immich has taken their originals offline, as where a disk was away at a scan",
}
# A motion part goes with its still, or for one of these.
_OF_ITSELF = frozenset({"locked", "deleted", "gone", "trashed", "owner", "moved", "asked"})
_WITHIN = 60.0  # seconds in which copies that went count as going at once
_JUDGED_AGAIN = 2.0  # seconds


@dataclass(frozen=True, slots=True)
class Verdict:
    """What would go of a job's copies, by reason, and which reasons are held.

    copies: how many are in sight. unmatched: no photo of the source user's is in the job's place.
    """

    copies: int
    going: Mapping[str, int]
    held: frozenset[str]
    unmatched: bool

    @property
    def count(self) -> int:
        """How many copies are held."""
        return sum(self.going[reason] for reason in self.held)


@dataclass(slots=True)
class _State:
    """What is known of one job. went: copies that went lately, and when. at: of the last verdict, monotonic."""

    went: dict[UUID, float] = field(default_factory=dict)
    verdict: Verdict | None = None
    at: float = 0.0

    @property
    def is_fresh(self) -> bool:
        """Whether the verdict is so new that it holds for the next batch, too."""
        return time.monotonic() - self.at < _JUDGED_AGAIN

    def lately(self) -> int:
        """Return how many copies went within the last minute."""
        now = time.monotonic()
        self.went = {id_: at for id_, at in self.went.items() if now - at < _WITHIN}
        return len(self.went)


class Brake:
    """Holds removals back, for all jobs of a session. ``limit``: how many copies may go at once; None: any number."""

    def __init__(self, limit: RemovalLimit | None, metrics: Metrics) -> None:
        self._limit = limit
        self._metrics = metrics
        self._states: dict[str, _State] = {}
        self._lifted: list[str] = []

    @contextmanager
    def lifted(self, job: Job) -> Iterator[None]:
        """Hold nothing of a job meanwhile: somebody has allowed it."""
        log.warning("removal is allowed: nothing of this job is held for now", job=job.name)
        self._lifted.append(job.identity)
        try:
            yield
        finally:
            self._lifted.remove(job.identity)
            self._states.pop(job.identity, None)
            self._gauge(job, {})

    async def hold(self, connection: Connection, job: Job, todo: Sorted) -> tuple[Sorted, dict[UUID, str]]:
        """Return what is to be done without what is held, and the sources that are. Raises psycopg.Error."""
        state = self._states.setdefault(job.identity, _State())
        going = [source for source in (*todo.remove, *todo.park) if _may_be_held(source)]
        if not going:
            if state.verdict is not None and not state.is_fresh:
                await self._judge(connection, job, state, ())
            return todo, {}
        if job.identity in self._lifted:
            return todo, {}
        ids = {source.id for source in going}
        known = state.verdict is not None and {source.reason for source in going} <= state.verdict.held
        if not _is_small(going, state.lately(), self._limit) and not (known and state.is_fresh):
            await self._judge(connection, job, state, ids)
        held = state.verdict.held if state.verdict is not None else frozenset()
        stay = [source for source in going if source.reason in held]
        taken: set[UUID] = set()
        if offline := [source for source in stay if source.reason == "offline"]:
            # Where a folder does not answer it is not known either.
            with suppress(SilentFolderError):
                taken = await run(_taken_away, job, offline)
        stay = [source for source in stay if source.id not in taken]
        now = time.monotonic()
        state.went |= dict.fromkeys(ids - {source.id for source in stay} - taken, now)
        motion = {source.motion for source in stay} - {None}
        kept = {source.id for source in stay} | {
            source.id
            for source in (*todo.remove, *todo.park)
            if source.id in motion and source.reason not in _OF_ITSELF
        }
        if not kept:
            return todo, {}
        remove = tuple(source for source in todo.remove if source.id not in kept)
        park = tuple(source for source in todo.park if source.id not in kept)
        return replace(todo, remove=remove, park=park), dict.fromkeys(kept, "held")

    async def look_again(self, connection: Connection, job: Job) -> None:
        """See whether what was held still is. Raises psycopg.Error."""
        state = self._states.get(job.identity)
        if state is not None and state.verdict is not None:
            await self._judge(connection, job, state, ())

    async def _judge(self, connection: Connection, job: Job, state: _State, ids: Collection[UUID]) -> None:
        """Judge a job anew, and tell what became of it. ``ids``: of these it is not yet known whether they went."""
        before = state.verdict.held if state.verdict is not None else frozenset()
        lately = len(state.went.keys() - ids)
        verdict = await judge(connection, job, self._limit, lately=lately)
        state.at = time.monotonic()
        state.verdict = verdict if verdict.held else None
        self._gauge(job, {reason: verdict.going[reason] for reason in verdict.held})
        if verdict.held and verdict.held != before:
            log.warning(
                "copies would go in a mass, and are held: they stay as they are, everything else goes on",
                job=job.name,
                copies=verdict.count,
                of=verdict.copies,
                reason=await why(connection, job, verdict),
                to_do=f"correct the settings, or bring the disk back. To let them go: {command(job)}",
            )
        elif before and not verdict.held:
            log.info("no removal is held any more", job=job.name)

    def _gauge(self, job: Job, held: Mapping[str, int]) -> None:
        for reason in HELD_BACK:
            self._metrics.removals_held.labels(job=job.name, reason=reason).set(held.get(reason, 0))


async def judge(connection: Connection, job: Job, limit: RemovalLimit | None, *, lately: int = 0) -> Verdict:
    """Read what would go of a job's copies, and judge what is held of it. Raises psycopg.Error.

    lately: how many went within the last minute.
    """
    rows = await fetch(connection, _statement("would_go"), _params(job))
    counts: dict[str | None, int] = dict(rows)
    copies = sum(counts.values())
    going = {reason: counts.get(reason, 0) for reason in HELD_BACK}
    by_place = frozenset(reason for reason in ("settings", "elsewhere") if going[reason])
    unmatched = bool(by_place) and not await _matches(connection, job)
    many = limit is not None and sum(going.values()) + lately > limit.of(copies + lately)
    held: frozenset[str] = frozenset()
    if not job.remove_copies and (many or unmatched):
        held = frozenset(reason for reason in HELD_BACK if going[reason]) if many else by_place
    return Verdict(copies, going, held, unmatched)


async def why(connection: Connection, job: Job, verdict: Verdict) -> str:
    """Say in words why copies would go that are held. Raises psycopg.Error."""
    parts = []
    for reason in sorted(verdict.held):
        words = _WORDS[reason]
        if reason != "offline" and verdict.unmatched:
            words = f"the source folder {job.source_path_prefix} matches no photo"
            if nearest := await _nearest(connection, job):
                words += f"; nearest folder with photos: {nearest}"
        parts.append(words)
    return "; ".join(dict.fromkeys(parts))


def command(job: Job) -> str:
    """Return the command that allows it."""
    return f"listener reconcile --allow-removal --job {shlex.quote(job.name)}"


async def unmatched(connection: Connection, job: Job) -> bool:
    """Tell whether a job has copies in sight while its prefix matches no photo at all. Raises psycopg.Error."""
    if job.remove_copies or await _matches(connection, job):
        return False
    return (await judge(connection, job, None)).unmatched


async def _matches(connection: Connection, job: Job) -> bool:
    return bool((await fetch(connection, _statement("matches"), _params(job)))[0][0])


async def _nearest(connection: Connection, job: Job) -> str | None:
    rows = await fetch(connection, query("brake", "folders"), _params(job))
    return await asyncio.to_thread(nearest, job.source_path_prefix, [row[0] for row in rows])


def nearest(wanted: str, folders: Sequence[str]) -> str | None:
    """Return which of these folders, or of those above them, was probably meant."""
    known = {str(above) for folder in folders for above in (PurePosixPath(folder), *PurePosixPath(folder).parents)}
    known -= {"/", "."}
    alike = sorted(folder for folder in known if _folded(folder) == _folded(wanted))
    return next(iter(alike or difflib.get_close_matches(wanted, sorted(known), n=1, cutoff=0.0)), None)


def _folded(path: str) -> str:
    """Return what two names share that differ in case or in how accents are written."""
    return unicodedata.normalize("NFC", path).casefold()


def _statement(name: str) -> bytes:
    parts = {"in_scope": query("plan", "in_scope"), "reasons": query("plan", "reasons")}
    return statement("brake", name, **parts)


def _params(job: Job) -> dict[str, object]:
    return {**job_params(job), "uploads": job.kind == "uploads", "source_prefix": job.source_path_prefix}


def _may_be_held(source: Source) -> bool:
    return source.reason in HELD_BACK and source.made and not source.parked and not source.hidden and not source.lost


def _is_small(going: Sequence[Source], lately: int, limit: RemovalLimit | None) -> bool:
    """Tell whether these are so few that nobody needs to count what else would go: photos taken offline one by one."""
    return (
        limit is not None
        and all(source.reason == "offline" for source in going)
        and (len(going) + lately <= limit.least / 2)
    )


def _taken_away(job: Job, sources: Sequence[Source]) -> set[UUID]:
    """Return those whose originals somebody has removed from a folder that is there, with other files in it.

    That is how a photo of an external library is deleted, or moved out of the shared part. Where a disk is away, or a
    folder is empty, it is not known.
    """
    alive: dict[str, bool] = {}
    return {source.id for source in sources if _is_missing(job.source_path_prefix, str(source.original), alive)}


def _is_missing(prefix: str, path: str, alive: dict[str, bool]) -> bool:
    if os.path.lexists(path):
        return False
    folder = os.path.dirname(plain(path))  # noqa: PTH120 - texts of the database, many of them
    while folder == prefix or folder.startswith(prefix + "/"):
        if folder not in alive:
            try:
                with os.scandir(folder) as entries:
                    alive[folder] = any(True for _ in entries)
            except FileNotFoundError:
                folder = os.path.dirname(folder)  # noqa: PTH120
                continue
            except OSError:
                alive[folder] = False
        return alive[folder]
    return False
