"""The judge's look at the rows: source and copy side by side, in sets, with the columns this server has."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, LiteralString
from uuid import UUID

from psycopg import sql

from listener.settings import Job
from listener.tools.verify_files import GeneratedFile, expected_path, leads_to_source
from listener.tools.verify_model import Difference, Pair
from listener.tools.verify_own import Own
from listener.tools.verify_snapshot import FACE, STAMPS, Snapshot, differing, uuids


@dataclass(frozen=True, slots=True)
class _Child:
    """How the rows of one table belong to an asset, and which columns are not simply the source's."""

    key: tuple[str, ...] = ()
    ruled: frozenset[str] = frozenset()
    link: str = "assetId"
    scope: LiteralString = "true"


# Copies whose picture the target user has edited themselves have rows of their own for it.
_NOT_EDITED: LiteralString = "NOT pair.pair_target = ANY(%(edited)s)"

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
    "asset_edit": _Child(key=("sequence",), scope=_NOT_EDITED),
}
_BAGS = ("asset_ocr",)
_TABLES = ("asset", *_CHILDREN, *_BAGS, FACE, "face_search")

# Rules of single columns, asked only where the column is.
_COLUMN_RULES: tuple[tuple[str, str, str], ...] = (
    ("asset", "checksumAlgorithm", "rule_checksum_algorithm"),
    ("asset", "deviceAssetId", "rule_device"),
    ("asset", "sidecarPath", "rule_sidecar_path"),
    ("asset", "isEdited", "rule_is_edited"),
    ("asset_exif", "livePhotoCID", "rule_live_photo_cid"),
    ("asset_file", "path", "rule_sidecar_file"),
)

# What Immich would find to do, by the name of its rule.
_WORK = ("thumbnails", "metadata", "clip", "faces", "recognition", "ocr", "duplicates")


class RowJudge:
    """Compares the rows of all pairs, except faces and people (`verify_people`)."""

    def __init__(
        self, snapshot: Snapshot, jobs: Sequence[Job], pairs: Sequence[Pair], own: Own, media_root: Path
    ) -> None:
        self._db = snapshot
        self._own = own
        self._media_root = media_root
        self._pairs = {pair.target: pair for pair in pairs}
        self._job_of_user = {job.target_user_id: job.name for job in reversed(jobs)}
        self._params: dict[str, Any] = {
            "sources": uuids(pair.source for pair in pairs),
            "targets": uuids(pair.target for pair in pairs),
            "target_users": uuids(pair.job.target_user_id for pair in pairs),
            "edited": uuids(own.edited),
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
            scope=self._scope(table, child),
            matched=sql.SQL(" AND ").join(
                sql.SQL("{} = {}").format(sql.Identifier("want", a), sql.Identifier("have", b)) for a, b in matched
            ),
            label=sql.SQL("concat_ws(', ', {})").format(sql.SQL(", ").join([sql.SQL("NULL"), *label])),
            differing=differing(compared),
        )
        found = []
        for _, target, kind, label, names in rows:
            theirs = [name for name in names if name not in self._own.columns(table, target)]
            if theirs or kind != "column":
                detail = " ".join([label, ", ".join(theirs)]).strip()
                found.append(self._pairs[target].differs(f"{table}.{kind}", detail))
        return found

    def _scope(self, table: str, child: _Child) -> sql.Composable:
        scope = sql.SQL(child.scope)
        if table == "asset_file" and self._db.has(table, "isEdited"):
            return scope + sql.SQL(' AND (NOT child."isEdited" OR {})').format(sql.SQL(_NOT_EDITED))
        return scope

    async def _compare_bag(self, table: str) -> list[Difference]:
        columns = [column for column in self._db.columns[table] if column not in STAMPS]
        found = await self._compare_bags(
            table, columns, [p for p in self._pairs.values() if p.target not in self._own.edited]
        )
        # What the target user's own crop hides is theirs.
        visible = [column for column in columns if column != "isVisible"]
        edited = [self._pairs[target] for target in self._own.edited]
        return found + (await self._compare_bags(table, visible, edited) if edited else [])

    async def _compare_bags(self, table: str, columns: Sequence[str], pairs: Sequence[Pair]) -> list[Difference]:
        rows = await self._db.rows(
            "bag",
            {"sources": uuids(pair.source for pair in pairs), "targets": uuids(pair.target for pair in pairs)},
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
            "libraries": uuids(pair.job.target_library_id for pair in pairs),
            "paths": [pair.path for pair in pairs],
            "motion": [pair.motion for pair in pairs],
            "live": uuids(pair.live for pair in pairs),
            "directory": [leads_to_source(pair.job) for pair in pairs],
        }
        rows = await self._db.rows("asset_rules", params)
        for table, column, name in _COLUMN_RULES:
            if self._db.has(table, column):
                rows += await self._db.rows(name, params)
        found = [self._pairs[target].differs(rule, detail or "") for _, target, rule, detail in rows]
        if self._db.has("asset_exif", "lockedProperties"):
            found += await self._locks()
        return found

    async def _locks(self) -> Iterator[Difference]:
        """Compare the locked columns; the target user's own changes may be locked too."""
        return (
            self._pairs[target].differs("asset_exif.lockedProperties", f"{sorted(have)} is not {sorted(want)}")
            for target, have, want in await self._db.rows("locks", self._params)
            if not set(want) <= set(have) or set(have) - set(want) - self._own.columns("asset_exif", target)
        )

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
            if edit and target in self._own.edited:
                continue
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

    async def contents(self) -> dict[UUID, tuple[bytes, bool]]:
        """Return the content's checksum, and whether another asset beside the copy has it, of extracted videos."""
        extracted = [pair for pair in self._pairs.values() if pair.extracted]
        params = {"sources": uuids(p.source for p in extracted), "targets": uuids(p.target for p in extracted)}
        rows = await self._db.rows("contents", params) if extracted else []
        return {target: (bytes(checksum), taken) for target, checksum, taken in rows}

    async def named_files(self) -> frozenset[str]:
        """Return every path that a row of one of the target users names."""
        users = {"target_users": uuids(self._job_of_user)}
        rows = await self._db.rows("named_files", users)
        if self._db.has("asset", "encodedVideoPath"):
            rows += await self._db.rows("named_encoded_videos", users)
        return frozenset(path for (path,) in rows)

    async def begun(self) -> frozenset[str]:
        """Return the ids of copies that are begun and recorded as failed: what is there of their files is known."""
        rows = await self._db.rows("begun", {"target_users": uuids(self._job_of_user)})
        return frozenset(str(id_) for (id_,) in rows)

    async def marks(self) -> list[Difference]:
        """Return marks that stand though nothing is recorded as failed."""
        rows = await self._db.rows("marks", {"target_users": uuids(self._job_of_user)})
        return [
            Difference("mark.left", self._job_of_user[user], source, target, "what it names is still to be removed")
            for user, source, target in rows
        ]

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
