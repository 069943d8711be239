"""At the edges of what is shared, of what is whose, and of what may be removed."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from listener.standin.actor import Picture
from tests.behaviour.conftest import Home
from tests.behaviour.test_sweep import sample
from tests.conftest import eventually

TAKEN = datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)


@pytest.mark.variant
def test_a_folder_whose_name_begins_like_the_shared_one_is_not_shared(new_home: Callable[..., Home]) -> None:
    home = new_home()
    library = home.alice.add_library(home.photos.parent)
    (neighbour,) = home.alice.scan_library(library, ["photos2/out.jpg"])
    # Not even looked at, while the sweep is all that names photos.
    home.start()
    eventually(lambda: sample(home, "sweeps_total") >= 1, within=30)
    assert sample(home, "keys_reconciled_total") == 0

    (shared,) = home.alice.scan_library(library, ["photos/in.jpg"])
    home.alice.describe(neighbour, "look at me")
    home.settled()
    assert home.copied(shared)
    assert home.copy_of(neighbour) is None
    assert not home.house.query("SELECT reason FROM _face_sync_failure"), "nor tried"
    assert not (home.roots.external / "shared" / "bob_photos2").exists()


@pytest.mark.variant
def test_a_library_below_the_media_root_is_no_upload(home: Home) -> None:
    alice = home.alice
    library = alice.add_library(home.roots.media / "upload" / "imported")
    (external,) = alice.scan_library(library, ["one.jpg"])
    upload = alice.upload("two.jpg")
    home.settled()
    assert home.copied(upload)
    assert home.copy_of(external) is None
    # As from the time before Immich had libraries: imported in place, and in none.
    home.house.query('UPDATE asset SET "libraryId" = NULL WHERE id = %s', external)
    alice.describe(external, "look at me")
    home.settled()
    assert home.copy_of(external) is None


@pytest.mark.variant
def test_hidden_and_library_photos_of_the_target_are_no_doubles(home: Home) -> None:
    alice, bob = home.alice, home.bob
    (in_library,) = bob.scan_library(
        bob.add_library(home.roots.external / "bobs"), ["library.jpg"], picture=Picture(taken=TAKEN)
    )
    motion = bob.upload("hidden.mp4", taken=TAKEN)
    bob.link_live_photo(bob.upload("of another name.jpg"), motion)
    photos = [alice.upload(name, taken=TAKEN) for name in ("library.jpg", "hidden.jpg")]
    home.settled()
    assert all(home.copied(photo) for photo in photos)
    assert bob.asset(in_library)["visibility"] == "timeline"


@pytest.mark.variant
def test_a_motion_part_waits_for_its_still(home: Home) -> None:
    alice = home.alice
    still, motion = alice.upload_live_photo("slow", until="metadata")
    other = alice.upload("other.jpg")
    home.settled()
    assert home.copied(other)
    assert (home.copy_of(still), home.copy_of(motion)) == (None, None)
    alice.work_on(still)
    home.settled()
    assert home.bob.asset(home.copied(still))["livePhotoVideoId"] == home.copied(motion)


@pytest.mark.variant
def test_a_copy_is_not_paired_with_the_targets_own_videos(home: Home) -> None:
    """Immich pairs a user's photo and video by this id, whatever library they are in."""
    photo = home.alice.upload("photo.jpg", picture=Picture(live_photo="0B1E7A3C"))
    home.settled()
    assert home.alice.exif(photo)["livePhotoCID"] == "0B1E7A3C"
    assert home.bob.exif(home.copied(photo))["livePhotoCID"] is None


@pytest.mark.variant
def test_a_scan_does_not_bring_back_what_its_user_threw_away(home: Home) -> None:
    alice, bob = home.alice, home.bob
    thrown, kept = alice.upload("thrown.jpg"), alice.upload("kept.jpg")
    home.settled()
    of_thrown, of_kept = home.copied(thrown), home.copied(kept)
    bob.trash(of_thrown)
    library = home.house.jobs[0].target_library_id
    bob.set_exclusions(library, "**/*")
    bob.scan_library(library)
    bob.set_exclusions(library)
    eventually(lambda: bob.asset(of_kept)["deletedAt"] is None, describe="a scan took it offline")
    alice.describe(thrown, "still here")
    home.settled()
    row = bob.asset(of_thrown)
    assert row["deletedAt"] is not None, "it was in the trash"
    assert row["status"] == "trashed"
    bob.restore(of_thrown)
    eventually(lambda: not bob.asset(of_thrown)["isOffline"], describe="it cannot be seen")
    home.settled()
    assert bob.asset(of_thrown)["deletedAt"] is None


@pytest.mark.variant
def test_what_comes_back_is_not_put_into_an_album_that_is_being_deleted(home: Home) -> None:
    alice, bob = home.alice, home.bob
    photo = alice.upload("one.jpg")
    home.settled()
    deleted, kept = (bob.album_create(name, home.copied(photo)) for name in ("deleted", "kept"))
    alice.lock(photo)
    eventually(lambda: home.copy_of(photo) is None)
    # As Immich does while it removes the owner of an album.
    home.house.query('UPDATE album SET "deletedAt" = now() WHERE id = %s', deleted)
    alice.unlock(photo)
    home.settled()
    assert bob.album_assets(deleted) == set()
    assert bob.album_assets(kept) == {home.copied(photo)}


@pytest.mark.variant
def test_only_the_target_users_rows_are_removed(home: Home) -> None:
    """Whatever our table says: it may have been another sidecar's, or somebody's hand was in it."""
    alice = home.alice
    gone, hers = alice.upload("gone.jpg"), alice.upload("hers.jpg")
    home.settled()
    original = Path(alice.asset(hers)["originalPath"])
    home.stop()
    home.house.query("DELETE FROM _face_sync_asset_map WHERE source_asset_id = %s", hers)
    home.house.query("UPDATE _face_sync_asset_map SET target_asset_id = %s WHERE source_asset_id = %s", hers, gone)
    alice.delete_for_good(gone)
    home.start()
    eventually(lambda: not home.house.query("SELECT 1 FROM _face_sync_asset_map WHERE source_asset_id = %s", gone))
    assert alice.asset(hers)["status"] == "active"
    assert original.exists()
    assert all(Path(row["path"]).exists() for row in alice.files_of(hers))
