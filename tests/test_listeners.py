"""Several listeners on one Immich, as processes: every job has one owner, who dies or is only thought dead."""

import re
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from listener.database import JOB_LOCK, FencedError, connect, prepare_session, writing
from listener.ownership import Ownership
from listener.settings import Job
from tests.conftest import ImmichDatabase, Roots, eventually
from tests.house import House, Process, share
from tests.photos import Photo, PhotoHouse, photo_house, write_files

MOVES_WITHIN = 10.0
STARTS_WITHIN = 30.0
# The server tells of the sessions that hold a job; the listener's log of who has taken which.
_OWNERS = """
SELECT locks.objid, locks.pid FROM pg_locks AS locks
WHERE locks.locktype = 'advisory' AND locks.granted AND locks.objsubid = 2 AND locks.classid = %s::bigint::oid
  AND locks.database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
# Who writes copies, and when: the listener's sessions say which process they belong to.
_WATCH_WRITERS = """
CREATE TABLE written (owner text, at timestamptz DEFAULT clock_timestamp());
CREATE FUNCTION note_writer() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    INSERT INTO written (owner) VALUES (current_setting('face_sync.owner', true));
    RETURN NULL;
END $$;
CREATE TRIGGER note_writer AFTER INSERT OR UPDATE OR DELETE ON asset FOR EACH ROW
    EXECUTE FUNCTION note_writer();
CREATE TRIGGER note_writer AFTER INSERT OR UPDATE OR DELETE ON _face_sync_asset_map FOR EACH ROW
    EXECUTE FUNCTION note_writer();
"""


@dataclass(frozen=True, slots=True)
class Terrace:
    """Carol shares her library and her uploads with two neighbours: four jobs."""

    carol: PhotoHouse
    house: House

    def add(self, count: int, *, start: int = 0) -> list[Photo]:
        """Add photos to carol's library, which go to both neighbours."""
        return self.carol.add(count, start=start)

    def copies(self, job: Job) -> int:
        ((count,),) = self.house.query('SELECT count(*) FROM asset WHERE "ownerId" = %s', job.target_user_id)
        return int(str(count))

    def owners(self) -> Counter[int]:
        """Return how many sessions hold each job, by what the lock's second key is."""
        return Counter(int(str(lock)) for lock, _ in self.house.query(_OWNERS, JOB_LOCK))

    @contextmanager
    def listeners(self, *houses: House) -> Iterator[list[Process]]:
        """Run a listener for each of these configurations."""
        with ExitStack() as stack:
            yield [self.start(house, stack) for house in houses]

    def start(self, house: House, stack: ExitStack) -> Process:
        process = house.start()
        stack.callback(_end, process)
        return process

    def with_jobs(self, *jobs: Job) -> House:
        """Return the house as somebody sees it who has another configuration."""
        folder = self.house.folder / f"config-{len(jobs)}-{jobs[0].name}"
        folder.mkdir()
        return replace(self.house, jobs=jobs, folder=folder)


def _end(process: Process) -> None:
    if process.popen.poll() is None:
        process.signal(signal.SIGCONT)
    process.end()


@pytest.fixture
def terrace(immich: ImmichDatabase, roots: Roots, tmp_path: Path) -> Terrace:
    carol = photo_house(immich, roots, tmp_path, {"RECONCILE_INTERVAL_SECONDS": "3600", "WORKERS": "1"})
    second = share(immich, roots, carol.house.source, tmp_path, photos=str(carol.folder))
    # The last one has something to do.
    jobs = (*carol.house.jobs, *(replace(job, name=f"{job.name} too") for job in reversed(second.jobs)))
    house = replace(carol.house, jobs=jobs)
    house.install_triggers()
    return Terrace(carol, house)


def serves(process: Process) -> list[str]:
    """Return the names of the jobs that a listener has taken, each time it did."""
    return re.findall(r'serving a job job="?(.*?)"?$', process.output, re.MULTILINE)


def all_served(terrace: Terrace, processes: list[Process], names: set[str], *, within: float = STARTS_WITHIN) -> None:
    """Wait until every job has an owner; it never has two."""
    eventually(
        lambda: {name for process in processes for name in serves(process)} >= names,
        within=within,
        describe=lambda: "\n".join(process.output[-2000:] for process in processes),
    )
    assert max(terrace.owners().values()) == 1


def test_each_of_four_jobs_has_one_of_three_owners(terrace: Terrace) -> None:
    house = terrace.house
    names = {job.name for job in house.jobs}
    terrace.add(10)
    with terrace.listeners(house, house, house) as three:
        all_served(terrace, three, names)
        assert house.settled().copies == 20
        terrace.add(5, start=100)
        assert house.settled().copies == 30
        assert terrace.owners() == Counter(dict.fromkeys(terrace.owners(), 1))
        assert len(terrace.owners()) == 4
        assert sorted(name for process in three for name in serves(process)) == sorted(names)
        idle = [process for process in three if not serves(process)]
        eventually(lambda: sum(process.metric("copies_made_total") for process in three) == 30)
        assert all(process.metric("copies_made_total") == 0 for process in idle)
        assert all(process.metric("failures_total") == 0 for process in three)


def test_the_jobs_of_a_killed_owner_move_within_ten_seconds(terrace: Terrace) -> None:
    house = terrace.house
    names = {job.name for job in house.jobs}
    with terrace.listeners(house, house, house) as three:
        all_served(terrace, three, names)
        eventually(lambda: all(process.metric("listening") == 1 for process in three), within=20)
        doomed = max(three, key=lambda process: len(serves(process)))
        left = [process for process in three if process is not doomed]
        photos = terrace.carol.plan(5)
        for photo in photos:
            write_files(photo)
        doomed.signal(signal.SIGKILL)
        killed = time.monotonic()
        terrace.carol.rows(photos)
        all_served(terrace, left, names, within=MOVES_WITHIN - (time.monotonic() - killed))
        print(f"moved within {time.monotonic() - killed:.1f} s")
        assert len(terrace.owners()) == 4
        assert house.settled().copies == 10


def test_an_owner_that_was_only_stopped_writes_nothing_any_more(terrace: Terrace) -> None:
    """It stands still in the middle of a batch, another takes its jobs, and then it goes on."""
    house = terrace.house
    names = {job.name for job in house.jobs}
    house.query(_WATCH_WRITERS)
    with ExitStack() as stack:
        stopped = terrace.start(house, stack)
        all_served(terrace, [stopped], names)
        stopped.wait_ready()
        with psycopg.connect(house.immich.conninfo) as blocking:
            # Its batch comes as far as the marks that copies are begun.
            blocking.execute("LOCK TABLE _face_sync_intent IN SHARE MODE")
            photos = terrace.add(60)
            eventually(lambda: waits_for_a_lock(house), within=20, describe=lambda: stopped.output[-2000:])
            stopped.signal(signal.SIGSTOP)
            listening = {pid for _, pid in house.query(_OWNERS, JOB_LOCK)}
            assert len(listening) == 1
            house.query("SELECT pg_terminate_backend(%s)", *listening)
        other = terrace.start(house, stack)
        all_served(terrace, [other], names)
        assert house.settled().copies == 120
        # What the stopped one has in hand is true no more.
        gone = [photo.id for photo in photos[:30]]
        house.query("UPDATE asset SET \"deletedAt\" = now(), status = 'trashed' WHERE id = ANY(%s)", gone)
        assert house.settled().copies == 60
        ((taken_over,),) = house.query("SELECT clock_timestamp()")
        writers = {str(owner) for (owner,) in house.query("SELECT DISTINCT owner FROM written WHERE owner <> ''")}
        assert len(writers) == 1, "the stopped one had written already: the test shows nothing"
        stopped.signal(signal.SIGCONT)
        eventually(lambda: stopped.metric("reconnects_total") >= 1, within=20, describe=lambda: stopped.output[-3000:])
        eventually(lambda: stopped.metric("listening") == 1 and not in_hand(stopped), within=20)
        terrace.add(5, start=1000)
        assert house.settled().copies == 70
        later = house.query("SELECT DISTINCT owner FROM written WHERE at > %s AND owner <> ''", taken_over)
        assert {str(owner) for (owner,) in later} == writers, "the one that had lost its jobs has written"
        assert stopped.metric("copies_made_total") == 0
        assert sorted(serves(stopped)) == sorted(names)
        assert stopped.popen.poll() is None
        # It is as good as any other once the new owner dies.
        other.signal(signal.SIGKILL)
        terrace.add(5, start=2000)
        assert house.settled().copies == 80


def waits_for_a_lock(house: House) -> bool:
    found = house.query(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    return found != [(0,)]


def in_hand(process: Process) -> float:
    return process.metric("keys_in_flight")


def test_one_that_knows_fewer_jobs_leaves_the_rest_to_others(terrace: Terrace) -> None:
    house = terrace.house
    *some, last = house.jobs
    fewer = terrace.with_jobs(*some)
    with terrace.listeners(fewer) as (poor,):
        all_served(terrace, [poor], {job.name for job in some})
        terrace.add(3)
        with terrace.listeners(house) as (rich,):
            all_served(terrace, [poor, rich], {job.name for job in house.jobs})
            assert serves(rich) == [last.name]
            assert house.settled().copies == 6
        terrace.add(3, start=100)
        fewer.settled()
        assert terrace.copies(some[0]) == 6
        assert terrace.copies(last) == 3
        assert len(terrace.owners()) == 3
        assert last.name not in serves(poor)


def test_a_job_under_two_names_is_one_job(terrace: Terrace) -> None:
    house = terrace.house
    renamed = terrace.with_jobs(*(replace(job, name=f"renamed {job.name}") for job in house.jobs))
    with terrace.listeners(house, renamed) as both:
        eventually(lambda: sum(len(serves(process)) for process in both) >= 4, within=STARTS_WITHIN)
        terrace.add(5)
        assert house.settled().copies == 10
        owners = terrace.owners()
        assert sorted(owners.values()) == [1, 1, 1, 1]
        served = [name.removeprefix("renamed ") for process in both for name in serves(process)]
        assert sorted(served) == sorted(job.name for job in house.jobs)
        eventually(lambda: sum(process.metric("copies_made_total") for process in both) == 10)


async def test_a_session_of_the_former_owner_cannot_write(terrace: Terrace) -> None:
    """The fence by itself: its listening session is gone, it has not noticed, and another has taken its jobs."""
    job, conninfo = terrace.house.jobs[0], terrace.house.immich.conninfo
    former, owner = uuid4(), uuid4()
    async with await connect(conninfo) as writer, await connect(conninfo) as other:
        await prepare_session(writer, former)
        async with await connect(conninfo) as listening:
            assert job in await Ownership(terrace.house.jobs, former).take(listening)
            assert not await Ownership(terrace.house.jobs, owner).take(other)
            async with writing(writer, job.target_user_id, job.identity):
                pass
        taken: list[Job] = []
        while job not in taken:
            # The server may need a moment to see that the session is gone.
            taken += await Ownership(terrace.house.jobs, owner).take(other)
        with pytest.raises(FencedError):
            async with writing(writer, job.target_user_id, job.identity):
                pytest.fail("it may write")
