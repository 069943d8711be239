"""Files and folders where something is in the way: what is told, what stays, and what is tried again."""

import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from listener.immich.layout import Layout, RefusedPathError, SwappedError
from listener.sync import folders
from listener.sync.clearing import remove_beside, remove_files
from listener.sync.files import FileProblemError, FileTask, OriginalLinks, fits, place
from listener.sync.folders import Entry, held, within

pytest_plugins = ("tests.file_fixtures",)


@pytest.fixture
def thumbnail(layout: Layout) -> FileTask:
    """A person's thumbnail: a file of its own."""
    source = layout.media_root / "thumbs" / "alice" / "person.jpeg"
    source.parent.mkdir(parents=True)
    source.write_bytes(b"alice's crop")
    return FileTask(str(source), str(layout.media_root / "thumbs" / "bob" / "mirror.jpeg"), shared=False)


@pytest.fixture
def links(layout: Layout) -> OriginalLinks:
    prefix = layout.external_root / "bob"
    prefix.mkdir()
    return OriginalLinks(layout, str(prefix))


# --- what is told ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "kind", "todo"),
    [
        (errno.ENOSPC, "ENOSPC", "Make room, or check with df -i that there are inodes: then it is done by itself"),
        (errno.EDQUOT, "EDQUOT", "Make room, or raise the quota: then it is done by itself"),
        (errno.EROFS, "EROFS", "Mount it for writing: then it is done by itself"),
        (errno.EIO, "EIO", ""),
    ],
)
def test_what_to_do_about_a_disk_is_told(
    layout: Layout, thumbnail: FileTask, monkeypatch: pytest.MonkeyPatch, number: int, kind: str, todo: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(FileProblemError) as told:
        place(thumbnail, layout, "auto")
    assert told.value.kind == kind
    assert str(told.value) == (
        f"cannot make {thumbnail.target!r} from {thumbnail.source!r}: {os.strerror(number)}" + (todo and f". {todo}")
    )


@pytest.mark.parametrize(
    ("original", "kind", "words"),
    [
        ("alice/gone.jpg", "missing", "is missing"),
        ("../elsewhere.jpg", "refused", "leads out of|not"),
        ("alice/a.jpg/b.jpg", "ENOTDIR", "cannot read the original"),
    ],
)
def test_an_original_that_cannot_be_read_is_told(
    layout: Layout, links: OriginalLinks, original: str, kind: str, words: str
) -> None:
    (layout.external_root / "alice").mkdir()
    (layout.external_root / "alice" / "a.jpg").touch()
    with pytest.raises(FileProblemError, match=words) as told:
        links.modified_ns(f"{layout.external_root}/{original}")
    assert told.value.kind == kind


def test_no_link_is_made_while_the_root_is_not_there(layout: Layout, links: OriginalLinks) -> None:
    away = layout.external_root.rename(layout.external_root.with_name("away"))
    with pytest.raises(FileProblemError, match="mount it") as told:
        links.link(f"{layout.external_root}/bob/a.jpg", "/original.jpg")
    assert told.value.kind == "unmounted"
    assert list((away / "bob").iterdir()) == []


def test_names_and_paths_fit_up_to_the_last_byte() -> None:
    name = "é" * 127 + "x"
    assert fits(f"/a/{name}/b")
    assert not fits(f"/a/{name}y/b")
    path = "/b" * 2047 + "/"
    assert fits(path)
    assert not fits(path + "x")


# --- the place of a link, and what lies beside it -------------------------------------------------------------------


@pytest.mark.parametrize("replaced", [False, True])
@pytest.mark.parametrize(
    ("make", "free"),
    [
        (lambda _: None, {False, True}),
        (lambda place: place.symlink_to("/original.jpg"), {False, True}),
        (lambda place: place.symlink_to("/another.jpg"), {True}),
        (lambda place: place.write_bytes(b"bob's own"), set[bool]()),
        (lambda place: place.mkdir(), set[bool]()),
    ],
    ids=["nothing", "our link", "another link", "a file", "a folder"],
)
def test_only_nothing_or_a_link_of_ours_is_a_place_for_a_link(
    layout: Layout, links: OriginalLinks, make: Callable[[Path], object], free: set[bool], replaced: bool
) -> None:
    """``replaced``: a link of ours is there, wherever it leads."""
    place = layout.external_root / "bob" / "a.jpg"
    make(place)
    words = links.in_the_way(str(place), "/original.jpg", replaced=replaced)
    assert (words is None) is (replaced in free)


@pytest.mark.parametrize(
    ("name", "link", "goes"),
    [("a.jpg", True, True), ("a.jpg.xmp", False, True), ("a.jpg", False, False)],
    ids=["a link", "an XMP", "a file"],
)
def test_a_link_goes_and_an_xmp_and_no_other_file(layout: Layout, name: str, link: bool, goes: bool) -> None:
    place = layout.external_root / "bob" / "2024" / name
    place.parent.mkdir(parents=True)
    if link:
        place.symlink_to("/original.jpg")
    else:
        place.touch()
    prefix = str(layout.external_root / "bob")
    assert remove_beside(layout, prefix, str(place)) is goes
    assert os.path.lexists(place) is not goes
    assert place.parent.exists() is not goes, "a folder that is empty then goes, too"
    assert Path(prefix).exists()
    assert not remove_beside(layout, prefix, f"{prefix}/2025/{name}"), "nothing was there"
    assert not Path(prefix, "2025").exists()


def test_no_folder_is_made_where_a_source_should_be(layout: Layout, thumbnail: FileTask) -> None:
    Path(thumbnail.source).unlink()
    Path(thumbnail.source).parent.rmdir()
    with pytest.raises(FileProblemError, match="is missing"):
        place(thumbnail, layout, "auto")
    assert not Path(thumbnail.source).parent.exists()


# --- folders held open ----------------------------------------------------------------------------------------------


@pytest.fixture
def open_files() -> Iterator[None]:
    """No descriptor is left open."""
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - their number
    yield
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_a_root_that_is_away_is_told_as_such_and_not_as_a_missing_file(layout: Layout) -> None:
    seen = layout.as_seen()
    layout.media_root.rename(layout.media_root.with_name("away"))
    with pytest.raises(SwappedError), held(layout.media_root / "a.jpg", seen.media):
        pass


@pytest.mark.parametrize("name", ["../a.jpg", "thumbs/../../a.jpg", "/etc/a.jpg"])
def test_a_path_out_of_the_root_is_refused(layout: Layout, name: str) -> None:
    with pytest.raises(RefusedPathError, match="leads out of"), held(layout.media_root / name, layout.media):
        pass


def test_a_folder_that_others_take_away_each_time_is_told_in_the_end(layout: Layout, open_files: None) -> None:
    tries = []

    def make(entry: Entry) -> None:
        tries.append(entry.name)
        (layout.media_root / "folder").rmdir()
        raise FileNotFoundError(errno.ENOENT, "no such file")

    with pytest.raises(FileNotFoundError):
        within(layout.media_root / "folder" / "a.jpg", layout.media, make)
    assert len(tries) == 5


def test_a_file_that_is_missing_in_a_folder_that_is_there_is_told_at_once(layout: Layout) -> None:
    tries = []

    def make(entry: Entry) -> None:
        tries.append(entry.name)
        raise FileNotFoundError(errno.ENOENT, "no such file")

    with pytest.raises(FileNotFoundError):
        within(layout.media_root / "folder" / "a.jpg", layout.media, make)
    assert len(tries) == 1


def test_a_folder_that_goes_while_it_is_made_leaves_nothing_open(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, open_files: None
) -> None:
    def gone(*_: object) -> None:
        raise FileNotFoundError(errno.ENOENT, "no such folder")

    monkeypatch.setattr(folders, "make_alike", gone)
    with pytest.raises(FileNotFoundError), held(layout.media_root / "folder" / "a.jpg", layout.media, make=True):
        pass


def test_a_folder_passes_on_its_mode_and_its_group_whatever_the_umask(layout: Layout) -> None:
    layout.media_root.chmod(0o2775)
    before = os.umask(0o077)
    try:
        with held(layout.media_root / "folder" / "a.jpg", layout.media, make=True):
            pass
    finally:
        os.umask(before)
    assert (layout.media_root / "folder").stat().st_mode & 0o7777 == 0o2775


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_root_makes_belongs_to_the_owner_of_its_neighbour(layout: Layout, links: OriginalLinks) -> None:
    bob = layout.external_root / "bob"
    os.chown(bob, 1234, 1235)
    links.link(f"{bob}/2024/a.jpg", "/original.jpg")
    for made in (bob / "2024", bob / "2024" / "a.jpg"):
        found = made.lstat()
        assert (found.st_uid, found.st_gid) == (1234, 1235)


def test_a_removal_counts_what_it_took_and_passes_what_is_gone(layout: Layout) -> None:
    folder = layout.media_root / "thumbs"
    folder.mkdir()
    (folder / "copy_preview.jpeg").touch()
    (folder / "other_preview.jpeg").touch()
    named = [str(folder / "copy_gone.webp"), str(folder / "other_preview.jpeg")]
    assert remove_files(layout, [folder, layout.media_root / "nowhere"], "copy", named) == 1
    assert [file.name for file in folder.iterdir()] == ["other_preview.jpeg"]


def test_a_removal_on_a_disk_that_is_another_by_now_is_told(layout: Layout) -> None:
    """What was not found may be on the one that was there."""
    seen = layout.as_seen()
    layout.media_root.rename(layout.media_root.with_name("away"))
    layout.media_root.mkdir()
    with pytest.raises(SwappedError):
        remove_files(replace(seen), [], "copy", [])
