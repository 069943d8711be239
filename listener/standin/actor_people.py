"""What a user and Immich's recognition do with people and faces, in both of Immich's models of people.

A person is named by one id everywhere here: up to 3.1 that is ``person.id``; from 3.2 on the id of the
``person_group``, of which the acting user has a ``person`` row of their own.
"""

from collections.abc import Callable, Iterable
from datetime import date
from pathlib import Path
from typing import Any
from uuid import UUID

from psycopg.rows import DictRow

from listener.standin import actor_files as files
from listener.standin.actor_jobs import Jobs
from listener.standin.actor_rows import Values, delete, insert, update


class PeopleActions(Jobs):
    """The people and faces of the acting user."""

    @property
    def has_groups(self) -> bool:
        """Whether this release has person groups: 3.2 and later."""
        return self.rows.has("person_group")

    def people(self, user: UUID | None = None) -> list[DictRow]:
        """Return the person rows of the acting or another user, each with its id as ``person``."""
        return self.rows.run("people", user=user or self.user_id)

    def person(self, person: UUID) -> DictRow:
        """Return the acting user's row of a person; LookupError if there is none."""
        return self.rows.the("person", **self._key(person))

    def person_of(self, face: UUID) -> UUID | None:
        """Return the person of a face; LookupError if the face is gone."""
        found: UUID | None = self._face(face)[self.rows.names["face_person"]]
        return found

    def create_person(self, name: str = "", *, face: UUID | None = None) -> UUID:
        """Make a person, with a feature face if given. Without one it has no thumbnail."""
        person = self.new_id()
        if self.has_groups:
            group = self.rows.the("user", id=self.user_id)["clusterGroupId"]
            self.rows.execute(insert("person_group", {"id": person, "clusterGroupId": group}))
        self._insert_view(person, name, face)
        return person

    def recognise(self, face: UUID, person: UUID | None = None) -> UUID:
        """Give a face to a person, a new one if none is given, as recognition does; return the person.

        From 3.2 on the person may be another user's in the same cluster group: the acting user gets an own row.
        """
        made = person is None
        if person is None:
            person = self.create_person(face=face)
        elif self.has_groups and not self._has_view(person):
            self._insert_view(person, "", face)
            made = True
        self._give(person, face)
        if made:
            self._make_thumbnail(person)
        return person

    def change_person(self, person: UUID, **values: Any) -> None:
        """Change columns of a person in one statement."""
        self.rows.execute(update("person", {**self._key(person), **values}))

    def name_person(self, person: UUID, name: str) -> None:
        """Name a person."""
        self.change_person(person, name=name)

    def set_birth_date(self, person: UUID, born: date | None) -> None:
        """Set a person's date of birth."""
        self.change_person(person, birthDate=born)

    def hide_person(self, person: UUID, *, hidden: bool = True) -> None:
        """Hide a person, or show them again."""
        self.change_person(person, isHidden=hidden)

    def favourite_person(self, person: UUID, *, favourite: bool = True) -> None:
        """Make a person a favourite, or no longer."""
        self.change_person(person, isFavorite=favourite)

    def colour_person(self, person: UUID, colour: str | None) -> None:
        """Give a person a colour, such as ``#aa3355``."""
        self.change_person(person, color=colour)

    def set_feature_photo(self, person: UUID, face: UUID, *, between: Callable[[], object] = lambda: None) -> None:
        """Choose the face that stands for a person; the thumbnail's file is written anew, in place, by a later job.

        ``between`` is what happens before that.
        """
        self.change_person(person, faceAssetId=face)
        between()
        self._make_thumbnail(person)

    def make_missing_thumbnails_of_people(self) -> None:
        """Crop a thumbnail for each of the acting user's people who has none, as every night.

        One without a feature face gets any: from 3.2 on of anybody's photos.
        """
        for row in self.people():
            if row["thumbnailPath"]:
                continue
            if row["faceAssetId"] is None:
                owner = None if self.has_groups else self.user_id
                found = self.rows.run("any_face", person=row["person"], user=owner)
                if not found:
                    continue
                self.change_person(row["person"], faceAssetId=found[0]["id"])
            self._make_thumbnail(row["person"])

    def merge_people(self, survivor: UUID, *others: UUID, between: Callable[[], object] = lambda: None) -> None:
        """Merge people into one, which takes name and date of birth if it has none.

        ``between`` is what happens in the meantime: between the moving of one's faces and their deletion.
        """
        for other in others:
            kept, gone = self.person(survivor), self.person(other)
            taken = {c: gone[c] for c in ("name", "birthDate") if gone[c] and not kept[c]}
            if taken:
                self.change_person(survivor, **taken)
            self.rows.run("move_faces", survivor=survivor, gone=other, user=self.user_id)
            between()
            self._delete_people([gone])

    def delete_person(self, *people: UUID) -> None:
        """Delete people: their faces belong to nobody then. From 3.2, once no user has a row of them."""
        self._delete_people([self.person(person) for person in people])

    def reassign_face(self, face: UUID, person: UUID) -> None:
        """Give a face to another person; who had it as feature photo, or has none, gets one."""
        before = self.person_of(face)
        self._give(person, face)
        if self.person(person)["faceAssetId"] is None:
            self._choose_feature_photo(person)
        if before is not None and self._has_view(before) and self.person(before)["faceAssetId"] == face:
            self._choose_feature_photo(before)

    def unassign_face(self, face: UUID) -> None:
        """Take a face from its person."""
        self._give(None, face)

    def delete_face(self, face: UUID, *, soft: bool = True) -> None:
        """Delete a face: softly, as users do, or for good."""
        if soft:
            self.rows.execute(update("asset_face", {"id": face, "deletedAt": files.now()}))
        else:
            self.rows.execute(delete("asset_face", {"id": face}))

    def draw_face(self, asset: UUID, person: UUID) -> UUID:
        """Draw a person's face on a photo by hand; it has no embedding. Returns the face."""
        face = self.new_id()
        # Below the rows of faces that detection finds, so that it is never the same face as one of those.
        left = self._random.randrange(10, 500)
        self.rows.execute(
            insert("asset_face", {
                "id": face, "assetId": asset, self.rows.names["face_person"]: person, "sourceType": "manual",
                "imageWidth": 640, "imageHeight": 480,
                "boundingBoxX1": left, "boundingBoxY1": 400, "boundingBoxX2": left + 60, "boundingBoxY2": 470,
            })
        )  # fmt: skip
        if self.person(person)["faceAssetId"] is None:
            self._choose_feature_photo(person)
        return face

    def detect_faces_again(self, asset: UUID | None = None) -> list[UUID]:
        """Detect faces by force, and return the new ones: all have new ids and no person.

        Of one asset: its detected faces are replaced in one statement. Of all, also other users': all detected
        faces are deleted first; on 2.0 the people who have none then, too.
        """
        if asset is not None:
            old = [face["id"] for face in self.faces_of(asset) if face["sourceType"] == "machine-learning"]
            return self.find_faces(asset, without=old, moved=self._random.randrange(4))
        self.rows.run("delete_detected_faces")
        self._clean_up_people()
        return [face for row in self.rows.run("detectable_assets") for face in self.find_faces(row["id"])]

    def reset_recognition(self) -> None:
        """Begin a forced recognition: no detected face of any user has a person; on 2.0 those people go."""
        self.rows.run("reset_recognition")
        self._clean_up_people()

    def share_person(self, person: UUID, user: UUID, role: str = "read") -> None:
        """Share a person with another user (3.3+): the database makes that user's own row."""
        keys = {"personGroupId": person, "sharedById": self.user_id, "sharedWithId": user}
        self.rows.execute(insert("person_user", {**keys, "role": role}))

    def _face(self, face: UUID) -> DictRow:
        return self.rows.the("asset_face", id=face)

    def _key(self, person: UUID) -> dict[str, Any]:
        owner = {"ownerId": self.user_id} if self.has_groups else {}
        return {self.rows.names["person_id"]: person, **owner}

    def _has_view(self, person: UUID) -> bool:
        return bool(self.rows.where("person", **self._key(person)))

    def _insert_view(self, person: UUID, name: str, face: UUID | None) -> None:
        row = {"ownerId": self.user_id, "name": name, "faceAssetId": face, "thumbnailPath": ""}
        self.rows.execute(insert("person", {**self._key(person), **row}))

    def _give(self, person: UUID | None, *faces: UUID) -> None:
        column = self.rows.names["face_person"]
        self.rows.execute(update("asset_face", *({"id": face, column: person} for face in faces)))

    def _make_thumbnail(self, person: UUID) -> None:
        """Cut a person's thumbnail out of the photo of their feature face, file first."""
        face = self.person(person)["faceAssetId"]
        path = self.generated("thumbs", self.user_id, person, ".jpeg")
        files.write(path, f"face {face} of {person}, {self._random.getrandbits(64):x}".encode())
        self.change_person(person, thumbnailPath=path)

    def _choose_feature_photo(self, person: UUID) -> None:
        found = self.rows.run("another_face", person=person, user=self.user_id)
        if found:
            self.change_person(person, faceAssetId=found[0]["id"])
            self._make_thumbnail(person)

    def _delete_people(self, people: Iterable[DictRow]) -> None:
        gone = list(people)
        keys: list[Values] = [
            {"id": row.get("id"), "ownerId": row["ownerId"], "personGroupId": row.get("personGroupId")} for row in gone
        ]
        self.rows.execute(delete("person", *keys))
        if self.has_groups:
            self.rows.run("drop_empty_person_groups")
        for row in gone:
            if row["thumbnailPath"]:
                Path(row["thumbnailPath"]).unlink(missing_ok=True)

    def _clean_up_people(self) -> None:
        # Later releases leave people without faces behind.
        if self.release < (2, 1):
            self._delete_people(self.rows.run("people_without_faces"))
