"""One odd file or folder: it is told with its reason, or shared as it is, and everything else goes on."""

import errno
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from tests.behaviour.conftest import Home
from tests.conftest import Roots, eventually
from tests.disks import mounted
from tests.oddities import Oddity

# Files are the same to all releases.
pytestmark = pytest.mark.releases(since="3.0.3", until="3.0.3")
FAR = 253_402_300_800 + 86_400 * 366
"""Seconds since 1970, in the year 10001."""
BEFORE = -62_135_596_800 - 86_400 * 400
"""And in the year -1."""


def scanned(home: Home, *names: str) -> dict[str, UUID]:
    """Add photos to alice's library; returns them by their file's name."""
    library = home.alice.add_library(home.photos)
    ids = home.alice.scan_library(library, list(names))
    return {str(home.alice.asset(id_)["originalFileName"]): id_ for id_ in ids}


def failure(home: Home, photo: UUID) -> str:
    """Wait until this photo's failure is on record, and return its reason."""
    text = "SELECT reason FROM _face_sync_failure WHERE source_asset_id = %s"
    eventually(lambda: home.look.execute(text, [photo]).fetchall())
    ((reason,),) = home.look.execute(text, [photo]).fetchall()
    return str(reason)


@pytest.mark.parametrize("seconds", [FAR, BEFORE], ids=["year 10001", "before year 1"])
def test_a_file_with_a_time_of_any_year_is_shared_with_it(
    new_home: Callable[..., Home], roots: Roots, seconds: int, oddity: Oddity
) -> None:
    """As btrfs, ZFS and SMB hold them; tmpfs too."""
    with mounted(roots.external, "-t", "tmpfs", "none"):
        home = new_home()
        photos = scanned(home, "good.jpg", "odd.jpg")
        os.utime(home.photos / "odd.jpg", (0, seconds))
        home.look.execute(
            'UPDATE asset SET "fileModifiedAt" = to_timestamp(%s), "fileCreatedAt" = \'infinity\' WHERE id = %s',
            [seconds, photos["odd.jpg"]],
        )
        home.start()
        for photo in photos.values():
            home.copied(photo)
        ((same,),) = home.look.execute(
            'SELECT extract(epoch FROM "fileModifiedAt")::bigint FROM asset WHERE id = %s',
            [home.copied(photos["odd.jpg"])],
        ).fetchall()
        assert same == seconds
        home.copied(home.alice.upload("after.jpg"))
        home.settled()
        home.stop()
        oddity(
            "a photo whose file has a time after the year 9999, or before year 1",
            "nothing: it is shared with that time",
            "everything",
        )


def fifo(path: Path) -> None:
    os.mkfifo(path)


def a_socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(path.name)
    finally:
        os.chdir(here)


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


@pytest.mark.parametrize("make", [fifo, a_socket, Path.mkdir, loop], ids=["fifo", "socket", "folder", "loop"])
def test_a_thumbnail_that_is_no_file_is_told_and_stops_no_other(
    home: Home, make: Callable[[Path], Any], oddity: Oddity
) -> None:
    photo = home.alice.upload("odd.jpg", until="row")
    home.alice.work_on(photo)
    copied = home.copied(photo)
    other = home.alice.upload("other.jpg")
    home.copied(other)
    path = Path(home.alice.files_of(photo)[0]["path"])
    content = path.read_bytes()
    path.unlink()
    make(path)
    home.alice.change_thumbnail_format(other, "jpg1")
    home.alice.describe(photo, "changed")
    assert path.name in failure(home, photo)
    home.copied(home.alice.upload("after.jpg"))
    assert home.copy_of(photo) == copied
    path.rmdir() if path.is_dir() else path.unlink()
    path.write_bytes(content)
    home.alice.describe(photo, "changed again")
    home.settled()
    oddity(
        "a thumbnail that is a fifo, a socket, a folder, or a symlink to itself",
        "for that photo: '…_preview.jpeg' is not a file",
        "all other photos; this one when the file is one again",
    )


@pytest.mark.parametrize("make", [fifo, a_socket, huge], ids=["fifo", "socket", "a sparse terabyte"])
def test_an_original_of_any_kind_is_only_linked(home: Home, make: Callable[[Path], Any], oddity: Oddity) -> None:
    photos = scanned(home, "odd.jpg", "good.jpg")
    for photo in photos.values():
        home.copied(photo)
    home.stop()
    path = home.photos / "odd.jpg"
    modified = path.stat().st_mtime_ns
    path.unlink()
    make(path)
    os.utime(path, ns=(modified, modified))
    # Immich itself would read the file.
    home.look.execute("UPDATE asset_exif SET description = 'changed' WHERE \"assetId\" = %s", [photos["odd.jpg"]])
    began = time.monotonic()
    home.start()
    eventually(lambda: home.bob.exif(home.copied(photos["odd.jpg"]))["description"] == "changed")
    assert time.monotonic() - began < 10, "nothing of it is read"
    oddity(
        "an original that is a fifo, a socket, or a sparse file of a terabyte",
        "nothing: an original is linked and never read",
        "everything",
    )


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.EACCES, 133])
def test_a_folder_that_cannot_be_read_keeps_its_mark_and_no_other(
    home: Home, monkeypatch: pytest.MonkeyPatch, number: int, oddity: Oddity
) -> None:
    """As on a dying disk. Whatever a file system may say: the numbers are no list that the program has."""
    one, other = home.alice.upload("one.jpg"), home.alice.upload("other.jpg")
    copy, _ = home.copied(one), home.copied(other)
    bad = str(home.roots.media / "thumbs" / str(home.bob.user_id) / str(copy)[:2] / str(copy)[2:4])
    real = os.scandir

    def scandir(path: Any = ".") -> Any:
        if str(path) == bad:
            raise OSError(number, os.strerror(number), bad)
        return real(path)

    monkeypatch.setattr("listener.sync.files.os.scandir", scandir)
    home.alice.delete_for_good(one)
    eventually(lambda: home.copy_of(one) is None)
    home.copied(home.alice.upload("later.jpg"))
    assert home.service.metrics.reconnects._value.get() == 0
    monkeypatch.undo()
    home.house.sweep()
    home.settled()
    oddity(
        "a folder of a dying disk, or of a share that is gone: any error, also one that no program knows",
        "for that photo: cannot look through '…': Input/output error",
        "everything; the copy is out of sight, its files go when they can",
    )


def test_names_that_are_no_utf_8_beside_photos_harm_nothing(home: Home, oddity: Oddity) -> None:
    photos = scanned(home, "good.jpg")
    home.copied(photos["good.jpg"])
    for folder in (home.photos, Path(home.alice.files_of(photos["good.jpg"])[0]["path"]).parent):
        Path(os.fsdecode(os.fsencode(folder) + b"/\xff\xfe.jpg")).touch()
    # An original that leads to such a name: its words are text all the same.
    odd = home.photos / "good.jpg"
    odd.unlink()
    odd.symlink_to(os.fsdecode(b"/\xff\xfe/elsewhere.jpg"))
    home.alice.describe(photos["good.jpg"], "changed")
    assert "elsewhere.jpg" in failure(home, photos["good.jpg"])
    home.copied(home.alice.upload("after.jpg"))
    done = home.house.command("failures", "list")
    assert done.returncode == 0, done.stderr
    assert "elsewhere.jpg" in done.stdout
    oddity(
        "names that are no UTF-8, beside photos and where a symlink leads",
        "for that photo: leads to '/\\udcff\\udcfe/elsewhere.jpg', out of the shared folder",
        "all other photos",
    )
