"""A folder that is not mounted is not read as "everything was deleted": the job pauses until it is back."""

import asyncio
import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import psycopg
import pytest

from listener import mounts, recovery
from listener.database import Connection, connect
from listener.immich import catalog
from listener.immich.api import Features
from listener.immich.layout import Layout, SwappedError
from listener.ops.http import Readiness
from listener.ops.metrics import Metrics
from listener.sync.assets import WantedCopy
from listener.sync.clearing import remove_beside
from listener.sync.files import FileProblemError, OriginalLinks
from listener.sync.placing import Placer
from listener.sync.reconciler import Reconciler
from tests.conftest import ImmichDatabase, Roots, eventually, eventually_async
from tests.disks import HEALS_WITHIN, healed, look, mount, mounted, unmount
from tests.house import Process
from tests.photos import Photo, PhotoHouse, evented_house, write_files

WAITING = "SELECT FROM pg_locks WHERE NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = %s)"


@pytest.fixture
def carol(immich: ImmichDatabase, roots: Roots, tmp_path: Path) -> PhotoHouse:
    return evented_house(immich, roots, tmp_path)


@contextlib.contextmanager
def away(folder: Path, how: str) -> Iterator[None]:
    """Let a folder be away: empty in its place, or nothing at all."""
    hidden = folder.with_name(f"{folder.name}-is-away")
    folder.rename(hidden)
    if how == "empty":
        folder.mkdir()
    try:
        yield
    finally:
        if how == "empty":
            # Fails if somebody has made something in it.
            folder.rmdir()
        hidden.rename(folder)


def paused(process: Process, words: str) -> None:
    """Wait until the job says that it pauses: by its readiness, its metric and its log."""
    eventually(lambda: process.metric("paused") >= 1, within=HEALS_WITHIN, describe=lambda: process.output[-3000:])
    answer = process.get("/readyz")
    assert answer.status_code == 503
    assert words in answer.text
    assert "a folder is not mounted" in process.output
    assert words in process.output
    assert process.get("/healthz").status_code == 200


@pytest.mark.parametrize(("which", "how"), [("media", "gone"), ("external", "empty"), ("photos", "empty")])
def test_a_folder_that_is_not_mounted_is_not_read_as_all_deleted(
    carol: PhotoHouse, roots: Roots, which: str, how: str
) -> None:
    folder = {"media": roots.media, "external": roots.external, "photos": carol.folder}[which]
    photos = carol.add(4)
    (new,) = carol.plan(1, start=100)
    with contextlib.ExitStack() as later:
        with carol.house.running() as process:
            healed(carol, 4, process)
            before = look(roots.media, roots.external)
            kept = copies_but_of(carol, photos[0])
            later.enter_context(away(folder, how))
            # Work comes: a new photo, one whose copy must go, and a look at everything.
            carol.house.query("UPDATE asset SET visibility = 'locked' WHERE id = %s", photos[0].id)
            carol.rows([new])
            carol.house.sweep()
            paused(process, str(roots.media / "thumbs" if which == "media" else folder))
            # What must not be seen goes from Immich, and nothing else; its files are still there, unless they are away.
            eventually(lambda: carol.copies() == 3, describe=lambda: process.output[-3000:])
            assert not carol.copied(photos[0])
        # One that starts now changes nothing either, nor does who reconciles by hand.
        if how == "gone":
            done = carol.house.command("reconcile")
            assert done.returncode == 2, done.stdout
            assert "mount it as in Immich's server" in done.stderr
        with carol.house.running(ready=False) as process:
            paused(process, "mount it as in Immich's server")
            assert carol.copies() == 3
            assert carol.failures() == {}
            carol.house.query("DELETE FROM asset WHERE id = %s", new.id)
            later.close()
            process.wait_ready()
            assert process.metric("paused") == 0
            healed(carol, 3, process)
    assert look(roots.media, roots.external).keys() <= before.keys(), "something was made that nobody needs"
    assert copies_but_of(carol, photos[0]) == kept, "the copies were made anew"


def copies_but_of(carol: PhotoHouse, photo: Photo) -> list[tuple[object, ...]]:
    """Return the copies of all other photos, with the moment they were made."""
    return carol.house.query(
        'SELECT map.target_asset_id, map.synced_at, copy."updateId"'
        " FROM _face_sync_asset_map AS map JOIN asset AS copy ON copy.id = map.target_asset_id"
        " WHERE map.source_asset_id <> %s ORDER BY 1",
        photo.id,
    )


def test_a_disk_that_is_unmounted_under_the_running_listener_comes_back(
    immich: ImmichDatabase, roots: Roots, tmp_path: Path
) -> None:
    real = tmp_path / "disk"
    real.mkdir()
    with mounted(roots.media, "--bind", str(real)):
        carol = evented_house(immich, roots, tmp_path)
        photos = carol.add(3)
        with carol.house.running() as process:
            healed(carol, 3, process)
            unmount(roots.media)
            # Without any work, too.
            paused(process, str(roots.media / "thumbs"))
            carol.house.query("DELETE FROM asset WHERE id = %s", photos[1].id)
            eventually(lambda: carol.copies() == 2)
            assert list(roots.media.iterdir()) == []
            mount(roots.media, "--bind", str(real))
            process.wait_ready()
            healed(carol, 2, process)


def test_another_disk_in_the_place_of_one_is_looked_at_anew(carol: PhotoHouse, roots: Roots, tmp_path: Path) -> None:
    """As a snapshot, or the same share of another server; too fast to be seen as away."""
    carol.add(2)
    another = tmp_path / "another"
    with carol.house.running() as process:
        healed(carol, 2, process)
        shutil.copytree(roots.external, another, symlinks=True)
        shutil.rmtree(another / Path(carol.house.jobs[0].target_path_prefix).relative_to(roots.external))
        roots.external.rename(tmp_path / "former")
        another.rename(roots.external)
        eventually(lambda: "is not the folder that it was" in process.output, describe=lambda: process.output[-3000:])
        healed(carol, 2, process)


def test_where_immich_left_a_mark_the_mark_decides(carol: PhotoHouse, roots: Roots) -> None:
    """Somebody has written into the empty mount point: it is not empty, and still not the disk."""
    flags = '{"mountChecks": {"thumbs": true, "upload": true, "profile": true}}'
    carol.house.query("INSERT INTO system_metadata (key, value) VALUES ('system-flags', %s::jsonb)", flags)
    photos = carol.add(2)
    for folder in ("thumbs", "upload"):
        (roots.media / folder).mkdir(exist_ok=True)
        (roots.media / folder / ".immich").touch()
    with carol.house.running() as process:
        healed(carol, 2, process)
        mark = roots.media / "thumbs" / ".immich"
        mark.unlink()
        carol.house.query("DELETE FROM asset WHERE id = %s", photos[0].id)
        paused(process, str(mark))
        eventually(lambda: carol.copies() == 1)
        mark.touch()
        process.wait_ready()
        healed(carol, 1, process)


# Before 2.4 there is no guard.
@pytest.mark.parametrize("immich", ["3.0.3"], indirect=True)
def test_what_the_folders_lead_to_is_judged_again_when_they_are_back(carol: PhotoHouse, roots: Roots) -> None:
    """Behind an empty mount point lies a target prefix that leads to the source's originals, which need the guard."""
    prefix = Path(carol.house.jobs[0].target_path_prefix)
    prefix.symlink_to(carol.folder)
    carol.add(2)
    carol.house.install_triggers()
    with away(roots.external, "empty"):
        # Nobody can see now that the guard is needed: it stays.
        carol.house.install_triggers()
        ((guard,),) = carol.house.query("SELECT tgname FROM pg_trigger WHERE tgname LIKE '%%guard%%'")
        carol.house.query(f'DROP TRIGGER "{guard}" ON asset')
        process = carol.house.start()
        paused(process, str(roots.external))
    try:
        eventually(
            lambda: "triggers install" in process.get("/readyz").text,
            within=HEALS_WITHIN,
            describe=lambda: process.output[-3000:],
        )
        assert carol.copies() == 0
        carol.house.install_triggers()
        process.wait_ready()
        eventually(lambda: carol.copies() == 2, within=HEALS_WITHIN, describe=lambda: process.output[-3000:])
    finally:
        process.end()


@pytest.mark.parametrize("how", ["gone", "empty"])
def test_no_link_is_made_or_removed_where_the_external_root_is_away(roots: Roots, how: str) -> None:
    """The last wall: the root goes away between a look at it and the link."""
    job_prefix = roots.external / "shared" / "bob"
    path = str(job_prefix / "2024" / "IMG.jpg")
    layout = Layout(roots.media, roots.external).as_seen()
    links = OriginalLinks(layout, str(job_prefix))
    with away(roots.external, how):
        with pytest.raises(SwappedError, match="is not the folder that it was"):
            links.link(path, "/elsewhere/IMG.jpg")
        assert how == "empty" or not roots.external.exists()
        with pytest.raises(SwappedError, match="is not the folder that it was"):
            remove_beside(layout, str(job_prefix), path)
    assert links.link(path, "/elsewhere/IMG.jpg") == "symlink"


def test_no_folder_is_made_for_an_external_root_that_never_was_there(roots: Roots) -> None:
    job_prefix = roots.external / "shared" / "bob"
    roots.external.rmdir()
    links = OriginalLinks(Layout(roots.media, roots.external).as_seen(), str(job_prefix))
    with pytest.raises(FileProblemError, match="is not there: mount it"):
        links.link(str(job_prefix / "2024" / "IMG.jpg"), "/elsewhere/IMG.jpg")
    assert not roots.external.exists()


@pytest.mark.parametrize("which", ["media", "thumbs", "external"])
@pytest.mark.parametrize("work", ["make", "remove"])
def test_a_disk_that_goes_away_while_a_batch_is_in_hand(carol: PhotoHouse, roots: Roots, which: str, work: str) -> None:
    folder = {"media": roots.media, "thumbs": roots.media / "thumbs", "external": roots.external}[which]
    photos = carol.add(3)
    with carol.house.running() as process:
        healed(carol, 3, process)
    if work == "make":
        (photo,) = carol.add(1, start=100)
    else:
        photo = photos[0]
        carol.house.query("UPDATE asset SET visibility = 'locked' WHERE id = %s", photo.id)
    asyncio.run(_reconcile_without(carol, photo, folder))
    # Rows go first: whatever the disk says, nobody sees what they must not.
    assert carol.copies() == (3 if work == "make" else 2)
    assert carol.failures() == {}
    with carol.house.running() as process:
        # Nothing is left of what went, and all of what came is there.
        healed(carol, 4 if work == "make" else 2, process)


async def _reconcile_without(carol: PhotoHouse, photo: Photo, folder: Path) -> None:
    """Reconcile a photo; after the look at the folders one goes, and an empty mount point is there instead."""
    conninfo = carol.house.immich.conninfo
    async with await connect(conninfo) as connection:
        await connection.execute("SET lock_timeout = 0")
        reconciler = await _reconciler(carol, connection)
        with psycopg.connect(conninfo) as immich:
            immich.execute("LOCK TABLE asset")
            working = asyncio.create_task(reconciler.assets(connection, carol.house.jobs[0], [photo.id]))
            await eventually_async(lambda: _waits(conninfo, connection.info.dbname))
            # Below a root the disk decides.
            below = mounted(folder, "-t", "tmpfs", "none") if folder.name == "thumbs" else away(folder, "empty")
            with below:
                immich.commit()
                with pytest.raises(SwappedError, match=f"{folder} is not the folder that it was"):
                    await working


async def _reconciler(carol: PhotoHouse, connection: Connection) -> Reconciler:
    return Reconciler.compose(
        await catalog.read(connection),
        layout=Layout(carol.house.roots.media, carol.house.roots.external).as_seen(),
        link_mode="auto",
        metrics=Metrics(),
        jobs=carol.house.jobs,
        features=lambda: Features(smart_search=False, facial_recognition=False, ocr=False),
        ml_wait=0,
        removal_limit=None,
    )


async def test_a_disk_that_goes_away_between_the_rows_and_the_link(
    carol: PhotoHouse, roots: Roots, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photo,) = await asyncio.to_thread(carol.add, 1)
    link = Placer.originals

    def without(self: Placer, links: OriginalLinks, copies: Sequence[WantedCopy]) -> object:
        with away(roots.external, "empty"):
            return link(self, links, copies)

    async with await connect(carol.house.immich.conninfo) as connection:
        reconciler = await _reconciler(carol, connection)
        monkeypatch.setattr(Placer, "originals", without)
        with pytest.raises(SwappedError):
            await reconciler.assets(connection, carol.house.jobs[0], [photo.id])
        monkeypatch.undo()
        assert carol.copied(photo)
        assert not carol.link(photo).is_symlink()
        await reconciler.assets(connection, carol.house.jobs[0], [photo.id])
        assert carol.link(photo).is_symlink()


async def test_what_is_left_over_is_looked_for_again_where_a_disk_went_away(
    carol: PhotoHouse, roots: Roots, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a restored backup, when no row tells of what is on the disk."""
    job = carol.house.jobs[0]
    forgotten = carol.link(carol.plan(1)[0])
    forgotten.parent.mkdir(parents=True)
    forgotten.symlink_to(job.source_path_prefix + str(forgotten).removeprefix(job.target_path_prefix))
    look_for = recovery._our_links
    with contextlib.ExitStack() as later:

        def without(at: recovery._Job) -> list[str]:
            later.enter_context(away(roots.external, "empty"))
            return look_for(at)

        async with await connect(carol.house.immich.conninfo) as connection:
            reconciler = await _reconciler(carol, connection)
            monkeypatch.setattr(recovery, "_our_links", without)
            with pytest.raises(SwappedError):
                await recovery.clean_up(connection, reconciler, job)
            later.close()
            monkeypatch.undo()
            assert forgotten.is_symlink()
            await recovery.clean_up(connection, reconciler, job)
            assert not forgotten.is_symlink()


@pytest.mark.parametrize("made", [True, False])
async def test_a_folder_made_between_the_look_at_it_and_the_look_at_the_rows(
    carol: PhotoHouse, roots: Roots, made: bool
) -> None:
    (photo,) = carol.plan(1)
    job = carol.house.jobs[0]
    carol.rows([photo])
    await asyncio.to_thread(carol.folder.rmdir)
    # The question to the rows has to wait: this is the moment.
    with psycopg.connect(carol.house.immich.conninfo) as immich:
        immich.execute("LOCK TABLE asset")
        async with await connect(carol.house.immich.conninfo) as connection:
            looking = asyncio.create_task(
                mounts.missing(connection, job, Layout(roots.media, roots.external), frozenset())
            )
            await eventually_async(lambda: _waits(carol.house.immich.conninfo, connection.info.dbname))
            if made:
                photo.original.parent.mkdir(parents=True)
                photo.original.touch()
                photo.preview.parent.mkdir(parents=True)
                photo.preview.touch()
            immich.commit()
            words = await looking
    assert (words is None) is made, words


async def _waits(conninfo: str, database: str) -> bool:
    async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as connection:
        cursor = await connection.execute(WAITING, [database])
        return await cursor.fetchone() is not None


async def test_while_the_rows_cannot_be_asked_an_empty_folder_is_not_worked_on(carol: PhotoHouse, roots: Roots) -> None:
    (photo,) = carol.plan(1)
    job = carol.house.jobs[0]
    carol.rows([photo])
    await asyncio.to_thread(carol.folder.rmdir)
    looking = mounts.Mounts(Metrics(), Readiness())
    async with await connect(carol.house.immich.conninfo) as connection:
        await looking.begin(connection, Layout(roots.media, roots.external).as_seen())
        await connection.execute("SET lock_timeout = 100")
        with psycopg.connect(carol.house.immich.conninfo) as migration:
            migration.execute("LOCK TABLE asset")
            assert await looking.paused(connection, job)
        await asyncio.to_thread(carol.folder.mkdir)
        await asyncio.to_thread((carol.folder / "one").touch)
        await asyncio.to_thread(write_files, photo)
        # Everything is looked at then, also what was left out meanwhile.
        with pytest.raises(mounts.MountedAgainError):
            await looking.paused(connection, job)
