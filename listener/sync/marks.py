"""Marks for work that is cut off: another listener may have the job by now, and go on where we do not.

A process that stood still for a while, and a batch that loses its connection, have files in the making. Whoever took
the job over may have removed the copies meanwhile, and their marks with them: nobody would know of files that come
later. So whoever is cut off waits for its own hands, leaves the marks once more, and tells the owner.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import ParamSpec, TypeVar

import psycopg
from psycopg.conninfo import make_conninfo

from listener.database import Connection, FencedError, RefusedError, connect, query
from listener.ops import logs
from listener.settings import Job
from listener.sync.plan import Source, batch_params, job_params

log = logs.get("marks")

_P = ParamSpec("_P")
_R = TypeVar("_R")


async def to_the_end(function: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
    """Run a function in a thread, and wait for its end also when cancelled: it goes on in any case."""
    work = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait([work])
        # Its own error comes too late to be anybody's: asyncio would print it.
        work.exception()
        raise


@asynccontextmanager
async def left_if_cut_off(connection: Connection, job: Job, sources: Sequence[Source]) -> AsyncIterator[None]:
    """Leave the marks of these copies once more where the block is cancelled, fenced, or loses its connection."""
    # Not by info.dsn, which asks for a home directory: a user known by a number only (PUID) may have none.
    given = {
        option.keyword.decode(): option.val.decode() for option in connection.pgconn.info if option.val is not None
    }
    conninfo = make_conninfo(**given)
    try:
        yield
    except (asyncio.CancelledError, FencedError, psycopg.OperationalError) as error:
        if connection.closed or not isinstance(error, psycopg.OperationalError):
            await _leave(conninfo, job, sources)
        raise


async def _leave(conninfo: str, job: Job, sources: Sequence[Source]) -> None:
    try:
        async with await connect(conninfo) as connection:
            await connection.execute(query("plan", "begin"), {**job_params(job), **batch_params(sources)})
            await connection.execute(query("plan", "tell_owner"))
    except (psycopg.Error, RefusedError) as error:
        # As after a crash then: only what another listener has removed in between may be left over.
        log.warning("photos in the making could not be marked", job=job.name, photos=len(sources), reason=str(error))
