"""Point 2: people from 3.2 on, where a face belongs to a group and each user has a view of their own of it."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from datetime import date
from pathlib import Path
from uuid import UUID

import pytest

from listener.standin.actor import Actor
from tests.behaviour.conftest import Home, make_home
from tests.behaviour.people import copy_for, named_portrait, owner_of_face, portrait, seen, shown_on_copy, thumbnail
from tests.behaviour.upgrade import to_person_groups
from tests.conftest import ImmichDatabase, Roots, eventually
from tests.role import grant

since_groups = pytest.mark.releases(since="3.2.0")


@since_groups
def test_point_2_in_different_cluster_groups_the_person_group_is_mirrored(home: Home) -> None:
    alice, bob = home.alice, home.bob
    photo, face, person = named_portrait(alice, "Grace")
    home.settled()
    mirror = home.mirror_of(person)
    assert mirror not in {None, person}
    assert mirror is not None
    assert _group_of(bob, mirror) == bob.rows.the("user", id=bob.user_id)["clusterGroupId"]
    (copied,) = bob.faces_of(home.copied(photo))
    assert (copied["person"], copied["sourceType"]) == (mirror, "machine-learning")
    # With the embedding, so that bob's own photos match her.
    assert _embedding(bob, copied["id"]) == _embedding(alice, face)
    assert bob.person(mirror)["faceAssetId"] == copied["id"]
    assert thumbnail(bob, mirror).read_bytes() == thumbnail(alice, person).read_bytes()
    assert not thumbnail(bob, mirror).samefile(thumbnail(alice, person))

    # Names are each user's own; what bob has not said is filled in.
    bob.name_person(mirror, "Mum")
    bob.hide_person(mirror)
    bob.favourite_person(mirror)
    alice.name_person(person, "Grace H.")
    alice.colour_person(person, "#112233")
    alice.set_birth_date(person, date(1990, 1, 2))
    home.settled()
    found = bob.person(mirror)
    assert (found["name"], found["isHidden"], found["isFavorite"], found["color"]) == ("Mum", True, True, None)
    assert found["birthDate"] == date(1990, 1, 2)

    # So is the feature photo, also one that bob chose among the copies.
    another, other, _ = portrait(alice, "other.jpg", person)
    home.settled()
    (chosen,) = bob.faces_of(home.copied(another))
    bob.set_feature_photo(mirror, chosen["id"])
    picture = thumbnail(bob, mirror).read_bytes()
    alice.set_feature_photo(person, other)
    alice.set_feature_photo(person, face)
    last, *_ = portrait(alice, "last.jpg", person)
    home.copied(last)
    home.settled()
    assert bob.person(mirror)["faceAssetId"] == chosen["id"]
    assert thumbnail(bob, mirror).read_bytes() == picture


@since_groups
def test_point_2_in_one_cluster_group_both_share_the_person_group(new_home: Callable[..., Home]) -> None:
    home = new_home()
    alice, bob = home.alice, home.bob
    bob.join_cluster_group(alice.user_id)
    home.start()
    photo, face, person = named_portrait(alice, "Grace")
    double_photo, _, double = portrait(alice, "double.jpg")
    home.settled()
    (copied,) = bob.faces_of(home.copied(photo))
    assert (copied["person"], copied["sourceType"]) == (person, "manual")
    # An equal embedding would vote twice.
    assert _embedding(bob, copied["id"]) is None
    assert _embedding(alice, face) is not None
    view = bob.person(person)
    assert (view["name"], view["faceAssetId"]) == ("Grace", copied["id"])
    assert owner_of_face(bob, view["faceAssetId"]) == bob.user_id
    assert thumbnail(bob, person) != thumbnail(alice, person)
    assert thumbnail(bob, person).read_bytes() == thumbnail(alice, person).read_bytes()
    assert not thumbnail(bob, person).samefile(thumbnail(alice, person))

    bob.name_person(person, "Mum")
    alice.name_person(person, "Grace H.")
    alice.merge_people(person, double)
    home.settled()
    assert shown_on_copy(home, double_photo) == {person}
    assert (alice.person(person)["name"], bob.person(person)["name"]) == ("Grace H.", "Mum")
    # Nobody has a view of who was merged away.
    assert [row["person"] for row in bob.people()] == [person]
    assert not bob.rows.where("person", personGroupId=double)

    # Bob's own photo of her: alice's view goes, his stays.
    own, *_ = portrait(bob, "mine.jpg", person)
    alice.delete_person(person)
    home.settled()
    assert bob.person(person)["name"] == "Mum"
    assert bob.faces_of(own)[0]["person"] == person


@since_groups
def test_point_2_users_who_join_and_leave_a_cluster_group(home: Home) -> None:
    alice, bob = home.alice, home.bob
    photo, _, person = named_portrait(alice, "Grace")
    home.settled()
    mirror = home.mirror_of(person)
    assert mirror not in {None, person}
    assert mirror is not None
    bob.name_person(mirror, "Mum")
    with home.stopped():
        bob.join_cluster_group(alice.user_id)
    home.settled()
    (copied,) = bob.faces_of(home.copied(photo))
    assert (copied["person"], copied["sourceType"]) == (person, "manual")
    assert _embedding(bob, copied["id"]) is None
    assert [(row["person"], row["name"]) for row in bob.people()] == [(person, "Mum")]
    with home.stopped():
        _leave_cluster_group(home, bob)
    home.settled()
    (copied,) = bob.faces_of(home.copied(photo))
    assert copied["person"] not in {None, person}
    assert copied["sourceType"] == "machine-learning"
    assert _embedding(bob, copied["id"]) is not None
    assert [(row["person"], row["name"]) for row in bob.people()] == [(copied["person"], "Mum")]
    assert [(row["person"], row["name"]) for row in alice.people()] == [(person, "Grace")]


@pytest.mark.releases(since="3.3.0")
def test_point_2_a_person_shared_by_person_user_has_one_view(new_home: Callable[..., Home]) -> None:
    home = new_home()
    alice, bob = home.alice, home.bob
    bob.join_cluster_group(alice.user_id)
    home.start()
    # Shared before there is a copy, and after.
    early, late = alice.create_person("Early"), named_portrait(alice, "Late")
    alice.share_person(early, bob.user_id)
    assert bob.person(early)["name"] == "Early"
    photo, *_ = portrait(alice, "early.jpg", early)
    home.settled()
    assert shown_on_copy(home, photo) == {early}
    assert shown_on_copy(home, late[0]) == {late[2]}
    bob.name_person(late[2], "")
    alice.share_person(late[2], bob.user_id)
    home.settled()
    assert sorted(row["name"] for row in bob.people()) == ["Early", "Late"]
    assert thumbnail(bob, late[2]).exists()
    # A photo goes, and with it the need for a view; the share itself is alice's to end.
    alice.delete_for_good(late[0])
    home.settled()
    assert bob.person(early)["name"] == "Early"


def test_point_2_an_upgrade_from_3_1_to_3_2_while_the_listener_is_down(
    new_immich: Callable[[str], ImmichDatabase], roots: Roots, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        home = make_home(new_immich("3.1.0"), roots, tmp_path, stack, both_ways=True)
        home.start()
        photo, face, person = named_portrait(home.alice, "Grace")
        merged_photo, _, merged = named_portrait(home.alice, "Merged")
        mine, _, own = named_portrait(home.bob, "Grandma")
        home.settled()
        mirror, gone = home.mirror_of(person), home.mirror_of(merged)
        assert mirror is not None
        assert gone is not None
        with home.stopped():
            home.bob.merge_people(own, gone)
        # Grandma is whom alice calls Merged, on bob's photo too.
        back = copy_for(home.alice, home, mine)
        eventually(lambda: {face["person"] for face in home.alice.faces_of(back)} == {merged})
        home.settled()
        before = {row["person"] for row in home.bob.people()}
        of_alice = {row["person"] for row in home.alice.people()}
        copies = {source: home.copied(source) for source in (photo, merged_photo)}
        home.stop()

        to_person_groups(home.immich.conninfo)
        # The new tables want new rights.
        grant(home.immich.conninfo)
        immich = replace(home.immich, release="3.2.0")
        alice, bob = (
            stack.enter_context(
                Actor(immich.conninfo, immich.release, actor.user_id, roots.media, roots.external, seed=number)
            )
            for number, actor in enumerate((home.alice, home.bob), start=7)
        )
        home = replace(home, immich=immich, alice=alice, bob=bob, house=replace(home.house, immich=immich))
        home.start()
        home.settled()
        # Nobody is there twice, and everybody is who they were.
        assert {row["person"] for row in bob.people()} == before
        assert {row["person"] for row in alice.people()} == of_alice
        assert {source: home.copied(source) for source in copies} == copies
        assert (home.mirror_of(person), home.mirror_of(merged)) == (mirror, own)
        assert home.face_of(face) is not None

        # And the people live on.
        another, *_ = portrait(alice, "another.jpg", person)
        again, *_ = portrait(alice, "again.jpg", merged)
        bob.name_person(mirror, "Mum")
        alice.name_person(person, "Grace H.")
        home.settled()
        assert {name for _, name in seen(bob, home.copied(another))} == {"Mum"}
        assert {name for _, name in seen(bob, home.copied(again))} == {"Grandma"}
        assert {row["person"] for row in bob.people()} == before
        assert bob.faces_of(mine)[0]["person"] == own


def _group_of(actor: Actor, person: UUID) -> UUID:
    group: UUID = actor.rows.the("person_group", id=person)["clusterGroupId"]
    return group


def _embedding(actor: Actor, face: UUID) -> str | None:
    rows = actor.rows.where("face_search", faceId=face)
    return str(rows[0]["embedding"]) if rows else None


def _leave_cluster_group(home: Home, actor: Actor) -> None:
    """Give a user a cluster group of their own again, with the groups of people that only they have a view of."""
    ((group,),) = home.house.query("INSERT INTO cluster_group DEFAULT VALUES RETURNING id")
    home.house.query('UPDATE "user" SET "clusterGroupId" = %s WHERE id = %s', group, actor.user_id)
