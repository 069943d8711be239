"""Points 1 and 2: the target user merges mirrored people while the listener runs.

Immich moves the faces first and deletes the person then, in two transactions. What the listener makes of the
moment between the two is looked at by holding it open until the listener has seen it.
"""

import threading
from collections.abc import Callable, Sequence
from itertools import count
from uuid import UUID

import pytest

from listener.standin.actor import Actor
from listener.sync.people import Person
from listener.sync.placing import Failure, Placer
from tests.behaviour.conftest import Home
from tests.behaviour.people import copy_for, named_portrait, portrait, shown_on_copy, thumbnail
from tests.conftest import eventually

_numbers = count()


def test_points_1_and_2_mirrors_that_the_target_merges_while_the_listener_runs(home: Home) -> None:
    alice, bob = home.alice, home.bob
    other = alice.upload("other.jpg")
    photos: dict[str, list[UUID]] = {}
    people: dict[str, UUID] = {}
    for name in ("Seen", "Raced", "Quick", "One", "Two", "Kept", "Doubled"):
        photo, _, people[name] = named_portrait(alice, name)
        photos[name] = [photo]
    own, _, grandma = named_portrait(bob, "Grandma")
    nobody = bob.create_person("Nobody yet")
    home.settled()
    files = [thumbnail(bob, mirror_of(home, people[name])) for name in ("Seen", "Raced", "Quick", "One", "Two")]

    def arrives() -> None:
        photos["Raced"].append(portrait(alice, "raced.jpg", people["Raced"])[0])
        home.copied(photos["Raced"][-1])
        heard(home, other)

    # Seen between the two steps; with a new photo of that person between them; not waited for; several at once.
    bob.merge_people(grandma, mirror_of(home, people["Seen"]), between=lambda: heard(home, other))
    bob.merge_people(grandma, mirror_of(home, people["Raced"]), between=arrives)
    bob.merge_people(grandma, mirror_of(home, people["Quick"]))
    photos["Quick"].append(portrait(alice, "quick.jpg", people["Quick"])[0])
    # Into a person of bob's own without a face, and into another mirror.
    bob.merge_people(nobody, *(mirror_of(home, people[name]) for name in ("One", "Two")))
    kept = mirror_of(home, people["Kept"])
    bob.merge_people(kept, mirror_of(home, people["Doubled"]), between=lambda: heard(home, other))

    into = {"Seen": grandma, "Raced": grandma, "Quick": grandma, "One": nobody, "Two": nobody}
    into |= {"Kept": kept, "Doubled": kept}
    for name, survivor in into.items():
        adopted(home, people[name], survivor)
        photos[name].append(portrait(alice, f"{name}-later.jpg", people[name])[0])
    both = alice.upload("both.jpg", faces=2, people=[people["Kept"], people["Doubled"]])
    home.settled()
    for name, survivor in into.items():
        assert [shown_on_copy(home, photo) for photo in photos[name]] == [{survivor}] * len(photos[name]), name
    assert [face["person"] for face in bob.faces_of(home.copied(both))] == [kept, kept]
    # Nobody else is there, and everybody is who they were.
    assert {row["person"]: row["name"] for row in bob.people()} == {
        grandma: "Grandma",
        nobody: "Nobody yet",
        kept: "Kept",
    }
    assert not any(file.exists() for file in files)
    alice.set_birth_date(people["Doubled"], None)
    alice.name_person(people["Kept"], "Kept well")
    alice.name_person(people["Seen"], "Somebody")
    home.settled()
    # From 3.2 on names are each user's own.
    assert bob.person(kept)["name"] == ("Kept" if bob.has_groups else "Kept well")
    assert bob.person(grandma)["name"] == "Grandma"

    # Who was bob's own before stays, whatever alice does; a mirror for two goes with the last of them.
    alice.delete_person(*people.values())
    home.settled()
    assert {row["person"] for row in bob.people()} == {grandma, nobody}
    assert bob.faces_of(own)[0]["person"] == grandma


@pytest.mark.variant
def test_points_1_and_2_a_merge_by_the_target_with_jobs_in_both_directions(new_home: Callable[..., Home]) -> None:
    home = new_home(both_ways=True)
    home.start()
    alice, bob = home.alice, home.bob
    photo, _, grace = named_portrait(alice, "Grace")
    last, _, last_person = named_portrait(alice, "Last")
    own, _, grandma = named_portrait(bob, "Grandma")
    back, _, aunt = named_portrait(bob, "Aunt")
    home.settled()
    # Bob merges the mirror into a person of his own, of whom alice has a mirror: it was Grace all the time.
    bob.merge_people(grandma, mirror_of(home, grace), between=lambda: heard(home, last))
    eventually(lambda: seen_by(alice, home, own) == {grace}, within=20, describe="alice's copy is not of Grace")
    # And a person of his own into the mirror of alice's.
    mirror = mirror_of(home, last_person)
    bob.merge_people(mirror, aunt)
    eventually(lambda: seen_by(alice, home, back) == {last_person}, within=20, describe="alice's copy is not of Last")
    home.settled()
    assert shown_on_copy(home, photo) == {grandma}
    assert shown_on_copy(home, last) == {mirror}
    assert {row["person"] for row in alice.people()} == {grace, last_person}
    assert {row["person"] for row in bob.people()} == {grandma, mirror}
    # From now on too, both ways.
    again, more = portrait(alice, "again.jpg", grace)[0], portrait(bob, "more.jpg", grandma)[0]
    home.settled()
    assert shown_on_copy(home, again) == {grandma}
    assert seen_by(alice, home, more) == {grace}
    # Alice lets Grace go: Grandma is bob's, and alice gets a mirror of her.
    alice.delete_person(grace)
    home.settled()
    assert shown_on_copy(home, photo) == set()
    (mirrored,) = seen_by(alice, home, more)
    assert mirrored is not None
    assert alice.person(mirrored)["name"] == "Grandma"


@pytest.mark.releases(since="3.0.3")
def test_points_1_and_2_a_mirror_that_the_target_deletes_is_not_merged(home: Home) -> None:
    alice, bob = home.alice, home.bob
    photos = [portrait(alice, "one.jpg")]
    photos += [portrait(alice, f"{number}.jpg", photos[0][2]) for number in range(3)]
    person = photos[0][2]
    own, _, aunt = named_portrait(bob, "Aunt")
    home.settled()
    mirror = mirror_of(home, person)
    # One face is somebody else's; the others are nobody's then, and alice's person stands for them again.
    (given,) = bob.faces_of(home.copied(photos[0][0]))
    bob.reassign_face(given["id"], aunt)
    bob.delete_person(mirror)
    home.settled()
    assert shown_on_copy(home, photos[0][0]) == {aunt}
    assert [shown_on_copy(home, photo) for photo, *_ in photos[1:]] == [{mirror}] * 3
    # The survivor of a merge may be deleted, too.
    bob.merge_people(aunt, mirror)
    adopted(home, person, aunt)
    bob.delete_person(aunt)
    home.settled()
    assert [shown_on_copy(home, photo) for photo, *_ in photos] == [{mirror_of(home, person)}] * 4
    assert bob.faces_of(own)[0]["person"] is None


@pytest.mark.releases(since="3.0.3")
@pytest.mark.parametrize("deleted", [False, True], ids=["merged", "deleted"])
def test_points_1_and_2_a_mirror_that_goes_while_a_photo_of_theirs_is_copied(
    home: Home, monkeypatch: pytest.MonkeyPatch, deleted: bool
) -> None:
    alice, bob = home.alice, home.bob
    photo, _, person = named_portrait(alice, "Grace")
    own, _, grandma = named_portrait(bob, "Grandma")
    home.settled()
    mirror = mirror_of(home, person)
    # Nothing that is known by now is still on its way, the person's own key neither.
    heard(home, photo)
    heard(home, photo)
    placed, seen = Placer.people, threading.Event()

    def gone_meanwhile(self: Placer, people: Sequence[Person]) -> tuple[list[Person], dict[UUID, Failure]]:
        # The batch is planned, and nothing of it is written yet.
        if not seen.is_set() and person in {known.source_id for known in people}:
            seen.set()
            if deleted:
                bob.delete_person(mirror)
            else:
                bob.merge_people(grandma, mirror)
        return placed(self, people)

    monkeypatch.setattr(Placer, "people", gone_meanwhile)
    another, *_ = portrait(alice, "another.jpg", person)
    eventually(seen.is_set, within=20, describe="the photo is not copied")
    home.settled()
    stands = mirror_of(home, person)
    assert shown_on_copy(home, photo) == shown_on_copy(home, another) == {stands}
    assert {row["person"] for row in bob.people()} == {grandma, stands}
    assert (stands == grandma) == (not deleted)
    assert bob.faces_of(own)[0]["person"] == grandma


@pytest.mark.releases(since="3.2.0")
def test_point_2_a_merge_by_the_target_in_one_cluster_group(new_home: Callable[..., Home]) -> None:
    home = new_home(both_ways=True)
    alice, bob = home.alice, home.bob
    home.start()
    first, _, early = named_portrait(alice, "Early")
    own, _, grandma = named_portrait(bob, "Grandma")
    home.settled()
    # Merged before the users' cluster groups became one, and after.
    bob.merge_people(grandma, mirror_of(home, early))
    adopted(home, early, grandma)
    with home.stopped():
        bob.join_cluster_group(alice.user_id)
    second, _, late = named_portrait(alice, "Late")
    home.settled()
    assert shown_on_copy(home, first) == {grandma}
    assert mirror_of(home, late) == late
    bob.merge_people(grandma, late, between=lambda: heard(home, first))
    adopted(home, late, grandma)
    third, face, _ = portrait(alice, "third.jpg", late)
    home.settled()
    assert [shown_on_copy(home, photo) for photo in (first, second, third)] == [{grandma}] * 3
    assert {row["person"] for row in bob.people()} == {grandma}
    # The source's face speaks for both.
    (copied,) = bob.faces_of(home.copied(third))
    assert copied["sourceType"] == "manual"
    assert not bob.rows.where("face_search", faceId=copied["id"])
    # Alice's people are as they were, and Grandma's photo shows Grandma.
    assert alice.person_of(face) == late
    assert alice.person(late)["name"] == "Late"
    assert [alice.person(person)["name"] for person in seen_by(alice, home, own) if person] == ["Grandma"]

    # Bob's view of the survivor goes, the group stays for alice's: his copies show who they showed before.
    bob.delete_person(grandma)
    eventually(lambda: home.mirror_of(early) not in {None, grandma}, within=20, describe="nobody stands for Early")
    home.settled()
    assert (shown_on_copy(home, first), shown_on_copy(home, third)) == ({early}, {late})
    assert {row["person"]: row["name"] for row in bob.people()} == {early: "Early", late: "Late"}


def mirror_of(home: Home, person: UUID) -> UUID:
    mirror = home.mirror_of(person)
    assert mirror is not None
    return mirror


def adopted(home: Home, person: UUID, survivor: UUID) -> None:
    """Wait until a person of bob's stands for alice's."""
    eventually(
        lambda: home.mirror_of(person) == survivor,
        within=20,
        describe=lambda: f"{home.mirror_of(person)} stands for {person}, not the survivor {survivor}",
    )


def heard(home: Home, photo: UUID) -> None:
    """Wait until the listener has done all it was told of so far: bob's copies are one batch at a time."""
    text = f"heard {next(_numbers)}"
    home.alice.describe(photo, text)
    copy = home.copied(photo)
    eventually(lambda: home.bob.exif(copy)["description"] == text, within=20, describe="the listener does not follow")


def seen_by(actor: Actor, home: Home, source: UUID) -> set[UUID | None]:
    """Return an actor's people on their copy of the other's photo."""
    return {face["person"] for face in actor.faces_of(copy_for(actor, home, source)) if face["deletedAt"] is None}
