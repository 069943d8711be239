"""The actor writes what Immich writes: held against the recordings, and against the rows and files of 12 releases."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import sql

from listener.standin.actor import NEW, Actor, Picture
from listener.standin.actor import Stage as Work
from listener.standin.actor_files import look_at, modified_at
from listener.standin.postgres import create_database, drop_database
from listener.standin.recording import STAMPED, Recording, recorded, recorded_releases
from listener.standin.schema import releases
from tests.conftest import DEFAULT_RELEASE, ImmichDatabase, Roots
from tests.house import add_user

SUMMER = datetime(2024, 7, 1, 12, tzinfo=timezone(timedelta(hours=2)))
LATER = datetime(2020, 6, 1, 10, tzinfo=timezone(timedelta(hours=3)))

Change = tuple[str, str, frozenset[str]]
Written = tuple[frozenset[Change], frozenset[frozenset[tuple[str, str]]]]
"""Operations with the columns that they changed, and which of them share transactions."""

every_release = pytest.mark.parametrize("stage", releases(), indirect=True)


@dataclass(frozen=True, slots=True)
class Stage:
    """An Immich database without users, folders, and actors for new users of it."""

    immich: ImmichDatabase
    roots: Roots
    actors: ExitStack
    connection: psycopg.Connection[Any]

    @property
    def release(self) -> tuple[int, ...]:
        return tuple(int(part) for part in self.immich.release.split("."))

    def act(self, name: str, user: UUID | None = None, seed: int = 0) -> Actor:
        user = user or add_user(self.immich.conninfo, self.immich.release, name)
        roots = self.roots.media, self.roots.external
        return self.actors.enter_context(Actor(self.immich.conninfo, self.immich.release, user, *roots, seed=seed))

    def all(self, query: str, *params: object) -> list[tuple[Any, ...]]:
        cursor = self.connection.execute(query.encode(), params)
        return cursor.fetchall() if cursor.description else []


@pytest.fixture(scope="module")
def databases(server: str, template: Callable[[str], str]) -> Iterator[Callable[[str], ImmichDatabase]]:
    """One database for each release: making a new one for each test takes most of the time."""
    made: dict[str, tuple[str, ImmichDatabase]] = {}

    def of(release: str) -> ImmichDatabase:
        if release not in made:
            name = f"actor_{uuid4().hex}"
            made[release] = name, ImmichDatabase(create_database(server, name, template(release)), release)
        return made[release][1]

    try:
        yield of
    finally:
        for name, _ in made.values():
            drop_database(server, name)


@pytest.fixture
def stage(request: pytest.FixtureRequest, databases: Callable[[str], ImmichDatabase], roots: Roots) -> Iterator[Stage]:
    immich = databases(getattr(request, "param", DEFAULT_RELEASE))
    with psycopg.connect(immich.conninfo, autocommit=True) as connection:
        with ExitStack() as actors:
            made = Stage(immich, roots, actors, connection)
            yield made
        connection.execute("DROP TABLE IF EXISTS written CASCADE")
        connection.execute("DROP FUNCTION IF EXISTS note_write CASCADE")
        for table in ("stack", "album", "user", "move_history", *(["cluster_group"] * (made.release >= (3, 2)))):
            connection.execute(sql.SQL("DELETE FROM {}").format(sql.Identifier(table)))


# Against the recordings.

LISTEN = """
CREATE TABLE written (
    n bigint GENERATED ALWAYS AS IDENTITY, tx xid8 DEFAULT pg_current_xact_id(), tab text, op text, changed text[]
);
CREATE FUNCTION note_write() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO written (tab, op, changed) SELECT TG_TABLE_NAME, TG_OP, CASE WHEN TG_OP = 'UPDATE' THEN ARRAY(
        SELECT key FROM jsonb_each(to_jsonb(NEW)) AS c WHERE c.value IS DISTINCT FROM to_jsonb(OLD) -> c.key
    ) ELSE '{}' END;
    RETURN NULL;
END $$;
"""


def listen(stage: Stage, tables: frozenset[str]) -> None:
    stage.connection.execute(LISTEN)
    for table in tables:
        stage.connection.execute(
            sql.SQL(
                "CREATE TRIGGER zz_note AFTER INSERT OR UPDATE OR DELETE ON {} FOR EACH ROW "
                "EXECUTE FUNCTION note_write()"
            ).format(sql.Identifier(table))
        )


def heard(stage: Stage) -> Written:
    lines = stage.all("SELECT tx::text, op, tab, changed FROM written ORDER BY n")
    stage.all("DELETE FROM written")
    return written((tx, op, table, frozenset(changed)) for tx, op, table, changed in lines)


def in_recording(recording: Recording, step: str) -> Written:
    return written(
        (str(transaction.number), s.op, s.table, row.changed)
        for transaction in recording.transactions(step)
        for s in transaction.statements
        for row in s.rows
    )


def written(lines: Iterable[tuple[str, str, str, frozenset[str]]]) -> Written:
    changes: set[Change] = set()
    shared: dict[str, set[tuple[str, str]]] = {}
    for tx, op, table, changed in lines:
        changes.add((op, table, changed - STAMPED))
        shared.setdefault(tx, set()).add((op, table))
    return frozenset(changes), frozenset(frozenset(group) for group in shared.values())


# Immich writes nothing for it; the recording has a line of a text job that ran then.
NOT_COMPARED = {"thumbnails regenerated"}


def differences(mine: Written, theirs: Written) -> str:
    return "; ".join(
        f"only the actor: {set(a - b) or '-'}, only Immich: {set(b - a) or '-'}"
        for a, b in zip(mine, theirs, strict=True)
    )


def recorded_steps(actor: Actor, roots: Roots) -> Iterator[str]:
    """Do what the recorded user did; yields the name of each step after it."""
    photos = roots.external / "carol" / "photos"
    photos.mkdir(parents=True)
    library = actor.add_library(photos)
    yield "start"
    uploads = [actor.upload(f"{n}.jpg", taken=SUMMER, people=[NEW] * 2 if n < 2 else ()) for n in range(8)]
    uploads.append(actor.upload("8.jpg", taken=SUMMER, people=[actor.people()[0]["person"]]))
    uploads.append(actor.upload("9.jpg", taken=SUMMER, people=[NEW], text="LAB"))
    uploads.append(actor.upload("place.jpg", picture=Picture(SUMMER, latitude=53.3, longitude=-6.2)))
    yield "upload photos"
    people = [row["person"] for row in actor.people()]

    def recognise_all(*assets: UUID) -> None:
        for asset in assets:
            for face in actor.faces_of(asset):
                actor.recognise(face["id"], people[-1])

    recognise_all(actor.upload_live_photo(taken=SUMMER, faces=1, text="LAB")[0])
    yield "upload live photo"
    recognise_all(actor.upload("film.mp4", faces=1))
    yield "upload video"
    like = Picture(SUMMER, faces=2, latitude=53.3, longitude=-6.2)
    scanned = actor.scan_library(library, ["0.jpg", "1.jpg", "2.jpg"], picture=like)
    actor.scan_library(library, ["3.jpg"], picture=Picture(SUMMER, text="LAB"))
    recognise_all(*scanned)
    yield "external library scan"
    yield from people_steps(actor, uploads, people)
    yield from photo_steps(actor, uploads)
    yield from library_steps(actor, library, scanned, uploads, recognise_all)
    actor.delete_person(people[-1])
    yield "person deleted"
    first, *rest = actor.detect_faces_again()
    person = actor.recognise(first)
    for face in rest:
        actor.recognise(face, person)
    yield "forced face detection of everybody"


def people_steps(actor: Actor, uploads: list[UUID], people: list[UUID]) -> Iterator[str]:
    first, second, third, *_ = people
    actor.name_person(first, "Ada")
    yield "person renamed"
    actor.change_person(first, name="Ada L.", birthDate=date(1990, 12, 10), isFavorite=True, color="#aa3355")
    yield "person born, favourite, colour"
    actor.hide_person(second)
    yield "person hidden"
    actor.merge_people(first, third)
    yield "people merged"
    face, other = actor.faces_of(uploads[1])
    actor.reassign_face(face["id"], second)
    yield "face reassigned"
    actor.delete_face(other["id"])
    yield "face deleted softly"
    actor.draw_face(uploads[0], first)
    yield "face drawn by hand"


def photo_steps(actor: Actor, uploads: list[UUID]) -> Iterator[str]:
    actor.describe(uploads[0], "At the sea")
    yield "description edited"
    actor.set_date(uploads[1], LATER)
    yield "date edited"
    actor.edit(uploads[10], latitude=48.8566, longitude=2.3522, rating=4)
    yield "place and rating edited"
    actor.favourite(uploads[3])
    yield "favourite"
    actor.archive(uploads[3])
    yield "archived"
    actor.tag("trip/sea", uploads[0], uploads[1])
    yield "tagged"
    actor.stack(uploads[4], uploads[5])
    yield "stacked"
    actor.crop(uploads[0], x=0, y=0, width=100, height=150)
    yield "cropped"
    actor.undo_edits(uploads[0])
    yield "crop undone"
    actor.trash(uploads[8], uploads[9])
    yield "two trashed"
    actor.restore(uploads[9])
    yield "one restored"
    actor.delete_for_good(uploads[8])
    yield "one deleted for good"
    actor.lock(uploads[7])
    yield "moved to the locked folder"
    actor.refresh_thumbnails(uploads[0])
    yield "thumbnails regenerated"
    actor.find_faces(uploads[0])
    yield "faces refreshed"


def library_steps(
    actor: Actor, library: UUID, scanned: list[UUID], uploads: list[UUID], recognise: Callable[..., None]
) -> Iterator[str]:
    photo = Path(actor.asset(scanned[0])["originalPath"])
    hidden = photo.rename(photo.parents[1] / "away")
    actor.scan_library(library)
    yield "external file vanished"
    hidden.rename(photo)
    actor.scan_library(library)
    yield "external file returned"
    other_day = SUMMER + timedelta(days=1)
    actor.change_file(scanned[1], taken=other_day, latitude=None, longitude=None, text="OTHER")
    actor.scan_library(library)
    actor.find_duplicates(scanned[1], uploads[0])
    recognise(scanned[1])
    yield "external file changed"


@pytest.mark.parametrize("stage", recorded_releases(), indirect=True)
def test_it_writes_as_the_recorded_immich_did(stage: Stage) -> None:
    recording = recorded(stage.immich.release)
    listen(stage, frozenset(statement.table for statement in recording.statements))
    actor = stage.act("carol")
    compared = []
    for step in recorded_steps(actor, stage.roots):
        mine, theirs = heard(stage), in_recording(recording, step)
        compared.append(step)
        if step not in NOT_COMPARED:
            assert mine == theirs, f"{step}: {differences(mine, theirs)}"
    assert tuple(compared) == recording.steps


# On every release.


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


@every_release
def test_libraries(stage: Stage) -> None:
    photos = stage.roots.external / "carol"
    with stage.act("carol") as actor:
        library = actor.add_library(photos)
        first, second, third = actor.scan_library(
            library, ["a/1.jpg", "a/2.jpg", "b/3.mp4"], picture=Picture(SUMMER, faces=1)
        )
        row = actor.asset(first)
        assert (row["originalPath"], row["isExternal"]) == (str(photos / "a/1.jpg"), True)
        assert actor.asset(third)["type"] == "VIDEO"
        faces = {face["id"] for face in actor.faces_of(first)}
        actor.change_file(first, faces=2)
        (photos / "a/2.jpg").rename(photos / "a/4.jpg")
        (fourth,) = actor.scan_library(library)
        assert faces.isdisjoint(face["id"] for face in actor.faces_of(first))
        assert len(actor.faces_of(first)) == 2
        assert actor.asset(first)["fileModifiedAt"] == modified_at(photos / "a/1.jpg")
        offline = actor.asset(second)
        assert (offline["isOffline"], offline["status"]) == (True, "active")
        assert offline["deletedAt"]

        actor.set_exclusions(library, "**/b/**")
        assert actor.scan_library(library) == []
        assert actor.asset(third)["isOffline"]
        actor.set_exclusions(library, "**/*")
        actor.scan_library(library)
        assert all(actor.asset(asset)["isOffline"] for asset in actor.assets())
        actor.set_exclusions(library)
        actor.scan_library(library)
        assert {a: actor.asset(a)["isOffline"] for a in actor.assets()} == {
            first: False, second: True, third: False, fourth: False,
        }  # fmt: skip
        assert actor.asset(first)["deletedAt"] is None

        thumbnails = [Path(file["path"]) for file in actor.files_of(first)]
        actor.delete_library(library, finish=False)
        assert actor.asset(first)["deletedAt"]
        actor.delete_library(library)
        assert actor.assets() == []
        assert (photos / "a/1.jpg").exists(), "originals of a library that goes are not deleted"
        assert not any(path.exists() for path in thumbnails)


@every_release
def test_trash_and_purge_unlink_what_the_rows_name(stage: Stage) -> None:
    kept, apart, photos = (stage.roots.external / name for name in ("kept", "apart", "links"))
    for folder in (kept, apart, photos):
        folder.mkdir()
    (photos / "through").symlink_to(kept)
    with stage.act("carol") as actor:
        library = actor.add_library(photos)
        (photos / "link.jpg").symlink_to(apart / "1.jpg")
        linked, *through = actor.scan_library(library, ["link.jpg", "through/2.jpg", "through/3.jpg"])
        upload = actor.upload("a.jpg")
        actor.describe(upload, "text")
        original = Path(actor.asset(upload)["originalPath"])
        files = [Path(file["path"]) for file in actor.files_of(upload)]

        actor.trash(linked, upload)
        assert {actor.asset(asset)["status"] for asset in (linked, upload)} == {"trashed"}
        actor.restore(upload)
        assert (actor.asset(upload)["status"], actor.asset(upload)["deletedAt"]) == ("active", None)
        actor.empty_trash()
        assert linked not in actor.assets()
        assert not (photos / "link.jpg").is_symlink()
        assert (apart / "1.jpg").exists(), "only the link goes"

        actor.delete_for_good(upload)
        assert not any(path.exists() for path in (original, Path(f"{original}.xmp"), *files))

        actor.trash(through[0])
        actor.purge()
        assert through[0] in actor.assets()
        actor.purge(days=0)
        assert through[0] not in actor.assets()
        assert not (kept / "2.jpg").exists(), "Immich's unlink follows a linked folder"

        stage.all('UPDATE asset SET "isOffline" = true WHERE id = %s RETURNING 1', through[1])
        actor.delete_for_good(through[1])
        assert (kept / "3.jpg").exists() == (stage.release >= (2, 4))


@every_release
def test_files_move_and_change(stage: Stage) -> None:
    with stage.act("carol") as actor:
        asset = actor.upload("a.jpg", taken=SUMMER, template="2024/a.jpg")
        moved = Path(actor.asset(asset)["originalPath"])
        assert moved == stage.roots.media / "library" / str(actor.user_id) / "2024" / "a.jpg"
        actor.describe(asset, "text")
        other = actor.upload("a.jpg", template="2024/a.jpg")
        assert Path(actor.asset(other)["originalPath"]).name == "a+1.jpg"
        again = actor.move_by_storage_template(asset, "2020/b.jpg")
        assert look_at(again).taken == SUMMER
        assert not moved.exists()
        assert Path(f"{again}.xmp").exists()
        assert actor.refresh_metadata(asset)
        assert actor.exif(asset)["description"] == "text"
        assert stage.all("SELECT count(*) FROM move_history") == [(0,)]

        paths = {f["type"]: Path(f["path"]) for f in actor.files_of(asset) if f["type"] != "sidecar"}
        before = {path: (path.stat().st_ino, path.read_bytes()) for path in paths.values()}
        actor.refresh_thumbnails(asset)
        after = {path: (path.stat().st_ino, path.read_bytes()) for path in paths.values()}
        assert all(before[p][0] == after[p][0] and before[p][1] != after[p][1] for p in before)
        os.link(paths["preview"], stage.roots.media / "held")
        actor.refresh_thumbnails(asset, new_inode=True)
        assert paths["preview"].stat().st_nlink == 1
        new = actor.change_thumbnail_format(asset)
        assert new.suffix == ".jpeg"
        assert not paths["thumbnail"].exists()
        full = actor.make_fullsize(asset)
        assert {str(new), str(full)} < {file["path"] for file in actor.files_of(asset)}


@every_release
def test_a_removed_user_leaves_nothing(stage: Stage) -> None:
    with stage.act("carol") as carol, stage.act("bob") as bob:
        photos = stage.roots.external / "carol"
        one, two = carol.scan_library(carol.add_library(photos), ["1.jpg", "2.jpg"], picture=Picture(faces=1))
        upload = carol.upload("a.jpg", people=[NEW])
        original = Path(carol.asset(upload)["originalPath"])
        carol.stack(one, two)
        carol.album_create("Holidays", one)
        carol.tag("home", one)
        kept = bob.upload("b.jpg")
        bob.remove_user(carol.user_id, finish=False)
        assert one in carol.assets()
        bob.restore_user(carol.user_id)
        bob.remove_user(carol.user_id)
        assert stage.all("SELECT id FROM asset") == [(kept,)]
        counts = "(SELECT count(*) FROM {})"
        tables = ("album", "tag", "stack", "library", "person", "asset_face", "asset_file")
        (left,) = stage.all("SELECT " + ", ".join(counts.format(table) for table in tables))
        assert dict(zip(tables, left, strict=True)) == {**dict.fromkeys(tables, 0), "asset_file": 2}
        assert not original.exists()
        assert (photos / "1.jpg").exists()


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
