"""Point 12: a copy that its user throws away stays away, and its source is none the wiser."""

from pathlib import Path
from uuid import UUID

import psycopg
import pytest

from tests.behaviour.conftest import Home
from tests.conftest import eventually

WAITING_FOR = "SELECT pid FROM pg_stat_activity WHERE %s = ANY(pg_blocking_pids(pid))"


def skipped(home: Home) -> dict[object, object]:
    return dict(home.house.query("SELECT source_asset_id, reason FROM _face_sync_skipped"))  # type: ignore[arg-type]


def original(home: Home, asset: UUID) -> Path:
    return Path(str(home.alice.asset(asset)["originalPath"]))


def test_a_copy_in_the_trash_of_its_user_stays_there_and_can_be_restored(home: Home) -> None:
    alice, bob = home.alice, home.bob
    photo = alice.upload("one.jpg", faces=1, people=["new"])
    home.settled()
    copy = home.copied(photo)
    bob.favourite(copy)
    bob.trash(copy)
    alice.describe(photo, "new words")
    with home.stopped():
        alice.rate(photo, 4)
    home.settled()
    row = bob.asset(copy)
    assert (row["status"], row["deletedAt"] is not None, row["isFavorite"]) == ("trashed", True, True)
    bob.restore(copy)
    home.settled()
    row = bob.asset(copy)
    assert (row["status"], row["deletedAt"], row["isFavorite"]) == ("active", None, True)
    assert bob.exif(copy)["description"] == "new words"
    assert skipped(home) == {}
    assert Path(bob.asset(copy)["originalPath"]).read_bytes() == original(home, photo).read_bytes()

    # In the trash when the source goes for a while: there it is again afterwards, and in between not even there.
    bob.trash(copy)
    alice.trash(photo)
    eventually(lambda: home.copy_of(photo) is None)
    home.settled()
    assert home.shown() == []
    bob.empty_trash()
    alice.restore(photo)
    home.settled()
    assert (bob.asset(home.copied(photo))["status"], home.copied(photo)) == ("trashed", copy)

    # In the trash when the source goes for good: it does not come back.
    alice.lock(photo)
    eventually(lambda: home.copy_of(photo) is None)
    alice.unlock(photo)
    home.settled()
    assert home.copy_of(photo) is None
    assert skipped(home) == {photo: "removed by target"}


def test_a_copy_that_its_user_deletes_for_good_is_not_made_again(home: Home) -> None:
    alice, bob = home.alice, home.bob
    library = alice.add_library(home.photos)
    (scanned,) = alice.scan_library(library, ["scanned.jpg"])
    photo = alice.upload("one.jpg", faces=1, people=["new"])
    still, motion = alice.upload_live_photo("live")
    others = [alice.upload(f"{n}.jpg") for n in range(4)]
    home.settled()
    gone = [scanned, photo, still, motion, *others]
    originals = {asset: original(home, asset).read_bytes() for asset in gone}
    files = {row["path"]: Path(row["path"]).read_bytes() for asset in gone for row in alice.files_of(asset)}
    copies = {asset: home.copied(asset) for asset in gone}
    links = [Path(bob.asset(copy)["originalPath"]) for copy in copies.values()]

    bob.delete_for_good(copies[scanned], copies[still], *(copies[other] for other in others[:2]))
    bob.trash(copies[photo], *(copies[other] for other in others[2:]))
    bob.empty_trash()
    eventually(lambda: len(skipped(home)) >= len(gone) - 1, describe=lambda: skipped(home))
    alice.describe(photo, "new words")
    alice.favourite(scanned)
    with home.stopped():
        alice.trash(still)
        alice.restore(still)
        alice.rate(others[0], 3)
    home.settled()
    assert [home.copy_of(asset) for asset in gone] == [None] * len(gone)
    assert set(skipped(home).values()) == {"removed by target"}
    assert {asset: original(home, asset).read_bytes() for asset in gone} == originals
    assert {path: Path(path).read_bytes() for path in files} == files
    assert [link for link in links if link.is_symlink()] == []
    assert not list(home.roots.media.glob(f"thumbs/{bob.user_id}/*/*/*")), "no thumbnails of theirs, or people's"

    # Told so, it is made again, under its old id.
    with home.stopped():
        home.house.query("DELETE FROM _face_sync_skipped WHERE source_asset_id = %s", photo)
    home.settled()
    assert home.copied(photo) == copies[photo]
    assert home.copy_of(scanned) is None


@pytest.mark.variant
def test_a_copy_deleted_while_its_source_changes_is_not_made_again(home: Home) -> None:
    """Immich marks it first and deletes its row some time later: in between nothing revives it."""
    alice, bob = home.alice, home.bob
    photos = [alice.upload(f"{n}.jpg") for n in range(12)]
    home.settled()
    copies = [home.copied(photo) for photo in photos]
    for photo, copy in zip(photos, copies, strict=True):
        alice.favourite(photo)
        alice.mark(photo, "metadataExtractedAt")
        bob.delete_for_good(copy)
    home.settled()
    assert [home.copy_of(photo) for photo in photos] == [None] * 12
    eventually(lambda: len(skipped(home)) == 12, describe=lambda: skipped(home))


@pytest.mark.variant
def test_a_copy_deleted_just_when_its_source_goes_does_not_come_back_with_it(home: Home) -> None:
    alice, bob = home.alice, home.bob
    photo = alice.upload("one.jpg")
    home.settled()
    with psycopg.connect(home.immich.conninfo) as deleting:
        deleting.execute("DELETE FROM asset WHERE id = %s", [home.copied(photo)])
        alice.trash(photo)
        eventually(lambda: home.look.execute(WAITING_FOR, [deleting.info.backend_pid]).fetchone())
    home.settled()
    alice.restore(photo)
    home.settled()
    assert home.copy_of(photo) is None
    assert skipped(home) == {photo: "removed by target"}
    assert bob.assets() == []
