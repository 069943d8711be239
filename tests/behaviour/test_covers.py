"""What a job's album takes, and what is its cover: photos that are there to be seen, and in it."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import pytest

from tests.behaviour.conftest import Home
from tests.conftest import eventually


def cover_of(home: Home, album: UUID) -> object:
    return home.house.query('SELECT "albumThumbnailAssetId" FROM album WHERE id = %s', album)[0][0]


def with_album(home: Home) -> UUID:
    """Let the jobs have an album of bob's."""
    album = home.bob.album_create("from alice")
    home.change_jobs(lambda job: replace(job, album_id=album))
    return album


def dated(home: Home, *names: str) -> list[UUID]:
    """Let alice upload photos, each taken a day after the one before."""
    return [
        home.alice.upload(f"{name}.jpg", taken=datetime(2020, 5, day, tzinfo=UTC))
        for day, name in enumerate(names, start=1)
    ]


def test_what_bob_locked_or_threw_away_is_neither_taken_into_the_album_nor_its_cover(home: Home) -> None:
    bob = home.bob
    seen, thrown, locked = dated(home, "seen", "thrown", "locked")
    home.settled()
    # The latest of them would be the cover.
    bob.lock(home.copied(locked))
    bob.trash(home.copied(thrown))
    album = with_album(home)
    eventually(lambda: home.copied(seen) in bob.album_assets(album))
    home.settled()
    assert bob.album_assets(album) == {home.copied(seen)}
    assert cover_of(home, album) == home.copied(seen)

    bob.restore(home.copied(thrown))
    bob.unlock(home.copied(locked))
    home.settled()
    assert bob.album_assets(album) == {home.copied(photo) for photo in (seen, thrown, locked)}
    assert cover_of(home, album) == home.copied(seen)


@pytest.mark.variant
def test_an_album_of_which_all_is_locked_has_no_cover_of_ours(home: Home) -> None:
    (only,) = dated(home, "only")
    home.settled()
    home.bob.lock(home.copied(only))
    album = with_album(home)
    home.alice.describe(only, "look")
    home.settled()
    assert home.bob.album_assets(album) == set()
    assert cover_of(home, album) is None
    # Immich leaves a photo that is locked by itself in its albums.
    home.bob.album_add(album, home.copied(only))
    home.house.query('UPDATE album SET "albumThumbnailAssetId" = NULL')
    home.alice.describe(only, "look again")
    home.settled()
    assert cover_of(home, album) is None


@pytest.mark.variant
def test_a_photo_that_bob_took_out_of_the_album_is_not_its_cover(home: Home) -> None:
    alice, bob = home.alice, home.bob
    album = with_album(home)
    (photo,) = dated(home, "photo")
    home.settled()
    bob.album_remove(album, home.copied(photo))
    assert cover_of(home, album) is None
    alice.describe(photo, "look at this")
    home.settled()
    assert cover_of(home, album) is None
    (other,) = dated(home, "other")
    home.settled()
    assert cover_of(home, album) == home.copied(other)


@pytest.mark.parametrize("way", [lambda alice, photo: alice.lock(photo), lambda alice, photo: alice.trash(photo)])
def test_where_a_cover_goes_another_photo_of_the_album_is(home: Home, way: Callable[..., None]) -> None:
    alice, bob = home.alice, home.bob
    album = with_album(home)
    first, second, third = dated(home, "first", "second", "third")
    home.settled()
    of_first, of_second, of_third = (home.copied(photo) for photo in (first, second, third))
    home.house.query('UPDATE album SET "albumThumbnailAssetId" = %s WHERE id = %s', of_third, album)
    own = bob.album_create("bob's own", of_third)
    alices = alice.album_create("alice's, bob added to it", of_third, second)
    # Immich leaves a photo that is locked by itself in its albums.
    home.house.query("UPDATE asset SET visibility = 'locked' WHERE id = %s", of_second)

    way(alice, third)
    home.settled()
    eventually(lambda: cover_of(home, album) == of_first, describe=lambda: str(cover_of(home, album)))
    assert cover_of(home, own) is None, "nothing else is in it"
    assert cover_of(home, alices) == second


@pytest.mark.variant
def test_a_cover_that_becomes_a_motion_part_is_one_no_more(home: Home) -> None:
    alice, bob = home.alice, home.bob
    still, other = dated(home, "still", "other")
    motion = alice.upload("motion.mp4")
    home.settled()
    album = bob.album_create("films", home.copied(motion), home.copied(other))
    alice.link_live_photo(still, motion)
    home.settled()
    assert bob.asset(home.copied(motion))["visibility"] == "hidden"
    assert cover_of(home, album) == home.copied(other)
