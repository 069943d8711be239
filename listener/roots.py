"""Are our roots those that Immich means? Its media location is compared with ours, and so are the paths in its rows.

A listener that looks at another place than Immich would read "nothing is where it should be" as "everything has gone".
Immich also moves its media location: it rewrites all paths, a table at a time, and then notes where it is. Whatever
is not of one mind pauses the jobs (`listener.mounts`), and nothing goes until it is.
"""

import contextlib
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg

from listener.database import Connection, fetch, query
from listener.immich.layout import Layout
from listener.settings import Job, Settings

# Not Immich's database, or not yet; or a role that has lost a right. Preflight has the words for it.
_NOT_THERE = (
    psycopg.errors.UndefinedTable,
    psycopg.errors.UndefinedColumn,
    psycopg.errors.UndefinedFunction,
    psycopg.errors.InvalidSchemaName,
    psycopg.errors.InsufficientPrivilege,
)


class MediaMovedError(Exception):
    """Immich's media location is another one than when we began: everything is to be looked at anew."""


@dataclass(frozen=True, slots=True)
class Outside:
    """Uploads of a job's source user that lie outside the media root, and one of them."""

    job: str
    photos: int
    example: str
    root: Path

    def __str__(self) -> str:
        """Return the words for people."""
        return (
            f"{self.photos} uploads lie outside Immich's media root {self.root}, such as {self.example!r}: they are "
            "not shared, and copies of them stay as they are. Move them in Immich, or correct their paths"
        )


async def as_immich_says(connection: Connection, settings: Settings) -> Settings:
    """Return the settings with Immich's own media root, where UPLOAD_LOCATION_MOUNT is not set. Raises psycopg.Error.

    That is its media location; else the folder in which its rows have their files; else what was there before.
    """
    if not settings.follows_immich:
        return settings
    location = None
    with contextlib.suppress(*_NOT_THERE):
        location = await media_location(connection)
        if location is None:
            rows = await fetch(connection, query("roots", "root_of_files"), {})
            location = plain(rows[0][0]) if rows else None
    if location is None or not _usable(location):
        return settings
    jobs = tuple(replace(job, source_path_prefix=location) if job.kind == "uploads" else job for job in settings.jobs)
    return replace(settings, media_root=Path(location), jobs=jobs)


async def media_location(connection: Connection) -> str | None:
    """Return where Immich says that its media are; None where it does not say. Raises psycopg.Error."""
    ((location,),) = await fetch(connection, query("roots", "location"), {})
    return plain(location) if location else None


async def disagreement(connection: Connection, job: Job, layout: Layout, *, follows: bool = False) -> str | None:
    """Return in words how Immich's media root is another one than ours; None where it is not. Raises psycopg.Error.

    follows: our root is what Immich said at first. Raises MediaMovedError where it says another one now.
    """
    root = str(layout.media_root)
    location = await media_location(connection)
    if location is not None and location != root:
        if follows and _usable(location):
            raise MediaMovedError(f"Immich's media location is {location!r} now, and was {root!r}")
        if not _usable(location):
            return f"Immich's media location is {location!r}, which is no absolute path: correct it in Immich"
        return (
            f"Immich's media location is {location!r}, and UPLOAD_LOCATION_MOUNT is {root!r}: mount Immich's media "
            f"folder at {location} here, too, and set UPLOAD_LOCATION_MOUNT={location}"
        )
    params = {"source_user": job.source_user_id, "uploads": job.kind == "uploads", "folder": root}
    for what, example in await fetch(connection, query("roots", "elsewhere"), params):
        return (
            f"Immich's rows have the {what} of the source user outside {root!r}, such as {example!r}: Immich is "
            "just moving them, or its media location is another folder. Mount that at the same path as in Immich's "
            "server, and set UPLOAD_LOCATION_MOUNT to it"
        )
    if f"{job.target_path_prefix}/".startswith(f"{root}/"):
        return (
            f"target_path_prefix {job.target_path_prefix!r} lies in Immich's media root {root!r}, whose integrity "
            "check follows symlinks: set it to a folder outside"
        )
    return None


async def outside(connection: Connection, jobs: Sequence[Job], layout: Layout) -> list[Outside]:
    """Return which of these jobs have uploads outside the media root. Raises psycopg.Error."""
    found = []
    for job in jobs:
        if job.kind == "uploads":
            params = {"source_user": job.source_user_id, "folder": str(layout.media_root)}
            ((photos, example),) = await fetch(connection, query("roots", "outside"), params)
            if photos:
                found.append(Outside(job.name, photos, example, layout.media_root))
    return found


def plain(path: str) -> str:
    """Return a path without slashes and dots that mean nothing."""
    return posixpath.normpath("/" + path.lstrip("/")) if path.startswith("/") else path


def _usable(location: str) -> bool:
    return location.startswith("/") and location != "/"
