"""From 3.2: the thumbnail of a mirrored person shows that person, also when a face turns out to be another's."""

from collections.abc import Callable

import pytest

from tests.behaviour.conftest import Home
from tests.behaviour.people import named_portrait, portrait, thumbnail


@pytest.mark.releases(since="3.2.0")
@pytest.mark.variant
def test_a_feature_face_that_becomes_somebody_elses_is_no_longer_shown(home: Home) -> None:
    alice, bob = home.alice, home.bob
    _, face, person = named_portrait(alice, "Grace")
    _, other, _ = portrait(alice, "other.jpg", person)
    _, _, somebody = named_portrait(alice, "Heidi")
    home.settled()
    mirror = home.mirror_of(person)
    assert mirror is not None
    assert bob.person(mirror)["faceAssetId"] == home.face_of(face)
    before = thumbnail(bob, mirror).read_bytes()

    # Looked at together: the copied face is still hers when her thumbnail is thought of.
    with home.stopped():
        alice.reassign_face(face, somebody)
        alice.set_feature_photo(person, other)
    home.settled()
    assert bob.person(mirror)["faceAssetId"] == home.face_of(other)
    assert thumbnail(bob, mirror).read_bytes() == thumbnail(alice, person).read_bytes() != before


@pytest.mark.releases(since="3.2.0")
@pytest.mark.variant
def test_the_first_feature_face_is_the_copy_of_the_sources(new_home: Callable[..., Home]) -> None:
    home = new_home()
    alice, bob = home.alice, home.bob
    _, face, person = named_portrait(alice, "Grace")
    portrait(alice, "other.jpg", person)
    home.start()
    home.settled()
    mirror = home.mirror_of(person)
    assert mirror is not None
    assert bob.person(mirror)["faceAssetId"] == home.face_of(face)
    assert thumbnail(bob, mirror).read_bytes() == thumbnail(alice, person).read_bytes()
