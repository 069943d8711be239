"""What happens at the points of a process (`tests.chaos.crashing`): it is killed there, or they are written down."""

import json
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Point:
    """A point that was come to; ``functions`` of the product led there, innermost first."""

    label: str
    functions: list[str]


# What a point is about, in text: paths, parameters of a statement.
About = Callable[[], str]


class Mark(Protocol):
    """What happens at the points of a process."""

    def wants(self, label: str, /) -> bool:
        """Tell whether something happens amid this one."""

    def at(self, point: Point, about: About, /) -> None:
        """Do it."""


class Kill:
    """Kills this process at the n-th time that it comes to a point."""

    def __init__(self, label: str, count: int) -> None:
        self._label = label
        self._left = count
        self._lock = threading.Lock()

    def wants(self, label: str, /) -> bool:
        """Tell whether the process is to end here: what happens here is then left half done."""
        return label == self._label and self._left == 1

    def at(self, point: Point, _: About) -> None:
        if point.label != self._label:
            return
        with self._lock:
            self._left -= 1
            if self._left == 0:
                os.write(2, f"killed {point.label}\n".encode())
                os.kill(os.getpid(), signal.SIGKILL)


class KillAtAny(Kill):
    """Kills this process at the n-th point that it comes to."""

    def __init__(self, count: int) -> None:
        super().__init__("", count)

    def wants(self, _: str, /) -> bool:
        return self._left == 1

    def at(self, point: Point, about: About) -> None:
        self._label = point.label
        super().at(point, about)


class Record:
    """Writes down each point that this process comes to."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def wants(self, label: str, /) -> bool:
        return label == ""

    def at(self, point: Point, _: About) -> None:
        os.write(self._file, (json.dumps(asdict(point)) + "\n").encode())
