"""Files of copies: what is made, what is left alone, and what is removed."""

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import pytest

from listener.immich.layout import Layout, Root
from listener.sync import files
from listener.sync.clearing import remove_files
from listener.sync.files import FileProblemError, FileTask, place
from listener.sync.folders import held
from listener.sync.means import CANNOT, Means
from tests.conftest import Roots

pytest_plugins = ("tests.file_fixtures",)

SOURCE = UUID("11111111-1111-4111-8111-111111111111")
COPY = UUID("22222222-2222-4222-8222-222222222222")
BOB = UUID("33333333-3333-4333-8333-333333333333")
OLD_NS = 1_700_000_000_123_456_789


@dataclass(frozen=True, slots=True)
class Pair:
    """A source's file and where the copy's is to be."""

    source: Path
    target: Path

    def task(self, *, shared: bool = True) -> FileTask:
        return FileTask(str(self.source), str(self.target), shared=shared)


@pytest.fixture
def pair(roots: Roots) -> Pair:
    source = roots.media / "thumbs" / "carol" / "a.jpeg"
    source.parent.mkdir(parents=True)
    source.write_bytes(b"picture")
    os.utime(source, ns=(OLD_NS, OLD_NS))
    return Pair(source, roots.media / "thumbs" / "bob" / "11" / "22" / "b.jpeg")


def partials(root: Path) -> list[Path]:
    return list(root.rglob("*.partial"))


def same_inode(one: Path, other: Path) -> bool:
    return os.path.samestat(one.lstat(), other.lstat())


# --- hardlinks ---------------------------------------------------------------------------------------------


def test_a_shared_file_is_one_inode_and_the_second_time_nothing_happens(layout: Layout, pair: Pair) -> None:
    assert place(pair.task(), layout, "auto") == "hardlink"
    assert same_inode(pair.source, pair.target)
    assert place(pair.task(), layout, "auto") == "unchanged"
    assert pair.source.stat().st_nlink == 2
    assert partials(layout.media_root) == []


def test_a_file_that_immich_replaced_is_linked_anew(layout: Layout, pair: Pair) -> None:
    place(pair.task(), layout, "auto")
    fresh = pair.source.with_name("fresh")
    fresh.write_bytes(b"new picture")
    fresh.replace(pair.source)
    assert pair.target.read_bytes() == b"picture"
    assert place(pair.task(), layout, "auto") == "hardlink"
    assert pair.target.read_bytes() == b"new picture"


def test_what_immich_writes_in_place_is_shared_already(layout: Layout, pair: Pair) -> None:
    place(pair.task(), layout, "auto")
    pair.source.write_bytes(b"new picture")
    assert place(pair.task(), layout, "auto") == "unchanged"
    assert pair.target.read_bytes() == b"new picture"


def test_another_file_in_the_place_of_a_link_is_replaced_and_not_written_to(layout: Layout, pair: Pair) -> None:
    pair.target.parent.mkdir(parents=True)
    pair.target.write_bytes(b"old")
    other = pair.target.with_name("other-name-of-old")
    other.hardlink_to(pair.target)
    place(pair.task(), layout, "auto")
    assert other.read_bytes() == b"old"
    assert same_inode(pair.source, pair.target)


@pytest.mark.parametrize("number", sorted(CANNOT))
def test_where_hardlinks_cannot_be_there_is_a_copy(
    layout: Layout, pair: Pair, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    assert place(pair.task(), layout, "auto") in {"copy", "reflink"}
    assert pair.target.read_bytes() == b"picture"
    assert not same_inode(pair.source, pair.target)
    assert place(pair.task(), layout, "auto") == "unchanged"
    assert partials(layout.media_root) == []
    pair.target.unlink()
    with pytest.raises(FileProblemError, match="cannot make") as refused:
        place(pair.task(), layout, "hardlink")
    assert refused.value.kind == errno.errorcode[number]
    assert not pair.target.exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_want_of_room_is_no_reason_to_copy(
    layout: Layout, pair: Pair, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(FileProblemError) as refused:
        place(pair.task(), layout, "auto")
    assert refused.value.kind == errno.errorcode[number]
    assert not pair.target.exists()


@pytest.fixture
def other_filesystem() -> Iterator[Path]:
    shared_memory = Path("/dev/shm")
    if not shared_memory.is_dir() or shared_memory.stat().st_dev == Path(tempfile.gettempdir()).stat().st_dev:
        pytest.skip("this machine has no second file system for tests")
    folder = Path(tempfile.mkdtemp(dir=shared_memory))
    yield folder
    shutil.rmtree(folder)


def test_across_file_systems_a_hardlink_gives_way_to_a_copy(pair: Pair, other_filesystem: Path) -> None:
    """As where thumbs lie on a disk of their own. The walls are left out: two file systems have no root of ours."""
    target = other_filesystem / "bob" / "b.jpeg"
    root, means = Root(other_filesystem), Means()
    with held(pair.source, Root(pair.source.parent)) as origin:
        assert files._hardlink(origin, pair.source, target, root, "auto", means) is None
        assert files._copy(origin, target, root, means) == "copy"
        assert (target.read_bytes(), target.stat().st_mtime_ns) == (b"picture", OLD_NS)
        assert files._copy(origin, target, root, means) == "unchanged"
        with pytest.raises(OSError, match="cross-device") as refused:
            files._hardlink(origin, pair.source, other_filesystem / "c.jpeg", root, "hardlink", means)
    assert refused.value.errno == errno.EXDEV


# --- copies ------------------------------------------------------------------------------------------------


def test_an_own_copy_has_the_bytes_and_the_time_and_an_inode_of_its_own(layout: Layout, pair: Pair) -> None:
    assert place(pair.task(shared=False), layout, "auto") in {"copy", "reflink"}
    assert pair.target.read_bytes() == b"picture"
    assert pair.target.stat().st_mtime_ns == OLD_NS
    assert not same_inode(pair.source, pair.target)
    before = pair.target.stat().st_ino
    assert place(pair.task(shared=False), layout, "auto") == "unchanged"
    assert pair.target.stat().st_ino == before


@pytest.mark.parametrize("content", [b"picturE", b"longer picture", b""])
def test_a_copy_of_a_changed_source_is_made_anew(layout: Layout, pair: Pair, content: bytes) -> None:
    place(pair.task(shared=False), layout, "auto")
    pair.source.write_bytes(content)
    assert place(pair.task(shared=False), layout, "auto") in {"copy", "reflink"}
    assert pair.target.read_bytes() == content


def test_a_hardlink_where_an_own_copy_belongs_is_parted(layout: Layout, pair: Pair) -> None:
    place(pair.task(shared=True), layout, "auto")
    assert place(pair.task(shared=False), layout, "auto") in {"copy", "reflink"}
    assert not same_inode(pair.source, pair.target)
    pair.target.write_bytes(b"bob's edit")
    assert pair.source.read_bytes() == b"picture"


def test_a_copy_where_a_hardlink_belongs_becomes_one(layout: Layout, pair: Pair) -> None:
    place(pair.task(shared=False), layout, "auto")
    assert place(pair.task(shared=True), layout, "auto") == "hardlink"
    assert same_inode(pair.source, pair.target)


def test_mode_copy_never_hardlinks(layout: Layout, pair: Pair) -> None:
    assert place(pair.task(), layout, "copy") in {"copy", "reflink"}
    assert pair.source.stat().st_nlink == 1


def test_a_big_file_is_copied_whole(layout: Layout, pair: Pair) -> None:
    content = os.urandom(3 * (1 << 20) + 17)
    pair.source.write_bytes(content)
    place(pair.task(shared=False), layout, "auto")
    assert pair.target.read_bytes() == content


@pytest.mark.parametrize("shared", [True, False])
def test_what_a_crash_left_halfway_is_replaced_and_never_written_through(
    layout: Layout, pair: Pair, shared: bool
) -> None:
    """A partial that is a hardlink of the source's file must not be opened for writing."""
    pair.target.parent.mkdir(parents=True)
    partial = pair.target.with_name(f"{pair.target.name}.partial")
    partial.hardlink_to(pair.source)
    place(pair.task(shared=shared), layout, "auto")
    assert pair.source.read_bytes() == pair.target.read_bytes() == b"picture"
    assert same_inode(pair.source, pair.target) is shared
    assert partials(layout.media_root) == []


def test_a_copy_that_breaks_off_leaves_the_old_file(
    layout: Layout, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    place(pair.task(shared=False), layout, "auto")
    pair.source.write_bytes(b"something new")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(fcntl, "ioctl", full)
    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(FileProblemError, match="No space left") as refused:
        place(pair.task(shared=False), layout, "auto")
    assert refused.value.kind == "ENOSPC"
    assert pair.target.read_bytes() == b"picture"
    # A disk that is full must not stay full of halves.
    assert partials(layout.media_root) == []


def test_a_missing_source_is_told_by_its_name(layout: Layout, pair: Pair) -> None:
    pair.source.unlink()
    with pytest.raises(FileProblemError, match="is missing") as refused:
        place(pair.task(), layout, "auto")
    assert refused.value.kind == "missing"
    assert str(pair.source) in str(refused.value)
    assert not pair.target.exists()


def test_a_folder_in_the_way_is_told(layout: Layout, pair: Pair) -> None:
    pair.target.mkdir(parents=True)
    with pytest.raises(FileProblemError, match="cannot make"):
        place(pair.task(), layout, "auto")
    assert pair.target.is_dir()
    assert partials(layout.media_root) == []


# --- removal -----------------------------------------------------------------------------------------------


def test_removal_takes_files_of_this_id_only(layout: Layout) -> None:
    (folder, video) = layout.folders_of(COPY, BOB)
    folder.mkdir(parents=True)
    for name in (
        f"{COPY}_preview.jpeg",
        f"{COPY}-thumbnail.webp",
        f"{COPY}_new_preview.jpeg.partial",
        f"{SOURCE}_preview.jpeg",
    ):
        (folder / name).write_text("x")
    assert not video.exists()
    assert remove_files(layout, (folder, video), str(COPY), ()) == 3
    assert [path.name for path in folder.iterdir()] == [f"{SOURCE}_preview.jpeg"]
    assert remove_files(layout, (folder, video), str(COPY), ()) == 0


def test_removal_never_takes_a_named_file_of_another_id(layout: Layout, pair: Pair) -> None:
    assert remove_files(layout, (), str(COPY), [str(pair.source)]) == 0
    assert pair.source.exists()


def test_a_named_file_outside_the_media_root_is_never_removed(layout: Layout, tmp_path: Path) -> None:
    """What a mark names there is a link or an XMP, and none of the generated files."""
    outside = tmp_path / f"{COPY}_preview.jpeg"
    outside.write_text("x")
    assert remove_files(layout, (), str(COPY), [str(outside)]) == 0
    with pytest.raises(FileProblemError) as refused:
        remove_files(layout, (), str(COPY), [f"{layout.media_root}/../{outside.name}"])
    assert refused.value.kind == "refused"
    assert outside.exists()


def test_removing_a_hardlink_leaves_the_sources_file(layout: Layout, pair: Pair) -> None:
    target = layout.folders_of(COPY, BOB)[0] / f"{COPY}_preview.jpeg"
    place(FileTask(str(pair.source), str(target), shared=True), layout, "auto")
    remove_files(layout, layout.folders_of(COPY, BOB), str(COPY), [str(target)])
    assert pair.source.read_bytes() == b"picture"
