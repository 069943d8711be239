"""One bad photo in the middle of five hundred: 499 copies, one recorded failure, and nobody else is held up."""

from collections.abc import Callable
from pathlib import Path

import pytest

from listener.immich.layout import path_checksum
from listener.tools.verify import Report, render
from tests.conftest import ImmichDatabase, Roots, eventually
from tests.house import JUDGED_EVERY, SETTLE_WITHIN, Process
from tests.photos import Photo, PhotoHouse, add_rows, photo_house, write_files

COUNT = 500
Spoil = Callable[[PhotoHouse, Photo], Callable[[], object]]


@pytest.fixture
def carol(immich: ImmichDatabase, roots: Roots, tmp_path: Path) -> PhotoHouse:
    made = photo_house(immich, roots, tmp_path, {"RECONCILE_INTERVAL_SECONDS": "3600"})
    made.house.install_triggers()
    return made


def refused_by_a_trigger(carol: PhotoHouse, bad: Photo) -> Callable[[], object]:
    """A constraint that nobody knows of refuses one copy; returns what takes it away."""
    query = carol.house.query
    query(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN RAISE EXCEPTION ''this one is refused''; END'"
    )
    query(
        f"""CREATE TRIGGER refuse BEFORE INSERT ON asset FOR EACH ROW
            WHEN (NEW."ownerId" = '{carol.house.target}' AND NEW."originalFileName" = '{bad.original.name}')
            EXECUTE FUNCTION refuse()"""
    )
    return lambda: query("DROP TRIGGER refuse ON asset")


def refused_in_a_child_table(carol: PhotoHouse, bad: Photo) -> Callable[[], object]:
    """The metadata row of the middle photo's copy is refused."""
    query = carol.house.query
    query(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN RAISE check_violation USING MESSAGE = ''this row is refused''; END'"
    )
    query(
        """CREATE TRIGGER refuse BEFORE INSERT ON asset_exif FOR EACH ROW
           WHEN (NEW.description = 'photo 251' AND current_setting('face_sync.quiet', true) = 'on')
           EXECUTE FUNCTION refuse()"""
    )
    return lambda: query("DROP TRIGGER refuse ON asset_exif")


def doubled_in_the_library(carol: PhotoHouse, bad: Photo) -> Callable[[], object]:
    """The target's library has an asset with the path and checksum that the copy is to get."""
    house = carol.house
    library = house.jobs[0].target_library_id
    (other,) = carol.plan(1, start=9000)
    add_rows(house.immich.conninfo, house.target, [other], library=library)
    house.query(
        "UPDATE asset SET checksum = %s, \"originalPath\" = '/elsewhere/x.jpg' WHERE id = %s",
        path_checksum(str(carol.link(bad))),
        other.id,
    )
    return lambda: house.query("DELETE FROM asset WHERE id = %s", other.id)


SPOILERS = [refused_by_a_trigger, refused_in_a_child_table, doubled_in_the_library]


def all_but_one(carol: PhotoHouse, bad: Photo, process: Process) -> None:
    def copied() -> int:
        ((count,),) = carol.house.query("SELECT count(*) FROM public._face_sync_asset_map")
        return int(str(count))

    eventually(lambda: copied() == COUNT - 1, within=30, describe=lambda: f"{copied()}: {process.output[-2000:]}")
    eventually(lambda: set(carol.failures()) == {bad.id}, describe=carol.failures)
    assert "the database refused the copy" in carol.failures()[bad.id][0]
    assert not carol.copied(bad)
    last: list[Report] = []

    def only_bad() -> bool:
        last[:] = [carol.house.verify()]
        return {difference.source_asset_id for difference in last[0].differences} == {bad.id}

    # Links are made after the rows that were counted.
    eventually(only_bad, within=SETTLE_WITHIN, describe=lambda: render(last[0]), every=JUDGED_EVERY)
    assert {difference.rule for difference in last[0].differences} == {"failed"}
    assert process.popen.poll() is None
    assert process.metric("reconnects_total") == 0


@pytest.mark.parametrize("spoil", SPOILERS, ids=lambda spoil: str(getattr(spoil, "__name__", spoil)))
def test_499_copies_and_one_recorded_failure(carol: PhotoHouse, spoil: Spoil) -> None:
    photos = carol.add(COUNT)
    bad = photos[COUNT // 2]
    mend = spoil(carol, bad)
    with carol.house.running(ready=False) as process:
        all_but_one(carol, bad, process)
        mend()
        eventually(lambda: carol.copied(bad), within=30, describe=lambda: process.output[-2000:])
        assert carol.house.settled().copies == COUNT
        assert carol.failures() == {}


def test_the_same_when_one_transaction_of_immich_brings_them_all(carol: PhotoHouse) -> None:
    with carol.house.running() as process:
        # Names go by number: the trigger knows the photo that is to come.
        refused_by_a_trigger(carol, carol.plan(COUNT)[COUNT // 2])
        photos = carol.add(COUNT)
        all_but_one(carol, photos[COUNT // 2], process)


def test_what_an_earlier_try_of_the_batch_found_is_not_said_of_a_source_that_went(carol: PhotoHouse) -> None:
    """One photo's original is missing and another is refused: the first goes before the batch is tried in halves."""
    house = carol.house
    photos = carol.plan(4)
    missing, bad = photos[0], photos[3]
    for photo in photos:
        write_files(photo)
    missing.original.unlink()
    # Refused only when the photo with the missing original has gone.
    house.query(
        f"""CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                WHILE EXISTS (SELECT FROM asset WHERE id = '{missing.id}') LOOP PERFORM pg_sleep(0.01); END LOOP;
                RAISE EXCEPTION 'this one is refused';
            END $$"""
    )
    house.query(
        f"""CREATE TRIGGER refuse BEFORE INSERT ON asset FOR EACH ROW
            WHEN (NEW."ownerId" = '{house.target}' AND NEW."originalFileName" = '{bad.original.name}')
            EXECUTE FUNCTION refuse()"""
    )

    def asleep() -> bool:
        return bool(
            house.query(
                "SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"
            )
        )

    with house.running() as process:
        carol.rows(photos)
        eventually(asleep, describe=lambda: process.output[-2000:])
        house.query("DELETE FROM asset WHERE id = %s", missing.id)
        eventually(lambda: bad.id in carol.failures(), describe=lambda: process.output[-2000:])
        eventually(lambda: carol.copies() == 2, describe=lambda: process.output[-2000:])
        assert set(carol.failures()) == {bad.id}
        assert str(missing.id) not in process.output
