"""The rules of a copy's rows: which columns are not simply the source's, and why.

Every column that this Immich has is copied as it is, but for those named here. From a rule and the catalog one
statement is composed that makes the row where it is missing and mends it where it differs, and that touches
nothing else: a row without a difference gets no new ``updateId``.

In the expressions ``source`` is the source's row, ``batch`` the values of this batch, ``mine`` the copy's row
as it is and ``excluded`` the row as it should be.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import LiteralString

from psycopg import sql

from listener.database import identifiers, query
from listener.immich.catalog import Catalog

_COPY_ID: LiteralString = "pg_temp.copy_id(source.id, %(target_user)s)"
_AHEAD: LiteralString = "pg_temp.ahead()"
# Stamped by Immich's own triggers at every UPDATE; at INSERT the default is right.
_STAMPED = frozenset({"updatedAt"})


@dataclass(frozen=True, slots=True)
class Rule:
    """How the rows of one table are made: ``key`` is what makes a copy's row the same row again.

    values: column to expression, where it is not ``source.<column>``.
    own: columns that are the target user's from the first moment on; set at insert only.
    mend: column to expression for an existing row, where it is not ``excluded.<column>``.
    same: for rows with ids of their own, when ``mine`` is the copy of ``source``.
    """

    key: tuple[str, ...] = ("assetId",)
    values: Mapping[str, LiteralString] = field(default_factory=dict)
    own: frozenset[str] = frozenset()
    mend: Mapping[str, LiteralString] = field(default_factory=dict)
    same: LiteralString = "TRUE"


ASSET = Rule(
    key=("id",),
    values={
        "id": "batch.target_id",
        "ownerId": "%(target_user)s",
        "libraryId": "%(target_library)s",
        "originalPath": "batch.original",
        # Of the path: with the content's, the target's phone would not back up their own copy of the photo.
        "checksum": "batch.checksum",
        "checksumAlgorithm": "'sha1-path'",
        "isExternal": "true",
        "isOffline": "false",
        # What a library scan writes (up to 2.7).
        "deviceId": "'Library Import'",
        "deviceAssetId": 'source."originalFileName"',
        # As the file has it, or a library scan would process the copy anew.
        "fileModifiedAt": "batch.modified",
        "livePhotoVideoId": "coalesce(motion_batch.target_id, motion_copy.id)",
        # Groups of duplicates have no owner: the copy would join the source's.
        "duplicateId": "NULL",
        "stackId": "NULL",
        "isFavorite": "false",
        "visibility": "(CASE WHEN source.visibility = 'hidden' THEN 'hidden' ELSE 'timeline' END)::asset_visibility_enum",
        "deletedAt": "NULL",
        "status": "'active'",
        "sidecarPath": "NULL",
        "encodedVideoPath": "batch.encoded",
        "updateId": _AHEAD,
    },
    # isEdited is given with a new row and from then on kept by Immich's triggers on asset_edit.
    own=frozenset({"updateId", "duplicateId", "stackId", "isFavorite", "status", "isEdited"}),
    mend={
        "visibility": "CASE WHEN 'hidden' IN (excluded.visibility, mine.visibility) THEN excluded.visibility ELSE mine.visibility END",
        # A library scan took the copy offline: it comes back. What its user trashed stays in the trash.
        "isOffline": "mine.\"isOffline\" AND mine.status <> 'active'",
        "deletedAt": 'CASE WHEN mine."isOffline" AND mine.status = \'active\' THEN NULL ELSE mine."deletedAt" END',
    },
)

CHILDREN: Mapping[str, Rule] = {
    "asset_exif": Rule(
        values={
            "assetId": "batch.target_id",
            # Immich pairs live photos by it, per owner and across libraries.
            "livePhotoCID": "NULL",
            # The copy has no XMP to read its user's edits from: a refresh must leave these columns alone (2.4+).
            "lockedProperties": """CASE WHEN EXISTS (SELECT FROM asset_file AS sidecar
                                       WHERE sidecar."assetId" = source."assetId" AND sidecar.type = 'sidecar')
                 THEN ARRAY(SELECT unnest(source."lockedProperties")
                            UNION SELECT unnest('{dateTimeOriginal,description,latitude,longitude,rating,tags,timeZone}'::varchar[])
                            ORDER BY 1)
                 ELSE source."lockedProperties" END""",
            "updateId": _AHEAD,
        },
        own=frozenset({"updateId"}),
    ),
    **{
        table: Rule(values={"assetId": "batch.target_id"})
        for table in ("asset_job_status", "smart_search", "ocr_search", "asset_video", "asset_audio", "asset_keyframe")
    },
    **{
        table: Rule(
            key=("id",),
            values={"id": _COPY_ID, "assetId": "batch.target_id", "updateId": _AHEAD},
            own=frozenset({"updateId"}),
            same=f"{_COPY_ID} = mine.id",
        )
        for table in ("asset_ocr", "asset_edit")
    },
}

_FILE_VALUES: Mapping[str, LiteralString] = {
    "id": _COPY_ID,
    "assetId": "batch.target_id",
    "path": "batch.path",
    "updateId": _AHEAD,
}

FACE_SEARCH = Rule(key=("faceId",), values={"faceId": "map.target_face_id"})


def file_rule(catalog: Catalog) -> Rule:
    """Return the rule of asset_file: one row for each type; from 2.5 on edited files have rows of their own."""
    own = frozenset({"id", "updateId"})
    if catalog.has("asset_file", "isEdited"):
        return Rule(
            key=("assetId", "type", "isEdited"),
            values=_FILE_VALUES,
            own=own,
            same='source.type = mine.type AND source."isEdited" = mine."isEdited"',
        )
    return Rule(key=("assetId", "type"), values=_FILE_VALUES, own=own, same="source.type = mine.type")


@dataclass(frozen=True, slots=True)
class Parts:
    """The composed parts of an upsert: what goes between the words of a statement in ``sql/``."""

    columns: sql.Composed
    values: sql.Composed
    key: sql.Composed
    changes: sql.Composed
    differs: sql.Composed


def parts(catalog: Catalog, table: str, rule: Rule) -> Parts:
    """Compose the parts of one table's upsert from its rule and the columns that this Immich has."""
    names = [name for name in catalog.columns(table) if name not in _STAMPED]
    values = [sql.SQL(rule.values[name]) if name in rule.values else sql.Identifier("source", name) for name in names]
    mended = [name for name in names if name not in rule.key and name not in rule.own]
    wanted = [sql.SQL(rule.mend[name]) if name in rule.mend else sql.Identifier("excluded", name) for name in mended]
    changes = [
        sql.SQL("{} = {}").format(sql.Identifier(name), value) for name, value in zip(mended, wanted, strict=True)
    ]
    return Parts(
        columns=identifiers(names),
        values=sql.SQL(", ").join(values),
        key=identifiers(rule.key),
        changes=sql.SQL(", ").join(changes),
        differs=sql.SQL("ROW({}) IS DISTINCT FROM ROW({})").format(
            identifiers(mended, of="mine"), sql.SQL(", ").join(wanted)
        ),
    )


def child_statements(catalog: Catalog) -> tuple[tuple[str, sql.Composed, sql.Composed], ...]:
    """Return ``(table, delete, upsert)`` for each table of rows that belong to one asset and that this Immich has.

    Deleted first: a replaced edit has the number of the one before.
    """
    statements = []
    for table, rule in CHILDREN.items():
        if not catalog.has(table):
            continue
        made = parts(catalog, table, rule)
        statements.append(
            (
                table,
                query("rows", "delete_children").format(table=sql.Identifier(table), same=sql.SQL(rule.same)),
                query("rows", "upsert_children").format(
                    table=sql.Identifier(table),
                    columns=made.columns,
                    values=made.values,
                    key=made.key,
                    changes=made.changes,
                    differs=made.differs,
                ),
            )
        )
    return tuple(statements)
