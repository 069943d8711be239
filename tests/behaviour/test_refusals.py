"""A job that is refused, or whose folders are away, stops no other job, and keeps no locked photo visible."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from listener.settings import Job
from tests.behaviour.conftest import Home
from tests.conftest import eventually
from tests.house import add_library, add_user

WITHIN = 15.0


def with_carol(home: Home) -> tuple[UUID, UUID]:
    """Let alice's uploads go to carol, too; returns her and her library."""
    carol = add_user(home.immich.conninfo, home.immich.release, "carol")
    shared = home.roots.external / "shared"
    library = add_library(home.immich.conninfo, carol, str(shared / "carol_"))
    media = str(home.roots.media)
    job = Job("carol", "uploads", home.alice.user_id, carol, library, media, str(shared / "carol_uploads"))
    home.house = replace(home.house, jobs=(*home.house.jobs, job))
    return carol, library


def copies_of(home: Home, asset: UUID) -> set[UUID]:
    """Whose copies of this photo there are."""
    rows = home.house.query(
        'SELECT copy."ownerId" FROM _face_sync_asset_map AS map JOIN asset AS copy ON copy.id = map.target_asset_id'
        " WHERE map.source_asset_id = %s",
        asset,
    )
    return {UUID(str(owner)) for (owner,) in rows}


def refused(home: Home, words: str) -> None:
    reasons = home.service.readiness
    eventually(lambda: words in " ".join(reasons.reasons), within=WITHIN, describe=lambda: reasons.reasons)
    assert "job 'carol'" in " ".join(reasons.reasons)
    assert "job 'uploads'" not in " ".join(reasons.reasons)
    ((sample,),) = [
        [sample for sample in metric.samples if sample.labels.get("job") == "carol"]
        for metric in home.service.metrics.refused.collect()
    ]
    assert sample.value == 1


@pytest.mark.variant
def test_a_target_user_who_is_removed_stops_no_other_job(new_home: Callable[..., Home]) -> None:
    home = new_home()
    alice, bob = home.alice, home.bob
    carol, _ = with_carol(home)
    both = {bob.user_id, carol}
    home.start()
    photo, kept = alice.upload("locked.jpg"), alice.upload("kept.jpg")
    eventually(lambda: copies_of(home, photo) == copies_of(home, kept) == both)

    bob.remove_user(carol, finish=False)
    refused(home, f"target_user_id {carol} is no user")
    alice.lock(photo)
    eventually(lambda: copies_of(home, photo) == set(), within=WITHIN)
    later = alice.upload("later.jpg")
    eventually(lambda: copies_of(home, later) == {bob.user_id}, within=WITHIN)
    assert copies_of(home, kept) == both, "carol may come back"

    bob.restore_user(carol)
    eventually(lambda: copies_of(home, later) == both, within=WITHIN)
    eventually(lambda: home.service.readiness.ready, within=WITHIN, describe=lambda: home.service.readiness.reasons)

    # For good, and what is locked while the listener is down.
    home.stop()
    bob.remove_user(carol)
    alice.lock(kept)
    home.start(but="job 'carol'")
    eventually(lambda: copies_of(home, kept) == set(), within=WITHIN)
    home.house = replace(home.house, jobs=home.house.jobs[:-1])
    home.settled()


@pytest.mark.variant
def test_a_target_library_that_is_deleted_stops_no_other_job(new_home: Callable[..., Home]) -> None:
    home = new_home()
    alice, bob = home.alice, home.bob
    carol, library = with_carol(home)
    home.start()
    photo = alice.upload("locked.jpg")
    eventually(lambda: copies_of(home, photo) == {bob.user_id, carol})
    bob.delete_library(library)
    refused(home, f"target_library_id {library} is no library")
    later = alice.upload("later.jpg")
    eventually(lambda: copies_of(home, later) == {bob.user_id}, within=WITHIN)
    alice.lock(photo)
    eventually(lambda: copies_of(home, photo) == set(), within=WITHIN)


@pytest.mark.variant
def test_where_every_job_is_refused_locked_photos_go_all_the_same(new_home: Callable[..., Home]) -> None:
    home = new_home()
    alice, bob = home.alice, home.bob
    home.start()
    before, while_down, kept = (alice.upload(f"{name}.jpg") for name in ("before", "down", "kept"))
    home.settled()
    home.stop()
    alice.lock(while_down)
    library = home.house.jobs[0].target_library_id
    bob.set_exclusions(library, "**/*")
    home.start(but="a job is refused")
    # The sweep names what no notification did.
    eventually(lambda: home.copy_of(while_down) is None, within=WITHIN)
    alice.lock(before)
    eventually(lambda: home.copy_of(before) is None, within=WITHIN)
    assert home.copy_of(kept) is not None
    new = alice.upload("new.jpg")
    bob.set_exclusions(library)
    home.copied(new)
    home.settled()


@pytest.mark.variant
@pytest.mark.parametrize("down", [False, True])
def test_a_locked_photo_goes_at_once_while_the_disk_of_the_links_is_away(
    new_home: Callable[..., Home], *, down: bool
) -> None:
    home = new_home()
    alice, bob = home.alice, home.bob
    home.start()
    photo, kept = alice.upload("locked.jpg"), alice.upload("kept.jpg")
    home.settled()
    copy = home.copied(photo)
    link = Path(bob.asset(copy)["originalPath"])
    files = [Path(file["path"]) for file in bob.files_of(copy)]
    external, hidden = home.roots.external, home.roots.external.with_name("away")
    if down:
        home.stop()
    shutil.move(external, hidden)
    external.mkdir()
    if down:
        alice.lock(photo)
        home.start(but=str(external))
    else:
        reasons = home.service.readiness
        eventually(lambda: str(external) in " ".join(reasons.reasons), within=WITHIN)
        alice.lock(photo)
    eventually(lambda: home.copy_of(photo) is None, within=WITHIN)
    assert home.copy_of(kept) is not None
    assert list(external.iterdir()) == []

    external.rmdir()
    shutil.move(hidden, external)
    eventually(lambda: not link.is_symlink() and not any(file.exists() for file in files), within=WITHIN)
    home.settled()
    eventually(lambda: home.service.readiness.ready, within=WITHIN)
