"""Point 4: metadata follows, the target user's own changes stay, and edits of the source survive a refresh."""

from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from listener.standin.actor import Actor, Picture
from tests.behaviour.conftest import Home

TAKEN = datetime(2023, 7, 1, 12, 30, tzinfo=timezone(timedelta(hours=2)))


def test_point_4_metadata_text_embeddings_streams_and_sizes_follow(home: Home) -> None:
    alice, bob = home.alice, home.bob
    library = alice.add_library(home.photos)
    shown = Picture(taken=TAKEN, text="at the sea")
    photo, video = alice.scan_library(library, ["a.jpg", "b.mp4"], picture=shown)
    copy, moving = home.copied(photo), home.copied(video)
    home.settled()
    assert _text(bob, copy) == ["at the sea"]
    if home.release >= (3, 0):
        assert bob.rows.the("asset_video", assetId=moving)["codecName"] == "h264"
        assert bob.rows.the("asset_audio", assetId=moving)["codecName"] == "aac"

    alice.describe(photo, "the sea")
    alice.set_date(photo, datetime(2022, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=5))))
    alice.set_place(photo, 48.85, 2.35)
    alice.rate(photo, 4)
    alice.tag("trip/sea", photo)
    home.settled()
    exif = bob.exif(copy)
    assert (exif["description"], exif["rating"], exif["city"]) == ("the sea", 4, "Paris")
    assert exif["dateTimeOriginal"] == datetime(2022, 2, 2, 23, 5, tzinfo=UTC)
    assert exif["timeZone"] == alice.exif(photo)["timeZone"]
    assert bob.asset(copy)["fileCreatedAt"] == exif["dateTimeOriginal"]
    if "tags" in exif:
        assert exif["tags"] == ["trip/sea"]
    # The same again is nothing new; taken away again it goes from the copy.
    alice.rate(photo, None)
    alice.describe(photo, "")
    home.settled()
    assert (bob.exif(copy)["rating"], bob.exif(copy)["description"]) == (None, "")

    # The files change on disk, and a scan has everything done anew.
    before = {column: bob.asset(copy)[column] for column in ("thumbhash", "fileModifiedAt")}
    embedding = _embedding(bob, copy)
    alice.change_file(photo, text="at the lake", width=800, height=600)
    alice.change_file(video, mark="longer")
    alice.scan_library(library)
    home.settled()
    assert _text(bob, copy) == ["at the lake"]
    assert _embedding(bob, copy) == _embedding(alice, photo) != embedding
    now = bob.asset(copy)
    assert all(now[column] != value for column, value in before.items())
    assert now["thumbhash"] == alice.asset(photo)["thumbhash"]
    assert now["fileModifiedAt"] == alice.asset(photo)["fileModifiedAt"]
    if "width" in now:
        assert (now["width"], now["height"]) == (800, 600)
    assert bob.asset(moving)["duration"] == alice.asset(video)["duration"]
    if home.release >= (3, 0):
        frames = [
            actor.rows.the("asset_video", assetId=a)["frameCount"] for actor, a in ((alice, video), (bob, moving))
        ]
        assert frames[0] == frames[1] > 10
        assert bob.rows.the("asset_keyframe", assetId=moving)["packetCount"] == frames[0]


def test_point_4_edits_of_a_source_with_an_xmp_survive_a_metadata_refresh_of_the_copy(home: Home) -> None:
    alice, bob = home.alice, home.bob
    photo = alice.upload("one.jpg", taken=TAKEN)
    plain = alice.upload("two.jpg", taken=TAKEN + timedelta(hours=1))
    copy, other = home.copied(photo), home.copied(plain)
    alice.describe(photo, "the sea")
    alice.set_place(photo, 48.85, 2.35)
    alice.rate(photo, 4)
    home.settled()
    home.stop()
    for asset in (copy, other):
        assert bob.refresh_metadata(asset)
    if home.release >= (2, 4):
        # Immich leaves locked columns alone; before, there is nothing to keep it from losing them.
        exif = bob.exif(copy)
        assert (exif["description"], exif["rating"], exif["latitude"]) == ("the sea", 4, 48.85)
    home.start()
    home.settled()
    exif = bob.exif(copy)
    assert (exif["description"], exif["rating"], exif["city"]) == ("the sea", 4, "Paris")
    assert Path(f"{alice.asset(photo)['originalPath']}.xmp").exists()
    assert not Path(f"{bob.asset(copy)['originalPath']}.xmp").exists()


def test_point_4_what_the_target_changed_on_a_copy_stays_theirs(home: Home) -> None:
    alice, bob = home.alice, home.bob
    photo = alice.upload("one.jpg", taken=TAKEN)
    copy = home.copied(photo)
    alice.describe(photo, "alice's words")
    home.settled()
    bob.describe(copy, "bob's words")
    day = datetime(2001, 1, 1, 12, tzinfo=UTC)
    bob.set_date(copy, day)
    xmp = Path(f"{alice.asset(photo)['originalPath']}.xmp").read_text()
    assert "bob" not in xmp

    alice.describe(photo, "alice's new words")
    alice.set_date(photo, datetime(2010, 10, 10, 10, tzinfo=UTC))
    alice.set_place(photo, 38.72, -9.14)
    home.settled()
    exif = bob.exif(copy)
    # What bob has said nothing about goes on following.
    assert exif["city"] == "Lisbon"
    if home.release < (2, 4):
        # Nothing tells a choice from a refresh there.
        assert exif["description"] == "alice's new words"
    else:
        assert (exif["description"], exif["dateTimeOriginal"]) == ("bob's words", day)
        assert bob.asset(copy)["fileCreatedAt"] == day
        # Also after everything is looked at anew, and when Immich reads bob's XMP again.
        with home.stopped():
            bob.refresh_metadata(copy)
        alice.rate(photo, 3)
        home.settled()
        exif = bob.exif(copy)
        assert (exif["description"], exif["dateTimeOriginal"], exif["rating"]) == ("bob's words", day, 3)
    assert alice.exif(photo)["description"] == "alice's new words"


@pytest.mark.releases(since="2.5.0")
def test_point_4_crops_turns_and_mirrors_follow_and_the_targets_own_stay(home: Home) -> None:
    alice, bob = home.alice, home.bob
    photo = alice.upload("one.jpg", faces=1, people=["new"])
    copy = home.copied(photo)
    alice.crop(photo)
    home.settled()
    assert _edits(bob, copy) == [("crop", {"x": 50, "y": 50, "width": 300, "height": 200})]
    assert (bob.asset(copy)["width"], bob.asset(copy)["isEdited"]) == (300, True)
    _assert_own_edited_files(alice, photo, bob, copy)
    alice.rotate(photo)
    home.settled()
    assert _edits(bob, copy) == [("rotate", {"angle": 90})]
    assert (bob.asset(copy)["width"], bob.asset(copy)["height"]) == (480, 640)
    _assert_own_edited_files(alice, photo, bob, copy)
    alice.mirror(photo)
    home.settled()
    assert _edits(bob, copy) == [("mirror", {"axis": "horizontal"})]
    alice.undo_edits(photo)
    home.settled()
    assert _edits(bob, copy) == []
    assert not bob.asset(copy)["isEdited"]
    assert not [path for path in _edited(bob, copy).values() if path.exists()]

    # Bob's own crop of the copy: from then on the picture is his.
    bob.crop(copy, width=100, height=100)
    pictures = {kind: path.read_bytes() for kind, path in _edited(bob, copy).items()}
    alice.rotate(photo)
    alice.describe(photo, "turned")
    home.settled()
    with home.stopped():
        alice.mirror(photo)
        alice.describe(photo, "turned, mirrored")
    home.settled()
    assert bob.exif(copy)["description"] == "turned, mirrored"
    assert [action for action, _ in _edits(bob, copy)] == ["crop"]
    assert (bob.asset(copy)["width"], bob.asset(copy)["isEdited"]) == (100, True)
    assert {kind: path.read_bytes() for kind, path in _edited(bob, copy).items()} == pictures
    assert [action for action, _ in _edits(alice, photo)] == ["mirror"]


def _text(actor: Actor, asset: UUID) -> list[str]:
    if not actor.rows.has("asset_ocr"):
        # Immich 2.2 brought text: what is asked of it is true before.
        return [actor._picture(asset).text or ""]
    found = [row["text"] for row in actor.rows.where("asset_ocr", assetId=asset)]
    assert found == [row["text"] for row in actor.rows.where("ocr_search", assetId=asset)]
    return found


def _embedding(actor: Actor, asset: UUID) -> str:
    return str(actor.rows.the("smart_search", assetId=asset)["embedding"])


def _edits(actor: Actor, asset: UUID) -> list[tuple[str, dict[str, Any]]]:
    rows = sorted(actor.rows.where("asset_edit", assetId=asset), key=lambda row: int(row["sequence"]))
    return [(row["action"], row["parameters"]) for row in rows]


def _edited(actor: Actor, asset: UUID) -> dict[str, Path]:
    return {row["type"]: Path(row["path"]) for row in actor.files_of(asset) if row["isEdited"]}


def _assert_own_edited_files(alice: Actor, photo: UUID, bob: Actor, copy: UUID) -> None:
    """Edited files are the target's to write again: equal bytes, another inode."""
    theirs, own = _edited(alice, photo), _edited(bob, copy)
    assert set(own) == set(theirs) == {"preview", "thumbnail", "fullsize"}
    for kind, path in own.items():
        assert path.read_bytes() == theirs[kind].read_bytes()
        assert not path.samefile(theirs[kind])
