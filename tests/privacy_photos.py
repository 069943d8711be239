"""What users do with their own photos, and what Immich does with them by itself: the deeds of `tests.privacy_life`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

from listener.standin.actor import Picture
from listener.standin.actor_rows import update
from tests.privacy_life import Life, User, in_view
from tests.privacy_rules import Photo
from tests.privacy_words import latitude, same, word


class Photos(Life):
    """Photos come, go, move and change."""

    def _new(self, user: User, ending: str = "jpg") -> Photo:
        number = len(self.world.photos) + 1
        photo = Photo(number, user.name, f"{word('p', number)}.{ending}", "")
        self.world.photos[number] = photo
        return photo

    def _is_there(self, photo: Photo, asset: UUID) -> None:
        self.ids[photo.number] = asset
        self.known.originals[same(asset)] = photo.number
        self._where(photo)

    def _where(self, photo: Photo) -> None:
        photo.path = self.users[photo.owner].actor.asset(self.ids[photo.number])["originalPath"]

    def _picture(self, photo: Photo) -> Picture:
        return Picture(faces=self.rng.randrange(3), text=word("o", photo.number))

    def _recognised(self, user: User, photo: Photo) -> None:
        """The faces of a new photo get their people, known ones or new."""
        for face in user.actor.faces_of(self.ids[photo.number]):
            known = self.person(user) if self.rng.random() < 0.6 else None
            if (person := user.actor.recognise(face["id"], known)) != known:
                user.people.append(person)
                self.known.made.add(same(person))

    def upload(self, user: User) -> str:
        photo = self._new(user)
        template = photo.name if self.rng.random() < 0.2 else None
        self._is_there(photo, user.actor.upload(photo.name, picture=self._picture(photo), template=template))
        self._recognised(user, photo)
        return f"uploads {photo.number}"

    def import_photo(self, user: User, ending: str = "jpg") -> str | None:
        if user.folder is None or user.library is None or user.name in self.world.removed_libraries:
            return None
        photo = self._new(user, ending)
        photo.in_library = True
        place = self._place(photo)
        assets = self._scan(user, [str(place.relative_to(user.folder))], self._picture(photo))
        self._is_there(photo, assets[0])
        self._recognised(user, photo)
        return f"imports {photo.number} at {place.parent.relative_to(user.folder)}"

    def _place(self, photo: Photo) -> Path:
        """Choose a folder: shared with bob, with carol too, with nobody; now and then one with a telling name."""
        folder = self.users[photo.owner].folder
        assert folder is not None
        place = folder / self.rng.choice(("photos", "photos", "photos/family", "photos/family", "private", "photos2"))
        return (place / word("p", photo.number) if self.rng.random() < 0.3 else place) / photo.name

    def live_photo(self, user: User) -> str | None:
        """A photo and a video become one; of a library's, the video may be one that Immich cut out of the still."""
        before = len(self.world.photos)
        if user.folder is not None and self.rng.random() < 0.6:
            if self.import_photo(user) is None:
                return None
            self.import_photo(user, "mp4")
            still, part = self.world.photos[before + 1], self.world.photos[before + 2]
        else:
            still, part = self._new(user), self._new(user, "mp4")
            for photo in (part, still):
                self._is_there(photo, user.actor.upload(photo.name, picture=self._picture(photo)))
                self._recognised(user, photo)
        self._link(user, still, part)
        if part.in_library and self.rng.random() < 0.5:
            self._embed(user, part)
        return f"has the live photo {still.number} with {part.number}"

    def _link(self, user: User, still: Photo, part: Photo) -> None:
        user.actor.link_live_photo(self.ids[still.number], self.ids[part.number])
        still.motion, part.hidden = part.number, True

    def _embed(self, user: User, part: Photo) -> None:
        asset = self.ids[part.number]
        new = user.actor.generated("encoded-video", user.actor.user_id, asset, "-MP.mp4")
        new.parent.mkdir(parents=True, exist_ok=True)
        Path(part.path).rename(new)
        user.actor.rows.execute(update("asset", {"id": asset, "isExternal": False, "originalPath": new}))
        self._where(part)

    def second_still(self, user: User) -> str | None:
        """Another upload of a still joins the same video."""
        part = self.pick(user, lambda p: p.hidden)
        if part is None:
            return None
        still = self._new(user)
        self._is_there(still, user.actor.upload(still.name, picture=self._picture(still)))
        self._link(user, still, part)
        return f"uploads {still.number}, a second still of {part.number}"

    def split(self, user: User) -> str | None:
        still = self.pick(user, lambda p: p.motion is not None and "encoded-video" not in self._part(p).path)
        if still is None or len(list(self.world.stills_of(self._part(still)))) > 1:
            return None
        user.actor.unlink_live_photo(self.ids[still.number])
        part, still.motion = self._part(still), None
        part.hidden = False
        return f"splits the live photo {still.number}"

    def _part(self, still: Photo) -> Photo:
        assert still.motion is not None
        return self.world.photos[still.motion]

    # --- photos go and come back ------------------------------------------------------------------------

    def lock(self, user: User) -> str | None:
        return self._do(self.visible(user), "locks", self._lock)

    def _lock(self, user: User, photo: Photo) -> None:
        user.actor.lock(self.ids[photo.number])
        photo.locked = True
        self.world.went_private(photo)
        self.open_albums(user)

    def unlock(self, user: User) -> str | None:
        def do(_: User, photo: Photo) -> None:
            user.actor.unlock(self.ids[photo.number])
            photo.locked = False

        return self._do(self.pick(user, lambda p: p.locked and not p.trashed), "unlocks", do)

    def archive(self, user: User) -> str | None:
        def do(_: User, photo: Photo) -> None:
            change = self.rng.choice((user.actor.archive, user.actor.unarchive))
            change(self.ids[photo.number])

        return self._do(self.visible(user), "archives or not", do)

    def trash(self, user: User) -> str | None:
        def do(_: User, photo: Photo) -> None:
            user.actor.trash(self.ids[photo.number])
            photo.trashed = True

        return self._do(self.pick(user, lambda p: not p.hidden and not p.trashed), "trashes", do)

    def restore(self, user: User) -> str | None:
        def do(_: User, photo: Photo) -> None:
            user.actor.restore(self.ids[photo.number])
            photo.trashed = False

        return self._do(self.pick(user, lambda p: p.trashed), "restores", do)

    def delete(self, user: User) -> str | None:
        def do(_: User, photo: Photo) -> None:
            # First in the rules: the file may be away.
            photo.deleted = True
            self.world.went_private(photo)
            part = None if photo.motion is None else self._part(photo)
            if part is not None and not [*self.world.stills_of(part)]:
                part.deleted = True
            user.actor.delete_for_good(self.ids[photo.number])
            self.open_albums(user)

        return self._do(self.pick(user, lambda p: not p.hidden), "deletes", do)

    def _do(self, photo: Photo | None, what: str, do: Callable[[User, Photo], None]) -> str | None:
        if photo is None:
            return None
        do(self.users[photo.owner], photo)
        return f"{what} {photo.number}"

    # --- files ------------------------------------------------------------------------------------------

    def move(self, user: User) -> str | None:
        """The storage template moves an upload; a library's file goes to another folder, and its row with it."""
        photo = self.pick(user, lambda p: p.number not in self.away and not p.hidden)
        if photo is None:
            return None
        asset = self.ids[photo.number]
        if not photo.in_library:
            user.actor.move_by_storage_template(asset, photo.name)
            self._where(photo)
            return f"moves the upload {photo.number}"
        new = self._place(photo)
        if new != Path(photo.path):
            new.parent.mkdir(parents=True, exist_ok=True)
            Path(photo.path).rename(new)
            user.actor.rows.execute(update("asset", {"id": asset, "originalPath": new}))
            self._where(photo)
            self.world.went_private(photo)
        return f"moves {photo.number} to {new.parent}"

    def hide_file(self, user: User) -> str | None:
        photo = self.pick(user, lambda p: p.in_library and p.number not in self.away and not p.hidden)
        if photo is None:
            return None
        away = self.roots.external / "somewhere" / photo.name
        away.parent.mkdir(exist_ok=True)
        Path(photo.path).rename(away)
        self.away[photo.number] = away
        return f"takes the file of {photo.number} away"

    def find_file(self, user: User) -> str | None:
        photo = self.pick(user, lambda p: self.away.get(p.number, Path()).name != "")
        if photo is None:
            return None
        Path(photo.path).parent.mkdir(parents=True, exist_ok=True)
        self.away.pop(photo.number).rename(photo.path)
        return f"brings the file of {photo.number} back"

    def scan(self, user: User) -> str | None:
        if user.library is None or user.name in self.world.removed_libraries:
            return None
        self._scan(user, [])
        return "scans"

    def _scan(self, user: User, names: list[str], picture: Picture | None = None) -> list[UUID]:
        assert user.library is not None
        found = user.actor.scan_library(user.library, names, picture=picture)
        for photo in self.world.photos.values():
            if photo.owner == user.name and photo.in_library and photo.number in self.ids and not photo.deleted:
                photo.offline = user.actor.asset(self.ids[photo.number])["isOffline"]
        return found

    # --- metadata and pictures --------------------------------------------------------------------------

    def describe(self, user: User) -> str | None:
        return self._write(user, "describes", lambda p: {"description": word("d", p.number)})

    def place_it(self, user: User) -> str | None:
        return self._write(user, "places", lambda p: {"latitude": latitude(p.number), "longitude": 1.5})

    def rate(self, user: User) -> str | None:
        return self._write(user, "rates", lambda _: {"rating": self.rng.randrange(1, 6)})

    def _write(self, user: User, what: str, values: Callable[[Photo], dict[str, Any]]) -> str | None:
        photo = self.visible(user)
        return self._do(photo, what, lambda u, p: u.actor.edit(self.ids[p.number], **values(p)))

    def tag(self, user: User) -> str | None:
        def do(_: User, photo: Photo) -> None:
            user.actor.tag(f"on/{word('t', photo.number)}", self.ids[photo.number])

        return self._do(self.visible(user), "tags", do)

    def untag(self, user: User) -> str | None:
        def do(_: User, photo: Photo) -> None:
            for value in user.actor.tags_of(self.ids[photo.number]):
                user.actor.untag(value, self.ids[photo.number])

        return self._do(self.visible(user), "untags", do)

    def crop(self, user: User) -> str | None:
        photo = self.visible(user)
        if photo is None or self.release < (2, 5) or photo.motion is not None or photo.name.endswith("mp4"):
            return None
        asset, x = self.ids[photo.number], self.rng.randrange(90)
        self.rng.choice(
            (
                lambda: user.actor.crop(asset, x=x),
                lambda: user.actor.rotate(asset, 90),
                lambda: user.actor.undo_edits(asset),
            )
        )()
        return f"edits {photo.number}"

    def stack(self, user: User) -> str | None:
        found = [p for p in self.photos(user, in_view) if user.actor.asset(self.ids[p.number])["stackId"] is None]
        if len(found) < 2:
            return None
        one, two = self.rng.sample(found, 2)
        user.actor.stack(self.ids[one.number], self.ids[two.number])
        return f"stacks {one.number} and {two.number}"

    def unstack(self, user: User) -> str | None:
        own = {user.actor.asset(self.ids[p.number])["stackId"]: p for p in self.photos(user)}
        stacks = user.actor.rows.where("stack", ownerId=user.actor.user_id)
        if not (found := [stack for stack in stacks if stack["id"] in own]):
            return None
        stack = min(found, key=lambda row: own[row["id"]].number)
        if self.rng.random() < 0.5:
            user.actor.set_stack_cover(stack["id"], self.ids[own[stack["id"]].number])
            return "chooses another cover of a stack"
        user.actor.unstack(stack["id"])
        return "takes a stack apart"

    # --- everything else --------------------------------------------------------------------------------

    def share_album(self, user: User) -> str | None:
        """An album of one's own photos, shared with another user."""
        photo, to = self.visible(user), self.rng.choice([u for u in self.users.values() if u is not user])
        if photo is None:
            return None
        self.put(user, to, self.ids[photo.number])
        return f"shows {photo.number} in an album to {to.name}"
