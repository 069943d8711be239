"""Lives: one Immich and the deeds of its users, while listeners come and go at whose points something happens."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import UUID

from tests.chaos.deeds import Deeds
from tests.chaos.nursery import Nursery, is_ready
from tests.chaos.state import State, leftovers, state_of
from tests.conftest import eventually
from tests.house import Process


class Life:
    """One database with its deeds, lived from the first sync on."""

    def __init__(self, deeds: Deeds, nursed: Nursery) -> None:
        self.deeds = deeds
        self.house = deeds.house
        self._nursery = nursed
        # How long a start takes here, in seconds.
        self.pace = 1.0

    def start(self, mark: str = "") -> Process:
        return self._nursery.start(self.house, mark)

    def install(self, mark: str = "") -> int:
        return self._nursery.start(self.house, mark, "triggers", "install").popen.wait(30)

    @contextmanager
    def running(self, mark: str = "", *, within: float = 30) -> Iterator[Process]:
        process = self.start(mark)
        try:
            eventually(
                lambda: is_ready(process) or process.popen.poll() is not None,
                within=within,
                describe=lambda: process.output,
            )
            yield process
        finally:
            code = process.end()
        assert code == 0, process.output

    def quiet(self, mark: str = "") -> None:
        """Let a listener finish everything undisturbed."""
        with self.running(mark):
            self.house.settled()

    def do(self, kind: str) -> None:
        """Do a deed; bob is about to see the copies where it is about them."""
        if kind in self.deeds.after_quiet:
            self.quiet()
        self.deeds.do(kind)

    def copied(self, photo: UUID) -> bool:
        """Tell whether there is a copy of this photo."""
        text = (
            "SELECT 1 FROM public._face_sync_asset_map AS map JOIN asset ON asset.id = map.target_asset_id"
            " WHERE map.source_asset_id = %s"
        )
        return bool(self.house.query(text, photo))

    def crash_at(self, label: str, count: int = 1, *, meanwhile: Callable[[], None] | None = None) -> bool:
        """Start a listener that kills itself at a point; tell whether it did. ``meanwhile``: done once it listens."""
        process = self.start(f"{label}:{count}")
        try:
            if meanwhile is not None:
                wait_ready(process)
                meanwhile()
                self.house.sweep()
            eventually(lambda: ended(process) or (meanwhile is None and is_ready(process)), within=30)
        finally:
            process.popen.kill()
        assert process.popen.wait(10) == -signal.SIGKILL, process.output
        # Another thread may log a line between this one and the signal.
        return f"killed {label}\n" in process.output

    def end(self) -> State:
        """Find what was hidden, let everything become quiet, and return what is there then."""
        self.deeds.find()
        self.quiet()
        assert leftovers(self.house) == {"begun": [], "failed": [], "half": []}
        return state_of(self.house)


def ended(process: Process) -> bool:
    return process.popen.poll() is not None


def wait_ready(process: Process) -> None:
    eventually(lambda: ended(process) or is_ready(process), within=30, describe=lambda: process.output)
