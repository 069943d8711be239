"""Many plain finished photos at once, as Immich leaves them: rows by the set, and small files.

For tests and benchmarks that need a number of photos rather than the events of a recording.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import LiteralString
from uuid import UUID, uuid4

import psycopg
from psycopg import sql

from tests.conftest import ImmichDatabase, Roots
from tests.house import House, add_library, add_user, share

CREATED = "2024-05-06T10:00:00+00:00"
MODIFIED = "2024-05-06T07:08:09.123+00:00"
MODIFIED_NS = 1_714_979_289_123_000_000

# What each column of an asset gets; those that a release does not have are left out. Immich writes an external asset
# when its library is scanned, an upload with the checksum of its content.
_ASSET: Mapping[str, LiteralString] = {
    "id": "id",
    "ownerId": "%(owner)s",
    "libraryId": "%(library)s",
    "isExternal": "%(library)s::uuid IS NOT NULL",
    "type": "'IMAGE'",
    "originalPath": "path",
    "originalFileName": "regexp_replace(path, '.*/', '')",
    "checksum": "checksum",
    "checksumAlgorithm": (
        "(CASE WHEN %(library)s::uuid IS NULL THEN 'sha1' ELSE 'sha1-path' END)::asset_checksum_algorithm_enum"
    ),
    "fileCreatedAt": "%(modified)s",
    "fileModifiedAt": "%(modified)s",
    "localDateTime": "%(modified)s",
    "createdAt": "%(created)s",
    "thumbhash": "%(thumbhash)s",
    "width": "4000",
    "height": "3000",
    # Immich 2.0 has no default for these.
    "deviceAssetId": "id",
    "deviceId": "'photos'",
}
_ASSETS = """
INSERT INTO asset ({columns})
SELECT {values} FROM unnest(%(ids)s::uuid[], %(paths)s::text[], %(checksums)s::bytea[]) AS photo(id, path, checksum)
"""
_DONE: Mapping[str, LiteralString] = {
    "assetId": "id",
    "metadataExtractedAt": "%(created)s",
    "facesRecognizedAt": "%(created)s",
    "duplicatesDetectedAt": "%(created)s",
    "ocrAt": "%(created)s",
}
_STATUS = """
INSERT INTO asset_job_status ({columns})
SELECT {values} FROM unnest(%(ids)s::uuid[]) AS photo(id)
"""
# The rows that Immich's jobs add, each a statement; the status of the jobs follows, which makes the photos ready.
_CHILDREN = (
    """
    INSERT INTO asset_exif ("assetId", make, model, description, "exifImageWidth", "exifImageHeight")
    SELECT id, 'Leica', 'Q3', 'photo ' || number, 4000, 3000
    FROM unnest(%(ids)s::uuid[]) WITH ORDINALITY AS photo(id, number)
    """,
    """
    INSERT INTO asset_file ("assetId", type, path)
    SELECT id, kind, path
    FROM unnest(%(file_ids)s::uuid[], %(kinds)s::text[], %(file_paths)s::text[]) AS file(id, kind, path)
    """,
    """
    INSERT INTO smart_search ("assetId", embedding)
    SELECT id, array_fill((number %% 7 + 1)::real / 8, ARRAY[512])::vector
    FROM unnest(%(ids)s::uuid[]) WITH ORDINALITY AS photo(id, number)
    """,
)


@dataclass(frozen=True, slots=True)
class Photo:
    """A photo of the source user: its original, its preview and its thumbnail."""

    id: UUID
    original: Path
    preview: Path
    thumbnail: Path


def add_photos(
    conninfo: str,
    roots: Roots,
    owner: UUID,
    count: int,
    *,
    library: UUID | None = None,
    folder: Path | None = None,
    start: int = 0,
) -> list[Photo]:
    """Add ``count`` finished photos with all their files, in one transaction.

    Photos of an external ``library`` lie in ``folder``; without a library they are uploads, below the media
    root. ``start`` is the number in the first photo's name.
    """
    photos = plan_photos(roots, owner, count, folder=folder, start=start)
    for photo in photos:
        write_files(photo)
    add_rows(conninfo, owner, photos, library=library)
    return photos


def plan_photos(roots: Roots, owner: UUID, count: int, *, folder: Path | None = None, start: int = 0) -> list[Photo]:
    """Return photos that are not there yet, to be given files and rows by `write_files` and `add_rows`."""
    return [_photo(roots, owner, number, folder) for number in range(start, start + count)]


def write_files(photo: Photo) -> None:
    """Write the files of one photo; each has a content of its own.

    A listener may be trying at this moment: each is there whole or not at all, the original last and with its time.
    """
    for path in (photo.preview, photo.thumbnail, photo.original):
        content = f"{path}\n".encode()
        # The copy may share the inode of a generated file already.
        if path != photo.original and path.is_file() and path.read_bytes() == content:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f"{photo.id.hex}.new")
        new.write_bytes(content)
        if path == photo.original:
            os.utime(new, ns=(MODIFIED_NS, MODIFIED_NS))
        new.replace(path)


def add_rows(conninfo: str, owner: UUID, photos: Sequence[Photo], *, library: UUID | None = None) -> None:
    """Insert the rows of these photos, a statement for each table, in one transaction."""
    with psycopg.connect(conninfo) as connection:
        insert_rows(connection, owner, photos, library=library)


def insert_rows(
    connection: psycopg.Connection, owner: UUID, photos: Sequence[Photo], *, library: UUID | None = None
) -> None:
    """Insert the rows of these photos in the transaction of a connection."""
    paths = [str(photo.original) for photo in photos]
    params = {
        "owner": owner,
        "library": library,
        "ids": [photo.id for photo in photos],
        "paths": paths,
        "checksums": [hashlib.sha1(f"path:{path}".encode(), usedforsecurity=False).digest() for path in paths],
        "modified": MODIFIED,
        "created": CREATED,
        "thumbhash": b"\x01\x02",
        "file_ids": [photo.id for photo in photos for _ in range(2)],
        "kinds": [kind for _ in photos for kind in ("preview", "thumbnail")],
        "file_paths": [str(path) for photo in photos for path in (photo.preview, photo.thumbnail)],
    }
    connection.execute(_fitting(connection, "asset", _ASSETS, _ASSET), params)
    for statement in _CHILDREN:
        connection.execute(statement.encode(), params)
    connection.execute(_fitting(connection, "asset_job_status", _STATUS, _DONE), params)


def _fitting(
    connection: psycopg.Connection, table: str, statement: LiteralString, columns: Mapping[str, LiteralString]
) -> sql.Composed:
    """Return the statement with those of the columns that this release's table has."""
    found = connection.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped", [table]
    )
    there = {name for (name,) in found.fetchall()}
    used = {column: value for column, value in columns.items() if column in there}
    return sql.SQL(statement).format(
        columns=sql.SQL(", ").join(map(sql.Identifier, used)),
        values=sql.SQL(", ").join(sql.SQL(value) for value in used.values()),
    )


def _photo(roots: Roots, owner: UUID, number: int, folder: Path | None) -> Photo:
    id_ = uuid4()
    name = f"IMG_{number:06}.jpg"
    place = folder or roots.media / "upload" / str(owner) / str(id_)[:2] / str(id_)[2:4]
    generated = roots.media / "thumbs" / str(owner) / str(id_)[:2] / str(id_)[2:4]
    return Photo(id_, place / name, generated / f"{id_}_preview.jpeg", generated / f"{id_}_thumbnail.webp")


@dataclass(frozen=True, slots=True)
class PhotoHouse:
    """A house whose source user, carol, has an external library and whose photos are made by the number."""

    house: House
    library: UUID
    folder: Path

    def add(self, count: int, *, start: int = 0) -> list[Photo]:
        """Add finished photos to carol's library."""
        return add_photos(
            self.house.immich.conninfo,
            self.house.roots,
            self.house.source,
            count,
            library=self.library,
            folder=self.folder,
            start=start,
        )

    def upload(self, count: int, *, start: int = 0) -> list[Photo]:
        """Add finished uploads of carol."""
        return add_photos(self.house.immich.conninfo, self.house.roots, self.house.source, count, start=start)

    def plan(self, count: int, *, start: int = 0) -> list[Photo]:
        """Return photos of carol's library that are to be added file by file."""
        return plan_photos(self.house.roots, self.house.source, count, folder=self.folder, start=start)

    def rows(self, photos: Sequence[Photo]) -> None:
        """Insert the rows of photos of carol's library."""
        add_rows(self.house.immich.conninfo, self.house.source, photos, library=self.library)

    def link(self, photo: Photo) -> Path:
        """Return where the link of the copy's original is to be."""
        job = self.house.jobs[0]
        return Path(job.target_path_prefix + str(photo.original).removeprefix(job.source_path_prefix))

    def copies(self) -> int:
        """Return how many assets the target user has."""
        ((count,),) = self.house.query('SELECT count(*) FROM asset WHERE "ownerId" = %s', self.house.target)
        return int(str(count))

    def copied(self, photo: Photo) -> bool:
        """Tell whether there is a copy of this photo."""
        ((found,),) = self.house.query(
            "SELECT EXISTS (SELECT FROM public._face_sync_asset_map AS map JOIN asset ON asset.id = map.target_asset_id"
            " WHERE map.source_asset_id = %s)",
            photo.id,
        )
        return bool(found)

    def failures(self) -> dict[UUID, tuple[str, int]]:
        """Return the recorded failures: source id to reason and number of tries."""
        rows = self.house.query("SELECT source_asset_id, reason, attempts FROM public._face_sync_failure")
        return {UUID(str(id_)): (str(reason), int(str(attempts))) for id_, reason, attempts in rows}

    def with_settings(self, **extra: str) -> "PhotoHouse":
        """Return the same house with other settings."""
        return replace(self, house=replace(self.house, extra={**self.house.extra, **extra}))


def photo_house(
    immich: ImmichDatabase, roots: Roots, folder: Path, extra: Mapping[str, str] | None = None
) -> PhotoHouse:
    """Make a house with carol, who has a library and no photo yet, and bob, with whom she shares."""
    photos = roots.external / "carol" / "photos"
    photos.mkdir(parents=True)
    carol = add_user(immich.conninfo, immich.release, "carol")
    library = add_library(immich.conninfo, carol, str(photos))
    house = share(immich, roots, carol, folder, photos=str(photos))
    return PhotoHouse(replace(house, extra=extra or {}), library, photos)


def evented_house(immich: ImmichDatabase, roots: Roots, folder: Path, **extra: str) -> PhotoHouse:
    """Return carol's house with triggers; only notifications and back-off bring a key, the sweep is an hour away."""
    made = photo_house(immich, roots, folder, {"RECONCILE_INTERVAL_SECONDS": "3600", **extra})
    made.house.install_triggers()
    return made
