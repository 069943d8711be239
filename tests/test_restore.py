"""A backup is restored: whatever it holds of ours, and whenever it was made, the copies come out right."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import psycopg
import pytest

from listener import tracking, triggers
from listener.database import Connection, connect
from listener.immich.layout import path_checksum
from listener.ops.metrics import Metrics
from listener.standin.postgres import create_database, drop_database
from listener.upkeep import Upkeep
from tests import backups
from tests.behaviour.conftest import Home, make_home
from tests.behaviour.people import named_portrait
from tests.conftest import ImmichDatabase, Roots, eventually
from tests.role import as_listener
from tests.test_upgrades import at, look_every, metric, ready, start, told_of

BACK_WITHIN = 30.0


@pytest.fixture
def home(
    new_immich: Callable[[str], ImmichDatabase], roots: Roots, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Home]:
    """A home whose listener is not started yet; it looks at Immich several times a second."""
    look_every(0.25, monkeypatch)
    with ExitStack() as stack:
        yield make_home(new_immich("3.0.3"), roots, tmp_path, stack)


def restore(home: Home, backup: str, *, running: bool, at_once: bool = True) -> Home:
    """Restore a backup with the listener running or down, and wait until all is well."""
    if not running:
        home.stop()
    before = metric(home, "reconnects_total") if running else 0
    backups.restore(home.immich.conninfo, backup, at_once=at_once)
    home = at(home, home.immich.release)
    if running:
        eventually(lambda: metric(home, "reconnects_total") > before, within=BACK_WITHIN)
    else:
        start(home)
    well(home)
    return home


def well(home: Home) -> None:
    """Wait until the judge finds nothing, and make sure that changes are heard of at once."""
    eventually(lambda: ready(home), within=BACK_WITHIN)
    home.settled(within=BACK_WITHIN)
    eventually(lambda: metric(home, "triggers_installed") == 1, within=BACK_WITHIN)
    home.copied(told_of(home, "after.jpg"))
    home.settled()
    assert metric(home, "failures_total") == 0


def copies(home: Home) -> dict[str, UUID]:
    """Bob's copies by name, but for those that are parked; no name is there twice."""
    shown = home.shown()
    rows = [row for id_ in shown for row in [home.bob.asset(id_)] if row["libraryId"]]
    found = {row["originalFileName"]: row["id"] for row in rows}
    assert len(found) == len(rows)
    return found


@pytest.mark.parametrize(("ours", "running"), [(True, True), pytest.param(False, False, marks=pytest.mark.soak)])
def test_a_backup_from_before_the_copies(home: Home, ours: bool, running: bool) -> None:
    named_portrait(home.alice, "ada")
    home.alice.stack(home.alice.upload("one.jpg"), home.alice.upload("two.jpg"))
    backup = backups.dump(home.immich.conninfo, ours=ours)
    start(home)
    home.settled()
    home.alice.upload("later.jpg", faces=1)
    home.settled()
    before = copies(home)

    home = restore(home, backup, running=running)
    after = copies(home)
    assert after.keys() == {"ada.jpg", "one.jpg", "two.jpg", "after.jpg"}
    assert {name: before[name] for name in after if name != "after.jpg"} == {
        name: id_ for name, id_ in after.items() if name != "after.jpg"
    }


@pytest.mark.parametrize(("ours", "running"), [pytest.param(True, False, marks=pytest.mark.soak), (False, True)])
def test_a_backup_from_before_the_removal_of_copies(home: Home, ours: bool, running: bool) -> None:
    start(home)
    photo, _, person = named_portrait(home.alice, "ada")
    trashed, locked, deleted = (home.alice.upload(f"{name}.jpg") for name in ("trashed", "locked", "deleted"))
    home.settled()
    home.bob.favourite(home.copied(trashed))
    before, mirror = copies(home), home.mirror_of(person)
    backup = backups.dump(home.immich.conninfo, ours=ours)

    home.alice.trash(trashed, photo)
    home.alice.lock(locked)
    home.bob.delete_for_good(home.copied(deleted))
    eventually(lambda: not copies(home), within=BACK_WITHIN)
    home.settled()

    home = restore(home, backup, running=running)
    after = copies(home)
    assert {name: id_ for name, id_ in after.items() if name != "after.jpg"} == before
    assert home.mirror_of(person) == mirror
    assert home.bob.asset(after["trashed.jpg"])["isFavorite"]
    assert len(home.bob.people()) == 1


def test_a_backup_loaded_piece_by_piece_while_the_listener_runs(home: Home) -> None:
    start(home)
    named_portrait(home.alice, "ada")
    home.alice.upload("one.jpg")
    home.settled()
    before = copies(home)
    backup = backups.dump(home.immich.conninfo)
    home.alice.upload("later.jpg")
    home.settled()
    home = restore(home, backup, running=True, at_once=False)
    assert {name: id_ for name, id_ in copies(home).items() if name != "after.jpg"} == before


def test_notes_that_are_newer_than_the_rows(home: Home) -> None:
    """Only Immich's tables came out of the backup: a copy that is noted and not there was not deleted by its user."""
    named_portrait(home.alice, "ada")
    home.alice.tag("sea", home.alice.upload("one.jpg"))
    backup = backups.dump(home.immich.conninfo, ours=False)
    start(home)
    home.settled()
    before = copies(home)
    home.stop()
    notes = backups.dump_of_ours(home.immich.conninfo)
    backups.restore(home.immich.conninfo, backup)
    backups.load(home.immich.conninfo, notes)
    home = at(home, home.immich.release)
    start(home)
    well(home)
    assert {name: id_ for name, id_ in copies(home).items() if name != "after.jpg"} == before
    assert home.house.query("SELECT * FROM _face_sync_skipped") == []


def test_what_the_target_user_did_stays_without_our_notes(home: Home) -> None:
    start(home)
    photo, other = home.alice.upload("photo.jpg"), home.alice.upload("other.jpg")
    home.alice.tag("sea", photo)
    home.alice.describe(photo, "alice's")
    home.settled()
    copy = home.copied(photo)
    home.bob.describe(copy, "bob's")
    home.bob.crop(home.copied(other))
    home.settled()
    home = restore(home, backups.dump(home.immich.conninfo, ours=False), running=False)
    assert home.copied(photo) == copy
    assert home.bob.exif(copy)["description"] == "bob's"
    assert home.bob.asset(home.copied(other))["isEdited"]
    home.alice.untag("sea", photo)
    eventually(lambda: home.bob.tags_of(copy) == [], within=BACK_WITHIN)
    home.settled()


def test_copies_without_a_source_go_and_what_may_be_the_target_users_stays(home: Home) -> None:
    start(home)
    gone, kept = home.alice.upload("gone.jpg", faces=1), home.alice.upload("kept.jpg")
    home.settled()
    before = copies(home)
    prefix = Path(home.house.jobs[1].target_path_prefix)
    home.stop()
    home.alice.delete_for_good(gone)
    # A photo that bob has put below the prefix himself, as a library scan finds it.
    own = prefix / "own.jpg"
    own.write_bytes(b"bob's")
    mine = home.bob.rows.the("asset", id=before["kept.jpg"])
    with psycopg.connect(home.immich.conninfo, autocommit=True) as connection:
        connection.execute(
            'INSERT INTO asset ("ownerId", "libraryId", type, "originalPath", "fileCreatedAt", "fileModifiedAt",'
            ' checksum, "checksumAlgorithm", "originalFileName", "localDateTime", "isExternal")'
            " VALUES (%s, %s, 'IMAGE', %s, now(), now(), %s, 'sha1-path', 'own.jpg', now(), true)",
            [home.bob.user_id, mine["libraryId"], str(own), path_checksum(str(own))],
        )
    backup = backups.dump(home.immich.conninfo, ours=False)
    backups.restore(home.immich.conninfo, backup)
    home = at(home, home.immich.release)
    start(home)
    eventually(lambda: "gone.jpg" not in copies(home), within=BACK_WITHIN)
    assert copies(home) == {"kept.jpg": before["kept.jpg"], "own.jpg": copies(home)["own.jpg"]}
    assert own.read_bytes() == b"bob's"
    assert home.copied(kept) == before["kept.jpg"]
    # The judge calls bob's own photo an orphan; without it all is as it should be.
    home.house.query("DELETE FROM asset WHERE \"originalFileName\" = 'own.jpg'")
    well(home)


def test_in_a_new_database_where_nobody_installed_triggers_none_are_installed(home: Home, server: str) -> None:
    start(home)
    named_portrait(home.alice, "ada")
    home.settled()
    before = copies(home)
    home.stop()
    backup = backups.dump(home.immich.conninfo, ours=False)
    conninfo = create_database(server, f"{home.immich.conninfo.split('dbname=')[1].split()[0]}_new")
    try:
        backups.restore(conninfo, backup)
        immich = ImmichDatabase(conninfo, home.immich.release)
        moved = at(replace(home, immich=immich, house=replace(home.house, immich=immich)), home.immich.release)
        try:
            start(moved)
            moved.settled(within=BACK_WITHIN)
            assert copies(moved) == before
            assert metric(moved, "triggers_installed") == 0
            assert moved.house.query("SELECT tgname FROM pg_trigger WHERE starts_with(tgname, '_face_sync')") == []
        finally:
            moved.stop()
    finally:
        drop_database(server, conninfo.split("dbname=")[1].split()[0])


# Who puts triggers back, and who does not.


@pytest.fixture
async def conn(immich: ImmichDatabase) -> AsyncIterator[Connection]:
    async with await connect(immich.conninfo) as connection:
        await tracking.migrate(connection)
        yield connection


async def drop_triggers(conn: Connection) -> None:
    for table in triggers.TABLES:
        for event in triggers.EVENTS:
            await conn.execute(f"DROP TRIGGER _face_sync_{event} ON {table}".encode())
    await conn.execute("DROP TRIGGER IF EXISTS _face_sync_guard ON asset")


def shown(metrics: Metrics) -> float | None:
    return metrics.registry.get_sample_value("immich_shared_library_triggers_installed")


async def test_triggers_that_are_gone_are_put_back_with_the_guard(conn: Connection) -> None:
    metrics = Metrics()
    await triggers.install(conn, guard=True)
    await drop_triggers(conn)
    found = await Upkeep(metrics).put_back(conn, guard=True)
    assert found.ok
    assert found.guard == "installed"
    assert shown(metrics) == 1


async def test_without_a_note_the_functions_tell_that_triggers_were_installed(conn: Connection) -> None:
    await triggers.install(conn)
    await drop_triggers(conn)
    await conn.execute("DELETE FROM _face_sync_meta WHERE key = 'triggers'")
    assert (await Upkeep(Metrics()).put_back(conn, guard=False)).ok


async def test_where_nobody_installed_them_or_somebody_took_them_out_none_are_put_in(conn: Connection) -> None:
    metrics = Metrics()
    upkeep = Upkeep(metrics)
    for _ in range(2):
        found = await upkeep.put_back(conn, guard=False)
        await upkeep.try_again(conn)
        assert {table.state for table in found.tables} == {"missing"}
        assert shown(metrics) == 0
        await triggers.install(conn)
        await triggers.uninstall(conn)


async def test_what_somebody_disabled_stays_disabled(conn: Connection) -> None:
    await triggers.install(conn)
    await conn.execute("ALTER TABLE asset DISABLE TRIGGER _face_sync_update")
    found = await Upkeep(Metrics()).put_back(conn, guard=False)
    assert {table.table for table in found.tables if table.state == "disabled"} == {"asset"}


async def test_a_locked_table_gets_its_triggers_at_a_later_look(conn: Connection, immich: ImmichDatabase) -> None:
    metrics = Metrics()
    upkeep = Upkeep(metrics)
    await triggers.install(conn)
    await drop_triggers(conn)
    async with await connect(immich.conninfo) as holder:
        async with holder.transaction():
            await holder.execute("LOCK TABLE person IN ROW EXCLUSIVE MODE")
            assert not (await upkeep.put_back(conn, guard=False)).ok
            assert shown(metrics) == 0
        await upkeep.try_again(conn)
    assert (await triggers.status(conn)).ok
    assert shown(metrics) == 1


async def test_a_role_that_may_not_goes_on_without(conn: Connection, immich: ImmichDatabase) -> None:
    metrics = Metrics()
    await triggers.install(conn)
    await drop_triggers(conn)
    async with await connect(await asyncio.to_thread(as_listener, immich.conninfo)) as own:
        upkeep = Upkeep(metrics)
        assert not (await upkeep.put_back(own, guard=False)).ok
        await upkeep.try_again(own)
    assert shown(metrics) == 0
    assert not (await triggers.status(conn)).ok
