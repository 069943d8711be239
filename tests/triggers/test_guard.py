"""The guard's trigger: it marks deleted copies offline, and comes and goes as it is needed."""

from uuid import UUID

import psycopg

from listener import triggers
from listener.standin.snapshot import catalog
from tests.triggers.immich_writer import Immich


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
