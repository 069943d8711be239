"""Photos of people, and who is to be seen on a photo: what the tests of people and faces look at."""

from pathlib import Path
from uuid import UUID

from listener.standin.actor import NEW, Actor
from tests.behaviour.conftest import Home

Seen = set[tuple[tuple[int, ...], str]]
"""The boxes of the faces on a photo, each with the name of its person."""

_BOX = ("boundingBoxX1", "boundingBoxY1", "boundingBoxX2", "boundingBoxY2")


def portrait(actor: Actor, name: str, person: UUID | None = None) -> tuple[UUID, UUID, UUID]:
    """Upload a photo of one person, by default a new one; return the photo, the face and the person."""
    photo = actor.upload(name, faces=1, people=[person or NEW])
    (face,) = actor.faces_of(photo)
    return photo, face["id"], face["person"]


def named_portrait(actor: Actor, name: str) -> tuple[UUID, UUID, UUID]:
    """Upload ``<name>.jpg``, a photo of a new person of that name."""
    photo, face, person = portrait(actor, f"{name}.jpg")
    actor.name_person(person, name)
    return photo, face, person


def seen(actor: Actor, asset: UUID) -> Seen:
    """Return the faces that an actor sees on their photo, with their own names for people."""
    names = {row["person"]: row["name"] for row in actor.people()}
    return {
        (tuple(face[column] for column in _BOX), names[face["person"]])
        for face in actor.faces_of(asset)
        if face["deletedAt"] is None and face["person"] in names
    }


def shown_on_copy(home: Home, photo: UUID) -> set[UUID | None]:
    """Return bob's people on his copy of alice's photo."""
    return {face["person"] for face in home.bob.faces_of(home.copied(photo)) if face["deletedAt"] is None}


def thumbnail(actor: Actor, person: UUID) -> Path:
    """Return the thumbnail of an actor's person."""
    path: str = actor.person(person)["thumbnailPath"]
    assert path, f"{person} has no thumbnail"
    return Path(path)


def owner_of_face(actor: Actor, face: UUID) -> UUID:
    """Return whose photo a face is on."""
    owner: UUID = actor.asset(actor.rows.the("asset_face", id=face)["assetId"])["ownerId"]
    return owner


def copy_for(actor: Actor, home: Home, source: UUID) -> UUID:
    """Return an actor's copy of the other's photo."""
    rows = home.house.query(
        "SELECT target_asset_id FROM _face_sync_asset_map WHERE source_asset_id = %s AND target_user_id = %s",
        source,
        actor.user_id,
    )
    assert len(rows) == 1
    return UUID(str(rows[0][0]))
