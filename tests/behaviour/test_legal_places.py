"""Photos lie where Immich lets them lie: folders that are symlinks, several mounts, paths that are written oddly."""

import os
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.behaviour.conftest import Home
from tests.conftest import eventually
from tests.oddities import Oddity

WITHIN = 15.0


def is_shared(path: str, other: str) -> bool:
    return Path(path).samefile(other)


def is_gone(path: str) -> bool:
    """Nothing is at the path, or something that has another name."""
    return not os.path.lexists(path) or Path(path) not in Path(path).parent.iterdir()


@pytest.mark.variant
def test_folders_of_the_media_root_may_be_symlinks_to_other_disks(
    new_home: Callable[..., Home], tmp_path: Path, oddity: Oddity
) -> None:
    home = new_home()
    for name in ("thumbs", "encoded-video", "upload", "library"):
        (disk := tmp_path / "disk" / name).mkdir(parents=True)
        (home.roots.media / name).symlink_to(disk)
    home.start()
    alice, bob = home.alice, home.bob
    upload = alice.upload("a.mp4", faces=1, people=["new"], template="2024/a.mp4")
    alice.transcode(upload)
    alice.add_library(home.photos)
    library = alice.rows.where("library", ownerId=alice.user_id)[0]["id"]
    (photo,) = alice.scan_library(library, ["b.jpg"])
    of = {asset: home.copied(asset) for asset in (upload, photo)}
    home.settled()
    files = {row["type"]: row["path"] for row in bob.files_of(of[photo])}
    theirs = {row["type"]: row["path"] for row in alice.files_of(photo)}
    assert is_shared(files["preview"], theirs["preview"])
    assert os.path.realpath(files["preview"]).startswith(str(tmp_path / "disk" / "thumbs"))
    alice.lock(photo)
    eventually(lambda: home.copy_of(photo) is None and not os.path.lexists(files["preview"]), within=WITHIN)
    home.settled()
    assert Path(theirs["preview"]).exists()
    oddity(
        "Immich's folders thumbs, encoded-video, upload and library are symlinks to another disk",
        "nothing",
        "everything: files are linked there, and go from there",
    )


@pytest.mark.releases(since="3.0.3", until="3.0.3")
def test_external_libraries_may_have_several_mounts(new_home: Callable[..., Home], tmp_path: Path) -> None:
    home = new_home()
    (nas := tmp_path / "nas").mkdir()
    (out := tmp_path / "out").mkdir()
    photos, uploads = home.house.jobs
    photos = replace(photos, source_path_prefix=str(nas / "photos"))
    uploads = replace(uploads, target_path_prefix=str(out / "bob_uploads"))
    home.house = replace(home.house, jobs=(photos, uploads))
    home.start(more_roots=(nas, out))
    library = home.alice.add_library(nas / "photos")
    first, _ = home.alice.scan_library(library, ["2024/a.jpg", "2024/b.jpg"])
    upload = home.alice.upload("u.jpg")
    copy = home.copied(first)
    assert home.bob.asset(home.copied(upload))["originalPath"].startswith(str(out))
    home.settled()
    link = Path(home.bob.asset(copy)["originalPath"])
    assert link.readlink() == nas / "photos" / "2024" / "a.jpg"
    home.alice.lock(first, upload)
    eventually(lambda: not os.path.lexists(link) and not list(out.rglob("*.jpg")), within=WITHIN)
    home.settled()


@pytest.mark.releases(since="3.0.3", until="3.0.3")
def test_a_shared_folder_outside_all_mounts_is_told(home: Home, tmp_path: Path, oddity: Oddity) -> None:
    photos, uploads = home.house.jobs
    home.stop()
    home.house = replace(home.house, jobs=(replace(photos, source_path_prefix="/mnt/nas/photos"), uploads))
    words = "source_path_prefix '/mnt/nas/photos' lies under none of the mounts that the listener knows"
    home.start(but=words)
    home.copied(home.alice.upload("u.jpg"))
    done = home.house.command("check")
    assert f"danger   job 'photos': {words}" in done.stdout
    assert "EXTERNAL_LIBRARY_MOUNTS" in done.stdout
    oddity(
        "a job shares a folder of a second mount that the listener does not know",
        "source_path_prefix '/mnt/nas/photos' lies under none of the mounts …: name that in EXTERNAL_LIBRARY_MOUNTS",
        "the other jobs",
    )


@pytest.mark.releases(since="3.0.3", until="3.0.3")
def test_slashes_that_mean_nothing_are_none(home: Home, oddity: Oddity) -> None:
    alice = home.alice
    library = alice.add_library(home.photos)
    (photo,) = alice.scan_library(library, ["sub/a.jpg"], until="row")
    upload = alice.upload("u.jpg", until="row")
    for asset in (photo, upload):
        odd = alice.asset(asset)["originalPath"].replace("/sub/", "//sub/./").replace("/upload/", "//upload/")
        home.look.execute('UPDATE asset SET "originalPath" = %s WHERE id = %s', [odd, asset])
        alice.work_on(asset)
    links = [Path(home.bob.asset(home.copied(asset))["originalPath"]) for asset in (photo, upload)]
    home.settled()
    assert links[0] == Path(home.house.jobs[0].target_path_prefix) / "sub" / "a.jpg"
    assert all(link.is_file() for link in links)
    oddity("a path that Immich stored as '/library//sub/./a.jpg'", "nothing", "the photo, as any other")


class OneName:
    """A file system that takes names for one which differ in case, or in how accents are written.

    None is at hand: the calls that the file layer makes below a folder find the entry whose name is alike.
    """

    CALLS = ("open", "mkdir", "symlink", "readlink", "unlink", "rmdir", "stat", "lstat")

    def __init__(self, top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._top = str(top)
        self._real = {name: getattr(os, name) for name in self.CALLS}
        self._listdir = os.listdir
        for name in self.CALLS:
            monkeypatch.setattr(os, name, self._call(name))

    def _call(self, name: str) -> Callable[..., Any]:
        real = self._real[name]

        def call(*args: Any, **how: Any) -> Any:
            at = 1 if name == "symlink" else 0
            if len(args) > at and isinstance(args[at], str | Path):
                args = (*args[:at], self._found(str(args[at]), how.get("dir_fd")), *args[at + 1 :])
            return real(*args, **how)

        return call

    def _found(self, path: str, dir_fd: int | None) -> str:
        """Return a path by the names that its parts have on the disk."""
        if dir_fd is not None:
            around = self._real["readlink"](f"/proc/self/fd/{dir_fd}")
            inside = around == self._top or around.startswith(self._top + "/")
            return self._name(around, path) if inside and "/" not in path else path
        if not path.startswith(self._top + "/"):
            return path
        found = self._top
        for part in path.removeprefix(self._top + "/").split("/"):
            found = f"{found}/{self._name(found, part)}"
        return found

    def _name(self, folder: str, name: str) -> str:
        try:
            there = self._listdir(folder)
        except OSError:
            return name
        return next((other for other in there if self._alike(other) == self._alike(name)), name)

    @staticmethod
    def _alike(name: str) -> str:
        return unicodedata.normalize("NFC", name).casefold()


@pytest.mark.releases(since="3.0.3", until="3.0.3")
def test_names_that_are_one_to_the_file_system_get_two_links(
    new_home: Callable[..., Home], monkeypatch: pytest.MonkeyPatch, oddity: Oddity
) -> None:
    """The source's disk tells them apart, the one of the copies does not."""
    home = new_home()
    prefix = Path(home.house.jobs[0].target_path_prefix)
    prefix.mkdir()
    OneName(prefix, monkeypatch)
    home.start()
    alice, bob = home.alice, home.bob
    library = alice.add_library(home.photos)
    names = [
        "IMG.jpg",
        "img.jpg",
        "2024/Café.jpg",
        "2024/" + unicodedata.normalize("NFD", "Café.jpg"),
        "Ä/x.jpg",
        "ä/x.jpg",
    ]
    scanned = {alice.asset(photo)["originalPath"]: photo for photo in alice.scan_library(library, names)}
    photos = [scanned[str(home.photos / name)] for name in names]
    of = {photo: home.copied(photo) for photo in photos}
    home.settled(within=30)
    links = {photo: bob.asset(copy)["originalPath"] for photo, copy in of.items()}
    # Each leads to its own photo, and the three that came second have an id in their names.
    assert [Path(links[photo]).readlink() for photo in photos] == [home.photos / name for name in names]
    assert sum("~" in path for path in links.values()) == 3
    home.house.sweep()
    home.settled()
    assert {photo: bob.asset(copy)["originalPath"] for photo, copy in of.items()} == links
    # One goes, and not the other.
    for gone, kept in (photos[:2], photos[3:1:-1], photos[4:]):
        bob.delete_for_good(of[gone])
        eventually(partial(is_gone, links[gone]), within=WITHIN)
        assert str(Path(links[kept]).readlink()) == alice.asset(kept)["originalPath"]
    home.settled()
    oddity(
        "'IMG.jpg' and 'img.jpg', where the disk of the copies takes both for one name",
        "nothing, or for a moment that the second gets another name at the next try",
        "both: the second link is 'img~1b9d6bcd.jpg'",
    )
