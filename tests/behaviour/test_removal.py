"""Point 11: copies go when their source may not be shared any more, for good or for a while, and come back."""

from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from listener.standin.actor_rows import update
from tests.behaviour.conftest import Home
from tests.conftest import eventually


def sweep(home: Home) -> None:
    """Let the listener look through everything, as it does by itself from time to time."""
    home.house.query('SELECT pg_notify(\'immich_shared_library\', \'{"v":1,"kind":"sweep","at":0}\')')


class Traces:
    """What there is of a copy, to be looked for after it is gone."""

    def __init__(self, home: Home, source: UUID) -> None:
        self._home = home
        self.copy = home.copied(source)
        row = home.bob.asset(self.copy)
        self.link = Path(row["originalPath"])
        self.files = [Path(file["path"]) for file in home.bob.files_of(self.copy)]
        self._files_of_source = [Path(file["path"]) for file in home.alice.files_of(source)]
        assert self.link.is_symlink()
        assert all(path.exists() for path in self.files)

    def assert_gone(self, *, source_files: bool = True) -> None:
        """Nothing is left, phones have heard of it, and the source's files are untouched."""
        query = self._home.house.query
        assert not query("SELECT 1 FROM asset WHERE id = %s", self.copy)
        assert not self.link.is_symlink()
        assert [path for path in self.files if path.exists()] == []
        assert not query("SELECT 1 FROM _face_sync_asset_map WHERE target_asset_id = %s", self.copy)
        assert query('SELECT 1 FROM asset_audit WHERE "assetId" = %s', self.copy), "phones would keep it"
        if source_files:
            assert all(path.exists() for path in self._files_of_source)

    def assert_parked(self) -> None:
        """The row is there with its thumbnails, in no view of Immich's, and nothing leads to the original."""
        row = self._home.bob.asset(self.copy)
        state = (row["isOffline"], row["deletedAt"] is not None, row["visibility"], row["status"])
        assert state == (True, True, "hidden", "active")
        assert not Path(row["originalPath"]).exists()
        assert not self.link.is_symlink()
        assert all(path.exists() for path in (*self.files, *self._files_of_source))


def test_a_copy_goes_when_its_source_is_deleted_trashed_locked_moved_or_vanishes(home: Home) -> None:
    alice, bob = home.alice, home.bob
    library = alice.add_library(home.photos / "first")
    other_library = alice.add_library(home.photos / "second")
    scanned = alice.scan_library(library, ["moved.jpg", "vanished.jpg", "kept.jpg"])
    by_name = {Path(alice.asset(id_)["originalPath"]).name: id_ for id_ in scanned}
    (of_library,) = alice.scan_library(other_library, ["library.jpg"])
    uploads = [alice.upload(f"{name}.jpg", faces=1, people=["new"]) for name in ("trashed", "deleted", "locked")]
    trashed, deleted, locked = uploads
    album = bob.album_create("mine")
    home.settled()
    causes = [trashed, deleted, locked, by_name["moved.jpg"], by_name["vanished.jpg"], of_library]
    traces = {asset: Traces(home, asset) for asset in causes}
    bob.album_add(album, *(trace.copy for trace in traces.values()))
    bob.stack(*(traces[asset].copy for asset in (trashed, deleted, locked)))

    alice.trash(trashed)
    alice.delete_for_good(deleted)
    alice.lock(locked)
    moved = by_name["moved.jpg"]
    path = Path(alice.asset(moved)["originalPath"])
    outside = home.photos.parent / "private.jpg"
    path.rename(outside)
    alice.rows.execute(update("asset", {"id": moved, "originalPath": outside}))
    Path(alice.asset(by_name["vanished.jpg"])["originalPath"]).unlink()
    alice.scan_library(library)
    alice.delete_library(other_library, finish=False)
    home.settled()
    for_a_while = {trashed, by_name["vanished.jpg"], of_library}
    for asset, trace in traces.items():
        if asset in for_a_while:
            trace.assert_parked()
        else:
            trace.assert_gone(source_files=asset != deleted)
    assert bob.album_assets(album) == {traces[asset].copy for asset in for_a_while}
    assert len(home.house.query('SELECT 1 FROM person WHERE "ownerId" = %s', bob.user_id)) == 1, (
        "people whose faces are all gone"
    )
    kept = home.copied(by_name["kept.jpg"])
    assert home.shown() == [kept]
    assert outside.exists(), "the original was never ours to touch"

    # Each comes back with what its user had made of it.
    alice.restore(trashed)
    alice.unlock(locked)
    outside.rename(path)
    alice.rows.execute(update("asset", {"id": moved, "originalPath": path}))
    home.settled()
    for asset in (trashed, locked, moved):
        assert home.copied(asset) == traces[asset].copy
    assert bob.album_assets(album) == {traces[asset].copy for asset in (*for_a_while, locked, moved)}

    alice.delete_library(library)
    home.settled()
    assert home.copy_of(by_name["kept.jpg"]) is None
    assert path.exists(), "removing a library removes no file"


@pytest.mark.variant
def test_a_copy_goes_with_its_source_user(home: Home) -> None:
    """The user is marked at first, of which no trigger tells; their rows go later, by cascade."""
    alice, bob = home.alice, home.bob
    first, second = alice.upload("one.jpg", faces=1, people=["new"]), alice.upload("two.jpg")
    own = bob.upload("own.jpg")
    home.settled()
    traces = [Traces(home, first), Traces(home, second)]
    # Also where it happens while the listener is down: it starts, and removes them.
    with home.stopped():
        bob.remove_user(alice.user_id, finish=False)
    eventually(lambda: home.shown() == [own], describe=home.shown)
    for trace in traces:
        trace.assert_parked()
    bob.restore_user(alice.user_id)
    sweep(home)
    home.settled()
    assert {home.copied(first), home.copied(second)} == {trace.copy for trace in traces}
    with home.stopped():
        bob.remove_user(alice.user_id)
    eventually(lambda: bob.assets() == [own], describe=bob.assets)
    for trace in traces:
        trace.assert_gone(source_files=False)
    assert not home.house.query('SELECT 1 FROM person WHERE "ownerId" = %s', bob.user_id)


def test_a_copy_is_restored_with_favourite_archive_albums_and_stack_as_they_were(home: Home) -> None:
    alice, bob = home.alice, home.bob
    photo, archived, other = (alice.upload(f"{n}.jpg") for n in range(3))
    own = bob.upload("own.jpg")
    home.settled()
    copy, archived_copy, other_copy = (home.copied(asset) for asset in (photo, archived, other))
    albums = [bob.album_create("one", copy, own), bob.album_create("two", copy)]
    bob.favourite(copy)
    bob.archive(archived_copy)
    with_own = bob.stack(own, copy)
    of_copies = bob.stack(archived_copy, other_copy)
    alice.trash(photo, archived, other)
    home.settled()
    assert home.shown() == [own]
    assert bob.asset(own)["stackId"] in {None, with_own}

    # A crash or restart in between forgets nothing.
    with home.stopped():
        alice.restore(photo)
    alice.restore(other, archived)
    home.settled()
    assert [home.copied(asset) for asset in (photo, archived, other)] == [copy, archived_copy, other_copy]
    assert bob.asset(copy)["isFavorite"]
    assert not bob.asset(archived_copy)["isFavorite"]
    assert bob.asset(archived_copy)["visibility"] == "archive"
    assert bob.asset(copy)["visibility"] == "timeline"
    assert bob.album_assets(albums[0]) == {copy, own}
    assert bob.album_assets(albums[1]) == {copy}
    assert bob.asset(copy)["stackId"] == bob.asset(own)["stackId"] == with_own
    assert {bob.asset(asset)["stackId"] for asset in (archived_copy, other_copy)} == {of_copies}
    stacks = {row["id"]: row["primaryAssetId"] for row in bob.rows.where("stack", ownerId=bob.user_id)}
    assert stacks == {with_own: own, of_copies: archived_copy}


@pytest.mark.variant
def test_copies_of_a_job_are_removed_by_its_setting_and_kept_without_the_job(home: Home) -> None:
    """``remove_copies`` takes a job's copies away; a job that is gone from the configuration leaves them."""
    alice, bob = home.alice, home.bob
    library = alice.add_library(home.photos)
    (scanned,) = alice.scan_library(library, ["scanned.jpg"])
    upload = alice.upload("upload.jpg")
    home.settled()
    kept, removed = Traces(home, scanned), Traces(home, upload)
    bob.favourite(removed.copy)
    home.change_jobs(lambda job: replace(job, remove_copies=job.name == "uploads"))
    home.settled()
    removed.assert_gone()
    assert Path(alice.asset(upload)["originalPath"]).exists()
    assert home.copied(scanned) == kept.copy

    home.change_jobs(lambda job: replace(job, remove_copies=False))
    home.settled()
    assert home.copied(upload) == removed.copy
    assert bob.asset(removed.copy)["isFavorite"]

    # Without its job a copy is left as it is, whatever becomes of its source.
    home.stop()
    jobs = home.house.jobs
    home.house = replace(home.house, jobs=tuple(job for job in jobs if job.name == "uploads"))
    home.start()
    new = alice.upload("new.jpg")
    home.settled()
    assert home.copied(new)
    assert home.copy_of(scanned) == kept.copy
    assert kept.link.is_symlink()
    assert all(path.exists() for path in kept.files)


@pytest.mark.releases(since="2.7.5", until="3.0.3")
def test_a_removal_that_a_crash_cut_short_is_ended_by_the_next_start(home: Home) -> None:
    """Rows go first, with a mark of every path: whatever of the files is there, the next sweep does the rest."""
    alice = home.alice
    photos = [alice.upload(f"{n}.jpg") for n in range(3)]
    home.settled()
    traces = [Traces(home, photo) for photo in photos]
    with home.stopped():
        for photo, trace in zip(photos, traces, strict=True):
            alice.lock(photo)
            home.house.query(
                "INSERT INTO _face_sync_intent VALUES (%s, %s, %s, %s, %s, %s)",
                *(photo, trace.copy, alice.user_id, home.bob.user_id, "/a/former/prefix", [str(trace.link)]),
            )
        for trace in traces[:2]:
            home.house.query("DELETE FROM asset WHERE id = %s", trace.copy)
            home.house.query("DELETE FROM _face_sync_asset_map WHERE target_asset_id = %s", trace.copy)
        traces[1].link.unlink()
        for path in (*traces[1].files, traces[2].files[0]):
            path.unlink()
    home.settled()
    for trace in traces:
        trace.assert_gone()
