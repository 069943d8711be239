"""Points 1 and 2 with jobs in both directions: whose mirror somebody is, when several are."""

from collections.abc import Callable

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
