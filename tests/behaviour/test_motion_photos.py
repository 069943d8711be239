"""Motion photos: Android's, whose video is inside the photo, and motion parts that several stills share."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from listener.standin.actor import Picture
from listener.standin.recording import path_checksum
from tests.behaviour.conftest import Home
from tests.conftest import eventually


def plays(home: Home, still: UUID) -> UUID:
    """Return the motion part of bob's copy of a still; what it shows is what alice's shows."""
    part = home.bob.asset(home.copied(still))["livePhotoVideoId"]
    assert part is not None, "it does not move"
    moving, theirs = home.bob.asset(part), home.alice.asset(home.alice.asset(still)["livePhotoVideoId"])
    assert moving["visibility"] == "hidden"
    assert Path(moving["originalPath"]).read_bytes() == Path(theirs["originalPath"]).read_bytes()
    return UUID(str(part))


def motion_photos(home: Home) -> tuple[UUID, UUID]:
    """Let alice have an Android motion photo in her library, and one that she uploaded."""
    alice = home.alice
    library = alice.add_library(home.photos)
    (external,) = alice.scan_library(library, ["2024/PXL_1.MP.jpg"], picture=Picture(motion="waves"))
    return external, alice.upload("PXL_2.MP.jpg", picture=Picture(motion="clouds"))


def files_of_bob(home: Home) -> set[Path]:
    folders = [home.roots.external / "shared", *(home.roots.media / name for name in ("thumbs", "encoded-video"))]
    return {
        path
        for folder in folders
        for path in folder.rglob("*")
        if (path.is_symlink() or path.is_file()) and str(home.alice.user_id) not in path.parts
    }


def test_motion_photos_of_android_move_in_a_library_as_among_uploads(home: Home) -> None:
    """Immich takes the video out into a folder of its own: a part is judged by its still, and goes with it."""
    alice, bob = home.alice, home.bob
    for still in motion_photos(home):
        home.settled()
        part = plays(home, still)
        source = alice.asset(alice.asset(still)["livePhotoVideoId"])
        assert (source["isExternal"], bob.asset(part)["isExternal"]) == (False, True)
        alice.lock(still)
        home.settled()
        assert home.copy_of(still) is None
        assert home.copy_of(source["id"]) is None
        alice.unlock(still)
        home.settled()
        plays(home, still)


def test_reading_the_metadata_again_leaves_the_motion_of_a_copy_alone(home: Home) -> None:
    """Whenever Immich reads a motion photo again it takes the video out, unless that content is there already."""
    alice, bob = home.alice, home.bob
    stills = motion_photos(home)
    home.settled()
    parts, assets, files = [plays(home, still) for still in stills], set(bob.assets()), files_of_bob(home)
    for read in (
        lambda: [bob.refresh_metadata(home.copied(still)) for still in stills],
        bob.look_for_sidecars,
        lambda: [alice.refresh_metadata(still) for still in stills],
    ):
        read()
        home.settled()
        assert [plays(home, still) for still in stills] == parts
        assert set(bob.assets()) == assets
        assert files_of_bob(home) == files


@pytest.mark.variant
def test_the_same_motion_photo_in_the_library_and_among_uploads(home: Home) -> None:
    """Two copies in one library cannot have the same content's checksum: one has it, and serves both at need."""
    alice, bob = home.alice, home.bob
    library = alice.add_library(home.photos)
    (external,) = alice.scan_library(library, ["PXL_1.MP.jpg"], picture=Picture(motion="waves"))
    uploaded = alice.upload("PXL_1.MP.jpg", picture=Picture(motion="waves"))
    home.settled()
    for still in (external, uploaded):
        plays(home, still)
    bob.look_for_sidecars()
    home.settled()
    for still in (external, uploaded):
        plays(home, still)
    alice.delete_for_good(external)
    eventually(lambda: home.copy_of(external) is None)
    home.house.sweep()  # the other job's copy may have that checksum now
    home.settled()
    plays(home, uploaded)
    bob.look_for_sidecars()
    home.settled()
    plays(home, uploaded)


@pytest.mark.parametrize("first", ["library", "uploads"])
def test_a_motion_part_that_two_stills_share_is_whole_in_both_jobs(home: Home, first: str) -> None:
    """Immich's matching ignores libraries: a second upload of a still joins its motion part."""
    alice, bob = home.alice, home.bob
    library = alice.add_library(home.photos)
    if first == "library":
        one, motion = alice.scan_library(library, ["IMG_1.jpg", "IMG_1.mov"])
        alice.link_live_photo(one, motion)
        other = alice.upload("IMG_1.jpg")
    else:
        one, motion = alice.upload_live_photo("IMG_1")
        (other,) = alice.scan_library(library, ["IMG_1.jpg"])
    home.settled()
    part = plays(home, one)
    alice.link_live_photo(other, motion)
    home.settled()
    assert (plays(home, one), plays(home, other)) == (part, part)
    place = bob.asset(part)["originalPath"]

    alice.trash(one)
    home.settled()
    assert plays(home, other) == part
    assert bob.asset(part)["originalPath"] == place, "it stays where it was"
    alice.restore(one)
    home.settled()
    assert (plays(home, one), plays(home, other)) == (part, part)
    alice.delete_for_good(one)
    home.settled()
    assert plays(home, other) == part
    alice.lock(other)
    home.settled()
    assert home.copy_of(motion) is None
    alice.unlock(other)
    home.settled()
    plays(home, other)


@pytest.mark.variant
def test_where_the_prefix_is_a_symlink_a_motion_photo_of_a_library_goes_without_its_motion(
    new_home: Callable[..., Home],
) -> None:
    """There is no place for a link to a file that is elsewhere; until bob's Immich takes the video out of the copy."""
    home = new_home()
    bob = home.bob
    home.photos.mkdir(parents=True)
    Path(home.house.jobs[0].target_path_prefix).symlink_to(home.photos)
    home.house = replace(home.house, jobs=tuple(replace(job, accept_risk=True) for job in home.house.jobs))
    home.house.install_triggers()
    home.start()
    external, uploaded = motion_photos(home)
    home.settled()
    plays(home, uploaded)
    copy = home.copied(external)
    assert bob.asset(copy)["livePhotoVideoId"] is None
    assert all(Path(bob.asset(asset)["originalPath"]).exists() for asset in bob.assets())

    bob.refresh_metadata(copy)
    home.settled()
    own = plays(home, external)
    assert bob.asset(own)["originalPath"].startswith(str(home.roots.media / "encoded-video" / str(bob.user_id)))


@pytest.mark.variant
def test_the_judge_wants_the_checksum_of_the_content(home: Home) -> None:
    stills = motion_photos(home)
    home.settled()
    home.stop()
    for still in stills:
        part = plays(home, still)
        path = home.bob.asset(part)["originalPath"]
        home.look.execute(
            "UPDATE asset SET checksum = %s WHERE id = %s",
            [bytes.fromhex(path_checksum(path).removeprefix("\\x")), part],
        )
    assert {difference.rule for difference in home.house.verify().differences} >= {"asset.checksum"}
