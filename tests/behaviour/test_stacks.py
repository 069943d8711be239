"""Point 7: stacks of shared photos, and the target user's own."""

import pytest

from tests.behaviour.conftest import Home
from tests.conftest import eventually


def stack_of(home: Home, copy: object) -> object:
    """Return the stack of bob's asset."""
    return home.house.query('SELECT "stackId" FROM asset WHERE id = %s', copy)[0][0]


def cover_of(home: Home, stack: object) -> object:
    return home.house.query('SELECT "primaryAssetId" FROM stack WHERE id = %s', stack)[0][0]


def test_a_stack_is_mirrored_follows_and_dissolves(home: Home) -> None:
    alice = home.alice
    photos = [alice.upload(f"{n}.jpg") for n in range(4)]
    cover, second, third, alone = photos
    made = alice.stack(cover, second)
    home.settled()
    copies = [home.copied(photo) for photo in photos]
    stack = stack_of(home, copies[0])
    assert stack is not None
    assert home.house.query('SELECT "ownerId" FROM stack WHERE id = %s', stack) == [(home.bob.user_id,)]
    assert [stack_of(home, copy) for copy in copies] == [stack, stack, None, None]
    assert cover_of(home, stack) == copies[0]

    # Another cover is written into the stack alone: its own trigger tells, no sweep is needed.
    alice.set_stack_cover(made, second)
    eventually(lambda: cover_of(home, stack) == copies[1])
    home.settled()

    made = alice.stack(third, cover, second)  # Immich makes a new one of them all
    home.settled()
    grown = stack_of(home, copies[2])
    assert [stack_of(home, copy) for copy in copies] == [grown, grown, grown, None]
    assert cover_of(home, grown) == copies[2]
    assert stack == grown or not home.house.query("SELECT 1 FROM stack WHERE id = %s", stack)

    alice.remove_from_stack(cover)
    home.settled()
    assert [stack_of(home, copy) for copy in copies] == [None, grown, grown, None]

    alice.trash(third)
    home.settled()
    assert home.copy_of(third) is None
    assert stack_of(home, copies[1]) is None, "one photo is no stack"
    assert not home.house.query("SELECT 1 FROM stack WHERE id = %s", grown)

    alice.restore(third)
    home.settled()
    again = stack_of(home, copies[1])
    assert again is not None
    assert stack_of(home, home.copied(third)) == again
    assert cover_of(home, again) == home.copied(third)

    alice.unstack(made)
    home.settled()
    assert [stack_of(home, copy) for copy in copies] == [None] * 4
    assert not home.house.query("SELECT 1 FROM stack")
    assert home.copy_of(alone) == copies[3]


def test_a_stack_whose_cover_is_not_shared_and_the_stacks_of_the_target(home: Home) -> None:
    alice, bob = home.alice, home.bob
    photos = [alice.upload(f"{n}.jpg") for n in range(5)]
    private, first, second, third, fourth = photos
    alice.lock(private)
    alice.stack(private, first, second)
    own = bob.upload("own.jpg")
    home.settled()
    copies = {photo: home.copied(photo) for photo in photos[1:]}
    stack = stack_of(home, copies[first])
    assert stack is not None
    assert stack_of(home, copies[second]) == stack
    assert cover_of(home, stack) in {copies[first], copies[second]}, "the first that is there"

    theirs = bob.stack(own, copies[third], copies[fourth])
    alice.stack(third, fourth)
    home.settled()
    assert [stack_of(home, asset) for asset in (own, copies[third], copies[fourth])] == [theirs] * 3
    assert cover_of(home, theirs) == own

    # A copy that goes leaves the target's own stack standing, and finds it again, also as its cover.
    bob.set_stack_cover(theirs, copies[third])
    alice.trash(third)
    home.settled()
    assert home.copy_of(third) is None
    assert [stack_of(home, asset) for asset in (own, copies[fourth])] == [theirs] * 2
    alice.restore(third)
    home.settled()
    assert stack_of(home, home.copied(third)) == theirs
    assert cover_of(home, theirs) == copies[third]

    # And alice's own stacks are never touched by what bob does with his.
    bob.unstack(theirs)
    home.settled()
    assert len(home.house.query('SELECT 1 FROM stack WHERE "ownerId" = %s', alice.user_id)) == 2


@pytest.mark.variant
def test_the_last_copy_of_a_mirrored_stack_is_taken_out_when_its_user_deletes_the_others(home: Home) -> None:
    alice, bob = home.alice, home.bob
    cover, member = alice.upload("cover.jpg"), alice.upload("member.jpg")
    alice.stack(cover, member)
    home.settled()
    # Of two in a stack Immich takes the other out only where the cover is deleted.
    bob.delete_for_good(home.copied(member))
    home.settled()
    assert stack_of(home, home.copied(cover)) is None


@pytest.mark.variant
def test_photos_that_are_unstacked_and_stacked_again_are_in_one_stack_at_the_target(home: Home) -> None:
    alice = home.alice
    cover, member = alice.upload("cover.jpg"), alice.upload("member.jpg")
    alice.stack(cover, member)
    home.settled()
    before = stack_of(home, home.copied(cover))
    with home.stopped():
        alice.unstack(alice.asset(cover)["stackId"])
        alice.stack(cover, member)
    home.settled()
    stack = stack_of(home, home.copied(cover))
    assert stack not in {None, before}
    assert stack_of(home, home.copied(member)) == stack
