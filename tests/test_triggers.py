"""The triggers: what they say for each write of Immich's, and that Immich never fails because of them."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, LiteralString
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import sql

from listener import tracking, triggers
from listener.standin.facts import releases
from listener.standin.snapshot import catalog
from tests.conftest import ImmichDatabase, eventually_async

CHANNEL = "immich_shared_library"
END = "end of what was to be heard"


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


@pytest.fixture
async def conn(immich: ImmichDatabase) -> AsyncIterator[psycopg.AsyncConnection]:
    async with await psycopg.AsyncConnection.connect(immich.conninfo, autocommit=True) as connection:
        yield connection


@pytest.fixture
async def writer(immich: ImmichDatabase, conn: psycopg.AsyncConnection) -> AsyncIterator[Immich]:
    """Immich with triggers installed and nobody watched."""
    await tracking.migrate(conn)
    await triggers.install(conn)
    with immich_at(immich.conninfo) as made:
        yield made


@pytest.fixture
async def owner(writer: Immich, conn: psycopg.AsyncConnection) -> UUID:
    """A user who is in a job."""
    user = writer.user()
    await tracking.set_watched_users(conn, [user])
    return user


every_release = pytest.mark.parametrize("immich", releases(), indirect=True)
on_both_people_models = pytest.mark.parametrize("immich", ["2.0.0", "3.0.3", "3.3.0"], indirect=True)


# What each write says.


def insert_job_status(writer: Immich, asset: UUID) -> None:
    writer.insert("asset_job_status", {"assetId": asset})


def insert_file(writer: Immich, asset: UUID) -> None:
    writer.insert("asset_file", {"assetId": asset})


def insert_embedding(writer: Immich, asset: UUID) -> None:
    writer.insert("smart_search", {"assetId": asset})


def insert_face(writer: Immich, asset: UUID) -> None:
    writer.face(asset)


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
}


@on_both_people_models
@pytest.mark.parametrize("table", CHILDREN)
def test_a_write_to_what_hangs_on_an_asset_names_the_asset(writer: Immich, owner: UUID, table: str) -> None:
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
    writer.execute('UPDATE person SET name = name WHERE "ownerId" = %s', owner)
    assert writer.heard() == []
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


@pytest.mark.parametrize("immich", ["2.0.0"], indirect=True)
def test_a_stack_without_a_cover_column_is_no_error(writer: Immich, owner: UUID) -> None:
    stack = writer.insert("stack", {"ownerId": owner, "primaryAssetId": writer.asset(owner)})[0]
    writer.heard()
    writer.execute('ALTER TABLE stack DROP COLUMN "primaryAssetId" CASCADE, ADD COLUMN note text')
    writer.execute("UPDATE stack SET note = 'x' WHERE id = %s", stack)
    writer.execute("DELETE FROM stack")
    assert writer.heard() == []
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
    for insert, *_ in CHILDREN.values():
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


# Immich never fails because of us.


@pytest.mark.parametrize(
    ("change", "table"),
    [
        ('ALTER TABLE asset_file RENAME "assetId" TO elsewhere', "asset_file"),
        ("ALTER TABLE asset_face RENAME id TO key", "asset_face"),
        ("DROP TABLE _face_sync_watch", "asset_job_status"),
        ("ALTER TABLE _face_sync_watch RENAME user_id TO who", "smart_search"),
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
    column = {"asset_file": "path", "asset_face": "boundingBoxX1"}.get(table, "assetId")
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
def test_columns_go_in_one_transaction_with_rows_changed(writer: Immich, owner: UUID) -> None:
    """What upgrades from 2.0 to 3.2 do to tables of ours, after and before statements of the same session."""
    asset, person = writer.asset(owner), writer.person(owner)
    writer.face(asset, person)
    writer.insert("asset_job_status", {"assetId": asset})
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
    writer.heard()
    writer.execute("UPDATE asset SET width = 2")
    writer.execute("UPDATE person SET name = 'later'")
    assert writer.heard() == [("asset", frozenset({asset})), ("person", frozenset({person}))]
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


def map_copy(writer: Immich, owner: UUID, copy: UUID) -> None:
    writer.execute(
        "INSERT INTO _face_sync_asset_map (source_asset_id, target_asset_id, source_user_id, target_user_id) "
        "VALUES (gen_random_uuid(), %s, gen_random_uuid(), %s)",
        copy,
        owner,
    )


async def test_the_guard_marks_deleted_copies_offline(
    writer: Immich, owner: UUID, conn: psycopg.AsyncConnection
) -> None:
    await triggers.install(conn, guard=True)
    copy, other = writer.assets(owner, 2)
    map_copy(writer, owner, copy)

    def offline() -> dict[UUID, bool]:
        return dict(writer.execute('SELECT id, "isOffline" FROM asset'))

    writer.execute('UPDATE asset SET "deletedAt" = now()')
    assert offline() == {copy: True, other: False}
    writer.execute("UPDATE asset SET status = 'deleted', \"isOffline\" = false")
    assert offline() == {copy: True, other: False}
    writer.execute("UPDATE asset SET \"deletedAt\" = NULL, status = 'active'")
    assert offline() == {copy: False, other: False}
    writer.execute("DROP TABLE _face_sync_asset_map")
    writer.execute('UPDATE asset SET "deletedAt" = now()')
    assert writer.errors() > 0


async def test_the_guard_also_protects_what_was_in_the_trash_before_it(
    writer: Immich, owner: UUID, conn: psycopg.AsyncConnection
) -> None:
    """Immich's nightly purge deletes it without one more UPDATE."""
    copy, other = writer.assets(owner, 2)
    map_copy(writer, owner, copy)
    writer.execute("UPDATE asset SET \"deletedAt\" = now(), status = 'trashed'")
    await triggers.install(conn, guard=True)
    assert dict(writer.execute('SELECT id, "isOffline" FROM asset')) == {copy: True, other: False}


async def test_the_guard_comes_and_goes_as_it_is_needed(writer: Immich, conn: psycopg.AsyncConnection) -> None:
    async def guard(*, needed: bool | None) -> tuple[str, bool]:
        found = await triggers.status(conn, guard=needed)
        return found.guard, found.ok

    plain = catalog(conn.info.dsn)
    assert await guard(needed=True) == ("missing", False)
    assert await guard(needed=False) == ("not needed", True)
    assert (await triggers.install(conn, guard=True)).changed == ("the guard of originals",)
    assert await guard(needed=True) == ("installed", True)
    assert await guard(needed=False) == ("left over", True)
    assert (await triggers.install(conn)).changed == (), "where it cannot be told, it stays"
    assert await guard(needed=None) == ("installed", True)

    writer.execute("ALTER TABLE asset DISABLE TRIGGER _face_sync_guard")
    assert await guard(needed=True) == ("disabled", False)
    await triggers.install(conn, guard=True)
    assert await guard(needed=True) == ("installed", True)
    writer.execute("COMMENT ON TRIGGER _face_sync_guard ON asset IS 'immich-shared-library 0123'")
    assert await guard(needed=True) == ("outdated", False)
    assert await guard(needed=None) == ("outdated", False)
    assert (await triggers.install(conn)).changed == ("the guard of originals",)
    assert await guard(needed=True) == ("installed", True)

    assert (await triggers.install(conn, guard=False)).changed == ("the guard of originals, taken away",)
    assert await guard(needed=False) == ("not needed", True)
    assert catalog(conn.info.dsn) == plain
    await triggers.install(conn, guard=True)
    await triggers.uninstall(conn)
    assert await guard(needed=None) == ("not needed", False)


# In and out of the catalog.


@every_release
async def test_uninstall_leaves_the_catalog_as_it_was(immich: ImmichDatabase, conn: psycopg.AsyncConnection) -> None:
    untouched = catalog(immich.conninfo)
    await tracking.migrate(conn)
    before = catalog(immich.conninfo)

    result = await triggers.install(conn)
    assert result.absent == ()
    assert set(result.changed) == {"notify_change()", "guard_original()", "immich_uuid_v7()", *triggers.TABLES}
    assert (await triggers.status(conn)).ok
    installed = catalog(immich.conninfo)
    assert installed != before
    assert await triggers.install(conn) == triggers.InstallResult(changed=(), absent=())
    assert catalog(immich.conninfo) == installed

    await triggers.uninstall(conn)
    assert catalog(immich.conninfo) == before
    assert not (await triggers.status(conn)).ok
    await triggers.uninstall(conn)
    assert catalog(immich.conninfo) == before

    await triggers.install(conn)
    await triggers.uninstall(conn, purge=True)
    assert catalog(immich.conninfo) == untouched


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


def state(found: triggers.TriggerStatus, table: str) -> triggers.TableStatus:
    return next(entry for entry in found.tables if entry.table == table)


async def test_status_tells_each_state_and_install_mends_it(writer: Immich, conn: psycopg.AsyncConnection) -> None:
    writer.execute("ALTER TABLE asset DISABLE TRIGGER _face_sync_update")
    writer.execute("COMMENT ON TRIGGER _face_sync_insert ON asset_face IS 'immich-shared-library 0123'")
    writer.execute("COMMENT ON TRIGGER _face_sync_delete ON asset_file IS NULL")
    writer.execute("DROP TRIGGER _face_sync_delete ON person")
    writer.execute("ALTER TABLE smart_search ENABLE REPLICA TRIGGER _face_sync_insert")
    writer.execute("COMMENT ON FUNCTION _face_sync.notify_change() IS 'immich-shared-library 0123'")
    found = await triggers.status(conn)
    assert not found.ok
    assert [(f.name, f.state) for f in found.functions] == [
        ("notify_change", "outdated"),
        ("guard_original", "installed"),
        ("immich_uuid_v7", "installed"),
    ]
    assert state(found, "asset") == triggers.TableStatus(
        "asset", "disabled", installed=("insert", "delete"), disabled=("update",)
    )
    assert state(found, "asset_face") == triggers.TableStatus(
        "asset_face", "outdated", installed=("update", "delete"), outdated=("insert",)
    )
    assert state(found, "asset_file").outdated == ("delete",)
    assert state(found, "person") == triggers.TableStatus(
        "person", "missing", installed=("insert", "update"), missing=("delete",)
    )
    assert state(found, "smart_search").disabled == ("insert",)
    assert state(found, "asset_job_status").state == "installed"

    result = await triggers.install(conn)
    assert set(result.changed) == {
        "notify_change()", "asset", "asset_face", "asset_file", "person", "smart_search",
    }  # fmt: skip
    assert (await triggers.status(conn)).ok


async def test_a_trigger_of_our_name_that_calls_something_else_is_outdated(
    writer: Immich, conn: psycopg.AsyncConnection
) -> None:
    writer.execute("CREATE FUNCTION other() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
    writer.execute(
        "CREATE OR REPLACE TRIGGER _face_sync_insert AFTER INSERT ON asset FOR EACH STATEMENT EXECUTE FUNCTION other()"
    )
    assert state(await triggers.status(conn), "asset").outdated == ("insert",)
    await triggers.install(conn)
    assert (await triggers.status(conn)).ok


async def test_a_table_this_release_has_not_is_reported(immich: ImmichDatabase, conn: psycopg.AsyncConnection) -> None:
    await conn.execute("DROP TABLE smart_search CASCADE")
    assert (await triggers.install(conn)).absent == ("smart_search",)
    found = await triggers.status(conn)
    assert state(found, "smart_search").state == "absent"
    assert found.ok


async def test_the_printed_sql_is_what_install_does(immich: ImmichDatabase, conn: psycopg.AsyncConnection) -> None:
    text = triggers.render_install_sql()
    for _ in range(2):
        await conn.execute(text)
        assert (await triggers.status(conn)).ok
    assert await triggers.install(conn) == triggers.InstallResult(changed=(), absent=())
    await tracking.migrate(conn)
    await conn.execute(triggers.render_install_sql(guard=True))
    assert (await triggers.status(conn, guard=True)).guard == "installed"


async def test_a_locked_table_is_tried_again_until_it_is_free(
    immich: ImmichDatabase, conn: psycopg.AsyncConnection
) -> None:
    attempts_seen: set[object] = set()
    async with await psycopg.AsyncConnection.connect(immich.conninfo) as holder:
        await holder.execute("LOCK TABLE person IN ROW EXCLUSIVE MODE")
        installing = asyncio.create_task(triggers.install(conn, lock_timeout_ms=30, attempts=100))

        async def second_attempt() -> bool:
            cursor = await holder.execute(
                "SELECT waitstart FROM pg_locks WHERE relation = 'person'::regclass AND NOT granted "
                "AND waitstart IS NOT NULL"
            )
            attempts_seen.update(row[0] for row in await cursor.fetchall())
            return len(attempts_seen) >= 2

        await eventually_async(second_attempt, describe="a second attempt at the lock")
        assert not installing.done()
        await holder.rollback()
    await installing
    assert (await triggers.status(conn)).ok


async def test_a_lock_that_stays_ends_in_words_and_the_rest_is_kept(
    immich: ImmichDatabase, conn: psycopg.AsyncConnection
) -> None:
    async with await psycopg.AsyncConnection.connect(immich.conninfo) as holder:
        await holder.execute("LOCK TABLE person IN ROW EXCLUSIVE MODE")
        with pytest.raises(triggers.TriggerError, match=r"kept the table person locked: 2 attempts of 20 ms"):
            await triggers.install(conn, lock_timeout_ms=20, attempts=2)
        assert {t.table for t in (await triggers.status(conn)).tables if t.state != "installed"} == {"person", "stack"}
        # The locks of the failed attempt are gone.
        await holder.execute("LOCK TABLE asset, asset_face IN ACCESS EXCLUSIVE MODE NOWAIT")
        await holder.rollback()
        await triggers.install(conn)
        assert (await triggers.status(conn)).ok
        await holder.execute("LOCK TABLE person IN ROW EXCLUSIVE MODE")
        with pytest.raises(triggers.TriggerError, match="kept the table person locked"):
            await triggers.uninstall(conn, lock_timeout_ms=20, attempts=2)


async def test_two_installers_at_once_both_succeed(immich: ImmichDatabase, conn: psycopg.AsyncConnection) -> None:
    async with await psycopg.AsyncConnection.connect(immich.conninfo, autocommit=True) as other:
        await asyncio.gather(triggers.install(conn), triggers.install(other))
    assert (await triggers.status(conn)).ok


async def test_the_owner_of_the_tables_is_enough(immich: ImmichDatabase, conn: psycopg.AsyncConnection) -> None:
    """No superuser: owns Immich's tables and may create in the database and in public."""
    role = sql.Identifier(f"owner_{uuid4().hex}")
    database = sql.Identifier(conn.info.dbname)
    await conn.execute(sql.SQL("CREATE ROLE {}").format(role))
    try:
        await conn.execute(sql.SQL("GRANT CREATE ON SCHEMA public TO {}").format(role))
        for table in triggers.TABLES:
            await conn.execute(sql.SQL("ALTER TABLE {} OWNER TO {}").format(sql.Identifier("public", table), role))
        await conn.execute(sql.SQL("SET ROLE {}").format(role))
        await tracking.migrate(conn)
        with pytest.raises(triggers.TriggerError, match=r"may need CREATE on the database.*triggers print"):
            await triggers.install(conn)
        await conn.execute("RESET ROLE")
        await conn.execute(sql.SQL("GRANT CREATE ON DATABASE {} TO {}").format(database, role))
        await conn.execute(sql.SQL("SET ROLE {}").format(role))
        await triggers.install(conn)
        assert (await triggers.status(conn)).ok
        with immich_at(immich.conninfo) as writer:
            user = writer.user()
            await tracking.set_watched_users(conn, [user])
            asset = writer.asset(user)
            writer.face(asset)
            assert writer.heard() == [("asset", frozenset({asset}))] * 2
            assert writer.errors() == 0
        await triggers.uninstall(conn, purge=True)
    finally:
        await conn.execute("RESET ROLE")
        await conn.execute(sql.SQL("REASSIGN OWNED BY {} TO CURRENT_USER").format(role))
        await conn.execute(sql.SQL("DROP OWNED BY {}").format(role))
        await conn.execute(sql.SQL("DROP ROLE {}").format(role))


async def test_uninstall_leaves_what_is_not_ours(writer: Immich, conn: psycopg.AsyncConnection) -> None:
    writer.execute("CREATE TABLE _face_sync.somebodys (x integer)")
    with pytest.raises(triggers.TriggerError, match="not ours"):
        await triggers.uninstall(conn)
    assert writer.execute("SELECT count(*) FROM _face_sync.somebodys") == [(0,)]


async def test_inside_a_transaction_it_refuses(immich: ImmichDatabase) -> None:
    async with await psycopg.AsyncConnection.connect(immich.conninfo) as conn:
        await conn.execute("SELECT 1")
        with pytest.raises(psycopg.ProgrammingError, match="in a transaction"):
            await triggers.install(conn)
