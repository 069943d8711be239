"""The media root is where Immich says: where ours is another one nothing is made of it, and nothing goes."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
from psycopg import sql
from psycopg.types.json import Jsonb

from listener.settings import Job
from tests.behaviour.conftest import Home
from tests.conftest import eventually
from tests.oddities import Oddity

PATHS = (("asset", "originalPath"), ("asset_file", "path"), ("person", "thumbnailPath"), ("user", "profileImagePath"))
WITHIN = 15.0


def rewrite(home: Home, old: Path, new: Path) -> None:
    """What Immich does when its media location is another one: one UPDATE for each table."""
    for table, column in PATHS:
        home.look.execute(
            sql.SQL("UPDATE {} SET {} = regexp_replace({}, %s, %s) WHERE {} LIKE %s").format(
                sql.Identifier(table), *[sql.Identifier(column)] * 3
            ),
            [f"^{old}", str(new), f"{old}%"],
        )


def note(home: Home, new: Path | None) -> None:
    """Let Immich note its media location; None: it knows of no such note."""
    if new is None:
        home.look.execute("DELETE FROM system_metadata WHERE key = 'MediaLocation'")
    else:
        home.look.execute(
            "UPDATE system_metadata SET value = %s WHERE key = 'MediaLocation'", [Jsonb({"location": str(new)})]
        )


def moved(home: Home, new: Path) -> Home:
    """Return the home with Immich's media at another place, for whoever knows of it."""
    roots = replace(home.roots, media=new)

    def job(of: Job) -> Job:
        return replace(of, source_path_prefix=str(new)) if of.kind == "uploads" else of

    home.alice.media_root = home.bob.media_root = new
    house = replace(home.house, roots=roots, jobs=tuple(job(of) for of in home.house.jobs))
    return replace(home, roots=roots, house=house)


def copies(home: Home) -> dict[UUID, tuple[object, ...]]:
    """Return bob's copies, what he made of them, and when they were made."""
    rows = home.look.execute(
        'SELECT copy.id, copy."isFavorite", copy."isOffline", copy."deletedAt", copy."originalPath", map.synced_at'
        " FROM _face_sync_asset_map AS map JOIN asset AS copy ON copy.id = map.target_asset_id"
    ).fetchall()
    return {row[0]: row[1:] for row in rows}


def pauses(home: Home, words: str) -> None:
    readiness = home.service.readiness
    eventually(lambda: words in " ".join(readiness.reasons), within=WITHIN, describe=lambda: readiness.reasons)
    eventually(lambda: paused(home) == {"photos", "uploads"}, within=WITHIN, describe=lambda: readiness.reasons)


def paused(home: Home) -> set[str]:
    samples = [sample for metric in home.service.metrics.paused.collect() for sample in metric.samples]
    return {sample.labels["job"] for sample in samples if sample.value == 1}


def sweep(home: Home) -> None:
    """Let the listener look at everything, and wait until it has."""
    sweeps = home.service.metrics.sweeps.labels(outcome="done")
    before = sweeps._value.get()
    home.house.sweep()
    eventually(lambda: sweeps._value.get() > before, within=WITHIN)


def outside(home: Home) -> float:
    samples = [sample for metric in home.service.metrics.uploads_outside.collect() for sample in metric.samples]
    return sum(sample.value for sample in samples)


@pytest.mark.variant
def test_where_immich_moves_its_media_nothing_goes_and_all_ends_right(home: Home, oddity: Oddity) -> None:
    alice, bob, old = home.alice, home.bob, home.roots.media
    uploads = [alice.upload(f"{name}.jpg", faces=1, people=["new"]) for name in ("a", "b", "private")]
    of = {upload: home.copied(upload) for upload in uploads}
    home.settled()
    bob.favourite(of[uploads[0]])
    home.settled()
    before = copies(home)
    # The folder is there at both places, as where an admin mounts it at the new one, too.
    new = old.with_name("moved")
    new.symlink_to(old)
    rewrite(home, old, new)
    # Between the two not even Immich knows where it is.
    pauses(home, "outside")
    note(home, new)
    pauses(home, f"Immich's media location is '{new}', and UPLOAD_LOCATION_MOUNT is '{old}'")
    late = alice.upload("late.jpg", until="row")
    alice.lock(uploads[2])
    eventually(lambda: of[uploads[2]] not in copies(home), within=WITHIN)
    sweep(home)
    del before[of[uploads[2]]]
    assert copies(home) == before
    assert "Immich's media location is" in home.house.command("check").stdout
    assert "pauses: Immich's media location is" in home.house.command("status").stdout
    home.stop()
    new.unlink()
    old.rename(new)
    home.look.execute(
        'UPDATE asset SET "originalPath" = replace("originalPath", %s, %s) WHERE id = %s', [str(old), str(new), late]
    )
    there = moved(home, new)
    there.start()
    there.alice.work_on(late)
    there.copied(late)
    there.settled()
    assert {id_: row[0] for id_, row in copies(there).items() if id_ in before} == {
        id_: row[0] for id_, row in before.items()
    }
    assert all(Path(str(row[3])).resolve().is_file() for row in copies(there).values())
    oddity(
        "Immich moves its media location while the listener still has the old one",
        "Immich's media location is '/new', and UPLOAD_LOCATION_MOUNT is '/old': mount Immich's media folder at /new",
        "nothing is removed but what its user locks; with the new mount all copies are as they were",
    )


@pytest.mark.releases(since="3.0.3", until="3.0.3")
def test_where_the_mount_is_not_set_it_follows_immich(new_home: Callable[..., Home]) -> None:
    home = new_home()
    old = home.roots.media
    first, upload = home.alice.upload("first.jpg", faces=1, people=["new"]), home.alice.upload("a.jpg")
    default = Path("/data")
    home.start(media_root=default, follows_immich=True, jobs=moved(home, default).house.jobs)
    home.alice.media_root = home.bob.media_root = old
    home.copied(first)
    home.copied(upload)
    home.settled()
    before = copies(home)
    new = old.with_name("moved")
    new.symlink_to(old)
    rewrite(home, old, new)
    note(home, new)
    there = moved(home, new)
    third = there.alice.upload("third.jpg")
    there.copied(third)
    there.settled()
    assert {id_: row for id_, row in copies(there).items() if id_ in before} == before
    assert there.service.settings.media_root == new


@pytest.mark.releases(since="3.0.3", until="3.0.3")
@pytest.mark.parametrize("follows", [True, False])
def test_without_a_note_the_rows_tell(new_home: Callable[..., Home], tmp_path: Path, follows: bool) -> None:
    """As before a first start of that release, or where an older role of the listener's may not read it."""
    home = new_home()
    upload = home.alice.upload("a.jpg", faces=1, people=["new"])
    note(home, None)
    (elsewhere := tmp_path / "elsewhere").mkdir()
    media = home.roots.media
    jobs = moved(home, elsewhere).house.jobs
    home.alice.media_root = home.bob.media_root = media
    if not follows:
        home.start(but="outside", media_root=elsewhere, jobs=jobs)
        pauses(home, f"Immich's rows have the generated files of the source user outside '{elsewhere}'")
        assert copies(home) == {}
        home.stop()
    home.start(media_root=elsewhere, jobs=jobs, follows_immich=True)
    home.copied(upload)
    home.settled()


@pytest.mark.releases(since="3.0.3", until="3.0.3")
def test_uploads_outside_the_media_root_are_named_and_stop_nothing(
    new_home: Callable[..., Home], caplog: pytest.LogCaptureFixture, oddity: Oddity
) -> None:
    """As after a move of the media that was done by hand, and not wholly."""
    home = new_home()
    home.start()
    alice = home.alice
    had, never = alice.upload("had.jpg"), alice.upload("never.jpg", until="row")
    copy = home.copied(had)
    home.settled()
    before = copies(home)
    for upload in (had, never):
        home.look.execute(
            'UPDATE asset SET "originalPath" = replace("originalPath", %s, %s) WHERE id = %s',
            [str(home.roots.media), "/old/data", upload],
        )
    home.copied(alice.upload("new.jpg"))
    home.stop()
    home.start()
    sweep(home)
    home.copied(alice.upload("newer.jpg"))
    assert outside(home) == 2
    assert {id_: row for id_, row in copies(home).items() if id_ == copy} == before
    text = f"2 uploads lie outside Immich's media root {home.roots.media}, such as '/old/data"
    assert text in " ".join(str(getattr(record, "fields", "")) for record in caplog.records)
    for command in ("check", "status"):
        assert text in home.house.command(command).stdout
    oddity(
        "two uploads whose rows name an old media root",
        "2 uploads lie outside Immich's media root /data, such as '/old/data/…': they are not shared",
        "all others are shared; a copy that was there stays as it is",
    )
