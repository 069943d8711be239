"""Raises whatever can be raised at a labelled point (`tests.chaos.crashing`), as a fault that nobody foresaw would.

``once:FILE``: at each point that the process comes to, when it comes there first; the labels are written to FILE.
``always:FILE``: FILE says at which point, and something is raised there for one photo, and again whenever the point is
about that one, until FILE says otherwise. Which photo: the first that the point is about. What was done is written
beside FILE.
"""

import io
import json
import os
import re
import threading
from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import psycopg

from listener import boundary, service, sweep, workqueue
from tests.chaos.marks import About, Point

_LONGEST = 2000
_STRANGE = 133  # a broken page of memory

_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")

KINDS: tuple[Callable[[str], Exception], ...] = (
    ValueError,
    KeyError,
    RecursionError,
    MemoryError,
    lambda words: UnicodeDecodeError("utf-8", b"\xff", 0, 1, words),
    OverflowError,
    psycopg.DataError,
    lambda words: OSError(_STRANGE, words),
    ZeroDivisionError,
    TypeError,
    AssertionError,
    TimeoutError,
)


def hurry() -> None:
    """Make all pauses of this process short: what takes an hour of tries is seen in a second."""
    workqueue.FIRST_PAUSE, workqueue.LONGEST_PAUSE = 0.02, 0.2
    boundary._FIRST_PAUSE, boundary._LONGEST_PAUSE = 0.02, 0.2
    service._LONGEST_WAIT = 0.05
    sweep._LOCKED_PAUSE = sweep._SLOW_PAUSE = 0.2


class Once:
    """Raises at each point once."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._lock = threading.Lock()
        self._seen: set[str] = set()
        self._kinds = cycle(KINDS)

    def wants(self, _: str, /) -> bool:
        return False

    def at(self, point: Point, _: About) -> None:
        with self._lock:
            if point.label in self._seen:
                return
            self._seen.add(point.label)
            kind = next(self._kinds)
        os.write(self._file, f"{point.label}\n".encode())
        raise kind(f"raised {point.label}")


class Always:
    """Raises at one point whenever it is about one photo."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._label = ""
        self._victim: str | None = None
        self._times = 0
        self._kinds = cycle(KINDS)
        self._kind = next(self._kinds)
        self._done = os.open(path.with_suffix(".done"), os.O_WRONLY | os.O_CREAT, 0o600)

    def wants(self, _: str, /) -> bool:
        return False

    def at(self, point: Point, about: About) -> None:
        wanted = json.loads(self._path.read_text())
        with self._lock:
            if wanted["label"] != self._label:
                self._label, self._victim, self._times, self._kind = wanted["label"], None, 0, next(self._kinds)
            if point.label != self._label:
                return
            text = about()
            ids = [id_ for id_ in _ID.findall(text) if id_ not in wanted["but"]]
            if self._victim is None:
                self._victim = ids[0] if ids else text
            if self._victim not in text:
                return
            self._times += 1
            done = {"label": self._label, "victim": self._victim, "times": self._times}
            # In place, and by a descriptor that is open already: nothing here is a point itself.
            os.pwrite(self._done, json.dumps(done).ljust(_LONGEST).encode(), 0)
        raise self._kind(f"raised {point.label}")


def named(args: Sequence[Any]) -> About:
    """Return what names the files of a call: as text, and also where they are known by a descriptor only."""
    text = " ".join(_name(arg) for arg in args)
    return lambda: text


def _name(arg: Any) -> str:
    if isinstance(arg, str | bytes | Path):
        return os.fsdecode(arg)
    if isinstance(arg, io.IOBase):
        arg = arg.fileno()
    if isinstance(arg, int) and not isinstance(arg, bool) and arg > 2:
        try:
            return str(Path(f"/proc/self/fd/{arg}").readlink())
        except OSError:
            return ""
    return ""


def parameters(args: Sequence[Any]) -> str:
    """Return the parameters of a statement as text."""
    return "\n".join(str(value) for arg in args if isinstance(arg, dict) for value in arg.values())
