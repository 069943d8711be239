"""Point 3: faces follow, and what the target user did with faces on a copy stays."""

from uuid import UUID

import pytest

from listener.standin.actor import Actor
from tests.behaviour.conftest import Home
from tests.behaviour.people import named_portrait, portrait, seen, shown_on_copy
from tests.conftest import eventually


def test_point_3_new_later_recognised_drawn_moved_reassigned_and_deleted_faces_follow(home: Home) -> None:
    alice, bob = home.alice, home.bob
    photo = alice.upload("three.jpg", faces=3)
    copy = home.copied(photo)
    home.settled()
    # Faces of nobody would be clustered at bob's into people of their own.
    assert bob.faces_of(copy) == []

    # Recognised later than copied, one drawn by hand.
    people = [_recognised(alice, face["id"], name) for face, name in zip(alice.faces_of(photo), "ABC", strict=True)]
    alice.draw_face(photo, people[0])
    home.settled()
    assert _names(bob, copy) == ["A", "A", "B", "C"]
    assert seen(bob, copy) == seen(alice, photo)

    # Reassigned, deleted softly, taken from its person.
    first, second, third, drawn = (face["id"] for face in alice.faces_of(photo))
    alice.reassign_face(first, people[1])
    alice.delete_face(second)
    alice.unassign_face(third)
    home.settled()
    assert _names(bob, copy) == ["A", "B"]
    assert seen(bob, copy) == seen(alice, photo)
    assert sorted(row["name"] for row in bob.people()) == ["A", "B"]

    # Moved in place; deleted for good; a deleted one and one of nobody come back.
    home.house.query('UPDATE asset_face SET "boundingBoxX2" = "boundingBoxX2" + 9 WHERE id = %s', first)
    home.house.query('UPDATE asset_face SET "deletedAt" = NULL WHERE id = %s', second)
    alice.reassign_face(third, people[2])
    alice.delete_face(drawn, soft=False)
    home.settled()
    assert _names(bob, copy) == ["B", "B", "C"]
    assert seen(bob, copy) == seen(alice, photo)

    # Detected again: other ids, other boxes, known to nobody until recognised.
    alice.detect_faces_again(photo)
    home.settled()
    assert _names(bob, copy) == []
    for face, person in zip(alice.faces_of(photo), people, strict=True):
        alice.recognise(face["id"], person)
    home.settled()
    assert _names(bob, copy) == ["A", "B", "C"]
    assert seen(bob, copy) == seen(alice, photo)


def test_point_3_faces_that_the_target_drew_reassigned_and_deleted_on_a_copy_stay(home: Home) -> None:
    alice, bob = home.alice, home.bob
    photo = alice.upload("three.jpg", faces=3)
    people = [_recognised(alice, face["id"], name) for face, name in zip(alice.faces_of(photo), "ABC", strict=True)]
    _, _, aunt = named_portrait(bob, "Aunt")
    home.settled()
    copy = home.copied(photo)
    first, second, third = (face["id"] for face in bob.faces_of(copy))
    drawn = bob.draw_face(copy, aunt)
    bob.reassign_face(first, aunt)
    bob.delete_face(second)

    alice.name_person(people[2], "Carol")
    alice.draw_face(photo, people[2])
    with home.stopped():
        _, _, fourth = named_portrait(alice, "D")
        alice.reassign_face(alice.faces_of(photo)[2]["id"], fourth)
    home.settled()
    # Only the third is alice's to move now, and the one she drew comes along.
    of_third = bob.person_of(third)
    assert of_third == home.mirror_of(fourth)
    assert [bob.person_of(face) for face in (first, drawn)] == [aunt, aunt]
    assert _names(bob, copy) == sorted(["Aunt", "Aunt", "D", _name(bob, home.mirror_of(people[2]))])
    assert bob.rows.the("asset_face", id=second)["deletedAt"] is not None
    assert alice.rows.the("asset_face", id=alice.faces_of(photo)[1]["id"])["deletedAt"] is None

    # Whose only face bob gave away might be merged just now: they go when that is a while ago, and do not come back.
    emptied = home.mirror_of(people[0])
    assert emptied is not None
    assert bob.person(emptied)["name"] == "A"
    home.house.query(
        # As a replica Immich's triggers do not stamp the row anew.
        "SET session_replication_role = replica;"
        """UPDATE asset_face SET "updatedAt" = "updatedAt" - interval '1 minute'"""
    )
    home.house.sweep()
    eventually(lambda: home.mirror_of(people[0]) is None, within=20, describe="the empty mirror stays")
    alice.name_person(people[0], "Alan")
    alice.describe(photo, "all of them")
    home.settled()
    assert _names(bob, copy) == sorted(["Aunt", "Aunt", "D", _name(bob, home.mirror_of(people[2]))])
    assert "Alan" not in [row["name"] for row in bob.people()]


def test_point_3_forced_detection_and_recognition_of_everybody(home: Home) -> None:
    alice, bob = home.alice, home.bob
    photo, _, _ = portrait(alice, "one.jpg")
    two = alice.upload("two.jpg", faces=2, people=["new", "new"])
    own, _, aunt = named_portrait(bob, "Aunt")
    home.settled()
    copy = home.copied(photo)
    drawn = bob.draw_face(copy, aunt)

    # New ids everywhere, on the copies too: those are the copied faces once more, and go.
    alice.detect_faces_again()
    home.settled()
    assert [face["id"] for face in bob.faces_of(copy)] == [drawn]
    assert bob.faces_of(home.copied(two)) == []
    (mine,) = bob.faces_of(own)
    assert mine["person"] is None

    for found in (*alice.faces_of(photo), *alice.faces_of(two)):
        _recognised(alice, found["id"], f"of {found['id']}")
    home.settled()
    assert seen(bob, home.copied(two)) == seen(alice, two)
    assert len(shown_on_copy(home, two)) == 2

    # Recognised anew by force: first nobody is anybody, then everybody is somebody again.
    alice.reset_recognition()
    home.settled()
    assert bob.faces_of(home.copied(two)) == []
    people = [alice.recognise(face["id"]) for face in (*alice.faces_of(photo), *alice.faces_of(two))]
    home.settled()
    assert shown_on_copy(home, two) == {home.mirror_of(person) for person in people[1:]}
    assert bob.rows.where("asset_face", id=drawn)
    if home.release >= (2, 1):
        assert bob.person_of(drawn) == aunt


@pytest.mark.releases(since="2.5.0")
def test_points_3_and_4_what_an_edit_hides_and_shows_follows(home: Home) -> None:
    alice, bob = home.alice, home.bob
    photo = alice.upload("two.jpg", faces=2, people=["new", "new"], text="at the sea")
    home.settled()
    copy = home.copied(photo)
    # The first face is inside of this crop, the second one and the text are not.
    alice.crop(photo, x=0, y=0, width=90, height=120)
    home.settled()
    assert [face["isVisible"] for face in bob.faces_of(copy)] == [True, False]
    assert [row["isVisible"] for row in bob.rows.where("asset_ocr", assetId=copy)] == [False]
    alice.undo_edits(photo)
    home.settled()
    assert [face["isVisible"] for face in bob.faces_of(copy)] == [True, True]
    assert [row["isVisible"] for row in bob.rows.where("asset_ocr", assetId=copy)] == [True]


def _recognised(actor: Actor, face: UUID, name: str) -> UUID:
    """Recognise a face as a new person of this name."""
    person = actor.recognise(face)
    actor.name_person(person, name)
    return person


def _names(actor: Actor, asset: UUID) -> list[str]:
    return sorted(name for _, name in seen(actor, asset))


def _name(actor: Actor, person: UUID | None) -> str:
    assert person is not None
    return str(actor.person(person)["name"])
