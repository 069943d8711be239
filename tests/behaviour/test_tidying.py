"""What is noted of photos goes with them, and not before: notes do not pile up, and nothing that they hold is lost."""

from dataclasses import replace
from uuid import UUID, uuid4

import pytest

from tests.behaviour.conftest import Home
from tests.behaviour.test_sweep import swept
from tests.conftest import eventually

NOTES = {
    "kept": "source_asset_id",
    "skipped": "source_asset_id",
    "failure": "source_asset_id",
    "album_map": "target_asset_id",
    "seen": "key",
}


def noted(home: Home, *ids: UUID) -> dict[str, int]:
    """Count what is noted under these ids, by table; tables without are left out."""
    counts = {
        table: home.house.query(f"SELECT count(*) FROM _face_sync_{table} WHERE {key} = ANY(%s)", [*ids])[0][0]  # noqa: S608
        for table, key in NOTES.items()
    }
    return {table: int(str(count)) for table, count in counts.items() if count}


@pytest.mark.variant
def test_notes_go_with_what_they_are_of_and_not_before(home: Home) -> None:
    alice, bob = home.alice, home.bob
    album = bob.album_create("from alice")
    home.change_jobs(lambda job: replace(job, album_id=album))
    photos = {name: alice.upload(f"{name}.jpg") for name in ("deleted", "locked", "taken out", "failed", "plain")}
    home.settled()
    copies = {name: home.copied(photo) for name, photo in photos.items()}
    # Each has another note: deleted by its user, to be given back, not to be put into the album again.
    bob.favourite(copies["locked"])
    bob.album_remove(album, copies["taken out"])
    bob.delete_for_good(copies["deleted"])
    alice.lock(photos["locked"], photos["taken out"])
    home.settled()
    home.stop()
    home.house.query(
        "INSERT INTO _face_sync_failure (job, source_asset_id, reason) VALUES ('a job that is gone', %s, 'x')",
        photos["failed"],
    )
    home.house.query("INSERT INTO _face_sync_seen (job, key, state) VALUES (7, %s, 7), (7, %s, 7)", uuid4(), uuid4())
    home.start()
    eventually(lambda: swept(home) == 0, within=30)

    # As long as the photos are there nothing is forgotten.
    assert {"skipped", "kept", "failure", "album_map", "seen"} == noted(home, *photos.values(), *copies.values()).keys()
    assert home.copy_of(photos["deleted"]) is None
    alice.unlock(photos["locked"], photos["taken out"])
    home.settled()
    assert bob.asset(home.copied(photos["locked"]))["isFavorite"]
    assert bob.album_assets(album) == {home.copied(photos[name]) for name in ("locked", "failed", "plain")}
    ((others,),) = home.house.query("SELECT count(*) FROM _face_sync_seen WHERE job = 7")
    assert others == 0, "states of nothing"

    # And nothing is left of them.
    alice.lock(photos["locked"])
    home.settled()
    assert "kept" in noted(home, *photos.values())
    alice.delete_for_good(*photos.values())
    eventually(lambda: home.shown() == [])
    eventually(lambda: swept(home) == 0, within=30)
    assert noted(home, *photos.values(), *copies.values()) == {}
