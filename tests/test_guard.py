"""Originals are safe: what the target user deletes or edits never takes the source's file along.

Deleting is done as Immich does it, with a real unlink of ``originalPath`` unless the asset is offline (2.4+).
Each release runs with both ways a copy can lead to its original; that the danger is real is shown, too.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import UUID

import psycopg
import pytest
import yaml

from listener.standin.actor import Actor
from tests.conftest import ImmichDatabase, Roots
from tests.house import House, add_user, share

OLD = "2.3.1"  # The last release that unlinks whatever is deleted
GUARDED = ("2.4.1", "2.7.5", "3.0.3", "3.3.0")
NAMES = ("deleted.jpg", "emptied.jpg", "purged.jpg", "edited.jpg", "restored.jpg")


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Alice, whose library is shared, and bob, who gets the copies."""

    house: House
    alice: Actor
    bob: Actor
    photos: Path

    @property
    def prefix(self) -> Path:
        return Path(self.house.jobs[0].target_path_prefix)

    def add(self, *names: str) -> dict[str, UUID]:
        """Add photos to alice's library; returns them by name."""
        library = self.alice.rows.the("library", ownerId=self.alice.user_id)["id"]
        added = self.alice.scan_library(library, names)
        return {self.alice.asset(asset)["originalFileName"]: asset for asset in added}

    def copies(self) -> dict[str, UUID]:
        """Bob's copies by name."""
        return {self.bob.asset(asset)["originalFileName"]: asset for asset in self.bob.assets()}

    def configured(self, **keys: object) -> House:
        """The house with more keys in the configuration of its jobs."""
        written = yaml.safe_load((Path(self.house.environment["CONFIG_FILE"])).read_text())
        for job in written["sync_jobs"]:
            job.update(keys)
        file = self.house.folder / "more.yaml"
        file.write_text(yaml.safe_dump(written))
        return replace(self.house, extra={"CONFIG_FILE": str(file)})


@pytest.fixture
def neighbours(
    new_immich: Callable[[str], ImmichDatabase], roots: Roots, tmp_path: Path
) -> Iterator[Callable[[str], Neighbours]]:
    """Return a function from a release to neighbours whose only job shares alice's library."""
    with ExitStack() as stack:

        def make(release: str) -> Neighbours:
            immich = new_immich(release)
            photos = roots.external / "alice"
            photos.mkdir()
            user = add_user(immich.conninfo, release, "alice")
            house = share(immich, roots, user, tmp_path, photos=str(photos))
            house = replace(house, jobs=house.jobs[:1])
            alice, bob = (
                stack.enter_context(Actor(immich.conninfo, release, id_, roots.media, roots.external, seed=seed))
                for seed, id_ in enumerate((user, house.target))
            )
            alice.add_library(photos)
            return Neighbours(house, alice, bob, photos)

        yield make


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def delete_in_every_way(home: Neighbours, copies: dict[str, UUID]) -> None:
    home.bob.delete_for_good(copies["deleted.jpg"])
    home.bob.trash(copies["emptied.jpg"])
    home.bob.empty_trash()
    home.bob.trash(copies["purged.jpg"])
    home.bob.purge(days=0)
    home.bob.trash(copies["restored.jpg"])
    home.bob.restore(copies["restored.jpg"])


@pytest.mark.parametrize("release", [OLD, GUARDED[0], GUARDED[-1]])
def test_with_links_of_their_own_only_the_links_go(release: str, neighbours: Callable[[str], Neighbours]) -> None:
    home = neighbours(release)
    house = home.house
    house.install_triggers()
    home.add(*NAMES)
    before = contents(home.photos)
    with house.running():
        house.settled()
        delete_in_every_way(home, home.copies())
        home.bob.describe(home.copies()["edited.jpg"], "bob's words")
        house.settled()
    assert contents(home.photos) == before
    assert {path.name for path in home.prefix.iterdir()} == {"edited.jpg", "edited.jpg.xmp", "restored.jpg"}
    assert "not needed" in house.command("triggers", "status").stdout


@pytest.mark.parametrize("release", GUARDED)
def test_through_a_directory_the_guard_keeps_the_originals(
    release: str, neighbours: Callable[[str], Neighbours]
) -> None:
    home = neighbours(release)
    house = home.house
    home.prefix.symlink_to(home.photos)
    photos = home.add(*NAMES)
    home.alice.describe(photos["deleted.jpg"], "alice's words")
    before = contents(home.photos)
    assert set(before) == {*NAMES, "deleted.jpg.xmp"}
    house.install_triggers()
    with house.running():
        house.settled()
        copies = home.copies()
        delete_in_every_way(home, copies)
        house.settled()
        assert contents(home.photos) == before
        assert set(home.copies()) == {"edited.jpg", "restored.jpg"}
        assert not home.bob.asset(copies["restored.jpg"])["isOffline"]

        home.bob.describe(copies["edited.jpg"], "bob's words")
        house.settled()
        home.bob.delete_for_good(copies["edited.jpg"])
        house.settled()
    assert contents(home.photos).items() > before.items()
    # What no guard prevents, and what check warns of
    assert set(contents(home.photos)) - set(before) == {"edited.jpg.xmp"}
    assert "becomes the source's too" in house.command("check").stdout


@contextmanager
def map_locked(house: House) -> Iterator[None]:
    """As by VACUUM FULL, REINDEX or a migration."""
    with psycopg.connect(house.immich.conninfo) as other:
        other.execute("LOCK TABLE _face_sync_asset_map IN ACCESS EXCLUSIVE MODE")
        yield


@contextmanager
def map_absent(house: House) -> Iterator[None]:
    house.query("DROP TABLE _face_sync_asset_map")
    yield


@contextmanager
def copies_forgotten(house: House) -> Iterator[None]:
    """As where our tables were made anew, and the copies are not known again yet."""
    house.query("DELETE FROM _face_sync_asset_map")
    yield


# Each way on each release: tests/triggers/test_guard.py.
@pytest.mark.parametrize(
    ("release", "blinded"), [*zip(GUARDED, (map_locked, map_absent, copies_forgotten, map_locked), strict=True)]
)
def test_where_the_guard_cannot_know_the_originals_stay_too(
    release: str, blinded: Callable[[House], AbstractContextManager[None]], neighbours: Callable[[str], Neighbours]
) -> None:
    home = neighbours(release)
    house = home.house
    home.prefix.symlink_to(home.photos)
    home.add(*NAMES)
    before = contents(home.photos)
    house.install_triggers()
    with house.running():
        house.settled()
    copies = home.copies()
    own = home.alice.assets()[0]
    with blinded(house):
        delete_in_every_way(home, copies)
        home.alice.trash(own)
    assert contents(home.photos) == before
    assert not home.bob.asset(copies["restored.jpg"])["isOffline"]
    home.alice.restore(own)
    assert not home.alice.asset(own)["isOffline"]


def test_an_older_guard_is_none(neighbours: Callable[[str], Neighbours]) -> None:
    home = neighbours("3.0.3")
    house = home.house
    home.prefix.symlink_to(home.photos)
    house.install_triggers()
    house.query("COMMENT ON FUNCTION _face_sync.guard_original() IS 'immich-shared-library 0123'")
    assert "outdated" in house.command("triggers", "status").stdout
    # Its role may not bring it up to date itself.
    refused = house.command("run")
    assert refused.returncode == 2
    assert "Run: listener triggers install" in refused.stderr


@pytest.mark.parametrize("release", [GUARDED[0], GUARDED[-1]])
def test_without_the_guard_the_original_is_gone(release: str, neighbours: Callable[[str], Neighbours]) -> None:
    """The danger is real: the tests above fail without the guard."""
    home = neighbours(release)
    house = home.house
    home.prefix.symlink_to(home.photos)
    home.add(*NAMES)
    house.install_triggers()
    with house.running():
        house.settled()
    house.query("DROP TRIGGER _face_sync_guard ON asset")
    delete_in_every_way(home, home.copies())
    assert set(contents(home.photos)) == {"edited.jpg", "restored.jpg"}


def test_before_immich_2_4_it_is_refused_or_at_ones_own_risk(neighbours: Callable[[str], Neighbours]) -> None:
    home = neighbours(OLD)
    home.prefix.symlink_to(home.photos)
    home.add(*NAMES)
    home.house.install_triggers()
    refused = home.house.command("run")
    assert refused.returncode == 2
    assert "upgrade Immich to 2.4" in refused.stderr
    assert "danger" in home.house.command("check").stdout

    daring = home.configured(accept_risk=True)
    with daring.running():
        daring.settled()
        delete_in_every_way(home, home.copies())
    assert set(contents(home.photos)) == {"edited.jpg", "restored.jpg"}
    checked = daring.command("check")
    assert checked.returncode == 1
    assert "danger   originals of 'photos': " in checked.stdout
    assert "Upgrade Immich to 2.4" in checked.stdout


def test_a_start_without_the_guard_is_refused(neighbours: Callable[[str], Neighbours]) -> None:
    home = neighbours("3.0.3")
    house = home.house
    house.install_triggers()
    home.prefix.symlink_to(home.photos)
    for daring in (house, home.configured(accept_risk=True)):
        refused = daring.command("run")
        assert refused.returncode == 2
        assert "Run: listener triggers install" in refused.stderr
    status = house.command("triggers", "status")
    assert status.returncode == 1
    assert "missing" in status.stdout
    house.install_triggers()
    assert house.command("triggers", "status").returncode == 0
    with house.running():
        house.settled()
    house.query("ALTER TABLE asset DISABLE TRIGGER _face_sync_guard")
    assert house.command("run").returncode == 2
    home.prefix.unlink()
    house.install_triggers()
    assert "guard" not in str(house.query("SELECT tgname FROM pg_trigger WHERE tgname LIKE '%%guard'"))


@pytest.mark.parametrize("place", ["elsewhere", "alice/2024"])
def test_a_symlink_to_another_place_stays_refused(
    place: str, neighbours: Callable[[str], Neighbours], roots: Roots
) -> None:
    home = neighbours("3.0.3")
    folder = roots.external / place
    folder.mkdir()
    home.prefix.symlink_to(folder)
    home.house.install_triggers()
    refused = home.configured(accept_risk=True).command("run")
    assert refused.returncode == 2
    assert "to another place than source_path_prefix" in refused.stderr


def test_uninstall_asks_before_originals_lose_their_guard(neighbours: Callable[[str], Neighbours]) -> None:
    home = neighbours("3.0.3")
    house = home.house
    home.prefix.symlink_to(home.photos)
    home.add(*NAMES)
    house.install_triggers()
    with house.running():
        house.settled()
    asked = house.command("triggers", "uninstall")
    assert asked.returncode == 2
    assert "5 copies lead to the source's originals" in asked.stderr
    assert house.command("triggers", "status").returncode == 0
    assert house.command("triggers", "uninstall", "--yes").returncode == 0
    assert house.query("SELECT tgname FROM pg_trigger WHERE tgname LIKE '%%face_sync%%'") == []


def test_copies_of_a_job_that_is_gone_keep_their_guard(neighbours: Callable[[str], Neighbours]) -> None:
    home = neighbours("3.0.3")
    house = home.house
    home.prefix.symlink_to(home.photos)
    home.add(*NAMES)
    house.install_triggers()
    with house.running():
        house.settled()
    other = replace(house.jobs[0], name="other", target_path_prefix=str(home.prefix) + "_other")
    changed = replace(house, jobs=(other,))
    changed.install_triggers()
    home.bob.delete_for_good(home.copies()["deleted.jpg"])
    assert set(contents(home.photos)) == set(NAMES)


def test_a_job_that_removes_its_copies_leaves_the_originals(neighbours: Callable[[str], Neighbours]) -> None:
    home = neighbours("3.0.3")
    house = home.house
    home.prefix.symlink_to(home.photos)
    home.add(*NAMES)
    before = contents(home.photos)
    house.install_triggers()
    with house.running():
        house.settled()
    assert len(home.copies()) == len(NAMES)
    with home.configured(remove_copies=True).running():
        pass
    assert home.copies() == {}
    assert contents(home.photos) == before
    house.install_triggers()
    assert house.command("triggers", "uninstall").returncode == 0, "no copy is left that needs the guard"
