"""What the judge reads from: one picture of the database, and the columns that this server has."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, LiteralString
from uuid import UUID

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow, tuple_row

from listener.database import query

FACE = "asset_face"
# Marks of the row itself, which no copy takes over.
STAMPS = frozenset({"id", "assetId", "createdAt", "updatedAt", "updateId"})

_TABLES = (
    "asset", "asset_exif", "asset_file", "asset_job_status", "smart_search", "ocr_search", "asset_video",
    "asset_audio", "asset_keyframe", "asset_edit", "asset_ocr", FACE, "face_search", "person", "album",
    "album_asset", "tag_asset", "tag_closure", "asset_audit", "person_audit",
)  # fmt: skip
_TRACKING = tuple(
    f"_face_sync_{name}"
    for name in (
        "asset_map", "person_map", "face_map", "failure", "skipped", "base", "stack_map", "tag_map", "album_map",
        "kept", "intent",
    )
)  # fmt: skip


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
        """Return the rows of one named query, composed with ``parts``.

        ``name`` is of ``queries/verify.sql``, or ``people/…`` and ``extras/…`` of ``queries/verify_….sql``.
        """
        async with self.conn.cursor(row_factory=tuple_row) as cursor:
            await cursor.execute(block(name).format(**parts), params, prepare=False)
            return await cursor.fetchall()


async def open_snapshot(conn: psycopg.AsyncConnection[Any]) -> Snapshot:
    """Make the running transaction a read-only picture and read the catalog.

    Raises ValueError if this is no Immich database with our tracking tables.
    """
    snapshot = Snapshot(conn, {})
    await conn.execute(query("verify", "snapshot"))
    found: dict[str, list[str]] = dict(await snapshot.rows("catalog", {"tables": [*_TABLES, *_TRACKING]}))
    if missing := [name for name in ("asset", FACE, "person", *_TRACKING) if name not in found]:
        raise ValueError(
            f"there is nothing to verify: the database has no table {', '.join(missing)}; "
            "check that it is Immich's, and run `listener run` once"
        )
    return Snapshot(conn, {table: tuple(columns) for table, columns in found.items()})


def block(name: str) -> sql.SQL:
    """Return a named statement, or part of one, of the judge's SQL files."""
    file, _, rest = name.rpartition("/")
    return query(f"verify_{file}" if file else "verify", rest)


def uuids(ids: Iterable[UUID | None]) -> str:
    """Return ids as the text of an array: made once for the many statements that get thousands of them."""
    return "{" + ",".join("NULL" if id_ is None else str(id_) for id_ in ids) + "}"


def differing(columns: Sequence[str]) -> sql.Composable:
    """Return an expression for the names of those columns that differ between rows ``want`` and ``have``."""
    cases = [
        sql.SQL("CASE WHEN {} IS DISTINCT FROM {} THEN {} END").format(
            sql.Identifier("want", column), sql.Identifier("have", column), column
        )
        for column in columns
    ]
    return sql.SQL("array_remove(ARRAY[{}]::text[], NULL)").format(sql.SQL(", ").join(cases))
