"""Tags that are renamed or deleted, by either user: whose a tag is, and what that does to copies."""

from uuid import UUID

import pytest

from tests.behaviour.conftest import Home

RENAMING = pytest.mark.releases(since="3.3.0")


def values(home: Home) -> set[str]:
    """Return bob's tags that some photo has; Immich deletes the others at night."""
    return {value for asset in home.bob.assets() for value in home.bob.tags_of(asset)}


def look_again(home: Home, *photos: UUID) -> None:
    """Let everything of these photos be looked at once more, by their events and by a new listener's sweep."""
    for number, photo in enumerate(photos):
        home.alice.describe(photo, f"look {number}")
    home.settled()
    with home.stopped():
        pass
    home.settled()


def test_a_tag_that_bob_deleted_is_not_given_again(home: Home) -> None:
    alice, bob = home.alice, home.bob
    photo, later = alice.upload("one.jpg"), alice.upload("later.jpg")
    alice.tag("trip/sea", photo)
    alice.tag("home", photo)
    home.settled()
    copy = home.copied(photo)
    assert bob.tags_of(copy) == ["home", "trip/sea"]
    bob.delete_tag("trip")
    home.settled()
    look_again(home, photo)
    assert bob.tags_of(copy) == ["home"]

    # Neither is it made again for another photo.
    alice.tag("trip/sea", later)
    alice.tag("home", later)
    home.settled()
    assert bob.tags_of(home.copied(later)) == ["home"]
    assert "trip/sea" not in {row["value"] for row in bob.rows.where("tag", userId=bob.user_id)}

    # A tag of his own of that name is one that alice's photos get; what he took it off stays without.
    bob.tag("trip/sea", bob.upload("own.jpg"))
    latest = alice.upload("latest.jpg")
    alice.tag("trip/sea", latest)
    home.settled()
    assert bob.tags_of(home.copied(latest)) == ["trip/sea"]
    assert bob.tags_of(copy) == ["home"]

    # And when alice has taken it from all her photos, what she gives anew is given.
    alice.untag("trip/sea", photo, later, latest)
    home.settled()
    bob.delete_tag("trip")
    alice.tag("trip/sea", photo)
    home.settled()
    assert bob.tags_of(copy) == ["home", "trip/sea"]


@pytest.mark.variant
def test_a_tag_that_both_gave_is_bobs(home: Home) -> None:
    alice, bob = home.alice, home.bob
    photo = alice.upload("one.jpg")
    home.settled()
    copy = home.copied(photo)
    bob.tag("sea", copy)
    alice.tag("sea", photo)
    home.settled()
    alice.untag("sea", photo)
    home.settled()
    assert bob.tags_of(copy) == ["sea"], "he gave it first"


@pytest.mark.variant
def test_a_tag_that_alice_deleted_goes_from_the_copies(home: Home) -> None:
    alice, bob = home.alice, home.bob
    photo = alice.upload("one.jpg")
    alice.tag("trip/sea", photo)
    alice.tag("home", photo)
    home.settled()
    copy = home.copied(photo)
    bob.tag("mine", copy)
    alice.delete_tag("trip")
    look_again(home, photo)
    assert bob.tags_of(copy) == ["home", "mine"]
    alice.tag("trip/sea", photo)
    home.settled()
    assert bob.tags_of(copy) == ["home", "mine", "trip/sea"]


@RENAMING
def test_a_tag_that_alice_renamed_is_renamed_on_the_copies(home: Home) -> None:
    alice, bob = home.alice, home.bob
    photo, other = alice.upload("one.jpg"), alice.upload("two.jpg")
    alice.tag("trip/sea", photo)
    alice.tag("trip", other)
    home.settled()
    bob.tag("mine", home.copied(photo))
    alice.rename_tag("trip", "journey")
    home.settled()
    assert bob.tags_of(home.copied(photo)) == ["journey/sea", "mine"]
    assert bob.tags_of(home.copied(other)) == ["journey"]
    # The former name is free for another tag, and may come back.
    alice.tag("trip/sea", other)
    home.settled()
    assert bob.tags_of(home.copied(other)) == ["journey", "trip/sea"]
    alice.rename_tag("trip", "travel")
    alice.rename_tag("journey", "trip")
    home.settled()
    assert bob.tags_of(home.copied(other)) == ["travel/sea", "trip"]
    assert bob.tags_of(home.copied(photo)) == ["mine", "trip/sea"]
    tags = {row["value"]: row for row in bob.rows.where("tag", userId=bob.user_id)}
    assert tags["trip/sea"]["parentId"] == tags["trip"]["id"]
    assert tags["travel/sea"]["parentId"] == tags["travel"]["id"]


@RENAMING
def test_a_tag_that_bob_renamed_keeps_his_name(home: Home) -> None:
    alice, bob = home.alice, home.bob
    photo, later = alice.upload("one.jpg"), alice.upload("later.jpg")
    alice.tag("trip/sea", photo)
    home.settled()
    copy = home.copied(photo)
    bob.rename_tag("trip", "Reise")
    home.settled()
    look_again(home, photo)
    assert bob.tags_of(copy) == ["Reise/sea"]
    alice.tag("trip/sea", later)
    home.settled()
    assert values(home) == {"Reise/sea"}, "the name that he changed is not made again"

    # It is his now, and stays when alice takes hers away; hers given anew is another one.
    alice.untag("trip/sea", photo, later)
    home.settled()
    assert bob.tags_of(copy) == ["Reise/sea"]
    alice.tag("trip/sea", photo)
    home.settled()
    assert bob.tags_of(copy) == ["Reise/sea", "trip/sea"]
