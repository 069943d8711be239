"""What alice and bob do, the same in every life: each deed is one that leads the listener through other code.

Ids follow from the order of the deeds alone, so that two lives of the same deeds end in the same rows, whatever
became of the listener meanwhile.
"""

from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import psycopg
from psycopg.types.json import Jsonb

from listener.settings import Job
from listener.standin.actor import NEW, Actor
from tests.conftest import ImmichDatabase, Roots
from tests.house import House, add_user

ALICE = UUID("a11ce000-0000-4000-8000-000000000001")
BOB = UUID("b0b00000-0000-4000-8000-000000000001")
_LONG_AGO = datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)
# So many photos later a deed comes to the same photo again.
_POOL = 36


class Deeds:
    """One Immich with two users, whose deeds are done one by one. ``house`` has its jobs."""

    def __init__(
        self, immich: ImmichDatabase, roots: Roots, folder: Path, closing: ExitStack, *, photos: int = _POOL
    ) -> None:
        conninfo = immich.conninfo
        with psycopg.connect(conninfo, autocommit=True) as connection:
            connection.execute(
                "INSERT INTO system_metadata (key, value) VALUES ('MediaLocation', %s)",
                [Jsonb({"location": str(roots.media)})],
            )
        self.alice, self.bob = (
            closing.enter_context(
                Actor(
                    conninfo,
                    immich.release,
                    add_user(conninfo, immich.release, name, user),
                    roots.media,
                    roots.external,
                    seed=seed,
                )
            )
            for seed, (name, user) in enumerate((("alice", ALICE), ("bob", BOB)))
        )
        shared = roots.external / "shared"
        shared.mkdir()
        target = self.bob.add_library(shared / "bob_")
        self._photos = roots.external / "alice" / "photos"
        self._library = self.alice.add_library(self._photos)
        shared_folder, media = str(self._photos), str(roots.media)
        jobs = (
            Job("photos", "external", ALICE, BOB, target, shared_folder, str(shared / "bob_photos")),
            Job("uploads", "uploads", ALICE, BOB, target, media, str(shared / "bob_uploads")),
        )
        self.house = House(immich, roots, jobs, folder)
        self._first = photos
        self._edits = self.alice.rows.has("asset_edit")
        self._number = 0
        self._uploads: deque[UUID] = deque()
        self._cropped: deque[UUID] = deque()
        self._trashed: deque[UUID] = deque()
        self._doubles: deque[UUID] = deque()
        self._hidden: dict[Path, bytes] = {}

    # These need the copy that they are about.
    after_quiet = frozenset({"bob deletes a copy", "a link leads elsewhere", "its edits are undone"})

    @property
    def kinds(self) -> dict[str, Callable[[], object]]:
        """Return the deeds by name; pictures are edited from Immich 2.5 on."""
        edits = {"a photo is cropped": self.crop, "its edits are undone": self.undo}
        return {
            "a new photo of somebody new": self.upload,
            "a scan finds new photos": self.scan,
            "a live photo": self._live_photo,
            **(edits if self._edits else {}),
            "a thumbnail has another format": self.change_format,
            "an original is moved": self.move,
            "a link leads elsewhere": self.bend,
            "a photo is described and tagged": self.describe,
            "photos are stacked": self.stack,
            "somebody is named": self.name,
            "somebody is nowhere to be seen": self.delete_face,
            "a photo is trashed": self.trash,
            "a photo is restored": self.restore,
            "a photo is deleted for good": self.delete,
            "bob deletes a copy": self.delete_copy,
            "bob has the same photo": self.double,
            "bob deletes his": self.delete_double,
            "an original is missing": self.hide,
        }

    def move_in(self) -> None:
        """What is there before the first sync."""
        for _ in range(self._first):
            self.upload()
        for photo in list(self._uploads)[-4:] if self._edits else ():
            self.alice.crop(photo)
            self._cropped.append(photo)
        self.scan()

    def do(self, kind: str) -> None:
        """Do one deed."""
        self.kinds[kind]()

    def upload(self) -> None:
        name = self._name("jpg")
        self._uploads.append(
            self.alice.upload(name, faces=1, people=[NEW], text=f"text {self._number}", taken=self._time())
        )

    def plain(self) -> UUID:
        """A new photo of nobody. It is no part of the deeds."""
        return self.alice.upload(self._name("jpg"), taken=self._time())

    def scan(self) -> None:
        name = self._name("jpg")
        self.alice.scan_library(self._library, [f"{self._number}/{name}", f"{self._number}/deep/er/{name}"])

    def _live_photo(self) -> None:
        self.alice.upload_live_photo(self._name("live"), faces=1, taken=self._time())

    def crop(self) -> None:
        photo = self._next()
        self.alice.crop(photo)
        self._cropped.append(photo)

    def undo(self) -> None:
        photo = next(photo for photo in self._cropped if photo in self._uploads)
        self._cropped.remove(photo)
        self.alice.undo_edits(photo)

    def change_format(self) -> None:
        self._number += 1
        self.alice.change_thumbnail_format(self._next(), f"jpg{self._number}")

    def move(self) -> None:
        self.alice.move_by_storage_template(self._next(), f"{2000 + self._number}/{self._name('jpg')}")

    def bend(self) -> None:
        """Somebody changes the link of a copy, which is made right when the photo is looked at again."""
        photo = self._next()
        ((path,),) = self._copy(photo, '"originalPath"')
        link = Path(str(path))
        link.unlink()
        link.symlink_to(self._photos)
        self.alice.describe(photo, f"description {self._number}")

    def describe(self) -> None:
        photo = self._next()
        self.alice.describe(photo, f"description {self._number}")
        self.alice.tag(f"trip/{self._number}", photo)

    def stack(self) -> None:
        self.alice.stack(self._next(), self._next())

    def name(self) -> None:
        people = self.alice.people()
        self._number += 1
        self.alice.name_person(people[self._number % len(people)]["person"], f"name {self._number}")

    def delete_face(self) -> None:
        alone = next(photo for photo in self._uploads if any(face["person"] for face in self.alice.faces_of(photo)))
        self._uploads.remove(alone)
        for face in self.alice.faces_of(alone):
            self.alice.delete_face(face["id"])

    def trash(self) -> None:
        photo = self._uploads.popleft()
        self.alice.trash(photo)
        self._trashed.append(photo)

    def restore(self) -> None:
        photo = self._trashed.popleft()
        self.alice.restore(photo)
        self._uploads.append(photo)

    def delete(self) -> None:
        self.alice.delete_for_good(self._uploads.popleft())

    def delete_copy(self) -> None:
        ((copy,),) = self._copy(self._uploads.popleft(), "id")
        self.bob.delete_for_good(UUID(str(copy)))

    def double(self) -> None:
        own = self.bob.upload(self._name("jpg"), taken=self._time())
        content = Path(self.bob.asset(own)["originalPath"]).read_bytes()
        self.alice.upload(self._name("jpg"), content=content)
        self._doubles.append(own)

    def delete_double(self) -> None:
        self.bob.delete_for_good(self._doubles.popleft())

    def hide(self) -> None:
        """A new photo whose original is away before the listener may look at it, until `find`."""
        photo = self.alice.upload(self._name("jpg"), taken=self._time(), until="row")
        path = Path(self.alice.asset(photo)["originalPath"])
        content = path.read_bytes()
        self.alice.work_on(photo)
        path.unlink()
        self._hidden[path] = content

    def find(self) -> None:
        """Put back what `hide` took away."""
        for path, content in self._hidden.items():
            path.write_bytes(content)
        self._hidden.clear()

    def _copy(self, photo: UUID, column: str) -> list[tuple[object, ...]]:
        return self.house.query(
            f"SELECT copy.{column} FROM _face_sync_asset_map AS map JOIN asset AS copy ON copy.id = map.target_asset_id"  # noqa: S608
            " WHERE map.source_asset_id = %s",
            photo,
        )

    def _next(self) -> UUID:
        """Return the photo that was left alone longest."""
        self._uploads.rotate(-1)
        return self._uploads[-1]

    def _name(self, ending: str) -> str:
        self._number += 1
        return f"{self._number}.{ending}"

    def _time(self) -> datetime:
        return _LONG_AGO + timedelta(minutes=self._number)
