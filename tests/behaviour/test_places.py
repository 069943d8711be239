"""No row names a path that is not our link; only proof makes a row ours; an XMP goes with its copy."""

import os
import subprocess
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import psycopg
import pytest

from listener.standin.actor_rows import update
from tests.behaviour.conftest import Home
from tests.conftest import eventually

FAILURES = "SELECT source_asset_id FROM _face_sync_failure"


def failed(home: Home) -> set[object]:
    return {row[0] for row in home.house.query(FAILURES)}


def place(home: Home, name: str) -> Path:
    """Return where the link of a copy of this photo of the library belongs."""
    path = Path(home.house.jobs[0].target_path_prefix) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def test_somebodys_own_file_at_the_place_of_a_link_is_never_named_by_a_row(home: Home) -> None:
    """Whatever the target user does with the copy, Immich unlinks what its row names."""
    alice, bob = home.alice, home.bob
    library = alice.add_library(home.photos)
    own, folder, elsewhere = place(home, "file.jpg"), place(home, "folder.jpg"), place(home, "link.jpg")
    own.write_bytes(b"bob's only photo")
    folder.mkdir()
    elsewhere.symlink_to("bob's own")
    photos = alice.scan_library(library, ["file.jpg", "folder.jpg", "link.jpg", "other.jpg"])
    by_name = {alice.asset(id_)["originalFileName"]: id_ for id_ in photos}
    other = home.copied(by_name["other.jpg"])
    eventually(lambda: failed(home) == set(photos) - {by_name["other.jpg"]}, describe=lambda: failed(home))
    assert bob.assets() == [other]
    assert own.read_bytes() == b"bob's only photo"
    assert os.readlink(elsewhere) == "bob's own"  # noqa: PTH115 - the text

    # Put there later, in the place of the link: the copy is put away until it can be had again.
    taken = Path(bob.asset(other)["originalPath"])
    taken.unlink()
    taken.write_bytes(b"bob's as well")
    home.house.sweep()
    eventually(lambda: home.copy_of(by_name["other.jpg"]) is None)
    rows = home.house.query('SELECT "originalPath" FROM asset WHERE "ownerId" = %s', bob.user_id)
    assert str(taken) not in {row[0] for row in rows}
    taken.unlink()
    own.unlink()
    folder.rmdir()
    elsewhere.unlink()
    home.house.sweep()
    eventually(lambda: len(home.shown()) == 4, within=20)
    home.settled()
    assert home.copied(by_name["other.jpg"]) == other


@pytest.mark.variant
def test_a_new_copy_is_taken_back_where_something_comes_in_the_way_of_its_link(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    from listener.sync.assets import Rows  # noqa: PLC0415 - the moment between the rows and the link

    alice, bob = home.alice, home.bob
    library = alice.add_library(home.photos)
    own = place(home, "late.jpg")
    write = Rows.write

    async def late(*args: object, **how: object) -> object:
        written = await write(*args, **how)  # type: ignore[arg-type]
        own.write_bytes(b"bob's only photo")
        return written

    monkeypatch.setattr(Rows, "write", late)
    (photo,) = alice.scan_library(library, ["late.jpg"])
    eventually(lambda: failed(home) == {photo}, describe=lambda: failed(home))
    eventually(lambda: bob.assets() == [], describe=bob.assets)
    assert own.read_bytes() == b"bob's only photo"
    assert not list(home.roots.media.glob(f"thumbs/{bob.user_id}/*/*/*"))
    monkeypatch.setattr(Rows, "write", write)
    own.unlink()
    home.house.sweep()
    eventually(lambda: home.copy_of(photo), within=20)
    home.settled()


def test_photos_that_exchange_their_paths_keep_their_copies(home: Home) -> None:
    """Two uploads swap by a storage template; others move along a chain, each into the place of the next."""
    alice, bob = home.alice, home.bob
    one, two = alice.upload("a.jpg", template="2024/a.jpg"), alice.upload("b.jpg", template="2025/a.jpg")
    chain = [alice.upload(f"{n}.jpg", template=f"y/{n}.jpg") for n in range(3)]
    home.settled()
    copies = {photo: home.copied(photo) for photo in (one, two, *chain)}
    if home.release >= (2, 4):
        bob.describe(copies[one], "bob's words")
        home.settled()
    paths = {photo: alice.asset(photo)["originalPath"] for photo in (one, two)}
    with home.stopped():
        alice.move_by_storage_template(one, "2025/a.jpg")
        alice.move_by_storage_template(two, "2024/a.jpg")
        alice.move_by_storage_template(one, "2025/a.jpg")
        assert [alice.asset(photo)["originalPath"] for photo in (one, two)] == [paths[two], paths[one]]
        for number in reversed(range(3)):
            alice.move_by_storage_template(chain[number], f"y/{number + 1}.jpg")
    home.settled()
    assert {photo: home.copied(photo) for photo in copies} == copies
    for photo, copy in copies.items():
        assert os.readlink(bob.asset(copy)["originalPath"]) == alice.asset(photo)["originalPath"]  # noqa: PTH115
    if home.release >= (2, 4):
        assert [bob.exif(copies[photo])["description"] for photo in (one, two)] == ["bob's words", ""]
        bob.refresh_metadata(copies[one])
        bob.refresh_metadata(copies[two])
        home.settled()
        assert [bob.exif(copies[photo])["description"] for photo in (one, two)] == ["bob's words", ""]


def test_one_file_in_two_libraries_has_one_copy(home: Home) -> None:
    """Import paths overlap: two photos of one path. The second is left out, and takes its turn when the first goes."""
    alice = home.alice
    first, second = alice.add_library(home.photos), alice.add_library(home.photos)
    (one,) = alice.scan_library(first, ["x.jpg"])
    home.settled()
    (other,) = alice.scan_library(second)
    reasons = "SELECT reason FROM _face_sync_skipped WHERE source_asset_id = %s"
    eventually(lambda: home.house.query(reasons, other) == [("duplicate_path",)])
    home.settled()
    assert home.copy_of(other) is None
    assert failed(home) == set()
    alice.delete_library(first)
    home.settled()
    assert home.copy_of(one) is None
    assert home.copied(other)


@pytest.mark.releases(since="2.4.1")
def test_the_xmp_of_a_copy_goes_with_it_and_what_is_in_it_stays_its_users(home: Home) -> None:
    alice, bob = home.alice, home.bob
    library = alice.add_library(home.photos)
    photos = alice.scan_library(library, ["deleted.jpg", "trashed.jpg", "moved.jpg"])
    by_name = {alice.asset(id_)["originalFileName"]: id_ for id_ in photos}
    home.settled()
    xmps = {}
    for name, photo in by_name.items():
        copy = home.copied(photo)
        bob.describe(copy, f"bob's words on {name}")
        xmps[name] = Path(f"{bob.asset(copy)['originalPath']}.xmp")
    home.settled()
    assert all(xmp.exists() for xmp in xmps.values())
    alice.delete_for_good(by_name["deleted.jpg"])
    alice.trash(by_name["trashed.jpg"])
    path = Path(alice.asset(by_name["moved.jpg"])["originalPath"])
    path.rename(path.with_name("renamed.jpg"))
    alice.rows.execute(update("asset", {"id": by_name["moved.jpg"], "originalPath": path.with_name("renamed.jpg")}))
    eventually(lambda: home.copy_of(by_name["trashed.jpg"]) is None)
    home.settled()
    assert [xmp for xmp in xmps.values() if xmp.exists()] == []
    alice.restore(by_name["trashed.jpg"])
    home.settled()
    for name in ("trashed.jpg", "moved.jpg"):
        copy = home.copied(by_name[name])
        bob.refresh_metadata(copy)
        home.settled()
        assert bob.exif(copy)["description"] == f"bob's words on {name}"
        assert not bob.rows.where("asset_file", assetId=copy, type="sidecar") or home.release < (2, 4)


def test_a_locked_photo_goes_also_where_its_link_cannot_be_removed(home: Home) -> None:
    """The target user, who may write to their folder, puts a symlink in the place of one of ours; or removing fails."""
    alice, bob = home.alice, home.bob
    library = alice.add_library(home.photos)
    photos = alice.scan_library(library, ["trip/a.jpg", "other/b.jpg"])
    by_name = {alice.asset(id_)["originalFileName"]: id_ for id_ in photos}
    home.settled()
    swapped, failing = (home.copied(by_name[name]) for name in ("a.jpg", "b.jpg"))
    files = [Path(file["path"]) for copy in (swapped, failing) for file in bob.files_of(copy)]
    link = Path(bob.asset(failing)["originalPath"])
    folder = Path(bob.asset(swapped)["originalPath"]).parent
    folder.rename(folder.with_name("elsewhere"))
    folder.symlink_to(folder.with_name("elsewhere"))
    # Not even root may remove what is in it.
    held = link.parent
    immutable = subprocess.run(["chattr", "+i", held], check=False, capture_output=True).returncode == 0
    try:
        alice.lock(*photos)
        eventually(lambda: bob.assets() == [], describe=bob.assets)
        eventually(lambda: not [file for file in files if file.exists()])
        if immutable:
            eventually(lambda: failed(home) == {by_name["b.jpg"]}, describe=lambda: failed(home))
            assert link.is_symlink()
    finally:
        subprocess.run(["chattr", "-i", held], check=False, capture_output=True)
    home.house.sweep()
    eventually(lambda: not link.is_symlink(), within=20)
    eventually(lambda: failed(home) == set(), within=20, describe=lambda: failed(home))


@pytest.mark.variant
def test_a_link_goes_also_where_its_whole_folder_was_away_and_is_back(home: Home) -> None:
    alice, bob = home.alice, home.bob
    photo = alice.upload("a.jpg")
    home.settled()
    link = Path(bob.asset(home.copied(photo))["originalPath"])
    prefix = Path(home.house.jobs[1].target_path_prefix)
    prefix.rename(prefix.with_name("away"))
    alice.lock(photo)
    eventually(lambda: bob.assets() == [])
    eventually(lambda: failed(home) == {photo})
    prefix.with_name("away").rename(prefix)
    home.house.sweep()
    eventually(lambda: not link.is_symlink(), within=20)
    home.settled()


@pytest.mark.variant
def test_a_copy_goes_where_its_source_was_moved_out_while_the_target_prefix_changed(home: Home) -> None:
    alice, bob = home.alice, home.bob
    library = alice.add_library(home.photos.parent)
    (photo,) = alice.scan_library(library, [f"{home.photos.name}/a.jpg"])
    home.settled()
    home.stop()
    path = Path(alice.asset(photo)["originalPath"])
    path.rename(home.photos.parent / "private.jpg")
    alice.rows.execute(update("asset", {"id": photo, "originalPath": home.photos.parent / "private.jpg"}))
    home.house = replace(
        home.house,
        jobs=tuple(replace(job, target_path_prefix=job.target_path_prefix + "_new") for job in home.house.jobs),
    )
    home.start()
    eventually(lambda: bob.assets() == [], describe=bob.assets)
    home.settled()


def own_library(home: Home) -> Callable[..., UUID]:
    """Let bob import photos of his own into what becomes the target library."""
    library = home.house.jobs[0].target_library_id
    folder = Path(home.house.jobs[0].target_path_prefix)
    folder.mkdir(parents=True)
    home.house.query('UPDATE library SET "importPaths" = %s WHERE id = %s', [str(folder)], library)

    def scan(name: str) -> UUID:
        (own,) = home.bob.scan_library(library, [name])
        return UUID(str(own))

    return scan


@pytest.mark.parametrize("end", ["delete", "lock"])
def test_a_first_start_takes_no_photo_of_the_target_users_own_for_a_copy(
    new_home: Callable[[], Home], end: str
) -> None:
    """Until now both imported the photos by themselves, each with a file of their own; one of bob's is offline."""
    home = new_home()
    alice, bob = home.alice, home.bob
    scan = own_library(home)
    own, offline = scan("trip.jpg"), scan("offline.jpg")
    paths = [Path(bob.asset(id_)["originalPath"]) for id_ in (own, offline)]
    paths[1].rename(home.folder / "on a disk that is away.jpg")
    bob.scan_library(home.house.jobs[0].target_library_id)
    bob.describe(own, "bob's words")
    words = bob.exif(own)["description"]
    library = alice.add_library(home.photos)
    photos = alice.scan_library(library, ["trip.jpg", "offline.jpg", "fresh.jpg"])
    by_name = {alice.asset(id_)["originalFileName"]: id_ for id_ in photos}
    home.start()
    home.copied(by_name["fresh.jpg"])
    eventually(lambda: by_name["trip.jpg"] in failed(home))
    mapped = "SELECT 1 FROM _face_sync_asset_map WHERE target_asset_id = ANY(%s)"
    assert not home.house.query(mapped, [own, offline])
    if end == "delete":
        alice.delete_for_good(*photos)
    else:
        alice.lock(*photos)
    eventually(lambda: home.copy_of(by_name["fresh.jpg"]) is None)
    assert {own, offline} <= set(bob.assets())
    assert bob.exif(own)["description"] == words
    assert paths[0].is_file()
    assert not paths[0].is_symlink()


def test_a_source_that_is_locked_while_its_copy_is_made_gets_none(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """No notification comes, as where the queue of the server is over half full: the writing looks again."""
    from listener.sync.assets import Rows  # noqa: PLC0415 - the moment between the plan and the rows

    alice, bob = home.alice, home.bob
    write = Rows.write
    seen = list[object]()

    async def first_locked(self: Rows, *args: object, **how: object) -> object:
        with psycopg.connect(home.immich.conninfo, autocommit=True) as quiet:
            quiet.execute("SET face_sync.quiet = on")
            quiet.execute("UPDATE asset SET visibility = 'locked' WHERE \"ownerId\" = %s", [alice.user_id])
        written = await write(self, *args, **how)  # type: ignore[arg-type]
        seen.append(bob.assets())
        return written

    monkeypatch.setattr(Rows, "write", first_locked)
    alice.upload("a.jpg")
    eventually(lambda: seen)
    assert not any(seen), "it was committed"
    with suppress(TimeoutError):
        home.settled()
