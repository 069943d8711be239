"""Point 7: what the target user has put into a mirrored stack."""

import pytest

from listener.standin.actor_rows import update
from tests.behaviour.conftest import Home


@pytest.mark.variant
def test_a_photo_of_the_targets_own_in_a_mirrored_stack_stays_there(home: Home) -> None:
    alice, bob = home.alice, home.bob
    cover, second, third = (alice.upload(f"{number}.jpg") for number in range(3))
    alice.stack(cover, second, third)
    home.settled()
    copies = [home.copied(photo) for photo in (cover, second, third)]
    stack = bob.asset(copies[0])["stackId"]
    own = bob.upload("own.jpg")
    bob.rows.execute(update("asset", {"id": own, "stackId": stack}))

    alice.remove_from_stack(third)
    home.settled()
    assert [bob.asset(photo)["stackId"] for photo in (*copies, own)] == [stack, stack, None, stack]
