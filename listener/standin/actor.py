"""A stand-in for what users do in Immich: each method is one click or job, as Immich's server writes it.

Files are on disk before the rows that name them, each statement is a transaction of its own where Immich's is,
and the columns are those of the database at hand, so that one actor acts on every release from 2.0 to 3.3.
`listener.standin.actor_jobs` has what the server does by itself, the other modules what a user does.
"""

import hashlib
from collections.abc import Collection, Sequence
from datetime import datetime
from pathlib import Path
from typing import Literal
from uuid import UUID

from listener.standin import actor_files as files
from listener.standin.actor_changes import Changes
from listener.standin.actor_files import Picture
from listener.standin.actor_groups import PersonGroups
from listener.standin.actor_jobs import ALL_LEARNING, Learning, Stage
from listener.standin.actor_libraries import Libraries
from listener.standin.actor_rows import insert, upsert

__all__ = ["ALL_LEARNING", "NEW", "Actor", "Learning", "Picture", "Stage"]

NEW: Literal["new"] = "new"
"""Stands for a person whom recognition makes."""


class Actor(PersonGroups, Changes, Libraries):
    """One Immich server's writes for one user, whose row must be there.

    The same ``seed`` gives the same ids. A context manager: it holds connections. Not for several threads.
    """

    def assets(self) -> list[UUID]:
        """Return the acting user's assets, copies among them."""
        return [row["id"] for row in self.rows.where("asset", ownerId=self.user_id)]

    def upload(
        self,
        name: str,
        *,
        taken: datetime | None = None,
        faces: int = 0,
        people: Sequence[UUID | Literal["new"]] = (),
        text: str | None = None,
        picture: Picture | None = None,
        content: bytes | None = None,
        template: str | None = None,
        until: Stage | None = None,
        learning: Collection[Learning] = ALL_LEARNING,
    ) -> UUID:
        """Upload a photo or, by its name, a video, and return the asset.

        It shows so many ``faces``, the first of which recognition gives to ``people``, and ``text``; or all that
        ``picture`` shows; or it has the very bytes of ``content``, such as another original's. ``template`` is where
        below the user's folder the storage template moves it, after metadata. The jobs stop after ``until``; what is
        not in ``learning`` is switched off. Raises psycopg.errors.UniqueViolation for content that the user has.
        """
        like = picture or Picture(taken=taken, faces=max(faces, len(people)), text=text)
        asset = self._take_in(name, content or self.picture(Path(name), like).content())
        if until != "row":
            self.work_on(asset, until="metadata")
            if template:
                self.move_by_storage_template(asset, template)
        self.work_on(asset, until=until, learning=learning)
        for face, person in zip(self.faces_of(asset), people, strict=False):
            self.recognise(face["id"], None if person == NEW else person)
        return asset

    def upload_live_photo(
        self,
        name: str = "live",
        *,
        taken: datetime | None = None,
        faces: int = 0,
        text: str | None = None,
        until: Stage | None = None,
        learning: Collection[Learning] = ALL_LEARNING,
    ) -> tuple[UUID, UUID]:
        """Upload a live photo, and return its still and its motion part: hidden, with metadata only."""
        moving = self.picture(Path(f"{name}.mp4")).content()
        motion = self._take_in(f"{name}.mp4", moving, visibility="hidden")
        shown = self.picture(Path(f"{name}.jpg"), Picture(taken=taken, faces=faces, text=text)).content()
        still = self._take_in(f"{name}.jpg", shown, motion=motion)
        for asset in (still, motion):
            self.work_on(asset, until=until, learning=learning)
        return still, motion

    def _take_in(self, name: str, content: bytes, *, visibility: str = "timeline", motion: UUID | None = None) -> UUID:
        """Write an upload's original and insert its rows of asset and asset_exif."""
        asset, modified = self.new_id(), files.now()
        path = self.generated("upload", self.user_id, self.new_id(), Path(name).suffix)
        files.write(path, content, modified)
        self.rows.execute(
            insert("asset", {
                "id": asset, "ownerId": self.user_id, "type": "VIDEO" if files.is_video(name) else "IMAGE",
                "originalPath": path, "originalFileName": name, "checksumAlgorithm": "sha1",
                "checksum": hashlib.sha1(content, usedforsecurity=False).digest(), "visibility": visibility,
                "livePhotoVideoId": motion, "fileCreatedAt": modified, "fileModifiedAt": modified,
                "localDateTime": modified, "deviceId": "phone", "deviceAssetId": f"{name}-{len(content)}",
            })
        )  # fmt: skip
        self.rows.execute(upsert("asset_exif", {"assetId": asset, "fileSizeInByte": len(content)}))
        return asset
