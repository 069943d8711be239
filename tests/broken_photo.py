"""Every way in which a copy can be wrong: what breaks the share that was made by hand, and the rule that tells."""

# ruff: noqa: S608 - tables and columns are named in this file

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from uuid import UUID, uuid4

from tests.copied_photo import Share
from tests.judging import Break, Do, both, run
from tests.source_photo import write

ODD_ID = "01234567-89ab-7cde-8f01-23456789ab{:02}"


def path_of(share: Share, kind: str, *, copy: bool = True, edited: bool = False) -> str:
    """Return a generated file of the photo or of its copy."""
    flag = ' AND "isEdited" = %(edited)s' if share.has("asset_file", "isEdited") else ""
    owner = share.ids["copy" if copy else "photo"]
    ((path,),) = share.run(
        f'SELECT path FROM asset_file WHERE "assetId" = %(id)s AND type = %(kind)s{flag}',
        id=owner, kind=kind, edited=edited,
    )  # fmt: skip
    return str(path)


def original(share: Share, name: str = "plain.jpg") -> Path:
    return Path(share.external.target_path_prefix, "2024", name)


def remove_file(kind: str) -> Do:
    return lambda share: Path(path_of(share, kind)).unlink()


def replace_file(kind: str, edited: bool, how: Callable[[str, str], object]) -> Do:
    def do(share: Share) -> None:
        source, copy = (path_of(share, kind, copy=copy, edited=edited) for copy in (False, True))
        Path(copy).unlink()
        how(source, copy)

    return do


def move_original(share: Share) -> None:
    """Let a copy have its original under another name than its source."""
    link, moved = original(share), original(share, "other.jpg")
    link.rename(moved)
    share.run(
        'UPDATE asset SET "originalPath" = %(path)s, checksum = %(sum)s WHERE id = %(id)s',
        path=str(moved),
        sum=hashlib.sha1(f"path:{moved}".encode(), usedforsecurity=False).digest(),
        id=share.ids["plain_copy"],
    )


def move_preview(share: Share) -> None:
    path = path_of(share, "preview")
    Path(path).rename(path + ".jpg")
    share.run("UPDATE asset_file SET path = path || '.jpg' WHERE path = %(path)s", path=path)


def move_encoded_video(share: Share) -> None:
    copy = share.ids["copy"]
    ((path,),) = share.run('SELECT "encodedVideoPath" FROM asset WHERE id = %(id)s', id=copy)
    Path(path).unlink()
    share.run(
        'UPDATE asset SET "encodedVideoPath" = source."encodedVideoPath" FROM asset AS source'
        " WHERE asset.id = %(copy)s AND source.id = %(photo)s",
        **share.ids,
    )


def leave_file(share: Share, folder: str, id_: UUID, ending: str) -> None:
    write(share.generated(folder, share.target_user, id_, ending), "left")


def derived(share: Share, source: UUID) -> UUID:
    """Return the id that the listener gives to the copy of a source."""
    text = hashlib.sha256(f"{source}/{share.target_user}".encode()).hexdigest()[:32]
    return UUID(f"{text[:12]}4{text[13:16]}{'89ab'[int(text[16], 16) % 4]}{text[17:]}")


def leave_file_of_deleted(share: Share) -> None:
    """Leave a file of the copy of a source that its user deleted for good."""
    source = share.waiting
    share.run("DELETE FROM asset WHERE id = %(waiting)s", **share.ids)
    leave_file(share, "thumbs", derived(share, source), "_preview.jpeg")


def add_fullsize(share: Share) -> None:
    copy = share.ids["plain_copy"]
    path = share.generated("thumbs", share.target_user, copy, "_fullsize.jpeg")
    write(path, "full size")
    share.insert("asset_file", assetId=copy, type="fullsize", path=path, isEdited=False)


def add_row(doubled: bool) -> Do:
    def do(share: Share) -> None:
        path = original(share, "plain.jpg" if doubled else "nobody.jpg")
        share.clone(
            "asset", "id", share.ids["plain_copy"], id=uuid4(), originalPath=str(path), checksum="\\x00"
        )  # fmt: skip

    return do


def share_unsafe_path(share: Share) -> None:
    path = f"{share.external.source_path_prefix}/../photos/evil.jpg"
    share.copy(share.add_asset("evil.jpg", originalPath=path), share.external, uuid4())


def share_copy_of_copy(share: Share) -> None:
    """Let the source of a copy be a copy that the target user once shared the other way."""
    share.insert(
        "_face_sync_asset_map",
        source_asset_id=uuid4(), target_asset_id=share.upload, source_user_id=share.target_user,
        target_user_id=share.source_user,
    )  # fmt: skip


def add_intent(share: Share) -> None:
    share.insert(
        "_face_sync_asset_map",
        source_asset_id=share.waiting, target_asset_id=uuid4(), source_user_id=share.source_user,
        target_user_id=share.target_user,
    )  # fmt: skip


def fail_source(share: Share, *, reason: str = "no space left") -> UUID:
    source = share.add_asset("bad.jpg")
    share.insert("_face_sync_failure", job="photos", source_asset_id=source, reason=reason)
    return source


def fail_copy(share: Share) -> None:
    """Let a copy that is there be one that could not be written anew."""
    share.insert("_face_sync_failure", job="photos", source_asset_id=share.plain, reason="the database refused it")


def add_stack(share: Share) -> None:
    stack = uuid4()
    share.insert("stack", id=stack, primaryAssetId=share.plain, ownerId=share.source_user)
    share.run(
        'UPDATE asset SET "stackId" = %(stack)s WHERE id IN (%(plain)s, %(plain_copy)s)', stack=stack, **share.ids
    )


def relink(how: Callable[[Path], object]) -> Do:
    def do(share: Share) -> None:
        original(share).unlink()
        how(original(share))

    return do


def lead_links_into_media(share: Share) -> None:
    folder = original(share).parent
    moved = shutil.move(folder, share.roots.media / "links")
    folder.symlink_to(moved)


def of_copy(table: str, change: str) -> Do:
    return run(f'UPDATE {table} SET {change} WHERE "assetId" = %(copy)s')


def of_asset(change: str, copy: str = "plain_copy") -> Do:
    return run(f"UPDATE asset SET {change} WHERE id = %({copy})s")


def missing_and_extra(table: str, *also: str) -> list[Break]:
    """Return the breaks of a table that has rows for the photo: none for the copy, none for the source."""
    return [
        Break(f"{table}.missing", run(f'DELETE FROM {table} WHERE "assetId" = %(copy)s'), frozenset(also), (table,)),
        Break(f"{table}.extra", run(f'DELETE FROM {table} WHERE "assetId" = %(photo)s'), needs=(table,)),
    ]


def job_mark(work: str, column: str) -> Break:
    also = frozenset({"asset_job_status.column"})
    return Break(f"ml.{work}", of_copy("asset_job_status", f'"{column}" = NULL'), also, ("asset_job_status", column))


MARKS = ("ml.metadata", "ml.faces", "ml.ocr", "ml.duplicates")
BREAKS = [
    # Which sources
    Break("source.uncopied", lambda share: share.add_asset("new.jpg")),
    Break("failed", fail_source),
    Break("failed", fail_copy, where="again"),
    Break("source.missing", run("DELETE FROM asset WHERE id = %(plain)s")),
    Break("source.owner", of_asset('"ownerId" = %(target_user)s', "plain")),
    Break("source.prefix", of_asset("\"originalPath\" = '/elsewhere/plain.jpg'", "plain")),
    Break("source.prefix", of_asset('"isExternal" = false', "plain"), where="of an upload"),
    Break("source.prefix", of_asset('"libraryId" = %(source_library)s', "upload"), where="of a library"),
    Break("source.prefix", share_unsafe_path, where="that leads up"),
    Break("source.copy", share_copy_of_copy),
    Break("source.trashed", of_asset("\"deletedAt\" = now(), status = 'trashed'", "plain")),
    Break("source.deleted", of_asset("status = 'deleted'", "plain")),
    Break("source.offline", of_asset('"isOffline" = true, "deletedAt" = now()', "plain")),
    Break("source.locked", of_asset("visibility = 'locked'", "plain")),
    Break("source.hidden", of_asset("visibility = 'hidden'", "plain")),
    Break("source.library", run('UPDATE library SET "deletedAt" = now() WHERE id = %(source_library)s')),
    # Nothing lost, nothing double
    Break("map.orphan", add_intent),
    Break("asset.orphan", add_row(doubled=False)),
    Break("copy.duplicate", add_row(doubled=True)),
    # The asset's row
    Break("asset.column", of_asset('"localDateTime" = now()')),
    Break("asset.ownerId", of_asset('"ownerId" = %(source_user)s'), frozenset({"file.orphan", "original.orphan"})),
    Break("asset.libraryId", of_asset('"libraryId" = %(source_library)s')),
    Break("asset.originalPath", move_original),
    Break("asset.checksum", of_asset("checksum = '\\x00'")),
    Break("asset.checksumAlgorithm", of_asset("\"checksumAlgorithm\" = 'sha1'"), needs=("asset", "checksumAlgorithm")),
    Break("asset.isExternal", of_asset('"isExternal" = false')),
    Break("asset.isOffline", of_asset('"isOffline" = true, "deletedAt" = now()')),
    Break("asset.deviceId", of_asset("\"deviceId\" = 'phone'"), needs=("asset", "deviceId")),
    Break("asset.deviceAssetId", of_asset("\"deviceAssetId\" = 'x'"), needs=("asset", "deviceAssetId")),
    Break("asset.livePhotoVideoId", of_asset('"livePhotoVideoId" = NULL', "copy")),
    Break("asset.stackId", add_stack),
    Break(
        "asset.duplicateId",
        run(
            'UPDATE asset SET "duplicateId" = source."duplicateId" FROM asset AS source'
            " WHERE asset.id = %(copy)s AND source.id = %(photo)s"
        ),
    ),
    Break("asset.visibility", of_asset("visibility = 'timeline'", "motion_copy")),
    Break("asset.visibility", of_asset("visibility = 'hidden'"), where="of a still"),
    Break("asset.isEdited", of_asset('"isEdited" = true'), needs=("asset", "isEdited")),
    Break("asset.fileModifiedAt", of_asset('"fileModifiedAt" = "fileModifiedAt" + interval \'1 ms\'')),
    Break(
        "asset.fileModifiedAt",
        of_asset('"fileModifiedAt" = "fileModifiedAt" + interval \'100 us\''),
        where="not in milliseconds",
    ),
    Break("asset.sidecarPath", of_asset("\"sidecarPath\" = '/photo.xmp'"), needs=("asset", "sidecarPath")),
    Break("asset.encodedVideoPath", move_encoded_video, needs=("asset", "encodedVideoPath")),
    # Its children
    *missing_and_extra("asset_exif"),
    Break("asset_exif.column", of_copy("asset_exif", "make = 'other'")),
    Break(
        "asset_exif.column",
        run("UPDATE asset_exif SET description = 'other' WHERE \"assetId\" = %(plain_copy)s"),
        where="not locked",
        on=("2.0.0", "3.0.3"),
    ),
    Break(
        "asset_exif.column",
        run("UPDATE asset_exif SET description = 'new' WHERE \"assetId\" = %(photo)s"),
        where="of the source, locked",
    ),
    Break("asset_exif.livePhotoCID", of_copy("asset_exif", "\"livePhotoCID\" = 'cid'")),
    Break(
        "asset_exif.lockedProperties",
        of_copy("asset_exif", "\"lockedProperties\" = '{orientation,rating}'"),
        needs=("asset_exif", "lockedProperties"),
        where="with an XMP",
    ),
    Break(
        "asset_exif.lockedProperties",
        run('UPDATE asset_exif SET "lockedProperties" = \'{rating}\' WHERE "assetId" = %(plain_copy)s'),
        needs=("asset_exif", "lockedProperties"),
        where="without an XMP",
    ),
    *missing_and_extra("asset_job_status", *MARKS),
    Break("asset_job_status.column", of_copy("asset_job_status", '"facesRecognizedAt" = now()')),
    *missing_and_extra("smart_search", "ml.clip"),
    Break("smart_search.column", of_copy("smart_search", "embedding = (embedding::text::vector) * embedding")),
    *missing_and_extra("ocr_search"),
    Break("ocr_search.column", of_copy("ocr_search", "text = 'other'"), needs=("ocr_search",)),
    *missing_and_extra("asset_video"),
    Break("asset_video.column", of_copy("asset_video", "bitrate = 9"), needs=("asset_video",)),
    *missing_and_extra("asset_audio"),
    Break("asset_audio.column", of_copy("asset_audio", "bitrate = 9"), needs=("asset_audio",)),
    *missing_and_extra("asset_keyframe"),
    Break("asset_keyframe.column", of_copy("asset_keyframe", "pts = '{7}'"), needs=("asset_keyframe",)),
    *missing_and_extra("asset_ocr"),
    Break("asset_ocr.column", of_copy("asset_ocr", '"textScore" = 0.1'), needs=("asset_ocr",)),
    Break(
        "asset_edit.missing",
        both(run('DELETE FROM asset_edit WHERE "assetId" = %(copy)s'), run("UPDATE _face_sync_base SET edits = '[]'")),
        needs=("asset_edit",),
    ),
    Break("asset_edit.extra", run('DELETE FROM asset_edit WHERE "assetId" = %(photo)s'), needs=("asset_edit",)),
    Break(
        "asset_edit.column",
        run("UPDATE asset_edit SET parameters = '{}' WHERE \"assetId\" = %(photo)s"),
        needs=("asset_edit",),
    ),
    *(
        Break(
            f"{table}.id",
            run(
                f"UPDATE {table} SET id = '{ODD_ID.format(0)}'"
                f' WHERE id = (SELECT id FROM {table} WHERE "assetId" = %(copy)s LIMIT 1)'
            ),
            needs=(table,),
        )
        for table in ("asset_file", "asset_ocr", "asset_edit")
    ),
    # Its files
    Break(
        "asset_file.missing",
        both(remove_file("fullsize"), run("DELETE FROM asset_file WHERE \"assetId\" = %(copy)s AND type = 'fullsize'")),
    ),
    Break("asset_file.extra", add_fullsize),
    Break("asset_file.column", of_copy("asset_file", '"isProgressive" = false'), needs=("asset_file", "isProgressive")),
    Break(
        "asset_file.sidecar",
        lambda share: share.insert("asset_file", assetId=share.ids["copy"], type="sidecar", path="/photo.xmp"),
    ),
    Break("asset_file.path", move_preview),
    Break("file.missing", remove_file("preview")),
    Break("file.content", replace_file("preview", False, lambda _, copy: write(copy, "x"))),
    Break("file.inode", replace_file("preview", False, shutil.copyfile), where="of a file to share"),
    Break(
        "file.inode",
        replace_file("preview", True, os.link),
        needs=("asset_file", "isEdited"),
        where="of an edited file",
    ),
    Break("file.orphan", lambda s: leave_file(s, "thumbs", s.copies[s.plain], "_fullsize.jpeg"), where="of a copy"),
    Break("file.orphan", lambda s: leave_file(s, "thumbs", s.mirror_id, ".webp"), where="of a person"),
    Break("file.orphan", lambda s: leave_file(s, "encoded-video", derived(s, s.waiting), ".mp4"), where="of no copy"),
    Break("file.orphan", leave_file_of_deleted, where="of a source that is gone"),
    # Its original
    Break("original.link", relink(lambda _: None), where="missing"),
    Break("original.link", relink(lambda path: path.symlink_to("/elsewhere")), where="elsewhere"),
    Break("original.link", relink(lambda path: write(path, "original of plain.jpg")), where="a file"),
    Break("original.media", lead_links_into_media),
    Break("original.orphan", lambda share: original(share, "stray.jpg").symlink_to("/elsewhere")),
    # What Immich would do again
    Break("ml.thumbnails", of_asset("thumbhash = NULL"), frozenset({"asset.column"})),
    job_mark("metadata", "metadataExtractedAt"),
    job_mark("faces", "facesRecognizedAt"),
    job_mark("ocr", "ocrAt"),
    job_mark("duplicates", "duplicatesDetectedAt"),
]
