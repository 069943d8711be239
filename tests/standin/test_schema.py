"""The stand-in for Immich's schema: the same catalog as the facts say, and triggers that do what they say."""

import datetime as dt
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from listener.standin import facts, schema
from listener.standin.postgres import create_database, drop_database
from tests.behaviour.conftest import SAME_TABLES
from tests.conftest import DEFAULT_RELEASE

RELEASES = schema.releases()

_FILLERS: dict[str, Callable[[], object]] = {
    "uuid": uuid.uuid4,
    "text": lambda: "filler",
    "character varying": lambda: uuid.uuid4().hex,
    "timestamp with time zone": lambda: dt.datetime.now(dt.UTC),
    "bytea": lambda: uuid.uuid4().bytes,
    "jsonb": lambda: "{}",
    "integer": lambda: 1,
    "real": lambda: 0.5,
    "asset_checksum_algorithm_enum": lambda: "sha1",
    "person_user_role_enum": lambda: "read",
}


def _numbers(release: str) -> list[int]:
    return [int(part) for part in release.split(".")]


def _on(first: str = "0.0.0", before: str = "9.9.9") -> pytest.MarkDecorator:
    """Run a test on a database of each release from ``first`` up to, not including, ``before``."""
    chosen = [r for r in RELEASES if _numbers(first) <= _numbers(r) < _numbers(before)]
    return pytest.mark.parametrize("db", chosen, indirect=True)


@dataclass(frozen=True)
class Database:
    """A connection to a database of one release, with what the tests do over and over."""

    conn: psycopg.Connection[tuple[Any, ...]]
    release: str
    facts: facts.Facts

    def column(self, table: str, *candidates: str) -> str:
        """Return the one of the names that the table has: releases differ."""
        return next(name for name in candidates if name in self.facts.tables[table].column_names())

    def insert(self, table: str, **values: object) -> None:
        """Insert a row; columns that must be given and are not get fillers."""
        for column in self.facts.tables[table].columns if table in self.facts.tables else ():
            if not column.nullable and column.default is None and column.name not in values:
                values[column.name] = _FILLERS[column.type]()
        self.conn.execute(
            sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
                sql.Identifier(table),
                sql.SQL(", ").join(sql.Identifier(name) for name in values),
                sql.SQL(", ").join(sql.Placeholder() for _ in values),
            ),
            list(values.values()),
        )

    def delete(self, table: str, **where: object) -> None:
        """Delete the rows with these values."""
        self.conn.execute(
            sql.SQL("DELETE FROM {} WHERE {}").format(sql.Identifier(table), _matches(where)),
            list(where.values()),
        )

    def rows(self, table: str, *columns: str, **where: object) -> list[tuple[Any, ...]]:
        """Return these columns of the rows with these values, in any order."""
        query = sql.SQL("SELECT {} FROM {} WHERE {}").format(
            sql.SQL(", ").join(sql.Identifier(name) for name in columns),
            sql.Identifier(table),
            _matches(where),
        )
        return self.conn.execute(query, list(where.values())).fetchall()

    def user(self) -> UUID:
        key = uuid.uuid4()
        if "cluster_group" in self.facts.tables:
            self.insert("cluster_group", id=key)
            self.insert("user", id=key, clusterGroupId=key)
        else:
            self.insert("user", id=key)
        return key

    def asset(self, owner: UUID) -> UUID:
        key = uuid.uuid4()
        self.insert("asset", id=key, ownerId=owner)
        return key

    def person(self, owner: UUID, **values: object) -> UUID:
        """Make a person, from 3.2.0 with a group of its own; return what a face refers to."""
        key = uuid.uuid4()
        if "person_group" in self.facts.tables:
            self.insert("person_group", id=key, clusterGroupId=owner)
            self.insert("person", ownerId=owner, personGroupId=key, **values)
        else:
            self.insert("person", ownerId=owner, id=key, **values)
        return key

    def album(self, owner: UUID) -> UUID:
        key = uuid.uuid4()
        if "ownerId" in self.facts.tables["album"].column_names():
            self.insert("album", id=key, ownerId=owner)
        else:
            self.insert("album", id=key)
            self.member(key, owner, role="owner")
        return key

    def member(self, album: UUID, user: UUID, **values: object) -> None:
        album_id = self.column("album_user", "albumId", "albumsId")
        user_id = self.column("album_user", "userId", "usersId")
        self.insert("album_user", **{album_id: album, user_id: user}, **values)

    def remove_member(self, user: UUID) -> None:
        self.delete("album_user", **{self.column("album_user", "userId", "usersId"): user})


def _matches(where: dict[str, object]) -> sql.Composable:
    conditions = [sql.SQL("{} = %s").format(sql.Identifier(name)) for name in where]
    return sql.SQL(" AND ").join([sql.SQL("true"), *conditions])


@pytest.fixture(scope="module")
def conninfo_of(server: str, template: Callable[[str], str]) -> Iterator[Callable[[str], str]]:
    """Return a function from a release to the conninfo of a database that the tests here share."""
    made: dict[str, str] = {}

    def database(release: str) -> str:
        if release not in made:
            made[release] = create_database(server, f"schema_{uuid.uuid4().hex}", template(release))
        return made[release]

    yield database
    for conninfo in made.values():
        drop_database(server, str(conninfo_to_dict(conninfo)["dbname"]))


@pytest.fixture
def db(request: pytest.FixtureRequest, conninfo_of: Callable[[str], str]) -> Iterator[Database]:
    """Return a database of 3.0.3, or of the releases that `_on` names; nothing of a test stays in it."""
    release = getattr(request, "param", DEFAULT_RELEASE)
    with psycopg.connect(conninfo_of(release)) as conn, conn.transaction(force_rollback=True):
        yield Database(conn, release, schema.load_facts(release))


# The catalog


def test_all_twelve_releases_are_there_oldest_first() -> None:
    assert len(RELEASES) == 12
    assert (RELEASES[0], RELEASES[-1]) == ("2.0.0", "3.3.0")
    assert sorted(RELEASES, key=_numbers) == list(RELEASES)


@pytest.mark.parametrize(("release", "as_in"), SAME_TABLES.items())
def test_releases_that_behaviour_tests_take_for_one_have_the_same_tables(release: str, as_in: str) -> None:
    one, other = schema.load_facts(release), schema.load_facts(as_in)
    assert (one.tables, one.enums) == (other.tables, other.enums)


def test_a_release_without_facts_is_refused_by_name(empty_database: str) -> None:
    with psycopg.connect(empty_database) as conn, pytest.raises(ValueError, match=r"1\.99\.0.*2\.0\.0, "):
        schema.build(conn, "1.99.0")


@pytest.mark.parametrize("release", RELEASES)
def test_the_catalog_of_a_built_database_is_the_facts(empty_database: str, release: str) -> None:
    with psycopg.connect(empty_database) as conn:
        left_out = {line.split()[1]: line for line in schema.build(conn, release)}
        built = schema.read_facts(conn)
        extensions = {name for (name,) in conn.execute("SELECT extname FROM pg_extension")}
    expected = schema.load_facts(release)

    assert built.enums == expected.enums
    assert built.tables.keys() - expected.tables.keys() == {"memory", "shared_link", "kysely_migrations"}
    unbuildable: set[str] = set()
    for name, table in expected.tables.items():
        for index in table.indexes:
            trigram = "gin_trgm_ops" in index.opclass and "pg_trgm" not in extensions
            globe = "ll_to_earth_public" in index.columns[0] and "earthdistance" not in extensions
            if trigram or globe:
                unbuildable.add(index.name)
                assert f" on {name}: " in left_out[index.name]
        indexes = tuple(index for index in table.indexes if index.name not in unbuildable)
        assert built.tables[name] == replace(table, indexes=indexes), name
    assert left_out.keys() == unbuildable


def test_a_difference_in_any_part_of_a_table_shows(empty_database: str) -> None:
    """The comparison itself: each of these changes must make the catalog unlike the facts."""
    changes = (
        "ALTER TABLE person ALTER color SET NOT NULL",
        "ALTER TABLE person ALTER name SET DEFAULT 'x'",
        "ALTER TABLE person ALTER color TYPE text",
        'ALTER TABLE person DROP CONSTRAINT "person_birthDate_chk"',
        'ALTER TABLE person DROP CONSTRAINT "person_faceAssetId_fkey"',
        'DROP INDEX "person_updateId_idx"',
        'DROP TRIGGER "person_updatedAt" ON person',
        # The same trigger without its condition.
        """CREATE OR REPLACE TRIGGER person_delete_audit AFTER DELETE ON person
        REFERENCING OLD TABLE AS old FOR EACH STATEMENT EXECUTE FUNCTION person_delete_audit()""",
    )
    with psycopg.connect(empty_database) as conn:
        schema.build(conn, "3.0.3")
        before = schema.read_facts(conn).tables["person"]
        for change in changes:
            with conn.transaction(force_rollback=True):
                conn.execute(change)
                assert schema.read_facts(conn).tables["person"] != before, change
        assert schema.read_facts(conn).tables["person"] == before


def test_a_build_that_fails_leaves_nothing(empty_database: str) -> None:
    with psycopg.connect(empty_database, autocommit=True) as conn:
        conn.execute("CREATE TABLE asset (id integer)")
        with pytest.raises(psycopg.errors.DuplicateTable):
            schema.build(conn, "3.0.3")
        assert schema.read_facts(conn).tables.keys() == {"asset"}
        assert schema.read_facts(conn).enums == {}


@_on()
def test_a_server_of_the_release_seems_to_have_been_here(db: Database) -> None:
    assert db.rows("version_history", "version") == [(db.release,)]
    noted = [name for (name,) in db.rows("kysely_migrations", "name")]
    assert sorted(noted) == sorted(facts.applied_migrations(db.release))
    assert len(noted) >= 35


def test_releases_with_unknown_migrations_show_those_of_the_one_before() -> None:
    assert facts.applied_migrations("3.3.0") == facts.applied_migrations("3.1.0")
    assert facts.applied_migrations("3.1.0") != facts.applied_migrations("3.0.3")


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


@_on()
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


@_on()
def test_every_stamped_table_has_the_columns_of_the_stamp(db: Database) -> None:
    for name, table in db.facts.tables.items():
        if any(trigger.function == "updated_at" for trigger in table.triggers):
            assert {"updatedAt", "updateId"} <= set(table.column_names()), name


# Audit


@_on()
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


@_on()
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


@_on()
def test_one_statement_records_every_row_it_deletes(db: Database) -> None:
    user = db.user()
    assets = {db.asset(user) for _ in range(5)}
    db.delete("asset", ownerId=user)
    assert {key for (key,) in db.rows("asset_audit", "assetId")} == assets


@_on("3.0.0")
def test_deleted_text_of_a_photo_is_recorded(db: Database) -> None:
    user = db.user()
    kept, gone = db.asset(user), db.asset(user)
    db.insert("asset_ocr", assetId=kept)
    db.insert("asset_ocr", assetId=gone)
    db.delete("asset_ocr", assetId=kept)
    db.delete("asset", id=gone)
    assert db.rows("asset_ocr_audit", "assetId") == [(kept,)]


@_on("3.2.0")
def test_a_deleted_group_of_people_is_recorded_and_takes_its_people(db: Database) -> None:
    user = db.user()
    group = db.person(user)
    db.delete("person_group", id=group)
    assert db.rows("person_group_audit", "personGroupId", "clusterGroupId") == [(group, user)]
    assert db.rows("person_audit", "personGroupId", "ownerId") == [(group, user)]


@_on()
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


@_on()
def test_a_member_who_leaves_is_recorded(db: Database) -> None:
    owner, member = db.user(), db.user()
    album = db.album(owner)
    db.member(album, member)
    db.remove_member(member)
    assert db.rows("album_audit", "albumId", "userId") == [(album, member)]
    assert db.rows("album_user_audit", "albumId", "userId") == [(album, member)]
    assert db.rows("album", "id") == [(album,)]


@_on()
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


@_on()
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


@_on()
def test_a_new_member_stamps_the_album(db: Database) -> None:
    album, other = db.album(db.user()), db.album(db.user())
    before = db.rows("album", "updateId", id=album)
    untouched = db.rows("album", "updateId", id=other)
    db.member(album, db.user())
    assert db.rows("album", "updateId", id=album) != before
    assert db.rows("album", "updateId", id=other) == untouched


@_on("3.0.0")
def test_an_owner_who_comes_does_not_stamp_the_album(db: Database) -> None:
    album = uuid.uuid4()
    db.insert("album", id=album)
    before = db.rows("album", "updateId")
    db.member(album, db.user(), role="owner")
    assert db.rows("album", "updateId") == before


@_on("3.2.0")
def test_an_album_goes_with_its_owners_membership(db: Database) -> None:
    owner, member = db.user(), db.user()
    album, other = db.album(owner), db.album(member)
    db.member(album, member)
    db.remove_member(owner)
    assert db.rows("album", "id") == [(other,)]
    assert {user for (user,) in db.rows("album_user_audit", "userId")} == {owner}


# Edits


@_on("2.5.0")
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


@_on("3.3.0")
def test_a_shared_person_appears_with_name_and_birth_date(db: Database) -> None:
    sharer, receiver = db.user(), db.user()
    born = dt.date(1990, 1, 2)
    group = db.person(sharer, name="Anna", birthDate=born)
    _share(db, group, sharer, receiver)
    assert db.rows("person", "personGroupId", "name", "birthDate", ownerId=receiver) == [(group, "Anna", born)]


@_on("3.3.0")
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


@_on("3.3.0")
def test_deleting_a_person_ends_what_was_shared_with_and_by_its_owner(db: Database) -> None:
    sharer, receiver, third = db.user(), db.user(), db.user()
    group, other = db.person(sharer), db.person(sharer)
    for one in (group, other):
        _share(db, one, sharer, receiver)
    _share(db, group, receiver, third)

    db.delete("person", ownerId=receiver, personGroupId=group)

    assert db.rows("person_user", "personGroupId", "sharedById", "sharedWithId") == [(other, sharer, receiver)]
    assert db.rows("person", "personGroupId", ownerId=sharer) != []
