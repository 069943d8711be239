"""The rules of a copy's rows: which columns are not simply the source's, and why.

Every column that this Immich has is copied as it is, but for those named here. From a rule and the catalog one
statement is composed that makes the row where it is missing and mends it where it differs, and that touches
nothing else: a row without a difference gets no new ``updateId``.

In the expressions ``source`` is the source's row, ``batch`` the values of this batch, ``mine`` the copy's row
as it is and ``excluded`` the row as it should be.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import LiteralString

from psycopg import sql

from listener.database import identifiers, query, statement
from listener.immich.catalog import Catalog

_COPY_ID: LiteralString = "pg_temp.copy_id(source.id, %(target_user)s)"
_AHEAD: LiteralString = "pg_temp.ahead()"
_OURS_TO_EDIT: LiteralString = "NOT batch.target_id = ANY(%(own_edits)s::uuid[])"
# Columns of asset_exif that a user can change and that Immich then locks (2.4+).
LOCKABLE = ("dateTimeOriginal", "description", "latitude", "longitude", "rating", "tags", "timeZone")
# Columns that follow from those: the place's names from its coordinates.
DERIVED: Mapping[str, str] = {"city": "latitude", "state": "latitude", "country": "latitude"}
# Stamped by Immich's own triggers at every UPDATE; at INSERT the default is right.
_STAMPED = frozenset({"updatedAt"})


# Its user had thrown it away before it was parked.
_TRASHED: LiteralString = """(SELECT map.parked->>'status' = 'trashed' FROM public._face_sync_asset_map AS map
                              WHERE map.target_asset_id = mine.id)"""


@dataclass(frozen=True, slots=True)
class Rule:
    """How the rows of one table are made: ``key`` is what makes a copy's row the same row again.

    values: column to expression, where it is not ``source.<column>``.
    own: columns that are the target user's from the first moment on; set at insert only.
    mend: column to expression for an existing row, where it is not ``excluded.<column>``.
    same: for rows with ids of their own, when ``mine`` is the copy of ``source``.
    ours: when a row of the batch is ours to write, and not the target user's own.
    """

    key: tuple[str, ...] = ("assetId",)
    values: Mapping[str, LiteralString | sql.Composed] = field(default_factory=dict)
    own: frozenset[str] = frozenset()
    mend: Mapping[str, LiteralString | sql.Composed] = field(default_factory=dict)
    same: LiteralString = "TRUE"
    ours: LiteralString = "TRUE"


_ASSET = Rule(
    key=("id",),
    values={
        "id": "batch.target_id",
        "ownerId": "%(target_user)s",
        "libraryId": "%(target_library)s",
        "originalPath": "batch.original",
        "isExternal": "true",
        "isOffline": "false",
        # What a library scan writes (up to 2.7).
        "deviceId": "'Library Import'",
        "deviceAssetId": 'source."originalFileName"',
        # As the file has it, or a library scan would process the copy anew.
        "fileModifiedAt": 'coalesce(batch.modified, source."fileModifiedAt")',
        # Groups of duplicates have no owner: the copy would join the source's.
        "duplicateId": "NULL",
        "stackId": "NULL",
        # The target user's from the first moment, as they left it if the copy was there before.
        "isFavorite": "coalesce(kept.is_favorite, false)",
        # What is archived is in no timeline, as in Immich's own sharing between partners.
        "visibility": """(CASE WHEN source.visibility = 'hidden' THEN 'hidden'
                               ELSE coalesce(kept.visibility, source.visibility::text) END)::asset_visibility_enum""",
        "deletedAt": "NULL",
        "status": "'active'",
        "sidecarPath": "NULL",
        "encodedVideoPath": "batch.encoded",
        "updateId": _AHEAD,
    },
    # isEdited is given with a new row and from then on kept by Immich's triggers on asset_edit.
    own=frozenset({"updateId", "duplicateId", "stackId", "isFavorite", "isEdited"}),
    mend={
        "visibility": query("rows", "visibility_of_mine").format(),
        # A library scan took the copy offline, or it was parked: it comes back. What its user trashed stays trashed.
        "isOffline": "mine.\"isOffline\" AND mine.status <> 'active'",
        "deletedAt": f"""CASE WHEN mine."isOffline" AND mine.status = 'active' AND {_TRASHED} IS NOT TRUE THEN NULL
                              ELSE mine."deletedAt" END""",
        "status": f"CASE WHEN {_TRASHED} THEN 'trashed' ELSE mine.status END",
        # Up to 2.3: where the target's own edits of the copy are kept, beside its link.
        "sidecarPath": """CASE WHEN %(own_sidecars)s AND mine."sidecarPath" = mine."originalPath" || '.xmp'
                               THEN mine."sidecarPath" END""",
        # The picture is the target user's own once they have edited the copy (2.5+).
        **{
            column: f'CASE WHEN mine.id = ANY(%(own_edits)s::uuid[]) THEN mine."{column}" ELSE excluded."{column}" END'
            for column in ("width", "height", "thumbhash")
        },
    },
)


def asset_rule(catalog: Catalog) -> Rule:
    """Return the rule of asset: from 2.4 on, the target user's own date of a copy moves it in their timeline.

    Asked at the moment of writing: a date that they gave while the batch was under way must not be lost.
    """
    embedded = query("plan", "embedded")
    content = query("rows", "content").format(embedded=embedded)
    values: dict[str, LiteralString | sql.Composed] = {
        # Of the path: with the content's, the target's phone would not back up their own copy of the photo.
        "checksum": query("rows", "checksum").format(content=content),
        "checksumAlgorithm": query("rows", "checksum_algorithm").format(content=content),
        "livePhotoVideoId": query("rows", "motion_part").format(embedded=embedded),
    }
    rule = replace(_ASSET, values={**_ASSET.values, **values})
    if not catalog.has("asset_exif", "lockedProperties"):
        return rule
    own = query("rows", "own_date").format(own=own_value("dateTimeOriginal"))
    dates: dict[str, LiteralString | sql.Composed] = {
        column: query("rows", "unless_own").format(own=own, column=sql.Identifier(column))
        for column in ("fileCreatedAt", "localDateTime")
    }
    return replace(rule, mend={**rule.mend, **dates})


_EXIF = Rule(
    values={
        "assetId": "batch.target_id",
        # Immich pairs live photos by it, per owner and across libraries.
        "livePhotoCID": "NULL",
        # The copy has no XMP to read its user's edits from: a refresh must leave these columns alone (2.4+).
        "lockedProperties": """CASE WHEN EXISTS (SELECT FROM asset_file AS sidecar
                                       WHERE sidecar."assetId" = source."assetId" AND sidecar.type = 'sidecar')
                 THEN ARRAY(SELECT unnest(source."lockedProperties")
                            UNION SELECT unnest(%(lockable)s::varchar[]) ORDER BY 1)
                 ELSE source."lockedProperties" END""",
        "updateId": _AHEAD,
    },
    own=frozenset({"updateId"}),
)


def exif_rule(catalog: Catalog) -> Rule:
    """Return the rule of asset_exif: from 2.4 on, what the target user changed on the copy stays theirs.

    Immich locks a changed column until it has written the copy's own XMP. So a value is theirs where it is not
    the one that we wrote and the column is locked or the copy has an XMP.
    """
    if not catalog.has("asset_exif", "lockedProperties"):
        return _EXIF
    columns = [column for column in LOCKABLE if catalog.has("asset_exif", column)]
    mend: dict[str, LiteralString | sql.Composed] = {
        column: query("rows", "unless_own").format(own=own_value(of), column=sql.Identifier(column))
        for column, of in [*((column, column) for column in columns), *DERIVED.items()]
    }
    own_names = sql.SQL(", ").join(own_name(column) for column in columns)
    mend["lockedProperties"] = query("rows", "locks").format(own_names=own_names)
    return replace(_EXIF, mend=mend)


def own_value(column: str) -> sql.Composed:
    """Return the expression that tells whether a column of a copy, ``mine``, is the target user's own (2.4+)."""
    return query("rows", "own_value").format(name=sql.Literal(column), column=sql.Identifier(column))


def own_name(column: str) -> sql.Composed:
    """Return the name of a column as text where it is the target user's own, else NULL."""
    return query("rows", "name_if_own").format(own=own_value(column), name=sql.Literal(column))


def _noted_exif(catalog: Catalog) -> sql.Composed:
    """Compose the object of values that we write into the lockable columns; the target's own keep their old note."""
    pairs = [
        query("rows", "noted_value").format(
            own=own_value(column), name=sql.Literal(column), column=sql.Identifier(column)
        )
        for column in LOCKABLE
        if catalog.has("asset_exif", column)
    ]
    return sql.SQL("jsonb_build_object({})").format(sql.SQL(", ").join(pairs))


CHILDREN: Mapping[str, Rule] = {
    **{
        table: Rule(values={"assetId": "batch.target_id"})
        for table in ("asset_job_status", "smart_search", "ocr_search", "asset_video", "asset_audio", "asset_keyframe")
    },
    "asset_ocr": Rule(
        key=("id",),
        values={"id": _COPY_ID, "assetId": "batch.target_id", "updateId": _AHEAD},
        own=frozenset({"updateId"}),
        # Text that the target's own crop hides.
        mend={
            "isVisible": """CASE WHEN mine."assetId" = ANY(%(own_edits)s::uuid[]) THEN mine."isVisible"
                                 ELSE excluded."isVisible" END"""
        },
        same=f"{_COPY_ID} = mine.id",
    ),
    "asset_edit": Rule(
        key=("id",),
        values={"id": _COPY_ID, "assetId": "batch.target_id", "updateId": _AHEAD},
        own=frozenset({"updateId"}),
        same=f"{_COPY_ID} = mine.id",
        ours=_OURS_TO_EDIT,
    ),
}

FACE_SEARCH = Rule(key=("faceId",), values={"faceId": "map.target_face_id"})


_OWN_SIDECAR: LiteralString = """%(own_sidecars)s AND mine.path = (
        SELECT copy."originalPath" || '.xmp' FROM asset AS copy WHERE copy.id = mine."assetId")"""


def file_rule(catalog: Catalog) -> Rule:
    """Return the rule of asset_file: one row for each type; from 2.5 on edited files have rows of their own.

    ``ours`` is about a copy's row here. Its sidecar is the target's own where it lies beside the copy's link.
    """
    rule = Rule(
        key=("assetId", "type"),
        values={"id": _COPY_ID, "assetId": "batch.target_id", "path": "batch.path", "updateId": _AHEAD},
        own=frozenset({"id", "updateId"}),
        same="source.type <> 'sidecar' AND source.type = mine.type",
        ours=f"CASE WHEN mine.type = 'sidecar' THEN NOT ({_OWN_SIDECAR}) ELSE true END",
    )
    if not catalog.has("asset_file", "isEdited"):
        return rule
    return replace(
        rule,
        key=("assetId", "type", "isEdited"),
        same=rule.same + ' AND source."isEdited" = mine."isEdited"',
        ours=f"""CASE WHEN mine.type = 'sidecar' THEN NOT ({_OWN_SIDECAR})
                      ELSE NOT (mine."isEdited" AND {_OURS_TO_EDIT.removeprefix("NOT ")}) END""",
    )


@dataclass(frozen=True, slots=True)
class Parts:
    """The composed parts of an upsert: what goes between the words of a statement in ``sql/``."""

    columns: sql.Composed
    values: sql.Composed
    key: sql.Composed
    changes: sql.Composed
    differs: sql.Composed

    def named(self, prefix: str = "") -> dict[str, sql.Composed]:
        """Return the parts by the names that they have in a statement."""
        return {f"{prefix}{field.name}": getattr(self, field.name) for field in fields(self)}


def parts(catalog: Catalog, table: str, rule: Rule) -> Parts:
    """Compose the parts of one table's upsert from its rule and the columns that this Immich has."""
    names = [name for name in catalog.columns(table) if name not in _STAMPED]
    values = [
        _expression(rule.values[name]) if name in rule.values else sql.Identifier("source", name) for name in names
    ]
    mended = [name for name in names if name not in rule.key and name not in rule.own]
    wanted = [
        _expression(rule.mend[name]) if name in rule.mend else sql.Identifier("excluded", name) for name in mended
    ]
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


def _expression(text: LiteralString | sql.Composed) -> sql.Composable:
    return text if isinstance(text, sql.Composed) else sql.SQL(text)


def child_statements(catalog: Catalog) -> tuple[tuple[str, bytes, bytes], ...]:
    """Return ``(table, delete, upsert)`` for each table of rows that belong to one asset and that this Immich has.

    Deleted first: a replaced edit has the number of the one before.
    """
    statements = []
    for table, rule in {"asset_exif": exif_rule(catalog), **CHILDREN}.items():
        if not catalog.has(table):
            continue
        ours = sql.SQL(rule.ours)
        made = parts(catalog, table, rule)
        names: dict[str, sql.Composable] = {"table": sql.Identifier(table), "ours": ours}
        # Before Immich 2.4 nothing tells a user's change of a copy from a metadata refresh: nothing is noted.
        noted = table == "asset_exif" and catalog.has(table, "lockedProperties")
        statements.append(
            (
                table,
                statement("rows", "delete_children", same=sql.SQL(rule.same), **names),
                statement(
                    "rows",
                    "upsert_exif" if noted else "upsert_children",
                    **made.named(),
                    **({"noted": _noted_exif(catalog)} if noted else names),
                ),
            )
        )
    return tuple(statements)
