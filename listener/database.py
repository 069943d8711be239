"""Connections to Immich's PostgreSQL, set up the same way everywhere.

Every session of ours is quiet (``face_sync.quiet``), so that our triggers never tell us of our own writes,
and has the two session functions of ``sql/queries/session.sql`` in ``pg_temp``. It is a session with the server
itself, which can be written to: a pooler that shares sessions and a replica are refused. And it waits for no answer
for ever.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar
from uuid import UUID
from weakref import WeakSet

import psycopg
from psycopg import sql
from psycopg.abc import PQGen
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool

from listener.faults import EveryonesError
from listener.sqlfiles import named_queries

_T = TypeVar("_T")

# PostgreSQL ends a statement of ours after 60 s by itself (session.sql): what has not answered then never will.
ANSWERS_WITHIN = 75.0
_CHECKED_WITHIN = 5.0
_CANCELLED_WITHIN = 2.0
# So often two sessions are compared behind a pooler: others may be moving there too.
_COMPARISONS = 5

# First keys of our advisory locks: two-integer locks, since Immich uses the one-integer form.
JOB_LOCK = 0x66736A6F
WRITE_LOCK = 0x66737772
PROCESS_LOCK = 0x66737072


def query(file: str, name: str) -> sql.SQL:
    """Return a named query of ``sql/queries/<file>.sql``, ready to be run or composed."""
    return sql.SQL(named_queries(f"queries/{file}.sql")[name])


def statement(file: str, name: str, **parts: sql.Composable) -> bytes:
    """Return a named query composed with its parts, as text: composing it at each run would cost a third of it."""
    return query(file, name).format(**parts).as_bytes(None)


def identifiers(names: Sequence[str], *, of: str | None = None) -> sql.Composed:
    """Return ``"a", "b"`` or, with a row's alias, ``of."a", of."b"``."""
    return sql.SQL(", ").join(sql.Identifier(of, name) if of else sql.Identifier(name) for name in names)


_POOLER = (
    "the database is reached through a pooler that shares its sessions (PgBouncer in transaction or statement mode): "
    "no notification would arrive. Set DB_HOSTNAME and DB_PORT (or DB_URL) to PostgreSQL itself, or to a pooler with "
    "pool_mode = session"
)
_REPLICA = (
    "the database server is a read-only replica (it is in recovery): no copy can be written there. "
    "Set DB_HOSTNAME and DB_PORT (or DB_URL) to the primary"
)
_READ_ONLY = (
    "the database is read-only for the role {role!r} (default_transaction_read_only is on): no copy can be written. "
    "Turn it off where it is set: for the role, the database or the server"
)
_UNTRIGGERED = (
    "session_replication_role is not origin for the role {role!r}: Immich's triggers would not run for what we write, "
    "and phones would never see it. Reset it where it is set: ALTER ROLE ... RESET session_replication_role"
)


class FencedError(EveryonesError):
    """Another listener owns the job now: nothing was written, and nothing may be until the job is ours again."""


class RefusedError(Exception):
    """The database or a job cannot be used; ``problems`` has one line for each reason."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class UnansweredError(psycopg.OperationalError):
    """The server did not answer in time: the connection is given up."""


class Connection(psycopg.AsyncConnection[TupleRow]):
    """A connection whose every statement ends: where no answer comes in time, in UnansweredError.

    PostgreSQL's own limits end nothing when it is the server, or the wire to it, that is frozen.
    """

    _answers_within = ANSWERS_WITHIN
    _limit: asyncio.TimerHandle | None = None
    _given_up = False

    async def wait(self, gen: PQGen[_T], *args: Any, **kwargs: Any) -> _T:
        """Take an answer from the server. Everything that psycopg waits for once it is connected comes by here."""
        self._limit = asyncio.get_running_loop().call_later(self._answers_within, self.give_up)
        try:
            return await super().wait(gen, *args, **kwargs)
        except psycopg.OperationalError as error:
            if self._given_up:
                raise UnansweredError(f"no answer within {self._answers_within:g} s: it is given up") from error
            raise
        finally:
            self._limit.cancel()

    async def cancel_safe(self, *, timeout: float = 30.0) -> None:  # noqa: ASYNC109 - psycopg's
        """Cancel the statement of a task that is cancelled. One that does not end then is left: its wire is cut."""
        if self._limit is not None:
            self._limit.cancel()
        self._limit = asyncio.get_running_loop().call_later(_CANCELLED_WITHIN, self.give_up)
        await super().cancel_safe(timeout=min(timeout, _CANCELLED_WITHIN))

    def give_up(self) -> None:
        """Cut the wire: whoever waits for an answer gets UnansweredError at once."""
        self._given_up = True
        # Closed already, by either side: nobody waits any more.
        with (
            contextlib.suppress(psycopg.OperationalError, OSError),
            socket.socket(fileno=os.dup(self.fileno())) as wire,
        ):
            wire.shutdown(socket.SHUT_RDWR)

    @contextlib.contextmanager
    def answering(self, within: float) -> Iterator[None]:
        """Give each statement of this block so many seconds."""
        before, self._answers_within = self._answers_within, within
        try:
            yield
        finally:
            self._answers_within = before


class Pool(AsyncConnectionPool[Connection]):
    """Connections of one process, which may write for its jobs alone: open it with ``async with`` or ``open()``.

    ``conninfo`` is asked at every connect where it is a function.
    """

    def __init__(self, conninfo: str | Callable[[], Awaitable[str]], size: int, owner: UUID) -> None:
        self._owner = owner
        self._connected: WeakSet[Connection] = WeakSet()
        super().__init__(
            conninfo,
            connection_class=Connection,
            min_size=1,
            max_size=size,
            configure=self._prepare,
            check=self._answers,
            kwargs={"autocommit": True, "client_encoding": "utf8"},
            open=False,
            name="reconcilers",
        )

    def give_up(self) -> None:
        """Cut the wires of all connections, also of those in use."""
        for connection in self._connected:
            connection.give_up()

    async def _prepare(self, connection: Connection) -> None:
        self._connected.add(connection)
        async with _closed_on_error(connection):
            await prepare_session(connection, self._owner)

    @staticmethod
    async def _answers(connection: Connection) -> None:
        with connection.answering(_CHECKED_WITHIN):
            await connection.execute("")


async def connect(conninfo: str) -> Connection:
    """Open one autocommit connection of ours. Raises psycopg.OperationalError, RefusedError."""
    connection = await Connection.connect(conninfo, autocommit=True, client_encoding="utf8")
    async with _closed_on_error(connection):
        await _check_server(connection, conninfo)
        await prepare_session(connection)
    return connection


@contextlib.asynccontextmanager
async def _closed_on_error(connection: Connection) -> AsyncIterator[None]:
    try:
        yield
    except BaseException:
        await connection.close()
        raise


async def _check_server(connection: Connection, conninfo: str) -> None:
    """Raise RefusedError where notifications would not arrive, or nothing can be written. Changes no session."""
    ((backend, recovering, read_only, untriggered),) = await fetch(connection, query("session", "server"), {})
    # A pooler speaks for itself when it greets. One that keeps a session for each client is as good as the server.
    if backend != connection.info.backend_pid and await _shares_sessions(connection, conninfo, backend):
        raise RefusedError([_POOLER])
    if recovering:
        raise RefusedError([_REPLICA])
    if read_only:
        raise RefusedError([_READ_ONLY.format(role=connection.info.user)])
    if untriggered:
        raise RefusedError([_UNTRIGGERED.format(role=connection.info.user)])


async def _shares_sessions(connection: Connection, conninfo: str, backend: int) -> bool:
    """Tell whether a second client is served by the same sessions of the server as this one, which is idle."""
    mine, others = {backend}, set[int]()
    async with await Connection.connect(conninfo, autocommit=True, client_encoding="utf8") as other:
        for _ in range(_COMPARISONS):
            for one, seen in ((other, others), (connection, mine)):
                ((pid,),) = await fetch(one, query("session", "backend"), {})
                seen.add(pid)
            if mine & others or len(mine) > 1 or len(others) > 1:
                return True
    return False


async def prepare_session(connection: Connection, owner: UUID | None = None) -> None:
    """Make a fresh connection one of ours: quiet, bounded, with the session functions.

    ``owner``: the process, for whose jobs alone it may write then.
    """
    await connection.set_autocommit(True)
    # The statements of a batch are few and always the same: prepare them at once.
    connection.prepare_threshold = 1
    await connection.execute(query("session", "settings"))
    await connection.execute(query("session", "functions"))
    if owner is not None:
        await connection.execute(query("session", "owner"), {"owner": owner, "lock_class": PROCESS_LOCK})


async def end_former_sessions(connection: Connection, owner: UUID) -> int:
    """End what sessions of this process the server still keeps, but this one; returns how many there were.

    A connection that was given up may live on at the server, with the locks of our jobs. Raises psycopg.Error.
    """
    params = {"owner": owner, "lock_class": PROCESS_LOCK}
    ended = await fetch(connection, query("session", "end_former"), params)
    await connection.execute(query("session", "hold_process"), params)
    return len(ended)


def pool(conninfo: str | Callable[[], Awaitable[str]], size: int, owner: UUID) -> Pool:
    """Return a closed pool of connections of one process."""
    return Pool(conninfo, size, owner)


@contextlib.asynccontextmanager
async def writing(connection: Connection, target_user: UUID, job: str) -> AsyncIterator[None]:
    """Open a transaction that is the only one to write copies of this target user; ``job``: its identity.

    Raises FencedError where the connection has an owner, and the job another one by now.
    """
    async with connection.transaction():
        params = {"lock_class": WRITE_LOCK, "target_user": target_user, "job": job}
        cursor = await connection.execute(query("session", "serialise"), params)
        if await cursor.fetchone() == (False,):
            raise FencedError("another listener serves this job now")
        yield


def uuids(ids: Iterable[UUID | None]) -> str:
    """Return ids as the text of a uuid[]: the same list goes to thirty statements, and is rendered once."""
    return "{" + ",".join("NULL" if id_ is None else str(id_) for id_ in ids) + "}"


async def fetch(connection: Connection, text: sql.SQL | bytes, params: dict[str, Any]) -> list[TupleRow]:
    """Run one statement and return its rows."""
    cursor = await connection.execute(text, params)
    return await cursor.fetchall()
