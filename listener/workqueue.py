"""The queue between those who name keys and those who reconcile them.

A key is the id of an asset or a person and nothing more. Equal keys fold into one; a key that is being worked
on is never handed out twice, and is worked on again if it was named meanwhile; a key that failed comes back
after a pause that doubles up to an hour. Keys from notifications go before those from a sweep, but not for ever: where
notifications do not end, every ninth batch is a sweep's.

It lives in one event loop and needs no locks.
"""

import asyncio
import contextlib
import heapq
import random
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

FIRST_PAUSE = 1.0
LONGEST_PAUSE = 3600.0
# Batches of notifications that may go before keys of a sweep, one after the other.
MOST_BEFORE = 8


@dataclass(frozen=True, slots=True)
class Key:
    """An asset, source or copy, or a person that may need work."""

    kind: Literal["asset", "person"]
    id: UUID


@dataclass(frozen=True, slots=True)
class Batch:
    """Keys in hand, each with the time (epoch seconds) of the earliest change that named it, None for a sweep's."""

    keys: Mapping[Key, float | None]

    def ids(self, kind: Literal["asset", "person"]) -> list[UUID]:
        """Return the ids of one kind."""
        return [key.id for key in self.keys if key.kind == kind]


class WorkQueue:
    """Keys that wait, that are in hand, and that pause after a failure."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic, rng: random.Random | None = None) -> None:
        self._clock = clock
        self._rng = rng or random.Random()  # noqa: S311 - spreads retries, guards nothing
        self._urgent: dict[Key, float | None] = {}
        self._slow: dict[Key, float | None] = {}
        self._in_hand: set[Key] = set()
        self._named_meanwhile: dict[Key, float | None] = {}
        self._paused: list[tuple[float, int, Key]] = []
        self._pausing: dict[Key, int] = {}
        self._tries: dict[Key, int] = {}
        self._counter = 0
        self._before_slow = 0
        self._changed = asyncio.Event()

    @property
    def waiting(self) -> int:
        """Keys that could be taken now."""
        return len(self._urgent) + len(self._slow)

    @property
    def in_hand(self) -> int:
        """Keys that are being worked on."""
        return len(self._in_hand)

    @property
    def pausing(self) -> int:
        """Keys that failed and wait for their next try."""
        return len(self._pausing)

    def holds(self, keys: Iterable[Key]) -> bool:
        """Tell whether one of these keys waits or is worked on; one that pauses after a failure is neither."""
        return any(key in self._urgent or key in self._slow or key in self._in_hand for key in keys)

    def add(self, keys: Iterable[Key], *, at: float | None = None, urgent: bool = True) -> None:
        """Name keys. ``at``: when the change happened, in epoch seconds."""
        for key in keys:
            self._pausing.pop(key, None)
            if key in self._in_hand:
                self._named_meanwhile[key] = _earlier(self._named_meanwhile.get(key), at)
            elif urgent or key in self._urgent:
                self._urgent[key] = _earlier(self._urgent.get(key, self._slow.pop(key, None)), at)
            else:
                self._slow[key] = _earlier(self._slow.get(key), at)
        self._changed.set()

    async def take(self, limit: int) -> Batch:
        """Wait for keys and return up to ``limit``: all from notifications, or all from sweeps."""
        while True:
            self._wake()
            lane = self._lane()
            if lane:
                keys = {key: lane.pop(key) for key in list(lane)[:limit]}
                self._in_hand.update(keys)
                self._changed.set()
                return Batch(keys)
            self._changed.clear()
            pause = self._paused[0][0] - self._clock() if self._paused else None
            try:
                async with asyncio.timeout(pause):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def _lane(self) -> dict[Key, float | None]:
        """Return the keys whose turn it is."""
        if self._urgent and (not self._slow or self._before_slow < MOST_BEFORE):
            self._before_slow += bool(self._slow)
            return self._urgent
        self._before_slow = 0
        return self._slow

    def done(self, batch: Batch, failed: Iterable[Key] = ()) -> None:
        """Give a batch back. ``failed`` pause and come again; they need not be of the batch."""
        self._in_hand.difference_update(batch.keys)
        failed = set(failed)
        for key in batch.keys:
            if key not in failed:
                self._tries.pop(key, None)
        for key in failed:
            self._pause(key)
        again = {key: at for key, at in self._named_meanwhile.items() if key in batch.keys}
        for key, at in again.items():
            del self._named_meanwhile[key]
            self.add([key], at=at)
        self._changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition on this queue holds."""
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    def clear(self) -> None:
        """Forget all that is not in hand: after a lost connection the sweep names everything again."""
        self._urgent.clear()
        self._slow.clear()
        self._paused.clear()
        self._pausing.clear()
        self._changed.set()

    def _pause(self, key: Key) -> None:
        tries = self._tries[key] = self._tries.get(key, 0) + 1
        if key in self._in_hand or key in self._urgent or key in self._slow:
            return
        seconds = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(tries - 1, 20)) * self._rng.uniform(0.8, 1.2)
        self._counter += 1
        self._pausing[key] = self._counter
        heapq.heappush(self._paused, (self._clock() + seconds, self._counter, key))

    def _wake(self) -> None:
        while self._paused and self._paused[0][0] <= self._clock():
            _, number, key = heapq.heappop(self._paused)
            # Named by an event since, or paused anew: this pause is over already.
            if self._pausing.get(key) == number:
                del self._pausing[key]
                self._slow[key] = None


def _earlier(one: float | None, other: float | None) -> float | None:
    known = [at for at in (one, other) if at is not None]
    return min(known) if known else None


async def set_within(event: asyncio.Event, seconds: float) -> None:
    """Wait until an event is set or the time is over. Not by wait_for: up to Python 3.11 it may lose a cancel."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
