"""Immich is upgraded under our feet: no statement of its fails, nothing of ours is done by halves, and all goes on."""

import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import psycopg
import pytest

from listener import channel, condition
from listener.database import connect
from listener.standin import schema
from listener.standin.actor import Actor
from tests import upgrades
from tests.behaviour.conftest import Home, make_home
from tests.behaviour.people import portrait
from tests.conftest import ImmichDatabase, Roots, eventually

HEARD_WITHIN = 20.0


def look_every(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    defaults = channel.Listening.__init__.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "proof_every", seconds)


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the listener look at Immich several times a second."""
    look_every(0.25, monkeypatch)
    monkeypatch.setattr(condition, "_BUSY_PAUSE", 0.1)


@pytest.fixture
def home_at(
    new_immich: Callable[[str], ImmichDatabase], roots: Roots, tmp_path: Path
) -> Iterator[Callable[[str], Home]]:
    """Return a function from a release to a home with a listener that runs as Immich's own role."""
    with ExitStack() as stack:

        def make(release: str) -> Home:
            home = make_home(new_immich(release), roots, tmp_path, stack)
            start(home)
            return home

        yield make


def start(home: Home) -> None:
    home.start(conninfo=home.immich.conninfo)


def at(home: Home, release: str) -> Home:
    """Return the home with Immich's servers of another release; its listener is the same."""
    immich = replace(home.immich, release=release)
    alice, bob = (
        home.services.enter_context(
            Actor(
                immich.conninfo,
                release,
                actor.user_id,
                home.roots.media,
                home.roots.external,
                seed=zlib.crc32(f"{release}/{number}".encode()),
            )
        )
        for number, actor in enumerate((home.alice, home.bob))
    )
    return replace(home, immich=immich, alice=alice, bob=bob, house=replace(home.house, immich=immich))


@contextmanager
def immich_starting(conninfo: str) -> Iterator[None]:
    """Hold the lock that a server of Immich holds while it starts and migrates."""
    with psycopg.connect(conninfo, autocommit=True) as server:
        server.execute("SELECT pg_advisory_lock(%s)", [upgrades.MIGRATIONS_LOCK])
        yield


def reasons(home: Home) -> tuple[str, ...]:
    """Why the listener is not ready."""
    assert home._running is not None
    assert home._running._service is not None
    return home._running._service.readiness.reasons


def ready(home: Home) -> bool:
    return not reasons(home)


def metric(home: Home, name: str) -> float:
    """Return the sum of a metric over its labels."""
    assert home._running is not None
    assert home._running._service is not None
    families = home._running._service.metrics.registry.collect()
    return sum(
        sample.value
        for family in families
        for sample in family.samples
        if sample.name == f"immich_shared_library_{name}"
    )


def trigger_errors(home: Home) -> object:
    return home.house.query("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM _face_sync_trigger_errors")[0][
        0
    ]


def told_of(home: Home, name: str) -> UUID:
    """Let alice upload a photo, and make sure that the triggers tell of it."""
    with psycopg.connect(home.immich.conninfo, autocommit=True) as ear:
        ear.execute("LISTEN immich_shared_library")
        made = home.alice.upload(name)
        for notify in ear.notifies(timeout=HEARD_WITHIN):
            if str(made) in notify.payload:
                return made
    pytest.fail(f"no trigger told of {made}")


def fill(home: Home) -> None:
    """Rows in every table that an upgrade changes, of the source and of the target, and copies."""
    alice, bob = home.alice, home.bob
    photo, _, person = portrait(alice, "ada.jpg")
    alice.name_person(person, "Ada")
    cover, member = alice.upload("cover.jpg", text="an old sign"), alice.upload("member.jpg", people=[person])
    alice.stack(cover, member)
    alice.describe(photo, "By the sea")
    alice.rate(cover, 3)
    alice.tag("trip/sea", photo, cover)
    alice.upload("film.mp4")
    alice.upload_live_photo("moving")
    alice.album_create("Holidays", photo, cover)
    alice.trash(alice.upload("gone.jpg"))
    library = alice.add_library(home.photos)
    alice.scan_library(library, ["found.jpg", "again.jpg"])
    own, _, friend = portrait(bob, "own.jpg")
    bob.name_person(friend, "Friend")
    bob.album_create("Mine", own)
    home.settled(within=30)
    bob.favourite(home.copied(photo))
    bob.album_create("Shared with me", home.copied(cover), own)
    home.settled()


def carried(home: Home, release: str) -> Home:
    """Upgrade Immich as its server does, with the listener running, and wait until all is well again."""
    before = metric(home, "reconnects_total")
    with immich_starting(home.immich.conninfo):
        eventually(lambda: condition.UPGRADING in reasons(home), within=HEARD_WITHIN)
        assert metric(home, "immich_busy") == 1
        upgrades.upgrade(home.immich.conninfo, release)
    with psycopg.connect(home.immich.conninfo) as connection:
        assert upgrades.differences(upgrades.immich_facts(connection), release) == []
    eventually(lambda: ready(home), within=30, describe=lambda: str(reasons(home)))
    assert metric(home, "reconnects_total") > before
    assert metric(home, "immich_busy") == 0
    after = at(home, release)
    after.settled(within=30)
    return after


def test_carried_from_2_0_to_3_3_the_triggers_hurt_nobody_and_the_listener_goes_on(
    often: None, home_at: Callable[[str], Home]
) -> None:
    home = home_at("2.0.0")
    fill(home)
    # 3.0 deletes faces whose person is somebody else's: on a photo that is no copy, so nobody shares it.
    (mine,) = [row["id"] for row in home.bob.rows.where("asset", originalFileName="own.jpg")]
    with psycopg.connect(home.immich.conninfo, autocommit=True) as connection:
        connection.execute(
            'INSERT INTO asset_face ("assetId", "personId") SELECT %s, id FROM person WHERE name = %s', [mine, "Ada"]
        )
    for release in schema.releases()[1:]:
        home = carried(home, release)
        new = told_of(home, f"new-{release}.jpg")
        home.copied(new)
        home.settled()
        assert trigger_errors(home) == 0
        assert metric(home, "triggers_installed") == 1
    assert metric(home, "failures_total") == 0
    names = {row["originalFileName"] for row in home.bob.rows.where("asset", ownerId=home.bob.user_id)}
    assert names >= {"ada.jpg", "cover.jpg", "found.jpg", "film.mp4", "own.jpg", "new-3.3.0.jpg"}
    assert "gone.jpg" not in names


@pytest.mark.parametrize(
    ("release", "to"),
    [
        # A column that goes, one that must be given, one of another type, and people of another model.
        pytest.param("2.3.1", "2.4.1", marks=pytest.mark.soak),
        ("2.6.3", "2.7.5"),
        pytest.param("2.7.5", "3.0.3", marks=pytest.mark.soak),
        ("3.1.0", "3.2.0"),
    ],
)
def test_a_batch_that_meets_changed_tables_reads_them_anew_and_records_no_failure(
    home_at: Callable[[str], Home], monkeypatch: pytest.MonkeyPatch, release: str, to: str
) -> None:
    # So seldom that a failing statement is the first that the running session sees of the upgrade.
    look_every(600, monkeypatch)
    home = home_at(release)
    portrait(home.alice, "before.jpg")
    home.settled()
    upgrades.upgrade(home.immich.conninfo, to)
    # The session begun anew tries for the jobs at its looks, and the former one may not be gone at the first.
    look_every(0.25, monkeypatch)
    home = at(home, to)
    photos = [home.alice.upload(f"{n}.jpg", faces=1) for n in range(5)]
    for photo in photos:
        home.copied(photo)
    home.settled()
    assert home.house.query("SELECT * FROM _face_sync_failure") == []
    assert metric(home, "failures_total") == 0
    assert metric(home, "reconnects_total") >= 1


def test_in_maintenance_mode_it_waits_and_then_looks_at_everything(often: None, home_at: Callable[[str], Home]) -> None:
    home = home_at("3.0.3")
    maintain = (
        "INSERT INTO system_metadata (key, value) "
        "VALUES ('maintenance-mode', jsonb_build_object('isMaintenanceMode', %s::bool))"
        " ON CONFLICT (key) DO UPDATE SET value = excluded.value"
    )
    home.house.query(maintain, True)
    eventually(lambda: condition.MAINTENANCE in reasons(home), within=HEARD_WITHIN)
    photo = home.alice.upload("meanwhile.jpg")
    before = metric(home, "notifications_total")
    eventually(lambda: metric(home, "immich_busy") == 1)
    assert home.copy_of(photo) is None
    assert metric(home, "notifications_total") == before
    home.house.query(maintain, False)
    home.copied(photo)
    eventually(lambda: ready(home), within=HEARD_WITHIN)
    home.settled()


def test_a_new_release_without_a_new_column_is_noticed(often: None, home_at: Callable[[str], Home]) -> None:
    home = home_at("2.0.0")
    before = metric(home, "reconnects_total")
    upgrades.upgrade(home.immich.conninfo, "2.1.0")
    eventually(lambda: metric(home, "reconnects_total") > before and ready(home), within=HEARD_WITHIN)


def test_what_has_no_event_is_noticed(often: None, home_at: Callable[[str], Home]) -> None:
    """Users and libraries that are marked as removed, and users who join a cluster group."""
    home = home_at("3.3.0")
    alice, bob = home.alice, home.bob
    _, _, person = portrait(alice, "ada.jpg")
    alice.name_person(person, "Ada")
    library = alice.add_library(home.photos)
    (found,) = alice.scan_library(library, ["found.jpg"])
    photo = alice.upload("photo.jpg")
    home.settled()
    connects = metric(home, "reconnects_total")

    bob.join_cluster_group(alice.user_id)
    home.settled()

    home.house.query('UPDATE library SET "deletedAt" = now() WHERE id = %s', library)
    eventually(lambda: home.copy_of(found) is None, within=HEARD_WITHIN)
    home.house.query('UPDATE "user" SET "deletedAt" = now() WHERE id = %s', alice.user_id)
    eventually(lambda: home.copy_of(photo) is None, within=HEARD_WITHIN)
    home.house.query('UPDATE "user" SET "deletedAt" = NULL WHERE id = %s', alice.user_id)
    home.copied(photo)
    home.settled()
    assert metric(home, "reconnects_total") == connects, "a sweep is enough"


def test_an_owner_who_is_removed_and_restored_between_two_looks_is_noticed(
    home_at: Callable[[str], Home], monkeypatch: pytest.MonkeyPatch
) -> None:
    look_every(5, monkeypatch)
    home = home_at("3.3.0")
    photo = home.alice.upload("photo.jpg")
    home.settled()

    home.house.query('UPDATE "user" SET "deletedAt" = now() WHERE id = %s', home.alice.user_id)
    home.house.sweep()
    eventually(lambda: home.copy_of(photo) is None, within=HEARD_WITHIN)
    home.house.query('UPDATE "user" SET "deletedAt" = NULL WHERE id = %s', home.alice.user_id)
    eventually(lambda: home.copy_of(photo), within=HEARD_WITHIN)


async def test_a_look_waits_for_no_lock_of_an_upgrade(immich: ImmichDatabase) -> None:
    async with await connect(immich.conninfo) as own, await connect(immich.conninfo) as upgrading:
        whole = await condition.read(own, [])
        assert whole.version == immich.release
        async with upgrading.transaction():
            await upgrading.execute('LOCK TABLE asset, "user", library, system_metadata IN ACCESS EXCLUSIVE MODE')
            started = time.monotonic()
            half = await condition.read(own, [])
            assert time.monotonic() - started < 5
        assert half == replace(whole, version=None, circumstances=None)
        assert condition.changes(whole, half) is None


async def test_only_immichs_own_lock_in_its_own_database_counts(
    immich: ImmichDatabase, new_immich: Callable[[str], ImmichDatabase]
) -> None:
    elsewhere = new_immich(immich.release)
    async with (
        await connect(immich.conninfo) as own,
        await connect(immich.conninfo) as other,
        await connect(elsewhere.conninfo) as stranger,
    ):
        await stranger.execute("SELECT pg_advisory_lock(200)")
        for lock in ("0, 200", "500", "200::bigint << 32"):
            await other.execute(f"SELECT pg_advisory_lock({lock})".encode())
        assert (await condition.read(own, [])).busy is None
        await other.execute("SELECT pg_advisory_lock(200)")
        assert (await condition.read(own, [])).busy == condition.UPGRADING
        await other.execute("SELECT pg_advisory_unlock(200)")
        await other.execute("DROP SCHEMA public CASCADE")
        assert (await condition.read(own, [])).busy == condition.REBUILDING
