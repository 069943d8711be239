"""Puts the files of a batch in place, in a worker thread: what is in place becomes a WantedCopy.

A source whose file is missing or refused is told apart with its reason; nothing else waits for it.
"""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from uuid import UUID

from listener.immich.layout import Layout, RefusedPathError
from listener.ops import logs
from listener.ops.metrics import Metrics
from listener.settings import Job
from listener.sync.assets import PlacedFile, WantedCopy, Written
from listener.sync.files import FileProblemError, FileTask, LinkMode, OriginalLinks, fits, place, remove_files
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
    once: logs.Limited = field(default_factory=lambda: logs.Limited(log, period=math.inf))

    def unmade(self, job: Job, sources: Sequence[Source], files: Mapping[UUID, Sequence[SourceFile]]) -> list[Source]:
        """Return those of these copies that lack a file by name: making it is to be marked first."""
        return [
            source
            for source in sources
            if any(not os.path.lexists(path) for path in self._targets(job, source, files.get(source.id, ())))
        ]

    def copies(
        self, job: Job, links: OriginalLinks, sources: Sequence[Source], files: Mapping[UUID, Sequence[SourceFile]]
    ) -> tuple[list[WantedCopy], dict[UUID, Failure]]:
        """Place the generated files of these copies. Returns the copies in place, and failures by source id.

        Raises SwappedError where a disk came or went meanwhile.
        """
        wanted: list[WantedCopy] = []
        failed: dict[UUID, Failure] = {}
        for source in sources:
            try:
                wanted.append(self._copy(job, links, source, files.get(source.id, ())))
            except FileProblemError as problem:
                failed[source.id] = Failure(problem.kind, str(problem))
            except RefusedPathError as problem:
                failed[source.id] = Failure("refused", str(problem))
        # What a disk that went away took with it is not missing, nor is what was made in its place there.
        self.layout.confirm()
        return wanted, failed

    def people(self, people: Sequence[Person]) -> tuple[list[Person], dict[UUID, Failure]]:
        """Place the thumbnails of these people; one whose thumbnail cannot be had is mirrored without it.

        Raises SwappedError where a disk came or went meanwhile.
        """
        placed: list[Person] = []
        failed: dict[UUID, Failure] = {}
        for person in people:
            try:
                if person.task is not None:
                    self._place(person.task)
                placed.append(person)
            except FileProblemError as problem:
                failed[person.source_id] = Failure(problem.kind, str(problem))
                placed.append(replace(person, thumbnail=""))
        self.layout.confirm()
        return placed, failed

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
            except FileProblemError as problem:
                failed[source.id] = Failure(problem.kind, str(problem))
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

    def strays(self, job: Job, written: Written) -> set[UUID]:
        """Remove files of copies that no row names: rows that went, or that went while the files were placed.

        After a crash (``begun``) that is any file named by the copy's id, else only what we placed ourselves:
        Immich writes the files of a target user's own edit before their rows. Returns the sources of those with
        files that could not be removed.
        """
        left: set[UUID] = set()
        for copy in written.copies:
            id_ = str(copy.source.target_id)
            placed = {file.path for file in copy.files} | written.before
            gone = {path for path in placed - written.named if id_ in path}
            if copy.source.begun:
                for folder in self.layout.folders_of(copy.source.target_id, job.target_user_id):
                    gone |= self._named_by(id_, folder, copy.source.id) - written.named
            try:
                self.metrics.files.labels(how="removed").inc(remove_files(self.layout, (), id_, tuple(gone)))
            except FileProblemError as problem:
                log.warning("a file that no row names could not be removed", asset=copy.source.id, reason=str(problem))
                left.add(copy.source.id)
        return left

    def _named_by(self, id_: str, folder: Path, source_id: UUID) -> set[str]:
        """Return the files in a folder whose names begin with an id."""
        try:
            return {str(path) for path in folder.iterdir() if path.name.startswith(id_)}
        except (FileNotFoundError, NotADirectoryError):
            return set()
        except OSError as error:
            log.warning("a folder of copies could not be looked through", asset=source_id, reason=str(error))
            return set()

    def leave(self, links: OriginalLinks, copies: Sequence[WantedCopy]) -> None:
        """Remove the links that these copies had below a former prefix of their job."""
        for copy in copies:
            try:
                links.unlink_former(str(copy.source.copy_original), copy.path, str(copy.source.original))
            except FileProblemError as problem:
                log.warning("a link at a former path could not be removed", asset=copy.source.id, reason=str(problem))

    def take_back(self, links: OriginalLinks, copies: Sequence[WantedCopy]) -> None:
        """Remove the links of copies whose rows are gone."""
        for copy in copies:
            try:
                links.unlink(copy.path)
            except FileProblemError as problem:
                log.warning("a link of a deleted copy could not be removed", asset=copy.source.id, reason=str(problem))

    def _copy(self, job: Job, links: OriginalLinks, source: Source, files: Sequence[SourceFile]) -> WantedCopy:
        path = self.layout.copy_original(job, str(source.original))
        # Said before anything is made: a copy whose original cannot be linked is none.
        if not links.directory and not fits(path):
            raise FileProblemError(
                "too long",
                f"the path of its link would be too long: {len(path.encode())} bytes, and 4095 are allowed (255 for a "
                f"name). Shorten target_path_prefix, or the source's path {source.original!r}",
            )
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
        # Before its row names the new path: nothing would remember the former one. The source's is gone already. One
        # below another prefix, as another sidecar left it, is not this job's to clean.
        if source.copy_original not in {None, path} and links.holds(str(source.copy_original)):
            links.unlink(str(source.copy_original))
        return WantedCopy(source, path, modified_ns, encoded, placed)

    def _file(self, job: Job, source: Source, path: str, kind: str, *, shared: bool) -> str:
        target = self.layout.copy_file(path, source.id, source.target_id, job.target_user_id, kind)
        self._place(FileTask(path, target, shared=shared))
        return target

    def _place(self, task: FileTask) -> None:
        how = place(task, self.layout, self.mode)
        self.metrics.files.labels(how=how).inc()
        if task.shared and self.mode == "auto" and how in {"reflink", "copy"}:
            self.once.warning(
                "hardlinks cannot be made here: files of copies take space of their own. The thumbnails of all users "
                "must lie on one file system and in one mount",
                file=task.target,
                instead=how,
            )
