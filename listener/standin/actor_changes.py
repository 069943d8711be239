"""What a user changes about photos: metadata, tags, place in views, stacks, albums, and the picture itself."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from psycopg.rows import DictRow

from listener.standin import actor_files as files
from listener.standin.actor_jobs import Jobs
from listener.standin.actor_metadata import zone_name
from listener.standin.actor_rows import Values, Write, delete, insert, update

# Columns that an XMP holds under their own name; it has the time zone in the date, and tags by another way.
_IN_XMP = frozenset({"description", "dateTimeOriginal", "latitude", "longitude", "rating"})


class Changes(Jobs):
    """The acting user's edits."""

    def describe(self, asset: UUID, text: str) -> None:
        """Write a description."""
        self.edit(asset, description=text)

    def set_date(self, asset: UUID, taken: datetime) -> None:
        """Say when a photo was taken; the time zone counts."""
        self.edit(asset, dateTimeOriginal=taken, timeZone=zone_name(taken))

    def set_place(self, asset: UUID, latitude: float, longitude: float) -> None:
        """Say where a photo was taken."""
        self.edit(asset, latitude=latitude, longitude=longitude)

    def rate(self, asset: UUID, stars: int | None) -> None:
        """Give a photo one to five stars, or take them away."""
        self.edit(asset, rating=stars)

    def edit(self, asset: UUID, **values: Any) -> None:
        """Change columns of asset_exif: the row, the XMP beside the original, then everything is read again.

        From 2.4 on the columns are locked until the XMP is written. It lies at ``<originalPath>.xmp``, through
        whatever links that path runs; where its folder is gone, the job fails and they stay locked.
        """
        if values:
            locked = list(self.exif(asset).get("lockedProperties") or ())
            new = [name for name in values if name not in locked]
            self.rows.execute(update("asset_exif", {"assetId": asset, **values, "lockedProperties": [*locked, *new]}))
        if not self._write_sidecar(asset, values):
            return
        if self.exif(asset).get("lockedProperties"):
            self.rows.execute(update("asset_exif", {"assetId": asset, "lockedProperties": None}))
        self.refresh_metadata(asset)

    def tag(self, value: str, *assets: UUID) -> UUID:
        """Tag photos with a value such as ``trip/sea``, and return the tag's id. Parents are tags too."""
        tag = self._make_tag(self.user_id, value)
        names = self.rows.names
        known = {row[names["tag_asset"]] for row in self.rows.where("tag_asset", **{names["tag_tag"]: tag})}
        self.rows.execute(
            insert(
                "tag_asset",
                *({names["tag_tag"]: tag, names["tag_asset"]: asset} for asset in assets if asset not in known),
            )
        )
        self._tags_changed(*assets)
        return tag

    def untag(self, value: str, *assets: UUID) -> None:
        """Take a tag from photos; LookupError if there is no such tag."""
        tag = self.rows.the("tag", userId=self.user_id, value=value)["id"]
        names = self.rows.names
        self.rows.execute(
            delete("tag_asset", *({names["tag_tag"]: tag, names["tag_asset"]: asset} for asset in assets))
        )
        self._tags_changed(*assets)

    def rename_tag(self, value: str, new: str) -> None:
        """Give a tag another name (3.3+), and with it those below; LookupError if there is no such tag."""
        if self.release < (3, 3):
            raise LookupError("this Immich cannot rename tags: it came with 3.3")
        self.rows.the("tag", userId=self.user_id, value=value)
        tagged = self._tagged(value)
        self.rows.run("rename_tag", user=self.user_id, value=value, new=new)
        self._tags_written(tagged)

    def delete_tag(self, value: str) -> None:
        """Delete a tag, and with it those below; LookupError if there is no such tag."""
        tag = self.rows.the("tag", userId=self.user_id, value=value)["id"]
        tagged = self._tagged(value)
        self.rows.execute(delete("tag", {"id": tag}))
        # Up to 3.2 nothing but the rows of the tag goes.
        if self.release >= (3, 3):
            self._tags_written(tagged)

    def tags_of(self, asset: UUID) -> list[str]:
        """Return the values of an asset's tags, sorted."""
        return [row["value"] for row in self.rows.run("tag_values", asset=asset)]

    def favourite(self, *assets: UUID, favourite: bool = True) -> None:
        """Make photos favourites, or no longer."""
        self.rows.execute(update("asset", *({"id": asset, "isFavorite": favourite} for asset in assets)))

    def archive(self, *assets: UUID) -> None:
        """Move photos to the archive."""
        self._show(assets, "archive")

    def unarchive(self, *assets: UUID) -> None:
        """Move photos from the archive back to the timeline."""
        self._show(assets, "timeline")

    def lock(self, *assets: UUID) -> None:
        """Move photos to the locked folder; they leave their albums."""
        self._show(assets, "locked")
        name = self.rows.names["album_asset"]
        self.rows.execute(
            delete("album_asset", *(row for asset in assets for row in self.rows.where("album_asset", **{name: asset})))
        )

    def unlock(self, *assets: UUID) -> None:
        """Move photos from the locked folder back to the timeline."""
        self._show(assets, "timeline")

    def stack(self, cover: UUID, *others: UUID) -> UUID:
        """Stack photos under a cover and return the stack; stacks that they were in become part of it."""
        members, old = dict.fromkeys((cover, *others)), set()
        for asset in (cover, *others):
            if before := self.asset(asset)["stackId"]:
                old.add(before)
                members |= dict.fromkeys(row["id"] for row in self.rows.where("asset", stackId=before))
        made = self.new_id()
        self.rows.execute(
            delete("stack", *({"id": stack} for stack in old)),
            insert("stack", {"id": made, "ownerId": self.user_id, "primaryAssetId": cover}),
            update("asset", *({"id": member, "stackId": made} for member in members)),
        )
        return made

    def unstack(self, stack: UUID) -> None:
        """Take a stack apart."""
        self.rows.execute(delete("stack", {"id": stack}))

    def set_stack_cover(self, stack: UUID, cover: UUID) -> None:
        """Choose another cover."""
        self.rows.execute(update("stack", {"id": stack, "primaryAssetId": cover}))

    def remove_from_stack(self, asset: UUID) -> None:
        """Take one photo, not the cover, out of its stack."""
        self.rows.execute(update("asset", {"id": asset, "stackId": None}))

    def album_create(self, name: str, *assets: UUID) -> UUID:
        """Make an album of photos. The owner is a column of it up to 2.7, and a member of it from 3.0."""
        album = self.new_id()
        cover = assets[0] if assets else None
        owner: list[Write] = []
        if not self.rows.has("album", "ownerId"):
            owner = [self._membership(album, self.user_id, "owner")]
        self.rows.execute(
            insert("album", {"id": album, "albumName": name, "ownerId": self.user_id, "albumThumbnailAssetId": cover}),
            *owner,
            insert("album_asset", *self._album_rows(album, assets)),
        )
        return album

    def album_add(self, album: UUID, *assets: UUID) -> None:
        """Add photos to an album."""
        known = self.album_assets(album)
        self.rows.execute(insert("album_asset", *self._album_rows(album, [a for a in assets if a not in known])))
        row = self.rows.the("album", id=album)
        self.rows.execute(
            update("album", {"id": album, "albumThumbnailAssetId": row["albumThumbnailAssetId"] or assets[0]})
        )

    def album_remove(self, album: UUID, *assets: UUID) -> None:
        """Take photos out of an album; where its cover is among them, Immich chooses another."""
        self.rows.execute(delete("album_asset", *self._album_rows(album, assets)))
        if self.rows.the("album", id=album)["albumThumbnailAssetId"] in assets:
            self.rows.run("choose_album_cover", album=album)

    def album_share(self, album: UUID, user: UUID, role: str = "editor") -> None:
        """Let another user see an album."""
        self.rows.execute(self._membership(album, user, role))

    def album_delete(self, album: UUID) -> None:
        """Delete an album."""
        self.rows.execute(delete("album", {"id": album}))

    def album_assets(self, album: UUID) -> set[UUID]:
        """Return the assets in an album."""
        names = self.rows.names
        return {row[names["album_asset"]] for row in self.rows.where("album_asset", **{names["album_id"]: album})}

    def crop(self, asset: UUID, *, x: int = 50, y: int = 50, width: int = 300, height: int = 200) -> None:
        """Crop a photo (2.5+), instead of all edits before; what is outside is no longer visible."""
        self._replace_edits(asset, ("crop", {"x": x, "y": y, "width": width, "height": height}))

    def rotate(self, asset: UUID, angle: int = 90) -> None:
        """Turn a photo (2.5+), instead of all edits before."""
        self._replace_edits(asset, ("rotate", {"angle": angle}))

    def mirror(self, asset: UUID, axis: str = "horizontal") -> None:
        """Mirror a photo (2.5+), instead of all edits before."""
        self._replace_edits(asset, ("mirror", {"axis": axis}))

    def undo_edits(self, asset: UUID) -> None:
        """Bring a photo back as it was taken (2.5+): the edited files go, everything is visible."""
        self._replace_edits(asset)

    def _write_sidecar(self, asset: UUID, changed: Iterable[str]) -> bool:
        """Write into an asset's XMP what is locked or was changed, and its tags; False if it cannot be written."""
        row, exif = self.asset(asset), self.exif(asset)
        before = self._sidecar_path(row)
        path = before or f"{row['originalPath']}.xmp"
        said = {name: exif[name] for name in {*changed, *(exif.get("lockedProperties") or ())} & _IN_XMP}
        if said.get("dateTimeOriginal"):
            said["dateTimeOriginal"] = _in_zone(said["dateTimeOriginal"], exif["timeZone"])
        try:
            files.write_xmp(path, {**said, "tags": self.tags_of(asset) or None})
        except OSError:
            return False
        if before is None and "sidecarPath" in row:
            self.rows.execute(update("asset", {"id": asset, "sidecarPath": path}))
        elif before is None:
            self._name_files(self._file_row(asset, "sidecar", path))
        return True

    def _tags_changed(self, *assets: UUID) -> None:
        for asset in assets:
            self.edit(asset, **({"tags": self.tags_of(asset)} if self.rows.has("asset_exif", "tags") else {}))

    def _tagged(self, value: str) -> list[UUID]:
        return [row["asset"] for row in self.rows.run("tagged", user=self.user_id, value=value)]

    def _tags_written(self, assets: Sequence[UUID]) -> None:
        """Do what 3.3 does for all photos of a tag at once: their metadata in one statement, then an XMP for each."""
        locked = {asset: {*(self.exif(asset)["lockedProperties"] or ()), "tags"} for asset in assets}
        self.rows.execute(
            update(
                "asset_exif",
                *(
                    {"assetId": asset, "tags": self.tags_of(asset), "lockedProperties": sorted(names)}
                    for asset, names in locked.items()
                ),
            )
        )
        for asset in assets:
            self.edit(asset)

    def _show(self, assets: tuple[UUID, ...], visibility: str) -> None:
        self.rows.execute(update("asset", *({"id": asset, "visibility": visibility} for asset in assets)))

    def _album_rows(self, album: UUID, assets: Sequence[UUID]) -> list[Values]:
        names = self.rows.names
        return [{names["album_id"]: album, names["album_asset"]: asset} for asset in assets]

    def _membership(self, album: UUID, user: UUID, role: str) -> Write:
        names = self.rows.names
        return insert("album_user", {names["album_id"]: album, names["album_member"]: user, "role": role})

    def _replace_edits(self, asset: UUID, *edits: tuple[str, Mapping[str, Any]]) -> None:
        if not self.rows.has("asset_edit"):
            raise LookupError("this Immich has no edits of pictures: they came with 2.5")
        old = self.rows.where("asset_edit", assetId=asset)
        rows: list[Values] = [
            {"id": self.new_id(), "assetId": asset, "action": action, "parameters": dict(parameters), "sequence": n}
            for n, (action, parameters) in enumerate(edits)
        ]
        self.rows.execute(delete("asset_edit", *({"id": row["id"]} for row in old)), insert("asset_edit", *rows))
        crop = next((parameters for action, parameters in edits if action == "crop"), None)
        self._show_inside(asset, crop)
        if edits:
            self._make_edited(asset)
        else:
            edited = [row for row in self.files_of(asset) if row["isEdited"]]
            self.rows.execute(delete("asset_file", *({"id": row["id"]} for row in edited)))
            for row in edited:
                Path(row["path"]).unlink(missing_ok=True)
        self._set_thumbhash(asset, *(f"{action} {dict(parameters)}" for action, parameters in edits))
        self.rows.execute(update("asset", {"id": asset, **self._size(asset, edits)}))

    def _show_inside(self, asset: UUID, crop: Mapping[str, Any] | None) -> None:
        """Make visible what is inside a crop, and the rest not; two statements of one transaction each."""
        faces = {
            row["id"]: _inside(_face_centre(row), crop)
            for row in self.faces_of(asset)
            if crop is not None or not row["isVisible"]
        }
        picture = self._picture(asset)
        texts = {
            row["id"]: _inside(
                ((row["x1"] + row["x3"]) / 2 * picture.width, (row["y1"] + row["y3"]) / 2 * picture.height), crop
            )
            for row in self.rows.where("asset_ocr", assetId=asset)
            if crop is not None or not row["isVisible"]
        }
        for table, visible in (("asset_face", faces), ("asset_ocr", texts)):
            self.rows.execute(
                *(
                    update(
                        table, *({"id": id_, "isVisible": wanted} for id_, seen in visible.items() if seen == wanted)
                    )
                    for wanted in (True, False)
                )
            )

    def _make_edited(self, asset: UUID) -> None:
        row, picture = self.asset(asset), self._picture(asset)
        known = {file["type"] for file in self.files_of(asset) if file["isEdited"]}
        missing: list[Values] = []
        for kind, ending in (("preview", "jpeg"), ("thumbnail", "webp"), ("fullsize", "jpeg")):
            path = self._thumbnail_path(row, kind, ending, edited=True)
            self._write_derived(path, picture)
            if kind not in known:
                missing.append(self._file_row(asset, kind, path, edited=True))
        self._name_files(*missing)

    def _size(self, asset: UUID, edits: tuple[tuple[str, Mapping[str, Any]], ...]) -> dict[str, int]:
        picture = self._picture(asset)
        width, height = picture.width, picture.height
        for action, parameters in edits:
            if action == "crop":
                width, height = parameters["width"], parameters["height"]
            elif action == "rotate" and parameters["angle"] % 180:
                width, height = height, width
        return {"width": width, "height": height}


def _in_zone(moment: datetime, zone: str | None) -> datetime:
    hours = (zone or "UTC").removeprefix("UTC") or "0"
    known = ZoneInfo(hours) if "/" in hours else timezone(timedelta(hours=int(hours)))
    return moment.astimezone(known)


def _face_centre(face: DictRow) -> tuple[float, float]:
    return (face["boundingBoxX1"] + face["boundingBoxX2"]) / 2, (face["boundingBoxY1"] + face["boundingBoxY2"]) / 2


def _inside(point: tuple[float, float], crop: Mapping[str, Any] | None) -> bool:
    if crop is None:
        return True
    x, y = point
    inside_x: bool = crop["x"] <= x <= crop["x"] + crop["width"]
    inside_y: bool = crop["y"] <= y <= crop["y"] + crop["height"]
    return inside_x and inside_y
