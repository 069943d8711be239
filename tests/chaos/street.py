"""One Immich under faults: its users, the listener's processes, and the judge who comes when it is quiet again."""

import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from uuid import UUID

from listener.standin.actor import Actor
from tests.behaviour.conftest import Home
from tests.chaos.acting import Immich
from tests.chaos.nursery import Nursery, is_ready
from tests.chaos.state import leftovers
from tests.house import House, Process, database_url
from tests.photos import add_photos
from tests.role import as_listener

_QUIET_WITHIN = 180.0
_SWEEP_EVERY = 3.0


@dataclass
class Verdict:
    """What the judge found, as words."""

    copies: int = 0
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    orphaned: list[str] = field(default_factory=list)


class Street:
    """``rng`` decides about faults. ``labels``: the points that the first listener came to. ``pace``: the seconds that
    a start takes here until all is looked through, with nothing to do."""

    def __init__(self, home: Home, nursed: Nursery, rng: random.Random, closing: ExitStack) -> None:
        self.home = home
        self.house: House = home.house
        # The same, by another way to the database.
        self._listening = self.house
        self.rng = rng
        self.immich = Immich(home, rng.getrandbits(32))
        self.labels: list[str] = []
        self.pace = 1.0
        self.listeners: list[Process] = []
        self._nursery = nursed
        self._bulk: list[UUID] = []
        self._made = 0
        # Who changes many photos at once.
        self._alice = self.another_alice(closing)
        self._library = self._alice.add_library(home.photos)
        closing.callback(self.kill_all)

    def move_in(self, photos: int) -> None:
        """Begin: photos are there, a listener copies them and writes down the points it comes to."""
        self.immich.move_in(photos)
        points = self.house.folder / "points"
        self.start(f"record:{points}")
        self.wait_ready()
        with self.immich.at_work():
            time.sleep(2)
        self.quiet()
        found = dict.fromkeys(json.loads(line)["label"] for line in points.read_text().splitlines())
        self.labels = [label for label in found if not label.startswith(("within ", "unseen "))]
        self.kill_all()
        began = time.monotonic()
        self.wait_ready()
        self.pace = time.monotonic() - began
        self.kill_all()

    def another_alice(self, closing: ExitStack) -> Actor:
        """Return another session of alice's: an actor is for one thread."""
        home = self.home
        alice = Actor(
            home.immich.conninfo,
            home.immich.release,
            home.alice.user_id,
            home.roots.media,
            home.roots.external,
            seed=self.rng.getrandbits(32),
        )
        self.immich.statements.count(alice)
        return closing.enter_context(alice)

    # --- the listener -----------------------------------------------------------------------------------

    def start(self, mark: str = "") -> Process:
        process = self._nursery.start(self._listening, mark)
        self.listeners.append(process)
        return process

    def configure(self, house: House) -> None:
        """Let listeners from now on have other settings."""
        self._listening = house

    def listen_through(self, way: Callable[[str], str] | None) -> None:
        """Let listeners from now on go another way to the database: ``way`` makes one conninfo of another."""
        self.kill_all()
        self._listening = self.house
        if way is not None:
            there = database_url(way(as_listener(self.house.immich.conninfo)))
            self._listening = replace(self.house, extra={**self.house.extra, "DB_URL": there})

    def kill(self, process: Process) -> None:
        process.popen.kill()
        process.popen.wait(10)
        if process in self.listeners:
            self.listeners.remove(process)
        # One log of hundreds would do, but thousands of lines of each are too many.
        process.log.unlink(missing_ok=True)

    def kill_all(self) -> None:
        for process in list(self.listeners):
            self.kill(process)

    def alive(self) -> Process:
        """Return a running listener, started if there is none."""
        for process in list(self.listeners):
            if process.popen.poll() is not None:
                self.immich.trouble.append(f"a listener ended by itself: {process.output[-500:]}")
                self.kill(process)
        return self.listeners[0] if self.listeners else self.start()

    def wait_ready(self) -> None:
        """Wait until a listener has looked through everything; one that does not get there is trouble."""
        process = self.alive()
        deadline = time.monotonic() + _QUIET_WITHIN
        while not is_ready(process):
            if time.monotonic() > deadline or process.popen.poll() is not None:
                self.immich.trouble.append(f"a listener is not ready: {process.output[-1500:]}")
                return
            time.sleep(0.02)

    # --- many photos at once ----------------------------------------------------------------------------

    def add(self, count: int) -> None:
        """Alice adds finished photos to her library."""
        photos = add_photos(
            self.house.immich.conninfo,
            self.house.roots,
            self.home.alice.user_id,
            count,
            library=self._library,
            folder=self.home.photos,
            start=self._made,
        )
        self._made += count
        self._bulk += [photo.id for photo in photos]

    def trash_many(self) -> None:
        if self._bulk:
            self._alice.trash(*self._bulk)

    def restore_many(self) -> None:
        if self._bulk:
            self._alice.restore(*self._bulk)

    def reconnect(self) -> None:
        """Immich's own connections are gone with its server."""
        self.immich.reconnect()
        self._alice.close()
        self._alice.rows = type(self._alice.rows)(self.house.immich.conninfo)
        self.immich.statements.count(self._alice)

    # --- the judge --------------------------------------------------------------------------------------

    def quiet(self) -> None:
        """Wait until the judge finds nothing, and sweep from time to time; not longer than a while."""
        self.wait_ready()
        deadline, swept = time.monotonic() + _QUIET_WITHIN, 0.0
        while not self.house.verify().ok or any(leftovers(self.house).values()):
            if time.monotonic() > deadline:
                return
            if time.monotonic() - swept > _SWEEP_EVERY:
                self.house.sweep()
                swept = time.monotonic()
            time.sleep(0.05)

    def judge(self) -> Verdict:
        """Let everything become quiet, and say what is not as it should be."""
        self.quiet()
        report, left = self.house.verify(), leftovers(self.house)
        verdict = Verdict(report.copies)
        for difference in report.differences:
            kind = difference.rule.rpartition(".")[2]
            text = f"{difference.rule}: {difference.detail}"
            {"orphan": verdict.orphaned, "duplicate": verdict.doubled}.get(kind, verdict.lost).append(text)
        verdict.doubled += _doubled_links(self.house)
        verdict.orphaned += [f"{what} {one}" for what in ("begun", "half") for one in left[what]]
        verdict.lost += [f"failed {one}" for one in left["failed"]]
        verdict.lost += self.immich.users.own_things()
        return verdict


def _doubled_links(house: House) -> list[str]:
    """Return originals to which two links of one job lead."""
    found: list[str] = []
    for job in house.jobs:
        texts = Counter(
            os.readlink(f"{folder}/{name}")  # noqa: PTH115 - the very text
            for folder, _, names in os.walk(job.target_path_prefix)
            for name in names
            if Path(folder, name).is_symlink()
        )
        found += [f"{count} links of {job.name} lead to {text}" for text, count in texts.items() if count > 1]
    return found
