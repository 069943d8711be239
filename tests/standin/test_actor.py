"""What the actor writes when a user works with photos and people: the rows and files of 12 releases."""

from datetime import UTC, date
from pathlib import Path

import psycopg
import pytest

from listener.standin.actor import NEW
from listener.standin.actor import Stage as Work
from listener.standin.actor_files import modified_at
from listener.standin.schema import releases
from tests.standin.stage import LATER, SUMMER, Stage, every_release

pytest_plugins = ("tests.standin.stage_fixtures",)


@every_release
def test_an_upload_has_all_its_rows_and_files(stage: Stage) -> None:
    with stage.act("carol") as actor:
        asset = actor.upload("a.jpg", taken=SUMMER, people=[NEW, NEW], text="LAB")
        row, exif = actor.asset(asset), actor.exif(asset)

        assert row["fileCreatedAt"] == SUMMER
        assert row["localDateTime"] == SUMMER.replace(tzinfo=UTC)
        assert (exif["timeZone"], exif["fileSizeInByte"]) == ("UTC+2", Path(row["originalPath"]).stat().st_size)
        assert row["fileModifiedAt"] == modified_at(row["originalPath"])
        assert row["thumbhash"]
        assert {file["type"]: Path(file["path"]).is_file() for file in actor.files_of(asset)} == {
            "preview": True,
            "thumbnail": True,
        }
        sign = "_" if stage.release >= (2, 5) else "-"
        assert {Path(file["path"]).name for file in actor.files_of(asset)} == {
            f"{asset}{sign}preview.jpeg",
            f"{asset}{sign}thumbnail.webp",
        }
        (marks,) = stage.all('SELECT to_jsonb(s) FROM asset_job_status AS s WHERE "assetId" = %s', asset)
        assert all(marks[0].values()), "every job that this release has is marked as done"
        assert stage.all('SELECT vector_dims(embedding) FROM smart_search WHERE "assetId" = %s', asset) == [(512,)]
        assert stage.all("SELECT count(*), count(DISTINCT embedding::text) FROM face_search") == [(2, 2)]
        if stage.release >= (2, 2):
            assert stage.all("SELECT text FROM ocr_search") == [("LAB",)]
        people = actor.people()
        assert [face["person"] for face in actor.faces_of(asset)] == [person["person"] for person in people]
        assert all(Path(person["thumbnailPath"]).is_file() for person in people)
        assert [person["faceAssetId"] for person in people] == [face["id"] for face in actor.faces_of(asset)]


# Which jobs mark what they have done differs by release.
@pytest.mark.parametrize("stage", ["3.0.3"], indirect=True)
def test_work_stops_where_it_is_told_and_goes_on(stage: Stage) -> None:
    until: Work
    steps: tuple[tuple[Work, int], ...] = (
        ("row", 0), ("metadata", 1), ("files", 1), ("thumbnails", 1), ("clip", 2), ("faces", 3), ("text", 4),
    )  # fmt: skip
    with stage.act("carol") as actor:
        asset = actor.upload("a.jpg", faces=1, text="LAB", until="row")
        for until, marks in steps:
            actor.work_on(asset, until=until)
            rows = stage.all("SELECT to_jsonb(s) - 'assetId' FROM asset_job_status AS s")
            assert [len([v for v in row.values() if v]) for (row,) in rows] == ([marks] if marks else []), until
            assert bool(actor.files_of(asset)) == (until not in {"row", "metadata"})
            assert bool(actor.asset(asset)["thumbhash"]) == (until not in {"row", "metadata", "files"})
            assert len(actor.faces_of(asset)) == (until in {"faces", "text"})
        actor.work_on(asset)
        assert len(actor.faces_of(asset)) == 1


def test_learning_that_is_off_leaves_nothing(stage: Stage) -> None:
    with stage.act("carol") as actor:
        actor.upload("a.jpg", faces=1, text="LAB", learning={"text"})

    assert stage.all('SELECT "facesRecognizedAt", "duplicatesDetectedAt" FROM asset_job_status') == [(None, None)]
    assert stage.all("SELECT (SELECT count(*) FROM asset_face), (SELECT count(*) FROM smart_search)") == [(0, 0)]


@every_release
def test_live_photos_and_videos(stage: Stage) -> None:
    with stage.act("carol") as actor:
        still, motion = actor.upload_live_photo(taken=SUMMER, faces=1)
        assert actor.asset(still)["livePhotoVideoId"] == motion
        assert actor.asset(motion)["visibility"] == "hidden"
        assert (actor.files_of(motion), actor.faces_of(motion)) == ([], [])
        film = actor.upload("film.mp4")
        assert actor.asset(film)["duration"] == (1000 if stage.release >= (3, 0) else "00:00:01.000")
        if stage.release >= (3, 0):
            assert stage.all('SELECT count(*) FROM asset_video WHERE "assetId" IN (%s, %s)', film, motion) == [(2,)]
        encoded = actor.transcode(film)
        assert encoded.is_file()
        if stage.release >= (2, 6):
            assert str(encoded) in {file["path"] for file in actor.files_of(film) if file["type"] == "encoded_video"}
        else:
            assert actor.asset(film)["encodedVideoPath"] == str(encoded)

        actor.unlink_live_photo(still)
        assert actor.asset(motion)["visibility"] == "timeline"
        actor.link_live_photo(still, motion)
        paths = [Path(actor.asset(asset)["originalPath"]) for asset in (still, motion, film)]
        actor.delete_for_good(still, film)
        assert actor.assets() == []
        assert not any(path.exists() for path in (*paths, encoded))


@every_release
def test_people(stage: Stage) -> None:
    with stage.act("carol") as actor:
        photos = [actor.upload(f"{n}.jpg", people=[NEW, NEW]) for n in range(2)]
        (ada, bea), (ada_too, cleo) = ([face["person"] for face in actor.faces_of(photo)] for photo in photos)
        actor.name_person(ada_too, "Ada")
        actor.set_birth_date(ada_too, date(1990, 12, 10))
        actor.hide_person(bea)
        actor.favourite_person(bea)
        actor.colour_person(bea, "#aa3355")
        assert {actor.person(bea)[c] for c in ("isHidden", "isFavorite", "color")} == {True, "#aa3355"}

        thumbnail = Path(actor.person(ada_too)["thumbnailPath"])
        actor.merge_people(ada, ada_too)
        assert (actor.person(ada)["name"], actor.person(ada)["birthDate"]) == ("Ada", date(1990, 12, 10))
        assert {face["person"] for face in actor.faces_of(photos[1])} == {ada, cleo}
        assert ada_too not in {person["person"] for person in actor.people()}
        assert not thumbnail.exists()

        first, second = (face["id"] for face in actor.faces_of(photos[0]))
        thumbnail = Path(actor.person(ada)["thumbnailPath"])
        before = thumbnail.read_bytes()
        actor.set_feature_photo(ada, actor.faces_of(photos[1])[0]["id"])
        assert thumbnail.read_bytes() != before
        actor.reassign_face(second, cleo)
        assert actor.person_of(second) == cleo
        actor.unassign_face(second)
        assert actor.person_of(second) is None
        drawn = actor.draw_face(photos[0], actor.create_person("Dora"))
        (dora,) = (row for row in actor.people() if row["name"] == "Dora")
        assert dora["faceAssetId"] == drawn
        assert Path(dora["thumbnailPath"]).is_file()
        actor.delete_face(first)
        actor.delete_face(second, soft=False)
        assert {f["id"]: f["deletedAt"] is None for f in actor.faces_of(photos[0])} == {first: False, drawn: True}

        thumbnail = Path(actor.person(cleo)["thumbnailPath"])
        actor.delete_person(cleo)
        assert not thumbnail.exists()
        assert {face["person"] for face in actor.faces_of(photos[1])} == {ada, None}
        if stage.release >= (3, 2):
            assert cleo not in {group for (group,) in stage.all("SELECT id FROM person_group")}

        new = actor.detect_faces_again(photos[1])
        assert [face["id"] for face in actor.faces_of(photos[1])] == new
        actor.reset_recognition()
        assert {face["person"] for face in actor.faces_of(photos[0])} == {None, dora["person"]}
        assert set(actor.detect_faces_again()).isdisjoint(new)
        names = {person["name"] for person in actor.people()}
        assert names == ({"Dora"} if stage.release < (2, 1) else {"Ada", "", "Dora"})


@pytest.mark.parametrize("stage", ["3.2.0", "3.3.0"], indirect=True)
def test_person_groups(stage: Stage) -> None:
    with stage.act("carol") as carol, stage.act("bob") as bob:
        photo, other = carol.upload("a.jpg", people=[NEW]), bob.upload("b.jpg", people=[NEW])
        ada = carol.faces_of(photo)[0]["person"]
        (face,) = bob.faces_of(other)
        bob.join_cluster_group(carol.user_id)
        assert stage.all('SELECT count(DISTINCT "clusterGroupId") FROM person_group') == [(1,)]
        assert stage.all("SELECT count(*) FROM cluster_group") == [(1,)]

        bob.recognise(face["id"], ada)
        bob.name_person(ada, "Aunt Ada")
        assert carol.person(ada)["name"] == ""
        thumbnails = {Path(actor.person(ada)["thumbnailPath"]) for actor in (bob, carol)}
        assert len([path for path in thumbnails if path.is_file()]) == 2
        carol.delete_person(ada)
        assert carol.person_of(bob.faces_of(other)[0]["id"]) == ada, "bob's row keeps the group alive"
        bob.delete_person(ada)
        assert bob.person_of(bob.faces_of(other)[0]["id"]) is None

        if stage.release >= (3, 3):
            mine = bob.recognise(face["id"])
            bob.name_person(mine, "Ida")
            bob.share_person(mine, carol.user_id)
            assert carol.person(mine)["name"] == "Ida"


@every_release
def test_metadata_and_tags(stage: Stage) -> None:
    with stage.act("carol") as actor:
        asset = actor.upload("a.jpg", taken=SUMMER)
        actor.describe(asset, "At the sea")
        actor.set_date(asset, LATER)
        actor.set_place(asset, 38.7, -9.1)
        actor.rate(asset, 4)
        actor.tag("trip/sea", asset)
        actor.tag("home", asset)
        actor.untag("home", asset)
        exif, row = actor.exif(asset), actor.asset(asset)
        assert (exif["description"], exif["dateTimeOriginal"], exif["rating"]) == ("At the sea", LATER, 4)
        assert (exif["latitude"], exif["city"]) == (38.7, "Lisbon")
        assert row["localDateTime"] == LATER.replace(tzinfo=UTC)
        assert actor.tags_of(asset) == ["trip/sea"]
        assert stage.all("SELECT value FROM tag ORDER BY value") == [("home",), ("trip",), ("trip/sea",)]
        if stage.release >= (2, 5):
            assert exif["tags"] == ["trip/sea"]
        xmp = Path(f"{row['originalPath']}.xmp")
        assert xmp.is_file()
        if stage.release >= (2, 4):
            assert exif["lockedProperties"] is None
            assert str(xmp) in {file["path"] for file in actor.files_of(asset) if file["type"] == "sidecar"}
        else:
            assert row["sidecarPath"] == str(xmp)

        xmp.unlink()
        stage.all("UPDATE asset_exif SET description = 'kept'")
        if stage.release >= (2, 4):
            stage.all("""UPDATE asset_exif SET "lockedProperties" = '{description}'""")
        assert actor.refresh_metadata(asset)
        exif = actor.exif(asset)
        assert exif["description"] == ("kept" if stage.release >= (2, 4) else "")
        assert (exif["dateTimeOriginal"], exif["rating"], exif["latitude"]) == (SUMMER, None, None)
        assert actor.tags_of(asset) == []

        Path(row["originalPath"]).unlink()
        assert not actor.refresh_metadata(asset)


@pytest.mark.parametrize("stage", [r for r in releases() if r >= "2.5"], indirect=True)
def test_edits_of_the_picture(stage: Stage) -> None:
    with stage.act("carol") as actor:
        asset = actor.upload("a.jpg", faces=2, text="LAB")
        plain = actor.asset(asset)
        actor.crop(asset, x=0, y=0, width=100, height=150)
        row = actor.asset(asset)
        assert (row["isEdited"], row["width"], row["height"]) == (True, 100, 150)
        assert row["thumbhash"] != plain["thumbhash"]
        assert [face["isVisible"] for face in actor.faces_of(asset)] == [True, False]
        assert stage.all('SELECT "isVisible" FROM asset_ocr') == [(False,)]
        edited = [Path(file["path"]) for file in actor.files_of(asset) if file["isEdited"]]
        assert {path.stem.removeprefix(f"{asset}_") for path in edited} == {
            "preview_edited",
            "thumbnail_edited",
            "fullsize_edited",
        }
        contents = [path.read_bytes() for path in edited]
        actor.rotate(asset, 90)
        row = actor.asset(asset)
        assert (row["width"], row["height"]) == (480, 640)
        assert [face["isVisible"] for face in actor.faces_of(asset)] == [True, True]
        assert not set(contents) & {path.read_bytes() for path in edited}
        actor.mirror(asset)
        assert stage.all("SELECT action FROM asset_edit") == [("mirror",)]
        actor.undo_edits(asset)
        row = actor.asset(asset)
        assert {c: row[c] for c in ("isEdited", "width", "height", "thumbhash")} == {
            c: plain[c] for c in ("isEdited", "width", "height", "thumbhash")
        }
        assert not any(path.exists() for path in edited)
        assert len(actor.files_of(asset)) == 2


@every_release
def test_stacks_albums_and_views(stage: Stage) -> None:
    with stage.act("carol") as actor, stage.act("bob") as bob:
        one, two, three, four = (actor.upload(f"{n}.jpg", learning=()) for n in range(4))
        actor.favourite(one)
        actor.archive(two)
        assert (actor.asset(one)["isFavorite"], actor.asset(two)["visibility"]) == (True, "archive")
        actor.unarchive(two)
        stack = actor.stack(one, two)
        stack = actor.stack(three, one)
        assert {actor.asset(asset)["stackId"] for asset in (one, two, three)} == {stack}
        actor.set_stack_cover(stack, one)
        actor.remove_from_stack(three)
        actor.stack(three, four)

        album = actor.album_create("Holidays", one)
        actor.album_add(album, two, three)
        actor.album_remove(album, one)
        actor.album_share(album, bob.user_id)
        assert actor.album_assets(album) == {two, three}
        if stage.release >= (3, 0):
            assert stage.all("SELECT role::text FROM album_user ORDER BY 1") == [("editor",), ("owner",)]
        else:
            assert stage.all('SELECT "ownerId" FROM album') == [(actor.user_id,)]
        actor.lock(two)
        assert actor.album_assets(album) == {three}
        actor.unlock(two)
        actor.album_delete(album)
        assert stage.all("SELECT count(*) FROM album_user") == [(0,)]

        actor.delete_for_good(one)
        assert stage.all('SELECT count(*) FROM stack WHERE "primaryAssetId" <> %s', three) == [(0,)]
        actor.unstack(actor.asset(three)["stackId"])
        assert stage.all('SELECT count(*) FROM asset WHERE "stackId" IS NOT NULL') == [(0,)]


def test_content_can_be_the_same_as_another_users(stage: Stage) -> None:
    with stage.act("carol") as carol, stage.act("bob") as bob:
        asset = carol.upload("a.jpg", taken=SUMMER, faces=1)
        content = Path(carol.asset(asset)["originalPath"]).read_bytes()
        copy = bob.upload("b.jpg", content=content)

        assert bob.asset(copy)["checksum"] == carol.asset(asset)["checksum"]
        assert bob.asset(copy)["fileCreatedAt"] == SUMMER
        with pytest.raises(psycopg.errors.UniqueViolation):
            bob.upload("c.jpg", content=content)


def test_the_seed_decides_the_ids(stage: Stage) -> None:
    carol = stage.act("carol", seed=3)
    first = carol.upload("a.jpg", people=[NEW])
    person = carol.faces_of(first)[0]["person"]
    carol.delete_person(person)
    carol.delete_for_good(first)
    again = stage.act("carol", carol.user_id, seed=3)

    assert again.upload("a.jpg", people=[NEW]) == first
    assert again.faces_of(first)[0]["person"] == person


@pytest.mark.parametrize("stage", ["3.0.3", "3.3.0"], indirect=True)
def test_tags_that_are_renamed_and_deleted(stage: Stage) -> None:
    with stage.act("carol") as actor:
        asset = actor.upload("a.jpg", learning=())
        actor.tag("trip/sea", asset)
        actor.tag("home", asset)
        if stage.release < (3, 3):
            with pytest.raises(LookupError, match="cannot rename"):
                actor.rename_tag("trip", "journey")
        else:
            actor.rename_tag("trip", "journey")
            assert actor.tags_of(asset) == actor.exif(asset)["tags"] == ["home", "journey/sea"]
            assert actor.exif(asset)["lockedProperties"] is None, "the XMP is written"
            actor.rename_tag("journey", "trip")
        actor.delete_tag("trip")
        assert actor.tags_of(asset) == ["home"]
        # Earlier releases leave it in the metadata.
        assert actor.exif(asset)["tags"] == ["home"] + ["trip/sea"] * (stage.release < (3, 3))
