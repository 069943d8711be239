"""The judge's look at the rows: source and copy side by side, in sets, with the columns this server has."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, LiteralString
from uuid import UUID

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow, tuple_row

from listener.database import query
from listener.settings import Job
from listener.tools.verify_files import GeneratedFile, expected_path
from listener.tools.verify_model import Difference, Pair


@dataclass(frozen=True, slots=True)
class _Child:
    """How the rows of one table belong to an asset, and which columns are not simply the source's."""

    key: tuple[str, ...] = ()
    ruled: frozenset[str] = frozenset()
    link: str = "assetId"
    scope: LiteralString = "true"


# Marks of the row itself, which no copy takes over.
STAMPS = frozenset({"id", "assetId", "createdAt", "updatedAt", "updateId"})

_ASSET = _Child(
    link="id",
    ruled=frozenset(
        {
            "checksum", "checksumAlgorithm", "deletedAt", "deviceAssetId", "deviceId", "duplicateId",
            "encodedVideoPath", "fileModifiedAt", "isEdited", "isExternal", "isFavorite", "isOffline",
            "libraryId", "livePhotoVideoId", "originalPath", "ownerId", "sidecarPath", "stackId", "status",
            "visibility",
        }
    ),
)  # fmt: skip
_CHILDREN: Mapping[str, _Child] = {
    "asset_exif": _Child(ruled=frozenset({"livePhotoCID", "lockedProperties"})),
    "asset_file": _Child(key=("type", "isEdited"), ruled=frozenset({"path"}), scope="child.type <> 'sidecar'"),
    "asset_job_status": _Child(),
    "smart_search": _Child(),
    "ocr_search": _Child(),
    "asset_video": _Child(),
    "asset_audio": _Child(),
    "asset_keyframe": _Child(),
    "asset_edit": _Child(key=("sequence",)),
}
_BAGS = ("asset_ocr",)
FACE = "asset_face"
_TABLES = ("asset", *_CHILDREN, *_BAGS, FACE, "face_search", "person")

# Rules of single columns, asked only where the column is.
_COLUMN_RULES: tuple[tuple[str, str, str], ...] = (
    ("asset", "checksumAlgorithm", "rule_checksum_algorithm"),
    ("asset", "deviceAssetId", "rule_device"),
    ("asset", "sidecarPath", "rule_sidecar_path"),
    ("asset", "isEdited", "rule_is_edited"),
    ("asset_exif", "livePhotoCID", "rule_live_photo_cid"),
    ("asset_exif", "lockedProperties", "rule_locked_properties"),
    ("asset_file", "path", "rule_sidecar_file"),
)

# What Immich would find to do, by the name of its rule.
_WORK = ("thumbnails", "metadata", "clip", "faces", "recognition", "ocr", "duplicates")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One open read-only transaction and the columns of the tables that this server has."""

    conn: psycopg.AsyncConnection[Any]
    columns: Mapping[str, tuple[str, ...]]

    @property
    def face_person(self) -> str:
        """Return the column that says whose face it is: ``personGroupId`` from Immich 3.2 on."""
        return "personGroupId" if "personGroupId" in self.columns[FACE] else "personId"

    def has(self, table: str, column: str) -> bool:
        """Return whether this server has the column."""
        return column in self.columns.get(table, ())

    def unedited(self, alias: LiteralString) -> sql.Composable:
        """Return the condition for files of the photo as taken; Immich 2.5+ keeps edited ones apart."""
        if not self.has("asset_file", "isEdited"):
            return sql.SQL("true")
        return sql.SQL("NOT ") + sql.Identifier(alias, "isEdited")

    async def rows(self, name: str, params: Mapping[str, Any], **parts: sql.Composable) -> list[TupleRow]:
        """Return the rows of one named query of ``queries/verify.sql``, composed with ``parts``."""
        async with self.conn.cursor(row_factory=tuple_row) as cursor:
            await cursor.execute(query("verify", name).format(**parts), params, prepare=False)
            return await cursor.fetchall()


async def open_snapshot(conn: psycopg.AsyncConnection[Any]) -> Snapshot:
    """Make the running transaction a read-only picture and read the catalog.

    Raises ValueError if this is no Immich database with our tracking tables.
    """
    snapshot = Snapshot(conn, {})
    await conn.execute(query("verify", "snapshot"))
    tracking = ("_face_sync_asset_map", "_face_sync_face_map", "_face_sync_failure", "_face_sync_skipped")
    found: dict[str, list[str]] = dict(await snapshot.rows("catalog", {"tables": [*_TABLES, *tracking]}))
    if missing := [name for name in ("asset", FACE, "person", *tracking) if name not in found]:
        raise ValueError(
            f"there is nothing to verify: the database has no table {', '.join(missing)}; "
            "check that it is Immich's, and run `listener run` once"
        )
    return Snapshot(conn, {table: tuple(columns) for table, columns in found.items()})


class RowJudge:
    """Compares the rows of all pairs, except faces and people (`verify_people`)."""

    def __init__(self, snapshot: Snapshot, jobs: Sequence[Job], pairs: Sequence[Pair], media_root: Path) -> None:
        self._db = snapshot
        self._jobs = jobs
        self._media_root = media_root
        self._pairs = {pair.target: pair for pair in pairs}
        self._job_of_user = {job.target_user_id: job.name for job in reversed(jobs)}
        self._params: dict[str, Any] = {
            "sources": [pair.source for pair in pairs],
            "targets": [pair.target for pair in pairs],
            "target_users": [pair.job.target_user_id for pair in pairs],
        }

    async def differences(self) -> list[Difference]:
        """Return everything that differs in rows; files are listed by `files` for another judge."""
        found = await self._compare("asset", _ASSET)
        for table, child in _CHILDREN.items():
            if table in self._db.columns:
                found += await self._compare(table, child)
        for table in _BAGS:
            if table in self._db.columns:
                found += await self._compare_bag(table)
        found += await self._ruled()
        found += await self._ids()
        found += await self._work()
        return found

    async def _compare(self, table: str, child: _Child) -> list[Difference]:
        """Compare one table row by row, matched by its key within the asset."""
        stamps = {"id", "updatedAt", "updateId"} if table == "asset" else STAMPS
        columns = self._db.columns[table]
        key = [column for column in child.key if column in columns]
        compared = [c for c in columns if c not in child.ruled and c not in stamps and c not in key]
        matched = [("pair_target", "pair_target"), *((column, column) for column in key)]
        label = [
            sql.SQL("concat({}::text, coalesce({}, {}))").format(
                f"{column} ", sql.Identifier("want", column), sql.Identifier("have", column)
            )
            for column in key
        ]
        rows = await self._db.rows(
            "children",
            self._params,
            table=sql.Identifier(table),
            link=sql.Identifier(child.link),
            scope=sql.SQL(child.scope),
            matched=sql.SQL(" AND ").join(
                sql.SQL("{} = {}").format(sql.Identifier("want", a), sql.Identifier("have", b)) for a, b in matched
            ),
            label=sql.SQL("concat_ws(', ', {})").format(sql.SQL(", ").join([sql.SQL("NULL"), *label])),
            differing=differing(compared),
        )
        return [
            self._pairs[target].differs(f"{table}.{kind}", " ".join([label, ", ".join(names)]).strip())
            for _, target, kind, label, names in rows
        ]

    async def _compare_bag(self, table: str) -> list[Difference]:
        columns = [column for column in self._db.columns[table] if column not in STAMPS]
        rows = await self._db.rows(
            "bag",
            self._params,
            table=sql.Identifier(table),
            columns=sql.SQL(", ").join(sql.Identifier("child", column) for column in columns),
        )
        return [
            self._pairs[target].differs(
                f"{table}.{'column' if missing and extra else 'missing' if missing else 'extra'}",
                f"{missing} of the source's rows are not there, {extra} rows are not the source's",
            )
            for _, target, missing, extra in rows
        ]

    async def _ruled(self) -> list[Difference]:
        """Check the columns that a copy does not take from its source."""
        pairs = self._pairs.values()
        params = self._params | {
            "libraries": [pair.job.target_library_id for pair in pairs],
            "paths": [pair.path for pair in pairs],
            "motion": [pair.motion for pair in pairs],
            "live": [pair.live for pair in pairs],
        }
        rows = await self._db.rows("asset_rules", params)
        for table, column, name in _COLUMN_RULES:
            if self._db.has(table, column):
                rows += await self._db.rows(name, self._params)
        return [self._pairs[target].differs(rule, detail or "") for _, target, rule, detail in rows]

    async def _ids(self) -> list[Difference]:
        found = []
        for table, columns in self._db.columns.items():
            link = "id" if table == "asset" else "assetId"
            if table in _TABLES and "id" in columns and link in columns:
                rows = await self._db.rows(
                    "odd_ids",
                    {"ids": self._params["targets"]},
                    table=sql.Identifier(table),
                    link=sql.Identifier(link),
                )
                found += [self._pairs[target].differs(f"{table}.id", str(id_)) for id_, target in rows]
        return found

    async def _work(self) -> list[Difference]:
        """Find work that Immich would do for a copy though not for its source."""
        visible = self._db.has(FACE, "isVisible")
        parts = {
            "unedited": self._db.unedited("file"),
            "person": sql.Identifier(self._db.face_person),
            "visible": sql.SQL('face."isVisible"' if visible else "true"),
        }
        found = []
        for work in _WORK:
            if work == "ocr" and not self._db.has("asset_job_status", "ocrAt"):
                continue
            name = f"missing_{work}"
            copies = await self._db.rows(name, {"ids": self._params["targets"]}, **parts)
            sources = await self._db.rows(name, {"ids": self._params["sources"]}, **parts)
            same = {source for (source,) in sources}
            pairs = [self._pairs[target] for (target,) in copies]
            found += [
                pair.differs(f"ml.{work}", "Immich would do this again") for pair in pairs if pair.source not in same
            ]
        return found

    async def files(self) -> tuple[list[GeneratedFile], list[Difference]]:
        """Return the generated files to compare, and those whose path is not the target's own."""
        edited = self._db.has("asset_file", "isEdited")
        rows = await self._db.rows(
            "files",
            self._params,
            edited=sql.SQL('source."isEdited"' if edited else "false"),
            same_edited=sql.SQL('copy."isEdited" = source."isEdited"' if edited else "true"),
        )
        found = [
            (target, type_, edit, source, copy, "asset_file.path") for _, target, type_, edit, source, copy in rows
        ]
        if self._db.has("asset", "encodedVideoPath"):
            rows = await self._db.rows("encoded_videos", self._params)
            found += [
                (target, "encoded video", False, source or "", copy or "", "asset.encodedVideoPath")
                for _, target, source, copy in rows
            ]
        files, differences = [], []
        for target, kind, edit, source, copy, rule in found:
            pair = self._pairs[target]
            path = expected_path(source, self._media_root, pair.source, pair.job.target_user_id, target)
            what = f"edited {kind}" if edit else kind
            if copy == path:
                files.append(GeneratedFile("file", pair.job.name, pair.source, target, what, source, copy, not edit))
            else:
                differences.append(pair.differs(rule, f"{what}: {copy!r} is not {path!r}"))
        return files, differences

    async def originals(self) -> list[tuple[UUID, str, bytes, int]]:
        """Return (id, originalPath, checksum, fileModifiedAt in microseconds) of each copy."""
        return [
            (target, path, bytes(checksum), modified)
            for target, path, checksum, modified in await self._db.rows("copies", self._params)
        ]

    async def named_files(self) -> frozenset[str]:
        """Return every path that a row of one of the target users names."""
        users = {"target_users": list(self._job_of_user)}
        rows = await self._db.rows("named_files", users)
        if self._db.has("asset", "encodedVideoPath"):
            rows += await self._db.rows("named_encoded_videos", users)
        return frozenset(path for (path,) in rows)

    async def count_rows(self) -> dict[str, int]:
        """Return the number of the copies' rows by table."""
        ids = {"ids": self._params["targets"]}
        counts = {}
        for table, columns in self._db.columns.items():
            link = "id" if table == "asset" else "assetId"
            if table in _TABLES and table != "person" and link in columns:
                parts = {"table": sql.Identifier(table), "link": sql.Identifier(link)}
                ((counts[table],),) = await self._db.rows("count_rows", ids, **parts)
        ((counts["face_search"],),) = await self._db.rows("count_embeddings", ids)
        person = sql.Identifier(self._db.face_person)
        ((counts["person"],),) = await self._db.rows("count_people", ids, person=person)
        return counts


def differing(columns: Sequence[str]) -> sql.Composable:
    """Return an expression for the names of those columns that differ between rows ``want`` and ``have``."""
    cases = [
        sql.SQL("CASE WHEN {} IS DISTINCT FROM {} THEN {} END").format(
            sql.Identifier("want", column), sql.Identifier("have", column), column
        )
        for column in columns
    ]
    return sql.SQL("array_remove(ARRAY[{}]::text[], NULL)").format(sql.SQL(", ").join(cases))
