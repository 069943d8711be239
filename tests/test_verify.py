"""The judge passes a right share, and tells exactly what is wrong with one that is not."""

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from listener.immich.api import Features
from listener.tools.verify import Difference, Report, render, verify
from tests.broken_photo import BREAKS, ODD_ID, fail_source, original
from tests.conftest import ImmichDatabase, Roots
from tests.copied_photo import Share, wipe
from tests.judging import Break, judged, on_releases, rules
from tests.source_photo import MODIFIED, write

pytest_plugins = ("tests.judge_fixtures",)
on_all = pytest.mark.parametrize("database", ["2.0.0", "2.4.1", "2.7.5", "3.0.3", "3.3.0"], indirect=True)


@on_all
async def test_a_right_share_has_no_differences(share: Share, conn: psycopg.AsyncConnection[Any]) -> None:
    report = await judged(share, conn)

    assert report.differences == ()
    assert report.ok
    assert (report.copies, report.sources, report.waiting, report.skipped) == (4, 6, 1, 1)
    assert report.rows["asset"] == report.rows["asset_exif"] == 4
    assert report.rows["face_search"] == 1
    assert report.rows["person"] == 1


@pytest.mark.parametrize(("database", "wrong"), on_releases(BREAKS), indirect=["database"])
async def test_one_thing_wrong_is_told_by_its_rule(
    share: Share, conn: psycopg.AsyncConnection[Any], wrong: Break
) -> None:
    wrong.do(share)

    report = await judged(share, conn)

    also = wrong.also - (set() if share.has("asset_job_status", "ocrAt") else {"ml.ocr"})
    assert rules(report) == {wrong.rule} | also, render(report)
    assert all(difference.job in {"photos", "uploads"} for difference in report.differences)
    assert all(difference.detail for difference in report.differences)


async def test_what_immich_itself_left_behind_is_none_of_our_business(
    share: Share, conn: psycopg.AsyncConnection[Any]
) -> None:
    """Thumbnails of photos that library watching took away, and of uploads newer than a restored backup."""
    stranger = uuid4()
    for folder, ending in (("thumbs", "_preview.jpeg"), ("thumbs", ".jpeg"), ("encoded-video", "-MP.mp4")):
        write(share.generated(folder, share.target_user, stranger, ending), "left by Immich")
    write(f"{share.roots.media}/thumbs/{share.target_user}/x.jpeg", "left by Immich")

    assert (await judged(share, conn)).differences == ()


@on_all
async def test_ids_that_the_api_refuses(database: str, roots: Roots, conn: psycopg.AsyncConnection[Any]) -> None:
    odd = [UUID(ODD_ID.format(number)) for number in range(3)]
    with psycopg.connect(database, autocommit=True) as made_with:
        wipe(made_with)
        share = Share(made_with, roots, copy_id=odd[0], face_id=odd[1], mirror_id=odd[2])

        assert rules(await judged(share, conn)) == {"asset.id", "asset_face.id", "person.id"}


@on_all
async def test_what_belongs_to_the_target_user_is_left_to_them(
    share: Share, conn: psycopg.AsyncConnection[Any]
) -> None:
    """Favourite, archive, stack, trash (with the guard's offline mark), and an XMP of their own."""
    copy = share.ids["plain_copy"]
    stack = uuid4()
    share.insert("stack", id=stack, primaryAssetId=copy, ownerId=share.target_user)
    share.run(
        'UPDATE asset SET "isFavorite" = true, visibility = \'archive\', "stackId" = %(stack)s WHERE id = %(id)s',
        stack=stack, id=copy,
    )  # fmt: skip
    share.run(
        'UPDATE asset SET "deletedAt" = now(), status = \'trashed\', "isOffline" = true WHERE id = %(copy)s',
        **share.ids,
    )
    xmp = f"{original(share)}.xmp"
    write(xmp, "<xmp/>")
    if share.has("asset", "sidecarPath"):
        share.run('UPDATE asset SET "sidecarPath" = %(xmp)s WHERE id = %(id)s', xmp=xmp, id=copy)
    else:
        share.insert("asset_file", assetId=copy, type="sidecar", path=xmp)

    assert (await judged(share, conn)).differences == ()


async def test_copies_of_files_where_hard_links_cannot_be(share: Share, conn: psycopg.AsyncConnection[Any]) -> None:
    for path in (share.roots.media / "thumbs" / str(share.target_user)).rglob("*.*"):
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)

    assert (await judged(share, conn)).differences == ()


async def test_a_target_prefix_that_leads_to_the_source_needs_no_links(
    share: Share, conn: psycopg.AsyncConnection[Any]
) -> None:
    shutil.rmtree(share.external.target_path_prefix)
    os.symlink(share.external.source_path_prefix, share.external.target_path_prefix)  # noqa: PTH211

    assert (await judged(share, conn)).differences == ()


async def test_an_upload_that_leads_out_of_the_media_root(
    share: Share, conn: psycopg.AsyncConnection[Any], tmp_path: Path
) -> None:
    upload = share.roots.media / "upload" / str(share.source_user) / "ab" / "cd" / "abcd.jpg"
    shutil.move(upload, tmp_path / "secret.jpg")
    upload.symlink_to(tmp_path / "secret.jpg")

    assert rules(await judged(share, conn)) == {"source.path"}


async def test_a_source_without_its_file_waits(share: Share, conn: psycopg.AsyncConnection[Any]) -> None:
    source = fail_source(share, reason="the original is not there")
    os.unlink(f"{share.external.source_path_prefix}/2024/bad.jpg")  # noqa: PTH108
    # The intent to copy it may stay on record with the failure.
    share.insert(
        "_face_sync_asset_map",
        source_asset_id=source, target_asset_id=uuid4(), source_user_id=share.source_user,
        target_user_id=share.target_user,
    )  # fmt: skip

    report = await judged(share, conn)

    assert report.differences == ()
    assert report.waiting == 2


@pytest.mark.parametrize("database", ["2.0.0", "3.0.3"], indirect=True)
@pytest.mark.parametrize("lacking", ["smart_search", "facial_recognition", "ocr"])
async def test_machine_learning_is_waited_for_while_it_may_come(
    share: Share, conn: psycopg.AsyncConnection[Any], lacking: str
) -> None:
    if lacking == "ocr" and not share.has("asset_job_status", "ocrAt"):
        pytest.skip("this release reads no text")
    source = share.add_asset("new.jpg", createdAt=MODIFIED)
    share.run(
        {
            "smart_search": 'DELETE FROM smart_search WHERE "assetId" = %(id)s',
            "facial_recognition": 'UPDATE asset_job_status SET "facesRecognizedAt" = NULL WHERE "assetId" = %(id)s',
            "ocr": 'UPDATE asset_job_status SET "ocrAt" = NULL WHERE "assetId" = %(id)s',
        }[lacking],
        id=source,
    )
    share.run("UPDATE asset SET \"createdAt\" = now() - interval '1 hour' WHERE id = %(id)s", id=source)
    everything = Features(smart_search=True, facial_recognition=True, ocr=True)

    waiting = await judged(share, conn, features=everything, ml_wait=7200)
    late = await judged(share, conn, features=everything, ml_wait=1800)
    off = await judged(share, conn, features=replace(everything, **{lacking: False}), ml_wait=7200)

    assert (rules(waiting), waiting.waiting) == (set(), 2)
    assert rules(late) == {"source.uncopied"}
    assert rules(off) == {"source.uncopied"}


async def test_both_parts_of_a_live_photo_come_together(share: Share, conn: psycopg.AsyncConnection[Any]) -> None:
    motion = share.add_asset("new.mov", visibility="hidden", thumbhash=None)
    still = share.add_asset("new.jpg", livePhotoVideoId=motion)
    share.run('UPDATE asset_job_status SET "metadataExtractedAt" = NULL WHERE "assetId" = %(id)s', id=motion)
    before = await judged(share, conn)
    share.run('UPDATE asset_job_status SET "metadataExtractedAt" = now() WHERE "assetId" = %(id)s', id=motion)
    after = await judged(share, conn)
    share.copy(still, share.external, uuid4())
    still_only = await judged(share, conn)

    assert (rules(before), before.waiting) == (set(), 3)
    assert [d.source_asset_id for d in after.differences] == [still]
    assert [(d.rule, d.source_asset_id) for d in still_only.differences] == [("source.uncopied", motion)]


async def test_verify_writes_nothing_and_leaves_no_transaction(
    share: Share, conn: psycopg.AsyncConnection[Any]
) -> None:
    await judged(share, conn)

    await conn.execute('UPDATE asset SET "isFavorite" = true')  # not read-only any more
    async with conn.transaction():
        await conn.execute("SELECT 1")
        with pytest.raises(ValueError, match="in no transaction"):
            await judged(share, conn)


async def test_a_database_without_our_tables_is_named(immich: ImmichDatabase, roots: Roots) -> None:
    async with await psycopg.AsyncConnection.connect(immich.conninfo, autocommit=True) as conn:
        with pytest.raises(ValueError, match=r"no table _face_sync_asset_map.*listener run"):
            await verify(conn, [], roots.media)


def test_a_report_reads_as_text() -> None:
    source, target = uuid4(), uuid4()
    wrong = Difference("asset.column", "photos", source, target, "width")
    lost = Difference("file.orphan", "photos", None, None, "/data/thumbs/x belongs to no row")
    good = Report((), copies=3, sources=4, waiting=1, rows={"asset": 3, "asset_ocr": 0})
    some = Report((), copies=3, sources=6, waiting=1, rows={}, skipped=2)
    bad = Report((wrong, lost, lost), copies=3, sources=4, waiting=1, rows={})

    assert render(good) == "ok: 3 copies of 4 shared photos and videos, 1 waiting\nrows of copies: asset 3"
    assert render(some) == "ok: 3 copies of 6 shared photos and videos, 1 waiting, 2 skipped"
    assert render(bad, limit=2).splitlines() == [
        "3 differences: 3 copies of 4 shared photos and videos, 1 waiting",
        "       1 asset.column",
        "       2 file.orphan",
        f"asset.column  job photos  source {source} copy {target}  width",
        "file.orphan  job photos  source - copy -  /data/thumbs/x belongs to no row",
        "… and 1 more",
    ]
