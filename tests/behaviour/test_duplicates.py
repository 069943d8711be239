"""Point 10: what the target user has already is not shared with them a second time."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest

from tests.behaviour.conftest import Home
from tests.conftest import eventually

TAKEN = datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)


def reason_of(home: Home, source: UUID) -> object:
    rows = home.house.query(
        "SELECT reason FROM _face_sync_skipped WHERE source_asset_id = %s AND target_user_id = %s",
        source,
        home.bob.user_id,
    )
    return rows[0][0] if rows else None


def test_duplicates_are_skipped_and_come_when_the_targets_own_go(home: Home) -> None:
    alice, bob = home.alice, home.bob
    own = bob.upload("IMG_0001.heic", taken=TAKEN)
    same = bob.upload("same.jpg")
    content = Path(bob.asset(same)["originalPath"]).read_bytes()
    by_name = alice.upload("img_0001.JPG", taken=TAKEN)
    by_content = alice.upload("other name.jpg", content=content)
    stem_only = alice.upload("IMG_0001.png")
    home.settled()
    assert (home.copy_of(by_name), home.copy_of(by_content)) == (None, None)
    assert reason_of(home, by_name) == "duplicate_filename"
    assert reason_of(home, by_content) == "duplicate_checksum"
    assert home.copied(stem_only), "taken at another time"

    bob.trash(same)
    home.settled()
    assert home.copied(by_content)
    assert reason_of(home, by_content) is None
    bob.delete_for_good(own)
    home.settled()
    assert home.copied(by_name)
    assert reason_of(home, by_name) is None

    # A copy that is there stays, whatever its user uploads then.
    copy = home.copied(stem_only)
    again = bob.upload("again.jpg", content=Path(alice.asset(stem_only)["originalPath"]).read_bytes())
    bob.restore(same)
    alice.describe(stem_only, "still here")
    home.settled()
    assert home.copy_of(stem_only) == copy
    assert home.copy_of(by_content)
    assert again in bob.assets()


@pytest.mark.variant
def test_duplicates_are_shared_when_switched_off_by_a_setting(home: Home) -> None:
    alice, bob = home.alice, home.bob
    own, motion = bob.upload_live_photo("live", taken=TAKEN)
    still, moving = alice.upload_live_photo("LIVE", taken=TAKEN)
    home.settled()
    assert (home.copy_of(still), home.copy_of(moving)) == (None, None), "neither half"
    assert reason_of(home, still) == "duplicate_filename"
    home.change_jobs(lambda job: replace(job, duplicates=False))
    home.settled()
    assert bob.asset(home.copied(still))["livePhotoVideoId"] == home.copied(moving)
    assert bob.asset(own)["livePhotoVideoId"] == motion
    eventually(lambda: reason_of(home, still) is None)
