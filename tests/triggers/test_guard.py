"""The guard's trigger: it marks deleted copies offline, and comes and goes as it is needed."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import LiteralString
from uuid import UUID

import psycopg
import pytest

from listener import tracking, triggers
from listener.standin.snapshot import catalog
from tests.triggers.immich_writer import Immich

guarded_releases = pytest.mark.parametrize("immich", ["2.4.1", "3.0.3", "3.3.0"], indirect=True)
PREFIX = "/external_library/shared/bob"


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


async def note(conn: psycopg.AsyncConnection, *prefixes: str) -> None:
    await tracking.write_note(conn, "guarded prefixes", json.dumps(prefixes))


@contextmanager
def after(writer: Immich, statement: LiteralString) -> Iterator[None]:
    writer.execute(statement)
    yield


@contextmanager
def locked(writer: Immich, table: LiteralString) -> Iterator[None]:
    with psycopg.connect(writer.conn.info.dsn) as other:
        other.execute(f"LOCK TABLE public.{table} IN ACCESS EXCLUSIVE MODE")
        yield


BLIND: dict[str, Callable[[Immich], object]] = {
    "map locked": lambda writer: locked(writer, "_face_sync_asset_map"),
    "map absent": lambda writer: after(writer, "DROP TABLE _face_sync_asset_map"),
    "map of another shape": lambda writer: after(
        writer, "ALTER TABLE _face_sync_asset_map RENAME target_asset_id TO other"
    ),
    "notes locked": lambda writer: locked(writer, "_face_sync_meta"),
    "notes absent": lambda writer: after(writer, "DROP TABLE _face_sync_meta"),
    "not noted yet": lambda writer: after(writer, "DELETE FROM _face_sync_meta WHERE key = 'guarded prefixes'"),
    "badly noted": lambda writer: after(writer, "UPDATE _face_sync_meta SET value = 'x' WHERE key LIKE 'guarded%%'"),
    "nowhere to count": lambda writer: after(
        writer, "DROP TABLE _face_sync_asset_map; DROP SEQUENCE _face_sync_trigger_errors CASCADE"
    ),
}


@guarded_releases
@pytest.mark.parametrize("how", BLIND)
async def test_where_the_guard_cannot_know_each_deleted_external_asset_is_offline(
    how: str, writer: Immich, owner: UUID, conn: psycopg.AsyncConnection
) -> None:
    await triggers.install(conn, guard=True)
    await note(conn, PREFIX)
    copy, external, upload = writer.assets(owner, 3)
    writer.execute('UPDATE asset SET "isExternal" = true WHERE id <> %s', upload)
    many = writer.insert("asset", {"ownerId": owner, "isExternal": True}, count=300)
    map_copy(writer, owner, copy)

    def offline() -> set[UUID]:
        return {id_ for (id_,) in writer.execute('SELECT id FROM asset WHERE "isOffline"')}

    with BLIND[how](writer):  # type: ignore[attr-defined]
        began = time.monotonic()
        writer.execute("UPDATE asset SET \"deletedAt\" = now(), status = 'trashed'")
        took = time.monotonic() - began
        assert offline() == {copy, external, *many}
        assert took < 2, "a lock is waited for once, not once for each row"
        # Also by itself, in the next statement of the same session
        writer.execute('UPDATE asset SET "deletedAt" = now(), "isOffline" = false WHERE id = %s', copy)
        assert offline() == {copy, external, *many}
        writer.execute("UPDATE asset SET \"deletedAt\" = NULL, status = 'active'")
        assert offline() == set()
    if how not in {"nowhere to count", "not noted yet"}:
        assert writer.errors() > 0


@guarded_releases
async def test_somebodys_own_photo_is_let_go_and_a_copy_that_no_map_knows_is_not(
    writer: Immich, owner: UUID, conn: psycopg.AsyncConnection
) -> None:
    await triggers.install(conn, guard=True)
    await note(conn, PREFIX)
    given = {"ownerId": owner, "isExternal": True}
    (unknown,) = writer.insert("asset", given | {"originalPath": f"{PREFIX}/2024/a.jpg"})
    (own,) = writer.insert("asset", given | {"originalPath": f"{PREFIX}_of_his_own/2024/a.jpg"})
    writer.execute("UPDATE asset SET \"deletedAt\" = now(), status = 'deleted'")
    assert dict(writer.execute('SELECT id, "isOffline" FROM asset')) == {unknown: True, own: False}
    assert writer.errors() == 0


async def test_what_a_scan_says_of_missing_files_stays(
    writer: Immich, owner: UUID, conn: psycopg.AsyncConnection
) -> None:
    await triggers.install(conn, guard=True)
    await note(conn, PREFIX)
    (missing,) = writer.insert("asset", {"ownerId": owner, "isExternal": True})
    writer.execute('UPDATE asset SET "deletedAt" = now(), "isOffline" = true')
    assert writer.execute('SELECT "isOffline" FROM asset WHERE id = %s', missing) == [(True,)]
    writer.execute('UPDATE asset SET "isFavorite" = true')
    assert writer.execute('SELECT "isOffline" FROM asset WHERE id = %s', missing) == [(True,)]
