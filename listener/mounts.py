"""Are the disks there? An empty folder where a disk should be is not read as "everything was deleted".

What is looked at before each batch of a job is cheap: a file or a folder or two on each of the roots. Only where
something is missing are the rows asked whether there should be something. A job whose folders are away pauses, and so
does one below whose target prefix no link can be made, and one whose media root is not Immich's (`listener.roots`):
nothing of it is made or mended, no file is removed. Rows that nobody may see any more go all the same. When the folders
are back, the listener starts anew, as after a lost connection: what they lead to is judged again, and everything is
looked at.
"""

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psycopg

from listener import roots, threads
from listener.database import Connection, fetch, query
from listener.faults import EveryonesError
from listener.immich.layout import Layout, empty
from listener.ops import http, logs
from listener.ops.metrics import Metrics
from listener.settings import Job, Settings
from listener.sync import trial
from listener.sync.files import OriginalLinks

log = logs.get("mounts")

EVERY = 2.0
"""How often the folders are looked at while there is no work, in seconds."""
# How long after a trial of a link has failed it is tried again, in seconds: at first, and at most.
_TRIED_AGAIN = 5.0
_TRIED_AT_MOST = 60.0
_MARK = ".immich"
_THUMBS = "thumbs"
_UNKNOWN = "a folder is empty or not there, and a lock on Immich's tables keeps us from asking what should be in it"
# Folders of the media root that a job reads or writes in.
_GENERATED = (_THUMBS, "encoded-video")
_UPLOADED = ("upload", "library")


class MountedAgainError(EveryonesError):
    """The folders of a job that paused are back: everything is to be looked at anew."""


@dataclass(frozen=True, slots=True)
class Suspect:
    """A folder that may be a mount point without its disk, and what the rows are asked to be sure."""

    folder: Path
    asked: Literal["names_files", "names_originals", "names_online"]


@dataclass(frozen=True, slots=True)
class Tried:
    """What a trial of a link has shown: why none can be made, or None; when it is tried again, and the pause before."""

    words: str | None
    again_at: float
    pause: float


class Mounts:
    """Which jobs pause because their folders are away or take no links; tells readiness, the metric and the log.

    `begin` comes before all else.
    """

    def __init__(self, metrics: Metrics, readiness: http.Readiness) -> None:
        self._layout: Layout
        self._metrics = metrics
        self._readiness = readiness
        self._marked: frozenset[str] = frozenset()
        self._away: dict[str, str] = {}
        self._tried: dict[str, Tried] = {}
        self._follows = False
        # What was last seen of Immich's media root, and when: by the job's name.
        self._rooted: dict[str, tuple[float, str | None]] = {}
        self._outside: dict[str, roots.Outside] = {}
        readiness.met(http.Condition.MOUNTED)

    async def begin(
        self, connection: Connection, layout: Layout, jobs: Sequence[Job] = (), *, follows: bool = False
    ) -> None:
        """Begin anew with the folders as they were seen, and read where Immich put its marks. Raises psycopg.Error.

        follows: the media root is Immich's own, and is another one when Immich says so. Of these jobs the uploads
        outside it are counted and told.
        """
        self._layout, self._follows = layout, follows
        self._tried.clear()
        self._rooted.clear()
        self._marked = await _marked(connection)
        before, self._outside = (
            self._outside,
            {found.job: found for found in await roots.outside(connection, jobs, layout)},
        )
        for job in jobs:
            found = self._outside.get(job.name)
            self._metrics.uploads_outside.labels(job=job.name).set(found.photos if found is not None else 0)
            if found is not None and found != before.get(job.name):
                log.warning("uploads lie outside Immich's media root", job=job.name, reason=str(found))

    async def paused(self, connection: Connection, job: Job, *, makes: bool = True) -> bool:
        """Tell whether nothing may be made or mended for a job now. ``makes``: whether it makes copies at all.

        Raises MountedAgainError when that is over, or where Immich's media root is another one now that we follow,
        SwappedError where a disk came or went unseen, psycopg.Error.
        """
        try:
            words = await self._unrooted(connection, job) or await missing(connection, job, self._layout, self._marked)
        except psycopg.errors.LockNotAvailable:
            words = _UNKNOWN
        if words is None and makes:
            words = await self._untried(connection, job)
        if words is not None:
            self._pause(job, words)
        elif self._away.pop(job.name, None) is not None:
            # Not ready until everything has been looked at anew.
            self._readiness.unmet(http.Condition.FIRST_SWEEP)
            self._tell(job)
            raise MountedAgainError(f"the folders of job {job.name!r} are back")
        else:
            await threads.run(self._layout.of_job(job).confirm)
        return words is not None

    async def _unrooted(self, connection: Connection, job: Job) -> str | None:
        """Tell in words how Immich's media root is not ours; asked now and then, and always while the job pauses."""
        at, words = self._rooted.get(job.name, (-EVERY, None))
        if words is None and time.monotonic() < at + EVERY:
            return None
        with contextlib.suppress(psycopg.errors.LockNotAvailable):
            try:
                words = await roots.disagreement(connection, job, self._layout, follows=self._follows)
            except roots.MediaMovedError as error:
                self._readiness.unmet(http.Condition.FIRST_SWEEP)
                raise MountedAgainError(str(error)) from error
        self._rooted[job.name] = time.monotonic(), words
        return words

    async def _untried(self, connection: Connection, job: Job) -> str | None:
        """Try a link below the job's prefix, once in a session; where that fails, again after a growing pause."""
        known = self._tried.get(job.target_path_prefix)
        if known is not None and (known.words is None or time.monotonic() < known.again_at):
            return known.words
        words = await untried(connection, job, self._layout)
        pause = _TRIED_AGAIN if known is None else min(_TRIED_AT_MOST, 2 * known.pause)
        self._tried[job.target_path_prefix] = Tried(words, time.monotonic() + pause, pause)
        return words

    def _pause(self, job: Job, words: str) -> None:
        if self._away.get(job.name) == words:
            return
        self._away[job.name] = words
        self._tell(job)
        log.warning(
            "a folder is not mounted, is not Immich's, or cannot be used: the job pauses, nothing is made until then. "
            "What nobody may see any more is taken out of Immich all the same; its files are removed afterwards",
            job=job.name,
            reason=words,
        )

    def _tell(self, job: Job) -> None:
        self._metrics.paused.labels(job=job.name).set(job.name in self._away)
        if self._away:
            reasons = "; ".join(f"job {name!r}: {words}" for name, words in sorted(self._away.items()))
            self._readiness.unmet(http.Condition.MOUNTED, f"{http.Condition.MOUNTED.value}: {reasons}")
        else:
            self._readiness.met(http.Condition.MOUNTED)


async def wrong(connection: Connection, job: Job, layout: Layout) -> str | None:
    """Return in words why a job cannot be worked on: its folders are others, or away. Raises psycopg.Error."""
    return await roots.disagreement(connection, job, layout) or await missing(
        connection, job, layout, await _marked(connection)
    )


async def missing(connection: Connection, job: Job, layout: Layout, marked: frozenset[str]) -> str | None:
    """Return in words which folder of a job is not mounted, and what to do; None where all are. Raises psycopg.Error.

    ``marked``: folders of the media root in which Immich has put its mark.
    """
    words, suspects = await threads.run(_look, job, layout, marked)
    if words is not None:
        return words
    for suspect in suspects:
        params = {
            "source_user": job.source_user_id,
            "target_user": job.target_user_id,
            "folder": str(suspect.folder),
        }
        known = (await fetch(connection, query("mounts", suspect.asked), params))[0][0]
        # Immich makes a folder before the row: with its first photo, both may have come between the two looks.
        if known and (why := await threads.run(empty, suspect.folder)) is not None:
            return f"{suspect.folder} {why}, but photos are known there: mount it as in Immich's server"
    return None


async def untried(connection: Connection, job: Job, layout: Layout) -> str | None:
    """Try a link below the target prefix of a job that makes some: return in words what is wrong, None if nothing is.

    Raises SwappedError where a disk came or went meanwhile, psycopg.Error.
    """
    if job.remove_copies or OriginalLinks(layout, job.target_path_prefix).directory:
        return None
    params = {"source_user": job.source_user_id, "folder": job.source_path_prefix}
    originals: list[str] = []
    # Where rows are locked, a link to nothing has to do.
    with contextlib.suppress(psycopg.errors.LockNotAvailable):
        originals = [row[0] for row in await fetch(connection, query("mounts", "some_originals"), params)]
    words = await threads.run(trial.problem, layout, job.target_path_prefix, originals)
    return words and f"{words}. Copies would be seen, and their originals could not be opened: none is made until then"


async def problems(connection: Connection, jobs: Sequence[Job], layout: Layout) -> list[str]:
    """Return why these jobs cannot be worked on now, one line each. Raises psycopg.Error."""
    found = [(job, await wrong(connection, job, layout) or await untried(connection, job, layout)) for job in jobs]
    return [f"job {job.name!r}: {words}" for job, words in found if words is not None]


async def seen(connection: Connection, settings: Settings) -> list[str]:
    """Return what is to be seen of the folders of all jobs, one line each: those that pause, and uploads left out.

    Nothing is tried. Raises psycopg.Error.
    """
    layout = Layout.of(settings)
    found = [(job, await wrong(connection, job, layout)) for job in settings.jobs]
    return [
        *(f"job {job.name!r} pauses: {words}" for job, words in found if words is not None),
        *(f"job {left.job!r}: {left}" for left in await roots.outside(connection, settings.jobs, layout)),
    ]


async def _marked(connection: Connection) -> frozenset[str]:
    return frozenset(row[0] for row in await fetch(connection, query("mounts", "marked"), {}))


def _look(job: Job, layout: Layout, marked: frozenset[str]) -> tuple[str | None, list[Suspect]]:
    """Return what is surely away, in words, and what may be."""
    media = layout.media_root
    for name in (*_GENERATED, *(_UPLOADED if job.kind == "uploads" else ())):
        if name in marked and not _there(media / name / _MARK):
            mark = media / name / _MARK
            return (
                f"Immich's mark {mark} is not there: mount {media / name} as in Immich's server. "
                "Immich asks for the mark, too: if the folder is the right one, make an empty file of that name"
            ), []
    folders: list[tuple[Path, Literal["names_files", "names_originals", "names_online"]]] = [
        (layout.external_of(job.target_path_prefix).path, "names_originals")
    ]
    if _THUMBS not in marked:
        folders.append((media / _THUMBS, "names_files"))
    if job.kind == "external":
        folders.append((Path(job.source_path_prefix), "names_online"))
    return None, [Suspect(folder, asked) for folder, asked in folders if empty(folder) is not None]


def _there(path: Path) -> bool:
    with contextlib.suppress(OSError):
        path.stat()
        return True
    return False
