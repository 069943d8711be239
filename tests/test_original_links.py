"""The links of originals: made, moved and taken away below the prefix of their job, and nowhere else."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from listener.immich.layout import Layout
from listener.sync.clearing import remove_beside
from listener.sync.files import FileProblemError, OriginalLinks
from tests.conftest import Roots

pytest_plugins = ("tests.file_fixtures",)


@dataclass(frozen=True, slots=True)
class Originals:
    links: OriginalLinks
    source: Path
    target: Path
    layout: Layout

    def remove(self, path: Path | str) -> bool:
        return remove_beside(self.layout, str(self.target), str(path))


@pytest.fixture
def originals(layout: Layout, roots: Roots) -> Originals:
    source, target = roots.external / "carol", roots.external / "shared" / "bob"
    source.mkdir()
    target.mkdir(parents=True)
    (source / "a.jpg").write_bytes(b"original")
    return Originals(OriginalLinks(layout, str(target)), source, target, layout)


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
    assert originals.remove(path) is False
    assert path.exists()
    assert not path.is_symlink()


def test_a_name_as_long_as_a_name_can_be_is_linked(originals: Originals) -> None:
    name = "x" * 251 + ".jpg"
    original = originals.source / name
    original.write_bytes(b"original")
    path = originals.target / name
    assert originals.links.link(str(path), str(original)) == "symlink"
    assert originals.remove(path) is True


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
    assert originals.remove(one) is True
    assert not (originals.target / "2024" / "05").exists()
    assert two.is_symlink()
    originals.remove(two)
    assert list(originals.target.iterdir()) == []
    assert originals.remove(two) is False
    assert (originals.source / "a.jpg").read_bytes() == b"original"


def test_a_prefix_that_leads_to_the_sources_folder_is_never_linked_or_unlinked_in(
    layout: Layout, originals: Originals, roots: Roots
) -> None:
    prefix = roots.external / "shared" / "through"
    prefix.symlink_to(originals.source)
    links = OriginalLinks(layout, str(prefix))
    assert links.directory
    (originals.source / "link.jpg").symlink_to("a.jpg")
    for name in ("link.jpg", "a.jpg"):
        assert remove_beside(layout, str(prefix), str(prefix / name)) is False
    assert sorted(path.name for path in originals.source.iterdir()) == ["a.jpg", "link.jpg"]


def test_an_external_root_that_is_itself_a_symlink_is_no_danger(roots: Roots, tmp_path: Path) -> None:
    """Docker volumes are often mounted through one."""
    root = tmp_path / "root"
    root.symlink_to(roots.external)
    (roots.external / "carol").mkdir()
    (roots.external / "carol" / "a.jpg").write_bytes(b"original")
    layout = Layout(roots.media, root)
    links = OriginalLinks(layout, str(root / "bob"))
    assert not links.directory
    original = root / "carol" / "a.jpg"
    assert links.modified_ns(str(original)) == original.stat().st_mtime_ns
    assert links.link(str(root / "bob" / "a.jpg"), str(root / "carol" / "a.jpg")) == "symlink"
    assert remove_beside(layout, str(root / "bob"), str(root / "bob" / "a.jpg")) is True


@pytest.mark.parametrize("name", ["../x.jpg", "a/../../x.jpg", "a//x.jpg", "./x.jpg", "", "a/", "..", "x\0.jpg"])
def test_a_link_path_that_is_not_plainly_below_the_prefix_is_refused(originals: Originals, name: str) -> None:
    path = f"{originals.target}/{name}"
    with pytest.raises(FileProblemError) as refused:
        originals.links.link(path, "/x")
    assert refused.value.kind == "refused"


def test_what_lies_outside_or_behind_a_symlink_is_never_removed(originals: Originals, roots: Roots) -> None:
    """A target user may write to their folder: what they put in the way leads nowhere."""
    own, behind = roots.external / "own.jpg", originals.source / "own.jpg"
    for link in (own, behind, roots.external.parent / "own.jpg"):
        link.symlink_to("nowhere")
    (originals.target / "trip").symlink_to(originals.source)
    for path in (
        f"{originals.target}/../../own.jpg",
        f"{roots.external}/../own.jpg",
        f"{originals.target}/trip/own.jpg",
    ):
        assert originals.remove(path) is False
    assert own.is_symlink()
    assert behind.is_symlink()
    assert (roots.external.parent / "own.jpg").is_symlink()


def test_the_xmp_beside_a_link_goes_and_no_other_file(originals: Originals) -> None:
    xmp, photo = originals.target / "a.jpg.xmp", originals.target / "a.jpg"
    for path in (xmp, photo):
        path.write_text("bob's own")
    assert originals.remove(photo) is False
    assert originals.remove(xmp) is True
    assert photo.exists()
    assert not xmp.exists()
