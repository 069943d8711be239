"""What would take copies away in a mass, and is no deed of their source's user, is held; deeds never are."""

import json
import shutil
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from listener.settings import RemovalLimit
from tests.behaviour.conftest import Home
from tests.conftest import eventually
from tests.oddities import Oddity

LIMIT = RemovalLimit(2, 10)
MANY = [f"{number}.jpg" for number in range(5)]


def shared(home: Home, folder: str = "") -> list[UUID]:
    """Let alice share many photos of her library, in a folder below it."""
    home.photos.mkdir(parents=True, exist_ok=True)
    library = home.alice.add_library(home.photos)
    photos = home.alice.scan_library(library, [f"{folder}{name}" for name in MANY])
    for photo in photos:
        home.copied(photo)
    home.settled()
    return photos


def seen(home: Home, photos: list[UUID]) -> int:
    """Count the copies of these that bob sees."""
    return sum(home.copy_of(photo) is not None for photo in photos)


def with_prefix(home: Home, prefix: Path) -> None:
    """Set the first job's source folder; the listener does not run."""
    jobs = (replace(home.house.jobs[0], source_path_prefix=str(prefix)), *home.house.jobs[1:])
    home.house = replace(home.house, jobs=jobs)


def held(home: Home) -> float:
    samples = [sample for metric in home.service.metrics.removals_held.collect() for sample in metric.samples]
    return sum(sample.value for sample in samples)


def swept(home: Home) -> None:
    """Let the listener look at everything, and wait until it has."""
    sweeps = home.service.metrics.sweeps.labels(outcome="done")._value
    before = sweeps.get()
    home.house.sweep()
    eventually(lambda: sweeps.get() > before)


def status(home: Home) -> dict[str, dict[str, object]]:
    house = replace(home.house, extra={"REMOVAL_LIMIT": f"{LIMIT.least},{LIMIT.percent:g}%"})
    return {job["job"]: job for job in json.loads(house.command("status", "--json").stdout)["jobs"]}


def allow(home: Home) -> str:
    done = home.house.command("reconcile", "--allow-removal", "--job", "photos")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_wrong_letter_in_the_prefix_takes_no_copy_away(
    new_home: Callable[..., Home], caplog: pytest.LogCaptureFixture, oddity: Oddity
) -> None:
    """The folder of that name has photos, so the setting looks right to whoever only counts them."""
    home = new_home()
    alice = home.alice
    home.start(removal_limit=LIMIT)
    photos = shared(home)
    other = home.photos.with_name("photo")
    alice.scan_library(alice.add_library(other), ["private.jpg"])
    home.stop()
    with_prefix(home, other)
    home.start(removal_limit=LIMIT)
    assert seen(home, photos) == len(photos)
    assert held(home) == len(photos)
    told = [vars(record)["fields"] for record in caplog.records if "are held" in record.message]
    assert [fields["to_do"].endswith("listener reconcile --allow-removal --job photos") for fields in told] == [True]
    reported = status(home)["photos"]
    assert (reported["held"], reported["copies"]) == (5, 6)
    assert "the settings leave them out" in str(reported["held_because"])

    # The rest goes on, and what she does not want to be seen goes.
    new = alice.upload("new.jpg")
    home.copied(new)
    alice.lock(photos[0])
    alice.trash(photos[1])
    eventually(lambda: seen(home, photos) == 3)
    swept(home)
    assert seen(home, photos) == 3
    # A restart forgets nothing.
    home.stop()
    home.start(removal_limit=LIMIT)
    swept(home)
    assert seen(home, photos) == 3
    oddity(
        "One wrong letter in SHARED_PATH_PREFIX; a folder of that name is there",
        "log, `status`, metric: 5 copies would go in a mass and are held: the settings leave them out. To let them go: "
        "listener reconcile --allow-removal --job photos",
        "all else: new photos come, locked and trashed ones go",
    )

    assert "3 removed" in allow(home)
    assert seen(home, photos) == 0
    eventually(lambda: held(home) == 0)
    home.stop()
    with_prefix(home, home.photos)
    home.start(removal_limit=LIMIT)
    alice.restore(photos[1])
    home.settled()
    assert seen(home, photos) == 4


@pytest.mark.variant
def test_a_prefix_that_matches_no_photo_is_refused_for_its_job(new_home: Callable[..., Home], oddity: Oddity) -> None:
    home = new_home()
    alice = home.alice
    home.start()
    photos = shared(home, "Föto/")
    home.stop()
    # As another system writes it, and in another case. Few enough for the brake to let them go.
    wrong = Path(unicodedata.normalize("NFD", str(home.photos / "fÖto")))
    wrong.mkdir()
    with_prefix(home, wrong)
    home.start(but="matches no photo of the source user, while there are copies")
    new = alice.upload("new.jpg")
    home.copied(new)
    swept(home)
    assert seen(home, photos) == len(photos)
    found = home.house.command("check").stdout
    assert "danger   job 'photos'" in found
    assert f"matches no photo; nearest folder with photos: {home.photos / 'Föto'}" in found
    alice.lock(photos[0])
    eventually(lambda: home.copy_of(photos[0]) is None)
    oddity(
        "A prefix that matches no photo, while there are copies",
        "`/readyz`, log, `check`: the source folder …/fÖto matches no photo; nearest folder with photos: …/Föto",
        "the other jobs; what its user locks goes",
    )
    allow(home)
    eventually(lambda: seen(home, photos) == 0)
    eventually(lambda: home.service.readiness.ready, describe=lambda: home.service.readiness.reasons)


@pytest.mark.variant
def test_removal_is_allowed_without_a_listener_too(new_home: Callable[..., Home]) -> None:
    home = new_home()
    home.start()
    photos = shared(home)
    home.stop()
    with_prefix(home, home.photos.with_name("nowhere"))
    done = home.house.command("reconcile", "--job", "photos")
    assert done.returncode == 2
    assert "--allow-removal --job photos" in done.stderr
    assert seen(home, photos) == len(photos)
    assert "5 removed" in allow(home)
    assert seen(home, photos) == 0
    for words in (["--allow-removal"], ["--allow-removal", "--job", "photos", "--dry-run"]):
        assert home.house.command("reconcile", *words).returncode == 2, "it is for the whole of one job"


@pytest.mark.variant
def test_where_no_limit_is_set_a_change_of_settings_takes_all_it_names(new_home: Callable[..., Home]) -> None:
    home = new_home()
    home.start()
    photos = shared(home)
    home.alice.scan_library(home.alice.add_library(home.photos.with_name("photo")), ["other.jpg"])
    home.stop()
    with_prefix(home, home.photos.with_name("photo"))
    home.start(removal_limit=None)
    eventually(lambda: seen(home, photos) == 0)
    home.settled()


def test_a_disk_that_was_away_at_a_scan_takes_no_copy_away(new_home: Callable[..., Home], oddity: Oddity) -> None:
    """A disk of its own below the shared folder: its mount point is an empty folder then."""
    home = new_home()
    alice, bob = home.alice, home.bob
    home.start(removal_limit=LIMIT)
    photos = shared(home, "nas/")
    library = alice.asset(photos[0])["libraryId"]
    (other,) = alice.scan_library(library, ["here.jpg"])
    copies = [home.copied(photo) for photo in photos]
    bob.tag("mine", *copies)
    home.settled()
    nas, away = home.photos / "nas", home.roots.external.with_name("away")
    shutil.move(nas, away)
    nas.mkdir()
    alice.scan_library(library)
    assert alice.asset(photos[0])["isOffline"]
    eventually(lambda: held(home) == len(photos))
    swept(home)
    assert seen(home, [*photos, other]) == 6
    assert "taken their originals offline" in str(status(home)["photos"]["held_because"])
    # What she puts into the trash now goes, as ever.
    alice.trash(other)
    eventually(lambda: home.copy_of(other) is None)
    oddity(
        "A NAS that is away at Immich's scan: 5 photos go offline in one UPDATE",
        "log, `status`, metric: 5 copies would go in a mass and are held: Immich has taken their originals offline",
        "the copies stay, with tags and albums; nothing to do when the NAS is back",
    )

    nas.rmdir()
    shutil.move(away, nas)
    alice.scan_library(library)
    swept(home)
    eventually(lambda: held(home) == 0)
    assert [home.copy_of(photo) for photo in photos] == copies
    assert {"mine"} <= set(bob.tags_of(copies[0]))
    alice.restore(other)
    home.settled()


@pytest.mark.variant
def test_files_that_their_user_deletes_or_moves_in_a_mass_are_not_held(new_home: Callable[..., Home]) -> None:
    home = new_home()
    alice = home.alice
    home.start(removal_limit=LIMIT)
    photos = shared(home, "trip/")
    library = alice.asset(photos[0])["libraryId"]
    (other,) = alice.scan_library(library, ["other.jpg"])
    home.settled()
    shutil.move(home.photos / "trip", home.photos.with_name("trip"))
    alice.scan_library(library)
    eventually(lambda: seen(home, photos) == 0)
    home.settled()
    assert home.copy_of(other) is not None


@pytest.mark.variant
def test_few_that_go_offline_go_at_once(new_home: Callable[..., Home]) -> None:
    home = new_home()
    alice = home.alice
    home.start()
    photos = shared(home)
    # Their files are there: why Immich does not see them is not known.
    alice.set_exclusions(alice.asset(photos[0])["libraryId"], "**/1.jpg", "**/2.jpg")
    alice.scan_library(alice.asset(photos[0])["libraryId"])
    eventually(lambda: seen(home, photos) == 3)
    home.settled()


@pytest.mark.variant
def test_deeds_of_a_user_are_never_held(new_home: Callable[..., Home]) -> None:
    home = new_home()
    alice = home.alice
    # Nothing may go but by a deed.
    home.start(removal_limit=RemovalLimit(0, 0))
    photos = shared(home)
    library = alice.asset(photos[0])["libraryId"]
    uploads = [alice.upload(name) for name in MANY[:2]]
    home.settled()
    alice.lock(photos[0])
    alice.trash(photos[1])
    alice.delete_for_good(photos[2])
    eventually(lambda: seen(home, photos) == 2)
    alice.delete_library(library)
    eventually(lambda: seen(home, photos) == 0)
    home.settled()
    home.bob.remove_user(alice.user_id, finish=False)
    eventually(lambda: seen(home, uploads) == 0, within=15)


@pytest.mark.variant
def test_uploads_that_lie_elsewhere_by_now_keep_their_copies(new_home: Callable[..., Home]) -> None:
    """Nobody but Immich moves them: its media root is another one, and ours is not."""
    home = new_home()
    alice = home.alice
    home.start(removal_limit=LIMIT)
    photos = [alice.upload(name) for name in MANY]
    home.settled()
    home.house.query(
        """UPDATE asset SET "originalPath" = '/elsewhere' || "originalPath" WHERE "ownerId" = %s""", alice.user_id
    )
    home.house.sweep()
    new = alice.scan_library(alice.add_library(home.photos), ["new.jpg"])[0]
    eventually(lambda: home.service.readiness.reasons)
    assert seen(home, photos) == len(photos)
    home.house.query(
        """UPDATE asset SET "originalPath" = substr("originalPath", 11) WHERE "ownerId" = %s""", alice.user_id
    )
    home.copied(new)
    home.settled()
    assert seen(home, photos) == len(photos)
