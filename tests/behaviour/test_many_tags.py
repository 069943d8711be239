"""Immich 3.3 writes the metadata of all photos of a tag that is renamed or deleted, and an XMP for each, at once."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.behaviour.conftest import Home
from tests.behaviour.test_sweep import sample
from tests.conftest import eventually

MANY = 150
# Counts what the listener updates of bob's rows, and how much of it changed nothing. As whoever owns the tables: the
# listener may not write this one.
_COUNT = """
CREATE TABLE counted (id uuid, relation text, empty boolean);
CREATE FUNCTION count_update() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    IF current_setting('application_name') = 'listener' THEN
        INSERT INTO counted VALUES (
            coalesce(to_jsonb(new) ->> 'assetId', to_jsonb(new) ->> 'id')::uuid, TG_TABLE_NAME,
            to_jsonb(new) - '{updateId,updatedAt}'::text[] = to_jsonb(old) - '{updateId,updatedAt}'::text[]);
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER counted AFTER UPDATE ON asset FOR EACH ROW EXECUTE FUNCTION count_update();
CREATE TRIGGER counted AFTER UPDATE ON asset_exif FOR EACH ROW EXECUTE FUNCTION count_update();
"""


@pytest.fixture
def counted(home: Home) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """Count updates from here on."""
    with psycopg.connect(home.immich.conninfo, autocommit=True) as connection:
        connection.execute(_COUNT.encode())
        yield connection


def at_rest(home: Home) -> None:
    """Wait until neither the judge nor a sweep finds anything: whatever we write is looked at once more."""
    home.settled(within=60)

    def nothing_found() -> bool:
        before, looked_at = sample(home, "sweeps_total"), sample(home, "keys_reconciled_total")
        home.house.sweep()
        eventually(lambda: sample(home, "sweeps_total") > before, within=30)
        return sample(home, "keys_reconciled_total") == looked_at

    eventually(nothing_found, within=60, describe="the listener does not come to rest")


@pytest.mark.releases(since="3.3.0")
def test_a_tag_of_many_photos_is_renamed_and_deleted(
    home: Home, counted: psycopg.Connection[tuple[object, ...]]
) -> None:
    alice, bob = home.alice, home.bob

    def updates(most: int) -> None:
        """Nothing was updated for nothing, and no row more often than its source's, or Immich's own, was."""
        at_rest(home)
        empty = counted.execute("SELECT relation, count(*) FROM counted WHERE empty GROUP BY 1").fetchall()
        assert empty == [], "updates without a difference"
        often = counted.execute(
            "SELECT relation, id, count(*) FROM counted GROUP BY 1, 2 HAVING count(*) > %s LIMIT 3", [most]
        ).fetchall()
        assert often == []
        counted.execute("TRUNCATE counted")

    library = alice.add_library(home.photos)
    names = [f"{number}.jpg" for number in range(MANY)]
    photos = alice.scan_library(library, names)
    home.settled(within=60)
    copies = [home.copied(photo) for photo in photos]
    alice.tag("trip/sea", *photos)
    updates(most=2)
    beside = sorted(path.name for path in home.photos.iterdir())

    # Alice renames: each copy follows, its metadata once when it is locked and once when its XMP is written.
    alice.rename_tag("trip", "journey")
    updates(most=2)
    assert {tuple(bob.tags_of(copy)) for copy in copies} == {("journey/sea",)}
    assert {tuple(bob.exif(copy)["tags"]) for copy in copies} == {("journey/sea",)}

    # Bob renames: Immich writes his copies, and unlocks all they have, which we lock again: alice's own texts and dates
    # stand in her XMP only, and the next reading of a copy would lose them.
    bob.rename_tag("journey", "Reise")
    updates(most=1)
    assert {tuple(bob.tags_of(copy)) for copy in copies} == {("Reise/sea",)}
    assert {tuple(bob.exif(copy)["tags"]) for copy in copies} == {("Reise/sea",)}

    written = [Path(str(row["path"])) for copy in copies for row in bob.files_of(copy) if row["type"] == "sidecar"]
    assert len(written) == MANY
    shared = home.roots.external / "shared"
    assert all(path.resolve().is_relative_to(shared) and path.exists() for path in written)
    assert sorted(path.name for path in home.photos.iterdir()) == beside, "nothing new beside the originals"

    # Both delete theirs.
    bob.delete_tag("Reise")
    updates(most=1)
    alice.delete_tag("journey")
    updates(most=2)
    assert {tuple(bob.tags_of(copy)) for copy in copies} == {()}
