"""What the triggers say for each write of Immich's, and what is nobody's news."""

import time
from collections import Counter
from typing import Any, LiteralString
from uuid import UUID

import psycopg
import pytest
from psycopg import sql

from listener import tracking, triggers
from tests.triggers.immich_writer import (
    CHILDREN,
    Immich,
    every_release,
    immich_at,
    insert_tag,
    on_both_people_models,
    tag_columns,
)

# What each write says.


@on_both_people_models
@pytest.mark.parametrize("table", CHILDREN)
def test_a_write_to_what_hangs_on_an_asset_names_the_asset(writer: Immich, owner: UUID, table: str) -> None:
    if not writer.columns(table):
        return  # ocr_search came with 2.2
    insert, update, same, delete = CHILDREN[table]
    asset = writer.asset(owner)
    writer.heard()
    said = [("asset", frozenset({asset}))]
    insert(writer, asset)
    assert writer.heard() == said
    writer.execute(update, asset)
    assert writer.heard() == said
    writer.execute(same, asset)
    assert writer.heard() == []
    writer.execute(delete, asset)
    assert writer.heard() == said
    writer.execute(delete, asset)  # nothing left to delete
    assert writer.heard() == []
    assert writer.errors() == 0


@on_both_people_models
def test_a_write_to_an_asset_names_it(writer: Immich, owner: UUID) -> None:
    asset = writer.asset(owner)
    said = [("asset", frozenset({asset}))]
    assert writer.heard() == said
    writer.execute('UPDATE asset SET "deletedAt" = now() WHERE id = %s', asset)
    assert writer.heard() == said
    writer.execute('UPDATE asset SET "isFavorite" = "isFavorite" WHERE id = %s', asset)
    assert writer.heard() == []
    writer.execute("DELETE FROM asset WHERE id = %s", asset)
    assert writer.heard() == said
    assert writer.errors() == 0


@on_both_people_models
def test_a_write_to_a_person_names_the_person(writer: Immich, owner: UUID) -> None:
    person = writer.person(owner)
    said = [("person", frozenset({person}))]
    assert writer.heard() == said
    writer.execute("UPDATE person SET name = 'Ada' WHERE \"ownerId\" = %s", owner)
    assert writer.heard() == said
    # So Immich notes that the thumbnail's file was written anew.
    writer.execute('UPDATE person SET "thumbnailPath" = "thumbnailPath" WHERE "ownerId" = %s', owner)
    assert writer.heard() == said
    writer.execute('DELETE FROM person WHERE "ownerId" = %s', owner)
    assert writer.heard() == said
    assert writer.errors() == 0


@on_both_people_models
def test_a_write_to_a_stack_names_its_covers(writer: Immich, owner: UUID) -> None:
    """Another cover is written into the stack alone: no asset changes."""
    first, second = writer.assets(owner, 2)
    writer.heard()
    stack = writer.insert("stack", {"ownerId": owner, "primaryAssetId": first})[0]
    assert writer.heard() == [("asset", frozenset({first}))]
    writer.execute('UPDATE stack SET "primaryAssetId" = %s WHERE id = %s', second, stack)
    assert writer.heard() == [("asset", frozenset({first, second}))]
    writer.execute('UPDATE stack SET "primaryAssetId" = "primaryAssetId" WHERE id = %s', stack)
    assert writer.heard() == []
    writer.execute("DELETE FROM stack WHERE id = %s", stack)
    assert writer.heard() == [("asset", frozenset({second}))]
    writer.execute("DELETE FROM stack WHERE id = %s", stack)
    assert writer.heard() == []
    other = writer.user()
    writer.insert("stack", {"ownerId": other, "primaryAssetId": writer.asset(other)})
    writer.execute("DELETE FROM stack")
    assert writer.heard() == []
    assert writer.errors() == 0


@pytest.mark.parametrize("immich", ["2.0.0", "2.7.5", "3.3.0"], indirect=True)
def test_tags_that_are_given_and_deleted_name_the_photos(writer: Immich, owner: UUID) -> None:
    """A deleted tag is written nowhere else; up to 2.2 the columns had other names."""
    first, second = writer.assets(owner, 2)
    strange = writer.asset(writer.user())
    writer.heard()
    insert_tag(writer, first)
    assert writer.heard() == [("asset", frozenset({first}))]
    asset_column, tag_column = map(sql.Identifier, tag_columns(writer))
    names = {"asset": asset_column, "tag": tag_column}
    give = sql.SQL("INSERT INTO tag_asset ({asset}, {tag}) SELECT unnest(%s::uuid[]), id FROM tag")
    writer.conn.execute(give.format(**names), [[second, strange]])
    assert writer.heard() == [("asset", frozenset({second}))]
    writer.conn.execute(sql.SQL("UPDATE tag_asset SET {tag} = {tag}").format(**names))
    assert writer.heard() == []
    third = writer.asset(owner)
    writer.heard()
    move = sql.SQL("UPDATE tag_asset SET {asset} = %s WHERE {asset} = %s").format(**names)
    writer.conn.execute(move, [third, second])
    assert writer.heard() == [("asset", frozenset({second, third}))]
    writer.execute("DELETE FROM tag")
    assert writer.heard() == [("asset", frozenset({first, third}))]
    writer.execute("DELETE FROM tag")
    assert writer.heard() == []
    assert writer.errors() == 0


@pytest.mark.parametrize("immich", ["2.0.0", "3.3.0"], indirect=True)
def test_a_tag_of_over_10000_photos_is_one_sweep(writer: Immich, owner: UUID) -> None:
    asset = writer.asset(owner)
    insert_tag(writer, asset)
    asset_column, tag_column = map(sql.Identifier, tag_columns(writer))
    writer.assets(owner, 10_000)
    give = sql.SQL("INSERT INTO tag_asset ({}, {}) SELECT asset.id, tag.id FROM asset, tag ON CONFLICT DO NOTHING")
    writer.conn.execute(give.format(asset_column, tag_column))
    writer.heard()
    writer.execute("DELETE FROM tag")
    assert writer.heard() == [("sweep", frozenset())]
    assert writer.errors() == 0


async def test_one_users_view_of_a_shared_person(conn: psycopg.AsyncConnection, new_immich: Any) -> None:
    """3.2 on: two users' rows of one person group; a change of the unwatched one's is no news."""
    database = new_immich("3.2.0")
    async with await psycopg.AsyncConnection.connect(database.conninfo, autocommit=True) as own:
        await tracking.migrate(own)
        await triggers.install(own)
        with immich_at(database.conninfo) as writer:
            watched, other = writer.user(), writer.user()
            await tracking.set_watched_users(own, [watched])
            group = writer.person(watched)
            writer.insert("person", {"ownerId": other, "personGroupId": group})
            writer.heard()
            writer.execute("UPDATE person SET name = 'a' WHERE \"ownerId\" = %s", other)
            assert writer.heard() == []
            writer.execute("UPDATE person SET name = 'b'")
            assert writer.heard() == [("person", frozenset({group}))]
            # A merge, and leaving a cluster group, change the key in place: both are told.
            fresh = writer.person(other)
            writer.heard()
            writer.execute(
                'UPDATE person SET "personGroupId" = %s WHERE "ownerId" = %s AND "personGroupId" = %s',
                fresh, watched, group,
            )  # fmt: skip
            assert writer.heard() == [("person", frozenset({group, fresh}))]


def test_many_rows_of_a_statement_are_one_notification(writer: Immich, owner: UUID) -> None:
    assets = writer.assets(owner, 150)
    assert writer.heard() == [("asset", frozenset(assets))]
    # Three faces on each of two photos: each photo is named once.
    writer.execute(
        'INSERT INTO asset_face ("assetId") SELECT unnest(%s::uuid[]) FROM generate_series(1, 3)', assets[:2]
    )
    assert writer.heard() == [("asset", frozenset(assets[:2]))]


def test_only_the_changed_rows_of_a_statement_are_named(writer: Immich, owner: UUID) -> None:
    assets = writer.assets(owner, 5)
    writer.execute('UPDATE asset SET "isFavorite" = true WHERE id = %s', assets[0])
    writer.heard()
    writer.execute('UPDATE asset SET "isFavorite" = true')
    assert writer.heard() == [("asset", frozenset(assets[1:]))]


def test_an_upsert_tells_the_new_and_the_changed(writer: Immich, owner: UUID) -> None:
    """Immich writes asset_job_status by upserts only; both statement triggers fire each time."""
    upsert: LiteralString = """
        INSERT INTO asset_job_status ("assetId", "facesRecognizedAt")
        SELECT unnest(%s::uuid[]), clock_timestamp()
        ON CONFLICT ("assetId") DO UPDATE SET "facesRecognizedAt" = excluded."facesRecognizedAt"
    """
    old, new = writer.assets(owner, 2)
    writer.heard()
    writer.execute(upsert, [old])
    assert writer.heard() == [("asset", frozenset({old}))]
    writer.execute(upsert, [old, new])
    assert Counter(writer.heard()) == Counter([("asset", frozenset({old})), ("asset", frozenset({new}))])
    writer.execute(upsert, [])
    assert writer.heard() == []


def test_a_face_that_moves_names_both_assets(writer: Immich, owner: UUID) -> None:
    one, two = writer.assets(owner, 2)
    face = writer.face(one)
    writer.heard()
    writer.execute('UPDATE asset_face SET "assetId" = %s WHERE id = %s', two, face)
    assert writer.heard() == [("asset", frozenset({one, two}))]


def test_a_deleted_asset_is_told_once_and_not_by_its_children(writer: Immich, owner: UUID) -> None:
    asset = writer.asset(owner)
    for insert in (*(writes[0] for writes in CHILDREN.values()), insert_tag):
        insert(writer, asset)
    writer.heard()
    writer.execute("DELETE FROM asset WHERE id = %s", asset)
    assert writer.heard() == [("asset", frozenset({asset}))]
    assert writer.errors() == 0


@on_both_people_models
def test_a_deleted_person_also_names_the_assets_of_their_faces(writer: Immich, owner: UUID) -> None:
    asset, person = writer.asset(owner), writer.person(owner)
    writer.face(asset, person)
    writer.heard()
    table = "person_group" if writer.columns("person_group") else "person"
    writer.conn.execute(sql.SQL("DELETE FROM {} WHERE id = %s").format(sql.Identifier(table)), (person,))
    assert Counter(writer.heard()) == Counter([("asset", frozenset({asset})), ("person", frozenset({person}))])


def test_500_ids_are_three_payloads(writer: Immich, owner: UUID) -> None:
    assets = writer.assets(owner, 500)
    heard = writer.heard()
    assert sorted(len(ids) for _, ids in heard) == [120, 190, 190]
    assert frozenset().union(*(ids for _, ids in heard)) == frozenset(assets)


async def test_past_10000_rows_it_is_one_sweep(writer: Immich, owner: UUID, conn: psycopg.AsyncConnection) -> None:
    assets = writer.assets(owner, 10_000)
    heard = writer.heard()
    assert frozenset().union(*(ids for _, ids in heard)) == frozenset(assets)
    assert len(heard) == 53
    writer.asset(owner)
    writer.heard()
    writer.execute('INSERT INTO asset_job_status ("assetId") SELECT id FROM asset')
    assert writer.heard() == [("sweep", frozenset())]
    writer.execute('UPDATE asset_job_status SET "metadataExtractedAt" = now()')
    assert writer.heard() == [("sweep", frozenset())]
    writer.execute('UPDATE asset SET "isFavorite" = true')
    assert writer.heard() == [("sweep", frozenset())]
    await tracking.set_watched_users(conn, [])
    writer.execute('UPDATE asset_job_status SET "metadataExtractedAt" = NULL')
    writer.execute('UPDATE asset SET "isFavorite" = false')
    assert writer.heard() == []


def test_large_and_small_statements_of_one_session_stay_fast(writer: Immich, owner: UUID) -> None:
    """Plans are kept for the session: one made for 1 row must do for thousands, and the other way round."""
    one = writer.asset(owner)
    writer.face(one)
    update: LiteralString = 'UPDATE asset_face SET "boundingBoxX1" = "boundingBoxX1" + 1'
    for _ in range(8):  # past the plans made for the values at hand
        writer.execute(update)
    writer.execute('INSERT INTO asset_face ("assetId") SELECT %s FROM generate_series(1, 9000)', writer.asset(owner))
    started = time.monotonic()
    writer.execute(update)
    # A nested loop over 9,000 x 9,000 rows takes more than ten seconds.
    assert time.monotonic() - started < 5
    assert writer.errors() == 0


@every_release
def test_every_release_tells_of_its_people_and_assets(writer: Immich, owner: UUID) -> None:
    asset, person = writer.asset(owner), writer.person(owner)
    writer.face(asset, person)
    assert writer.heard() == [
        ("asset", frozenset({asset})),
        ("person", frozenset({person})),
        ("asset", frozenset({asset})),
    ]
    assert writer.errors() == 0


# What is nobody's news.


@pytest.mark.parametrize("table", CHILDREN)
def test_users_in_no_job_are_nobodys_business(writer: Immich, owner: UUID, table: str) -> None:
    insert, update, _, delete = CHILDREN[table]
    asset, watched = writer.asset(writer.user()), writer.asset(owner)
    assert writer.heard() == [("asset", frozenset({watched}))]
    insert(writer, asset)
    writer.execute(update, asset)
    writer.execute(delete, asset)
    writer.execute('UPDATE asset SET "isFavorite" = true WHERE id = %s', asset)
    writer.person(writer.user())
    writer.execute("DELETE FROM asset WHERE id = %s", asset)
    assert writer.heard() == []
    assert writer.errors() == 0


def test_of_a_mixed_statement_only_the_watched_are_named(writer: Immich, owner: UUID) -> None:
    writer.asset(writer.user())
    watched = writer.asset(owner)
    writer.heard()
    writer.execute('UPDATE asset SET "isFavorite" = true')
    assert writer.heard() == [("asset", frozenset({watched}))]


def test_our_own_sessions_are_silent(writer: Immich, owner: UUID) -> None:
    writer.execute("SET face_sync.quiet = 'on'")
    asset = writer.asset(owner)
    writer.person(owner)
    for insert, update, _, delete in CHILDREN.values():
        insert(writer, asset)
        writer.execute(update, asset)
        writer.execute(delete, asset)
    writer.execute("DELETE FROM asset WHERE id = %s", asset)
    assert writer.heard() == []
    writer.execute("SET face_sync.quiet = 'off'")
    writer.asset(owner)
    assert len(writer.heard()) == 1
