"""What the target user says of mirrored people, and whom they give copied faces to, is theirs."""

from collections.abc import Callable
from datetime import date
from uuid import UUID

import pytest

from listener.standin.actor import Actor
from tests.behaviour.conftest import Home
from tests.behaviour.people import named_portrait, portrait, seen, thumbnail
from tests.conftest import eventually


def test_what_the_target_says_of_a_mirrored_person_stays(home: Home) -> None:
    alice, bob = home.alice, home.bob
    photo, _, nobody = portrait(alice, "nobody.jpg")
    _, _, eva = named_portrait(alice, "Eva")
    home.settled()
    unnamed, mirror = _mirror(home, nobody), _mirror(home, eva)
    # Whom alice has not named; and of the other one all but the name.
    bob.name_person(unnamed, "Grandpa")
    bob.set_birth_date(unnamed, date(1930, 1, 2))
    bob.hide_person(mirror)
    bob.colour_person(mirror, "#112233")
    bob.favourite_person(mirror)
    _write_anew(home, photo, nobody, eva)
    found = bob.person(unnamed)
    assert (found["name"], found["birthDate"]) == ("Grandpa", date(1930, 1, 2))
    found = bob.person(mirror)
    assert (found["isHidden"], found["color"], found["isFavorite"]) == (True, "#112233", True)

    # Alice says something, too: his own stays, and what he has not chosen follows.
    alice.name_person(nobody, "Paul")
    alice.set_birth_date(nobody, date(1931, 1, 1))
    alice.colour_person(eva, "#445566")
    alice.set_birth_date(eva, date(1990, 1, 2))
    _write_anew(home, photo, nobody, eva)
    found = bob.person(unnamed)
    assert (found["name"], found["birthDate"]) == ("Grandpa", date(1930, 1, 2))
    found = bob.person(mirror)
    assert (found["birthDate"], found["color"], found["isHidden"]) == (date(1990, 1, 2), "#112233", True)

    # One that he renames, and then as alice has it: from then on he follows again, where names are not each user's own.
    bob.name_person(mirror, "Mum")
    alice.name_person(eva, "Eva M.")
    _write_anew(home, photo, nobody, eva)
    assert bob.person(mirror)["name"] == "Mum"
    bob.name_person(mirror, "Eva M.")
    home.settled()
    alice.name_person(eva, "Eva N.")
    home.settled()
    assert bob.person(mirror)["name"] == ("Eva M." if bob.has_groups else "Eva N.")
    # A name that he took away stays away.
    bob.name_person(mirror, "")
    _write_anew(home, photo, nobody, eva)
    assert bob.person(mirror)["name"] == ""


@pytest.mark.variant
def test_what_the_target_said_before_it_was_noted_is_not_overwritten_by_nothing(home: Home) -> None:
    alice, bob = home.alice, home.bob
    photo, _, nobody = portrait(alice, "nobody.jpg")
    _, _, eva = named_portrait(alice, "Eva")
    home.settled()
    unnamed, mirror = _mirror(home, nobody), _mirror(home, eva)
    with home.stopped():
        home.house.query("UPDATE _face_sync_person_map SET written = '{}'")
        bob.name_person(unnamed, "Grandpa")
        bob.set_birth_date(mirror, date(1990, 1, 2))
    home.settled()
    _write_anew(home, photo, nobody, eva)
    assert bob.person(unnamed)["name"] == "Grandpa"
    assert bob.person(mirror)["birthDate"] == date(1990, 1, 2)
    alice.name_person(nobody, "Paul")
    home.settled()
    assert bob.person(unnamed)["name"] == "Grandpa"
    assert thumbnail(bob, mirror).read_bytes() == thumbnail(alice, eva).read_bytes()


def _unassigned(alice: Actor, photo: UUID, face: UUID, person: UUID) -> None:
    alice.unassign_face(face)


def _deleted(alice: Actor, photo: UUID, face: UUID, person: UUID) -> None:
    alice.delete_person(person)


def _face_deleted(alice: Actor, photo: UUID, face: UUID, person: UUID) -> None:
    alice.delete_face(face)


@pytest.mark.variant
@pytest.mark.parametrize("takes_away", [_unassigned, _deleted, _face_deleted], ids=lambda do: do.__name__.strip("_"))
def test_a_face_that_the_target_gave_to_somebody_is_theirs(
    home: Home, takes_away: Callable[[Actor, UUID, UUID, UUID], None]
) -> None:
    alice, bob = home.alice, home.bob
    photo, face, eva = named_portrait(alice, "Eva")
    home.settled()
    copy = home.copied(photo)
    (mine,) = bob.faces_of(copy)
    granny = bob.create_person("Granny")
    bob.reassign_face(mine["id"], granny)
    home.settled()
    takes_away(alice, photo, face, eva)
    eventually(lambda: home.face_of(face) is None, describe="the face is still noted as a copied one")
    alice.describe(photo, "once more")
    home.settled()
    assert _faces(bob, copy) == [(mine["id"], granny)]
    assert seen(bob, copy) == {(box, "Granny") for box, _ in seen(bob, copy)}
    assert len(seen(bob, copy)) == 1

    # Detected anew by force, it is still his; and alice's, found once more, is somebody's again.
    alice.detect_faces_again()
    home.settled()
    assert _faces(bob, copy) == [(mine["id"], granny)]
    alice.draw_face(photo, alice.create_person("Carol"))
    home.settled()
    assert (mine["id"], granny) in _faces(bob, copy)
    assert {name for _, name in seen(bob, copy)} == {"Granny", "Carol"}


@pytest.mark.variant
def test_a_face_that_is_somebodys_again_at_the_source_is_on_the_copy_once(home: Home) -> None:
    alice, bob = home.alice, home.bob
    photo, face, eva = named_portrait(alice, "Eva")
    portrait(alice, "another.jpg", eva)
    home.settled()
    copy = home.copied(photo)
    (mine,) = bob.faces_of(copy)
    granny = bob.create_person("Granny")
    bob.reassign_face(mine["id"], granny)
    alice.unassign_face(face)
    eventually(lambda: home.face_of(face) is None, describe="the face is still noted as a copied one")
    alice.recognise(face, eva)
    home.settled()
    assert _faces(bob, copy) == [(mine["id"], granny)]


def _faces(actor: Actor, asset: UUID) -> list[tuple[UUID, UUID | None]]:
    return [(face["id"], face["person"]) for face in actor.faces_of(asset) if face["deletedAt"] is None]


def _mirror(home: Home, person: UUID) -> UUID:
    mirror = home.mirror_of(person)
    assert mirror is not None
    return mirror


def _write_anew(home: Home, photo: UUID, *people: UUID) -> None:
    """Let the listener look at these people again, by their own keys and by a photo's, and wait until it has."""
    home.settled()
    for person in people:
        home.alice.change_person(person, isFavorite=True)
        home.alice.change_person(person, isFavorite=False)
    home.alice.describe(photo, home.alice.exif(photo)["description"] + ".")
    home.settled()
