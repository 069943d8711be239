"""Reconcile now: how a command asks the running listener to look at everything, and hears how far it is.

Asked is by a notification on the listener's own channel, answered on another one. Nothing is stored: an ask that
nobody hears is asked again, or done by whoever asked.
"""

import json
from dataclasses import asdict, dataclass

from listener.channel import CHANNEL, VERSION, Ask
from listener.database import JOB_LOCK, Connection, fetch, query
from listener.settings import Job

PROGRESS_CHANNEL = "immich_shared_library_progress"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the answer to some asks is, in photos and people; the counts are since it began."""

    asks: list[str]
    job: str
    looked_at: int
    total: int
    made: int
    removed: int
    failed: int
    ended: bool


async def ask(connection: Connection, question: Ask) -> None:
    """Ask whichever listener serves the job."""
    content = {"v": VERSION, "kind": "sweep", "id": question.id, "job": question.job}
    ids = {"ids": [str(id_) for id_ in question.ids]} if question.ids else {}
    allowed = {"allow_removal": True} if question.allow_removal else {}
    await _notify(connection, CHANNEL, {**content, **ids, **allowed})


async def answer(connection: Connection, progress: Progress) -> None:
    """Tell those who asked."""
    await _notify(connection, PROGRESS_CHANNEL, {"v": VERSION, **asdict(progress)})


def read_answer(payload: str, own_id: str) -> Progress | None:
    """Return what a notification of the progress channel says to one who asked; None if it is not for them."""
    try:
        content = json.loads(payload)
        version = content.pop("v")
        progress = Progress(**content)
    except (ValueError, TypeError, AttributeError, KeyError):
        return None  # of somebody else
    return progress if version == VERSION and own_id in progress.asks else None


async def _notify(connection: Connection, channel: str, content: dict[str, object]) -> None:
    await connection.execute(query("channel", "notify"), {"channel": channel, "payload": json.dumps(content)})


async def is_served(connection: Connection, job: Job) -> bool:
    """Tell whether a listener serves this job."""
    rows = await fetch(connection, query("ownership", "is_served"), {"lock_class": JOB_LOCK, "job": job.identity})
    return bool(rows[0][0])
