"""The stand-in for Immich's schema: functions and triggers that do what Immich's do."""

import datetime as dt
import time
import uuid
from uuid import UUID

import pytest
from psycopg import sql

from tests.standin.releases import Database, on

pytest_plugins = ("tests.standin.schema_fixtures",)

# Functions


def test_ids_are_time_ordered_uuids_of_version_7(db: Database) -> None:
    before = time.time()
    made = [row[0] for row in db.conn.execute("SELECT immich_uuid_v7() FROM generate_series(1, 500)")]
    after = time.time()

    assert all(one.version == 7 and one.variant == uuid.RFC_4122 for one in made)
    assert len(set(made)) == 500
    stamps = [one.int >> 80 for one in made]
    assert stamps == sorted(stamps)
    assert before * 1000 - 1 <= stamps[0] <= stamps[-1] <= after * 1000 + 1


def test_an_id_carries_the_millisecond_it_is_asked_for(db: Database) -> None:
    row = db.conn.execute("SELECT immich_uuid_v7('2026-01-02 03:04:05.678901+00')").fetchone()
    assert row is not None
    at = dt.datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=dt.UTC)
    assert row[0].int >> 80 == round(at.timestamp() * 1000)


def test_accents_are_dropped_for_search(db: Database) -> None:
    row = db.conn.execute("SELECT f_unaccent('Crème Brûlée, Ångström, 東京')").fetchone()
    assert row == ("Creme Brulee, Angstrom, 東京",)


# Stamps


@on()
def test_every_update_stamps_a_row_whatever_it_says(db: Database) -> None:
    asset = db.asset(db.user())
    ((first_id, first_at),) = db.rows("asset", "updateId", "updatedAt")
    given = uuid.uuid4()

    db.conn.execute('UPDATE asset SET "updateId" = %s, "updatedAt" = \'2001-01-01\'', [given])
    ((second_id, second_at),) = db.rows("asset", "updateId", "updatedAt")
    assert second_id not in {given, first_id}
    assert second_at > first_at
    assert second_id.int >> 80 == int(second_at.timestamp() * 1000)

    db.conn.execute("UPDATE asset SET id = id WHERE id = %s", [asset])
    ((third_id, third_at),) = db.rows("asset", "updateId", "updatedAt")
    assert third_id != second_id
    assert third_at > second_at


def test_an_insert_keeps_the_stamps_it_gives(db: Database) -> None:
    given = (uuid.uuid4(), dt.datetime(2001, 1, 1, tzinfo=dt.UTC))
    db.insert("asset", ownerId=db.user(), updateId=given[0], updatedAt=given[1])
    assert db.rows("asset", "updateId", "updatedAt") == [given]


@on()
def test_every_stamped_table_has_the_columns_of_the_stamp(db: Database) -> None:
    for name, table in db.facts.tables.items():
        if any(trigger.function == "updated_at" for trigger in table.triggers):
            assert {"updatedAt", "updateId"} <= set(table.column_names()), name


# Audit


@on()
def test_deleted_rows_are_recorded(db: Database) -> None:
    user = db.user()
    asset, person, face, stack = db.asset(user), db.person(user), uuid.uuid4(), uuid.uuid4()
    db.insert("asset_face", id=face, assetId=asset)
    db.insert("asset_metadata", assetId=asset, key="mobile-app")
    db.insert("stack", id=stack, ownerId=user, primaryAssetId=asset)

    db.delete("asset_face", id=face)
    db.delete("asset_metadata", assetId=asset)
    db.delete("stack", id=stack)
    db.delete("person", ownerId=user)
    db.delete("asset", id=asset)
    db.delete("user", id=user)

    assert db.rows("asset_face_audit", "assetFaceId", "assetId") == [(face, asset)]
    assert db.rows("asset_metadata_audit", "assetId", "key") == [(asset, "mobile-app")]
    assert db.rows("stack_audit", "stackId", "userId") == [(stack, user)]
    key = db.column("person_audit", "personId", "personGroupId")
    assert db.rows("person_audit", key, "ownerId") == [(person, user)]
    assert db.rows("asset_audit", "assetId", "ownerId") == [(asset, user)]
    assert db.rows("user_audit", "userId") == [(user,)]


@on()
def test_rows_that_a_cascade_deletes_are_not_recorded(db: Database) -> None:
    user = db.user()
    asset = db.asset(user)
    db.insert("asset_face", assetId=asset)
    db.insert("asset_metadata", assetId=asset)
    person = db.person(user)

    db.delete("user", id=user)

    assert db.rows("asset", "id") == db.rows("asset_face", "id") == db.rows("person", "ownerId") == []
    assert db.rows("asset_audit", "id") == db.rows("asset_face_audit", "id") == []
    assert db.rows("asset_metadata_audit", "id") == []
    # From 3.2.0 a person is recorded also when it goes with its user or group.
    recorded = [(person,)] if "person_group" in db.facts.tables else []
    assert db.rows("person_audit", db.column("person_audit", "personId", "personGroupId")) == recorded


@on()
def test_one_statement_records_every_row_it_deletes(db: Database) -> None:
    user = db.user()
    assets = {db.asset(user) for _ in range(5)}
    db.delete("asset", ownerId=user)
    assert {key for (key,) in db.rows("asset_audit", "assetId")} == assets


@on("3.0.0")
def test_deleted_text_of_a_photo_is_recorded(db: Database) -> None:
    user = db.user()
    kept, gone = db.asset(user), db.asset(user)
    db.insert("asset_ocr", assetId=kept)
    db.insert("asset_ocr", assetId=gone)
    db.delete("asset_ocr", assetId=kept)
    db.delete("asset", id=gone)
    assert db.rows("asset_ocr_audit", "assetId") == [(kept,)]


@on("3.2.0")
def test_a_deleted_group_of_people_is_recorded_and_takes_its_people(db: Database) -> None:
    user = db.user()
    group = db.person(user)
    db.delete("person_group", id=group)
    assert db.rows("person_group_audit", "personGroupId", "clusterGroupId") == [(group, user)]
    assert db.rows("person_audit", "personGroupId", "ownerId") == [(group, user)]


@on()
def test_photos_leaving_an_album_or_memory_are_recorded_while_it_exists(db: Database) -> None:
    user = db.user()
    album, memory = db.album(user), uuid.uuid4()
    assets = [db.asset(user) for _ in range(3)]
    db.insert("memory", id=memory)
    asset_id = db.column("album_asset", "assetId", "assetsId")
    album_id = db.column("album_asset", "albumId", "albumsId")
    for asset in assets:
        db.insert("album_asset", **{album_id: album, asset_id: asset})
        db.insert("memory_asset", **{"memoriesId": memory, asset_id: asset})

    db.delete("album_asset", **{asset_id: assets[0]})  # by hand
    db.delete("memory_asset", **{asset_id: assets[0]})
    db.delete("asset", id=assets[1])  # by cascade from the asset
    recorded = {(album, assets[0]), (album, assets[1])}
    assert set(db.rows("album_asset_audit", "albumId", "assetId")) == recorded
    assert set(db.rows("memory_asset_audit", "memoryId", "assetId")) == {(memory, a) for _, a in recorded}

    db.delete("album", id=album)
    db.delete("memory", id=memory)
    assert db.rows("album_asset", album_id) == db.rows("memory_asset", "memoriesId") == []
    # The album's own records went with it, and its last photo made no new one.
    assert db.rows("album_asset_audit", "id") == db.rows("memory_asset_audit", "id") == []


# Albums


@on()
def test_a_member_who_leaves_is_recorded(db: Database) -> None:
    owner, member = db.user(), db.user()
    album = db.album(owner)
    db.member(album, member)
    db.remove_member(member)
    assert db.rows("album_audit", "albumId", "userId") == [(album, member)]
    assert db.rows("album_user_audit", "albumId", "userId") == [(album, member)]
    assert db.rows("album", "id") == [(album,)]


@on()
def test_an_album_that_goes_is_recorded_for_each_of_its_people(db: Database) -> None:
    owner, member = db.user(), db.user()
    album = db.album(owner)
    db.member(album, member)
    db.delete("album", id=album)
    assert set(db.rows("album_audit", "albumId", "userId")) == {(album, owner), (album, member)}
    # A foreign key's cascade runs the function at depth 1, as a statement of a client does.
    owner_row = "owner" in db.facts.enums.get("album_user_role_enum", ())
    gone = {(album, owner), (album, member)} if owner_row else {(album, member)}
    assert set(db.rows("album_user_audit", "albumId", "userId")) == gone


@on()
def test_a_member_whom_a_trigger_removes_is_recorded_for_the_album_only(db: Database) -> None:
    member = db.user()
    album = db.album(db.user())
    db.member(album, member)
    db.conn.execute(
        sql.SQL(
            """
            CREATE FUNCTION leave() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN DELETE FROM album_user WHERE {} = OLD.id; RETURN OLD; END';
            CREATE TRIGGER leave BEFORE DELETE ON "user" FOR EACH ROW EXECUTE FUNCTION leave()
            """
        ).format(sql.Identifier(db.column("album_user", "userId", "usersId")))
    )
    db.delete("user", id=member)
    assert db.rows("album_audit", "albumId", "userId") == [(album, member)]
    assert db.rows("album_user_audit", "id") == []


@on()
def test_a_new_member_stamps_the_album(db: Database) -> None:
    album, other = db.album(db.user()), db.album(db.user())
    before = db.rows("album", "updateId", id=album)
    untouched = db.rows("album", "updateId", id=other)
    db.member(album, db.user())
    assert db.rows("album", "updateId", id=album) != before
    assert db.rows("album", "updateId", id=other) == untouched


@on("3.0.0")
def test_an_owner_who_comes_does_not_stamp_the_album(db: Database) -> None:
    album = uuid.uuid4()
    db.insert("album", id=album)
    before = db.rows("album", "updateId")
    db.member(album, db.user(), role="owner")
    assert db.rows("album", "updateId") == before


@on("3.2.0")
def test_an_album_goes_with_its_owners_membership(db: Database) -> None:
    owner, member = db.user(), db.user()
    album, other = db.album(owner), db.album(member)
    db.member(album, member)
    db.remove_member(owner)
    assert db.rows("album", "id") == [(other,)]
    assert {user for (user,) in db.rows("album_user_audit", "userId")} == {owner}


# Edits


@on("2.5.0")
def test_an_asset_is_edited_as_long_as_it_has_edits(db: Database) -> None:
    user = db.user()
    asset, other = db.asset(user), db.asset(user)
    edits = [uuid.uuid4(), uuid.uuid4()]

    db.insert("asset_edit", id=edits[0], assetId=asset, action="crop", sequence=0)
    ((edited, stamp),) = db.rows("asset", "isEdited", "updateId", id=asset)
    assert edited is True
    db.insert("asset_edit", id=edits[1], assetId=asset, action="rotate", sequence=1)
    assert db.rows("asset", "isEdited", "updateId", id=asset) == [(True, stamp)]

    db.delete("asset_edit", id=edits[0])
    assert db.rows("asset", "isEdited", "updateId", id=asset) == [(True, stamp)]
    db.delete("asset_edit", id=edits[1])
    assert db.rows("asset", "isEdited", id=asset) == [(False,)]
    assert db.rows("asset", "isEdited", id=other) == [(False,)]
    if "asset_edit_audit" in db.facts.tables:
        assert set(db.rows("asset_edit_audit", "editId", "assetId")) == {(edit, asset) for edit in edits}


# Shared people, from 3.3.0


def _share(db: Database, group: UUID, by: UUID, to: UUID) -> None:
    db.insert("person_user", personGroupId=group, sharedById=by, sharedWithId=to, role="read")


@on("3.3.0")
def test_a_shared_person_appears_with_name_and_birth_date(db: Database) -> None:
    sharer, receiver = db.user(), db.user()
    born = dt.date(1990, 1, 2)
    group = db.person(sharer, name="Anna", birthDate=born)
    _share(db, group, sharer, receiver)
    assert db.rows("person", "personGroupId", "name", "birthDate", ownerId=receiver) == [(group, "Anna", born)]


@on("3.3.0")
@pytest.mark.parametrize(
    ("name", "born", "name_then", "born_then"),
    [
        ("", None, "Anna", 1990),
        ("Mum", None, "Mum", 1990),
        ("", 1991, "Anna", 1991),
        ("Mum", 1991, "Mum", 1991),
    ],
)
def test_a_share_fills_in_only_what_the_receiver_left_empty(
    db: Database, name: str, born: int | None, name_then: str, born_then: int
) -> None:
    sharer, receiver = db.user(), db.user()
    group = db.person(sharer, name="Anna", birthDate=dt.date(1990, 1, 1))
    own = dt.date(born, 1, 1) if born else None
    db.insert("person", ownerId=receiver, personGroupId=group, name=name, birthDate=own)
    before = db.rows("person", "updateId", ownerId=receiver)

    _share(db, group, sharer, receiver)

    then = (name_then, dt.date(born_then, 1, 1))
    assert db.rows("person", "name", "birthDate", ownerId=receiver) == [then]
    assert (db.rows("person", "updateId", ownerId=receiver) == before) == (then == (name, own))


@on("3.3.0")
def test_deleting_a_person_ends_what_was_shared_with_and_by_its_owner(db: Database) -> None:
    sharer, receiver, third = db.user(), db.user(), db.user()
    group, other = db.person(sharer), db.person(sharer)
    for one in (group, other):
        _share(db, one, sharer, receiver)
    _share(db, group, receiver, third)

    db.delete("person", ownerId=receiver, personGroupId=group)

    assert db.rows("person_user", "personGroupId", "sharedById", "sharedWithId") == [(other, sharer, receiver)]
    assert db.rows("person", "personGroupId", ownerId=sharer) != []
