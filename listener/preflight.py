"""Looks at a database before anything is written there: is it Immich's, and do the jobs fit it?

Also what else is to be known before a start: whether originals are in danger, and which copies belong to no job.
Nothing here writes.
"""

import asyncio
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from listener import database, roles, threads
from listener.database import Connection, fetch, query, uuids
from listener.faults import is_everyones, words
from listener.immich import catalog
from listener.immich.layout import Layout, empty
from listener.immich.libraries import Library, covering, exclusion
from listener.settings import Job
from listener.sync import brake
from listener.sync.files import OriginalLinks

# Exclusion patterns that match every path: globs up to Immich 3.1, regular expressions from 3.2.
_EVERYTHING = frozenset({"**/*", "**", "*", ".*", "^.*$", ".+"})


# What connecting refuses and what is found here are the same to whoever catches it.
RefusedError = database.RefusedError


@dataclass(frozen=True, slots=True)
class Leftover:
    """Copies that belong to no job of the configuration. ``folder`` is the deepest that holds them all."""

    source: str
    target: str
    folder: str
    copies: int

    def __str__(self) -> str:
        """Return the words for people."""
        return (
            f"{self.copies} copies of {self.source}'s photos for {self.target} under {self.folder} belong to no job of "
            "the configuration: they are kept. To remove them, add their job again with remove_copies: true"
        )


Way = Literal["links", "directory", "elsewhere"]
"""How a job's copies lead to originals: each by a symlink of its own, all through a symlinked directory, or
through one that leads elsewhere than to the source's files."""


Problems = Mapping[str, tuple[str, ...]]
"""Why jobs cannot be served: by the job's name, one line for each reason. A job that can be is not in it."""


async def check(connection: Connection) -> catalog.Catalog:
    """Return the catalog of an Immich that the role in use may work with. Raises RefusedError."""
    found = await check_immich(connection)
    if missing := await roles.lacking(connection, found):
        raise RefusedError([_lacking(connection.info.user, missing)])
    return found


def _lacking(role: str, missing: Sequence[str]) -> str:
    some = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
    return (
        f"the database role {role!r} lacks rights that the listener needs here ({some}): run the SQL that "
        f"`listener role print --name {role}` writes, as the role that Immich uses"
    )


async def check_immich(connection: Connection) -> catalog.Catalog:
    """Return the catalog of an Immich 2.0 or later. Raises RefusedError."""
    try:
        return await catalog.read(connection)
    except catalog.NotImmichError as error:
        raise RefusedError([str(error)]) from error


async def unfit(
    connection: Connection,
    found: catalog.Catalog,
    jobs: Sequence[Job],
    layout: Layout,
    *,
    was: Problems | None = None,
) -> Problems:
    """Return the jobs that cannot be served as users, libraries and folders are now. Raises psycopg.Error.

    was: what was found before. Whose target libraries' exclusion patterns are asked for is in it; without it, all are.
    """
    by_name = {job.name: job for job in jobs}
    params = {**_users_of(jobs), "names": list(by_name), "libraries": uuids(job.target_library_id for job in jobs)}
    rows = await fetch(connection, query("preflight", "jobs"), params)
    named = [Library(*row) for row in await fetch(connection, query("preflight", "libraries"), {})]
    libraries = await _looked_up(named, str(layout.external_root))
    problems = {}
    for name, source_known, target_known, library_owner, exclusions in rows:
        job = by_name[name]
        lines = []
        if not source_known and not await _has_copies(connection, found, job):
            lines.append(f"source_user_id {job.source_user_id} is no user of this Immich: correct it")
        if not target_known:
            lines.append(f"target_user_id {job.target_user_id} is no user of this Immich: correct it")
        if library_owner is None:
            lines.append(f"target_library_id {job.target_library_id} is no library of this Immich: correct it")
        elif library_owner != job.target_user_id:
            lines.append(
                f"the library {job.target_library_id} is not the target user's: "
                "make an external library whose owner is the target user, and name that"
            )
        elif was is None or name in was:
            lines.extend(_exclusion_problems(exclusions))
        before = None if was is None else [line.removeprefix(f"job {name!r}: ") for line in was.get(name, ())]
        folders = await _look_at_folders(job, found, layout, libraries, before)
        lines.extend(line for line in folders if line not in lines)
        unmatched = (
            f"source_path_prefix {job.source_path_prefix!r} matches no photo of the source user, while there are "
            f"copies: correct it. If all of them are to go: {brake.command(job)}"
        )
        # Without other settings a prefix that matches does not cease to: asked often, that would cost much.
        asked = source_known and found.has("_face_sync_asset_map") and (before is None or unmatched in before)
        if asked and await brake.unmatched(connection, job):
            # It may be among what stays while a folder does not answer.
            lines = list(dict.fromkeys([*lines, unmatched]))
        if lines:
            problems[name] = tuple(f"job {name!r}: {line}" for line in lines)
    return problems


async def _looked_up(libraries: Sequence[Library], root: str) -> list[Library]:
    """Look up where import paths below ``root`` lead; one that does not answer counts as the folder that it names."""

    async def leads(path: str) -> str:
        try:
            with threads.lane_of(path).used():
                return await threads.run(os.path.realpath, path)
        except threads.SilentFolderError:
            return path

    named = {os.path.normpath(path) for library in libraries for path in library.imports}  # noqa: ASYNC240 - of text
    below = sorted(path for path in named if path == root or path.startswith(root.rstrip("/") + "/"))
    found = dict(zip(below, await asyncio.gather(*map(leads, below)), strict=True))
    return [replace(library, leads=found) for library in libraries]


async def _look_at_folders(
    job: Job,
    found: catalog.Catalog,
    layout: Layout,
    libraries: Sequence[Library],
    before: Sequence[str] | None,
) -> Sequence[str]:
    """Return what is wrong with a job's folders. ``before``: what it was; it stays while a folder does not answer."""
    try:
        with layout.lane(job).used():
            return await threads.run(lambda: list(_folder_problems(job, found, layout, libraries)))
    except threads.SilentFolderError as error:
        return [f"{error}. It is tried again by itself"] if before is None else before
    except Exception as error:
        if is_everyones(error):
            raise
        return [f"its folders cannot be looked at: {words(error)}"]


async def look_again(
    connection: Connection, found: catalog.Catalog, jobs: Sequence[Job], layout: Layout, was: Problems
) -> None:
    """Raise ChangedError if other jobs can be served now than when they were judged. Raises psycopg.Error.

    An exclusion pattern that comes to the library of a job that is served takes its copies offline, which is mended: it
    is no reason to stop now.
    """
    now = await unfit(connection, found, jobs, layout, was=was)
    if now != was:
        names = sorted(name for name in {*now, *was} if now.get(name) != was.get(name))
        raise catalog.ChangedError(
            f"users, libraries or folders of {', '.join(f'job {name!r}' for name in names)} are not as they were"
        )


async def refuse_if_nothing_is_left(
    connection: Connection, found: catalog.Catalog, jobs: Sequence[Job], problems: Problems
) -> None:
    """Raise RefusedError where no job can be served, and none has copies that may have to go. Raises psycopg.Error."""
    if any(job.name not in problems for job in jobs):
        return
    if found.has("_face_sync_asset_map"):
        rows = await fetch(connection, query("preflight", "copies_between"), _users_of(jobs))
        if rows[0][0]:
            return
    raise RefusedError([line for job in jobs for line in problems[job.name]])


def _users_of(jobs: Sequence[Job]) -> dict[str, str]:
    return {
        "sources": uuids(job.source_user_id for job in jobs),
        "targets": uuids(job.target_user_id for job in jobs),
    }


async def _has_copies(connection: Connection, found: catalog.Catalog, job: Job) -> bool:
    """Tell whether there are copies of this source user's photos: then they were a user of this Immich once."""
    if not found.has("_face_sync_asset_map"):
        return False
    rows = await fetch(connection, query("preflight", "copies_of"), {"source_user": job.source_user_id})
    return bool(rows[0][0])


def _folder_problems(job: Job, found: catalog.Catalog, layout: Layout, libraries: Sequence[Library]) -> Iterator[str]:
    if not layout.holds(job.source_path_prefix):
        mounts = ", ".join(str(root) for root in layout.external_roots)
        yield (
            f"source_path_prefix {job.source_path_prefix!r} lies under none of the mounts that the listener knows "
            f"({mounts}): mount it at the same path as in Immich's server, and name that in EXTERNAL_LIBRARY_MOUNTS"
        )
    where = f"target_path_prefix {job.target_path_prefix!r} leads through a symlink"
    match way(job, layout):
        case "elsewhere":
            yield f"{where} to another place than source_path_prefix: use a directory of its own"
        case "directory" if not keeps_offline(found) and not job.accept_risk:
            danger = "deleting a copy would delete the source's original, and nothing can keep this Immich from it"
            todo = "Use a directory of its own, or upgrade Immich to 2.4 or later (accept_risk: true goes on anyway)"
            yield f"{where}: {danger}. {todo}"
    # A job that removes its copies is a cure.
    if not job.accept_risk and not job.remove_copies:
        for words in covered(job, found, layout, libraries):
            yield f"{words} (accept_risk: true goes on anyway)"


async def covered_by(connection: Connection, found: catalog.Catalog, job: Job, layout: Layout) -> list[str]:
    """Return in words which libraries other than the job's own take in its copies. Raises psycopg.Error."""
    libraries = [Library(*row) for row in await fetch(connection, query("preflight", "libraries"), {})]
    return await threads.run(lambda: list(covered(job, found, layout, libraries)))


def covered(job: Job, found: catalog.Catalog, layout: Layout, libraries: Sequence[Library]) -> Iterator[str]:
    """Yield in words which of these libraries, but the job's own, take in its copies as photos of their owners'."""
    for library in libraries:
        if library.id == job.target_library_id:
            continue
        root = str(layout.external_of(job.target_path_prefix).path)
        path = covering(library, job.target_path_prefix, root, expressions=found.person_groups)
        if path is not None:
            pattern = exclusion(job.target_path_prefix, expressions=found.person_groups)
            yield (
                f"the library {library.name!r} of {library.owner} has the import path {path!r}, and target_path_prefix "
                f"{job.target_path_prefix!r} is in its reach: a scan takes all copies in as photos of {library.owner}. "
                "In Immich (Administration, External Libraries), give it a narrower import path or the exclusion "
                f"pattern {pattern!r}; or take a target_path_prefix that is out of its reach"
            )


def way(job: Job, layout: Layout) -> Way:
    """Tell how the copies of a job lead to their originals, as the folders are now."""
    if not OriginalLinks(layout, job.target_path_prefix).directory:
        return "links"
    # A folder within the source's would give every copy the path of another photo, or of none.
    same = layout.leads_to(job.target_path_prefix) == layout.leads_to(job.source_path_prefix)
    return "directory" if same else "elsewhere"


def keeps_offline(found: catalog.Catalog) -> bool:
    """Tell whether this Immich leaves the file of an offline asset alone: 2.4 and later, known by a column."""
    return found.has("asset_exif", "lockedProperties")


async def guard_needed(
    connection: Connection, found: catalog.Catalog, jobs: Sequence[Job], layout: Layout
) -> bool | None:
    """Tell whether originals need the guard: of a job, or of copies whose job is gone. None: cannot be seen.

    Before Immich 2.4 the guard is of no use.
    """
    if not keeps_offline(found):
        return False
    roots = {layout.external_of(job.target_path_prefix).path for job in jobs}
    if any([await threads.run(empty, root) for root in roots]):
        return None  # not mounted: a guard that is there stays
    return any(way(job, layout) == "directory" for job in jobs) or await endangered(connection, layout) > 0


def unguarded(found: catalog.Catalog, jobs: Sequence[Job], layout: Layout, *, guarded: bool) -> Problems:
    """Return the jobs that need the guard while it is not there."""
    if guarded or not keeps_offline(found):
        return {}
    return {
        job.name: (
            (
                f"job {job.name!r}: target_path_prefix {job.target_path_prefix!r} leads through a symlink, and the "
                "trigger that keeps Immich from deleting the source's originals is not there, or is an older one. "
                "Run: listener triggers install"
            ),
        )
        for job in jobs
        if way(job, layout) == "directory"
    }


async def endangered(connection: Connection, layout: Layout) -> int:
    """Return how many copies lead to their originals through a symlinked directory."""
    if not await _any_tables(connection):
        return 0
    folders = await fetch(connection, query("preflight", "folders_of_copies"), {})
    return await threads.run(_through_directories, dict(folders), layout)


def _through_directories(copies: Mapping[str, int], layout: Layout) -> int:
    """Return how many copies are in folders below the external roots that have a symlink on their way."""
    through = 0
    for folder, count in copies.items():
        root = str(layout.external_of(folder).path)
        own = os.path.realpath(root) + folder.removeprefix(root)
        through += count if folder.startswith(root + "/") and os.path.realpath(folder) != own else 0
    return through


async def leftovers(connection: Connection, jobs: Sequence[Job]) -> tuple[Leftover, ...]:
    """Return the copies that belong to no job, by users and library."""
    if not await _any_tables(connection):
        return ()
    rows = await fetch(
        connection,
        query("preflight", "leftovers"),
        {
            "sources": uuids(job.source_user_id for job in jobs),
            "targets": uuids(job.target_user_id for job in jobs),
            "prefixes": [job.target_path_prefix for job in jobs],
        },
    )
    # What the first and the last path in byte order share, all of them share.
    return tuple(
        Leftover(source, target, os.path.commonpath([Path(first).parent, Path(last).parent]), copies)
        for source, target, first, last, copies in rows
    )


async def _any_tables(connection: Connection) -> bool:
    rows = await fetch(connection, query("preflight", "any_tables"), {})
    return bool(rows[0][0])


def _exclusion_problems(exclusions: Sequence[str]) -> list[str]:
    return [
        f"the target library's exclusion pattern {pattern!r} takes every copy offline at each "
        "library scan: remove the pattern in Immich (Administration, External Libraries)"
        for pattern in exclusions
        if pattern in _EVERYTHING
    ]
