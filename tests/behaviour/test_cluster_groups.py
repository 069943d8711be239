"""What Immich does with people of a whole cluster group from 3.2 on: copies' faces and people are right after it."""

from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest

from tests.behaviour.conftest import Home
from tests.behaviour.people import named_portrait, portrait, shown_on_copy, thumbnail
from tests.conftest import eventually

pytestmark = [pytest.mark.releases(since="3.2.0")]
both_ways = pytest.mark.parametrize("both_ways", [False, True], ids=["one way", "both ways"])


def _together(new_home: Callable[..., Home], both_ways: bool) -> Home:
    home = new_home(both_ways=both_ways)
    home.bob.join_cluster_group(home.alice.user_id)
    home.start()
    return home


@both_ways
def test_a_merge_that_moves_peoples_keys_in_place(new_home: Callable[..., Home], both_ways: bool) -> None:
    home = _together(new_home, both_ways)
    alice, bob = home.alice, home.bob
    own, _, of_bob = portrait(bob, "own.jpg")
    bob.name_person(of_bob, "Eva")
    picture = thumbnail(bob, of_bob).read_bytes()
    one, _, first = portrait(alice, "one.jpg")
    two, _, second = portrait(alice, "two.jpg")
    three, _, third = named_portrait(alice, "Third")
    home.settled()
    bob.name_person(second, "Mum")
    home.settled()

    # Alice has no view of bob's person, or her copy of his photo has given her one; bob has one of everybody's.
    alice.merge_groups(of_bob, first, between=home.settled)
    home.settled()
    assert shown_on_copy(home, one) == {of_bob}
    assert bob.person(of_bob)["name"] == "Eva"
    assert thumbnail(bob, of_bob).read_bytes() == picture
    # Into one whom neither of them has: both are moved in place.
    alice.merge_groups(second, third, between=home.settled)
    home.settled()
    # Bob's two had a name both: he was left out.
    assert shown_on_copy(home, three) <= {second, third}
    assert shown_on_copy(home, two) == {second}
    assert bob.person(second)["name"] == "Mum"
    _settled_for_good(home)
    assert bob.faces_of(own)[0]["person"] == of_bob


@both_ways
def test_leaving_a_cluster_group_gives_shared_people_new_ids(new_home: Callable[..., Home], both_ways: bool) -> None:
    home = _together(new_home, both_ways)
    alice, bob = home.alice, home.bob
    photo, _, eva = named_portrait(alice, "Eva")
    home.settled()
    bob.name_person(eva, "Mum")
    own, *_ = portrait(bob, "own.jpg", eva)
    home.settled()
    bob.leave_cluster_group(between=lambda: _heard(home, photo))
    home.house.sweep()
    home.settled()
    (mirror,) = {row["person"] for row in bob.people()}
    assert mirror != eva
    assert shown_on_copy(home, photo) == {mirror}
    assert bob.person(mirror)["name"] == "Mum"
    assert bob.faces_of(own)[0]["person"] == mirror
    assert [(row["person"], row["name"]) for row in alice.people()][:1] == [(eva, "Eva")]
    another, *_ = portrait(alice, "another.jpg", eva)
    home.settled()
    assert shown_on_copy(home, another) == {mirror}

    # Together again: alice's people are shared, and bob's own one stays his.
    bob.join_cluster_group(alice.user_id)
    home.house.sweep()
    home.settled()
    assert shown_on_copy(home, photo) == shown_on_copy(home, another) == {eva}
    assert bob.person(bob.faces_of(own)[0]["person"])["name"] == "Mum"
    _settled_for_good(home)


@both_ways
def test_when_the_source_leaves_a_cluster_group_people_are_who_they_were(
    new_home: Callable[..., Home], both_ways: bool
) -> None:
    home = _together(new_home, both_ways)
    alice, bob = home.alice, home.bob
    photo, face, eva = named_portrait(alice, "Eva")
    home.settled()
    bob.name_person(eva, "Mum")
    home.settled()
    alice.leave_cluster_group(between=lambda: _heard(home, photo))
    home.house.sweep()
    home.settled()
    assert alice.person_of(face) not in {None, eva}
    assert [row["name"] for row in alice.people()] == ["Eva"]
    assert shown_on_copy(home, photo) == {row["person"] for row in bob.people()}
    assert [row["name"] for row in bob.people()] == ["Mum"]
    _settled_for_good(home)


@both_ways
def test_people_are_regenerated(new_home: Callable[..., Home], both_ways: bool) -> None:
    home = _together(new_home, both_ways)
    alice, bob = home.alice, home.bob
    photo, face, _ = named_portrait(alice, "Eva")
    _, _, aunt = named_portrait(bob, "Aunt")
    copy = home.copied(photo)
    home.settled()
    drawn = bob.draw_face(copy, aunt)
    alice.regenerate_people()
    home.settled()
    assert {row["id"] for row in bob.faces_of(copy)} == {drawn}
    again = alice.recognise(face)
    alice.name_person(again, "Eva again")
    home.settled()
    assert shown_on_copy(home, photo) == {again, aunt}
    assert bob.person(again)["name"] == "Eva again"
    _settled_for_good(home)


@pytest.mark.variant
def test_a_feature_face_of_another_user_that_immich_chose_is_not_shown(new_home: Callable[..., Home]) -> None:
    home = _together(new_home, both_ways=True)
    alice, bob = home.alice, home.bob
    photo, _, eva = named_portrait(alice, "Eva")
    private = alice.upload("private.jpg", faces=1, people=[eva])
    alice.lock(private)
    home.settled()
    (secret,) = alice.faces_of(private)
    # For bob it takes alice's face on a photo that is not shared; for alice one of bob's own.
    bob.set_feature_photo(eva, secret["id"])
    shown = Path(bob.person(eva)["thumbnailPath"])
    content = shown.read_bytes()
    home.settled()
    assert bob.person(eva)["faceAssetId"] in {face["id"] for face in bob.faces_of(home.copied(photo))}
    assert not shown.exists() or shown.read_bytes() != content
    _, mine, _ = portrait(bob, "own.jpg", eva)
    home.settled()
    alice.set_feature_photo(eva, mine)
    home.settled()


@pytest.mark.releases(since="3.3.0")
def test_a_name_that_comes_through_a_shared_person(new_home: Callable[..., Home]) -> None:
    home = _together(new_home, both_ways=True)
    alice, bob = home.alice, home.bob
    photo, _, eva = named_portrait(alice, "Eva")
    home.settled()
    alice.share_person(eva, bob.user_id, "write")
    bob.name_shared_person(eva, "Mum")
    home.settled()
    assert (alice.person(eva)["name"], bob.person(eva)["name"]) == ("Mum", "Mum")
    assert shown_on_copy(home, photo) == {eva}
    _settled_for_good(home)


def _heard(home: Home, photo: UUID) -> None:
    """Wait until the listener has done all it was told of so far, in the middle of something."""
    text = f"heard {home.alice.exif(photo)['description']}"
    home.alice.describe(photo, text)
    eventually(
        lambda: home.bob.exif(home.copied(photo))["description"] == text, describe="the listener does not follow"
    )


def _settled_for_good(home: Home) -> None:
    """A sweep finds nothing more to do, and no mapping names nobody."""
    home.house.sweep()
    home.settled()
    nobody = """SELECT source_person_id FROM _face_sync_person_map AS map WHERE NOT EXISTS (
        SELECT FROM person WHERE "personGroupId" = map.source_person_id AND "ownerId" = map.source_user_id)"""
    assert home.house.query(nobody) == []
