"""The boundary between one part of the work and the process: what goes wrong is told, and begun anew after a pause.

Only what says that the ground is gone (`listener.faults`) ends a session, and only what people must mend in settings
ends the process.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from listener.database import Connection
from listener.faults import connection_lost, foreseen, is_everyones, place, words
from listener.ops import logs
from listener.ops.metrics import Metrics
from listener.settings import Job
from listener.threads import SilentFolderError

log = logs.get("boundary")

_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 60.0
STEADY = 60.0
"""What has gone well for so long, in seconds, ended by something new."""


class Boundary:
    """Tells of errors by log and metric, and begins anew."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._limited = logs.Limited(log)

    def tell(self, error: BaseException, where: str, job: Job | None = None, **fields: object) -> None:
        """Tell what has gone wrong in a part of the work, that it is begun anew, and where to look."""
        self._metrics.errors.labels(where=where).inc()
        named = fields if job is None else {"job": job.name, **fields}
        if not foreseen(error):
            log.trace("the traceback of an error", where=where)
        self._limited.error(f"{where} failed: it is begun anew", **named, reason=words(error), at=place(error))

    @contextmanager
    def told(self, where: str, connection: Connection | None = None, job: Job | None = None) -> Iterator[None]:
        """Tell whatever goes wrong in this block, and go on after it; only what ends a session is raised."""
        try:
            yield
        except Exception as error:
            if ends_session(error, connection):
                raise
            self.tell(error, where, job)

    async def kept(
        self, where: str, work: Callable[[], Awaitable[None]], *, again: Callable[[], None] | None = None
    ) -> None:
        """Do work that does not end by itself, and begin it anew whatever goes wrong, until the session is to end.

        again: called each time before that, as what was heard meanwhile may be lost.
        """
        pause = 0.0
        while True:
            began = time.monotonic()
            try:
                await work()
            except Exception as error:
                if ends_session(error):
                    raise
                pause = self.longer(pause if time.monotonic() - began < STEADY else 0.0)
                self.tell(error, where, pause_s=pause)
            else:
                return
            await asyncio.sleep(pause)
            if again is not None:
                again()

    @staticmethod
    def longer(pause: float) -> float:
        """Return the pause after this one."""
        return min(_LONGEST_PAUSE, max(_FIRST_PAUSE, 2 * pause))


def ends_session(error: BaseException, connection: Connection | None = None) -> bool:
    """Tell whether an error says that everything of a session is to be begun anew.

    A folder that does not answer is its jobs' alone. Whether Immich's tables are other ones, its condition tells.
    """
    if isinstance(error, SilentFolderError):
        return False
    return is_everyones(error, connection) or connection_lost(error)
