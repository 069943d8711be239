"""``listener status``, ``skipped`` and ``failures``: what is told of photos without a copy, and trying them again."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from tests.conftest import ImmichDatabase, Roots, eventually
from tests.house import House
from tests.photos import Photo, PhotoHouse, photo_house


@pytest.fixture
def carol(immich: ImmichDatabase, roots: Roots, tmp_path: Path) -> PhotoHouse:
    made = photo_house(immich, roots, tmp_path)
    made.house.install_triggers()
    return made


def listed(house: House, what: str, *words: str) -> list[dict[str, object]]:
    done = house.command(what, "list", "--json", *words)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert isinstance(found, list)
    return found


def copies(house: House, photos: Sequence[Photo]) -> set[UUID]:
    """Those of these photos that have a copy."""
    rows = house.query(
        "SELECT map.source_asset_id FROM _face_sync_asset_map AS map JOIN asset ON asset.id = map.target_asset_id"
    )
    return {photo.id for photo in photos} & {UUID(str(row[0])) for row in rows}


def delete_copy(house: House, photo: Photo) -> None:
    """Delete a copy for good, as its user may."""
    house.query(
        "DELETE FROM asset WHERE id = (SELECT target_asset_id FROM _face_sync_asset_map WHERE source_asset_id = %s)",
        photo.id,
    )
    eventually(lambda: house.query("SELECT 1 FROM _face_sync_skipped WHERE source_asset_id = %s", photo.id))


def test_a_copy_that_its_user_deleted_comes_back_when_asked_for(carol: PhotoHouse) -> None:
    house, photos = carol.house, carol.add(3)
    with house.running():
        house.settled()
        for photo in photos[:2]:
            delete_copy(house, photo)
        first = listed(house, "skipped")
        assert {note["asset"] for note in first} == {str(photo.id) for photo in photos[:2]}
        assert {(note["job"], note["reason"]) for note in first} == {("photos", "removed by target")}
        assert {note["file"] for note in first} == {photo.original.name for photo in photos[:2]}
        assert listed(house, "skipped", "--job", "uploads") == []

        retried = house.command("skipped", "retry", "--asset", str(photos[0].id))
        assert retried.returncode == 0, retried.stderr
        assert "1 to be tried again: the listener has been told" in retried.stdout
        # The sweep is 15 minutes away: the notification did it.
        eventually(lambda: copies(house, photos) == {photos[0].id, photos[2].id})
        house.settled()
    retried = house.command("skipped", "retry", "--all", "--job", "photos")
    assert "no listener runs: its sweep does it" in retried.stdout
    assert listed(house, "skipped") == []
    with house.running():
        eventually(lambda: len(copies(house, photos)) == 3)


def tries(house: House) -> int:
    """Return how often the only photo on the list of failures has been tried, 0 where there is none."""
    return sum(int(str(note["attempts"])) for note in listed(house, "failures"))


def test_a_failed_photo_is_tried_at_once(carol: PhotoHouse) -> None:
    house = carol.house
    good, bad = carol.add(2)
    content = bad.original.read_bytes()
    bad.original.unlink()
    with house.running():
        eventually(lambda: listed(house, "failures"), within=20)
        (note,) = listed(house, "failures")
        assert (note["asset"], note["job"]) == (str(bad.id), "photos")
        assert "is missing" in str(note["reason"])
        lines = house.command("failures", "list").stdout.splitlines()
        assert lines[0].split("\t") == ["asset", "file", "job", "reason", "since", "attempts"]
        assert lines[1].startswith(f"{bad.id}\t{bad.original.name}\tphotos\t")

        # The listener tries by itself too, so what the command does is seen while the file is still missing. A try that
        # is in hand at that moment is counted, too.
        eventually(lambda: tries(house) >= 3, within=30)
        before = tries(house)
        retried = house.command("failures", "retry", "--all")
        assert "1 to be tried again" in retried.stdout
        eventually(lambda: 0 < tries(house) < before, within=20)
        bad.original.write_bytes(content)
        house.command("failures", "retry", "--all")
        eventually(lambda: copies(house, [good, bad]) == {good.id, bad.id})
        eventually(lambda: listed(house, "failures") == [])
    assert house.command("failures", "list").stdout == "none\n"
    assert house.command("failures", "retry", "--all").stdout == "none to retry\n"


def test_what_is_asked_for_wrongly_changes_nothing(carol: PhotoHouse) -> None:
    house = carol.house
    (photo,) = carol.add(1)
    house.query(
        "INSERT INTO _face_sync_skipped (source_asset_id, target_user_id, reason) VALUES (%s, %s, 'a reason')",
        photo.id,
        house.target,
    )
    for words, said in (
        (("retry",), "--asset and an id from the list, or --all"),
        (("retry", "--all", "--asset", str(photo.id)), "--asset and an id from the list, or --all"),
        (("retry", "--asset", str(house.target)), "is not in the list"),
        (("retry", "--all", "--job", "photo"), "Did you mean photos?"),
        (("list", "--job", "photo"), "Did you mean photos?"),
    ):
        done = house.command("skipped", *words)
        assert done.returncode == 2, done.stdout
        assert said in done.stderr
    assert len(listed(house, "skipped")) == 1


def test_status_tells_how_each_job_stands(carol: PhotoHouse) -> None:
    house, photos = carol.house, carol.add(4)
    missing = photos[0].original.rename(photos[0].original.with_suffix(".away"))
    house.query('UPDATE asset_job_status SET "metadataExtractedAt" = NULL WHERE "assetId" = %s', photos[1].id)
    with house.running():
        eventually(lambda: len(copies(house, photos)) == 2)
        delete_copy(house, photos[2])
        eventually(lambda: house.query("SELECT 1 FROM _face_sync_failure"))
        done = house.command("status", "--json")
        found = json.loads(done.stdout)
        assert (done.returncode, found["ok"], found["listening"], found["triggers"]) == (0, True, True, True)
        figures = {
            job["job"]: [job[key] for key in ("copies", "waiting", "failed", "skipped")] for job in found["jobs"]
        }
        assert figures == {"photos": [1, 1, 1, 1], "uploads": [0, 0, 0, 0]}
        text = house.command("status").stdout
        assert f"photos\t{carol.folder}\t{house.jobs[0].target_path_prefix}\t1\t1\t1\t1" in text
        assert "triggers: ok" in text
    done = house.command("status")
    assert done.returncode == 1
    assert "listener: not running" in done.stdout
    missing.rename(photos[0].original)


def test_before_the_first_start_it_says_so(immich: ImmichDatabase, roots: Roots, tmp_path: Path) -> None:
    house = replace(photo_house(immich, roots, tmp_path).house, as_immich=True)
    for words in (("skipped", "list"), ("failures", "retry", "--all"), ("status",)):
        done = house.command(*words)
        assert done.returncode == 2
        assert "listener triggers install" in done.stderr
        assert "Traceback" not in done.stderr


def test_a_file_name_cannot_forge_a_line(carol: PhotoHouse) -> None:
    house = carol.house
    (photo,) = carol.add(1)
    house.query("""UPDATE asset SET "originalFileName" = E'a\\n\\x1b[31mb\\tc' WHERE id = %s""", photo.id)
    house.query(
        "INSERT INTO _face_sync_failure (job, source_asset_id, reason) VALUES ('photos', %s, 'a reason')", photo.id
    )
    lines = house.command("failures", "list").stdout.splitlines()
    assert len(lines) == 2
    assert len(lines[1].split("\t")) == 6
    assert "\x1b" not in lines[1]


def test_at_a_terminal_it_is_a_table(carol: PhotoHouse) -> None:
    house = replace(carol.house, extra={**carol.house.extra, "FORCE_COLOR": "1", "COLUMNS": "200"})
    (photo,) = carol.add(1)
    house.query("UPDATE asset SET \"originalFileName\" = '[red]rose.jpg' WHERE id = %s", photo.id)
    house.query(
        "INSERT INTO _face_sync_failure (job, source_asset_id, reason) VALUES ('photos', %s, 'a reason')", photo.id
    )
    shown = house.command("failures", "list").stdout
    assert "┃" in shown
    assert f"│ {photo.id} │ [red]rose.jpg │ photos │ a reason │" in shown


def test_many_photos_at_once_are_told_in_several_notifications(carol: PhotoHouse) -> None:
    house, photos = carol.house, carol.add(400)
    house = replace(house, jobs=house.jobs[:1])
    house.query(
        "INSERT INTO _face_sync_skipped (source_asset_id, target_user_id, reason)"
        " SELECT unnest(%s::uuid[]), %s, 'removed by target'",
        [photo.id for photo in photos],
        house.target,
    )
    with house.running():
        assert copies(house, photos) == set()
        assert "400 to be tried again: the listener" in house.command("skipped", "retry", "--all").stdout
        eventually(lambda: len(copies(house, photos)) == 400, within=60)
