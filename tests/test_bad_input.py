"""What bad input gets: a reason on record, another try later, and nobody else has to wait for it."""

import json
from pathlib import Path
from uuid import UUID, uuid4

import psycopg
import pytest

from tests.conftest import ImmichDatabase, Roots, eventually
from tests.house import Process
from tests.oddities import Oddity
from tests.photos import Photo, PhotoHouse, evented_house, write_files

RETRIED_WITHIN = 15.0


@pytest.fixture
def carol(immich: ImmichDatabase, roots: Roots, tmp_path: Path) -> PhotoHouse:
    return evented_house(immich, roots, tmp_path)


def failed(carol: PhotoHouse, photo: Photo, process: Process) -> tuple[str, int]:
    """Wait until this photo's failure is on record; returns its reason and the number of tries."""
    eventually(lambda: photo.id in carol.failures(), describe=lambda: process.output[-3000:])
    return carol.failures()[photo.id]


def kinds(process: Process) -> set[str]:
    """Return the reasons that the metric of failures knows."""
    lines = [line for line in process.get("/metrics").text.splitlines() if "_failures_total{" in line]
    return {line.split('reason="')[1].split('"')[0] for line in lines}


@pytest.mark.parametrize("which", ["original", "preview", "thumbnail"])
def test_a_missing_file_makes_its_photo_wait_and_no_other(carol: PhotoHouse, which: str) -> None:
    photos = carol.plan(5)
    bad = photos[2]
    for photo in photos:
        write_files(photo)
    missing: Path = getattr(bad, which)
    content = missing.read_bytes()
    missing.unlink()
    with carol.house.running() as process:
        carol.rows(photos)
        reason, _ = failed(carol, bad, process)
        assert str(missing) in reason
        assert "is missing" in reason
        eventually(lambda: carol.copies() == 4)
        assert not carol.copied(bad)
        eventually(lambda: kinds(process) == {"missing"}, describe=lambda: kinds(process))
        assert process.metric("failures_total") >= 1
        eventually(lambda: carol.failures()[bad.id][1] >= 2, within=RETRIED_WITHIN)
        assert str(bad.id) in process.output
        write_files(bad)
        assert missing.read_bytes() == content
        # Nothing names the photo again: only its own back-off can.
        eventually(lambda: carol.copied(bad), within=RETRIED_WITHIN, describe=lambda: process.output[-3000:])
        assert carol.house.settled().copies == 5
        assert carol.failures() == {}


def test_what_was_half_made_of_a_failed_copy_is_taken_up_or_gone(carol: PhotoHouse) -> None:
    """The source goes before its missing file comes: nothing of the begun copy may stay."""
    (photo,) = carol.plan(1)
    write_files(photo)
    photo.thumbnail.unlink()
    with carol.house.running() as process:
        carol.rows([photo])
        failed(carol, photo, process)
        carol.house.query("DELETE FROM asset WHERE id = %s", photo.id)
        eventually(
            lambda: carol.house.query("SELECT count(*) FROM public._face_sync_intent") == [(0,)],
            describe=lambda: process.output[-3000:],
        )
        assert carol.house.settled().copies == 0
    target = carol.house.roots.media / "thumbs" / str(carol.house.target)
    assert [path for path in target.rglob("*") if path.is_file()] == []
    assert carol.failures() == {}


def refused_alone(carol: PhotoHouse, bad: Photo, others: int, process: Process) -> str:
    """Check that this photo was refused for its path and that the others are copied; returns the reason."""
    reason, _ = failed(carol, bad, process)
    eventually(lambda: carol.copies() == others, describe=lambda: process.output[-3000:])
    assert not carol.copied(bad)
    eventually(lambda: kinds(process) == {"refused"}, describe=lambda: kinds(process))
    assert process.popen.poll() is None
    return reason


@pytest.mark.parametrize("path", ["{folder}/../secret/IMG.jpg", "{folder}/a/../../secret/IMG.jpg", "{folder}/.."])
def test_an_original_whose_path_leads_up_lies_in_no_folder(carol: PhotoHouse, path: str, oddity: Oddity) -> None:
    """Neither as a new photo, nor one that had a copy: one rule says so for the rows and for the files."""
    secret = carol.folder.parent / "secret" / "IMG.jpg"
    secret.parent.mkdir()
    secret.write_text("not to be shared")
    (carol.folder / "a").mkdir()
    photos = carol.plan(3)
    for photo in photos:
        write_files(photo)
    with carol.house.running() as process:
        carol.rows(photos)
        eventually(lambda: carol.copies() == 3)
        bad = path.format(folder=carol.folder)
        insert_like(carol, photos[0], uuid4(), bad)
        carol.house.query('UPDATE asset SET "originalPath" = %s WHERE id = %s', f"{bad}/x.jpg", photos[1].id)
        eventually(lambda: carol.copies() == 2)
        assert carol.house.settled().copies == 2
        assert process.metric("failures_total") == 0
        assert carol.failures() == {}
    links = [link for link in Path(carol.house.jobs[0].target_path_prefix).rglob("*") if link.is_symlink()]
    assert sorted(links) == sorted(carol.link(photo) for photo in (photos[0], photos[2]))
    oddity(
        "A path with `..` that begins with the shared folder",
        "nothing: it does not lie in that folder, for the rows as for the files",
        "a copy of it goes, the other photos stay",
    )


def insert_like(carol: PhotoHouse, photo: Photo, id_: UUID, path: str) -> None:
    """Insert a ready photo that has the generated files of another one, under a path as it is."""
    with psycopg.connect(carol.house.immich.conninfo) as connection:
        connection.execute(
            "INSERT INTO asset SELECT (jsonb_populate_record(asset, jsonb_build_object("
            "'id', %s::text, 'originalPath', %s::text, 'checksum', %s::text))).* FROM asset WHERE id = %s",
            (str(id_), path, "\\x" + id_.hex, photo.id),
        )
        for table in ("asset_exif", "asset_file", "smart_search", "asset_job_status"):
            own = ", 'id', gen_random_uuid()" if table == "asset_file" else ""
            connection.execute(
                f"INSERT INTO {table} SELECT (jsonb_populate_record(t, jsonb_build_object('assetId', %s::text{own}))).*"  # noqa: S608
                f' FROM {table} AS t WHERE "assetId" = %s'.encode(),
                (str(id_), photo.id),
            )


def test_a_failure_goes_with_its_photo(carol: PhotoHouse) -> None:
    """A refused photo that its owner then deletes is no failure any more."""
    (good,) = carol.add(1)
    bad = uuid4()
    insert_like(carol, good, bad, f"{carol.folder}/nowhere.jpg")
    with carol.house.running() as process:
        eventually(lambda: bad in carol.failures())
        carol.house.query("DELETE FROM asset WHERE id = %s", bad)
        eventually(lambda: carol.failures() == {}, describe=lambda: process.output[-2000:])


@pytest.mark.parametrize("which", ["original", "preview"])
def test_a_file_that_leads_through_a_symlink_out_of_the_roots_is_refused(
    carol: PhotoHouse, which: str, tmp_path: Path
) -> None:
    secret = tmp_path / "etc" / "secret"
    secret.parent.mkdir()
    secret.write_text("not to be shared")
    photos = carol.plan(3)
    for photo in photos:
        write_files(photo)
    bad = photos[1]
    leading: Path = getattr(bad, which)
    leading.unlink()
    leading.symlink_to(secret)
    with carol.house.running() as process:
        carol.rows(photos)
        assert str(secret) in refused_alone(carol, bad, 2, process)
    assert secret.stat().st_nlink == 1
    assert not carol.link(bad).is_symlink()


def test_a_folder_that_leads_out_of_the_roots_is_refused(carol: PhotoHouse, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    photos = carol.plan(2)
    for photo in photos:
        write_files(photo)
    folder = carol.folder / "way-out"
    folder.symlink_to(outside)
    (outside / "IMG.jpg").write_text("not to be shared")
    with carol.house.running() as process:
        carol.rows(photos)
        eventually(lambda: carol.copies() == 2)
        bad = Photo(uuid4(), folder / "IMG.jpg", photos[0].preview, photos[0].thumbnail)
        insert_like(carol, photos[0], bad.id, str(bad.original))
        refused_alone(carol, bad, 2, process)


def test_a_target_folder_that_leads_out_is_refused(carol: PhotoHouse, tmp_path: Path) -> None:
    """Somebody has put a symlink below the target prefix: nothing is written behind it."""
    outside = tmp_path / "outside"
    outside.mkdir()
    prefix = Path(carol.house.jobs[0].target_path_prefix)
    prefix.mkdir(parents=True)
    (prefix / "2024").symlink_to(outside)
    (good,) = carol.plan(1)
    (planned,) = carol.plan(1, start=7)
    bad = Photo(planned.id, carol.folder / "2024" / "IMG.jpg", planned.preview, planned.thumbnail)
    for photo in (good, bad):
        write_files(photo)
    with carol.house.running() as process:
        carol.rows([good, bad])
        reason, _ = failed(carol, bad, process)
        assert "leads through a symlink: '2024'" in reason
        eventually(lambda: carol.copied(good))
        eventually(lambda: kinds(process) == {"refused"}, describe=lambda: kinds(process))
    assert list(outside.iterdir()) == []


def test_a_file_in_the_way_of_a_link_is_left_alone(carol: PhotoHouse) -> None:
    photos = carol.plan(3)
    for photo in photos:
        write_files(photo)
    bad = photos[1]
    own = carol.link(bad)
    own.parent.mkdir(parents=True)
    own.write_text("bob's only copy of something")
    with carol.house.running() as process:
        carol.rows(photos)
        reason, _ = failed(carol, bad, process)
        assert str(own) in reason
        assert "in the way" in reason
        eventually(lambda: carol.link(photos[0]).is_symlink() and carol.link(photos[2]).is_symlink())
        assert own.read_text() == "bob's only copy of something"
        own.unlink()
        eventually(lambda: carol.link(bad).is_symlink(), within=RETRIED_WITHIN)
        assert carol.house.settled().copies == 3
        assert carol.failures() == {}


def test_removing_a_copy_never_removes_a_file_in_place_of_its_link(carol: PhotoHouse) -> None:
    (photo,) = carol.add(1)
    with carol.house.running():
        carol.house.settled()
        link = carol.link(photo)
        link.unlink()
        link.write_text("bob's own")
        carol.house.query("UPDATE asset SET visibility = 'locked' WHERE id = %s", photo.id)
        eventually(lambda: carol.copies() == 0)
        assert link.read_text() == "bob's own"
        assert photo.original.exists()


def test_a_folder_in_place_of_a_copys_file_is_a_recorded_failure(carol: PhotoHouse) -> None:
    """What cannot be written or removed fails its own photo; the process lives on."""
    photos = carol.add(3)
    with carol.house.running() as process:
        carol.house.settled()
        ((path,),) = carol.house.query(
            "SELECT file.path FROM asset_file AS file"
            ' JOIN public._face_sync_asset_map AS map ON map.target_asset_id = file."assetId"'
            " WHERE map.source_asset_id = %s AND file.type = 'preview'",
            photos[0].id,
        )
        Path(str(path)).unlink()
        Path(str(path)).mkdir()
        carol.house.query("UPDATE asset SET visibility = 'locked' WHERE id = %s", photos[0].id)
        failed(carol, photos[0], process)
        assert not carol.copied(photos[0]), "its rows wait for no disk"
        carol.add(2, start=50)
        eventually(lambda: carol.copies() == 4, describe=lambda: process.output[-3000:])
        Path(str(path)).rmdir()
        eventually(lambda: not carol.failures(), within=RETRIED_WITHIN, describe=lambda: process.output[-3000:])
        carol.house.settled()
        assert process.metric("reconnects_total") == 0


def test_what_cannot_be_tidied_up_stops_nothing(carol: PhotoHouse) -> None:
    """A folder is where files of a copy that was begun before are looked for."""
    (photo,) = carol.plan(1)
    write_files(photo)
    photo.thumbnail.unlink()
    with carol.house.running() as process:
        carol.rows([photo])
        failed(carol, photo, process)
        ((target,),) = carol.house.query("SELECT target_asset_id FROM public._face_sync_intent")
        thumbs = carol.house.roots.media / "thumbs" / str(carol.house.target)
        strange = thumbs / str(target)[:2] / str(target)[2:4] / f"{target}_strange"
        strange.mkdir(parents=True)
        write_files(photo)
        eventually(lambda: carol.copied(photo), within=RETRIED_WITHIN, describe=lambda: process.output[-3000:])
        carol.add(2, start=50)
        eventually(lambda: carol.copies() == 3, describe=lambda: process.output[-3000:])
        assert process.popen.poll() is None, process.output[-3000:]
        assert strange.is_dir()


@pytest.mark.parametrize("immich", ["3.0.3"], indirect=True)
def test_a_mirrored_person_that_the_database_refuses_holds_up_nobody(carol: PhotoHouse) -> None:
    """The thumbnail of a person changes, and the row of their mirror cannot be written."""
    query = carol.house.query
    (photo,) = carol.add(1)
    person, face = uuid4(), uuid4()
    query('INSERT INTO person (id, "ownerId", name) VALUES (%s, %s, %s)', person, carol.house.source, "Ann")
    query('INSERT INTO asset_face (id, "assetId", "personId") VALUES (%s, %s, %s)', face, photo.id, person)
    with carol.house.running() as process:
        carol.house.settled()
        query(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
            " 'BEGIN RAISE EXCEPTION ''this person stays''; END'"
        )
        query(
            f"""CREATE TRIGGER refuse BEFORE UPDATE ON person FOR EACH ROW
                WHEN (NEW."ownerId" = '{carol.house.target}') EXECUTE FUNCTION refuse()"""
        )
        query("UPDATE person SET name = 'Anna' WHERE id = %s", person)
        carol.add(2, start=50)
        eventually(lambda: carol.copies() == 3, describe=lambda: process.output[-3000:])
        assert process.metric("reconnects_total") == 0
        query("DROP TRIGGER refuse ON person")
        carol.house.settled(within=RETRIED_WITHIN)


def test_a_copy_that_the_database_will_not_let_go_holds_up_nobody(carol: PhotoHouse) -> None:
    photos = carol.add(3)
    with carol.house.running() as process:
        carol.house.settled()
        carol.house.query(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
            " 'BEGIN RAISE EXCEPTION ''this row stays''; END'"
        )
        carol.house.query(
            f"""CREATE TRIGGER refuse BEFORE DELETE ON asset FOR EACH ROW
                WHEN (OLD."ownerId" = '{carol.house.target}' AND OLD."originalFileName" = '{photos[0].original.name}')
                EXECUTE FUNCTION refuse()"""
        )
        carol.house.query("UPDATE asset SET visibility = 'locked' WHERE id = ANY(%s)", [photos[0].id, photos[1].id])
        failed(carol, photos[0], process)
        eventually(lambda: not carol.copied(photos[1]), describe=lambda: process.output[-3000:])
        carol.add(2, start=50)
        eventually(lambda: carol.copies() == 4, describe=lambda: process.output[-3000:])
        assert process.metric("reconnects_total") == 0
        carol.house.query("DROP TRIGGER refuse ON asset")
        eventually(lambda: carol.copies() == 3, within=RETRIED_WITHIN, describe=lambda: process.output[-3000:])


def test_forged_and_broken_notifications_are_ignored(carol: PhotoHouse) -> None:
    house = carol.house
    own = carol.add(2)
    ids = [str(uuid4()) for _ in range(190)]
    forged = [
        "",
        "hello",
        "\\x00",
        "[" * 7000,
        json.dumps({"v": 2, "kind": "asset", "ids": ids}),
        json.dumps({"v": 1, "kind": "asset", "ids": ["x'; DROP TABLE asset; --"]}),
        json.dumps({"v": 1, "kind": "asset", "ids": ids}),
        json.dumps({"v": 1, "kind": "person", "ids": ids}),
        json.dumps({"v": 1, "kind": "person", "ids": [str(own[0].id)]}),
        json.dumps({"v": 1, "kind": "asset", "ids": [str(house.target), str(house.source)]}),
        json.dumps({"v": 1, "kind": "ping", "id": "forged"}),
        json.dumps({"v": 1, "kind": "asset", "ids": [str(own[0].id)], "at": float("nan")}),
        json.dumps({"v": 1, "kind": "asset", "ids": [str(own[0].id)], "at": 99e9}),
        json.dumps({"v": 1, "kind": "sweep", "at": -1}),
        "é" * 3900,
    ]
    with house.running() as process:
        house.settled()
        with psycopg.connect(house.immich.conninfo, autocommit=True) as connection:
            for _ in range(3):
                for text in forged:
                    connection.execute("SELECT pg_notify('immich_shared_library', %s)", [text])
        carol.add(2, start=10)
        assert house.settled().copies == 4
        eventually(lambda: process.metric("notifications_ignored_total") == 3 * 7)
        assert process.output.count("a notification could not be read") == 1
        assert process.metric("failures_total") == 0
        assert process.metric("reconnects_total") == 0
        assert process.popen.poll() is None
    assert "Traceback" not in process.output
    assert process.popen.returncode == 0


def test_names_of_every_kind_are_shared(carol: PhotoHouse) -> None:
    names = [
        "two  spaces.jpg", "back\\slash.jpg", "quo'te\".jpg", "new\nline.jpg", "tab\t.jpg", "%s{}$1.jpg", "-rf.jpg",
        "écran.jpg", "e\u0301cran.jpg", "日本語.jpg", "👨\u200d👩\u200d👧.jpg", "\u202egpj.jpg", "...jpg",
        "ends with dot.", "~", "x" * 240 + ".jpg", "\x01\x7f.jpg",
    ]  # fmt: skip
    photos = [
        Photo(planned.id, carol.folder / "año 2024" / name, planned.preview, planned.thumbnail)
        for planned, name in zip(carol.plan(len(names)), names, strict=True)
    ]
    for photo in photos:
        write_files(photo)
    with carol.house.running() as process:
        carol.rows(photos)
        assert carol.house.settled().copies == len(names)
        assert carol.failures() == {}, process.output
    for photo in photos:
        assert carol.link(photo).samefile(photo.original)
