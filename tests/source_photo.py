"""Photos that are shared, made by hand: sources with everything an Immich release can hold, in plain SQL and files."""

# ruff: noqa: S608 - tables and columns are named in this file

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
from psycopg import sql

from listener.settings import Job
from tests.conftest import Roots

EMBEDDING = "[" + ",".join(["0.5"] * 512) + "]"
MODIFIED = "2024-05-06T07:08:09.123+00:00"
MODIFIED_NS = 1_714_979_289_123_000_000
LONG_AGO = "2024-05-06T10:00:00+00:00"


@dataclass
class Sources:
    """Two users, an external and an uploads job, and what the source user has.

    ``photo`` is a live photo with everything and ``motion`` its moving part, ``plain`` a photo with little,
    ``upload`` one of the uploads job. From Immich 3.2 on the users are in one cluster group if ``shared_group``,
    else each in one of their own.
    """

    conn: psycopg.Connection[Any]
    roots: Roots
    shared_group: bool = False
    source_user: UUID = field(default_factory=uuid4)
    target_user: UUID = field(default_factory=uuid4)
    source_library: UUID = field(default_factory=uuid4)
    target_library: UUID = field(default_factory=uuid4)
    person: UUID = field(default_factory=uuid4)

    def __post_init__(self) -> None:
        rows = self.conn.execute(
            "SELECT table_name, array_agg(column_name::text) FROM information_schema.columns"
            " WHERE table_schema = 'public' GROUP BY table_name"
        ).fetchall()
        self.columns: dict[str, set[str]] = {table: set(columns) for table, columns in rows}
        self.external = Job(
            name="photos",
            kind="external",
            source_user_id=self.source_user,
            target_user_id=self.target_user,
            target_library_id=self.target_library,
            source_path_prefix=f"{self.roots.external}/bob/photos",
            target_path_prefix=f"{self.roots.external}/shared/bob",
        )
        self.uploads = Job(
            name="uploads",
            kind="uploads",
            source_user_id=self.source_user,
            target_user_id=self.target_user,
            target_library_id=self.target_library,
            source_path_prefix=str(self.roots.media),
            target_path_prefix=f"{self.roots.external}/shared/bob_uploads",
        )
        self.jobs = (self.external, self.uploads)
        self._make_users()
        self._make_sources()

    def has(self, table: str, column: str = "assetId") -> bool:
        return column in self.columns.get(table, set())

    @property
    def groups(self) -> bool:
        return self.has("asset_face", "personGroupId")

    def run(self, text: str, **params: Any) -> list[tuple[Any, ...]]:
        """Run one statement and return its rows, if it has any."""
        cursor = self.conn.execute(text, params or None)
        return cursor.fetchall() if cursor.description else []

    def insert(self, table: str, **values: Any) -> None:
        """Insert a row; columns that this release has not are left out, as is a table it has not."""
        row = json.dumps({name: value for name, value in values.items() if self.has(table, name)}, default=str)
        names = [name for name in values if self.has(table, name)]
        if not names:
            return
        listed = sql.SQL(", ").join(map(sql.Identifier, names))
        self.conn.execute(
            sql.SQL("INSERT INTO {0} ({1}) SELECT {1} FROM jsonb_populate_record(NULL::{0}, %s)").format(
                sql.Identifier(table), listed
            ),
            [row],
        )

    def clone(self, table: str, column: str, value: UUID, **changes: Any) -> None:
        """Insert the rows with that value again, with changes; nothing where the release has no such table."""
        if self.has(table, column):
            self.conn.execute(
                sql.SQL(
                    "INSERT INTO {0} SELECT (jsonb_populate_record(row, %s)).* FROM {0} AS row WHERE row.{1} = %s"
                ).format(sql.Identifier(table), sql.Identifier(column)),
                [json.dumps(changes, default=str), value],
            )

    def _make_users(self) -> None:
        groups = [uuid4()] if self.shared_group else [uuid4(), uuid4()]
        for id_ in groups:
            self.insert("cluster_group", id=id_)
        for user, name, group in (
            (self.source_user, "bob", groups[0]),
            (self.target_user, "alice", groups[-1]),
        ):
            self.insert("user", id=user, email=f"{name}@example.org", name=name, clusterGroupId=group)
        for library, owner in (
            (self.source_library, self.source_user),
            (self.target_library, self.target_user),
        ):
            self.insert("library", id=library, name="photos", ownerId=owner, importPaths=[], exclusionPatterns=["**/*"])

    def add_asset(self, name: str, **values: Any) -> UUID:
        """Add a ready photo of the source user with an original, metadata, a preview and a thumbnail."""
        id_ = uuid4()
        path = values.pop("originalPath", f"{self.external.source_path_prefix}/2024/{name}")
        write(path, f"original of {name}", mtime_ns=MODIFIED_NS)
        row: dict[str, Any] = {
            "id": id_,
            "ownerId": self.source_user,
            "libraryId": self.source_library,
            "isExternal": True,
            "type": "IMAGE",
            "originalPath": path,
            "originalFileName": name,
            "checksum": "\\x" + hashlib.sha1(path.encode(), usedforsecurity=False).hexdigest(),
            "checksumAlgorithm": "sha1",
            "deviceId": "phone",
            "deviceAssetId": f"phone-{name}",
            "fileCreatedAt": MODIFIED,
            "fileModifiedAt": "2023-01-01T00:00:00+00:00",
            "localDateTime": MODIFIED,
            "createdAt": LONG_AGO,
            "thumbhash": "\\x0102",
            "isFavorite": True,
            "encodedVideoPath": "",
        }
        self.insert("asset", **(row | values))
        self.insert("asset_exif", assetId=id_, make="Leica", description=f"about {name}", rating=4)
        self.add_file(id_, "preview", "_preview.jpeg")
        self.add_file(id_, "thumbnail", "_thumbnail.webp")
        self.insert("smart_search", assetId=id_, embedding=EMBEDDING)
        self.insert(
            "asset_job_status",
            assetId=id_,
            metadataExtractedAt=LONG_AGO,
            facesRecognizedAt=LONG_AGO,
            duplicatesDetectedAt=LONG_AGO,
            ocrAt=LONG_AGO,
            previewAt=LONG_AGO,
            thumbnailAt=LONG_AGO,
        )
        return id_

    def add_file(self, asset: UUID, kind: str, ending: str, *, edited: bool = False, folder: str = "thumbs") -> None:
        path = self.generated(folder, self.source_user, asset, ending)
        write(path, f"{kind} {edited} of {asset}")
        self.insert(
            "asset_file", assetId=asset, type=kind, path=path, isEdited=edited, isProgressive=True, isTransparent=False
        )

    def generated(self, folder: str, user: UUID, id_: UUID, ending: str) -> str:
        return f"{self.roots.media}/{folder}/{user}/{str(id_)[:2]}/{str(id_)[2:4]}/{id_}{ending}"

    def _make_sources(self) -> None:
        self.motion = self.add_asset("live.mov", type="VIDEO", visibility="hidden", thumbhash=None)
        for table in ("asset_file", "smart_search"):
            self.run(f'DELETE FROM {table} WHERE "assetId" = %(id)s', id=self.motion)
        self.run(
            'UPDATE asset_job_status SET "facesRecognizedAt" = NULL, "duplicatesDetectedAt" = NULL'
            ' WHERE "assetId" = %(id)s',
            id=self.motion,
        )
        self.photo = self.add_asset(
            "live.jpg", livePhotoVideoId=self.motion, duplicateId=uuid4(), width=40, height=30, duration=None
        )
        self.plain = self.add_asset("plain.jpg")
        self.upload = self.add_asset(
            "upload.jpg",
            libraryId=None,
            isExternal=False,
            originalPath=f"{self.roots.media}/upload/{self.source_user}/ab/cd/abcd.jpg",
        )
        self._enrich_photo()
        # Never to be copied, or not yet: each for its own reason.
        self.add_asset("locked.jpg", visibility="locked")
        self.add_asset("trashed.jpg", deletedAt=LONG_AGO, status="trashed")
        self.add_asset("outside.jpg", originalPath=f"{self.roots.external}/bob/private/outside.jpg")
        self.skipped = self.add_asset("skipped.jpg")
        self.waiting = self.add_asset("waiting.jpg", thumbhash=None)

    def _enrich_photo(self) -> None:
        photo = self.photo
        self.run('UPDATE asset_exif SET "livePhotoCID" = \'cid\' WHERE "assetId" = %(id)s', id=photo)
        if self.has("asset_exif", "lockedProperties"):
            self.run(
                'UPDATE asset_exif SET "lockedProperties" = \'{orientation,rating}\' WHERE "assetId" = %(id)s',
                id=photo,
            )
        xmp = f"{self.external.source_path_prefix}/2024/live.jpg.xmp"
        write(xmp, "<xmp/>")
        if self.has("asset", "sidecarPath"):
            self.run('UPDATE asset SET "sidecarPath" = %(xmp)s WHERE id = %(id)s', xmp=xmp, id=photo)
        else:
            self.insert("asset_file", assetId=photo, type="sidecar", path=xmp)
        self.add_file(photo, "fullsize", "_fullsize.jpeg")
        if self.has("asset_file", "isEdited"):
            self.add_file(photo, "preview", "_preview_edited.jpeg", edited=True)
        if self.has("asset", "encodedVideoPath"):
            video = self.generated("encoded-video", self.source_user, photo, ".mp4")
            write(video, "video")
            self.run('UPDATE asset SET "encodedVideoPath" = %(path)s WHERE id = %(id)s', path=video, id=photo)
        else:
            self.add_file(photo, "encoded_video", ".mp4", folder="encoded-video")
        for number in range(2):
            corners = {f"{axis}{corner}": 0.1 * corner for axis in "xy" for corner in range(1, 5)}
            self.insert(
                "asset_ocr", id=uuid4(), assetId=photo, text=f"word {number}", boxScore=0.5, textScore=0.75, **corners
            )
        self.insert("ocr_search", assetId=photo, text="word 0 word 1")
        self.insert("asset_edit", id=uuid4(), assetId=photo, action="rotate", parameters={"angle": 90}, sequence=0)
        self.insert(
            "asset_video",
            assetId=photo, bitrate=1, frameCount=2, timeBase=3, index=0, colorPrimaries=1, colorTransfer=1,
            colorMatrix=1, codecName="h264", formatName="mov", formatLongName="QuickTime", pixelFormat="yuv420p",
        )  # fmt: skip
        self.insert("asset_audio", assetId=photo, bitrate=1, index=1, codecName="aac")
        self.insert(
            "asset_keyframe",
            assetId=photo, pts=[0, 1], accDuration=[1], ownDuration=[1], totalDuration=9, packetCount=8, outputFrames=7,
        )  # fmt: skip
        self._make_faces()

    def _make_faces(self) -> None:
        photo, person = self.photo, self.person
        thumbnail = self.generated("thumbs", self.source_user, person, ".jpeg")
        write(thumbnail, "face of Carla")
        if self.groups:
            self.insert("person_group", id=person, clusterGroupId=self.cluster_group(self.source_user))
        self.insert(
            "person",
            id=person, personGroupId=person, ownerId=self.source_user, name="Carla", birthDate="1990-01-02",
            isHidden=True, isFavorite=True, color="#fff", thumbnailPath=thumbnail,
        )  # fmt: skip
        self.face, self.manual_face, self.unassigned_face, deleted_face = (uuid4() for _ in range(4))
        for id_, owner, source_type, deleted in (
            (self.face, person, "machine-learning", None),
            (self.manual_face, None, "manual", None),
            (self.unassigned_face, None, "machine-learning", None),
            (deleted_face, person, "machine-learning", LONG_AGO),
        ):
            self.insert(
                "asset_face",
                id=id_, assetId=photo, personId=owner, personGroupId=owner, sourceType=source_type,
                deletedAt=deleted, imageWidth=40, imageHeight=30, boundingBoxX1=1, boundingBoxX2=9,
            )  # fmt: skip
            if source_type != "manual":
                self.insert("face_search", faceId=id_, embedding=EMBEDDING)
        self.run("UPDATE person SET \"faceAssetId\" = %(face)s WHERE name = 'Carla'", face=self.face)

    def cluster_group(self, user: UUID) -> UUID:
        ((group,),) = self.run('SELECT "clusterGroupId" FROM "user" WHERE id = %(id)s', id=user)
        return UUID(str(group))

    def add_person(self, user: UUID, name: str, **values: Any) -> UUID:
        """Add a person of a user, with a group of their own where this release has such."""
        id_ = uuid4()
        if self.groups:
            self.insert("person_group", id=id_, clusterGroupId=self.cluster_group(user))
        self.insert("person", id=id_, personGroupId=id_, ownerId=user, name=name, **values)
        return id_

    def add_tag(self, user: UUID, value: str, parent: UUID | None = None) -> UUID:
        id_ = uuid4()
        self.insert("tag", id=id_, userId=user, value=value, parentId=parent)
        return id_

    def tag_asset(self, tag: UUID, asset: UUID) -> None:
        self.insert("tag_asset", assetId=asset, assetsId=asset, tagId=tag, tagsId=tag)

    def album_asset(self, album: UUID, asset: UUID) -> None:
        self.insert("album_asset", assetId=asset, assetsId=asset, albumId=album, albumsId=album)

    def add_album(self, owner: UUID) -> UUID:
        id_ = uuid4()
        self.insert("album", id=id_, albumName="shared", ownerId=owner)
        if not self.has("album", "ownerId"):
            self.insert("album_user", albumId=id_, userId=owner, role="owner")
        return id_


def write(path: str | Path, text: str, mtime_ns: int | None = None) -> None:
    """Write a file with its folders, and its time of change if given."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    if mtime_ns is not None:
        os.utime(path, ns=(mtime_ns, mtime_ns))
