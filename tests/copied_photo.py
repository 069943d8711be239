"""A small share, made by hand: sources with everything an Immich release can hold, and their right copies.

It is written from the rules of a copy alone, with plain SQL and files, so that the judge is tested against
something that no code of the listener has made.
"""

# ruff: noqa: S608 - tables and columns are named in this file

import asyncio
import hashlib
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
from psycopg import sql

from listener import tracking
from listener.settings import Job
from tests.source_photo import MODIFIED, Sources, write

LOCKED = ["description", "dateTimeOriginal", "latitude", "longitude", "rating", "timeZone", "tags"]

TRACKED = (
    "asset_map", "person_map", "face_map", "skipped", "failure", "base", "stack_map", "tag_map", "album_map", "kept",
)  # fmt: skip


@dataclass
class Share(Sources):
    """The sources and their right copies; ``copies`` and ``faces`` lead from a source's id to its copy's."""

    copy_id: UUID = field(default_factory=uuid4)
    face_id: UUID = field(default_factory=uuid4)
    mirror_id: UUID = field(default_factory=uuid4)
    copies: dict[UUID, UUID] = field(default_factory=dict)
    faces: dict[UUID, UUID] = field(default_factory=dict)

    def __post_init__(self) -> None:
        with self.conn.transaction():
            super().__post_init__()
            self._make_copies()

    @property
    def ids(self) -> dict[str, UUID]:
        """Return every id by its name in the tests' statements."""
        return {
            "photo": self.photo,
            "copy": self.copies[self.photo],
            "motion_copy": self.copies[self.motion],
            "plain": self.plain,
            "plain_copy": self.copies[self.plain],
            "upload": self.upload,
            "waiting": self.waiting,
            "face": self.face,
            "face_copy": self.faces[self.face],
            "manual": self.manual_face,
            "manual_copy": self.faces[self.manual_face],
            "person": self.person,
            "mirror": self.mirror_id,
            "source_user": self.source_user,
            "target_user": self.target_user,
            "source_library": self.source_library,
        }

    @property
    def mirror_row(self) -> str:
        """Return the condition for the target's row of the source's person."""
        return '"personGroupId" = %(mirror)s AND "ownerId" = %(target_user)s' if self.groups else "id = %(mirror)s"

    def _make_copies(self) -> None:
        self.insert("_face_sync_skipped", source_asset_id=self.skipped, target_user_id=self.target_user, reason="x")
        self.copy(self.motion, self.external, uuid4(), visibility="hidden")
        self.copy(self.photo, self.external, self.copy_id, livePhotoVideoId=self.copies[self.motion])
        self.copy(self.plain, self.external, uuid4())
        self.copy(self.upload, self.uploads, uuid4())
        self._copy_people()

    def copy(self, source: UUID, job: Job, target: UUID, **changes: Any) -> None:
        """Make the right copy of a source, without its faces."""
        self.copies[source] = target
        self.insert(
            "_face_sync_asset_map",
            source_asset_id=source, target_asset_id=target, source_user_id=self.source_user,
            target_user_id=self.target_user,
        )  # fmt: skip
        ((original, name),) = self.run(
            'SELECT "originalPath", "originalFileName" FROM asset WHERE id = %(id)s', id=source
        )
        path = job.target_path_prefix + original.removeprefix(job.source_path_prefix)
        ruled: dict[str, Any] = {
            "id": target,
            "ownerId": self.target_user,
            "libraryId": self.target_library,
            "originalPath": path,
            "checksum": "\\x" + hashlib.sha1(f"path:{path}".encode(), usedforsecurity=False).hexdigest(),
            "checksumAlgorithm": "sha1-path",
            "isExternal": True,
            "isFavorite": False,
            "deviceId": "Library Import",
            "deviceAssetId": name,
            "livePhotoVideoId": None,
            "duplicateId": None,
            "stackId": None,
            "fileModifiedAt": MODIFIED,
            "sidecarPath": None,
        }
        if self.has("asset", "encodedVideoPath"):
            ((video,),) = self.run('SELECT "encodedVideoPath" FROM asset WHERE id = %(id)s', id=source)
            ruled["encodedVideoPath"] = video and self._link(video, source, target)
        self.clone("asset", "id", source, **(ruled | changes))
        self._copy_children(source, target)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).symlink_to(original)

    def _copy_children(self, source: UUID, target: UUID) -> None:
        locked = {"lockedProperties": sorted({*LOCKED, "orientation"})} if source == self.photo else {}
        self.clone("asset_exif", "assetId", source, assetId=target, livePhotoCID=None, **locked)
        for table in ("asset_job_status", "smart_search", "ocr_search", "asset_video", "asset_audio", "asset_keyframe"):
            self.clone(table, "assetId", source, assetId=target)
        for table in ("asset_ocr", "asset_edit"):
            if self.has(table):
                for (id_,) in self.run(f'SELECT id FROM {table} WHERE "assetId" = %(id)s', id=source):
                    self.clone(table, "id", id_, id=uuid4(), assetId=target)
        self._note_base(source, target)
        edited = '"isEdited"' if self.has("asset_file", "isEdited") else "false"
        for id_, path, is_edited in self.run(
            f"SELECT id, path, {edited} FROM asset_file WHERE \"assetId\" = %(id)s AND type <> 'sidecar'", id=source
        ):
            new = self._link(path, source, target, hard=not is_edited)
            self.clone("asset_file", "id", id_, id=uuid4(), assetId=target, path=new)

    def _note_base(self, source: UUID, target: UUID) -> None:
        """Note what was written into the columns that the target user may change."""
        columns = [column for column in LOCKED if self.has("asset_exif", column)]
        ((exif,),) = self.run('SELECT to_jsonb(row) FROM asset_exif AS row WHERE "assetId" = %(id)s', id=source)
        edits = []
        if self.has("asset_edit"):
            edits = self.run(
                'SELECT action::text, parameters FROM asset_edit WHERE "assetId" = %(id)s ORDER BY sequence', id=source
            )
        self.insert(
            "_face_sync_base",
            target_asset_id=target,
            exif={column: exif[column] for column in columns},
            edits=[{"action": action, "parameters": parameters} for action, parameters in edits],
        )

    def _link(self, path: str, source: UUID, target: UUID, *, hard: bool = True) -> str:
        folder = path.removeprefix(f"{self.roots.media}/").split("/")[0]
        ending = path.rsplit(str(source), maxsplit=1)[-1]
        new = Path(self.generated(folder, self.target_user, target, ending))
        new.parent.mkdir(parents=True, exist_ok=True)
        if hard:
            os.link(path, new)
        else:
            shutil.copyfile(path, new)
        return str(new)

    def _copy_people(self) -> None:
        target = self.copies[self.photo]
        mirrored = not (self.groups and self.shared_group)
        if mirrored:
            self.map_person(self.person, self.mirror_id)
            if self.groups:
                self.insert("person_group", id=self.mirror_id, clusterGroupId=self.cluster_group(self.target_user))
        else:
            # One group stands for both users, each with a row of their own.
            self.mirror_id = self.person
        self.clone(
            "person", "personGroupId" if self.groups else "id", self.person,
            id=self.mirror_id, personGroupId=self.mirror_id, ownerId=self.target_user, isFavorite=False,
            faceAssetId=None, thumbnailPath=self.mirror_thumbnail,
        )  # fmt: skip
        write(self.mirror_thumbnail, "face of Carla")
        for source, copy in ((self.face, self.face_id), (self.manual_face, uuid4())):
            self.faces[source] = copy
            person = self.mirror_id if source == self.face else None
            changes = {"personGroupId": person} if self.groups else {"personId": person}
            silent = {} if mirrored else {"sourceType": "manual"}
            self.clone("asset_face", "id", source, id=copy, assetId=target, **changes, **silent)
            self.insert(
                "_face_sync_face_map",
                source_face_id=source, target_face_id=copy, target_asset_id=target,
                target_user_id=self.target_user, target_person_id=person,
            )  # fmt: skip
            if mirrored:
                self.clone("face_search", "faceId", source, faceId=copy)
        self.run(
            f'UPDATE person SET "faceAssetId" = %(face)s WHERE {self.mirror_row}',
            face=self.face_id, mirror=self.mirror_id, target_user=self.target_user,
        )  # fmt: skip

    def map_person(self, source: UUID, target: UUID, *, back: bool = False) -> None:
        """Note a person of the target as the mirror of one of the source; ``back``: the other way round."""
        users = (self.target_user, self.source_user) if back else (self.source_user, self.target_user)
        self.insert(
            "_face_sync_person_map",
            source_person_id=source, target_person_id=target, source_user_id=users[0], target_user_id=users[1],
        )  # fmt: skip

    @property
    def mirror_thumbnail(self) -> str:
        return self.generated("thumbs", self.target_user, self.mirror_id, ".jpeg")


def prepare(conninfo: str) -> None:
    """Make the tracking tables."""

    async def migrate() -> None:
        async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as conn:
            await tracking.migrate(conn)

    asyncio.run(migrate())


def wipe(conn: psycopg.Connection[Any]) -> None:
    """Take out what an earlier share left: far quicker than a new database."""
    with conn.transaction():
        conn.execute("DELETE FROM stack")
        conn.execute("DELETE FROM album")
        conn.execute('DELETE FROM "user"')
        for table in TRACKED:
            conn.execute(sql.SQL("DELETE FROM {}").format(sql.Identifier(f"_face_sync_{table}")))
