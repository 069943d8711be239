"""Immich as the triggers see it: what it writes on any release, and an ear for what they say about it."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, LiteralString
from uuid import UUID

import psycopg
import pytest
from psycopg import sql

from listener.standin.facts import releases

CHANNEL = "immich_shared_library"
END = "end of what was to be heard"
every_release = pytest.mark.parametrize("immich", releases(), indirect=True)
on_both_people_models = pytest.mark.parametrize("immich", ["2.0.0", "3.0.3", "3.3.0"], indirect=True)


class Immich:
    """Writes rows as Immich does, on any release, and hears what the triggers say about it."""

    def __init__(self, conninfo: str) -> None:
        self.conn = psycopg.connect(conninfo, autocommit=True)
        self._ear = psycopg.connect(conninfo, autocommit=True)
        self._ear.execute(f"LISTEN {CHANNEL}")

    def close(self) -> None:
        self.conn.close()
        self._ear.close()

    def raw(self) -> list[str]:
        """Every payload since the last call. The mark at the end makes waiting unnecessary."""
        self.conn.execute("SELECT pg_notify(%s, %s)", (CHANNEL, END))
        heard: list[str] = []
        for notify in self._ear.notifies(timeout=10):
            if notify.payload == END:
                return heard
            heard.append(notify.payload)
        pytest.fail("the connection that listens heard no end")

    def heard(self) -> list[tuple[str, frozenset[UUID]]]:
        """Kind and ids of every payload since the last call; checks the frame of each."""
        found = []
        for text in self.raw():
            assert len(text.encode()) < 8000
            payload = json.loads(text)
            ids = [UUID(i) for i in payload.pop("ids", [])]
            assert len(ids) == len(set(ids))
            assert abs(payload.pop("at") - time.time()) < 60
            assert payload.pop("v") == 1
            found.append((payload.pop("kind"), frozenset(ids)))
            assert payload == {}
        return found

    def execute(self, query: LiteralString, *values: object) -> list[Any]:
        cursor = self.conn.execute(query, values)
        return cursor.fetchall() if cursor.description else []

    def columns(self, table: str) -> dict[str, tuple[str, bool]]:
        """Columns with their type and whether an INSERT must give them."""
        found = self.execute(
            """
            SELECT attname, format_type(atttypid, NULL), attnotnull AND NOT atthasdef FROM pg_attribute
            WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped
            """,
            f'public."{table}"',
        )
        return {name: (kind, needed) for name, kind, needed in found}

    def insert(self, table: str, given: Mapping[str, object] | None = None, *, count: int = 1) -> list[Any]:
        """Insert rows in one statement, all needed columns filled; return their first columns."""
        fillers: dict[str, str] = {
            "uuid": "gen_random_uuid()",
            "text": "'read'",
            "character varying": "gen_random_uuid()::text",
            "timestamp with time zone": "now()",
            "bytea": "uuid_send(gen_random_uuid())",
            "asset_checksum_algorithm_enum": "'sha1'",
            "vector": "array_fill(0.5::real, ARRAY[512])::vector",
        }
        columns = self.columns(table)
        values: dict[str, sql.Composable] = {
            name: sql.SQL(fillers[kind]) for name, (kind, needed) in columns.items() if needed
        }
        values |= {name: sql.Literal(value) for name, value in (given or {}).items()}
        key = "id" if "id" in columns else next(c for c in ("personGroupId", "assetId") if c in columns)
        query = sql.SQL("INSERT INTO {} ({}) SELECT {} FROM generate_series(1, {}) RETURNING {}").format(
            sql.Identifier(table),
            sql.SQL(", ").join(map(sql.Identifier, values)),
            sql.SQL(", ").join(values.values()),
            count,
            sql.Identifier(key),
        )
        # A table all of whose columns have defaults
        if not values:
            query = sql.SQL("INSERT INTO {} DEFAULT VALUES RETURNING {}").format(
                sql.Identifier(table), sql.Identifier(key)
            )
        return [row[0] for row in self.conn.execute(query).fetchall()]

    def user(self) -> UUID:
        given: dict[str, object] = {}
        if "clusterGroupId" in self.columns("user"):
            given["clusterGroupId"] = self.insert("cluster_group")[0]
        user: UUID = self.insert("user", given)[0]
        return user

    def asset(self, owner: UUID) -> UUID:
        return self.assets(owner, 1)[0]

    def assets(self, owner: UUID, count: int) -> list[UUID]:
        return self.insert("asset", {"ownerId": owner}, count=count)

    def person(self, owner: UUID) -> UUID:
        given: dict[str, object] = {"ownerId": owner}
        if "personGroupId" in self.columns("person"):
            cluster = self.execute('SELECT "clusterGroupId" FROM "user" WHERE id = %s', owner)[0][0]
            given["personGroupId"] = self.insert("person_group", {"clusterGroupId": cluster})[0]
        person: UUID = self.insert("person", given)[0]
        return person

    def face(self, asset: UUID, person: UUID | None = None) -> UUID:
        column = "personGroupId" if "personGroupId" in self.columns("asset_face") else "personId"
        face: UUID = self.insert("asset_face", {"assetId": asset, column: person})[0]
        return face

    def errors(self) -> int:
        value, called = self.execute("SELECT last_value, is_called FROM _face_sync_trigger_errors")[0]
        return int(value) if called else 0


@contextmanager
def immich_at(conninfo: str) -> Iterator[Immich]:
    writer = Immich(conninfo)
    try:
        yield writer
    finally:
        writer.close()


def insert_job_status(writer: Immich, asset: UUID) -> None:
    writer.insert("asset_job_status", {"assetId": asset})


def insert_file(writer: Immich, asset: UUID) -> None:
    writer.insert("asset_file", {"assetId": asset})


def insert_embedding(writer: Immich, asset: UUID) -> None:
    writer.insert("smart_search", {"assetId": asset})


def insert_face(writer: Immich, asset: UUID) -> None:
    writer.face(asset)


def insert_text(writer: Immich, asset: UUID) -> None:
    writer.insert("ocr_search", {"assetId": asset, "text": "read"})


def insert_tag(writer: Immich, asset: UUID) -> None:
    """Give an asset a new tag; the columns of the table had other names up to 2.2."""
    owner = writer.execute('SELECT "ownerId" FROM asset WHERE id = %s', asset)[0][0]
    tag = writer.insert("tag", {"userId": owner})[0]
    asset_column, tag_column = tag_columns(writer)
    writer.conn.execute(
        sql.SQL("INSERT INTO tag_asset ({}, {}) VALUES (%s, %s)").format(
            sql.Identifier(asset_column), sql.Identifier(tag_column)
        ),
        (asset, tag),
    )


def tag_columns(writer: Immich) -> tuple[str, str]:
    return ("assetId", "tagId") if "assetId" in writer.columns("tag_asset") else ("assetsId", "tagsId")


CHILDREN: dict[str, tuple[Callable[[Immich, UUID], None], LiteralString, LiteralString, LiteralString]] = {
    # table: insert, an update, an update that changes nothing, delete
    "asset_job_status": (
        insert_job_status,
        'UPDATE asset_job_status SET "metadataExtractedAt" = now() WHERE "assetId" = %s',
        'UPDATE asset_job_status SET "metadataExtractedAt" = "metadataExtractedAt" WHERE "assetId" = %s',
        'DELETE FROM asset_job_status WHERE "assetId" = %s',
    ),
    "asset_file": (
        insert_file,
        "UPDATE asset_file SET path = '/data/new' WHERE \"assetId\" = %s",
        'UPDATE asset_file SET path = path WHERE "assetId" = %s',
        'DELETE FROM asset_file WHERE "assetId" = %s',
    ),
    "smart_search": (
        insert_embedding,
        'UPDATE smart_search SET embedding = array_fill(1::real, ARRAY[512])::vector WHERE "assetId" = %s',
        'UPDATE smart_search SET embedding = embedding::text::vector WHERE "assetId" = %s',
        'DELETE FROM smart_search WHERE "assetId" = %s',
    ),
    "asset_face": (
        insert_face,
        'UPDATE asset_face SET "boundingBoxX1" = 7 WHERE "assetId" = %s',
        'UPDATE asset_face SET "boundingBoxX1" = "boundingBoxX1" WHERE "assetId" = %s',
        'DELETE FROM asset_face WHERE "assetId" = %s',
    ),
    "ocr_search": (
        insert_text,
        "UPDATE ocr_search SET text = '' WHERE \"assetId\" = %s",
        'UPDATE ocr_search SET text = text WHERE "assetId" = %s',
        'DELETE FROM ocr_search WHERE "assetId" = %s',
    ),
}
