"""What becomes of the work when the server, its password, or a pooler before it changes; and what is refused."""

import asyncio
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from listener.database import JOB_LOCK
from tests import role
from tests.conftest import DEFAULT_RELEASE, ImmichDatabase, Roots, eventually
from tests.connections import AGAIN, GAVE_UP, NOTICED_WITHIN, in_the_middle, over, said, sessions, settled
from tests.house import House, database_url
from tests.photos import PhotoHouse, photo_house
from tests.servers import Server, pooler, prototype
from tests.wire import Wire, wire_to

pytest_plugins = ("tests.connection_fixtures",)

# All of ours, or all but the listening session: only that one holds the locks of the jobs.
END = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'immich-shared-library'
      AND (%s OR NOT EXISTS (SELECT FROM pg_locks WHERE pg_locks.pid = pg_stat_activity.pid AND classid::bigint = %s))
"""


@pytest.fixture(scope="module")
def new_server() -> Iterator[Callable[[], Server]]:
    with prototype() as make:
        yield make


@pytest.fixture
def served(new_server: Callable[[], Server], roots: Roots, tmp_path: Path) -> tuple[Server, PhotoHouse]:
    """Return carol's house and a server that is its own."""
    server = new_server()
    carol = photo_house(ImmichDatabase(server.conninfo, DEFAULT_RELEASE), roots, tmp_path)
    carol.house.install_triggers()
    return server, carol


def refused(house: House, *command: str) -> str:
    """Return the one line with which a command ends that refuses this database."""
    done = house.command(*command)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if " INFO " not in line]
    return line


# --- the server -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["all", pytest.param("workers", marks=pytest.mark.soak)])
def test_sessions_that_are_terminated_in_the_middle_of_the_work(carol: PhotoHouse, which: str) -> None:
    house = carol.house
    carol.add(700)
    with house.running(ready=False) as process:
        for _ in range(3):
            # Begun copies may be from before: what counts is that there was somebody to end.
            in_the_middle(carol, process, lambda: house.query(END, which == "all", JOB_LOCK))
        settled(house, process, 700)
        carol.add(2, start=1000)
        settled(house, process, 702)


@pytest.mark.soak
def test_a_frozen_server(served: tuple[Server, PhotoHouse]) -> None:
    """Nothing is answered, and nothing ends: statements in hand, and connecting. Then it wakes up."""
    server, carol = served
    carol.add(1500)
    with wire_to(server.conninfo) as wire:
        house = over(carol, wire.conninfo)
        with house.running(ready=False) as process:
            in_the_middle(carol, process, lambda: True)
            server.freeze()
            began = time.monotonic()
            said(process, AGAIN, within=NOTICED_WITHIN)
            print(f"frozen server: given up after {time.monotonic() - began:.1f} s")
            assert re.search(GAVE_UP, process.output)
            assert process.get("/healthz").status_code == 200
            assert process.get("/readyz").status_code == 503
            server.wake()
            settled(house, process, 1500)
        assert process.popen.poll() == 0


def test_a_server_that_is_restarted(served: tuple[Server, PhotoHouse]) -> None:
    server, carol = served
    carol.add(700)
    with wire_to(server.conninfo) as wire:
        house = over(carol, wire.conninfo)
        with house.running(ready=False) as process:
            in_the_middle(carol, process, lambda: True)
            server.stop()
            said(process, AGAIN)
            server.start()
            wire.retarget(server.conninfo)
            carol = _moved(carol, server)
            settled(_at(house, server), process, 700)
            carol.add(2, start=1000)
            settled(_at(house, server), process, 702)


def test_a_replica_is_refused_and_served_once_it_is_promoted(served: tuple[Server, PhotoHouse]) -> None:
    server, carol = served
    # Asking for it makes the role, which the replica is to know too.
    assert carol.house.environment
    replica = server.stand_by(server.data_dir.parent / f"replica{uuid4().hex[:8]}")
    replica.start()
    try:
        with wire_to(server.conninfo) as wire:
            house = over(carol, wire.conninfo)
            carol.add(20)
            with house.running() as process:
                settled(house, process, 20)
                _replayed(server, replica)
                # The primary is gone: its address leads to the replica from now on.
                wire.retarget(replica.conninfo)
                server.stop()
                said(process, "read-only replica")
                for command in (("run",), ("check",), ("status",), ("verify",)):
                    line = refused(house, *command)
                    assert "read-only replica" in line
                    assert "DB_HOSTNAME" in line
                    assert "primary" in line
                assert process.popen.poll() is None
                replica.execute("SELECT pg_promote()")
                carol = _moved(carol, replica)
                carol.add(5, start=100)
                settled(_at(house, replica), process, 25)
    finally:
        replica.stop()


def _replayed(server: Server, replica: Server) -> None:
    ((position,),) = server.execute("SELECT pg_current_wal_lsn()::text")
    eventually(lambda: replica.execute(f"SELECT pg_last_wal_replay_lsn() >= '{position}'") == [(True,)], within=20)


def _at(house: House, server: Server) -> House:
    return replace(house, immich=ImmichDatabase(server.conninfo, house.immich.release))


def _moved(carol: PhotoHouse, server: Server) -> PhotoHouse:
    return replace(carol, house=_at(carol.house, server))


def test_a_database_that_is_made_read_only(carol: PhotoHouse, wire: Wire) -> None:
    house = over(carol, wire.conninfo)
    in_database = f'ALTER DATABASE "{conninfo_to_dict(house.immich.conninfo)["dbname"]}"'
    carol.add(3)
    with house.running() as process:
        settled(house, process, 3)
        house.query(f"{in_database} SET default_transaction_read_only = on")
        wire.cut()
        said(process, "default_transaction_read_only is on")
        for command in (("run",), ("check",)):
            assert "default_transaction_read_only is on" in refused(house, *command)
        with psycopg.connect(house.immich.conninfo, autocommit=True) as connection:
            connection.execute("SET default_transaction_read_only = off")
            connection.execute(f"{in_database} RESET default_transaction_read_only".encode())
        carol.add(3, start=100)
        settled(house, process, 6)


def test_idle_sessions_are_kept_where_the_server_ends_them(carol: PhotoHouse) -> None:
    house = carol.house
    name = conninfo_to_dict(house.immich.conninfo)["dbname"]
    assert house.environment, "asking for it makes the role"
    # Not for the whole database: the test's own sessions are to stay.
    house.query(f"ALTER ROLE {role.NAME} IN DATABASE \"{name}\" SET idle_session_timeout = '1s'")
    carol.add(2)
    with house.running() as process:
        settled(house, process, 2)
        # A worker's connection, which has nothing to do.
        eventually(lambda: sessions(house, timedelta(seconds=2)), within=20)
        carol.add(2, start=100)
        settled(house, process, 4)
        assert process.metric("reconnects_total") == 0


# --- the password ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["file", "environment"])
def test_a_changed_password(served: tuple[Server, PhotoHouse], tmp_path: Path, source: str) -> None:
    server, carol = served
    role = str(conninfo_to_dict(carol.house.environment["DB_URL"])["user"])
    first, second = f"first{uuid4().hex}", f"second{uuid4().hex}"
    # From here the wire asks for the password; the test comes in by another role.
    server.execute("CREATE ROLE tester SUPERUSER LOGIN")
    hba = server.data_dir / "pg_hba.conf"
    hba.write_text(f"local all {role} scram-sha-256\n{hba.read_text()}")
    carol = _as(carol, make_conninfo(server.conninfo, user="tester"))
    # Asking for it gives the role the password that tests use.
    assert carol.house.environment
    with psycopg.connect(carol.house.immich.conninfo, autocommit=True) as connection:
        connection.execute(f"ALTER ROLE {role} PASSWORD '{first}'".encode())
        connection.execute("SELECT pg_reload_conf()")
    secret = tmp_path / "password"
    secret.write_text(first + "\n")
    with wire_to(server.conninfo) as wire:
        if source == "file":
            database_name = str(conninfo_to_dict(server.conninfo)["dbname"])
            house = carol.with_settings(
                DB_URL="",
                DB_HOSTNAME="127.0.0.1",
                DB_PORT=str(wire.port),
                DB_USERNAME=role,
                DB_DATABASE_NAME=database_name,
                DB_PASSWORD_FILE=str(secret),
            ).house
        else:
            url = wire.conninfo(make_conninfo(server.conninfo, user=role, password=first))
            house = carol.with_settings(DB_URL=database_url(url)).house
        carol.add(2)
        with house.running() as process:
            settled(house, process, 2)
            house.query(f"ALTER ROLE {role} PASSWORD '{second}'")
            carol.add(2, start=100)
            settled(house, process, 4)
            assert process.metric("reconnects_total") == 0, "sessions that are there go on"
            wire.cut()
            said(process, "password authentication failed")
            assert process.popen.poll() is None
            carol.add(2, start=200)
            if source == "file":
                said(process, f"Write the password into {secret} (DB_PASSWORD_FILE)")
                assert "the password in its file is another one now" not in process.output
                secret.unlink()
                said(process, "the password cannot be read: the one from before is used")
                secret.write_text(second)
                said(process, "the password in its file is another one now")
            else:
                said(process, "Set DB_PASSWORD (or DB_URL) and start the listener anew")
                house.query(f"ALTER ROLE {role} PASSWORD '{first}'")
            settled(house, process, 6)
            assert first not in process.output
            assert second not in process.output


def _as(carol: PhotoHouse, conninfo: str) -> PhotoHouse:
    return replace(carol, house=replace(carol.house, immich=ImmichDatabase(conninfo, carol.house.immich.release)))


# --- poolers --------------------------------------------------------------------------------------------

needs_pgbouncer = pytest.mark.skipif(
    shutil.which("pgbouncer") is None, reason="no pgbouncer on this machine: apt-get install pgbouncer"
)


@needs_pgbouncer
@pytest.mark.parametrize(("mode", "round_robin"), [("transaction", False), ("transaction", True), ("statement", False)])
def test_a_pooler_that_shares_its_sessions_is_refused(carol: PhotoHouse, mode: str, round_robin: bool) -> None:
    with pooler(carol.house.immich.conninfo, mode, round_robin=round_robin) as bouncer:
        theirs = [psycopg.connect(bouncer.conninfo(_account(carol)), autocommit=True) for _ in range(3)]
        try:
            # Immich's sessions at the same pooler, all of them in use once.
            asyncio.run(_all_at_once(theirs))
            house = over(carol, bouncer.conninfo)
            for command in (("run",), ("check",)):
                line = refused(house, *command)
                assert "pooler that shares its sessions" in line
                assert "DB_HOSTNAME" in line
                assert "pool_mode = session" in line
            # Nothing of ours is left in the sessions that Immich goes on to use.
            for one in theirs:
                row = one.execute("SELECT current_setting('face_sync.quiet', true)").fetchone()
                assert row in {(None,), ("",)}
        finally:
            for one in theirs:
                one.close()


def _account(carol: PhotoHouse) -> str:
    """Return how the listener reaches the database, without a pooler."""
    return make_conninfo(carol.house.environment["DB_URL"])


async def _all_at_once(connections: "list[psycopg.Connection[tuple[object, ...]]]") -> None:
    sleeps = (asyncio.to_thread(one.execute, b"SELECT pg_sleep(0.1)") for one in connections)
    await asyncio.gather(*sleeps)


@needs_pgbouncer
def test_a_pooler_that_comes_between_while_it_runs_is_told_until_it_is_gone(carol: PhotoHouse, wire: Wire) -> None:
    house = over(carol, wire.conninfo)
    carol.add(2)
    with pooler(carol.house.immich.conninfo, "transaction") as bouncer, house.running() as process:
        settled(house, process, 2)
        wire.retarget(bouncer.conninfo(carol.house.immich.conninfo))
        wire.cut()
        said(process, "pooler that shares its sessions", times=2)
        carol.add(2, start=100)
        wire.retarget(carol.house.immich.conninfo)
        settled(house, process, 4)


@needs_pgbouncer
def test_a_pooler_that_keeps_a_session_for_each_client_is_as_good_as_the_server(carol: PhotoHouse) -> None:
    with pooler(carol.house.immich.conninfo, "session") as bouncer:
        house = over(carol, bouncer.conninfo)
        carol.add(50)
        with house.running() as process:
            settled(house, process, 50)
            carol.add(2, start=100)
            settled(house, process, 52)
            eventually(lambda: process.metric("latency_seconds_count") >= 2, describe="it hears of changes")
