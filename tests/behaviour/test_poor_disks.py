"""Disks that can less than others: everything is shared from them, and to them."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.behaviour.conftest import Home
from tests.conftest import eventually
from tests.disks import mounted
from tests.oddities import Oddity

WITHIN = 15.0
YEAR = 365 * 24 * 3600 * 10**9


def contents(paths: list[str]) -> list[bytes]:
    return [Path(path).read_bytes() for path in paths]


@pytest.mark.releases(since="3.0.3", until="3.0.3")
def test_without_hardlinks_and_times_files_are_copied(
    new_home: Callable[..., Home], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, oddity: Oddity
) -> None:
    asked: list[object] = []

    def link(*args: object, **_: object) -> None:
        asked.append(args[0])
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    home = new_home()
    real = os.utime

    def utime(path: object, *args: object, **how: object) -> None:
        if isinstance(path, int):
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        real(path, *args, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "link", link)
    monkeypatch.setattr(os, "utime", utime)
    home.start()
    photos = [home.alice.upload(f"{number}.jpg", faces=1, people=["new"]) for number in range(4)]
    copies = [home.copied(photo) for photo in photos]
    home.settled()
    theirs, own = (
        [sorted(row["path"] for row in actor.files_of(of)) for of in ids]
        for actor, ids in ((home.alice, photos), (home.bob, copies))
    )
    assert [contents(paths) for paths in own] == [contents(paths) for paths in theirs]
    assert len(asked) == 2
    said = [record for record in caplog.records if "hardlinks cannot be made" in record.getMessage()]
    assert len(said) == 1
    assert "cannot be given the times" in caplog.text
    # Immich writes a thumbnail anew: the next look sees it.
    home.alice.change_file(photos[0], mark="other")
    home.alice.refresh_thumbnails(photos[0])
    home.house.sweep()
    eventually(lambda: contents(own[0]) == contents(theirs[0]), within=WITHIN)
    home.settled()
    oddity(
        "a disk without hardlinks (ENOSYS) that does not keep times either",
        "hardlinks cannot be made here: files of copies take space of their own (once)",
        "everything, with copies in place of links; it is asked twice, not for each file",
    )


@pytest.mark.releases(since="3.0.3", until="3.0.3")
def test_an_original_of_a_year_that_no_date_can_say_is_shared(new_home: Callable[..., Home], oddity: Oddity) -> None:
    """Btrfs, ZFS and SMB hold such times; here it is a tmpfs."""
    home = new_home()
    with mounted(home.photos, "-t", "tmpfs", "none"):
        library = home.alice.add_library(home.photos)
        photos = home.alice.scan_library(library, ["late.jpg", "early.jpg", "now.jpg"])
        paths = {Path(home.alice.asset(photo)["originalPath"]).name: photo for photo in photos}
        for name, time in (("late.jpg", 9000 * YEAR), ("early.jpg", -2500 * YEAR)):
            os.utime(home.photos / name, ns=(time, time))
        home.start()
        for photo in photos:
            home.copied(photo)
        home.settled()
        for name in ("late.jpg", "early.jpg"):
            copy = home.copied(paths[name])
            assert home.bob.asset(copy)["fileModifiedAt"] == home.alice.asset(paths[name])["fileModifiedAt"]
        home.stop()
    oddity(
        "photos whose files have a time after year 9999, or before year 1",
        "nothing",
        "they are shared with the time that Immich has for them",
    )
