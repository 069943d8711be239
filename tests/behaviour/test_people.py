"""Points 1 and 3: mirrored people, and faces that follow."""

from datetime import date

import pytest

from tests.behaviour.conftest import Home


def test_a_person_is_mirrored_and_follows(home: Home) -> None:
    alice = home.alice
    photo = alice.upload("one.jpg", faces=1, people=["new"])
    face = alice.faces_of(photo)[0]["id"]
    person = alice.person_of(face)
    assert person is not None
    alice.name_person(person, "Grace")
    alice.set_birth_date(person, date(1990, 1, 2))
    home.settled()
    mirror = home.mirror_of(person)
    assert mirror is not None
    found = home.bob.person(mirror)
    assert (found["name"], found["birthDate"]) == ("Grace", date(1990, 1, 2))
    assert found["ownerId"] == home.bob.user_id


def test_merged_people_are_merged(home: Home) -> None:
    alice = home.alice
    photos = [alice.upload(f"{n}.jpg", faces=1, people=["new"]) for n in range(3)]
    people = [alice.person_of(alice.faces_of(photo)[0]["id"]) for photo in photos]
    home.settled()
    alice.merge_people(people[0], *people[1:])
    home.settled()
    mirrored = {home.bob.person_of(home.bob.faces_of(home.copied(photo))[0]["id"]) for photo in photos}
    assert mirrored == {home.mirror_of(people[0])}
    assert [home.mirror_of(person) for person in people[1:]] == [None, None]


@pytest.mark.releases(until="3.1.0")
def test_the_target_merges_a_mirror(home: Home) -> None:
    alice, bob = home.alice, home.bob
    photo = alice.upload("one.jpg", faces=1, people=["new"])
    own = bob.upload("mine.jpg", faces=1, people=["new"])
    mine = bob.person_of(bob.faces_of(own)[0]["id"])
    assert mine is not None
    bob.name_person(mine, "Grandma")
    home.settled()
    person = alice.person_of(alice.faces_of(photo)[0]["id"])
    mirror = home.mirror_of(person)
    bob.merge_people(mine, mirror)
    alice.name_person(person, "Grace")
    another = alice.upload("two.jpg", faces=1, people=[person])
    home.settled()
    assert home.mirror_of(person) == mine
    assert bob.person(mine)["name"] == "Grandma"
    assert bob.person_of(bob.faces_of(home.copied(another))[0]["id"]) == mine
