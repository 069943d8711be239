"""What Immich's server does with an asset by itself: its background jobs, each with its files and statements.

An asset goes through metadata, thumbnails, and then search, faces and text in any order. `Jobs.work_on` runs what
an asset still lacks, so that it also stands for the retries at night.
"""

import random
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self
from uuid import UUID

from psycopg.rows import DictRow

from listener.standin import actor_files as files
from listener.standin.actor_files import Picture
from listener.standin.actor_metadata import Said
from listener.standin.actor_rows import Rows, Values, delete, insert, update, upsert

Stage = Literal["row", "metadata", "files", "thumbnails", "clip", "faces", "text"]
"""Where work on an asset can stop; ``row``: only inserted, ``files``: thumbnails named but no thumbhash yet."""

Learning = Literal["clip", "faces", "text"]
"""The machine learning that a server may have switched on."""

ALL_LEARNING: frozenset[Learning] = frozenset({"clip", "faces", "text"})

_MARKS: Mapping[Stage, str] = {
    "metadata": "metadataExtractedAt",
    "clip": "duplicatesDetectedAt",
    "faces": "facesRecognizedAt",
    "text": "ocrAt",
}


class Jobs:
    """The state of one acting server, and its jobs. ``user_id`` is the user who acts."""

    def __init__(
        self, conninfo: str, release: str, user_id: UUID, media_root: Path, external_root: Path, *, seed: int = 0
    ) -> None:
        self.rows = Rows(conninfo)
        self.user_id = user_id
        self.media_root = media_root
        self.external_root = external_root
        self.release = tuple(int(part) for part in release.split("."))
        self._random = random.Random(f"{seed} {user_id}")  # noqa: S311 - tests repeat it by its seed

    def __enter__(self) -> Self:
        """Return the actor itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connections."""
        self.close()

    def close(self) -> None:
        """Close the connections to the database."""
        self.rows.close()

    def asset(self, asset: UUID) -> DictRow:
        """Return an asset's row, of any user; LookupError if it is gone."""
        return self.rows.the("asset", id=asset)

    def exif(self, asset: UUID) -> DictRow:
        """Return an asset's row of asset_exif; LookupError if there is none."""
        return self.rows.the("asset_exif", assetId=asset)

    def files_of(self, asset: UUID) -> list[DictRow]:
        """Return an asset's rows of asset_file."""
        return self.rows.where("asset_file", assetId=asset)

    def faces_of(self, asset: UUID) -> list[DictRow]:
        """Return an asset's rows of asset_face, each with its ``person`` under this name in every release."""
        return self.rows.run("faces", asset=asset)

    def work_on(
        self,
        asset: UUID,
        *,
        until: Stage | None = None,
        learning: Collection[Learning] = ALL_LEARNING,
    ) -> None:
        """Run the jobs that an asset still lacks, up to and with ``until``, in a random order where Immich has none.

        The motion part of a live photo gets metadata only. An asset whose original is gone stays as it is.
        """
        stages: list[Stage] = ["clip", "faces", "text"]
        if until is None:
            self._random.shuffle(stages)
        stages = ["row", "metadata", "files", "thumbnails", *stages]
        if self.asset(asset)["visibility"] == "hidden":
            stages = ["row", "metadata"]
        if until in stages:
            stages = stages[: stages.index(until) + 1]
        wanted = [stage for stage in stages[1:] if stage in {"metadata", "files", "thumbnails", *learning}]
        for stage in wanted:
            if not self._is_done(asset, stage):
                self._job(stage)(asset)

    def refresh_metadata(self, asset: UUID) -> bool:
        """Read an asset's file and its XMP again; False if the original is gone, which Immich only logs.

        What `lockedProperties` names is left alone (2.4+); all else becomes what the files say: edits that stand
        in no file of the asset are lost.
        """
        row = self.asset(asset)
        try:
            content = Path(row["originalPath"]).read_bytes()
            said = self._said(row)
        except OSError:
            return False
        exif = {"assetId": asset, "fileSizeInByte": len(content), **said.exif}
        locked = self._locked(asset)
        streams = self._streams(asset, said.picture) if said.picture.video else []
        writes: list[Callable[[], None]] = [
            lambda: self.rows.execute(
                upsert("asset_exif", {c: v for c, v in exif.items() if c not in locked}), *streams, as_one=True
            ),
            lambda: self.rows.execute(update("asset", {"id": asset, **said.asset})),
        ]
        # Two connections at the same time: either may be first.
        self._random.shuffle(writes)
        for write in writes:
            write()
        kept = "tags" in locked and self.rows.has("asset_exif", "tags")
        self._apply_tags(row, self.exif(asset)["tags"] if kept else said.exif["tags"])
        if said.picture.motion:
            self._take_out_motion(row, said.picture.motion)
        self.mark(asset, "metadataExtractedAt")
        return True

    def _take_out_motion(self, still: DictRow, motion: str) -> None:
        """Make an asset of the video inside a photo: see `listener.standin.actor_libraries`."""

    def refresh_thumbnails(self, asset: UUID, *, new_inode: bool = False) -> None:
        """Make an asset's unedited thumbnails again, in place and without a word in the rows.

        ``new_inode``: as exiftool writes the previews of some kinds of pictures.
        """
        picture = self._picture(asset)
        for row in self.files_of(asset):
            if row["type"] in {"preview", "thumbnail", "fullsize"} and not row.get("isEdited"):
                path = Path(row["path"])
                if new_inode:
                    path.unlink(missing_ok=True)
                self._write_derived(path, picture)

    def find_duplicates(self, *assets: UUID) -> UUID:
        """Find that assets are duplicates of each other, and return the group's id."""
        group = self.new_id()
        self.rows.execute(update("asset", *({"id": asset, "duplicateId": group} for asset in assets)))
        moment = files.now()
        marks = ({"assetId": asset, "duplicatesDetectedAt": moment} for asset in assets)
        self.rows.execute(upsert("asset_job_status", *marks))
        return group

    def refresh_text(self, asset: UUID) -> None:
        """Recognise the text of an asset again."""
        self._recognise_text(asset)

    def mark(self, asset: UUID, *columns: str) -> None:
        """Write Immich's marks of jobs that are done; those that this release has not are left out."""
        marks = {column: files.now() for column in columns if self.rows.has("asset_job_status", column)}
        if marks:
            self.rows.execute(upsert("asset_job_status", {"assetId": asset, **marks}))

    def new_id(self) -> UUID:
        """Return a new id, the next of this actor's seed."""
        return UUID(int=self._random.getrandbits(128), version=4)

    def generated(self, folder: str, owner: UUID, name: UUID | str, ending: str) -> Path:
        """Return where Immich keeps a file that it made for an asset or person."""
        text = str(name)
        return self.media_root / folder / str(owner) / text[:2] / text[2:4] / f"{text}{ending}"

    def _thumbnail_path(self, asset: DictRow, kind: str, ending: str, *, edited: bool = False) -> Path:
        # 2.5 changed the names.
        sign = "_" if self.release >= (2, 5) else "-"
        return self.generated("thumbs", asset["ownerId"], asset["id"], f"{sign}{kind}{'_edited' * edited}.{ending}")

    def _is_done(self, asset: UUID, stage: Stage) -> bool:
        if stage == "files":
            return {"preview", "thumbnail"} <= {row["type"] for row in self.files_of(asset)}
        if stage == "thumbnails":
            return self.asset(asset)["thumbhash"] is not None
        if stage == "clip" and not self.rows.where("smart_search", assetId=asset):
            return False
        return any(
            row.get(_MARKS[stage], "no such column") is not None
            for row in self.rows.where("asset_job_status", assetId=asset)
        )

    def _job(self, stage: Stage) -> Callable[[UUID], object]:
        jobs: dict[Stage, Callable[[UUID], object]] = {
            "metadata": self.refresh_metadata,
            "files": self._make_thumbnails,
            "thumbnails": self._set_thumbhash,
            "clip": self._embed,
            "faces": self.find_faces,
            "text": self._recognise_text,
        }
        return jobs[stage]

    def _picture(self, asset: UUID) -> Picture:
        """Return what is to be seen in an asset: in its original, or its preview once that is gone."""
        try:
            return files.look_at(self.asset(asset)["originalPath"])
        except OSError:
            for row in self.files_of(asset):
                if row["type"] == "preview" and Path(row["path"]).exists():
                    return files.look_at(row["path"])
        return Picture()

    def _said(self, asset: DictRow) -> Said:
        return Said(files.look_at(asset["originalPath"]), asset, self._read_sidecar(asset), self.rows)

    def _read_sidecar(self, asset: DictRow) -> dict[str, Any]:
        path = self._sidecar_path(asset)
        return files.read_xmp(path) if path else {}

    def _sidecar_path(self, asset: DictRow) -> str | None:
        """Return the path of the XMP that an asset's rows name: asset.sidecarPath up to 2.3, then asset_file."""
        if "sidecarPath" in asset:
            return str(asset["sidecarPath"]) if asset["sidecarPath"] else None
        named = [str(row["path"]) for row in self.files_of(asset["id"]) if row["type"] == "sidecar"]
        return named[0] if named else None

    def _locked(self, asset: UUID) -> frozenset[str]:
        found = self.rows.where("asset_exif", assetId=asset)
        return frozenset((found[0].get("lockedProperties") or ()) if found else ())

    def _streams(self, asset: UUID, picture: Picture) -> list[Any]:
        """Return the writes of what a video's streams are (3.0+)."""
        frames = 10 + len(picture.mark)
        return [
            upsert("asset_video", {
                "assetId": asset, "index": 0, "level": 12, "profile": 100, "bitrate": 183144, "timeBase": 10240,
                "frameCount": frames, "colorMatrix": 2, "colorTransfer": 2, "colorPrimaries": 2, "codecName": "h264",
                "formatName": "mov,mp4", "formatLongName": "QuickTime / MOV", "pixelFormat": "yuv420p",
            }),
            upsert("asset_audio", {"assetId": asset, "index": 1, "bitrate": 70866, "profile": 2, "codecName": "aac"}),
            upsert("asset_keyframe", {
                "assetId": asset, "pts": [0], "accDuration": [1024], "ownDuration": [1024], "packetCount": frames,
                "outputFrames": frames, "totalDuration": 1024 * frames,
            }),
        ]  # fmt: skip

    def _apply_tags(self, asset: DictRow, values: Sequence[str] | None) -> None:
        """Make an asset's tags those that its metadata names, as every reading of metadata does."""
        tags = [self._make_tag(asset["ownerId"], value) for value in values or ()]
        name, tag_name = self.rows.names["tag_asset"], self.rows.names["tag_tag"]
        old = self.rows.where("tag_asset", **{name: asset["id"]})
        # Removed and added again in one transaction, also where nothing changes.
        self.rows.execute(
            delete("tag_asset", *old),
            insert("tag_asset", *({tag_name: tag, name: asset["id"]} for tag in dict.fromkeys(tags))),
        )

    def _make_tag(self, owner: UUID, value: str) -> UUID:
        """Make sure of a user's tag and of its parents, and return its id."""
        parent: UUID | None = None
        parts = value.split("/")
        for end in range(1, len(parts) + 1):
            (row,) = self.rows.run(
                "upsert_tag", id=self.new_id(), user=owner, value="/".join(parts[:end]), parent=parent
            )
            parent = row["id"]
        if parent is None:
            raise ValueError("a tag needs a name")
        return parent

    def _write_derived(self, path: Path, picture: Picture) -> None:
        # Each time other bytes, as another encoder's would be.
        files.write(path, picture.content(str(path), f"{self._random.getrandbits(64):x}"))

    def _make_thumbnails(self, asset: UUID) -> None:
        row, picture = self.asset(asset), self._picture(asset)
        kinds = {"preview": "jpeg", "thumbnail": "webp"}
        named = {file["type"]: file["path"] for file in self.files_of(asset) if not file.get("isEdited")}
        missing: list[Values] = []
        for kind, ending in kinds.items():
            path = Path(named.get(kind) or self._thumbnail_path(row, kind, ending))
            self._write_derived(path, picture)
            if kind not in named:
                missing.append(self._file_row(asset, kind, path))
        self._name_files(*missing)

    def _file_row(self, asset: UUID, kind: str, path: str | Path, *, edited: bool = False) -> Values:
        return {"id": self.new_id(), "assetId": asset, "type": kind, "path": path, "isEdited": edited}

    def _name_files(self, *rows: Values) -> None:
        self.rows.execute(upsert("asset_file", *rows, conflict=("assetId", "type", "isEdited")))

    def _set_thumbhash(self, asset: UUID, *edits: str) -> None:
        new = bytes.fromhex(self._picture(asset).changed({"mark": " ".join(edits)} if edits else {}).digest)[:21]
        if self.asset(asset)["thumbhash"] != new:
            self.rows.execute(update("asset", {"id": asset, "thumbhash": new}))
        # Up to 2.5.1 the thumbnails have marks too.
        self.mark(asset, "previewAt", "thumbnailAt")

    def _embed(self, asset: UUID) -> None:
        self.rows.execute(
            upsert(
                "smart_search", {"assetId": asset, "embedding": self._embedding("smart_search", self._picture(asset))}
            )
        )
        self.mark(asset, "duplicatesDetectedAt")

    def _embedding(self, table: str, picture: Picture, *of: object) -> str:
        dimension = int(self.rows.type(table, "embedding").removeprefix("vector(").removesuffix(")"))
        source = random.Random(f"{picture.digest} {of}")  # noqa: S311 - the same for the same picture
        return str([round(source.gauss(0, 0.05), 5) for _ in range(dimension)])

    def find_faces(self, asset: UUID, *, without: Iterable[UUID] = (), moved: int = 0) -> list[UUID]:
        """Detect an asset's faces and return the ids of new ones; ``without`` are deleted in the same statement.

        A face that is where one is already, as one drawn by hand may be, makes no second one: if that one has no
        embedding it gets it. ``moved`` shifts the boxes.
        """
        gone = set(without)
        there = [face for face in self.faces_of(asset) if face["id"] not in gone]
        bare = {row["id"] for row in self.rows.run("faces_without_embedding", asset=asset)}
        picture = self._picture(asset)
        new: list[Values] = []
        searches: list[Values] = []
        for number in range(picture.faces):
            box = _box(number, moved)
            same = [face for face in there if _overlap(face, box)]
            face = same[0]["id"] if same else self.new_id()
            if not same:
                size = {"imageWidth": picture.width, "imageHeight": picture.height}
                new.append({"id": face, "assetId": asset, "sourceType": "machine-learning", **size, **box})
            if not same or face in bare:
                searches.append({"faceId": face, "embedding": self._embedding("face_search", picture, number)})
        self.rows.execute(
            delete("asset_face", *({"id": face} for face in gone)),
            insert("asset_face", *new),
            insert("face_search", *searches),
            as_one=True,
        )
        self.mark(asset, "facesRecognizedAt")
        return [UUID(str(row["id"])) for row in new]

    def _recognise_text(self, asset: UUID) -> None:
        if not self.rows.has("asset_ocr"):
            return
        text = self._picture(asset).text
        known = bool(self.rows.where("ocr_search", assetId=asset))
        corners = {"x1": 0.1, "y1": 0.8, "x2": 0.4, "y2": 0.8, "x3": 0.4, "y3": 0.9, "x4": 0.1, "y4": 0.9}
        found = {"id": self.new_id(), "assetId": asset, "text": text, "boxScore": 0.95, "textScore": 0.97, **corners}
        self.rows.execute(
            delete("asset_ocr", *({"id": row["id"]} for row in self.rows.where("asset_ocr", assetId=asset))),
            insert("asset_ocr", *([found] if text else [])),
            upsert("ocr_search", *([{"assetId": asset, "text": text or ""}] if text or known else [])),
            as_one=True,
        )
        self.mark(asset, "ocrAt")


def _box(number: int, moved: int) -> dict[str, int]:
    left, top = 20 + 90 * (number % 6) + moved, 30 + 90 * (number // 6) + moved
    return {"boundingBoxX1": left, "boundingBoxY1": top, "boundingBoxX2": left + 60, "boundingBoxY2": top + 70}


def _overlap(face: DictRow, box: Mapping[str, int]) -> bool:
    """Tell whether two boxes are the same face: more than half of both together."""
    width = min(face["boundingBoxX2"], box["boundingBoxX2"]) - max(face["boundingBoxX1"], box["boundingBoxX1"])
    height = min(face["boundingBoxY2"], box["boundingBoxY2"]) - max(face["boundingBoxY1"], box["boundingBoxY1"])
    shared = max(width, 0) * max(height, 0)
    areas = ((b["boundingBoxX2"] - b["boundingBoxX1"]) * (b["boundingBoxY2"] - b["boundingBoxY1"]) for b in (face, box))
    return bool(shared * 2 > sum(areas) - shared)
