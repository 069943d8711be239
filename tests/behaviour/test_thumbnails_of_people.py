"""Whom a mirrored person's thumbnail shows: never a photo that is not shared with this target."""

from pathlib import Path
from uuid import UUID

import pytest

from listener.standin.actor_files import Picture
from tests.behaviour.conftest import Home
from tests.behaviour.people import named_portrait, portrait, shown_on_copy, thumbnail
from tests.conftest import eventually


def test_a_person_whose_feature_photo_is_not_shared_is_mirrored_without_its_crop(home: Home) -> None:
    alice, bob = home.alice, home.bob
    private = alice.add_library(home.photos.parent / "private")
    (secret,) = alice.scan_library(private, ["secret.jpg"], picture=Picture(faces=1))
    (face,) = alice.faces_of(secret)
    eva = alice.recognise(face["id"])
    alice.name_person(eva, "Eva")
    photo, other, _ = portrait(alice, "shared.jpg", eva)
    home.settled()
    mirror = _mirror(home, eva)
    assert shown_on_copy(home, photo) == {mirror}
    assert bob.person(mirror)["name"] == "Eva"
    assert _files_like(home, thumbnail(alice, eva)) == []

    # Immich crops one itself, from the copy: it stays, whatever is said of the person.
    cropped = _crop(home, mirror)
    alice.name_person(eva, "Eva M.")
    alice.describe(photo, "once more")
    home.settled()
    assert bob.person(mirror)["name"] == ("Eva" if bob.has_groups else "Eva M.")
    assert thumbnail(bob, mirror).read_bytes() == cropped

    # A shared feature photo: the thumbnail's file shows the private one until Immich has written it anew.
    def still_private() -> None:
        home.settled()
        assert thumbnail(bob, mirror).read_bytes() == cropped

    before = thumbnail(alice, eva).read_bytes()
    alice.set_feature_photo(eva, other, between=still_private)
    home.settled()
    assert thumbnail(alice, eva).read_bytes() != before
    # From 3.2 on a thumbnail that is there is its user's own.
    assert thumbnail(bob, mirror).read_bytes() == (cropped if bob.has_groups else thumbnail(alice, eva).read_bytes())


def test_a_thumbnail_goes_at_once_with_the_photo_that_it_shows_and_comes_back_with_it(home: Home) -> None:
    alice, bob = home.alice, home.bob
    one, _, eva = named_portrait(alice, "Eva")
    portrait(alice, "two.jpg", eva)
    home.settled()
    mirror = _mirror(home, eva)
    assert thumbnail(bob, mirror).read_bytes() == thumbnail(alice, eva).read_bytes()

    alice.lock(one)
    home.settled()
    assert home.copy_of(one) is None
    assert _files_like(home, thumbnail(alice, eva)) == []
    assert bob.person(mirror)["thumbnailPath"] == ""

    alice.unlock(one)
    home.settled()
    assert thumbnail(bob, mirror).read_bytes() == thumbnail(alice, eva).read_bytes()

    alice.trash(one)
    home.settled()
    assert _files_like(home, thumbnail(alice, eva)) == []
    alice.restore(one)
    home.settled()
    assert thumbnail(bob, mirror).read_bytes() == thumbnail(alice, eva).read_bytes()

    # Also with one that is gone for good, and what Immich made of a copy.
    alice.delete_for_good(one)
    home.settled()
    assert _files_like(home, thumbnail(alice, eva)) == []


@pytest.mark.variant
def test_what_immich_made_of_a_copy_goes_with_that_copy(home: Home) -> None:
    """Of a mirror, of a person of the target's own, and where the face is nobody's any more."""
    alice, bob = home.alice, home.bob
    _, _, eva = named_portrait(alice, "Eva")
    two, *_ = portrait(alice, "two.jpg", eva)
    three, third, _ = portrait(alice, "three.jpg")
    home.settled()
    mirror = _mirror(home, eva)
    granny = bob.create_person("Granny")
    (copied,) = bob.faces_of(home.copied(three))
    bob.reassign_face(copied["id"], granny)
    (of_second,) = bob.faces_of(home.copied(two))
    bob.set_feature_photo(mirror, of_second["id"])
    home.settled()
    files = [thumbnail(bob, person) for person in (mirror, granny)]
    assert thumbnail(bob, mirror).read_bytes() != thumbnail(alice, eva).read_bytes()

    alice.unassign_face(third)
    alice.lock(two)
    alice.lock(three)
    home.settled()
    assert bob.person(granny)["thumbnailPath"] == ""
    assert not files[1].exists()
    # Her first photo is still shared, and so is the thumbnail that shows it.
    assert thumbnail(bob, mirror).read_bytes() == thumbnail(alice, eva).read_bytes()


@pytest.mark.variant
def test_a_feature_face_that_is_nobodys_any_more_goes_with_its_photo(home: Home) -> None:
    """No copied face leads from that photo to the mirror then."""
    alice, bob = home.alice, home.bob
    one, face, eva = named_portrait(alice, "Eva")
    portrait(alice, "two.jpg", eva)
    home.settled()
    alice.unassign_face(face)
    home.settled()
    mirror = _mirror(home, eva)
    assert thumbnail(bob, mirror).exists()
    alice.lock(one)
    home.settled()
    assert _files_like(home, thumbnail(alice, eva)) == []
    # The same while nobody listens: the sweep finds it.
    alice.unlock(one)
    home.settled()
    assert thumbnail(bob, mirror).read_bytes() == thumbnail(alice, eva).read_bytes()
    with home.stopped():
        alice.lock(one)
    home.settled()
    assert _files_like(home, thumbnail(alice, eva)) == []


def test_a_feature_photo_that_the_target_chose_stays(home: Home) -> None:
    alice, bob = home.alice, home.bob
    one, face, eva = named_portrait(alice, "Eva")
    two, other, _ = portrait(alice, "two.jpg", eva)
    home.settled()
    mirror = _mirror(home, eva)
    (chosen,) = bob.faces_of(home.copied(two))
    bob.set_feature_photo(mirror, chosen["id"], between=home.settled)
    picture = thumbnail(bob, mirror).read_bytes()
    alice.name_person(eva, "Eva M.")
    alice.set_feature_photo(eva, other)
    alice.set_feature_photo(eva, face)
    alice.describe(one, "once more")
    home.settled()
    assert bob.person(mirror)["faceAssetId"] == chosen["id"]
    assert thumbnail(bob, mirror).read_bytes() == picture
    # Until its photo goes: then she is shown as alice shows her.
    alice.trash(two)
    home.settled()
    assert bob.person(mirror)["faceAssetId"] == home.face_of(face)
    assert thumbnail(bob, mirror).read_bytes() == thumbnail(alice, eva).read_bytes()


@pytest.mark.variant
def test_a_photo_that_its_target_deletes_for_good_takes_the_thumbnail_along(home: Home) -> None:
    alice, bob = home.alice, home.bob
    one, _, eva = named_portrait(alice, "Eva")
    portrait(alice, "two.jpg", eva)
    home.settled()
    mirror = _mirror(home, eva)
    bob.delete_for_good(home.copied(one))
    eventually(lambda: bob.person(mirror)["thumbnailPath"] == "", describe="the thumbnail of a deleted photo stays")
    home.settled()
    assert _files_like(home, thumbnail(alice, eva)) == []


def _mirror(home: Home, person: UUID) -> UUID:
    mirror = home.mirror_of(person)
    assert mirror is not None
    return mirror


def _crop(home: Home, person: UUID) -> bytes:
    """Let Immich make the thumbnail that is missing, as it does every night; return what it shows."""
    home.bob.make_missing_thumbnails_of_people()
    return thumbnail(home.bob, person).read_bytes()


def _files_like(home: Home, file: Path) -> list[Path]:
    """Return bob's files that are the same as one of alice's."""
    folder = home.roots.media / "thumbs" / str(home.bob.user_id)
    content = file.read_bytes()
    return [path for path in folder.rglob("*") if path.is_file() and path.read_bytes() == content]


def _of_a_parked_copy(home: Home) -> tuple[UUID, Path, bytes]:
    """Let a person of bob's own have their face on a copy that is parked; returns them, and their former thumbnail."""
    alice, bob = home.alice, home.bob
    photo = alice.upload("a.jpg")
    home.settled()
    granny = bob.create_person("Granny")
    bob.draw_face(home.copied(photo), granny)
    home.settled()
    path = thumbnail(bob, granny)
    cut = path.read_bytes()
    alice.trash(photo)
    eventually(lambda: home.copy_of(photo) is None)
    home.settled()
    assert bob.person(granny)["thumbnailPath"] == ""
    return granny, path, cut


def _cut_again(home: Home, person: UUID, path: Path, cut: bytes) -> None:
    """Immich makes the thumbnail some time after it has chosen the face."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cut)
    home.bob.change_person(person, thumbnailPath=path)


@pytest.mark.variant
def test_a_thumbnail_that_immich_makes_of_a_copy_after_it_was_parked_goes(home: Home) -> None:
    granny, path, cut = _of_a_parked_copy(home)
    _cut_again(home, granny, path, cut)
    eventually(lambda: home.bob.person(granny)["thumbnailPath"] == "")
    eventually(lambda: not path.exists())
    home.settled()


@pytest.mark.variant
def test_a_thumbnail_that_immich_makes_of_a_parked_copy_while_nobody_listens_goes_with_the_sweep(home: Home) -> None:
    granny, path, cut = _of_a_parked_copy(home)
    with home.stopped():
        _cut_again(home, granny, path, cut)
    home.settled()
    assert home.bob.person(granny)["thumbnailPath"] == ""
    assert not path.exists()
