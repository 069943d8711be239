"""The demo's figures: how long copies took, and what Immich did not have to do again.

A copy's time is taken twice. The listener tells, for each copy, the time since the statement in Immich that
made it due; that holds Immich's own commit. And the player knows when each commit returned: from there to
the finished copy is what a user waits.
"""

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields

# The log's times are cut to milliseconds.
_CLOCK_GRAIN = 0.001


@dataclass(frozen=True, slots=True)
class Copied:
    """A finished copy: its source, when it was finished (epoch seconds), and seconds since the statement."""

    source: str
    finished_at: float
    since_statement: float


@dataclass(frozen=True, slots=True)
class Work:
    """Jobs of Immich by kind, counted over the copies that are there at the end."""

    metadata: int
    thumbnails: int
    smart_search: int
    face_detection: int
    face_recognition: int
    ocr: int

    @property
    def machine_learning(self) -> int:
        """The jobs that need Immich's machine learning."""
        return self.smart_search + self.face_detection + self.face_recognition + self.ocr

    def by_kind(self) -> dict[str, int]:
        """Return the numbers under words for people."""
        return {one.name.replace("_", " "): getattr(self, one.name) for one in fields(self)}


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that at least ``percent`` of the values do not exceed; NaN of nothing."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


def since_commit(copied: Iterable[Copied], commits: Mapping[str, Sequence[float]]) -> list[float]:
    """Return the seconds from the return of a commit to the finished copy, for each copy.

    ``commits`` has the times (epoch seconds, ascending) of the commits that touched an asset. The one that
    made a copy due is the first that returned after the statement that the listener measures from. A copy
    that was finished before the player even had its commit's answer took 0.
    """
    found = []
    for copy in copied:
        times = commits.get(copy.source, ())
        nearest = bisect_left(times, copy.finished_at - copy.since_statement - _CLOCK_GRAIN)
        if nearest < len(times):
            found.append(max(0.0, copy.finished_at - times[nearest]))
    return found
