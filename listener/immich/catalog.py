"""What this Immich's tables look like, read from PostgreSQL's catalog at every connect.

Nothing about a release is assumed: a column that this server has is copied, one that it has not is not named.
The people model is found the same way (Immich 3.2 replaced ``person.id`` by person groups).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import psycopg

from listener.database import Connection, fetch, query
from listener.faults import EveryonesError

# Tables whose rows belong to one asset and that a copy gets, in the order of writing.
COPIED_TABLES = (
    "asset_exif",
    "asset_job_status",
    "smart_search",
    "asset_ocr",
    "ocr_search",
    "asset_video",
    "asset_audio",
    "asset_keyframe",
    "asset_edit",
)
# Tables that hang on asset, asset_face or person and that a copy gets by other rules, or rightly never gets.
_RULED_TABLES = frozenset(
    {"asset", "asset_file", "asset_face", "face_search", "person", "album_asset", "tag_asset", "stack"}
)
_IGNORED_TABLES = frozenset(
    {
        "activity",
        "album",
        "album_asset_audit",
        "asset_metadata",
        "integrity_report",
        "memory_asset",
        "person_user",
        "shared_link_asset",
        "video_stream_session",
    }
)
# Tables and columns without which a database is not an Immich 2.0 or later.
_REQUIRED = {
    "user": ("id", "deletedAt"),
    "library": ("id", "ownerId", "importPaths"),
    "asset": ("id", "ownerId", "libraryId", "originalPath", "checksum", "visibility", "updateId", "livePhotoVideoId"),
    "asset_exif": ("assetId",),
    "asset_file": ("assetId", "type", "path"),
    "asset_job_status": ("assetId", "metadataExtractedAt", "facesRecognizedAt"),
    "asset_face": ("id", "assetId", "updateId"),
    "person": ("ownerId", "thumbnailPath"),
    "smart_search": ("assetId",),
    "face_search": ("faceId",),
}
# Whose rows go with their asset, by a foreign key. A backup that is being loaded gets its keys last, and what is
# deleted before them leaves rows behind on which the keys then fail.
_TIED = frozenset({"asset_exif", "asset_face", "asset_file", "asset_job_status", "smart_search", "tag_asset"})

MAYBE_CHANGED = (
    psycopg.ProgrammingError,
    psycopg.NotSupportedError,
    psycopg.errors.NotNullViolation,
    psycopg.errors.ForeignKeyViolation,
    psycopg.errors.InvalidTextRepresentation,
)
"""What statements fail with when tables are no longer what they were composed for."""


class NotImmichError(Exception):
    """The database is not Immich's, or older than 2.0. The text says what to do."""


class ChangedError(EveryonesError):
    """Immich's database is no longer what it was when the catalog was read; the text says in what."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its type as PostgreSQL prints it, and whether an INSERT must give it."""

    name: str
    type: str
    required: bool


@dataclass(frozen=True, slots=True)
class Catalog:
    """The tables of schema ``public``: ``{table: {column: Column}}``, and what hangs on ``asset``.

    fingerprint: of all of it; it also differs where a table was dropped and made again.
    """

    tables: Mapping[str, Mapping[str, Column]]
    hanging: frozenset[str]
    fingerprint: str = ""

    def has(self, table: str, column: str | None = None) -> bool:
        """Tell whether this Immich has the table, or the table's column."""
        return table in self.tables and (column is None or column in self.tables[table])

    def columns(self, table: str) -> tuple[str, ...]:
        """Return the table's column names in table order; empty if there is no such table."""
        return tuple(self.tables.get(table, ()))

    @property
    def person_groups(self) -> bool:
        """Immich 3.2+: a face belongs to a person group, a person is one user's view of it."""
        return self.has("asset_face", "personGroupId")

    def warnings(self) -> tuple[str, ...]:
        """Return one line for each table of this Immich that hangs on asset and that we know nothing of."""
        known = {*COPIED_TABLES, *_RULED_TABLES, *_IGNORED_TABLES}
        return tuple(
            f"this Immich has a table {table!r} that belongs to assets and that this version does not know: "
            "copies have no rows there"
            for table in sorted(self.hanging - known)
        )


async def read(connection: Connection) -> Catalog:
    """Read the catalog. Raises NotImmichError if this is no Immich database of 2.0 or later."""
    # First of all: what changes while the rest is read then shows as a change.
    ((fingerprint,),) = await fetch(connection, query("catalog", "fingerprint"), {})
    cursor = await connection.execute(query("catalog", "columns"))
    tables: dict[str, dict[str, Column]] = {}
    for table, column, kind, required in await cursor.fetchall():
        tables.setdefault(table, {})[column] = Column(column, kind, required)
    _check(tables)
    cursor = await connection.execute(query("catalog", "tables_hanging_on_asset"))
    hanging = frozenset(row[0] for row in await cursor.fetchall())
    if not hanging >= _TIED:
        raise NotImmichError(
            f"the foreign keys to asset of {', '.join(sorted(_TIED - hanging))} are missing: a backup is being "
            "restored, or was restored in part. Wait until it is done, or restore it anew"
        )
    return Catalog(tables, hanging, fingerprint)


async def refuse_changed(connection: Connection, catalog: Catalog) -> None:
    """Raise ChangedError if the tables are no longer those of this catalog."""
    ((fingerprint,),) = await fetch(connection, query("catalog", "fingerprint"), {})
    if fingerprint != catalog.fingerprint:
        raise ChangedError("Immich's tables have changed")


def _check(tables: Mapping[str, Mapping[str, Column]]) -> None:
    if "assets" in tables and "asset" not in tables:
        raise NotImmichError("this Immich is older than 2.0: upgrade Immich to 2.0 or later first")
    missing = [
        f"{table}.{column}"
        for table, columns in _REQUIRED.items()
        for column in columns
        if column not in tables.get(table, ())
    ]
    if missing:
        raise NotImmichError(
            "this database is not that of an Immich 2.0 or later (it lacks "
            f"{', '.join(missing[:5])}{' …' if len(missing) > 5 else ''}): "
            "check DB_HOSTNAME and DB_DATABASE_NAME, or DB_URL"
        )
