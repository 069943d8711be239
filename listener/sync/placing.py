"""Puts the files of a batch in place, in a worker thread: what is in place becomes a WantedCopy.

A source whose file is missing or refused is told apart with its reason; nothing else waits for it.
"""

import contextlib
import math
import os
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from listener.faults import is_everyones, words
from listener.faults import place as place_of
from listener.immich.layout import Layout, RefusedPathError, apart
from listener.ops import logs
from listener.ops.metrics import Metrics
from listener.settings import Job
from listener.sync.assets import PlacedFile, WantedCopy
from listener.sync.files import FileProblemError, FileTask, LinkMode, OriginalLinks, fits, place
from listener.sync.means import Means
from listener.sync.people import Person
from listener.sync.plan import Source, SourceFile

log = logs.get("placing")


@dataclass(frozen=True, slots=True)
class Failure:
    """Why one key could not be done: ``kind`` for the metric, ``text`` for people."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Placer:
    """What placing needs to know of the house."""

    layout: Layout
    mode: LinkMode
    metrics: Metrics
    means: Means = field(default_factory=Means)
    once: logs.Limited = field(default_factory=lambda: logs.Limited(log, period=math.inf))

    def unmade(self, job: Job, sources: Sequence[Source], files: Mapping[UUID, Sequence[SourceFile]]) -> list[Source]:
        """Return those of these copies that lack a file by name: making it is to be marked first."""
        return [
            source
            for source in sources
            if any(not os.path.lexists(path) for path in self._targets(job, source, files.get(source.id, ())))
        ]

    def paths(self, job: Job, sources: Sequence[Source]) -> list[str]:
        """Return the places that these copies' originals may have; none of those refused, which placing tells."""
        found = []
        for source in sources:
            with contextlib.suppress(RefusedPathError):
                path = self.layout.copy_original(job, str(source.original), source.id if source.hidden else None)
                found += [path, apart(path, source.id)]
        return found

    def copies(
        self,
        job: Job,
        links: OriginalLinks,
        sources: Sequence[Source],
        files: Mapping[UUID, Sequence[SourceFile]],
        ours: Container[str],
    ) -> tuple[list[WantedCopy], dict[UUID, Failure]]:
        """Place the generated files of these copies. Returns the copies in place, and failures by source id.

        ours: places at which our links may be. Raises SwappedError where a disk came or went meanwhile.
        """
        wanted: list[WantedCopy] = []
        failed: dict[UUID, Failure] = {}
        for source in sources:
            try:
                wanted.append(self._copy(job, links, source, files.get(source.id, ()), ours))
            except Exception as error:  # noqa: BLE001 - whatever it is, it is this one's
                failed[source.id] = _failure(error)
        # What a disk that went away took with it is not missing, nor is what was made in its place there.
        self.layout.confirm()
        return wanted, failed

    def people(self, people: Sequence[Person]) -> tuple[list[Person], dict[UUID, Failure]]:
        """Decide what thumbnails these people have, and place those that are copied.

        One whose thumbnail cannot be had is mirrored without it, or with what they have. Raises SwappedError where a
        disk came or went meanwhile.
        """
        placed: list[Person] = []
        failed: dict[UUID, Failure] = {}
        for person in people:
            time = self._time(person.picture.source)
            # One inode with the source's, as other sidecars made them, is nothing of their own.
            present = any(os.path.lexists(path) and not _same(path, person.picture.source) for path in person.places)
            decided = person.decided(time, present=present)
            try:
                if decided.task is not None:
                    self._place(decided.task)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is this one's
                failed[person.source_id] = _failure(error)
                decided = person.decided(time, present=present, use=person.picture.instead(present=present))
            placed.append(decided)
        self.layout.confirm()
        return placed, failed

    def _time(self, path: str) -> int | None:
        """Return when a thumbnail's file was written; None where there is none to be had."""
        try:
            return self.layout.inside_media(path).stat().st_mtime_ns if path else None
        except (OSError, RefusedPathError):
            return None

    def originals(
        self, links: OriginalLinks, copies: Sequence[WantedCopy]
    ) -> tuple[list[WantedCopy], dict[UUID, Failure]]:
        """Link the originals of copies whose rows are committed.

        Returns the copies that got a link now, and failures by source id. Raises SwappedError where a disk came or went
        meanwhile.
        """
        linked: list[WantedCopy] = []
        failed: dict[UUID, Failure] = {}
        for copy in copies:
            source = copy.source
            try:
                if not links.directory and source.original is not None:
                    how = links.link(copy.path, source.original)
                    self.metrics.files.labels(how=how).inc()
                    if how == "symlink":
                        linked.append(copy)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is this one's
                failed[source.id] = _failure(error)
        self.layout.confirm()
        return linked, failed

    def _targets(self, job: Job, source: Source, files: Sequence[SourceFile]) -> list[str]:
        try:
            return [
                self.layout.copy_file(file.path, source.id, source.target_id, job.target_user_id, file.kind)
                for file in files
                if not (file.edited and source.own_edits)
            ]
        except RefusedPathError:
            return []  # placing refuses it, with words

    def _copy(
        self, job: Job, links: OriginalLinks, source: Source, files: Sequence[SourceFile], ours: Container[str]
    ) -> WantedCopy:
        path = self.layout.copy_original(job, str(source.original), source.id if source.hidden else None)
        # One that was set apart stays there: its name is as good as another.
        if not links.directory and (source.copy_original == apart(path, source.id) or links.is_anothers(path)):
            path = apart(path, source.id)
        # Said before anything is made: a copy whose original cannot be linked is none.
        if not links.directory and not fits(path):
            raise FileProblemError(
                "too long",
                f"the path of its link would be too long: {len(path.encode())} bytes, and 4095 are allowed (255 for a "
                f"name). Shorten target_path_prefix, or the source's path {source.original!r}",
            )
        # A row that names somebody's own file hands it over: Immich unlinks it with the copy.
        if (
            not links.directory
            and (words := links.in_the_way(path, source.original, replaced=path in ours)) is not None
        ):
            raise FileProblemError("in the way", words)
        modified_ns = links.modified_ns(str(source.original))
        # Edited files are the target user's to edit again: never one inode with the source's.
        placed = tuple(
            PlacedFile(file.id, self._file(job, source, file.path, file.kind, shared=not file.edited))
            for file in files
            if not (file.edited and source.own_edits)
        )
        encoded = source.encoded
        if encoded:
            encoded = self._file(job, source, encoded, "encoded_video", shared=True)
        return WantedCopy(source, path, modified_ns, encoded, placed)

    def _file(self, job: Job, source: Source, path: str, kind: str, *, shared: bool) -> str:
        target = self.layout.copy_file(path, source.id, source.target_id, job.target_user_id, kind)
        self._place(FileTask(path, target, shared=shared))
        return target

    def _place(self, task: FileTask) -> None:
        how = place(task, self.layout, self.mode, self.means)
        self.metrics.files.labels(how=how).inc()
        if task.shared and self.mode == "auto" and how in {"reflink", "copy"}:
            self.once.warning(
                "hardlinks cannot be made here: files of copies take space of their own. The thumbnails of all users "
                "must lie on one file system and in one mount",
                file=task.target,
                instead=how,
            )


def _failure(error: Exception) -> Failure:
    """Return why one of a batch could not be placed: the others go on. Raises what is not about one of them."""
    if isinstance(error, FileProblemError):
        return Failure(error.kind, str(error))
    if isinstance(error, RefusedPathError):
        return Failure("refused", str(error))
    if is_everyones(error):
        raise error
    log.trace("files could not be placed")
    return Failure("unexpected", f"its files cannot be placed: {words(error)} (in {place_of(error)})")


def _same(path: str, other: str) -> bool:
    try:
        return Path(path).samefile(other)
    except OSError:
        return False
