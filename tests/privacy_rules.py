"""Who may see what: the rules of the promise, without a word of how copies are made.

Pure: what the users did goes in, and how far somebody may see a photo comes out. Everything that is looked at in the
database and on the disk (`tests.privacy_reach`) is measured against this.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum


class Sight(IntEnum):
    """How far a photo may be seen by somebody."""

    NOTHING = 0
    """No row, no file, no link and no person's thumbnail cut out of it: it may not be there at all."""
    PARKED = 1
    """Its row may wait with all that hangs on it, in no view; the original may not be reached."""
    SHOWN = 2


@dataclass(frozen=True, slots=True)
class Share:
    """A job: whose photos of which kind, to whom. ``prefix`` counts for external ones; ``removes``: takes back."""

    kind: str
    owner: str
    to: str
    prefix: str = ""
    removes: bool = False

    def covers(self, photo: "Photo") -> bool:
        if photo.owner != self.owner:
            return False
        if self.kind == "uploads":
            return not photo.in_library
        return photo.in_library and photo.path.startswith(f"{self.prefix}/")


@dataclass(slots=True)
class Photo:
    """A photo or video, as its owner left it. ``motion`` is the number of the video that a live photo's still plays.

    ``left_out_for``: with whom it was shared, at the path that it has now, until the settings were changed.
    """

    number: int
    owner: str
    name: str
    path: str
    in_library: bool = False
    locked: bool = False
    hidden: bool = False
    trashed: bool = False
    offline: bool = False
    deleted: bool = False
    motion: int | None = None
    left_out_for: set[str] = field(default_factory=set)

    @property
    def private(self) -> bool:
        return self.locked or self.deleted


@dataclass(slots=True)
class World:
    """All photos, what is shared by the settings in force, and who or what is marked as removed."""

    shares: tuple[Share, ...] = ()
    photos: dict[int, Photo] = field(default_factory=dict)
    removed_users: set[str] = field(default_factory=set)
    removed_libraries: set[str] = field(default_factory=set)

    def stills_of(self, part: Photo) -> Iterable[Photo]:
        return (photo for photo in self.photos.values() if photo.motion == part.number and not photo.deleted)

    def sight(self, viewer: str, photo: Photo) -> Sight:
        """Tell how far a user may see a photo. The hidden part of a live photo is judged by its stills."""
        if photo.owner == viewer:
            return Sight.SHOWN
        if photo.private:
            return Sight.NOTHING
        if photo.hidden:
            return max((self.sight(viewer, still) for still in self.stills_of(photo)), default=Sight.NOTHING)
        covering = [share for share in self.shares if share.to == viewer and share.covers(photo)]
        if not covering:
            return Sight.PARKED if viewer in photo.left_out_for else Sight.NOTHING
        return self._while_shared(photo, taken_back=all(share.removes for share in covering))

    def _while_shared(self, photo: Photo, *, taken_back: bool) -> Sight:
        library_removed = photo.in_library and photo.owner in self.removed_libraries
        away = photo.trashed or photo.offline or library_removed or photo.owner in self.removed_users
        return Sight.NOTHING if taken_back else Sight.PARKED if away else Sight.SHOWN

    def change_shares(self, shares: tuple[Share, ...], users: Iterable[str]) -> None:
        """Put other settings in force: what is no longer shared by them, and was, may wait."""
        for photo in self.photos.values():
            for user in users:
                covered = any(share.to == user and share.covers(photo) for share in self.shares)
                if covered and not photo.private:
                    photo.left_out_for.add(user)
        self.shares = shares

    def went_private(self, photo: Photo) -> None:
        """Forget that settings left it out: what was locked or moved in between comes with nothing."""
        photo.left_out_for.clear()
