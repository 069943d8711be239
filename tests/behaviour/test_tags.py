"""Point 8: tags are mirrored to the target user's own of the same value."""

from dataclasses import replace

import pytest

from tests.behaviour.conftest import Home
from tests.role import grant


def test_tags_are_mirrored_follow_and_leave_the_targets_own(home: Home) -> None:
    alice, bob = home.alice, home.bob
    photo, other = alice.upload("one.jpg"), alice.upload("two.jpg")
    home.settled()
    copy = home.copied(photo)
    bob.tag("mine", copy)
    alice.tag("trip/sea", photo, other)
    alice.tag("mine", other)
    home.settled()
    assert bob.tags_of(copy) == ["mine", "trip/sea"]
    assert bob.tags_of(home.copied(other)) == ["mine", "trip/sea"]
    tags = {row["value"]: row for row in bob.rows.where("tag", userId=bob.user_id)}
    assert set(tags) == {"mine", "trip", "trip/sea"}
    assert tags["trip/sea"]["parentId"] == tags["trip"]["id"]

    alice.untag("trip/sea", photo)
    home.settled()
    assert bob.tags_of(copy) == ["mine"], "bob's own stays"
    assert bob.tags_of(home.copied(other)) == ["mine", "trip/sea"]
    alice.untag("mine", other)
    home.settled()
    assert bob.tags_of(home.copied(other)) == ["trip/sea"]
    assert bob.tags_of(copy) == ["mine"]

    bob.untag("trip/sea", home.copied(other))
    alice.describe(other, "something else")
    home.settled()
    assert bob.tags_of(home.copied(other)) == [], "bob took it off"
    alice.untag("trip/sea", other)
    home.settled()
    alice.tag("trip/sea", other)
    home.settled()
    assert bob.tags_of(home.copied(other)) == ["trip/sea"], "given anew by alice"


@pytest.mark.variant
def test_tags_are_switched_off_and_on_by_a_setting(home: Home) -> None:
    alice, bob = home.alice, home.bob
    photo = alice.upload("one.jpg")
    alice.tag("trip", photo)
    home.settled()
    copy = home.copied(photo)
    bob.tag("mine", copy)
    assert bob.tags_of(copy) == ["mine", "trip"]
    home.change_jobs(lambda job: replace(job, tags=False))
    alice.tag("home", photo)
    home.settled()
    assert bob.tags_of(copy) == ["mine"]
    home.change_jobs(lambda job: replace(job, tags=True))
    home.settled()
    assert bob.tags_of(copy) == ["home", "mine", "trip"]


@pytest.mark.releases(since="2.4.1")
@pytest.mark.variant
def test_tags_are_found_through_their_parents(home: Home) -> None:
    """Immich finds what lies below a tag by ``tag_closure``."""
    alice, bob = home.alice, home.bob
    home.stop()
    home.house.query(
        "CREATE TABLE IF NOT EXISTS tag_closure ("
        "id_ancestor uuid NOT NULL REFERENCES tag ON DELETE CASCADE ON UPDATE CASCADE,"
        " id_descendant uuid NOT NULL REFERENCES tag ON DELETE CASCADE ON UPDATE CASCADE,"
        " PRIMARY KEY (id_ancestor, id_descendant))"
    )
    # Immich's own tables have grown: so do the rights of the listener's role.
    grant(home.immich.conninfo)
    home.start()
    photo = alice.upload("one.jpg")
    alice.tag("trip/sea/beach", photo)
    home.settled()
    copy = home.copied(photo)
    names = bob.rows.names
    found = home.house.query(
        f'SELECT tag_asset."{names["tag_asset"]}" FROM tag JOIN tag_closure ON tag_closure.id_ancestor = tag.id'  # noqa: S608
        f' JOIN tag_asset ON tag_asset."{names["tag_tag"]}" = tag_closure.id_descendant'
        ' WHERE tag."userId" = %s AND tag.value = %s',
        bob.user_id,
        "trip",
    )
    assert found == [(copy,)]
    lines = home.house.query(
        "SELECT above.value, below.value FROM tag_closure JOIN tag AS above ON above.id = id_ancestor"
        ' JOIN tag AS below ON below.id = id_descendant WHERE below."userId" = %s ORDER BY 1, 2',
        bob.user_id,
    )
    assert lines == [
        ("trip", "trip"),
        ("trip", "trip/sea"),
        ("trip", "trip/sea/beach"),
        ("trip/sea", "trip/sea"),
        ("trip/sea", "trip/sea/beach"),
        ("trip/sea/beach", "trip/sea/beach"),
    ]


def test_the_words_of_tags_go_with_the_last_copy_that_had_them(home: Home) -> None:
    """A tag of a photo that is locked says what is in it; one of bob's own, or with a photo of his, stays."""
    alice, bob = home.alice, home.bob
    photo, other = alice.upload("one.jpg"), alice.upload("two.jpg")
    own = bob.upload("own.jpg")
    alice.tag("secret/illness", photo)
    alice.tag("shared", photo, other)
    alice.tag("used/by bob", photo)
    bob.tag("his", own)
    alice.tag("his", photo)
    home.settled()
    bob.tag("used/by bob", own)
    alice.lock(photo)
    home.settled()
    values = {row["value"] for row in bob.rows.where("tag", userId=bob.user_id)}
    assert values == {"shared", "used", "used/by bob", "his"}
    alice.unlock(photo)
    home.settled()
    assert set(bob.tags_of(home.copied(photo))) == {"secret/illness", "shared", "used/by bob", "his"}
