"""PostgreSQL says no: deadlocks, locks, refused rows, tables that change, no connection, no space.

What may do when tried again is tried again; what does not is on record with its reason; the others go on, and no
statement of Immich's fails or waits for long. The listener is the real process.
"""

import contextlib
import json
import os
import pwd
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import psycopg
import pytest
from psycopg import sql

from tests import role
from tests.conftest import ImmichDatabase, Roots, eventually
from tests.house import Process
from tests.photos import Photo, PhotoHouse, evented_house

HEALS_WITHIN = 30.0
# What a statement of Immich's may wait for us on a busy machine. PostgreSQL looks for deadlocks after a second.
LONGEST = 5.0


@pytest.fixture
def carol(immich: ImmichDatabase, roots: Roots, tmp_path: Path) -> PhotoHouse:
    return evented_house(immich, roots, tmp_path)


@dataclass
class Immich:
    """Statements as Immich's server runs them all the time; what became of them."""

    conninfo: str
    done: int = 0
    longest: float = 0.0
    errors: list[str] = field(default_factory=list)

    @contextlib.contextmanager
    def at_work(self) -> Iterator["Immich"]:
        """Change all photos of everybody, one by one, until the block ends; none may fail or wait for long."""
        stop = threading.Event()

        def work() -> None:
            with psycopg.connect(self.conninfo, autocommit=True) as connection:
                while not stop.is_set():
                    self._one_round(connection, stop)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield self
        finally:
            stop.set()
            thread.join()
        assert self.errors == []
        assert self.done > 0
        assert self.longest < LONGEST

    def _one_round(self, connection: psycopg.Connection[tuple[object, ...]], stop: threading.Event) -> None:
        try:
            ids = connection.execute("SELECT id FROM asset ORDER BY random()").fetchall()
            for id_ in ids:
                if stop.is_set():
                    return
                started = time.monotonic()
                connection.execute('UPDATE asset SET "isFavorite" = NOT "isFavorite" WHERE id = %s', id_)
                connection.execute('UPDATE asset_exif SET rating = 3 WHERE "assetId" = %s', id_)
                self.longest = max(self.longest, time.monotonic() - started)
                self.done += 1
                stop.wait(0.01)
        except psycopg.Error as error:
            self.errors.append(str(error))
            stop.wait(0.1)


def kinds(process: Process) -> set[str]:
    """Return the reasons that the metric of failures knows."""
    lines = [line for line in process.get("/metrics").text.splitlines() if "_failures_total{" in line]
    return {line.split('reason="')[1].split('"')[0] for line in lines if not line.endswith(" 0.0")}


def settled(carol: PhotoHouse, copies: int, process: Process) -> None:
    """Wait until there are so many copies, all right, and no failure is left."""
    eventually(
        lambda: carol.copies() == copies and not carol.failures(),
        within=HEALS_WITHIN,
        describe=lambda: f"{carol.copies()} copies, {carol.failures()}\n{process.output[-3000:]}",
    )
    assert carol.house.settled().copies == copies
    assert process.popen.poll() is None
    assert "Traceback" not in process.output


def copy_of(carol: PhotoHouse, photo: Photo) -> UUID:
    ((id_,),) = carol.house.query(
        "SELECT target_asset_id FROM _face_sync_asset_map WHERE source_asset_id = %s", photo.id
    )
    return UUID(str(id_))


def ours(carol: PhotoHouse, doing: str) -> list[int]:
    """Return the sessions of the listener that are at this moment in a state, told in SQL."""
    rows = carol.house.query(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"  # noqa: S608
        f" AND usename = '{role.NAME}' AND {doing}"
    )
    return [int(str(pid)) for (pid,) in rows]


# --- in each other's way -----------------------------------------------------------------------------------


def test_in_a_deadlock_immich_never_loses(carol: PhotoHouse) -> None:
    """Immich has a copy's metadata and wants its row; we have the row and want the metadata. Immich waited first."""
    (photo,) = carol.add(1)
    query = carol.house.query
    # Between the lock of the copy's row and its metadata we are slow.
    query("CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.3); RETURN NEW; END'")
    query(
        f"""CREATE TRIGGER dawdle BEFORE UPDATE ON asset FOR EACH ROW
            WHEN (NEW."ownerId" = '{carol.house.target}' AND current_setting('face_sync.quiet', true) = 'on')
            EXECUTE FUNCTION dawdle()"""
    )
    with carol.house.running() as process:
        settled(carol, 1, process)
        copy = copy_of(carol, photo)
        for number in range(2):
            with psycopg.connect(carol.house.immich.conninfo) as immich:
                immich.execute('UPDATE asset_exif SET rating = %s WHERE "assetId" = %s', (number, copy))
                with psycopg.connect(carol.house.immich.conninfo) as source:
                    source.execute(
                        'UPDATE asset_exif SET description = %s WHERE "assetId" = %s', (f"{number}", photo.id)
                    )
                    source.execute('UPDATE asset SET "localDateTime" = now() WHERE id = %s', (photo.id,))
                eventually(lambda: ours(carol, "wait_event = 'PgSleep'"), describe=lambda: process.output[-2000:])
                started = time.monotonic()
                immich.execute('UPDATE asset SET "isFavorite" = NOT "isFavorite" WHERE id = %s', (copy,))
                assert time.monotonic() - started < LONGEST
            settled(carol, 1, process)
        assert kinds(process) <= {"lock"}
        assert process.metric("reconnects_total") == 0
    deadlocks = query("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    assert deadlocks == [(0,)], "PostgreSQL had to part them"


def test_what_may_do_at_the_next_try_is_tried_at_once_and_is_no_failure(carol: PhotoHouse) -> None:
    query = carol.house.query
    # A sequence counts also what is rolled back.
    query("CREATE SEQUENCE tries")
    query(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN"
        " CASE nextval('public.tries')"
        " WHEN 1 THEN RAISE deadlock_detected; WHEN 2 THEN RAISE serialization_failure; ELSE RETURN NEW;"
        " END CASE; END $$"
    )
    query(
        f"""CREATE TRIGGER refuse BEFORE INSERT ON asset FOR EACH ROW
            WHEN (NEW."ownerId" = '{carol.house.target}') EXECUTE FUNCTION refuse()"""
    )
    with carol.house.running() as process:
        carol.add(1)
        settled(carol, 1, process)
        assert query("SELECT last_value FROM tries") == [(3,)]
        assert kinds(process) == set()
        # Once more, and for longer than the tries at once: it comes again after a pause.
        query("SELECT setval('tries', 1, false)")
        query(
            "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN"
            " IF nextval('public.tries') < 6 THEN RAISE lock_not_available; END IF; RETURN NEW; END $$"
        )
        carol.add(1, start=10)
        settled(carol, 2, process)
        assert kinds(process) == {"lock"}
        assert "the database is busy: photos are tried again" in process.output
        assert process.metric("reconnects_total") == 0


@pytest.mark.parametrize("until", ["we wait for it", pytest.param("our limits are over", marks=pytest.mark.soak)])
def test_behind_the_lock_of_a_migration_we_wait_and_go_on(carol: PhotoHouse, until: str) -> None:
    photos = carol.add(5)
    carol.house.query('UPDATE asset_job_status SET "metadataExtractedAt" = NULL')
    with carol.house.running() as process, psycopg.connect(carol.house.immich.conninfo) as migration:
        migration.execute("LOCK TABLE asset IN ACCESS EXCLUSIVE MODE")
        carol.house.query('UPDATE asset_job_status SET "metadataExtractedAt" = now()')
        # Our trigger cannot see whose photos these are, and gives up rather than let Immich wait: named by hand.
        ids = json.dumps({"v": 1, "kind": "asset", "ids": [str(photo.id) for photo in photos]})
        carol.house.query("SELECT pg_notify('immich_shared_library', %s)", ids)
        eventually(lambda: ours(carol, "wait_event_type = 'Lock'"), describe=lambda: process.output[-2000:])
        if until == "our limits are over":
            eventually(lambda: kinds(process) == {"lock"}, within=60, describe=lambda: process.output[-2000:])
        # Whatever Immich does to other tables meanwhile does not wait for us who wait.
        for photo in photos:
            started = time.monotonic()
            carol.house.query('UPDATE asset_exif SET rating = 2 WHERE "assetId" = %s', photo.id)
            assert time.monotonic() - started < LONGEST
        assert process.get("/healthz").status_code == 200
        migration.execute('ALTER TABLE asset ADD COLUMN "lately" integer NOT NULL DEFAULT 7')
        migration.commit()
        settled(carol, 5, process)
        assert kinds(process) <= {"lock"}


# --- refused -----------------------------------------------------------------------------------------------


def test_a_statement_that_takes_too_long_is_ended_and_told_and_the_others_are_copied(carol: PhotoHouse) -> None:
    """The limit of a minute is not waited for: whoever dawdles is cancelled as PostgreSQL does it then."""
    query = carol.house.query
    photos = carol.plan(6)
    bad = photos[2]
    query("CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(70); RETURN NEW; END'")
    query(
        f"""CREATE TRIGGER dawdle BEFORE INSERT ON asset FOR EACH ROW
            WHEN (NEW."ownerId" = '{carol.house.target}' AND NEW."originalFileName" = '{bad.original.name}')
            EXECUTE FUNCTION dawdle()"""
    )

    def ended() -> None:
        for pid in ours(carol, "wait_event = 'PgSleep'"):
            query("SELECT pg_cancel_backend(%s)", pid)

    with carol.house.running() as process:
        made = carol.add(6)

        def told() -> bool:
            ended()
            return carol.copies() == 5 and set(carol.failures()) == {made[2].id}

        eventually(told, within=HEALS_WITHIN, describe=lambda: f"{carol.failures()} {process.output[-2000:]}")
        listed = json.loads(carol.house.command("failures", "list", "--json").stdout)
        assert [note["asset"] for note in listed] == [str(made[2].id)]
        assert "canceling statement" in listed[0]["reason"]
        assert process.metric("reconnects_total") == 0
        # Dropping the trigger would have to wait for who is asleep in it.
        query("CREATE OR REPLACE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'")
        ended()
        assert carol.house.command("failures", "retry", "--all").returncode == 0
        settled(carol, 6, process)


# --- tables that change ------------------------------------------------------------------------------------


def test_new_columns_that_must_have_a_value_get_their_sources(carol: PhotoHouse) -> None:
    """The listener has composed its statements without them."""
    tables = ("asset", "asset_exif", "asset_file", "smart_search", "asset_job_status")
    carol.add(3)
    carol.house.query('UPDATE asset_job_status SET "metadataExtractedAt" = NULL')
    with carol.house.running() as process:
        with psycopg.connect(carol.house.immich.conninfo) as migration:
            for table in tables:
                add = sql.SQL("ALTER TABLE {} ADD COLUMN novelty text NOT NULL DEFAULT 'the source''s'")
                migration.execute(add.format(sql.Identifier(table)))
                drop = sql.SQL("ALTER TABLE {} ALTER COLUMN novelty DROP DEFAULT")
                migration.execute(drop.format(sql.Identifier(table)))
        carol.house.query('UPDATE asset_job_status SET "metadataExtractedAt" = now()')
        settled(carol, 3, process)
    for table in tables:
        values = carol.house.query(f"SELECT DISTINCT novelty FROM {table}")  # noqa: S608
        assert values == [("the source's",)], table


@pytest.mark.parametrize("immich", ["3.0.3"], indirect=True)
def test_a_table_that_is_gone_is_left_out_and_one_that_we_need_is_waited_for(carol: PhotoHouse) -> None:
    query = carol.house.query
    carol.add(3)
    with carol.house.running() as process:
        settled(carol, 3, process)
        query("DROP TABLE asset_video CASCADE")
        carol.add(2, start=10)
        settled(carol, 5, process)
        before = query("SELECT target_asset_id FROM _face_sync_asset_map ORDER BY 1")
        query("ALTER TABLE asset_exif RENAME TO asset_exif_away")
        query("UPDATE asset SET visibility = visibility")
        eventually(
            lambda: process.get("/readyz").status_code == 503,
            within=HEALS_WITHIN,
            describe=lambda: process.output[-3000:],
        )
        assert process.get("/healthz").status_code == 200
        assert query("SELECT target_asset_id FROM _face_sync_asset_map ORDER BY 1") == before
        assert carol.copies() == 5
        query("ALTER TABLE asset_exif_away RENAME TO asset_exif")
        carol.add(1, start=20)
        settled(carol, 6, process)
        process.wait_ready()


# --- no connection, no space -------------------------------------------------------------------------------


def limit(server: str, connections: int) -> None:
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"ALTER ROLE {role.NAME} CONNECTION LIMIT {connections}".encode())


def test_without_a_connection_it_waits_and_with_few_it_works(server: str, carol: PhotoHouse) -> None:
    carol.add(2)
    try:
        with carol.house.running() as process:
            with Immich(carol.house.immich.conninfo).at_work():
                eventually(lambda: carol.copies() == 2, within=HEALS_WITHIN)
                limit(server, 0)
                for pid in ours(carol, "true"):
                    carol.house.query("SELECT pg_terminate_backend(%s)", pid)
                carol.add(2, start=10)
                eventually(
                    lambda: "too many connections for role" in process.output,
                    within=HEALS_WITHIN,
                    describe=lambda: process.output[-2000:],
                )
                assert process.get("/readyz").status_code == 503
                assert process.get("/healthz").status_code == 200
                # One for listening, one for the sweep, one for the work.
                limit(server, 3)
                eventually(lambda: carol.copies() == 4, within=HEALS_WITHIN, describe=lambda: process.output[-2000:])
            # Its sweep waits for a worker, which Immich kept busy.
            process.wait_ready()
            settled(carol, 4, process)
    finally:
        limit(server, -1)


def test_a_server_without_a_free_connection_is_waited_for(server: str, carol: PhotoHouse) -> None:
    carol.add(2)
    with carol.house.running() as process, contextlib.ExitStack() as taken:
        settled(carol, 2, process)

        def full() -> bool:
            """Take every connection that there is, the listener's, too."""
            with contextlib.suppress(psycopg.OperationalError):
                for _ in range(200):
                    taken.enter_context(psycopg.connect(server, autocommit=True))
            monitor = taken_monitor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", [role.NAME]
            )
            return not monitor.fetchall()

        with psycopg.connect(server, autocommit=True) as taken_monitor:
            eventually(full, within=HEALS_WITHIN, describe=lambda: process.output[-2000:])
            eventually(
                lambda: "too many clients" in process.output or "remaining connection slots" in process.output,
                within=HEALS_WITHIN,
                describe=lambda: process.output[-2000:],
            )
            assert process.get("/readyz").status_code == 503
        taken.close()
        carol.add(2, start=10)
        settled(carol, 4, process)


@pytest.fixture
def small_disk(server: str) -> Iterator[Path]:
    """A tablespace on a file system of 4 MB. Made before the database that uses it, and gone after it."""
    if os.environ.get("TEST_DATABASE_URL") or os.geteuid() != 0:
        pytest.skip("needs root, and a server of our own")
    folder = Path(tempfile.mkdtemp(prefix="listener-small-disk-"))
    folder.chmod(0o755)
    space, owner = folder / "space", pwd.getpwnam("nobody")
    space.mkdir()
    options = f"size=4m,mode=700,uid={owner.pw_uid},gid={owner.pw_gid}"
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(space)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        folder.rmdir()
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    try:
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE TABLESPACE small LOCATION {}").format(sql.Literal(str(space))))
            try:
                yield space
            finally:
                connection.execute("DROP TABLESPACE small")
    finally:
        subprocess.run(["umount", "--lazy", str(space)], check=False)
        space.rmdir()
        folder.rmdir()


@pytest.mark.parametrize(
    "tables",
    [["asset"], pytest.param(["asset", "_face_sync_failure", "_face_sync_intent"], marks=pytest.mark.soak)],
    ids=len,
)
def test_a_full_disk_of_postgresql_is_told_and_heals(small_disk: Path, carol: PhotoHouse, tables: list[str]) -> None:
    """Where our own tables are on that disk, the reasons are in the log at least."""
    carol.add(1)
    with carol.house.running() as process:
        settled(carol, 1, process)
    for table in tables:
        carol.house.query(f"ALTER TABLE {table} SET TABLESPACE small")
    carol.add(25, start=10)
    carol.house.query(
        'UPDATE asset_job_status SET "metadataExtractedAt" = NULL'
        ' WHERE "assetId" NOT IN (SELECT source_asset_id FROM _face_sync_asset_map'
        " UNION SELECT target_asset_id FROM _face_sync_asset_map)"
    )
    with carol.house.running() as process:
        filler = small_disk / "filler"
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(b"x" * 4096)
        carol.house.query('UPDATE asset_job_status SET "metadataExtractedAt" = now()')
        eventually(
            lambda: "No space left on device" in process.output,
            within=HEALS_WITHIN,
            describe=lambda: process.output[-2000:],
        )
        if len(tables) == 1:
            eventually(carol.failures, within=HEALS_WITHIN)
            assert all("No space left on device" in reason for reason, _ in carol.failures().values())
        assert process.get("/healthz").status_code == 200
        filler.unlink()
        settled(carol, 26, process)
