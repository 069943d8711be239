"""Paths of files and links: the layout names them, and none leads out of the roots, however hostile it is."""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from listener.immich.layout import Layout, RefusedPathError, path_checksum
from listener.settings import Job
from listener.sync.clearing import remove_beside, remove_files
from listener.sync.files import FileProblemError, FileTask, OriginalLinks, place
from tests.test_files import BOB, COPY, SOURCE

pytest_plugins = ("tests.file_fixtures",)


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
        lambda: remove_beside(trap.layout, f"{external}/bob", f"{external}/bob/{path}"),
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
    assert remove_beside(trap.layout, job.target_path_prefix, path) is True
    assert not Path(path).parent.exists()


@given(parts=PARTS)
def test_a_relative_path_is_refused_or_given_back_in_plain_form(parts: list[str]) -> None:
    layout = Layout(Path("/data"), Path("/external_library"))
    path = "/".join(parts)
    try:
        rest = layout.relative(f"/external_library/x/{path}", "/external_library/x")
    except RefusedPathError:
        assert ".." in path.split("/") or not path.replace(".", "").strip("/")
    else:
        assert ".." not in rest.split("/")
        assert f"/r/{rest}" == os.path.normpath(f"/r/{path}")


def test_ids_of_every_kind_have_folders_of_their_own(layout: Layout) -> None:
    one, other = uuid4(), uuid4()
    assert set(layout.folders_of(one, BOB)).isdisjoint(layout.folders_of(one, SOURCE))
    assert layout.person_thumbnail(one, BOB, ".jpeg") != layout.person_thumbnail(other, BOB, ".jpeg")
