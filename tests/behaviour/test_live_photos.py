"""Point 6: live photos, their motion parts, and pairs that form and split."""

from pathlib import Path

import pytest

from tests.behaviour.conftest import Home
from tests.conftest import eventually


def test_a_live_photo_is_shared_as_one_and_pairs_split_and_form(home: Home) -> None:
    alice, bob = home.alice, home.bob
    still, motion = alice.upload_live_photo("beach")
    home.settled()
    copy, moving = home.copied(still), home.copied(motion)
    assert bob.asset(copy)["livePhotoVideoId"] == moving
    assert bob.asset(moving)["visibility"] == "hidden"
    assert (
        Path(bob.asset(moving)["originalPath"]).read_bytes() == Path(alice.asset(motion)["originalPath"]).read_bytes()
    )

    alice.unlink_live_photo(still)
    home.settled()
    assert bob.asset(copy)["livePhotoVideoId"] is None
    assert bob.asset(moving)["visibility"] == "timeline", "the video is seen by itself"

    alice.link_live_photo(still, motion)
    home.settled()
    assert bob.asset(copy)["livePhotoVideoId"] == moving
    assert bob.asset(moving)["visibility"] == "hidden"

    photo, video = alice.upload("photo.jpg"), alice.upload("video.mp4")
    home.settled()
    assert bob.asset(home.copied(video))["visibility"] == "timeline"
    alice.link_live_photo(photo, video)
    home.settled()
    assert bob.asset(home.copied(photo))["livePhotoVideoId"] == home.copied(video)
    assert bob.asset(home.copied(video))["visibility"] == "hidden"

    alice.trash(still)
    eventually(lambda: home.copy_of(still) is None and home.copy_of(motion) is None, describe="one half stayed")
    home.settled()
    alice.restore(still)
    home.settled()
    assert (home.copied(still), home.copied(motion)) == (copy, moving)
    assert bob.asset(copy)["livePhotoVideoId"] == moving
    alice.delete_for_good(still)
    home.settled()
    assert (home.copy_of(still), home.copy_of(motion)) == (None, None)


@pytest.mark.variant
def test_a_live_photo_with_a_half_outside_the_prefix(home: Home) -> None:
    """The still alone where its motion part is not shared; never the motion part alone."""
    alice, bob = home.alice, home.bob
    library = alice.add_library(home.photos.parent)
    names = ["photos/in.jpg", "private/in.mp4", "private/out.jpg", "photos/out.mp4"]
    found = {Path(alice.asset(id_)["originalPath"]).name: id_ for id_ in alice.scan_library(library, names)}
    home.settled()
    alone = home.copied(found["out.mp4"])
    assert bob.asset(alone)["visibility"] == "timeline", "a video as long as no photo claims it"
    alice.link_live_photo(found["in.jpg"], found["in.mp4"])
    alice.link_live_photo(found["out.jpg"], found["out.mp4"])
    home.settled()
    assert bob.asset(home.copied(found["in.jpg"]))["livePhotoVideoId"] is None
    assert [home.copy_of(found[name]) for name in ("in.mp4", "out.jpg", "out.mp4")] == [None, None, None]


@pytest.mark.variant
def test_a_live_photo_whose_motion_part_is_found_late(home: Home) -> None:
    """The still is shared; its motion part comes once Immich has read it."""
    alice, bob = home.alice, home.bob
    still, motion = alice.upload_live_photo("late", until="row")
    alice.work_on(still)
    alice.work_on(motion)
    home.settled()
    assert bob.asset(home.copied(still))["livePhotoVideoId"] == home.copied(motion)
