"""What becomes of the work when the wire fails, and what a single connection does about it."""

import asyncio
import re
import signal
import socket
import time
from pathlib import Path
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import sql

from listener import database, settings
from listener.database import Connection, UnansweredError, connect, end_former_sessions, pool
from tests.conftest import eventually, eventually_async
from tests.connections import AGAIN, GAVE_UP, NOTICED_WITHIN, in_the_middle, over, said, sessions, settled
from tests.photos import PhotoHouse
from tests.wire import Wire

pytest_plugins = ("tests.connection_fixtures",)

# --- the wire -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["FIN", pytest.param("RST", marks=pytest.mark.soak)])
def test_a_wire_that_is_cut_again_and_again(carol: PhotoHouse, wire: Wire, how: str) -> None:
    house = over(carol, wire.conninfo)
    carol.add(700)
    with house.running(ready=False) as process:
        for _ in range(3):
            in_the_middle(carol, process, lambda: wire.links > 1)
            wire.cut("FIN" if how == "FIN" else "RST")
        settled(house, process, 700)
        assert process.metric("reconnects_total") >= 1
        carol.add(3, start=1000)
        settled(house, process, 703)


@pytest.mark.soak
def test_a_wire_that_is_slow(carol: PhotoHouse, wire: Wire) -> None:
    house = over(carol, wire.conninfo)
    wire.slow(delay=0.03, bytes_per_second=300_000)
    carol.add(30)
    with house.running() as process:
        settled(house, process, 30)
        carol.add(1, start=100)
        settled(house, process, 31)
        assert process.metric("reconnects_total") == 0


def test_a_half_open_wire_does_not_keep_the_jobs(carol: PhotoHouse, wire: Wire) -> None:
    """The server hears nothing of the end of a session, which has the locks of the jobs."""
    house = over(carol, wire.conninfo)
    carol.add(5)
    with house.running() as process:
        settled(house, process, 5)
        began = time.monotonic()
        assert wire.half_open() > 1
        carol.add(5, start=100)
        said(process, AGAIN, within=NOTICED_WITHIN)
        settled(house, process, 10)
        print(f"half open: noticed and made up for within {time.monotonic() - began:.1f} s")
        assert re.search(GAVE_UP, process.output)
        assert "the server has ended them" in process.output
        # None from before is left at the server.
        eventually(lambda: sessions(house) == wire.links, describe=lambda: f"{sessions(house)}, not {wire.links}")


@pytest.mark.soak
def test_stopped_while_the_wire_is_frozen_it_ends_in_time(carol: PhotoHouse, wire: Wire) -> None:
    """Docker waits ten seconds."""
    house = over(carol, wire.conninfo)
    with house.running(ready=False) as process:
        carol.add(1100)
        in_the_middle(carol, process, lambda: True)
        wire.freeze()
        process.signal(signal.SIGTERM)
        began = time.monotonic()
        assert process.popen.wait(10) == 0
        print(f"stopped on a frozen wire after {time.monotonic() - began:.1f} s")
    wire.thaw()
    with house.running(ready=False) as process:
        settled(house, process, 1100)


def test_tries_come_ever_slower_with_jitter_and_do_not_end(carol: PhotoHouse, wire: Wire) -> None:
    house = over(carol, wire.conninfo)
    carol.add(3)
    with house.running() as process:
        settled(house, process, 3)
        wire.refuse()
        wire.cut()
        carol.add(3, start=100)
        said(process, AGAIN, times=4)
        wire.accept()
        settled(house, process, 6)
        pauses = [float(pause) for pause in re.findall(AGAIN + r".* pause_s=([\d.]+)", process.output)]
        for number, pause in enumerate(pauses):
            longest = min(30.0, 2.0**number)
            assert longest / 2 <= pause <= longest, pauses
        assert len({pause / 2**number for number, pause in enumerate(pauses)}) > 1, "no jitter"


# --- one connection -------------------------------------------------------------------------------------


async def test_a_statement_that_is_never_answered_ends(carol: PhotoHouse, wire: Wire) -> None:
    connection = await connect(wire.conninfo(carol.house.immich.conninfo))
    await connection.execute("SELECT 1")
    with connection.answering(0.3):
        wire.freeze()
        began = time.monotonic()
        with pytest.raises(UnansweredError, match="no answer within"):
            await connection.execute("SELECT 1")
    assert time.monotonic() - began < 5
    assert connection.closed


async def test_a_task_that_waits_for_a_frozen_server_can_be_cancelled(carol: PhotoHouse, wire: Wire) -> None:
    connection = await connect(wire.conninfo(carol.house.immich.conninfo))
    waits = asyncio.create_task(_transaction(connection))
    await asyncio.to_thread(eventually, lambda: asleep(carol))
    wire.freeze()
    began = time.monotonic()
    waits.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waits
    assert time.monotonic() - began < 4, "psycopg waits ten seconds, longer than Docker does"
    assert connection.closed


async def test_a_statement_that_is_cancelled_is_ended_at_the_server(carol: PhotoHouse, wire: Wire) -> None:
    async with await connect(wire.conninfo(carol.house.immich.conninfo)) as connection:
        waits = asyncio.create_task(_transaction(connection))
        await asyncio.to_thread(eventually, lambda: asleep(carol))
        waits.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waits
        assert not asleep(carol)
        assert not connection.closed
        await connection.execute("SELECT 1")


def asleep(carol: PhotoHouse) -> bool:
    return (
        carol.house.query(
            "SELECT 1 FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(50)' AND state = 'active'"
            " AND datname = current_database()"
        )
        != []
    )


async def _transaction(connection: Connection) -> None:
    async with connection.transaction():
        await connection.execute("SELECT pg_sleep(50)")


async def test_the_pool_gives_no_connection_that_is_frozen(
    carol: PhotoHouse, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_CHECKED_WITHIN", 0.3)
    async with pool(wire.conninfo(carol.house.immich.conninfo), 2, uuid4()) as connections:
        async with connections.connection() as connection:
            before = connection.info.backend_pid
        wire.half_open()
        began = time.monotonic()
        async with connections.connection() as connection:
            await connection.execute("SELECT 1")
            assert connection.info.backend_pid != before
        assert time.monotonic() - began < 10


async def test_sessions_of_this_process_are_ended_and_nobody_elses(carol: PhotoHouse, wire: Wire) -> None:
    conninfo = wire.conninfo(carol.house.immich.conninfo)
    owner = uuid4()
    async with (
        pool(conninfo, 1, owner) as mine,
        pool(conninfo, 1, uuid4()) as others,
        mine.connection() as left,
        others.connection() as other,
        await connect(conninfo) as now,
    ):
        wire.half_open()
        async with await connect(conninfo) as after:
            assert await end_former_sessions(after, owner) == 1
            await eventually_async(lambda: _none_to_end(after, owner))
        wire.thaw()
        with pytest.raises(psycopg.OperationalError):
            await left.execute("SELECT 1")
        await other.execute("SELECT 1")
        await now.execute("SELECT 1")


async def _none_to_end(connection: Connection, owner: UUID) -> bool:
    return await end_former_sessions(connection, owner) == 0


async def test_every_session_is_set_up_against_loss(carol: PhotoHouse, wire: Wire) -> None:
    environment = await asyncio.to_thread(lambda: over(carol, wire.conninfo).environment)
    async with await connect(settings.load(environment, Path("/")).conninfo) as connection:
        ours = socket.socket(fileno=connection.fileno())
        try:
            for option, seconds in ((socket.TCP_KEEPIDLE, 10), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3)):
                assert ours.getsockopt(socket.IPPROTO_TCP, option) == seconds
            assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 30_000
        finally:
            ours.detach()
        for name, value in (
            ("idle_session_timeout", "0"),
            ("default_transaction_isolation", "read committed"),
            ("client_connection_check_interval", "2s"),
        ):
            rows = await database.fetch(connection, sql.SQL("SELECT current_setting(%(name)s)"), {"name": name})
            assert rows == [(value,)]
