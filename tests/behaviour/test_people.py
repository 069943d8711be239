"""Point 1: people up to 3.1, and what people of both models have in common."""

import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from uuid import UUID

import psycopg
import pytest

from listener.standin.actor import Actor
from tests.behaviour.conftest import Home
from tests.behaviour.people import copy_for, named_portrait, owner_of_face, portrait, seen, shown_on_copy, thumbnail
from tests.conftest import eventually


@pytest.mark.releases(until="3.1.0")
def test_point_1_name_birth_date_hidden_colour_and_thumbnail_follow_and_favourite_is_own(home: Home) -> None:
    alice, bob = home.alice, home.bob
    photo, face, person = named_portrait(alice, "Grace")
    alice.set_birth_date(person, date(1990, 1, 2))
    home.settled()
    mirror = home.mirror_of(person)
    assert mirror is not None
    found = bob.person(mirror)
    assert (found["ownerId"], found["name"], found["birthDate"]) == (bob.user_id, "Grace", date(1990, 1, 2))
    assert found["faceAssetId"] == home.face_of(face)
    assert shown_on_copy(home, photo) == {mirror}

    bob.favourite_person(mirror)
    alice.name_person(person, "Grace H.")
    alice.set_birth_date(person, None)
    alice.hide_person(person)
    alice.colour_person(person, "#aa3355")
    home.settled()
    found = bob.person(mirror)
    assert (found["name"], found["birthDate"], found["isHidden"], found["color"]) == ("Grace H.", None, True, "#aa3355")
    assert found["isFavorite"]
    assert not alice.person(person)["isFavorite"]

    # Another feature photo: Immich writes the thumbnail anew, in place.
    second, other, _ = portrait(alice, "other.jpg", person)
    before = thumbnail(bob, mirror).read_bytes()
    alice.set_feature_photo(person, other)
    home.settled()
    found = bob.person(mirror)
    assert found["faceAssetId"] == home.face_of(other)
    assert owner_of_face(bob, found["faceAssetId"]) == bob.user_id
    assert found["isFavorite"]
    of_alice, of_bob = thumbnail(alice, person), thumbnail(bob, mirror)
    assert of_bob.read_bytes() == of_alice.read_bytes() != before
    assert not of_bob.samefile(of_alice)

    # Its photo goes from bob's library: another face of hers there stands for her.
    alice.trash(second)
    home.settled()
    assert bob.person(mirror)["faceAssetId"] == home.face_of(face)


@pytest.mark.releases(until="3.1.0")
def test_point_1_a_thumbnail_that_is_written_later_than_its_choice_is_copied_again(home: Home) -> None:
    """Its path stays, so the row that says so is as before."""
    _, _, person = named_portrait(home.alice, "Grace")
    _, other, _ = portrait(home.alice, "other.jpg", person)
    home.settled()
    mirror = home.mirror_of(person)
    assert mirror is not None
    before = thumbnail(home.bob, mirror).read_bytes()
    home.alice.set_feature_photo(person, other, between=home.settled)
    home.settled()
    assert thumbnail(home.bob, mirror).read_bytes() == thumbnail(home.alice, person).read_bytes() != before


def test_point_1_people_who_are_merged_reassigned_and_deleted_at_the_source(home: Home) -> None:
    alice, bob = home.alice, home.bob
    (one, _, grace), (two, _, double), (three, face, stranger) = (
        named_portrait(alice, name) for name in ("Grace", "Double", "Stranger")
    )
    home.settled()
    mirrors = [home.mirror_of(person) for person in (grace, double, stranger)]
    assert None not in mirrors
    assert len(set(mirrors)) == 3
    mirror, *others = (mirror for mirror in mirrors if mirror)
    files = [thumbnail(bob, other) for other in others]

    alice.merge_people(grace, double)
    alice.reassign_face(face, grace)
    home.settled()
    assert [shown_on_copy(home, photo) for photo in (one, two, three)] == [{mirror}] * 3
    # People whom no face needs any more are gone, with their files.
    assert [row["person"] for row in bob.people()] == [mirror]
    assert [home.mirror_of(double), home.mirror_of(stranger)] == [None, None]
    assert not any(file.exists() for file in files)

    # Never one who holds a face of bob's own.
    own = bob.upload("mine.jpg", faces=1, people=[mirror])
    alice.delete_person(grace)
    home.settled()
    assert [shown_on_copy(home, photo) for photo in (one, two, three)] == [set()] * 3
    assert bob.person(mirror)["name"] == "Grace"
    assert bob.faces_of(own)[0]["person"] == mirror
    # They are bob's own now, and shown as on his own photo.
    assert home.mirror_of(grace) is None
    assert bob.person(mirror)["thumbnailPath"] == ""
    assert bob.person(mirror)["faceAssetId"] == bob.faces_of(own)[0]["id"]


@pytest.mark.variant
def test_point_1_somebody_whom_no_face_needs_goes_also_where_that_has_to_wait(home: Home) -> None:
    """The faces are gone by then, and nothing but the listener itself knows whose they were."""
    photo, *_ = portrait(home.alice, "grace.jpg")
    home.settled()
    (mirror,) = home.bob.people()
    with psycopg.connect(home.immich.conninfo) as another:
        another.execute('SELECT FROM person WHERE "ownerId" = %s FOR KEY SHARE', [home.bob.user_id])

        def waited_for() -> bool:
            waiting = "SELECT pid FROM pg_stat_activity WHERE %s = ANY(pg_blocking_pids(pid))"
            return bool(home.house.query(waiting, another.info.backend_pid))

        home.alice.lock(photo)
        eventually(waited_for)
        eventually(lambda: not waited_for())
    home.settled()
    assert home.bob.people() == []
    assert not Path(mirror["thumbnailPath"]).exists()


@pytest.mark.variant
def test_point_1_a_feature_face_follows_also_in_a_batch_that_is_tried_again_in_parts(home: Home) -> None:
    """One copy cannot be removed; of each person one photo goes, with the feature face, and another is written anew."""
    alice, query = home.alice, home.house.query
    kept, going, staying = alice.upload("kept.jpg"), [], []
    for number in range(6):
        photo, _, person = portrait(alice, f"{number}.jpg")
        going.append(photo)
        staying.append(portrait(alice, f"{number}-again.jpg", person)[0])
    home.settled()
    query("CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE check_violation; END'")
    query(
        f"""CREATE TRIGGER refuse BEFORE DELETE ON asset FOR EACH ROW
            WHEN (OLD."ownerId" = '{home.bob.user_id}' AND OLD."originalFileName" = 'kept.jpg')
            EXECUTE FUNCTION refuse()"""
    )
    with psycopg.connect(home.immich.conninfo) as immich:
        # One notification names them all, so that they are one batch.
        immich.execute("SET face_sync.quiet = on")
        lock = "UPDATE asset SET visibility = 'locked' WHERE id = ANY(%s)"
        immich.execute(lock, [[*going, kept]])
        describe = 'UPDATE asset_exif SET description = %s WHERE "assetId" = ANY(%s)'
        immich.execute(describe, ["written anew", staying])
        ids = [str(photo) for photo in (*staying, *going, kept)]
        said = json.dumps({"v": 1, "kind": "asset", "ids": ids})
        immich.execute("SELECT pg_notify('immich_shared_library', %s)", [said])
    eventually(lambda: query("SELECT job FROM _face_sync_failure"))
    query("DROP TRIGGER refuse ON asset")
    home.settled()
    faces = {owner_of_face(home.bob, row["faceAssetId"]) for row in home.bob.people()}
    assert (len(home.bob.people()), faces) == (len(going), {home.bob.user_id})


@pytest.mark.variant
@pytest.mark.releases(until="3.1.0")
def test_point_1_a_thumbnail_that_cannot_be_copied_is_told(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    _, _, person = named_portrait(home.alice, "Grace")
    home.settled()
    home.alice.change_person(person, thumbnailPath=f"{thumbnail(home.alice, person)}.gone")
    eventually(lambda: "a person is not as they should be" in caplog.text)


@pytest.mark.variant
def test_point_1_with_jobs_in_both_directions_a_person_is_one(new_home: Callable[..., Home]) -> None:
    home = new_home(both_ways=True)
    home.start()
    alice, bob = home.alice, home.bob
    photo, _, person = named_portrait(alice, "Grace")
    alice.set_birth_date(person, date(1990, 1, 2))
    home.settled()
    mirror = home.mirror_of(person)
    assert mirror is not None
    # Recognition finds her on a photo of bob's, and alice gets that one.
    back, *_ = portrait(bob, "back.jpg", mirror)
    mine, _, aunt = named_portrait(bob, "Aunt")
    home.settled()
    assert _seen_by(alice, home, back) == {"Grace"}
    assert {face["person"] for face in alice.faces_of(copy_for(alice, home, back))} == {person}
    assert _seen_by(alice, home, mine) == {"Aunt"}
    assert sorted(row["name"] for row in alice.people()) == sorted(row["name"] for row in bob.people())
    assert len(alice.people()) == len(bob.people()) == 2

    alice.hide_person(person)
    bob.set_birth_date(aunt, date(1950, 5, 6))
    bob.describe(back, "once more")
    home.settled()
    found = alice.person(person)
    assert (found["name"], found["birthDate"], found["isHidden"]) == ("Grace", date(1990, 1, 2), True)

    # What bob takes away leaves alice's own person alone.
    bob.delete_for_good(back)
    alice.lock(photo)
    home.settled()
    assert [row["name"] for row in bob.people()] == ["Aunt"]
    assert alice.person(person)["name"] == "Grace"
    assert thumbnail(alice, person).exists()


def _seen_by(actor: Actor, home: Home, source: UUID) -> set[str]:
    return {name for _, name in seen(actor, copy_for(actor, home, source))}
