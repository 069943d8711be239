"""What goes for a while is put out of sight with all that hangs on it; what is gone for good leaves a note."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from listener.standin.actor_rows import update
from tests.behaviour.conftest import Home
from tests.conftest import eventually


class Made:
    """What bob makes of a copy: all that a user can, in what this release of Immich has."""

    def __init__(self, home: Home, source: UUID) -> None:
        self._home = home
        bob = home.bob
        self.copy = home.copied(source)
        self.drawn = bob.draw_face(self.copy, bob.create_person("Granny"))
        self.album = bob.album_create("mine", self.copy)
        bob.album_share(self.album, home.alice.user_id)
        bob.tag("mine/holidays", self.copy)
        bob.favourite(self.copy)
        if home.release >= (2, 5):
            bob.crop(self.copy)
        self.link = uuid4()
        home.house.query("INSERT INTO shared_link (id) VALUES (%s)", self.link)
        plural = home.release < (2, 3)
        self._linked = "assetsId" if plural else "assetId"
        columns = f'"{"sharedLinksId" if plural else "sharedLinkId"}", "{self._linked}"'
        home.house.query(f"INSERT INTO shared_link_asset ({columns}) VALUES (%s, %s)", self.link, self.copy)  # noqa: S608
        if home.release >= (2, 4):
            bob.describe(self.copy, "bob's words")
            bob.rate(self.copy, 4)
        home.settled()
        self.before = self.now()
        assert self.before["tags"]

    def now(self) -> dict[str, object]:
        bob, query = self._home.bob, self._home.house.query
        exif = bob.exif(self.copy) if self._home.release >= (2, 4) else {"description": "", "rating": None}
        return {
            "face": self.drawn in {face["id"] for face in bob.faces_of(self.copy)},
            "album": bob.album_assets(self.album),
            "tags": bob.tags_of(self.copy),
            "favourite": bob.asset(self.copy)["isFavorite"],
            "visibility": bob.asset(self.copy)["visibility"],
            "edits": len(bob.rows.where("asset_edit", assetId=self.copy)) if self._home.release >= (2, 5) else 0,
            "link": len(query(f'SELECT 1 FROM shared_link_asset WHERE "{self._linked}" = %s', self.copy)),  # noqa: S608
            "typed": (exif["description"], exif["rating"]),
        }


def test_what_its_user_made_of_a_copy_is_there_again_when_its_source_is_back(home: Home) -> None:
    alice, bob = home.alice, home.bob
    library = alice.add_library(home.photos)
    (scanned,) = alice.scan_library(library, ["scanned.jpg"])
    upload = alice.upload("upload.jpg", faces=1, people=["new"])
    home.settled()
    made = [Made(home, scanned), Made(home, upload)]
    path = Path(alice.asset(scanned)["originalPath"])
    away = home.folder / "away.jpg"

    path.rename(away)
    alice.scan_library(library)
    alice.trash(upload)
    eventually(lambda: home.shown() == [], describe=home.shown)
    home.settled()
    # Nothing that a user may do to all brings them back, or takes them away.
    bob.empty_trash()
    bob.purge()
    bob.scan_library(home.house.jobs[0].target_library_id)
    home.settled()
    assert home.shown() == []

    away.rename(path)
    alice.scan_library(library)
    alice.restore(upload)
    home.settled()
    assert [home.copied(scanned), home.copied(upload)] == [one.copy for one in made]
    for one in made:
        assert one.now() == one.before
        assert Path(bob.asset(one.copy)["originalPath"]).is_file()


def test_a_parked_copy_that_the_nightly_purge_takes_comes_back_new_with_what_was_typed(home: Home) -> None:
    """Where the trash is off in Immich it is taken in the next night, and its user has not deleted it."""
    alice, bob = home.alice, home.bob
    library = alice.add_library(home.photos)
    photo, thrown = alice.scan_library(library, ["one.jpg", "thrown.jpg"])
    home.settled()
    made = Made(home, photo)
    bob.trash(home.copied(thrown))
    original = Path(alice.asset(photo)["originalPath"])
    content = original.read_bytes()
    elsewhere = home.photos.parent / "elsewhere"
    (private,) = alice.scan_library(alice.add_library(elsewhere), ["other.jpg"])
    alice.trash(private)
    former = home.house.jobs
    home.change_jobs(lambda job: replace(job, source_path_prefix=str(elsewhere)) if job.kind == "external" else job)
    eventually(lambda: home.shown() == [])
    home.settled()
    bob.purge(days=0)
    eventually(lambda: bob.assets() == [])
    home.stop()
    home.house = replace(home.house, jobs=former)
    home.start()
    home.settled()
    assert original.read_bytes() == content
    assert home.copied(photo) == made.copy
    kept = {name: value for name, value in made.before.items() if name not in {"face", "edits", "link"}}
    assert {name: made.now()[name] for name in kept} == kept
    # Metadata that Immich reads again does not undo it.
    bob.refresh_metadata(made.copy)
    home.settled()
    assert made.now()["typed"] == made.before["typed"]
    assert home.copy_of(thrown) is None, "it was in the trash, by its user's will"


def test_what_was_typed_into_a_copy_comes_back_where_the_source_was_locked_or_moved(home: Home) -> None:
    alice, bob = home.alice, home.bob
    library = alice.add_library(home.photos.parent)
    (moved,) = alice.scan_library(library, [f"{home.photos.name}/moved.jpg"])
    locked = alice.upload("locked.jpg")
    archived = alice.upload("archived.jpg")
    home.settled()
    made = [Made(home, moved), Made(home, locked)]
    if home.release >= (2, 4):
        taken = datetime(1999, 1, 2, 3, 4, 5, tzinfo=UTC)
        bob.set_date(made[1].copy, taken)
    bob.archive(home.copied(archived))
    gone_album = bob.album_create("gone", made[1].copy)
    home.settled()
    path = Path(alice.asset(moved)["originalPath"])
    outside = home.photos.parent / "private.jpg"
    path.rename(outside)
    alice.rows.execute(update("asset", {"id": moved, "originalPath": outside}))
    alice.lock(locked, archived)
    eventually(lambda: bob.assets() == [], describe=bob.assets)
    home.settled()
    bob.album_delete(gone_album)

    outside.rename(path)
    alice.rows.execute(update("asset", {"id": moved, "originalPath": path}))
    alice.unlock(locked, archived)
    home.settled()
    for one in made:
        kept = {name: value for name, value in one.before.items() if name not in {"face", "edits", "link"}}
        assert {name: one.now()[name] for name in kept} == kept
    assert bob.asset(home.copied(archived))["visibility"] == "archive"
    assert bob.album_assets(gone_album) <= {made[1].copy}
    if home.release >= (2, 4):
        assert bob.asset(made[1].copy)["fileCreatedAt"] == taken
        # What alice changes elsewhere still follows.
        alice.describe(locked, "alice's words")
        alice.set_place(locked, 48.0, 11.0)
        home.settled()
        assert (bob.exif(made[1].copy)["description"], bob.exif(made[1].copy)["latitude"]) == ("bob's words", 48.0)


def test_a_change_of_the_settings_parks_what_it_takes_out_and_a_move_by_its_user_removes(home: Home) -> None:
    alice, bob = home.alice, home.bob
    library = alice.add_library(home.photos)
    names = ["in/kept.jpg", "out/parked.jpg", "out/locked.jpg", "in/same.jpg", "out/same.jpg"]
    for name in names:
        alice.scan_library(library, [name])
    at = {str(Path(alice.asset(id_)["originalPath"]).relative_to(home.photos)): id_ for id_ in alice.assets()}
    home.settled()
    made = Made(home, at["out/parked.jpg"])
    copies = {name: home.copied(at[name]) for name in names}
    home.change_jobs(
        lambda job: replace(job, source_path_prefix=str(home.photos / "in")) if job.kind == "external" else job
    )
    home.settled()
    # The former places are free: a copy of another photo is at one of them.
    assert set(home.shown()) == {copies["in/kept.jpg"], copies["in/same.jpg"]}
    assert set(bob.assets()) == set(copies.values())
    alice.lock(at["out/locked.jpg"])
    eventually(lambda: copies["out/locked.jpg"] not in bob.assets())

    home.change_jobs(lambda job: replace(job, source_path_prefix=str(home.photos)) if job.kind == "external" else job)
    home.settled()
    assert home.copied(at["out/parked.jpg"]) == made.copy
    assert made.now() == made.before
    assert set(home.shown()) == set(copies.values()) - {copies["out/locked.jpg"]}


@pytest.mark.variant
def test_a_copy_that_lies_below_a_former_prefix_goes_when_its_source_is_locked(home: Home) -> None:
    """Also after a crash with the mark of the former prefix: marks are found whatever the prefix is now."""
    alice, bob = home.alice, home.bob
    photo, begun = alice.upload("one.jpg"), alice.upload("two.jpg")
    home.settled()
    copy, path = home.copied(photo), Path(bob.asset(home.copied(photo))["originalPath"])
    files = [Path(file["path"]) for id_ in (copy, home.copied(begun)) for file in bob.files_of(id_)]
    former = home.house.jobs[1].target_path_prefix
    home.stop()
    # As after a crash between the files and the rows.
    home.house.query(
        "INSERT INTO _face_sync_intent SELECT source_asset_id, target_asset_id, source_user_id, target_user_id, %s"
        " FROM _face_sync_asset_map WHERE source_asset_id = %s",
        former,
        begun,
    )
    home.house.query("DELETE FROM asset WHERE id = %s", home.copied(begun))
    home.house.query("DELETE FROM _face_sync_asset_map WHERE source_asset_id = %s", begun)
    alice.lock(photo, begun)
    home.house = replace(
        home.house,
        jobs=tuple(replace(job, target_path_prefix=job.target_path_prefix + "_new") for job in home.house.jobs),
    )
    home.start()
    eventually(lambda: bob.assets() == [], describe=bob.assets)
    eventually(lambda: not [file for file in files if file.exists()], describe=lambda: files)
    eventually(lambda: not path.is_symlink())
    home.settled()


def test_copies_of_a_library_that_was_deleted_and_made_anew_are_made_anew(home: Home) -> None:
    """Their rows went with the library: that was not their user's deletion of each."""
    alice, bob = home.alice, home.bob
    photos = [alice.upload(f"{n}.jpg") for n in range(3)]
    deleted = alice.upload("deleted.jpg")
    home.settled()
    bob.delete_for_good(home.copied(deleted))
    eventually(lambda: home.house.query("SELECT 1 FROM _face_sync_skipped"))
    bob.delete_library(home.house.jobs[0].target_library_id)
    eventually(lambda: bob.assets() == [])
    library = bob.add_library(home.roots.external / "shared" / "bob_")
    home.change_jobs(lambda job: replace(job, target_library_id=library))
    home.settled()
    assert all(home.copy_of(photo) for photo in photos)
    assert home.copy_of(deleted) is None


def test_a_copy_of_an_archived_photo_is_archived_unless_its_user_chose_otherwise(home: Home) -> None:
    """As in Immich's own sharing between partners: what is archived is in nobody else's timeline."""
    alice, bob = home.alice, home.bob
    archived, later, chosen, own = (alice.upload(f"{name}.jpg") for name in ("archived", "later", "chosen", "own"))
    alice.archive(archived)
    home.settled()

    def seen(*photos: UUID) -> list[str]:
        return [bob.asset(home.copied(photo))["visibility"] for photo in photos]

    assert seen(archived, later) == ["archive", "timeline"]
    bob.archive(home.copied(own))
    alice.archive(later, chosen)
    home.settled()
    assert seen(later, chosen, own) == ["archive"] * 3
    bob.unarchive(home.copied(chosen))
    alice.describe(chosen, "words")
    alice.describe(own, "words")
    alice.unarchive(later)
    with home.stopped():
        alice.unarchive(archived)
    home.settled()
    assert seen(archived, later, chosen, own) == ["timeline", "timeline", "timeline", "archive"]
    alice.trash(chosen, own)
    eventually(lambda: home.copy_of(own) is None)
    alice.restore(chosen, own)
    home.settled()
    assert seen(chosen, own) == ["timeline", "archive"]


@pytest.mark.variant
def test_what_a_killed_update_left_of_a_copy_goes_when_it_is_parked(home: Home) -> None:
    """Its files are made before its rows: a listener that is killed in between leaves a mark."""
    alice, bob = home.alice, home.bob
    photo = alice.upload("a.jpg")
    home.settled()
    copy = home.copied(photo)
    kept = {Path(file["path"]) for file in bob.files_of(copy)}
    home.stop()
    folder = next(iter(kept)).parent
    left = folder / f"{copy}_preview_edited.jpeg"
    left.write_bytes(b"edited")
    home.house.query(
        "INSERT INTO _face_sync_intent (source_asset_id, target_asset_id, source_user_id, target_user_id,"
        " target_path_prefix) VALUES (%s, %s, %s, %s, %s)",
        *(photo, copy, alice.user_id, bob.user_id, home.house.jobs[1].target_path_prefix),
    )
    alice.trash(photo)
    home.start()
    home.settled()
    assert home.copy_of(photo) is None
    eventually(lambda: not left.exists(), describe="what was left is there")
    assert set(folder.iterdir()) == kept
    eventually(lambda: not home.house.query("SELECT 1 FROM _face_sync_intent"))
