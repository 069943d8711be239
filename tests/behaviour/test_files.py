"""Point 5: files follow their source, as hardlinks or, where those cannot be, as copies."""

import errno
import logging
import os
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from listener.standin.actor import Actor
from tests.behaviour.conftest import Home
from tests.conftest import eventually


def test_point_5_new_kinds_changed_paths_replaced_inodes_and_late_files_follow(home: Home) -> None:
    alice, bob = home.alice, home.bob
    photo, video = alice.upload("one.jpg"), alice.upload("two.mp4")
    copy, moving = home.copied(photo), home.copied(video)
    home.settled()
    assert set(_files(bob, copy)) == {"preview", "thumbnail"}

    # New kinds of files, and another format.
    old = _files(bob, copy)["thumbnail"]
    alice.make_fullsize(photo)
    alice.transcode(video)
    alice.change_thumbnail_format(photo)
    home.settled()
    assert set(_files(bob, copy)) == {"preview", "thumbnail", "fullsize"}
    assert _files(bob, copy)["thumbnail"].suffix == ".jpeg"
    assert not old.exists()
    _assert_one_file(_files(alice, photo), _files(bob, copy))
    _assert_one_file(_files(alice, video), _files(bob, moving))
    assert "encoded_video" in _files(bob, moving)

    # Written again in place a hardlink follows by itself; a new inode is seen by a sweep.
    alice.refresh_thumbnails(photo)
    _assert_one_file(_files(alice, photo), _files(bob, copy))
    alice.refresh_thumbnails(photo, new_inode=True)
    _sweep(home)
    home.settled()
    _assert_one_file(_files(alice, photo), _files(bob, copy))

    # The storage template moves the original, the link follows.
    link = Path(bob.asset(copy)["originalPath"])
    assert link.readlink() == Path(alice.asset(photo)["originalPath"])
    moved = alice.move_by_storage_template(photo, "2024/one.jpg")
    home.settled()
    assert not link.is_symlink()
    link = Path(bob.asset(copy)["originalPath"])
    assert link.name == "one.jpg"
    assert link.readlink() == moved

    # A file goes again.
    full = _files(bob, copy)["fullsize"]
    home.house.query("DELETE FROM asset_file WHERE \"assetId\" = %s AND type = 'fullsize'", photo)
    home.settled()
    assert "fullsize" not in _files(bob, copy)
    eventually(lambda: not full.exists(), describe="the file without a row")

    # One that appears later than the row that names it: said until it is there, and then mended.
    late = alice.upload("late.jpg", until="metadata")
    with home.stopped():
        alice.work_on(late)
        preview = _files(alice, late)["preview"]
        away = preview.rename(preview.with_name("away"))
    eventually(lambda: _failure(home, late), describe="the missing file is not told")
    assert str(preview) in (_failure(home, late) or "")
    assert home.copy_of(late) is None
    away.rename(preview)
    home.copied(late)
    home.settled()
    assert _failure(home, late) is None


@pytest.mark.variant
def test_point_5_where_hardlinks_cannot_be_files_are_copied_counted_and_said_once(
    home: Home, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    alice, bob = home.alice, home.bob
    before = alice.upload("before.jpg")
    home.copied(before)
    home.settled()

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, "listener"):
        patch.setattr(os, "link", refuse)
        photos = [alice.upload(f"{number}.jpg") for number in range(3)]
        for photo in photos:
            home.copied(photo)
            _assert_equal_files(_files(alice, photo), _files(bob, home.copied(photo)))
        said = [record for record in caplog.records if "hardlinks cannot be made" in record.getMessage()]
        assert len(said) == 1
        assert _counted(home, "copy") + _counted(home, "reflink") >= 2 * len(photos)
        # What is a hardlink already stays one.
        _assert_one_file(_files(alice, before), _files(bob, home.copied(before)))

        # Who insists on hardlinks is told, and gets no copy without.
        home.stop()
        home.start(link_mode="hardlink")
        strict = alice.upload("strict.jpg")
        eventually(lambda: _failure(home, strict), describe="the refused hardlink is not told")
        assert home.copy_of(strict) is None
        home.stop()

    # Now they can be: everything becomes one file again.
    home.start()
    for photo in (*photos, strict):
        home.copied(photo)
    home.settled()
    for photo in (*photos, strict):
        _assert_one_file(_files(alice, photo), _files(bob, home.copied(photo)))
    home.stop()
    # Who wants copies gets copies.
    home.start(link_mode="copy")
    own = alice.upload("own.jpg")
    _assert_equal_files(_files(alice, own), _files(bob, home.copied(own)))


def _files(actor: Actor, asset: UUID) -> dict[str, Path]:
    """Return the generated files of an asset by kind, wherever this release names them."""
    found = {row["type"]: Path(row["path"]) for row in actor.files_of(asset) if row["type"] != "sidecar"}
    encoded = actor.asset(asset).get("encodedVideoPath")
    return found | ({"encoded_video": Path(encoded)} if encoded else {})


def _assert_one_file(theirs: dict[str, Path], own: dict[str, Path]) -> None:
    assert set(own) == set(theirs)
    for kind, path in own.items():
        assert path != theirs[kind]
        assert path.samefile(theirs[kind]), kind


def _assert_equal_files(theirs: dict[str, Path], own: dict[str, Path]) -> None:
    assert set(own) == set(theirs)
    for kind, path in own.items():
        assert not path.samefile(theirs[kind]), kind
        assert path.read_bytes() == theirs[kind].read_bytes()


def _sweep(home: Home) -> None:
    home.house.query('SELECT pg_notify(\'immich_shared_library\', \'{"v":1,"kind":"sweep","at":1}\')')


def _failure(home: Home, asset: UUID) -> str | None:
    rows = home.house.query("SELECT reason FROM _face_sync_failure WHERE source_asset_id = %s", asset)
    return str(rows[0][0]) if rows else None


def _counted(home: Home, how: str) -> float:
    """Return how many files the running listener says that it made so."""
    assert home._running is not None
    service = home._running._service
    assert service is not None
    value = service.metrics.registry.get_sample_value("immich_shared_library_files_total", {"how": how})
    return value or 0.0


@pytest.mark.releases(since="3.0.3")
def test_point_5_links_below_the_former_prefix_of_a_job_go_and_nothing_else_there(home: Home) -> None:
    alice, bob = home.alice, home.bob
    photos = [alice.upload(name) for name in ("one.jpg", "two.jpg", "three.jpg")]
    home.settled()
    old, others, replaced = (Path(bob.asset(home.copied(photo))["originalPath"]) for photo in photos)
    original = others.readlink()
    # Another's by now; a link of bob's own; a file.
    own = bob.upload("mine.jpg")
    path_of_own = bob.asset(own)["originalPath"]
    home.house.query('UPDATE asset SET "originalPath" = %s WHERE id = %s', str(others), own)
    replaced.unlink()
    replaced.symlink_to(others)
    beside = old.with_name("beside.jpg")
    beside.write_bytes(b"a file of somebody's")
    folder = home.roots.external / "shared" / "moved"
    home.change_jobs(
        lambda job: replace(job, target_path_prefix=str(folder)) if job.kind == "uploads" else job,
    )
    home.house.query('UPDATE asset SET "originalPath" = %s WHERE id = %s', path_of_own, own)
    home.settled()
    for photo in photos:
        link = Path(bob.asset(home.copied(photo))["originalPath"])
        assert link.is_relative_to(folder)
        assert link.resolve() == Path(alice.asset(photo)["originalPath"]).resolve()
    assert not old.is_symlink()
    assert others.readlink() == original
    assert replaced.readlink() == others
    assert beside.read_bytes() == b"a file of somebody's"
