"""The slow way to the same keys: looks through the database for whatever may need work.

It runs at every (re)connect, on a slow timer and when asked. What it names goes behind what notifications name.
"""

from collections.abc import AsyncIterator
from uuid import UUID

from listener.database import Connection, fetch, query
from listener.settings import Job
from listener.sync.plan import job_params
from listener.workqueue import Key

PAGE = 2000
_BEFORE_ALL = UUID(int=0)


async def pages(connection: Connection, job: Job) -> AsyncIterator[list[Key]]:
    """Yield the keys of one job, a page at a time: at most PAGE keys are in memory."""
    for name, kind in (("assets", "asset"), ("people", "person")):
        after = _BEFORE_ALL
        while True:
            rows = await fetch(connection, query("sweep", name), {**job_params(job), "after": after, "limit": PAGE})
            if not rows:
                break
            after = rows[-1][0]
            yield [Key("asset" if kind == "asset" else "person", row[0]) for row in rows]


async def tidy(connection: Connection) -> None:
    """Drop notes about sources that are gone for good."""
    await connection.execute(query("sweep", "tidy"))
