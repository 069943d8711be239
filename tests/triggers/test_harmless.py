"""Immich never fails because of the triggers, whatever is missing, locked or changed."""

import time
from typing import LiteralString
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import sql

from listener import triggers
from tests.conftest import ImmichDatabase
from tests.triggers.immich_writer import CHILDREN, Immich, insert_tag


@pytest.mark.parametrize(
    ("change", "table"),
    [
        ('ALTER TABLE asset_file RENAME "assetId" TO elsewhere', "asset_file"),
        ("ALTER TABLE asset_face RENAME id TO key", "asset_face"),
        ("DROP TABLE _face_sync_watch", "asset_job_status"),
        ("ALTER TABLE _face_sync_watch RENAME user_id TO who", "smart_search"),
        ('ALTER TABLE ocr_search RENAME "assetId" TO elsewhere', "ocr_search"),
    ],
)
def test_an_error_inside_is_counted_and_nothing_else(
    writer: Immich, owner: UUID, change: LiteralString, table: str
) -> None:
    asset = writer.asset(owner)
    CHILDREN[table][0](writer, asset)
    writer.heard()
    writer.execute(change)
    update = sql.SQL("UPDATE {} SET {} = {}")
    column = {"asset_file": "path", "asset_face": "boundingBoxX1", "ocr_search": "text"}.get(table, "assetId")
    statement = update.format(sql.Identifier(table), sql.Identifier(column), sql.Identifier(column))
    for done in (1, 2):
        assert writer.conn.execute(statement).rowcount == 1
        assert writer.errors() == done
    assert writer.heard() == []


def test_an_error_on_asset_and_person_is_counted_too(writer: Immich, owner: UUID) -> None:
    writer.asset(owner)
    writer.person(owner)
    writer.execute("DROP TABLE _face_sync_watch")
    writer.execute('UPDATE asset SET "isFavorite" = true')
    writer.execute("UPDATE person SET name = 'x'")
    assert writer.errors() == 2
    assert writer.execute('SELECT "isFavorite" FROM asset') == [(True,)]


def test_without_any_of_our_tables_immich_goes_on(writer: Immich, owner: UUID) -> None:
    writer.execute("DROP TABLE _face_sync_watch")
    writer.execute("DROP SEQUENCE _face_sync_trigger_errors")
    asset = writer.asset(owner)
    writer.execute("DELETE FROM asset WHERE id = %s", asset)
    assert writer.execute("SELECT count(*) FROM asset") == [(0,)]


def test_a_lock_on_our_tables_does_not_hold_immich_up(writer: Immich, owner: UUID, immich: ImmichDatabase) -> None:
    with psycopg.connect(immich.conninfo) as holder:
        holder.execute("LOCK TABLE _face_sync_watch IN ACCESS EXCLUSIVE MODE")
        started = time.monotonic()
        writer.asset(owner)
        assert time.monotonic() - started < 5
    assert writer.errors() == 1


@pytest.mark.parametrize("immich", ["2.0.0"], indirect=True)
def test_a_stack_without_a_cover_column_is_no_error(writer: Immich, owner: UUID) -> None:
    stack = writer.insert("stack", {"ownerId": owner, "primaryAssetId": writer.asset(owner)})[0]
    writer.heard()
    writer.execute('ALTER TABLE stack DROP COLUMN "primaryAssetId" CASCADE, ADD COLUMN note text')
    writer.execute("UPDATE stack SET note = 'x' WHERE id = %s", stack)
    writer.execute("DELETE FROM stack")
    assert writer.heard() == []
    assert writer.errors() == 0


def test_tags_whose_columns_have_new_names_are_no_error(writer: Immich, owner: UUID) -> None:
    """As an upgrade to 2.3 renamed them: whatever they are called, Immich's own statement is done."""
    insert_tag(writer, writer.asset(owner))
    writer.heard()
    writer.execute('ALTER TABLE tag_asset RENAME "assetId" TO elsewhere')
    assert writer.conn.execute('UPDATE tag_asset SET "tagId" = "tagId"').rowcount == 1
    assert writer.conn.execute("DELETE FROM tag_asset").rowcount == 1
    assert writer.heard() == []
    assert writer.errors() == 0


@pytest.mark.parametrize("immich", ["2.0.0"], indirect=True)
def test_columns_go_in_one_transaction_with_rows_changed(writer: Immich, owner: UUID) -> None:
    """What upgrades from 2.0 to 3.2 do to tables of ours, after and before statements of the same session."""
    asset, person = writer.asset(owner), writer.person(owner)
    writer.face(asset, person)
    writer.insert("asset_job_status", {"assetId": asset})
    insert_tag(writer, asset)
    with writer.conn.transaction():
        writer.execute('UPDATE asset SET "isFavorite" = true')
        writer.execute(
            'ALTER TABLE asset DROP COLUMN "sidecarPath", DROP COLUMN "encodedVideoPath", '
            'DROP COLUMN "deviceId", DROP COLUMN "deviceAssetId", ADD COLUMN width integer, '
            "ALTER COLUMN duration TYPE integer USING NULL"
        )
        writer.execute("UPDATE asset SET width = 1")
        writer.execute(
            'ALTER TABLE asset_job_status DROP COLUMN "previewAt", DROP COLUMN "thumbnailAt", '
            'ADD COLUMN "ocrAt" timestamptz'
        )
        writer.execute('UPDATE asset_job_status SET "ocrAt" = now()')
        writer.execute('ALTER TABLE asset_face DROP CONSTRAINT "asset_face_personId_fkey"')
        writer.execute('ALTER TABLE asset_face RENAME "personId" TO "personGroupId"')
        writer.execute('UPDATE asset_face SET "personGroupId" = NULL')
        writer.execute('ALTER TABLE person ADD COLUMN "personGroupId" uuid')
        writer.execute('UPDATE person SET "personGroupId" = id')
        writer.execute("ALTER TABLE person DROP COLUMN id CASCADE")
        writer.execute("UPDATE person SET name = 'after'")
        writer.execute('UPDATE tag_asset SET "tagsId" = "tagsId"')
        writer.execute('ALTER TABLE tag_asset RENAME "assetsId" TO "assetId"')
        writer.execute('ALTER TABLE tag_asset RENAME "tagsId" TO "tagId"')
        writer.execute('UPDATE tag_asset SET "tagId" = "tagId"')
    writer.heard()
    writer.execute("UPDATE asset SET width = 2")
    writer.execute("UPDATE person SET name = 'later'")
    writer.execute("DELETE FROM tag")
    said = [("asset", frozenset({asset})), ("person", frozenset({person})), ("asset", frozenset({asset}))]
    assert writer.heard() == said
    assert writer.errors() == 0


async def test_a_restore_that_drops_public_passes(writer: Immich, conn: psycopg.AsyncConnection) -> None:
    writer.execute("DROP SCHEMA public CASCADE")
    writer.execute("CREATE SCHEMA public")
    found = await triggers.status(conn)
    assert found.absent == triggers.TABLES
    assert not found.ok
    assert {function.state for function in found.functions} == {"installed"}


async def test_a_role_of_immichs_own_needs_no_grants(writer: Immich, owner: UUID) -> None:
    """Immich may connect as another role than ours, without a right to anything of ours."""
    role = f"immich_{uuid4().hex}"
    asset = writer.asset(owner)
    writer.heard()
    writer.conn.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(role)))
    try:
        writer.conn.execute(sql.SQL("GRANT SELECT, UPDATE ON asset TO {}").format(sql.Identifier(role)))
        writer.conn.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(role)))
        writer.execute('UPDATE asset SET "isFavorite" = true')
        writer.execute("RESET ROLE")
        assert writer.heard() == [("asset", frozenset({asset}))]
        assert writer.errors() == 0
    finally:
        writer.execute("RESET ROLE")
        writer.conn.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(role)))
        writer.conn.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))
