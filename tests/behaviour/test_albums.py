"""Point 9: the album of a job, with the columns and the ownership that each release has."""

from dataclasses import replace

import pytest

from tests.behaviour.conftest import Home
from tests.conftest import eventually


def test_copies_are_in_the_album_of_their_job(home: Home) -> None:
    alice, bob = home.alice, home.bob
    earlier = alice.upload("earlier.jpg")
    still, motion = alice.upload_live_photo("live")
    home.settled()
    album = bob.album_create("from alice")
    home.change_jobs(lambda job: replace(job, album_id=album))
    home.settled()
    assert bob.album_assets(album) == {home.copied(earlier), home.copied(still)}, "not the motion part by itself"
    assert home.copy_of(motion)
    assert home.house.query('SELECT "albumThumbnailAssetId" FROM album WHERE id = %s', album)[0][0] is not None

    new = alice.upload("new.jpg")
    home.settled()
    assert home.copied(new) in bob.album_assets(album)

    bob.album_remove(album, home.copied(new))
    alice.describe(new, "look at this")
    alice.trash(earlier)
    home.settled()
    seen = bob.album_assets(album) & {*home.shown()}
    assert seen == {home.copied(still)}, "taken out by bob; out of sight with its source"
    alice.restore(earlier)
    with home.stopped():
        pass
    home.settled()
    assert bob.album_assets(album) == {home.copied(still), home.copied(earlier)}


@pytest.mark.variant
def test_an_album_that_is_gone_or_somebody_elses_is_reported(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    alice, bob = home.alice, home.bob
    alices = alice.album_create("alice's")
    alice.album_share(alices, bob.user_id)
    home.change_jobs(lambda job: replace(job, album_id=alices))
    first = alice.upload("one.jpg")
    home.settled()
    assert home.copied(first)
    assert alice.album_assets(alices) == set(), "shared with bob, but not his"
    eventually(lambda: "album is not there or not the target user's" in caplog.text)

    bobs = bob.album_create("bob's")
    caplog.clear()
    home.change_jobs(lambda job: replace(job, album_id=bobs))
    home.settled()
    assert bob.album_assets(bobs) == {home.copied(first)}
    assert "album is not there" not in caplog.text
    bob.album_delete(bobs)
    second = alice.upload("two.jpg")
    home.settled()
    assert home.copied(second)
    eventually(lambda: "album is not there or not the target user's" in caplog.text)
