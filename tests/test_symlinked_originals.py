"""An original that is itself a symlink out of the shared folder is no source: it may be a copy that was made once."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from listener.immich.layout import Layout
from listener.sync.files import FileProblemError, OriginalLinks
from tests.conftest import ImmichDatabase, Roots, eventually
from tests.disks import HEALS_WITHIN, failed, healed
from tests.house import add_library, add_user
from tests.photos import PhotoHouse, add_rows, evented_house

pytest_plugins = ("tests.file_fixtures",)


@pytest.fixture
def carol(immich: ImmichDatabase, roots: Roots, tmp_path: Path) -> PhotoHouse:
    return evented_house(immich, roots, tmp_path)


def test_such_a_photo_is_refused_alone_and_comes_when_the_file_itself_is_there(carol: PhotoHouse, roots: Roots) -> None:
    photos = carol.plan(3)
    elsewhere = roots.external / "dave" / "private.jpg"
    elsewhere.parent.mkdir()
    elsewhere.write_text("dave's")
    with carol.house.running() as process:
        carol.add(2, start=50)
        for photo in photos:
            photo.original.parent.mkdir(exist_ok=True)
            for path in (photo.preview, photo.thumbnail):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(str(path))
            photo.original.symlink_to(elsewhere)
        carol.rows(photos)
        for photo in photos:
            reason = failed(carol, photo, "is itself a symlink", process)
            assert str(elsewhere) in reason
        eventually(lambda: carol.copies() == 2, within=HEALS_WITHIN, describe=lambda: process.output[-3000:])
        for photo in photos:
            photo.original.unlink()
            photo.original.write_text("carol's")
        healed(carol, 5, process)


def test_copies_that_nobody_knows_as_copies_are_not_shared_on(carol: PhotoHouse, roots: Roots) -> None:
    """After ``uninstall --purge`` bob's former copies are external photos of his, like any other."""
    house = carol.house
    carol.add(2)
    with house.running() as process:
        healed(carol, 2, process)
    assert house.command("triggers", "uninstall", "--purge", "--yes").returncode == 0
    house.install_triggers()
    conninfo = house.immich.conninfo
    dave = add_user(conninfo, house.immich.release, "dave")
    library = add_library(conninfo, dave, str(roots.external / "shared" / "dave_"))
    first = house.jobs[0]
    onward = replace(
        first,
        name="onward",
        source_user_id=first.target_user_id,
        source_path_prefix=first.target_path_prefix,
        target_user_id=dave,
        target_library_id=library,
        target_path_prefix=str(roots.external / "shared" / "dave_photos"),
    )
    with replace(house, jobs=(onward,), as_immich=True).running() as process:
        eventually(lambda: len(carol.failures()) == 2, within=HEALS_WITHIN, describe=lambda: process.output[-3000:])
        assert all("is itself a symlink" in reason for reason, _ in carol.failures().values())
        # A file of his own among them is shared.
        own = replace(carol.plan(1, start=70)[0], original=Path(first.target_path_prefix) / "own.jpg")
        for path in (own.original, own.preview, own.thumbnail):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(str(path))
        add_rows(conninfo, first.target_user_id, [own], library=first.target_library_id)
        eventually(lambda: carol.copied(own), within=HEALS_WITHIN, describe=lambda: process.output[-3000:])
    assert house.query('SELECT count(*) FROM asset WHERE "ownerId" = %s', dave) == [(1,)]


def test_what_stays_within_the_library_is_a_source(layout: Layout, roots: Roots) -> None:
    source, disk, other = (roots.external / name for name in ("carol", "disk", "carol's"))
    for folder in (source / "2024", disk, other):
        folder.mkdir(parents=True)
    for file in (source / "a.jpg", disk / "b.jpg", other / "c.jpg"):
        file.write_text(file.name)
        os.utime(file, ns=(1, 5))
    links = OriginalLinks(layout, str(roots.external / "shared" / "bob"), str(source))
    (source / "2024" / "a.jpg").symlink_to("../a.jpg")
    # A folder of the library may be a symlink, and a link in it may lead to its neighbour.
    (source / "disk").symlink_to(disk)
    (disk / "neighbour.jpg").symlink_to("b.jpg")
    for name in ("a.jpg", "2024/a.jpg", "disk/b.jpg", "disk/neighbour.jpg"):
        assert links.modified_ns(f"{source}/{name}") == 5, name
    for name, leads in (
        ("out.jpg", other / "c.jpg"),
        ("again.jpg", "2024/../out.jpg"),
        ("gone.jpg", other / "gone.jpg"),
    ):
        (source / name).symlink_to(leads)
        with pytest.raises(FileProblemError, match="is itself a symlink") as refused:
            links.modified_ns(f"{source}/{name}")
        assert refused.value.kind == "refused"
    (source / "dangling.jpg").symlink_to("nowhere.jpg")
    with pytest.raises(FileProblemError, match="is missing"):
        links.modified_ns(f"{source}/dangling.jpg")
