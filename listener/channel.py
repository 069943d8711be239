"""The listening side: what Immich's triggers say becomes keys.

One direct connection does nothing but LISTEN, hold the locks of our jobs, and prove itself: every ten seconds
it notifies itself, and if that does not come back in time the connection is given up and made anew. A
notification is a hint and carries ids only; one that cannot be read is counted, logged once a minute and
dropped, and the sweep finds what it meant.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from uuid import UUID, uuid4

import psycopg

from listener.database import Connection, UnansweredError, connect, query
from listener.faults import EveryonesError
from listener.ops import logs
from listener.ops.metrics import Metrics
from listener.workqueue import Key

CHANNEL = "immich_shared_library"
VERSION = 1
# PostgreSQL takes payloads below 8,000 bytes.
_LONGEST = 8000
_MOST_IDS = 500
_LONGEST_ID = 64
PROOF_EVERY = 10.0
PROOF_WITHIN = 5.0
# Between two proofs the jobs are looked at so often: those of a listener that died are to move within seconds.
_LOOKS = 4
# What is done in between may wait for locks, ten seconds at most (session.sql).
_LOOKS_WITHIN = 12.0

log = logs.get("channel")


class UnreadableError(ValueError):
    """A payload that is not one of ours; ``reason`` is a short word for the metric."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class SilentError(EveryonesError):
    """The proof of life did not come back: the connection is dead or cannot LISTEN."""


@dataclass(frozen=True, slots=True)
class Ask:
    """To look at everything of one job, whose identity is ``job``, or at some assets. ``id`` comes with the answer.

    allow_removal: what the brake holds of the job may go.
    """

    id: str
    job: str
    ids: tuple[UUID, ...] = ()
    allow_removal: bool = False


@dataclass(frozen=True, slots=True)
class Notification:
    """A payload, read. ``at``: epoch seconds of the change. ``proof``: the listener's own, else None.

    ask: who asks for a sweep and wants to hear of it; None for the sweeps of our triggers.
    """

    kind: str
    keys: tuple[Key, ...] = ()
    at: float | None = None
    proof: str | None = None
    ask: Ask | None = None


def decode(payload: str) -> Notification:
    """Read a payload. Raises UnreadableError for anything that our triggers do not send."""
    if len(payload) > _LONGEST:
        raise UnreadableError("too long")
    try:
        content = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise UnreadableError("not JSON") from error
    if not isinstance(content, dict):
        raise UnreadableError("not JSON")
    if content.get("v") != VERSION or isinstance(content["v"], bool):
        raise UnreadableError("other version")
    kind, at = content.get("kind"), content.get("at")
    # Also refuses infinities and times that no clock of ours could show.
    at = float(at) if isinstance(at, int | float) and not isinstance(at, bool) and 0 < at < 1e11 else None
    match kind:
        case "ping" if isinstance(content.get("id"), str):
            return Notification("ping", proof=content["id"])
        case "sweep":
            return Notification("sweep", at=at, ask=_ask(content))
        case "asset" | "person":
            return Notification(kind, tuple(Key(kind, id_) for id_ in _ids(content.get("ids"))), at)
    raise UnreadableError("unknown kind")


def _ask(content: dict[str, object]) -> Ask | None:
    id_, job = content.get("id"), content.get("job")
    if id_ is None and job is None:
        return None
    if not isinstance(id_, str) or not isinstance(job, str) or len(id_) > _LONGEST_ID:
        raise UnreadableError("bad ask")
    ids = tuple(_ids(content["ids"])) if "ids" in content else ()
    return Ask(id_, job, ids, allow_removal=content.get("allow_removal") is True)


def _ids(ids: object) -> list[UUID]:
    if not isinstance(ids, list) or not 0 < len(ids) <= _MOST_IDS:
        raise UnreadableError("bad ids")
    try:
        return [UUID(id_) for id_ in ids if isinstance(id_, str) or _refuse()]
    except ValueError as error:
        raise UnreadableError("bad ids") from error


def _refuse() -> bool:
    raise UnreadableError("bad ids")


class Listening:
    """One listening connection, from LISTEN to its loss."""

    def __init__(
        self,
        connection: Connection,
        metrics: Metrics,
        on_notification: Callable[[Notification], None],
        *,
        proof_every: float = PROOF_EVERY,
        proof_within: float = PROOF_WITHIN,
    ) -> None:
        self._connection = connection
        self._metrics = metrics
        self._on_notification = on_notification
        self._every = proof_every
        self._within = proof_within
        self._limited = logs.Limited(log)

    async def run(self, on_proven: Callable[[Connection], Awaitable[None]]) -> None:
        """Listen until the connection is lost; ``on_proven`` is awaited after every proof, and often in between.

        Raises psycopg.OperationalError or SilentError when it is over.
        """
        await self._connection.execute(query("channel", "listen"))
        while True:
            await self._prove()
            self._metrics.listening.set(1)
            for _ in range(_LOOKS):
                with self._connection.answering(_LOOKS_WITHIN):
                    await on_proven(self._connection)
                await self._hear(self._every / _LOOKS, until=None)

    async def _prove(self) -> None:
        proof = str(uuid4())
        silent = SilentError(f"no notification came back within {self._within:g} s")
        end = time.monotonic() + self._within
        try:
            # The answer is waited for so long, and the connection, which something else may be using.
            async with asyncio.timeout(2 * self._within):
                with self._connection.answering(self._within):
                    await self._connection.execute(
                        query("channel", "notify"),
                        {"channel": CHANNEL, "payload": json.dumps({"v": VERSION, "kind": "ping", "id": proof})},
                    )
        except (UnansweredError, TimeoutError) as error:
            raise silent from error
        if not await self._hear(end - time.monotonic(), until=proof):
            raise silent

    async def _hear(self, seconds: float, until: str | None) -> bool:
        """Take notifications for some seconds, or until a proof arrives; tell whether it did."""
        end = time.monotonic() + seconds
        proven = False
        while not proven and (left := end - time.monotonic()) > 0:
            # Not left early: the iterator would drop what arrived with the proof. Whatever goes wrong, it is closed: it
            # holds the lock of the connection.
            async with aclosing(self._connection.notifies(timeout=left, stop_after=1)) as notifies:
                async for notify in notifies:
                    notification = self._decode(notify)
                    if notification is None:
                        continue
                    if notification.proof is None:
                        self._on_notification(notification)
                    proven |= until is not None and notification.proof == until
        return proven

    def _decode(self, notify: psycopg.Notify) -> Notification | None:
        try:
            notification = decode(notify.payload)
        except UnreadableError as error:
            self._metrics.notifications_ignored.labels(reason=error.reason).inc()
            self._limited.warning(
                "a notification could not be read: it is ignored, the sweep finds what it meant",
                reason=error.reason,
                sender=notify.pid,
                starts=notify.payload[:80],
            )
            return None
        self._metrics.notifications.labels(kind=notification.kind).inc()
        return notification


async def open_listening(
    conninfo: str, metrics: Metrics, on_notification: Callable[[Notification], None]
) -> tuple[Connection, Listening]:
    """Connect for listening. Raises psycopg.OperationalError, RefusedError."""
    connection = await connect(conninfo)
    return connection, Listening(connection, metrics, on_notification)
