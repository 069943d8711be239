"""The tracking tables: made fresh, adopted from older sidecars with all rows, never taken back."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import scalar_row, tuple_row

from listener import tracking
from tests.conftest import ImmichDatabase, eventually_async

Connection = psycopg.AsyncConnection[tuple[Any, ...]]

# The layouts of the older sidecars. Version 1 is told from the others by its keys, version 3 dropped the
# person map; 2 and 4 look alike.
ASSET_MAP = """
CREATE TABLE _face_sync_asset_map (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(), source_asset_id uuid NOT NULL,
  target_asset_id uuid NOT NULL UNIQUE, source_user_id uuid NOT NULL, target_user_id uuid NOT NULL,
  synced_at timestamptz NOT NULL DEFAULT now(), {key})
"""
PERSON_MAP = """
CREATE TABLE _face_sync_person_map (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(), source_person_id uuid NOT NULL,
  target_person_id uuid NOT NULL, source_user_id uuid NOT NULL, target_user_id uuid NOT NULL,
  UNIQUE (source_person_id, target_user_id));
CREATE INDEX some_other_name ON _face_sync_person_map (target_person_id)
"""
SKIPPED = """
CREATE TABLE _face_sync_skipped (
  source_asset_id uuid NOT NULL, target_user_id uuid NOT NULL, reason text,
  skipped_at timestamptz DEFAULT now(), PRIMARY KEY (source_asset_id, target_user_id))
"""
SKIPPED_1 = """
CREATE TABLE _face_sync_skipped (
  source_asset_id uuid PRIMARY KEY, reason text, skipped_at timestamptz DEFAULT now())
"""
META = "CREATE TABLE _face_sync_meta (key text PRIMARY KEY, value text NOT NULL)"

SOURCE, TARGET = UUID(int=1), UUID(int=2)

LAYOUT = """
SELECT c.relname, jsonb_build_object(
  'columns', (
    SELECT jsonb_object_agg(a.attname, ARRAY[
      format_type(a.atttypid, a.atttypmod), a.attnotnull::text, pg_get_expr(d.adbin, d.adrelid)])
    FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
  'indexes', (
    SELECT jsonb_agg(definition ORDER BY definition) FROM (
      SELECT regexp_replace(pg_get_indexdef(i.indexrelid), 'INDEX \\S+ ', '') AS definition
      FROM pg_index i WHERE i.indrelid = c.oid) AS x))::text
FROM pg_class c WHERE c.relname LIKE '\\_face\\_sync%' AND c.relkind = 'r' ORDER BY 1
"""


@pytest.fixture
async def conn(empty_database: str) -> AsyncIterator[Connection]:
    async with await psycopg.AsyncConnection.connect(empty_database, autocommit=True) as connection:
        yield connection


async def layout(conn: Connection) -> dict[str, str]:
    """Tables with their columns (without order) and indexes (without names)."""
    return dict(await (await conn.execute(LAYOUT)).fetchall())


async def rows(conn: Connection, query: str) -> list[tuple[Any, ...]]:
    return await (await conn.execute(query)).fetchall()


async def contents(conn: Connection, name: str) -> list[dict[str, Any]]:
    query = sql.SQL("SELECT to_jsonb(t) FROM {} AS t").format(sql.Identifier(f"_face_sync_{name}"))
    return [row[0] for row in await (await conn.execute(query)).fetchall()]


async def old_sidecar(conn: Connection, version: int) -> tuple[UUID, UUID]:
    """Make the tables of an older sidecar with some rows; return a source asset and its copy."""
    one = version == 1
    key = "UNIQUE (source_asset_id)" if one else "UNIQUE (source_asset_id, target_user_id)"
    for statement in (META, ASSET_MAP.format(key=key), SKIPPED_1 if one else SKIPPED):
        await conn.execute(statement)
    if version != 3:
        await conn.execute(PERSON_MAP)
        await conn.execute(
            "INSERT INTO _face_sync_person_map (source_person_id, target_person_id, source_user_id, "
            "target_user_id) VALUES (gen_random_uuid(), gen_random_uuid(), %s, %s)",
            (SOURCE, TARGET),
        )
    await conn.execute("INSERT INTO _face_sync_meta VALUES ('schema_version', %s), ('other', 'x')", (version,))
    asset, copy = uuid4(), uuid4()
    await conn.execute(
        "INSERT INTO _face_sync_asset_map (source_asset_id, target_asset_id, source_user_id, target_user_id) "
        "VALUES (%s, %s, %s, %s)",
        (asset, copy, SOURCE, TARGET),
    )
    if one:
        await conn.execute(
            "INSERT INTO _face_sync_skipped (source_asset_id, reason) VALUES (gen_random_uuid(), 'duplicate_filename')"
        )
    else:
        await conn.execute(
            "INSERT INTO _face_sync_skipped (source_asset_id, target_user_id, reason) "
            "VALUES (gen_random_uuid(), %s, 'duplicate_checksum')",
            (TARGET,),
        )
    return asset, copy


async def test_a_fresh_database_gets_the_tables_once(conn: Connection) -> None:
    assert await tracking.read_version(conn) is None
    assert await tracking.migrate(conn) == [5, 6]
    assert await tracking.read_version(conn) == 6 == tracking.latest_version()
    made = await layout(conn)
    assert set(made) == {
        "_face_sync_album_map",
        "_face_sync_asset_map",
        "_face_sync_base",
        "_face_sync_face_map",
        "_face_sync_failure",
        "_face_sync_intent",
        "_face_sync_kept",
        "_face_sync_meta",
        "_face_sync_person_map",
        "_face_sync_seen",
        "_face_sync_skipped",
        "_face_sync_stack_map",
        "_face_sync_tag_map",
        "_face_sync_watch",
    }
    assert await rows(conn, "SELECT last_value, is_called FROM _face_sync_trigger_errors") == [(1, False)]
    assert await tracking.migrate(conn) == []
    assert await layout(conn) == made


async def test_nothing_is_added_that_immich_would_warn_about(immich: ImmichDatabase) -> None:
    """Immich's schema check names extra functions, enums and constraints on its own tables."""
    query = """
        SELECT oid::regprocedure::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace
        UNION ALL SELECT typname FROM pg_type WHERE typnamespace = 'public'::regnamespace AND typtype = 'e'
        UNION ALL SELECT conname || conrelid::regclass::text FROM pg_constraint
        WHERE connamespace = 'public'::regnamespace AND conrelid::regclass::text NOT LIKE '\\_face\\_sync%'
        ORDER BY 1
    """
    async with await psycopg.AsyncConnection.connect(immich.conninfo, autocommit=True) as conn:
        before = await rows(conn, query)
        await tracking.migrate(conn)
        assert await rows(conn, query) == before


@pytest.mark.parametrize("version", [1, 2, 3, 4])
async def test_an_older_sidecar_is_adopted_with_all_rows(conn: Connection, version: int) -> None:
    asset, copy = await old_sidecar(conn, version)
    tables = ["asset_map", "skipped"] + (["person_map"] if version != 3 else [])
    kept = {name: await contents(conn, name) for name in tables}

    assert await tracking.migrate(conn) == [5, 6]

    assert await tracking.read_version(conn) == 6
    assert await rows(conn, "SELECT value FROM _face_sync_meta WHERE key = 'other'") == [("x",)]
    added: dict[str, dict[str, object]] = {
        "asset_map": {"source_path": None, "library_id": None, "parked": None},
        "skipped": {"other_asset_id": None},
        "person_map": {"adopted": False, "written": {}},
    }
    for name in tables:
        now = await contents(conn, name)
        assert [row | {"target_user_id": str(TARGET)} | added.get(name, {}) for row in kept[name]] == now
    # The same photo may now go to a second user, and to each of them once only.
    again = (
        "INSERT INTO _face_sync_asset_map (source_asset_id, target_asset_id, source_user_id, target_user_id) "
        "VALUES (%s, %s, %s, %s)"
    )
    await conn.execute(again, (asset, uuid4(), SOURCE, UUID(int=3)))
    with pytest.raises(psycopg.errors.UniqueViolation):
        await conn.execute(again, (asset, uuid4(), SOURCE, TARGET))
    with pytest.raises(psycopg.errors.UniqueViolation):
        await conn.execute(again, (uuid4(), copy, SOURCE, TARGET))


@pytest.mark.parametrize("version", [1, 2, 3, 4])
async def test_an_adopted_layout_is_the_fresh_one(conn: Connection, immich: ImmichDatabase, version: int) -> None:
    await old_sidecar(conn, version)
    await tracking.migrate(conn)
    async with await psycopg.AsyncConnection.connect(immich.conninfo, autocommit=True) as other:
        await tracking.migrate(other)
        assert await layout(conn) == await layout(other)


async def test_version_1_with_a_bare_unique_index_is_widened_too(conn: Connection) -> None:
    await conn.execute(META)
    await conn.execute(ASSET_MAP.format(key="CHECK (true)"))
    await conn.execute("CREATE UNIQUE INDEX odd ON _face_sync_asset_map (source_asset_id)")
    await tracking.migrate(conn)
    for target in (TARGET, UUID(int=3)):
        await conn.execute(
            "INSERT INTO _face_sync_asset_map (source_asset_id, target_asset_id, source_user_id, "
            "target_user_id) VALUES (%s, gen_random_uuid(), %s, %s)",
            (UUID(int=9), SOURCE, target),
        )


async def test_a_skipped_asset_of_version_1_gets_the_target_of_its_owner(conn: Connection) -> None:
    """Two source users, each with a target of their own: the busier pair must not take the other's rows."""
    await old_sidecar(conn, 1)
    await conn.execute('CREATE TABLE asset (id uuid PRIMARY KEY, "ownerId" uuid NOT NULL)')
    skipped, other_owner, other_target = uuid4(), uuid4(), UUID(int=7)
    await conn.execute("INSERT INTO asset VALUES (%s, %s)", (skipped, other_owner))
    await conn.execute("INSERT INTO _face_sync_skipped (source_asset_id) VALUES (%s)", (skipped,))
    insert = (
        "INSERT INTO _face_sync_asset_map (source_asset_id, target_asset_id, source_user_id, target_user_id) "
        "SELECT gen_random_uuid(), gen_random_uuid(), %s, %s FROM generate_series(1, %s)"
    )
    await conn.execute(insert, (SOURCE, TARGET, 5))
    await conn.execute(insert, (other_owner, other_target, 1))
    await tracking.migrate(conn)
    found = dict(await rows(conn, "SELECT source_asset_id, target_user_id FROM _face_sync_skipped"))
    assert found.pop(skipped) == other_target
    assert set(found.values()) == {TARGET}


async def test_a_skipped_asset_without_any_copy_to_tell_by_is_kept(conn: Connection) -> None:
    await old_sidecar(conn, 1)
    await conn.execute("DELETE FROM _face_sync_asset_map")
    await tracking.migrate(conn)
    assert await rows(conn, "SELECT target_user_id, reason FROM _face_sync_skipped") == [
        (UUID(int=0), "duplicate_filename")
    ]


async def test_a_newer_version_is_refused_and_left_alone(conn: Connection) -> None:
    await tracking.migrate(conn)
    await conn.execute("UPDATE _face_sync_meta SET value = '7' WHERE key = 'schema_version'")
    await conn.execute("DROP TABLE _face_sync_failure")
    with pytest.raises(tracking.TrackingError, match=r"version 7.*up to 6.*Install that version again"):
        await tracking.migrate(conn)
    assert await tracking.read_version(conn) == 7
    assert "_face_sync_failure" not in await layout(conn)


@pytest.mark.parametrize("text", ["five", "-1", "", "5.1"])
async def test_a_version_that_is_no_number_is_refused(conn: Connection, text: str) -> None:
    await tracking.migrate(conn)
    await conn.execute("UPDATE _face_sync_meta SET value = %s WHERE key = 'schema_version'", (text,))
    with pytest.raises(tracking.TrackingError, match="no version of the tracking tables"):
        await tracking.migrate(conn)


async def test_a_failing_migration_leaves_nothing_behind(conn: Connection) -> None:
    await conn.execute(META)
    await conn.execute("CREATE VIEW _face_sync_failure AS SELECT 1 AS x")  # stands in the way
    await conn.execute("CREATE TABLE _face_sync_asset_map (odd integer)")
    before = await layout(conn)
    with pytest.raises(psycopg.Error):
        await tracking.migrate(conn)
    assert await layout(conn) == before
    assert await tracking.read_version(conn) is None


@pytest.mark.parametrize("version", [None, 1, 4])
async def test_of_many_at_once_one_migrates(conn: Connection, empty_database: str, version: int | None) -> None:
    if version is not None:
        await old_sidecar(conn, version)
    async with AsyncExitStack() as stack:
        others = [
            await stack.enter_async_context(await psycopg.AsyncConnection.connect(empty_database)) for _ in range(6)
        ]
        # All wait at the same gate, so that they really start at once.
        await conn.execute("SELECT pg_advisory_lock(%s, %s)", (tracking.LOCK_SPACE, tracking.MIGRATION_LOCK))
        started = [asyncio.create_task(tracking.migrate(other)) for other in others]

        async def all_wait() -> bool:
            waiting = await rows(conn, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
            return waiting == [(len(others),)]

        await eventually_async(all_wait, describe="six migrations at the lock")
        await conn.execute("SELECT pg_advisory_unlock_all()")
        done = await asyncio.gather(*started)
    assert sorted(done) == [[], [], [], [], [], [5, 6]]


async def test_a_role_without_rights_is_told_what_to_do(conn: Connection) -> None:
    role = f"poor_{uuid4().hex}"
    await conn.execute(f"CREATE ROLE {role}")
    await conn.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    try:
        await conn.execute(f"SET ROLE {role}")
        with pytest.raises(tracking.TrackingError, match=r"listener triggers install.* grant CREATE on the schema"):
            await tracking.migrate(conn)
    finally:
        await conn.execute("RESET ROLE")
        await conn.execute(f"DROP ROLE {role}")


async def test_inside_a_transaction_it_refuses(empty_database: str) -> None:
    async with await psycopg.AsyncConnection.connect(empty_database) as conn:
        await conn.execute("SELECT 1")
        with pytest.raises(psycopg.ProgrammingError, match="in a transaction"):
            await tracking.migrate(conn)


async def test_any_row_factory_will_do(empty_database: str) -> None:
    async with await psycopg.AsyncConnection.connect(empty_database, row_factory=scalar_row, autocommit=True) as other:
        assert await tracking.migrate(other) == [5, 6]
        assert await tracking.read_version(other) == 6


async def test_the_watched_users_are_exactly_those_given(conn: Connection) -> None:
    await tracking.migrate(conn)

    async def watched() -> set[UUID]:
        async with conn.cursor(row_factory=tuple_row) as cursor:
            await cursor.execute("SELECT user_id FROM _face_sync_watch")
            return {row[0] for row in await cursor.fetchall()}

    for wanted in ([SOURCE, TARGET, SOURCE], [TARGET, UUID(int=3)], []):
        await tracking.set_watched_users(conn, wanted)
        assert await watched() == set(wanted)
