"""Files of copies: what is made, what is left alone, and that nothing outside the roots is ever touched."""

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from listener.immich.layout import Layout, RefusedPathError, path_checksum
from listener.settings import Job
from listener.sync import files
from listener.sync.files import FileProblemError, FileTask, OriginalLinks, place, remove_files
from listener.sync.folders import held
from tests.conftest import Roots

SOURCE = UUID("11111111-1111-4111-8111-111111111111")
COPY = UUID("22222222-2222-4222-8222-222222222222")
BOB = UUID("33333333-3333-4333-8333-333333333333")
OLD_NS = 1_700_000_000_123_456_789


@pytest.fixture
def layout(roots: Roots) -> Layout:
    return Layout(roots.media, roots.external)


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


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.EACCES])
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


def test_any_other_trouble_with_a_hardlink_is_no_reason_to_copy(
    layout: Layout, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(FileProblemError) as refused:
        place(pair.task(), layout, "auto")
    assert refused.value.kind == "EIO"
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
    with held(pair.source, pair.source.parent) as origin:
        assert files._hardlink(origin, target, other_filesystem, "auto") is None
        assert files._copy(origin, target, other_filesystem) == "copy"
        assert (target.read_bytes(), target.stat().st_mtime_ns) == (b"picture", OLD_NS)
        assert files._copy(origin, target, other_filesystem) == "unchanged"
        with pytest.raises(OSError, match="cross-device") as refused:
            files._hardlink(origin, other_filesystem / "c.jpeg", other_filesystem, "hardlink")
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


# --- the links of originals --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Originals:
    links: OriginalLinks
    source: Path
    target: Path


@pytest.fixture
def originals(layout: Layout, roots: Roots) -> Originals:
    source, target = roots.external / "carol", roots.external / "shared" / "bob"
    source.mkdir()
    target.mkdir(parents=True)
    (source / "a.jpg").write_bytes(b"original")
    return Originals(OriginalLinks(layout, str(target)), source, target)


def test_an_original_is_linked_once_and_again_when_it_moved(originals: Originals) -> None:
    path, original = originals.target / "2024" / "a.jpg", originals.source / "a.jpg"
    assert originals.links.link(str(path), str(original)) == "symlink"
    assert os.readlink(path) == str(original)  # noqa: PTH115 - the text, not a path made of it
    assert originals.links.link(str(path), str(original)) == "unchanged"
    moved = originals.source / "b.jpg"
    assert originals.links.link(str(path), str(moved)) == "symlink"
    assert path.readlink() == moved


def test_a_link_is_made_also_while_its_original_is_away(originals: Originals) -> None:
    path = originals.target / "gone.jpg"
    originals.links.link(str(path), str(originals.source / "gone.jpg"))
    assert path.is_symlink()
    assert originals.links.link(str(path), str(originals.source / "gone.jpg")) == "unchanged"


@pytest.mark.parametrize(
    "make", [lambda path: path.write_bytes(b"bob's"), lambda path: path.mkdir()], ids=["file", "folder"]
)
def test_what_is_not_a_link_is_left_alone(originals: Originals, make: Callable[[Path], object]) -> None:
    path = originals.target / "a.jpg"
    make(path)
    with pytest.raises(FileProblemError, match="in the way"):
        originals.links.link(str(path), str(originals.source / "a.jpg"))
    assert originals.links.unlink(str(path)) is False
    assert path.exists()
    assert not path.is_symlink()


def test_a_name_as_long_as_a_name_can_be_is_linked(originals: Originals) -> None:
    name = "x" * 251 + ".jpg"
    original = originals.source / name
    original.write_bytes(b"original")
    path = originals.target / name
    assert originals.links.link(str(path), str(original)) == "symlink"
    assert originals.links.unlink(str(path)) is True


def test_a_file_of_the_users_beside_a_link_is_left_alone_whatever_its_name(originals: Originals) -> None:
    own = originals.target / "a.jpg.partial"
    own.write_text("bob's own")
    originals.links.link(str(originals.target / "a.jpg"), str(originals.source / "a.jpg"))
    assert own.read_text() == "bob's own"


def test_links_of_names_that_are_alike_do_not_disturb_each_other(originals: Originals) -> None:
    names = ["a.jpg.partial", "a.jpg", "a.jpg.partial.partial"]
    for name in names:
        originals.links.link(str(originals.target / name), str(originals.source / name))
    assert [(originals.target / name).readlink() for name in names] == [originals.source / name for name in names]


def test_unlinking_takes_empty_folders_with_it_up_to_the_prefix(originals: Originals) -> None:
    one, two = originals.target / "2024" / "05" / "a.jpg", originals.target / "2024" / "b.jpg"
    for path in (one, two):
        originals.links.link(str(path), str(originals.source / "a.jpg"))
    assert originals.links.unlink(str(one)) is True
    assert not (originals.target / "2024" / "05").exists()
    assert two.is_symlink()
    originals.links.unlink(str(two))
    assert list(originals.target.iterdir()) == []
    assert originals.links.unlink(str(two)) is False
    assert (originals.source / "a.jpg").read_bytes() == b"original"


def test_a_prefix_that_leads_to_the_sources_folder_is_never_linked_or_unlinked_in(
    layout: Layout, originals: Originals, roots: Roots
) -> None:
    prefix = roots.external / "shared" / "through"
    prefix.symlink_to(originals.source)
    links = OriginalLinks(layout, str(prefix))
    assert links.directory
    (originals.source / "link.jpg").symlink_to("a.jpg")
    assert links.unlink(str(prefix / "link.jpg")) is False
    assert links.unlink(str(prefix / "a.jpg")) is False
    assert sorted(path.name for path in originals.source.iterdir()) == ["a.jpg", "link.jpg"]


def test_an_external_root_that_is_itself_a_symlink_is_no_danger(roots: Roots, tmp_path: Path) -> None:
    """Docker volumes are often mounted through one."""
    root = tmp_path / "root"
    root.symlink_to(roots.external)
    (roots.external / "carol").mkdir()
    (roots.external / "carol" / "a.jpg").write_bytes(b"original")
    links = OriginalLinks(Layout(roots.media, root), str(root / "bob"))
    assert not links.directory
    assert links.modified_ns(str(root / "carol" / "a.jpg")) > 0
    assert links.link(str(root / "bob" / "a.jpg"), str(root / "carol" / "a.jpg")) == "symlink"
    assert links.unlink(str(root / "bob" / "a.jpg")) is True


@pytest.mark.parametrize("name", ["../x.jpg", "a/../../x.jpg", "a//x.jpg", "./x.jpg", "", "a/", "..", "x\0.jpg"])
def test_a_link_path_that_is_not_plainly_below_the_prefix_is_refused(originals: Originals, name: str) -> None:
    path = f"{originals.target}/{name}"
    for act in (lambda: originals.links.link(path, "/x"), lambda: originals.links.unlink(path)):
        with pytest.raises(FileProblemError) as refused:
            act()
        assert refused.value.kind == "refused"


def test_the_prefix_of_somebody_with_a_longer_name_is_not_ours(originals: Originals, roots: Roots) -> None:
    other = roots.external / "shared" / "bobby"
    other.mkdir()
    (other / "a.jpg").symlink_to("nowhere")
    with pytest.raises(FileProblemError):
        originals.links.unlink(str(other / "a.jpg"))
    assert (other / "a.jpg").is_symlink()


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


def test_removal_of_a_named_file_outside_the_media_root_is_refused(layout: Layout, tmp_path: Path) -> None:
    outside = tmp_path / f"{COPY}_preview.jpeg"
    outside.write_text("x")
    for path in (str(outside), f"{layout.media_root}/../{outside.name}"):
        with pytest.raises(FileProblemError) as refused:
            remove_files(layout, (), str(COPY), [path])
        assert refused.value.kind == "refused"
    assert outside.exists()


def test_removing_a_hardlink_leaves_the_sources_file(layout: Layout, pair: Pair) -> None:
    target = layout.folders_of(COPY, BOB)[0] / f"{COPY}_preview.jpeg"
    place(FileTask(str(pair.source), str(target), shared=True), layout, "auto")
    remove_files(layout, layout.folders_of(COPY, BOB), str(COPY), [str(target)])
    assert pair.source.read_bytes() == b"picture"


# --- the layout --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("thumbs/carol/11/11/{source}_preview.jpeg", "thumbs/{bob}/22/22/{copy}_preview.jpeg"),
        ("thumbs/carol/11/11/{source}-preview.jpeg", "thumbs/{bob}/22/22/{copy}-preview.jpeg"),
        ("thumbs/carol/11/11/{source}_preview_edited.jpeg", "thumbs/{bob}/22/22/{copy}_preview_edited.jpeg"),
        ("encoded-video/carol/11/11/{source}.mp4", "encoded-video/{bob}/22/22/{copy}.mp4"),
        ("library/carol/odd.webp", "thumbs/{bob}/22/22/{copy}_preview.webp"),
        ("thumbs/no extension", "thumbs/{bob}/22/22/{copy}_preview"),
    ],
)
def test_files_of_copies_are_named_as_immich_names_them(layout: Layout, name: str, expected: str) -> None:
    names = {"source": SOURCE, "copy": COPY, "bob": BOB}
    made = layout.copy_file(f"{layout.media_root}/{name.format(**names)}", SOURCE, COPY, BOB, "preview")
    assert made == f"{layout.media_root}/{expected.format(**names)}"


def test_a_generated_file_outside_the_media_root_has_no_name(layout: Layout) -> None:
    for path in ("/etc/passwd", f"{layout.media_root}/../x.jpeg", f"{layout.media_root}x/a.jpeg", ""):
        with pytest.raises(RefusedPathError):
            layout.copy_file(path, SOURCE, COPY, BOB, "preview")


def test_a_path_checksum_is_immichs() -> None:
    assert path_checksum("/a/é.jpg").hex() == "87ee762a7edc79a3f0a50477b1e11e806437ee02"


# --- hostile paths -----------------------------------------------------------------------------------------

NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=20
)
PARTS = st.lists(st.sampled_from(["..", ".", "", "out", "in", "a", "deep", "way out"]) | NAMES, min_size=1, max_size=6)


@dataclass(frozen=True, slots=True)
class Trap:
    """Roots with symlinks in and out, and a world outside that must stay as it is."""

    layout: Layout
    outside: Path
    links: OriginalLinks

    @property
    def world(self) -> dict[str, tuple[int, int, bytes]]:
        """Everything outside the roots' own folders for copies: name to links, time and content."""
        return {
            str(path): (path.lstat().st_nlink, path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
            for path in sorted(self.outside.rglob("*"))
        }


@pytest.fixture(scope="module")
def trap(tmp_path_factory: pytest.TempPathFactory) -> Trap:
    folder = tmp_path_factory.mktemp("trap")
    media, external, outside = folder / "data", folder / "external_library", folder / "outside"
    for root in (media, external):
        (root / "bob" / "in" / "deep").mkdir(parents=True)
        (root / "bob" / "out").symlink_to(outside)
        (root / "bob" / "way out").symlink_to("../../outside")
    outside.mkdir()
    (outside / "a").write_text("secret")
    (outside / "in").mkdir()
    (outside / "in" / "a").write_text("secret")
    (media / "source.jpeg").write_text("picture")
    layout = Layout(media, external)
    return Trap(layout, outside, OriginalLinks(layout, str(external / "bob")))


@settings(max_examples=150, deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
@given(parts=PARTS, shared=st.booleans())
def test_nothing_outside_the_roots_is_touched(trap: Trap, parts: list[str], shared: bool) -> None:
    before = trap.world
    media, external, path = str(trap.layout.media_root), str(trap.layout.external_root), "/".join(parts)
    hostile = f"{media}/bob/{path}"
    for act in (
        lambda: place(FileTask(f"{media}/source.jpeg", hostile, shared=shared), trap.layout, "auto"),
        lambda: place(FileTask(hostile, f"{media}/bob/taken", shared=shared), trap.layout, "auto"),
        lambda: trap.links.link(f"{external}/bob/{path}", f"{external}/carol/a.jpg"),
        lambda: trap.links.unlink(f"{external}/bob/{path}"),
        lambda: trap.links.modified_ns(f"{external}/bob/{path}"),
        lambda: remove_files(trap.layout, (), parts[-1], [hostile]),
    ):
        with contextlib.suppress(FileProblemError):
            act()
    assert trap.world == before
    with contextlib.suppress(FileNotFoundError):
        assert b"secret" not in Path(f"{media}/bob/taken").read_bytes()


@settings(max_examples=100, deadline=None, print_blob=True)
@given(name=NAMES.filter(lambda name: name not in {".", ".."} and len(name.encode()) < 200))
def test_every_name_that_a_file_can_have_is_linked_and_unlinked(trap: Trap, name: str) -> None:
    job = Job(
        "j", "external", SOURCE, BOB, COPY, f"{trap.layout.external_root}/carol", f"{trap.layout.external_root}/bob"
    )
    original = f"{job.source_path_prefix}/{name}/{name}"
    path = trap.layout.copy_original(job, original)
    assert path == f"{job.target_path_prefix}/{name}/{name}"
    if name in {"in", "out", "way out"}:
        return
    trap.links.link(path, original)
    assert os.readlink(path) == original  # noqa: PTH115 - the text, not a path made of it
    assert trap.links.unlink(path) is True
    assert not Path(path).parent.exists()


@given(parts=PARTS)
def test_a_relative_path_is_given_back_or_refused_never_changed(parts: list[str]) -> None:
    layout = Layout(Path("/data"), Path("/external_library"))
    path = "/".join(parts)
    try:
        rest = layout.relative(f"/external_library/x/{path}", "/external_library/x")
    except RefusedPathError:
        assert any(part in {"", ".", ".."} for part in path.split("/"))
    else:
        assert rest == path
        assert os.path.normpath(f"/r/{rest}") == f"/r/{path}"


def test_ids_of_every_kind_have_folders_of_their_own(layout: Layout) -> None:
    one, other = uuid4(), uuid4()
    assert set(layout.folders_of(one, BOB)).isdisjoint(layout.folders_of(one, SOURCE))
    assert layout.person_thumbnail(one, BOB, ".jpeg") != layout.person_thumbnail(other, BOB, ".jpeg")
