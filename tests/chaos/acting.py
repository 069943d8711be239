"""Immich while faults happen: two users who click without pause, and every statement of theirs counted."""

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from uuid import UUID

import psycopg

from listener.standin.actor import Actor
from listener.standin.actor_rows import Rows
from tests.behaviour.conftest import Home
from tests.behaviour.test_model import ACTS, Neighbours, Own

# Clicks that write no file: Immich could not write one either while the disk is full.
WITHOUT_FILES = tuple(
    (what, how)
    for what, how in ACTS
    if what in {"stack", "unstack"}
    or (what, how) in {("change", "favourite"), ("person", "name"), ("person", "hide"), ("face", "unassign")}
    or (what in {"move", "copy"} and how in {"trash", "restore", "lock", "unlock", "favourite", "archive", "album"})
)
_PAUSE = (0.005, 0.06)


@dataclass
class Statements:
    """How many statements Immich ran, and those that were refused."""

    run: int = 0
    failed: list[str] = field(default_factory=list)

    def counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function that runs statements, so that they are counted."""

        def run(*args: Any, **named: Any) -> Any:
            self.run += 1
            try:
                return function(*args, **named)
            except psycopg.Error as error:
                self.failed.append(f"{type(error).__name__}: {error}".strip())
                raise

        return run

    def count(self, actor: Actor) -> None:
        """Count what this actor writes and reads."""
        for name in ("execute", "_run"):
            setattr(actor.rows, name, self.counted(getattr(actor.rows, name)))


class Neighbourhood(Neighbours):
    """The users of `tests.behaviour.test_model`, who click on copies of photos only that are there to stay.

    A click on what is just being taken away is refused by Immich itself, with or without us.
    """

    def __init__(self, home: Home) -> None:
        super().__init__()
        self.home = home
        self.own = {"alice": Own(home.alice), "bob": Own(home.bob)}
        self._stays: set[UUID] | None = None

    def copy(self, who: str, pick: int, change: str) -> bool:
        self._stays = set(self.other(who).visible)
        try:
            return super().copy(who, pick, change)
        finally:
            self._stays = None

    def copies(self, who: str) -> dict[UUID, UUID]:
        found = super().copies(who)
        return found if self._stays is None else {source: found[source] for source in found if source in self._stays}

    def own_things(self) -> list[str]:
        """Return what is somebody's own and not as they left it."""
        wrong: list[str] = []
        for who, own in self.own.items():
            for check in (partial(self.check_own_photos, own), partial(self.check_copies, who, own)):
                try:
                    check()
                except AssertionError as error:
                    wrong.append(f"{who}: {error}")
        return wrong


class Immich:
    """Both users at work in a thread of its own."""

    def __init__(self, home: Home, seed: int) -> None:
        self.users = Neighbourhood(home)
        self.statements = Statements()
        self.acts = 0
        self.trouble: list[str] = []
        self._home = home
        self._rng = random.Random(seed)
        self._stop = threading.Event()
        self._free = threading.Lock()
        self._kinds = ACTS
        for actor in (home.alice, home.bob):
            self.statements.count(actor)

    def move_in(self, photos: int) -> None:
        """What is there before the first sync."""
        for number in range(photos):
            for who in ("alice", "bob"):
                self.users.upload(who, number, "")

    @contextmanager
    def at_work(self, kinds: tuple[tuple[str, str], ...] = ACTS) -> Iterator[None]:
        """Act until the block ends."""
        self._kinds = kinds
        self._stop.clear()
        thread = threading.Thread(target=self._work, name="immich", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join(120)
            assert not thread.is_alive(), "a statement of Immich's hangs"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let nobody click for a while."""
        with self._free:
            yield

    def reconnect(self) -> None:
        """Connect anew, as Immich does when its server was restarted."""
        for actor in (self._home.alice, self._home.bob):
            actor.rows.close()
            actor.rows = Rows(self._home.immich.conninfo)
            self.statements.count(actor)

    def _work(self) -> None:
        while not self._stop.wait(self._rng.uniform(*_PAUSE)):
            with self._free:
                self._act()

    def _act(self) -> None:
        who, (what, how), pick = (
            self._rng.choice(("alice", "bob")),
            self._rng.choice(self._kinds),
            self._rng.getrandbits(16),
        )
        try:
            self.users.check_people(self.users.own[who])
            self.acts += bool(getattr(self.users, what)(who, pick, how))
        except psycopg.Error:
            return  # counted where it happened
        except (AssertionError, OSError, LookupError) as error:
            self.trouble.append(f"{who} {what} {how}: {type(error).__name__} {error}")
