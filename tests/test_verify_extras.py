"""The judge on what surrounds a copy, on what its user changed themselves, and on what is skipped or taken away."""

# ruff: noqa: S608 - tables and columns are named in this file

import asyncio
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from listener.settings import Job
from listener.tools.verify import Report, render, verify
from tests.conftest import ImmichDatabase, Roots
from tests.copied_photo import Share, prepare
from tests.judging import Break, Do, both, judged, on_releases, rules, run
from tests.source_photo import MODIFIED, write
from tests.stacked_photo import (
    dissolve,
    note_stack,
    of_mirrored,
    only_cover,
    own_stack,
    stack,
    take_out,
    third,
    unstack,
)

pytest_plugins = ("tests.judge_fixtures",)

# Columns of tags and albums had other names until 2.2, an album its owner until 2.7.
NAMES = ("2.0.0", "3.0.3")


def change_job(share: Share, **changes: Any) -> None:
    share.external = replace(share.external, **changes)
    share.jobs = (share.external, share.uploads)


def tag(share: Share) -> None:
    """Give the plain photo a tag below another, and its copy the same."""
    for user, photo in ((share.source_user, share.plain), (share.target_user, share.ids["plain_copy"])):
        root = share.add_tag(user, "people")
        share.tag_asset(share.add_tag(user, "people/carla", root), photo)
    note_tag(share, "people/carla")


def note_tag(share: Share, value: str, copy: UUID | None = None) -> None:
    share.insert("_face_sync_tag_map", target_asset_id=copy or share.ids["plain_copy"], value=value)


def untag(share: Share, *, forget: bool = False) -> None:
    column = "assetId" if share.has("tag_asset") else "assetsId"
    share.run(f'DELETE FROM tag_asset WHERE "{column}" = %(plain_copy)s', **share.ids)
    if forget:
        share.run("DELETE FROM _face_sync_tag_map")


def give_tag_only(share: Share) -> None:
    """Tag a source only."""
    share.tag_asset(share.add_tag(share.source_user, "new"), share.plain)


def own_tag(share: Share) -> None:
    share.tag_asset(share.add_tag(share.target_user, "mine"), share.ids["plain_copy"])


def album(share: Share) -> None:
    """Let the job have an album, with one copy in it and another taken out by its user."""
    change_job(share, album_id=(made := share.add_album(share.target_user)))
    share.album_asset(made, share.ids["plain_copy"])
    share.insert("_face_sync_album_map", target_asset_id=share.ids["copy"], album_id=made)


def forget_album(share: Share) -> None:
    share.run("DELETE FROM _face_sync_album_map")


def never_put(share: Share) -> None:
    """Make a copy the cover of the job's album that was never in it."""
    forget_album(share)
    share.run("DELETE FROM album_asset")
    share.run('UPDATE album SET "albumThumbnailAssetId" = %(plain_copy)s', **share.ids)


def album_of(owner: Callable[[Share], UUID], change: str = "") -> Do:
    def do(share: Share) -> None:
        change_job(share, album_id=share.add_album(owner(share)))
        if change:
            share.run(f"UPDATE album SET {change}")

    return do


def own_upload(share: Share, **values: Any) -> None:
    """Let the target user have an upload of their own."""
    path = f"{share.roots.media}/upload/{share.target_user}/ab/cd/{uuid4()}.jpg"
    row = {"id": uuid4(), "ownerId": share.target_user, "libraryId": None, "isExternal": False, "originalPath": path}
    share.clone("asset", "id", share.skipped, **(row | {"checksum": "\\x77", "originalFileName": "x.jpg"} | values))


def skip(share: Share, reason: str) -> None:
    share.run("UPDATE _face_sync_skipped SET reason = %(reason)s", reason=reason)


def skipped_double(**values: Any) -> Do:
    def do(share: Share) -> None:
        skip(share, "duplicate_filename")
        own_upload(share, **values)

    return do


def same_content(share: Share) -> None:
    ((checksum,),) = share.run("SELECT checksum::text FROM asset WHERE id = %(id)s", id=share.skipped)
    skip(share, "duplicate_checksum")
    own_upload(share, checksum=checksum)


def unnoted_double(share: Share) -> None:
    skipped_double(originalFileName="SKIPPED.heic")(share)
    share.run("DELETE FROM _face_sync_skipped")


def keep(share: Share, source: UUID | None = None) -> None:
    share.insert(
        "_face_sync_kept",
        source_asset_id=source or share.plain, target_user_id=share.target_user, target_asset_id=uuid4(),
        is_favorite=True, visibility="archive", album_ids=[],
    )  # fmt: skip


def lead_to_source(share: Share) -> None:
    shutil.rmtree(share.external.target_path_prefix)
    os.symlink(share.external.source_path_prefix, share.external.target_path_prefix)  # noqa: PTH211


def own_xmp(share: Share) -> None:
    copy = share.ids["plain_copy"]
    xmp = f"{share.external.target_path_prefix}/2024/plain.jpg.xmp"
    write(xmp, "<xmp/>")
    if share.has("asset", "sidecarPath"):
        share.run('UPDATE asset SET "sidecarPath" = %(xmp)s WHERE id = %(id)s', xmp=xmp, id=copy)
    else:
        share.insert("asset_file", assetId=copy, type="sidecar", path=xmp)


def own_metadata(share: Share) -> None:
    """Change everything that Immich lets a user change; it locks it, and with the place changes the place's names."""
    share.run(
        "UPDATE asset_exif SET description = 'mine', rating = 1, \"dateTimeOriginal\" = now(), latitude = 1,"
        " city = 'Ulm', country = 'Germany', state = 'X', \"timeZone\" = 'UTC',"
        " \"lockedProperties\" = '{description,rating,dateTimeOriginal,latitude,timeZone}'"
        ' WHERE "assetId" = %(plain_copy)s',
        **share.ids,
    )
    share.run(
        'UPDATE asset SET "fileCreatedAt" = now(), "localDateTime" = now() WHERE id = %(plain_copy)s', **share.ids
    )


def written_metadata(share: Share) -> None:
    """The same once Immich has written it to the XMP beside the copy, and unlocked it."""
    own_metadata(share)
    share.run('UPDATE asset_exif SET "lockedProperties" = NULL WHERE "assetId" = %(plain_copy)s', **share.ids)
    own_xmp(share)


def own_picture(share: Share) -> None:
    """Let the target user rotate the copy: its edits, edited files, size and what of it is to be seen are theirs."""
    ids = share.ids
    share.run('UPDATE asset_edit SET parameters = \'{"angle": 180}\' WHERE "assetId" = %(copy)s', **ids)
    share.run("UPDATE asset SET width = 1, height = 2, thumbhash = '\\x07' WHERE id = %(copy)s", **ids)
    share.run('UPDATE asset_face SET "isVisible" = false WHERE "assetId" = %(copy)s', **ids)
    share.run('UPDATE asset_ocr SET "isVisible" = false WHERE "assetId" = %(copy)s', **ids)
    path = share.generated("thumbs", share.target_user, ids["copy"], "_thumbnail_edited.webp")
    write(path, "rotated")
    share.insert("asset_file", assetId=ids["copy"], type="thumbnail", path=path, isEdited=True)
    for (edited,) in share.run(
        'SELECT path FROM asset_file WHERE "assetId" = %(copy)s AND type = \'preview\' AND "isEdited"', **ids
    ):
        write(edited, "rotated")


EDITS = ("asset_edit",)
LOCKS = ("asset_exif", "lockedProperties")
BREAKS = [
    # Stacks
    Break("stack.missing", both(stack, dissolve, run("DELETE FROM _face_sync_stack_map"))),
    Break("stack.missing", both(third, dissolve, run("DELETE FROM _face_sync_stack_map"), run(
        "UPDATE _face_sync_base SET stack_id = NULL")), where="of three"),
    Break("stack.ownerId", both(stack, of_mirrored('"ownerId" = %(source_user)s'))),
    Break("stack.primaryAssetId", both(stack, of_mirrored('"primaryAssetId" = %(copy)s'))),
    Break(
        "stack.primaryAssetId",
        both(stack, lambda s: of_mirrored(f"\"primaryAssetId\" = '{s.copies[s.upload]}'")(s)),
        where="no cover",
    ),
    Break("asset.stackId", both(stack, run('UPDATE asset SET "stackId" = NULL WHERE id = %(plain_copy)s'))),
    Break("asset.stackId", both(stack, unstack), where="the source's is gone"),
    Break("asset.stackId", both(stack, own_stack), where="of one"),
    Break(
        "asset.stackId",
        both(stack, run('UPDATE asset SET "deletedAt" = now(), status = \'trashed\' WHERE id = %(plain_copy)s')),
        where="of one and a trashed one",
    ),
    Break("asset.stackId", both(third, take_out, run("UPDATE _face_sync_base SET stack_id = NULL")), where="not noted"),
    Break(
        "asset.stackId",
        both(third, take_out, run("UPDATE _face_sync_base SET stack_id = gen_random_uuid()")),
        where="noted of another",
    ),
    Break(
        "asset.stackId",
        both(third, lambda s: s.run("UPDATE asset SET visibility = 'locked' WHERE id = %(id)s", id=s.copies[s.upload])),
        where="of a locked one",
    ),
    Break("stack_map.orphan", note_stack),
    Break("stack_map.orphan", both(stack, unstack, dissolve), where="apart, and the source's too"),
    # Tags
    Break("tag.missing", give_tag_only, on=NAMES),
    Break("tag.missing", both(tag, lambda share: untag(share, forget=True)), where="lost", on=NAMES),
    Break("tag.parentId", both(tag, run('UPDATE tag SET "parentId" = NULL WHERE "userId" = %(target_user)s'))),
    Break("tag_map.extra", lambda share: note_tag(share, "old")),
    Break("tag_map.extra", lambda share: note_tag(share, "old", uuid4()), where="of no copy"),
    Break("tag_map.extra", both(tag, lambda share: change_job(share, tags=False)), where="switched off"),
    # Albums
    Break("album.missing", both(album, forget_album), on=NAMES),
    Break("album.cover", both(album, never_put), frozenset({"album.missing"}), on=NAMES),
    # Duplicates
    Break("skipped.stale", lambda share: skip(share, "duplicate_filename")),
    Break("skipped.stale", skipped_double(originalFileName="skipped2.jpg"), where="other name"),
    Break("skipped.stale", skipped_double(originalFileName="skipped.jpg", fileCreatedAt="2020-01-01"), where="time"),
    Break("skipped.stale", skipped_double(originalFileName="skipped.jpg", deletedAt=MODIFIED), where="trashed"),
    Break(
        "skipped.stale",
        both(skipped_double(originalFileName="skipped.jpg"), lambda share: change_job(share, duplicates=False)),
        where="switched off",
    ),
    Break(
        "skipped.stale",
        both(
            lambda share: share.copy(share.skipped, share.external, uuid4()),
            skipped_double(originalFileName="skipped.jpg"),
        ),
        where="with a copy",
    ),
    Break("skipped.missing", unnoted_double),
    # Jobs
    # A motion part of a library lies elsewhere.
    Break("source.removed", lambda share: change_job(share, remove_copies=True), frozenset({"source.prefix"})),
    Break("asset_file.sidecar", both(lead_to_source, own_xmp), where="of a directory"),
    Break("asset.sidecarPath", both(lead_to_source, own_xmp), where="of a directory", needs=("asset", "sidecarPath")),
    Break("kept.stale", keep),
    # The target's own, that is not
    Break(
        "asset_exif.column",
        both(own_metadata, run('UPDATE asset_exif SET "lockedProperties" = NULL WHERE "assetId" = %(plain_copy)s')),
        frozenset({"asset.column"}),
        LOCKS,
        "not locked",
    ),
    Break("asset_exif.column", both(own_metadata, run("DELETE FROM _face_sync_base")), frozenset(
        {"asset.column", "asset_exif.lockedProperties"}), LOCKS, "nothing noted"),
    Break(
        "asset_exif.lockedProperties",
        run('UPDATE asset_exif SET "lockedProperties" = \'{rating}\' WHERE "assetId" = %(plain_copy)s'),
        needs=LOCKS,
    ),
    Break(
        "asset.column",
        run("UPDATE asset SET width = 1, height = 2 WHERE id = %(copy)s"),
        needs=EDITS,
        where="without an edit",
    ),
    Break(
        "asset_ocr.column",
        both(own_picture, run("UPDATE asset_ocr SET text = 'x' WHERE \"assetId\" = %(copy)s")),
        needs=EDITS,
        where="of an edit",
    ),
    Break(
        "asset_face.column",
        both(own_picture, run('UPDATE asset_face SET "imageWidth" = 7 WHERE id = %(face_copy)s')),
        needs=EDITS,
        where="of an edit",
    ),
]  # fmt: skip

ALLOWED: list[tuple[Do, tuple[str, ...]]] = [
    (stack, NAMES),
    (both(stack, only_cover), ("3.0.3",)),
    (own_stack, ("3.0.3",)),
    (both(stack, dissolve), ("3.0.3",)),
    (both(third, take_out), ("3.0.3",)),
    (both(tag, own_tag), NAMES),
    (both(tag, untag), NAMES),
    (both(give_tag_only, lambda share: change_job(share, tags=False)), NAMES),
    (album, ("2.0.0", "2.4.1", "3.0.3", "3.3.0")),
    (album_of(lambda share: share.source_user), NAMES),
    (album_of(lambda share: share.target_user, '"deletedAt" = now()'), NAMES),
    (skipped_double(originalFileName="Skipped.heic"), NAMES),
    (same_content, ("3.0.3",)),
    (lambda share: keep(share, share.waiting), ("3.0.3",)),
    (own_metadata, ("2.4.1", "3.0.3")),
    (written_metadata, ("2.4.1", "3.0.3")),
    (own_picture, ("3.0.3",)),
]


@pytest.mark.parametrize(("database", "wrong"), on_releases(BREAKS), indirect=["database"])
async def test_one_thing_wrong_is_told_by_its_rule(
    share: Share, conn: psycopg.AsyncConnection[Any], wrong: Break
) -> None:
    wrong.do(share)

    report = await judged(share, conn)

    assert rules(report) == {wrong.rule} | wrong.also, render(report)
    assert all(difference.job in {"photos", "uploads"} and difference.detail for difference in report.differences)


@pytest.mark.parametrize(
    ("database", "allowed"),
    [pytest.param(release, do, id=f"{number}-{release}") for number, (do, on) in enumerate(ALLOWED) for release in on],
    indirect=["database"],
)
async def test_what_is_right_or_the_target_users_own_is_no_difference(
    share: Share, conn: psycopg.AsyncConnection[Any], allowed: Do
) -> None:
    allowed(share)

    report = await judged(share, conn)

    assert report.differences == (), render(report)


@pytest.mark.parametrize("database", ["2.0.0"], indirect=True)
async def test_before_locks_everything_follows_the_source(share: Share, conn: psycopg.AsyncConnection[Any]) -> None:
    share.run("UPDATE asset_exif SET description = 'mine' WHERE \"assetId\" = %(plain_copy)s", **share.ids)
    own_xmp(share)

    assert rules(await judged(share, conn)) == {"asset_exif.column"}


async def test_a_removed_job_has_no_copies_and_asks_for_none(share: Share, conn: psycopg.AsyncConnection[Any]) -> None:
    change_job(share, remove_copies=True)

    report = await judged(share, conn)

    assert {d.target_asset_id for d in report.differences} == {
        share.ids[c] for c in ("copy", "motion_copy", "plain_copy")
    }
    assert report.sources == 1


async def test_copies_of_a_job_that_is_no_more_are_kept(share: Share, conn: psycopg.AsyncConnection[Any]) -> None:
    job: Job = share.uploads

    assert (await verify(conn, [job], share.roots.media)).differences == ()


def test_tags_are_found_with_all_below_them(immich: ImmichDatabase, roots: Roots) -> None:
    """Where Immich has its table of tags and all above them, a tag without its rows there would not be found."""
    prepare(immich.conninfo)
    with psycopg.connect(immich.conninfo, autocommit=True) as made_with:
        made_with.execute("CREATE TABLE tag_closure (id_ancestor uuid, id_descendant uuid)")
        share = Share(made_with, roots)
        tag(share)
        without = asyncio.run(verified(immich.conninfo, share))
        made_with.execute(
            "INSERT INTO tag_closure SELECT id, id FROM tag"
            ' UNION SELECT "parentId", id FROM tag WHERE "parentId" IS NOT NULL'
        )
        complete = asyncio.run(verified(immich.conninfo, share))

    assert rules(without) == {"tag_closure.missing"}
    assert complete.differences == ()


async def verified(conninfo: str, share: Share) -> Report:
    async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as conn:
        return await judged(share, conn)
