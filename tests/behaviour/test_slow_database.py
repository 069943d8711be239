"""PostgreSQL on a slow disk: less is done at once, and what takes long is done all the same."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest

from listener import database, sweep
from listener.database import Connection
from tests.behaviour.conftest import Home
from tests.conftest import eventually
from tests.oddities import Oddity

# Not about a release.
pytestmark = pytest.mark.releases(since="3.0.3", until="3.0.3")
# A sequence counts also what was rolled back.
_SLOW_INSERTS = """
CREATE SEQUENCE inserted;
CREATE TABLE slowness (file_name text, seconds float);
CREATE FUNCTION be_slow() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    IF current_setting('face_sync.quiet', true) = 'on' THEN
        PERFORM nextval('inserted');
        PERFORM pg_sleep(seconds) FROM slowness JOIN asset ON asset."originalFileName" LIKE file_name
        WHERE asset.id = NEW."assetId";
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER be_slow BEFORE INSERT ON smart_search FOR EACH ROW EXECUTE FUNCTION be_slow();
"""
# A policy is asked for each row that is read.
_SLOW_PAGES = """
CREATE TABLE slowness (seconds float);
INSERT INTO slowness VALUES (0);
CREATE FUNCTION be_slow() RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER VOLATILE AS $$
BEGIN
    IF current_query() LIKE '%WITH page AS MATERIALIZED%' THEN
        PERFORM pg_sleep(seconds) FROM slowness;
    END IF;
    RETURN true;
END $$;
CREATE POLICY be_slow ON asset_exif USING (be_slow());
ALTER TABLE asset_exif ENABLE ROW LEVEL SECURITY;
"""


def slow_inserts(home: Home, **seconds: float) -> None:
    """Let each embedding of a copy take so long, by the beginnings of the photos' names."""
    home.look.execute(_SLOW_INSERTS)
    for name, each in seconds.items():
        home.look.execute("INSERT INTO slowness VALUES (%s, %s)", [f"{name}%", each])


def inserted(home: Home) -> int:
    ((count,),) = home.look.execute("SELECT last_value FROM inserted").fetchall()
    return int(count)


def failures(home: Home) -> list[tuple[Any, ...]]:
    return home.look.execute("SELECT source_asset_id, reason FROM _face_sync_failure").fetchall()


def ahead_ms(home: Home, copy: UUID) -> float:
    """By how much the row of a copy is stamped later than now: no phone can have passed it."""
    text = """SELECT ('x' || left(translate("updateId"::text, '-', ''), 12))::bit(48)::bigint
                     - extract(epoch FROM clock_timestamp()) * 1000 FROM asset WHERE id = %s"""
    ((ahead,),) = home.look.execute(text, [copy]).fetchall()
    return float(ahead)


def test_a_batch_that_cannot_be_written_in_time_is_written_by_portions_and_it_is_kept_in_mind_how_large(
    new_home: Callable[..., Home], caplog: pytest.LogCaptureFixture, oddity: Oddity
) -> None:
    home = new_home()
    slow_inserts(home, photo=0.05)
    photos = [home.alice.upload(f"photo {number}.jpg") for number in range(120)]
    home.start()
    eventually(lambda: all(home.copy_of(photo) for photo in photos), within=40)
    # For nothing only what there is time for in 2.5 s, once. What was made may have been looked at again.
    assert inserted(home) < 120 + 60
    assert "fewer are written at once" in caplog.text
    assert failures(home) == []
    oddity(
        "The database needs 50 ms for each row: 120 photos do not get done in the 2.5 s of a transaction.",
        "the database takes long to write copies: fewer are written at once. Look at its disk",
        "All are copied, fewer at once; one try was in vain.",
    )


def test_a_photo_that_takes_longer_than_a_transaction_may_is_shared_and_phones_cannot_miss_it(
    new_home: Callable[..., Home], caplog: pytest.LogCaptureFixture, oddity: Oddity
) -> None:
    home = new_home()
    slow_inserts(home, slow=2.8)
    slow = home.alice.upload("slow.jpg")
    others = [home.alice.upload(f"photo {number}.jpg") for number in range(2)]
    home.start()
    seen: list[float] = []

    def shared() -> bool:
        if copy := home.copy_of(slow):
            seen.append(ahead_ms(home, copy))
        return bool(seen)

    eventually(shared, within=30, describe=lambda: str(failures(home)))
    # At once, not by a second stamp that a crash would prevent.
    assert seen[0] > 3000
    assert "stamped anew" not in caplog.text
    assert "it is given more time" in caplog.text
    eventually(lambda: all(home.copy_of(photo) for photo in others))
    assert failures(home) == []
    assert home.service.metrics.reconnects._value.get() == 0
    oddity(
        "The database needs 3 s to write one photo.",
        "the database takes long to write one copy: it is given more time. Look at its disk",
        "It is shared, stamped so far ahead that no phone misses it; so are the others.",
    )


def test_a_photo_that_takes_too_long_by_far_is_told_and_delays_no_other_for_ever(
    new_home: Callable[..., Home], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("listener.sync.portions._LONGER", (0.3, 0.6))
    home = new_home()
    slow_inserts(home, slow=20)
    slow = home.alice.upload("slow.jpg")
    home.start()
    eventually(lambda: failures(home), within=20)
    ((photo, reason),) = failures(home)
    assert photo == slow
    assert "took over 0.6 s to write one copy: look at its disk" in reason
    home.copied(home.alice.upload("photo.jpg"))
    home.look.execute("DELETE FROM slowness")
    home.house.query('SELECT pg_notify(\'immich_shared_library\', \'{"v": 1, "kind": "sweep"}\')')
    home.copied(slow)
    home.settled()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions whose statements may take 0.4 s, for the minute that they may take else; a page is to take less."""
    prepare = database.prepare_session

    async def prepared(connection: Connection, owner: UUID | None = None) -> None:
        await prepare(connection, owner)
        await connection.execute("SET statement_timeout = 400")

    monkeypatch.setattr(database, "prepare_session", prepared)
    monkeypatch.setattr(sweep, "_AIM", 0.1)


def slow_pages(home: Home, seconds: float) -> None:
    if home.look.execute("SELECT to_regclass('slowness') IS NULL").fetchone() == (True,):
        home.look.execute(_SLOW_PAGES)
    home.look.execute("UPDATE slowness SET seconds = %s", [seconds])


@pytest.mark.usefixtures("impatient")
def test_a_page_of_a_sweep_that_takes_too_long_is_read_smaller_in_the_same_session(
    new_home: Callable[..., Home], caplog: pytest.LogCaptureFixture, oddity: Oddity
) -> None:
    home = new_home()
    photos = [home.alice.upload(f"photo {number}.jpg") for number in range(25)]
    slow_pages(home, 0.02)
    home.start()
    eventually(lambda: all(home.copy_of(photo) for photo in photos), within=15)
    slow_pages(home, 0)
    assert "fewer are looked at once" in caplog.text
    assert home.service.metrics.reconnects._value.get() == 0
    assert home.service.metrics.sweeps.labels(outcome="slow")._value.get() == 0
    home.settled()
    oddity(
        "A page of the sweep takes longer than a statement may.",
        "the database takes too long to look through so many photos: fewer are looked at once",
        "The sweep ends, in the same session.",
    )


@pytest.mark.usefixtures("impatient")
def test_a_database_that_is_too_slow_for_any_page_puts_the_sweep_off_and_events_are_served(
    new_home: Callable[..., Home], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, oddity: Oddity
) -> None:
    monkeypatch.setattr(sweep, "_SLOW_PAUSE", 0.1)
    home = new_home()
    slow_pages(home, 0)
    home.start()
    slow, metrics = home.service.metrics.sweeps.labels(outcome="slow"), home.service.metrics
    home.copied(home.alice.upload("before.jpg"))
    slow_pages(home, 1)
    home.house.sweep()
    eventually(lambda: slow._value.get() > 0, within=15)
    assert "the database takes too long to answer: the sweep begins again" in caplog.text
    home.copied(home.alice.upload("meanwhile.jpg"))
    slow_pages(home, 0)
    done = metrics.sweeps.labels(outcome="done")._value.get()
    eventually(lambda: metrics.sweeps.labels(outcome="done")._value.get() > done, within=15)
    assert metrics.reconnects._value.get() == 0
    home.settled()
    oddity(
        "Not even one photo can be looked through in the time of a statement.",
        "the database takes too long to answer: the sweep begins again. Look at its disk",
        "New photos are shared by their events, in the same session.",
    )
