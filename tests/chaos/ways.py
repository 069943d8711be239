"""What else leads copies out of sight and back: locks, disks that are away, places that change, settings."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from uuid import UUID

from listener.standin.actor import Actor
from listener.standin.actor_rows import update
from tests.chaos.street import Street
from tests.photos import add_photos

_MANY = 40


class Ways:
    """Photos of alice's that go and come in every way but the trash's, which is tried elsewhere.

    ``actor`` is hers, in a session of its own. The brake is off: it would hold what is to be seen to go.
    """

    def __init__(self, street: Street, actor: Actor) -> None:
        self._street = street
        self._alice = actor
        self._inner = street.home.photos / "inner"
        self._locked = self._add(street.home.photos / "locked")
        self._away = self._add(street.home.photos / "away")
        self._outer = self._add(street.home.photos / "outer")
        self._add(self._inner)
        self._names = [f"ways/{number}.jpg" for number in range(4)]
        self._moved = [actor.upload(f"{number}.jpg") for number in range(4)]
        street.immich.users.own["alice"].others |= {*self._moved}
        self._blocked: list[Path] = []

    def _add(self, folder: Path) -> list[UUID]:
        street = self._street
        photos = add_photos(
            street.house.immich.conninfo,
            street.house.roots,
            street.home.alice.user_id,
            _MANY,
            library=self._alice.add_library(folder),
            folder=folder,
        )
        return [photo.id for photo in photos]

    def each(self) -> Iterator[None]:
        """Take one step after the other, for ever."""
        while True:
            self._alice.lock(*self._locked)
            yield
            self._set_offline(self._away, offline=True)
            yield
            self._exchange()
            yield
            self._alice.unlock(*self._locked)
            self.share_only(self._inner)
            yield
            self._set_offline(self._away, offline=False)
            self._block()
            yield
            self._exchange()
            yield
            self.share_only(None)
            yield
            self._unblock()
            yield

    def end(self) -> None:
        """Leave all as it was."""
        self._unblock()
        self._alice.unlock(*self._locked)
        self._set_offline(self._away, offline=False)
        self.share_only(None)

    def share_only(self, folder: Path | None) -> None:
        """Let listeners from now on share this folder only, or all again."""
        house = self._street.house
        jobs = (
            house.jobs if folder is None else (replace(house.jobs[0], source_path_prefix=str(folder)), *house.jobs[1:])
        )
        self._street.configure(replace(house, jobs=jobs, extra={**house.extra, "REMOVAL_LIMIT": "off"}))

    def _set_offline(self, photos: Sequence[UUID], *, offline: bool) -> None:
        at = "2024-05-06T10:00:00+00:00" if offline else None
        self._alice.rows.execute(
            *(update("asset", {"id": photo, "isOffline": offline, "deletedAt": at}) for photo in photos)
        )

    def _exchange(self) -> None:
        """Photos take each other's places, as by another storage template."""
        for number, photo in enumerate(self._moved):
            self._alice.move_by_storage_template(photo, f"ways/aside-{number}.jpg")
        self._names = [*self._names[1:], self._names[0]]
        for photo, name in zip(self._moved, self._names, strict=True):
            self._alice.move_by_storage_template(photo, name)

    def _block(self) -> None:
        """While copies are away, somebody puts files where their links belong."""
        job = self._street.house.jobs[0]
        for photo in self._outer[:3]:
            original = str(self._alice.asset(photo)["originalPath"])
            place = Path(job.target_path_prefix + original.removeprefix(job.source_path_prefix))
            if not place.is_symlink() and not place.exists():
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_text("somebody's")
                self._blocked.append(place)

    def _unblock(self) -> None:
        for place in self._blocked:
            if not place.is_symlink() and place.read_text() == "somebody's":
                place.unlink()
        self._blocked.clear()
