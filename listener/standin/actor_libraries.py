"""How assets come from libraries, move, and go: scans, the storage template, the trash, and the end of users.

What Immich unlinks is unlinked here, by the path that the row names and through whatever links that runs.
"""

import hashlib
import os
import shutil
from collections.abc import Collection, Iterable
from datetime import timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from uuid import UUID

from psycopg.rows import DictRow

from listener.standin import actor_files as files
from listener.standin.actor_files import Picture
from listener.standin.actor_jobs import ALL_LEARNING, Jobs, Learning, Stage
from listener.standin.actor_rows import Values, delete, insert, update
from listener.standin.recording import path_checksum

_LIBRARY_IMPORT = "Library Import"
_TRASH_DAYS = 30


class Libraries(Jobs):
    """Libraries, files and ends."""

    def add_library(self, import_path: Path, *, exclusions: Iterable[str] = ()) -> UUID:
        """Make a library of a folder, which need not be there."""
        library = self.new_id()
        self.rows.execute(
            insert("library", {
                "id": library, "name": "library", "ownerId": self.user_id, "importPaths": [import_path],
                "exclusionPatterns": list(exclusions),
            })
        )  # fmt: skip
        return library

    def set_exclusions(self, library: UUID, *patterns: str) -> None:
        """Set a library's exclusion patterns; the next scan heeds them."""
        self.rows.execute(update("library", {"id": library, "exclusionPatterns": list(patterns)}))

    def scan_library(
        self,
        library: UUID,
        names: Iterable[str] = (),
        *,
        picture: Picture | None = None,
        until: Stage | None = None,
        learning: Collection[Learning] = ALL_LEARNING,
    ) -> list[UUID]:
        """Put files into a library's folder, scan it, and return the ids of the new assets, sorted by path.

        ``names`` are relative to the library's first import path; each file shows ``picture``, no two the same.
        A scan looks at the disk: what is gone or excluded goes offline, what is back comes back, what has another
        modification time is processed anew, what is new is inserted in one statement and goes through all jobs
        up to ``until``.
        """
        row = self.rows.the("library", id=library)
        for name in names:
            path = Path(row["importPaths"][0]) / name
            files.write(path, self.picture(path, picture).content(), files.now())
        self.rows.execute(update("library", {"id": library, "refreshedAt": files.now()}))
        roots = [path for path in row["importPaths"] if Path(path).is_dir()]
        excluded: list[str] = row["exclusionPatterns"]
        covered = [f"{_escaped(path)}%" for path in row["importPaths"]]
        patterns = [_like(pattern) for pattern in excluded]
        self.rows.run("take_offline", library=library, imports=covered, exclusions=patterns, now=files.now())
        self._look_at_known(library, excluded)
        new = self._import(library, roots, excluded)
        for stage in ("metadata", "files", "thumbnails") if until is None else ():
            for asset in new:
                self.work_on(asset, until=stage)
        for asset in new:
            self.work_on(asset, until=until, learning=learning)
        return new

    def change_file(self, asset: UUID, **changes: Any) -> None:
        """Overwrite an asset's original with another picture; a scan or a refresh will find it."""
        row = self.asset(asset)
        path = Path(row["originalPath"])
        picture = files.look_at(path).changed({"mark": f"{self._random.getrandbits(64):x}", **changes})
        files.write(path, picture.content(), row["fileModifiedAt"] + timedelta(seconds=1))

    def picture(self, path: Path, like: Picture | None = None) -> Picture:
        """Return a picture that no other file shows."""
        like = like or Picture()
        mark = f"{path.name} {self._random.getrandbits(64):x}"
        return like.changed({"mark": mark, "video": like.video or files.is_video(path.name)})

    def link_live_photo(self, still: UUID, motion: UUID) -> None:
        """Make a photo and a video one live photo."""
        self.rows.execute(update("asset", {"id": still, "livePhotoVideoId": motion}))
        self.rows.execute(update("asset", {"id": motion, "visibility": "hidden"}))

    def unlink_live_photo(self, still: UUID) -> None:
        """Make a live photo a photo and a video again."""
        motion = self.asset(still)["livePhotoVideoId"]
        self.rows.execute(update("asset", {"id": motion, "visibility": "timeline"}))
        self.rows.execute(update("asset", {"id": still, "livePhotoVideoId": None}))

    def look_for_sidecars(self) -> None:
        """Run the job "sidecar: missing", which reads the metadata of every user's assets without an XMP again."""
        for row in self.rows.where("asset", status="active"):
            # One may be gone by then.
            if self.rows.where("asset", id=row["id"]) and self._sidecar_path(self.asset(row["id"])) is None:
                self.refresh_metadata(row["id"])

    def _take_out_motion(self, still: DictRow, motion: str) -> None:
        """Make an asset of the video inside an Android motion photo, whenever its metadata is read.

        One of the same content that this owner has in that library is taken; the part that was there before is deleted.
        It is no external asset, although it has its still's library, and lies in a folder of Immich's.
        """
        content = Picture(video=True, mark=motion).content()
        checksum = hashlib.sha1(content, usedforsecurity=False).digest()
        same = [
            row
            for row in self.rows.where("asset", ownerId=still["ownerId"], checksum=checksum)
            if row["libraryId"] == still["libraryId"]
        ]
        part = same[0]["id"] if same else self.new_id()
        if same and same[0]["visibility"] == "timeline":
            self.rows.execute(update("asset", {"id": part, "visibility": "hidden"}))
        if not same:
            times = {name: still[name] for name in ("fileCreatedAt", "fileModifiedAt", "localDateTime")}
            self.rows.execute(
                insert("asset", {
                    "id": part, "ownerId": still["ownerId"], "libraryId": still["libraryId"], "type": "VIDEO",
                    "originalPath": self.generated("encoded-video", still["ownerId"], part, "-MP.mp4"),
                    "originalFileName": f"{Path(still['originalFileName']).stem}.mp4", "checksumAlgorithm": "sha1",
                    "checksum": checksum, "visibility": "hidden", "deviceId": "NONE", "deviceAssetId": "NONE", **times,
                })
            )  # fmt: skip
        former = still["livePhotoVideoId"]
        if former != part:
            self.rows.execute(update("asset", {"id": still["id"], "livePhotoVideoId": part}))
        path = Path(self.asset(part)["originalPath"])
        if not path.exists():
            files.write(path, content)
        if not same:
            self.refresh_metadata(part)
        if former not in {None, part}:
            self._remove(former)

    def transcode(self, asset: UUID) -> Path:
        """Make a video's encoded video: asset.encodedVideoPath up to 2.5, then a row of asset_file."""
        row = self.asset(asset)
        path = self.generated("encoded-video", row["ownerId"], asset, ".mp4")
        self._write_derived(path, self._picture(asset))
        if "encodedVideoPath" in row:
            self.rows.execute(update("asset", {"id": asset, "encodedVideoPath": path}))
        else:
            self._name_files(self._file_row(asset, "encoded_video", path))
        return path

    def make_fullsize(self, asset: UUID) -> Path:
        """Make a full-size picture, as of a RAW."""
        path = self._thumbnail_path(self.asset(asset), "fullsize", "jpeg")
        self._write_derived(path, self._picture(asset))
        self._name_files(self._file_row(asset, "fullsize", path))
        return path

    def change_thumbnail_format(self, asset: UUID, ending: str = "jpeg") -> Path:
        """Make an asset's thumbnail in another format: a new file, its row follows, the old file goes."""
        (row,) = (
            row for row in self.files_of(asset) if row["type"] == "thumbnail" and not row.get("isEdited")
        )  # fmt: skip
        path = self._thumbnail_path(self.asset(asset), "thumbnail", ending)
        self._write_derived(path, self._picture(asset))
        self._name_files(self._file_row(asset, "thumbnail", path))
        if row["path"] != str(path):
            Path(row["path"]).unlink(missing_ok=True)
        return path

    def move_by_storage_template(self, asset: UUID, name: str) -> Path:
        """Move an upload to ``library/<user>/<name>``, or with ``+1`` if that is taken; its XMP comes along."""
        row = self.asset(asset)
        new = self._free(self.media_root / "library" / str(row["ownerId"]) / name)
        self._move(asset, "original", row["originalPath"], new)
        self.rows.execute(update("asset", {"id": asset, "originalPath": new}))
        self._end_move(asset, "original")
        if sidecar := self._sidecar_path(row):
            target = Path(f"{new}.xmp")
            self._move(asset, "sidecar", sidecar, target)
            if "sidecarPath" in row:
                self.rows.execute(update("asset", {"id": asset, "sidecarPath": target}))
            else:
                self._name_files(self._file_row(asset, "sidecar", target))
            self._end_move(asset, "sidecar")
        return new

    def trash(self, *assets: UUID) -> None:
        """Move assets to the trash."""
        moment = files.now()
        self.rows.execute(update("asset", *({"id": a, "deletedAt": moment, "status": "trashed"} for a in assets)))

    def restore(self, *assets: UUID) -> None:
        """Bring assets back from the trash."""
        self.rows.execute(update("asset", *({"id": a, "deletedAt": None, "status": "active"} for a in assets)))

    def delete_for_good(self, *assets: UUID) -> None:
        """Delete assets for good: the status at once, then a job for each."""
        self.begin_deletion(*assets)
        self.end_deletion(*assets)

    def begin_deletion(self, *assets: UUID) -> None:
        """Do what answers the click: the assets get the status of deleted ones."""
        moment = files.now()
        self.rows.execute(update("asset", *({"id": a, "deletedAt": moment, "status": "deleted"} for a in assets)))

    def end_deletion(self, *assets: UUID) -> None:
        """Do the job of each deleted asset, which ends at once where it is gone by then."""
        for asset in assets:
            self._remove(asset)

    def empty_trash(self) -> None:
        """Delete for good all that the acting user has in the trash."""
        for row in self.rows.run("empty_trash", user=self.user_id):
            self._remove(row["id"])

    def purge(self, *, days: int = _TRASH_DAYS) -> None:
        """Delete for good what was deleted or offline for so many days, as the nightly job does for all users."""
        for row in self.rows.run("long_deleted", before=files.now() - timedelta(days=days)):
            if self.rows.where("asset", id=row["id"]):
                self._remove(row["id"])

    def delete_library(self, library: UUID, *, finish: bool = True) -> None:
        """Remove a library: softly at first, then its assets one by one, whose originals stay, then its row."""
        moment = files.now()
        self.rows.execute(update("library", {"id": library, "deletedAt": moment}))
        self.rows.run("delete_library_assets", library=library, now=moment)
        if finish:
            for row in self.rows.where("asset", libraryId=library):
                if self.rows.where("asset", id=row["id"]):
                    self._remove(row["id"], originals=False)
            self.rows.execute(delete("library", {"id": library}))

    def remove_user(self, user: UUID, *, finish: bool = True) -> None:
        """Remove a user, as an administrator does: softly, and after a delay the files and, by cascade, all rows."""
        self.rows.execute(update("user", {"id": user, "deletedAt": files.now(), "status": "deleted"}))
        if not finish:
            return
        for folder in ("library", "upload", "profile", "thumbs", "encoded-video"):
            shutil.rmtree(self.media_root / folder / str(user), ignore_errors=True)
        column = self.rows.has("album", "ownerId")
        self.rows.run("delete_albums_by_column" if column else "delete_albums_by_membership", user=user)
        self.rows.execute(delete("user", {"id": user}))

    def restore_user(self, user: UUID) -> None:
        """Bring back a user who was removed softly."""
        self.rows.execute(update("user", {"id": user, "deletedAt": None, "status": "active"}))

    def _look_at_known(self, library: UUID, excluded: list[str]) -> None:
        """Compare each asset of a library with its file: gone, back, or changed."""
        offline: list[Values] = []
        online: list[Values] = []
        changed: list[UUID] = []
        moment = files.now()
        for row in self.rows.where("asset", libraryId=library):
            path = Path(row["originalPath"])
            if not path.exists():
                if not row["isOffline"]:
                    offline.append({"id": row["id"], "isOffline": True, "deletedAt": moment})
            elif row["isOffline"]:
                if not _matches(str(path), excluded):
                    trashed = row["status"] == "trashed"
                    online.append(
                        {"id": row["id"], "isOffline": False, "deletedAt": row["deletedAt"] if trashed else None}
                    )
            elif row["fileModifiedAt"] != files.modified_at(path):
                changed.append(row["id"])
        self.rows.execute(update("asset", *offline))
        self.rows.execute(update("asset", *online))
        for asset in changed:
            self._process_again(asset)

    def _process_again(self, asset: UUID) -> None:
        """Run all jobs on a file that changed; its detected faces have new ids."""
        self.refresh_metadata(asset)
        self._make_thumbnails(asset)
        self._set_thumbhash(asset)
        self._recognise_text(asset)
        self._embed(asset)
        old = [face["id"] for face in self.faces_of(asset) if face["sourceType"] == "machine-learning"]
        self.find_faces(asset, without=old)

    def _import(self, library: UUID, roots: Iterable[str], excluded: list[str]) -> list[UUID]:
        known = {row["originalPath"] for row in self.rows.where("asset", libraryId=library)}
        found = {
            str(Path(folder) / name)
            for root in roots
            for folder, _, names in os.walk(root, followlinks=True)
            for name in names
            if not name.endswith(".xmp")
        }
        new = sorted(path for path in found - known if Path(path).exists() and not _matches(path, excluded))
        rows: list[Values] = []
        for path in new:
            modified = files.modified_at(path)
            name = Path(path).name
            rows.append({
                "id": self.new_id(), "ownerId": self.user_id, "libraryId": library, "isExternal": True,
                "type": "VIDEO" if files.is_video(name) else "IMAGE", "originalPath": path, "originalFileName": name,
                "checksum": path_checksum(path), "checksumAlgorithm": "sha1-path", "fileCreatedAt": modified,
                "fileModifiedAt": modified, "localDateTime": modified, "deviceId": _LIBRARY_IMPORT,
                "deviceAssetId": name,
            })  # fmt: skip
        self.rows.execute(insert("asset", *rows))
        return [row["id"] for row in rows]

    def _free(self, path: Path) -> Path:
        new, number = path, 0
        while new.exists():
            number += 1
            new = path.with_stem(f"{path.stem}+{number}")
        return new

    def _move(self, asset: UUID, kind: str, old: str, new: Path) -> None:
        """Note a move and rename the file, before its row says so."""
        row = {"id": self.new_id(), "entityId": asset, "pathType": kind, "oldPath": old, "newPath": new}
        self.rows.execute(insert("move_history", row))
        new.parent.mkdir(parents=True, exist_ok=True)
        Path(old).rename(new)

    def _end_move(self, asset: UUID, kind: str) -> None:
        self.rows.execute(delete("move_history", *self.rows.where("move_history", entityId=asset, pathType=kind)))

    def _remove(self, asset: UUID, *, originals: bool = True) -> None:
        """Delete an asset's row, and then the files that its rows named.

        Its original and XMP go too, of external assets as of uploads, unless it is offline (2.4+) or its library
        is removed. The motion part of a live photo goes with its last still.
        """
        found = self.rows.where("asset", id=asset)
        if not found:
            return  # as Immich's job ends
        (row,) = found
        self._leave_stack(row)
        named = [str(file["path"]) for file in self.files_of(asset) if file["type"] != "sidecar"]
        if row.get("encodedVideoPath"):
            named.append(row["encodedVideoPath"])
        if originals and not (self.release >= (2, 4) and row["isOffline"]):
            named += [path for path in (self._sidecar_path(row), row["originalPath"]) if path]
        self.rows.execute(delete("asset", {"id": asset}))
        motion = row["livePhotoVideoId"]
        if motion and not self.rows.where("asset", livePhotoVideoId=motion):
            self._remove(motion, originals=originals)
        for path in named:
            Path(path).unlink(missing_ok=True)

    def _leave_stack(self, asset: DictRow) -> None:
        """Give a stack another cover before its cover goes, or take it apart where only one is left."""
        for stack in self.rows.where("stack", primaryAssetId=asset["id"]):
            others = [row["id"] for row in self.rows.where("asset", stackId=stack["id"]) if row["id"] != asset["id"]]
            if len(others) > 1:
                self.rows.execute(update("stack", {"id": stack["id"], "primaryAssetId": others[0]}))
            else:
                self.rows.execute(delete("stack", {"id": stack["id"]}))


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def _like(pattern: str) -> str:
    """Return an exclusion pattern such as ``**/raw/**`` as one of LIKE."""
    return _escaped(pattern).replace("**/", "%").replace("*", "%").replace("?", "_")


def _matches(path: str, exclusions: Iterable[str]) -> bool:
    # A star of Immich's reaches over folders here as in LIKE.
    return any(fnmatchcase(path, pattern.replace("**/", "*")) for pattern in exclusions)
