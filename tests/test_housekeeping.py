"""Notes that nobody needs any more go: of jobs that are gone or renamed, of failures that have no object."""

import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from psycopg_pool import PoolTimeout

from listener import boundary
from listener.database import Pool
from tests.behaviour.conftest import make_home
from tests.conftest import DEFAULT_RELEASE, ImmichDatabase, Roots, eventually
from tests.house import House
from tests.oddities import Oddity
from tests.photos import PhotoHouse, evented_house, write_files


@pytest.fixture
def carol(immich: ImmichDatabase, roots: Roots, tmp_path: Path) -> PhotoHouse:
    return evented_house(immich, roots, tmp_path)


def failing(house: House) -> list[tuple[object, ...]]:
    return house.query("SELECT job, source_asset_id FROM _face_sync_failure ORDER BY 1, 2")


def states(house: House) -> set[object]:
    return {row[0] for row in house.query("SELECT DISTINCT job FROM _face_sync_seen")}


def test_notes_of_jobs_that_are_gone_go_and_those_of_other_listeners_stay(carol: PhotoHouse) -> None:
    """Another listener with another configuration may serve jobs that this one does not know."""
    house = carol.house
    (photo,) = carol.add(1)
    carol.upload(1, start=5)
    photos, uploads = house.jobs
    with house.running() as both:
        house.settled()
        house.sweep()
        eventually(lambda: len(states(house)) == 2, describe=lambda: both.output[-2000:])
    # Failed a day ago for a job that was renamed since, and a moment ago for one of somebody else's.
    house.query(
        "INSERT INTO _face_sync_failure (job, source_asset_id, reason, last_at)"
        " VALUES ('former', %s, 'x', now() - interval '25 hours'), ('of another', %s, 'x', now())",
        photo.id,
        photo.id,
    )
    # Two listeners with a configuration each.
    alone, other = replace(house, jobs=(photos,)), replace(house, jobs=(uploads,), folder=house.folder / "other")
    other.folder.mkdir()
    with other.running() as there, alone.running() as here:
        alone.sweep()
        eventually(lambda: here.output.count("swept") >= 2, describe=lambda: here.output[-2000:])
        assert [job for job, _ in failing(house)] == ["of another"]
        assert len(states(house)) == 2, "somebody serves that job"
        assert there.end() == 0
        alone.sweep()
        eventually(lambda: len(states(house)) == 1, describe=lambda: here.output[-2000:])


def test_a_failure_that_has_no_object_any_more_is_over(carol: PhotoHouse, oddity: Oddity) -> None:
    house = carol.house
    gone, moved, well = carol.plan(3)
    for photo in (gone, moved, well):
        write_files(photo)
    for photo in (gone, moved):
        photo.preview.unlink()
    with house.running() as process:
        carol.rows([gone, moved, well])
        eventually(lambda: carol.copied(well) and len(failing(house)) == 2, describe=lambda: process.output[-2000:])
        house.sweep()
        eventually(lambda: process.metric("failing_sources") == 2, describe=lambda: process.output[-2000:])
        house.query("DELETE FROM asset WHERE id = %s", gone.id)
        # Nobody hears that it is out of the shared part: a change while no listener runs is the same.
        house.query("UPDATE asset SET \"originalPath\" = '/external_library/elsewhere.jpg' WHERE id = %s", moved.id)
        house.sweep()
        eventually(lambda: failing(house) == [], describe=lambda: process.output[-2000:])
        house.sweep()
        eventually(lambda: process.metric("failing_sources") == 0)
    oddity(
        "a photo that failed is deleted, or moved out of the shared part",
        "nothing more: its failure goes from the list and from the metric failing_sources",
        "everything",
    )


def test_asks_that_find_no_connection_free_are_answered_later_and_end_no_session(
    new_immich: Callable[[str], ImmichDatabase], roots: Roots, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, refused = Pool.connection, 0

    def connection(self: Pool, timeout: float | None = None) -> Any:
        nonlocal refused
        refused += asked.is_set()
        if asked.is_set() and refused <= 4:
            raise PoolTimeout("couldn't get a connection after 30.00 sec")
        return real(self, timeout)

    asked = threading.Event()
    monkeypatch.setattr(Pool, "connection", connection)
    monkeypatch.setattr(boundary, "_FIRST_PAUSE", 0.02)
    with ExitStack() as stack:
        home = make_home(new_immich(DEFAULT_RELEASE), roots, tmp_path, stack)
        home.start()
        photo = home.alice.upload("a.jpg")
        home.copied(photo)
        asked.set()
        for words in (["--asset", str(photo)], []):
            done = home.house.command("reconcile", *words)
            assert done.returncode == 0, done.stderr
            refused = 0
        assert home.service.metrics.reconnects._value.get() == 0
        home.settled()
        home.stop()
