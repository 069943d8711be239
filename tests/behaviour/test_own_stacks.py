"""Mirrored stacks are their user's too: what they take out or apart stays so, and a photo that they hid is in none."""

from uuid import UUID

import pytest

from tests.behaviour.conftest import Home
from tests.behaviour.test_stacks import cover_of, stack_of
from tests.conftest import eventually


def stacked(home: Home, count: int) -> tuple[list[UUID], list[UUID], UUID]:
    """Let alice stack some photos; returns them, their copies, and the mirrored stack."""
    photos = [home.alice.upload(f"{number}.jpg") for number in range(count)]
    home.alice.stack(*photos)
    home.settled()
    copies = [home.copied(photo) for photo in photos]
    stack = stack_of(home, copies[0])
    assert isinstance(stack, UUID)
    assert [stack_of(home, copy) for copy in copies] == [stack] * count
    return photos, copies, stack


def look_again(home: Home, *photos: UUID) -> None:
    """Let everything of these photos be looked at once more, by their events and by a new listener's sweep."""
    for number, photo in enumerate(photos):
        home.alice.describe(photo, f"look {number}")
    home.settled()
    with home.stopped():
        pass
    home.settled()


def test_a_stack_that_its_user_took_apart_stays_apart(home: Home) -> None:
    alice = home.alice
    photos, _, stack = stacked(home, 4)
    # Two are away at that moment: what their user said was of the whole stack.
    alice.trash(photos[2], photos[3])
    home.settled()
    home.bob.unstack(stack)
    home.settled()
    alice.restore(photos[2], photos[3])
    home.settled()
    look_again(home, *photos)
    assert [stack_of(home, home.copied(photo)) for photo in photos] == [None] * 4

    # Another cover is no other stack.
    alice.set_stack_cover(alice.asset(photos[0])["stackId"], photos[1])
    home.settled()
    look_again(home, photos[1])
    assert not home.house.query('SELECT 1 FROM stack WHERE "ownerId" = %s', home.bob.user_id)

    # What alice stacks anew is.
    fifth = alice.upload("fifth.jpg")
    alice.stack(photos[0], fifth)
    home.settled()
    again = stack_of(home, home.copied(fifth))
    assert again not in {None, stack}
    assert [stack_of(home, home.copied(photo)) for photo in photos] == [again] * 4


def test_a_photo_that_its_user_took_out_of_a_stack_stays_out(home: Home) -> None:
    photos, copies, stack = stacked(home, 4)
    home.bob.remove_from_stack(copies[3])
    home.settled()
    look_again(home, *photos)
    assert [stack_of(home, copy) for copy in copies] == [stack, stack, stack, None]

    # Whatever happens to the others meanwhile: parked, or gone for good and made anew.
    for leave, come_back in ((home.alice.trash, home.alice.restore), (home.alice.lock, home.alice.unlock)):
        leave(photos[0], photos[1])
        home.settled()
        assert stack_of(home, copies[2]) is None, "one photo is no stack"
        come_back(photos[0], photos[1])
        home.settled()
        back = [home.copied(photo) for photo in photos]
        again = stack_of(home, back[0])
        assert again is not None
        assert [stack_of(home, copy) for copy in back] == [again, again, again, None]
        assert cover_of(home, again) == back[0]


@pytest.mark.variant
def test_photos_that_their_user_stacked_otherwise_are_theirs(home: Home) -> None:
    bob = home.bob
    photos, copies, stack = stacked(home, 3)
    own = bob.upload("own.jpg")
    theirs = bob.stack(own, copies[0], copies[1])  # Immich makes one of all that the old ones held
    home.settled()
    look_again(home, *photos)
    assert [stack_of(home, asset) for asset in (own, *copies)] == [theirs] * 4
    assert cover_of(home, theirs) == own
    assert not home.house.query("SELECT 1 FROM stack WHERE id = %s", stack)

    bob.unstack(theirs)
    home.settled()
    look_again(home, *photos)
    assert [stack_of(home, asset) for asset in (own, *copies)] == [None] * 4


def test_a_locked_copy_leads_no_stack_and_is_in_none(home: Home) -> None:
    """A timeline shows of a stack its cover only: behind a locked one nobody would see the others."""
    bob = home.bob
    photos, copies, stack = stacked(home, 3)
    bob.lock(copies[0])
    eventually(lambda: cover_of(home, stack) == copies[1], describe="the locked copy leads the stack")
    home.settled()
    assert [stack_of(home, copy) for copy in copies] == [None, stack, stack]
    bob.lock(copies[1])
    home.settled()
    assert [stack_of(home, copy) for copy in copies] == [None] * 3, "one photo is no stack"
    look_again(home, *photos)
    assert [stack_of(home, copy) for copy in copies] == [None] * 3

    # It was not taken out by its user: with the lock taken away it is a member again.
    bob.unlock(copies[0], copies[1])
    home.settled()
    again = stack_of(home, copies[0])
    assert again is not None
    assert [stack_of(home, copy) for copy in copies] == [again] * 3
    assert cover_of(home, again) == copies[0]


@pytest.mark.variant
def test_a_copy_that_is_locked_before_its_source_is_stacked_is_left_out(home: Home) -> None:
    alice, bob = home.alice, home.bob
    photos = [alice.upload(f"{number}.jpg") for number in range(3)]
    home.settled()
    copies = [home.copied(photo) for photo in photos]
    bob.lock(copies[0])
    bob.trash(copies[1])
    alice.stack(*photos)
    home.settled()
    assert [stack_of(home, copy) for copy in copies] == [None] * 3
    bob.restore(copies[1])
    home.settled()
    assert stack_of(home, copies[1]) == stack_of(home, copies[2]) is not None
    assert cover_of(home, stack_of(home, copies[1])) == copies[1]
    assert stack_of(home, copies[0]) is None


@pytest.mark.variant
def test_what_happened_while_nobody_listened_is_their_choice_too(home: Home) -> None:
    photos, copies, stack = stacked(home, 3)
    other, others, kept = stacked(home, 3)
    with home.stopped():
        home.bob.unstack(stack)
        home.bob.remove_from_stack(others[2])
    home.settled()
    look_again(home, photos[0], other[0])
    assert [stack_of(home, copy) for copy in copies] == [None] * 3
    assert [stack_of(home, copy) for copy in others] == [kept, kept, None]


@pytest.mark.variant
def test_the_rest_of_a_stack_that_its_user_took_photos_from_follows_its_source(home: Home) -> None:
    """Nothing is left of the memory of a stack with its source's."""
    photos, copies, stack = stacked(home, 3)
    home.bob.unstack(stack)
    home.settled()
    home.alice.unstack(home.alice.asset(photos[0])["stackId"])
    home.settled()
    assert not home.house.query("SELECT 1 FROM _face_sync_stack_map")
    assert [stack_of(home, copy) for copy in copies] == [None] * 3


@pytest.mark.variant
def test_the_cover_that_bob_chooses_for_a_stack_of_alices_stays(home: Home) -> None:
    alice, bob = home.alice, home.bob
    photos, copies, stack = stacked(home, 3)
    bob.set_stack_cover(stack, copies[2])
    look_again(home, *photos)
    assert cover_of(home, stack) == copies[2]
    alice.set_stack_cover(alice.asset(photos[0])["stackId"], photos[1])
    home.settled()
    look_again(home, *photos)
    assert cover_of(home, stack) == copies[2], "alice's choice is not his"

    # While it is away another one leads, by alice's choice.
    alice.trash(photos[2])
    eventually(lambda: cover_of(home, stack) == copies[1])
    home.settled()
    alice.restore(photos[2])
    home.settled()
    assert [stack_of(home, copy) for copy in copies] == [stack] * 3
    assert cover_of(home, stack) == copies[1]
