"""The triggers in and out of the catalog: install, status and uninstall, also while tables are locked."""

import asyncio
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

from listener import tracking, triggers
from listener.standin.facts import load_facts
from listener.standin.snapshot import catalog
from tests.conftest import ImmichDatabase, eventually_async
from tests.triggers.immich_writer import Immich, every_release, immich_at


@every_release
async def test_uninstall_leaves_the_catalog_as_it_was(immich: ImmichDatabase, conn: psycopg.AsyncConnection) -> None:
    untouched = catalog(immich.conninfo)
    await tracking.migrate(conn)
    before = catalog(immich.conninfo)

    result = await triggers.install(conn)
    # It came with 2.2.
    absent = () if "ocr_search" in load_facts(immich.release).tables else ("ocr_search",)
    assert result.absent == absent
    expected = {"notify_change()", "guard_original()", "immich_uuid_v7()", *triggers.TABLES} - set(absent)
    assert set(result.changed) == expected
    assert (await triggers.status(conn)).ok
    installed = catalog(immich.conninfo)
    assert installed != before
    assert await triggers.install(conn) == triggers.InstallResult(changed=(), absent=absent)
    assert catalog(immich.conninfo) == installed

    await triggers.uninstall(conn)
    assert catalog(immich.conninfo) == before
    assert not (await triggers.status(conn)).ok
    await triggers.uninstall(conn)
    assert catalog(immich.conninfo) == before

    await triggers.install(conn)
    await triggers.uninstall(conn, purge=True)
    assert catalog(immich.conninfo) == untouched


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


@pytest.mark.parametrize("immich", ["2.0.0", "3.0.3"], indirect=True)
async def test_the_printed_sql_is_what_install_does(immich: ImmichDatabase, conn: psycopg.AsyncConnection) -> None:
    text = triggers.render_install_sql()
    for _ in range(2):
        await conn.execute(text)
        assert (await triggers.status(conn)).ok
    assert (await triggers.install(conn)).changed == ()
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
        left = triggers.TABLES[triggers.TABLES.index("person") :]
        assert tuple(t.table for t in (await triggers.status(conn)).tables if t.state != "installed") == left
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
