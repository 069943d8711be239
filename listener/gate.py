"""What holds a job back: it is refused, its folders are away, or one of them does not answer."""

from dataclasses import dataclass

from listener.database import Connection
from listener.mounts import Mounts
from listener.refusals import Refusals
from listener.settings import Job
from listener.silence import Silence
from listener.threads import SilentFolderError


@dataclass(frozen=True, slots=True)
class Gate:
    """All that may hold a job back."""

    mounts: Mounts
    refusals: Refusals
    silence: Silence

    async def only_removes(self, connection: Connection, job: Job) -> bool:
        """Tell whether for this job rows are taken away only.

        Raises MountedAgainError, SwappedError, psycopg.Error.
        """
        if self.silence.holds(job):
            return True
        refused = self.refusals.holds(job)
        try:
            with self.silence.lane(job).used():
                return await self.mounts.paused(connection, job, makes=not refused) or refused
        except SilentFolderError:
            return self.silence.holds(job) or refused
