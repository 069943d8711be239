"""Lives by chance: which deeds there are, in what order, and what becomes of the listener meanwhile.

All of it follows from one seed. After each step the judge looks at everything with each user's eyes.
"""

import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from listener.settings import Job
from listener.standin.actor_rows import update
from tests.chaos.nursery import Nursery, is_ready
from tests.conftest import ImmichDatabase, Roots, eventually
from tests.house import Process
from tests.privacy_judge import Leak
from tests.privacy_life import REFUSED, User
from tests.privacy_people import Copies, People
from tests.privacy_photos import Photos
from tests.privacy_rules import Sight
from tests.privacy_words import same

SETTLED_WITHIN = 20.0
MENDED_WITHIN = 8.0

Deed = Callable[["Neighbours", User], str | None]


_REFUSED = "a job is refused"


class Neighbours(Photos, People, Copies):
    """Everything that the three and their server do, and the step from one quiet moment to the next."""

    def __init__(self, immich: ImmichDatabase, roots: Roots, folder: Path, closing: ExitStack, seed: int) -> None:
        super().__init__(immich, roots, folder, closing, seed)
        self.trace: list[str] = []
        self.seen = self.deeds = 0
        self.sweeps = False
        self._away = roots.external.with_name("away")

    # --- the server and its settings --------------------------------------------------------------------

    @property
    def is_whole(self) -> bool:
        """Whether the listener can be started: with all folders and users there."""
        return not self._away.exists()

    def change_settings(self, _: User) -> str | None:
        """Another prefix, other rules: with a restart, since that is how settings change."""
        if not self.is_whole:
            return None
        index = self.rng.randrange(len(self.home.house.jobs))
        what, new = self._another(self.home.house.jobs[index])
        self.home.stop()
        jobs = tuple(new if number == index else job for number, job in enumerate(self.home.house.jobs))
        self.home.house = replace(self.home.house, jobs=jobs)
        self.share()
        return f"settings: {new.name} {what}"

    def _another(self, job: Job) -> tuple[str, Job]:
        changes = [lambda: ("tags", replace(job, tags=not job.tags))]
        for _ in range(2):
            changes.append(
                lambda: (f"removes: {not job.remove_copies}", replace(job, remove_copies=not job.remove_copies))
            )
            changes.append(lambda: self._another_target(job))
        if job.name == "photos":
            changes += [lambda: self._another_source(job)] * 4
        if job.target_user_id == self.users["bob"].actor.user_id:
            changes += [lambda: self._another_album(job)] * 2
        return self.rng.choice(changes)()

    def _another_source(self, job: Job) -> tuple[str, Job]:
        family = str(self.home.photos / "family")
        new = str(self.home.photos) if job.source_path_prefix == family else family
        return f"shares {new}", replace(job, source_path_prefix=new)

    def _another_target(self, job: Job) -> tuple[str, Job]:
        old = job.target_path_prefix
        new = old.removesuffix("2") if old.endswith("2") else f"{old}2"
        return f"puts its copies into {new}", replace(job, target_path_prefix=new)

    def _another_album(self, job: Job) -> tuple[str, Job]:
        if job.album_id is not None:
            return "fills no album", replace(job, album_id=None)
        bob = self.users["bob"].actor
        if not self.known.job_albums:
            album = bob.album_create("all of alice's")
            bob.album_share(album, self.users["carol"].actor.user_id)
            self.known.job_albums.add(same(album))
        (album_id,) = self.known.job_albums
        row = next(row for row in bob.rows.where("album", albumName="all of alice's") if same(row["id"]) == album_id)
        return "fills an album that carol sees", replace(job, album_id=row["id"])

    def remove_user(self, user: User) -> str | None:
        """Mark a user as removed, or bring them back."""
        # No trigger tells of it: the slow sweep finds out.
        self.sweeps = True
        if user.name in self.world.removed_users:
            user.actor.restore_user(user.actor.user_id)
            self.world.removed_users.discard(user.name)
            return "is brought back"
        user.actor.remove_user(user.actor.user_id, finish=False)
        self.world.removed_users.add(user.name)
        return "is removed"

    def remove_library(self, user: User) -> str | None:
        if user.library is None:
            return None
        if user.name not in self.world.removed_libraries:
            user.actor.delete_library(user.library, finish=False)
            self.world.removed_libraries.add(user.name)
            return "has the library removed"
        rows = user.actor.rows
        rows.execute(update("library", {"id": user.library, "deletedAt": None}))
        back = [
            r for r in rows.where("asset", libraryId=user.library) if r["status"] == "active" and not r["isOffline"]
        ]
        rows.execute(update("asset", *({"id": row["id"], "deletedAt": None} for row in back)))
        self.world.removed_libraries.discard(user.name)
        return "has the library back"

    def disk(self, _: User) -> str | None:
        """The disk of the external libraries and of the links goes away, and leaves its mount point; or it is back."""
        self.sweeps = True
        if self._away.exists():
            shutil.rmtree(self.roots.external)
            self._away.rename(self.roots.external)
            return "disk: is back"
        self.roots.external.rename(self._away)
        self.roots.external.mkdir()
        return "disk: goes away"

    def swap_folder(self, _: User) -> str | None:
        """The target user puts a symlink to a folder of their own where one of ours was, or takes it away."""
        folder = self.roots.external / "shared" / "bob_photos" / "family"
        self.sweeps = True
        if folder.is_symlink():
            folder.unlink()
            return "folder: bob's symlink goes"
        if not folder.is_dir():
            return None
        shutil.rmtree(folder)
        (self.roots.external / "bobs").mkdir(exist_ok=True)
        folder.symlink_to(self.roots.external / "bobs")
        return "folder: bob puts a symlink in the place of family"

    # --- by chance --------------------------------------------------------------------------------------

    def begin(self, nursery: Nursery) -> None:
        """What is there before the first sync."""
        self._nursery = nursery
        for _ in range(3):
            for deed in (Photos.upload, Photos.import_photo, Photos.describe, People.name_person, Photos.tag):
                self.do(deed, self.users["alice"])
        for name in ("bob", "bob", "carol"):
            self.do(Photos.upload, self.users[name])
            self.do(People.name_person, self.users[name])
        self.start()
        self.check()

    def step(self) -> None:
        """Some deeds, the target users' first, while the listener runs, is away or is killed; then all is checked."""
        how = self.rng.choices(("runs", "is away", "is killed"), (6, 2, 2 if self.is_whole else 0))[0]
        if not self.is_whole:
            how = "runs"
        self.trace.append(f"-- the listener {how}")
        for _ in range(self.rng.choice((0, 1, 2, 3))):
            self.do(self._choose(OF_COPIES), self._somebody(("bob",) * 5 + ("alice", "carol")))
        deeds = [self._choose(OF_PHOTOS) for _ in range(self.rng.randrange(1, 7))]
        if self.rng.random() < 0.4:
            deeds.append(self._choose(OF_THE_HOUSE))
        if how != "runs":
            # A listener that is started without its disks waits for them.
            deeds = [deed for deed in deeds if deed is not N.disk] or [N.lock]
        match how:
            case "runs":
                self._do_all(deeds)
            case "is away":
                self.home.stop()
                self._do_all(deeds)
            case _:
                self._do_all_killed(deeds)
        if self.home._running is None:
            self.start()
        self.check()

    def start(self) -> None:
        """Start the listener. That it refuses a job is no excuse: what may not be seen may not be seen then, either."""
        self.home.start(but=_REFUSED if self.world.removed_users else None)

    def _do_all(self, deeds: list[Deed]) -> None:
        for deed in deeds:
            self.do(deed, self._somebody(("alice",) * 6 + ("bob",) * 3 + ("carol",)))

    def _do_all_killed(self, deeds: list[Deed]) -> None:
        """The listener is a process that dies at its n-th point, or with ``kill -9`` amid the deeds."""
        self.home.stop()
        at, amid = int(2 ** self.rng.uniform(0, 7.5)), self.rng.randrange(len(deeds))
        before, after = deeds[:amid], deeds[amid:]
        if self.rng.random() < 0.5:
            # All is done while it is away: it dies at work, or once it has nothing to do.
            self._do_all(deeds)
            process = self._nursery.start(self.home.house, f"nth:{at}")
            self._wait(process)
        else:
            process = self._nursery.start(self.home.house)
            self._wait(process)
            self._do_all(before)
            process.popen.kill()
            self._do_all(after)
        process.popen.kill()
        process.popen.wait(10)
        killed = [line for line in process.output.splitlines() if line.startswith("killed ")]
        self.trace.append(f"   {killed[0] if killed else 'killed -9'}")

    def _wait(self, process: Process) -> None:
        def begun() -> bool:
            if process.popen.poll() is not None or is_ready(process):
                return True
            if not self.world.removed_users:
                return False
            try:
                return _REFUSED in process.get("/readyz").text
            except (httpx.TransportError, AssertionError):
                return False  # it has just been killed, as the next look tells

        eventually(begun, within=SETTLED_WITHIN)

    def do(self, deed: Deed, user: User) -> None:
        """Do a deed, and note what it was."""
        if user.name in self.world.removed_users and deed not in (N.remove_user, N.remove_library):
            return
        if not self.is_whole and deed in ON_THE_DISK:
            return
        try:
            done = deed(self, user)
        except REFUSED as refused:
            done = f"{getattr(deed, '__name__', deed)} is refused: {type(refused).__name__} {refused}".split("\n")[0]
        if done is not None:
            self.deeds += 1
            self.trace.append(f"   {user.name} {done}")
        self.known.learn(self.home.look)

    def check(self) -> None:
        """Wait until the listener has nothing in hand; then nobody may come to what they may not see."""
        self.settle()
        leaks: list[Leak] = []

        def right() -> bool:
            leaks[:] = self.judge.leaks()
            return not leaks

        eventually(right, within=MENDED_WITHIN, describe=lambda: self.told(leaks), every=0.1)
        self.seen += self._count_shown()

    def settle(self) -> None:
        if self.home._running is not None and self.sweeps:
            self.home.house.sweep()
            self.sweeps = False
        if self.home._running is not None:
            self.home._running.wait_idle(SETTLED_WITHIN)
        self._forget_hidden()
        swapped = (self.roots.external / "shared" / "bob_photos" / "family").is_symlink()
        self.judge.disk_fails = swapped or not self.is_whole

    def told(self, leaks: list[Leak]) -> str:
        lines = "\n".join(map(str, leaks[:12]))
        photos = "\n".join(map(str, self.world.photos.values()))
        return f"\n{lines}\nafter\n{chr(10).join(self.trace)}\nwith\n{photos}\n{self.world.shares}"

    def _forget_hidden(self) -> None:
        """A copy that went for good takes along that its user had locked it."""
        for user, number in [*self.known.hidden_copies]:
            if self.world.sight(user, self.world.photos[number]) == Sight.NOTHING:
                self.known.hidden_copies.discard((user, number))

    def _count_shown(self) -> int:
        """Return how many copies of photos there are that may be seen: a life without any shows nothing."""
        return sum(
            self.world.sight(user.name, photo) == Sight.SHOWN
            for user in self.users.values()
            for photo, _ in self.copies(user)
        )

    def _somebody(self, names: tuple[str, ...]) -> User:
        return self.users[self.rng.choice(names)]

    def _choose(self, deeds: dict[int, tuple[Deed, ...]]) -> Deed:
        return self.rng.choice([deed for weight, those in deeds.items() for deed in those for _ in range(weight)])


N = Neighbours
# Each with how often it is done, beside others.
OF_PHOTOS: dict[int, tuple[Deed, ...]] = {
    8: (N.lock,),
    6: (N.upload, N.import_photo, N.move),
    5: (N.feature,),
    4: (N.trash, N.name_person),
    3: (N.live_photo, N.unlock, N.restore, N.delete, N.scan, N.describe, N.tag, N.crop, N.reassign),
    2: (N.archive, N.hide_file, N.find_file, N.place_it, N.stack, N.merge_people, N.change_face, N.share_album),
    1: (N.second_still, N.split, N.rate, N.untag, N.unstack, N.hide_person, N.delete_person),
}
OF_COPIES: dict[int, tuple[Deed, ...]] = {
    3: (N.write_on_copy, N.face_of_copy, N.share_copies, N.night),
    2: (N.lock_copy, N.crop_copy, N.name_mirror, N.recognise_mirror),
    1: (
        *(N.favourite_copy, N.archive_copy, N.unlock_copy, N.trash_copy, N.restore_copy, N.delete_copy),
        *(N.stack_copies, N.remember, N.merge_people),
    ),
}
OF_THE_HOUSE: dict[int, tuple[Deed, ...]] = {
    5: (N.change_settings,),
    2: (N.remove_user, N.remove_library, N.disk),
    1: (N.swap_folder,),
}
# What needs the files of a library, or writes some there.
ON_THE_DISK: tuple[Deed, ...] = (
    *(N.import_photo, N.live_photo, N.second_still, N.move, N.hide_file, N.find_file, N.scan, N.swap_folder),
    *(N.change_settings, N.describe, N.place_it, N.rate, N.tag, N.untag, N.crop, N.write_on_copy, N.crop_copy),
)


def seeds(default: tuple[int, ...]) -> tuple[int, ...]:
    """Return the seeds to live by: that of ``SEED``, or these."""
    return (int(os.environ["SEED"]),) if "SEED" in os.environ else default


def live(immich: ImmichDatabase, roots: Roots, folder: Path, nursery: Nursery, seed: int, *, steps: int) -> Neighbours:
    """Live a life of so many steps; what fails tells how to live it again."""
    with ExitStack() as closing:
        life = Neighbours(immich, roots, folder, closing, seed)
        try:
            life.begin(nursery)
            for _ in range(steps):
                life.step()
        except (Exception, pytest.fail.Exception) as failure:
            again = f"SEED={seed} .venv/bin/pytest -n 0 tests/behaviour/test_privacy_model.py -k {immich.release}"
            failure.add_note(again)
            raise
        return life
