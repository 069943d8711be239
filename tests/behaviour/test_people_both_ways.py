"""Points 1 and 2 with jobs in both directions: whose mirror somebody is, when several are."""

from collections.abc import Callable
from uuid import uuid4

import pytest

from tests.behaviour.conftest import Home
from tests.behaviour.people import copy_for, named_portrait, portrait, shown_on_copy


@pytest.mark.variant
def test_point_1_who_stands_for_two_of_the_others_people_is_on_each_photo_once(new_home: Callable[..., Home]) -> None:
    """Alice merges the mirrors of two of bob's people: both mappings have one target then."""
    home = new_home(both_ways=True)
    home.start()
    alice, bob = home.alice, home.bob
    (one, _, first), (two, _, second) = (named_portrait(bob, name) for name in ("Ann", "Annie"))
    home.settled()
    kept, gone = (alice.faces_of(copy_for(alice, home, photo))[0]["person"] for photo in (one, two))
    alice.merge_people(kept, gone)
    home.settled()
    # Her own photo of that person is bob's to see, too, and goes on being so.
    photo, *_ = portrait(alice, "of-alice.jpg", kept)
    home.settled()
    assert shown_on_copy(home, photo) == {first}
    alice.describe(photo, "once more")
    home.settled()
    assert bob.exif(home.copied(photo))["description"] == "once more"
    assert {row["person"] for row in bob.people()} == {first, second}
    # The one goes: the other stands for her.
    bob.merge_people(second, first)
    home.settled()
    assert shown_on_copy(home, photo) == {second}
    assert {row["person"] for row in alice.people()} == {kept}


@pytest.mark.variant
def test_point_1_no_mapping_names_nobody_when_people_of_both_are_gone(new_home: Callable[..., Home]) -> None:
    """A person of alice's, bob's mirror of them, and her mirror of that one."""
    home = new_home(both_ways=True)
    home.start()
    alice, bob = home.alice, home.bob
    photo, _, person = named_portrait(alice, "Grace")
    home.settled()
    (copied,) = bob.faces_of(home.copied(photo))
    back, *_ = portrait(bob, "back.jpg", copied["person"])
    home.settled()
    alice.delete_person(person)
    home.settled()
    # He has a photo of hers himself: she is his own now, and mirrored to alice.
    assert [row["person"] for row in bob.people()] == [copied["person"]]
    (mirrored,) = alice.people()
    assert alice.faces_of(copy_for(alice, home, back))[0]["person"] == mirrored["person"]
    bob.delete_for_good(back)
    home.settled()
    bob.delete_person(copied["person"])
    home.settled()
    assert alice.people() == bob.people() == []
    assert home.house.query("SELECT source_person_id FROM _face_sync_person_map") == []


@pytest.mark.variant
def test_point_1_mappings_that_name_nobody_are_found_by_a_sweep(new_home: Callable[..., Home]) -> None:
    """As they were left by former versions."""
    home = new_home(both_ways=True)
    home.start()
    named_portrait(home.alice, "Grace")
    home.settled()
    gone, mirror, far = (uuid4() for _ in range(3))
    with home.stopped():
        for source, target, whose, other in (
            (gone, mirror, home.alice, home.bob),
            (mirror, far, home.bob, home.alice),
        ):
            home.house.query(
                "INSERT INTO _face_sync_person_map (source_person_id, target_person_id, source_user_id, target_user_id)"
                " VALUES (%s, %s, %s, %s)",
                *(source, target, whose.user_id, other.user_id),
            )
    home.settled()
    assert len(home.house.query("SELECT source_person_id FROM _face_sync_person_map")) == 1
