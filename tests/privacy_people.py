"""What users do with people and faces, and with copies of each other's photos: deeds of `tests.privacy_life`."""

from collections.abc import Callable
from uuid import UUID

from psycopg.rows import DictRow

from listener.standin.actor_rows import insert
from tests.privacy_life import Life, User, in_view
from tests.privacy_rules import Photo
from tests.privacy_words import same, word


class People(Life):
    """People, their names and thumbnails."""

    def name_person(self, user: User) -> str | None:
        return self._name(user, self.person(user))

    def name_mirror(self, user: User) -> str | None:
        """The target user's name for somebody else's person."""
        mirrors = self.mirrors(user)
        return self._name(user, self.rng.choice(mirrors) if mirrors else None)

    def _name(self, user: User, person: UUID | None) -> str | None:
        if person is None:
            return None
        self.names += 1
        self.known.names[self.names] = (user.name, same(person))
        user.actor.name_person(person, word("n", self.names))
        return f"names {person} n{self.names}"

    def hide_person(self, user: User) -> str | None:
        person = self.person(user)
        if person is not None:
            user.actor.hide_person(person, hidden=self.rng.random() < 0.5)
        return None if person is None else f"hides {person} or not"

    def delete_person(self, user: User) -> str | None:
        person = self.person(user)
        if person is not None:
            user.actor.delete_person(person)
            user.people.remove(person)
        return None if person is None else f"deletes {person}"

    def merge_people(self, user: User) -> str | None:
        """Two of one's own, or one's own with somebody else's, which a target user may do."""
        person, mirrors = self.person(user), self.mirrors(user)
        others = [other for other in (*user.people, *mirrors) if other != person]
        if person is None or not others:
            return None
        one, other = self.rng.sample([person, self.rng.choice(others)], 2)
        # What they are called by then is the merging user's from now on.
        for row in (user.actor.person(one), user.actor.person(other)):
            given = [n for n in self.known.names if row["name"] == word("n", n)]
            self.known.kept.setdefault(user.name, set()).update(given)
        user.actor.merge_people(one, other)
        self.known.merged[same(other)] = same(one)
        if other in user.people:
            user.people.remove(other)
            if one not in user.people:
                user.people.append(one)
        return f"merges {other} into {one}"

    def feature(self, user: User) -> str | None:
        """Choose the face that stands for a person: a crop of that photo."""
        photo = self.pick(user, lambda p: not p.hidden and not p.trashed)
        face = photo and self.face(user.actor, self.ids[photo.number], named=True)
        if photo is None or not face or face["person"] not in user.people:
            return None
        user.actor.set_feature_photo(face["person"], face["id"])
        return f"lets {photo.number} stand for {face['person']}"

    def reassign(self, user: User) -> str | None:
        photo, person = self.pick(user, in_view), self.person(user)
        face = photo and self.face(user.actor, self.ids[photo.number])
        if photo is None or not face or person is None:
            return None
        user.actor.reassign_face(face["id"], person)
        return f"gives a face on {photo.number} to {person}"

    def recognise_mirror(self, user: User) -> str | None:
        """Recognition gives a face of one's own photo to somebody else's person, as a name by hand may."""
        photo, mirrors = self.pick(user, in_view), self.mirrors(user)
        face = photo and self.face(user.actor, self.ids[photo.number])
        if photo is None or not face or not mirrors:
            return None
        person = self.rng.choice(mirrors)
        user.actor.reassign_face(face["id"], person)
        return f"gives a face on {photo.number} to the mirrored {person}"

    def change_face(self, user: User) -> str | None:
        photo, person = self.pick(user, in_view), self.person(user)
        face = photo and self.face(user.actor, self.ids[photo.number])
        if photo is None or not face:
            return None
        what = self.rng.choice(("unassigns", "deletes", "detects anew", "draws"))
        match what:
            case "unassigns":
                user.actor.unassign_face(face["id"])
            case "deletes":
                user.actor.delete_face(face["id"], soft=self.rng.random() < 0.7)
            case "detects anew":
                user.actor.detect_faces_again(self.ids[photo.number])
            case _ if person is not None:
                user.actor.draw_face(self.ids[photo.number], person)
            case _:
                return None
        return f"{what} a face on {photo.number}"

    def night(self, user: User) -> str | None:
        """Immich crops a thumbnail for each of a user's people who has none, out of any of that user's photos."""
        people = [row["person"] for row in user.actor.people() if not row["thumbnailPath"]]
        for person in people:
            user.actor._choose_feature_photo(person)
        return f"gets thumbnails of {len(people)} people" if people else None


class Copies(Life):
    """What a target user does with copies. They are quiet then: nobody takes them away at that moment."""

    def write_on_copy(self, user: User) -> str | None:
        found = self.copy(user)
        if found is None:
            return None
        self.remarks += 1
        self.known.remarks[self.remarks] = user.name
        text, asset = word("w", self.remarks), found[1]["id"]
        if self.rng.random() < 0.5:
            user.actor.describe(asset, text)
        else:
            user.actor.tag(f"mine/{text}", asset)
        return f"writes w{self.remarks} on the copy of {found[0].number}"

    def favourite_copy(self, user: User) -> str | None:
        return self._change(user, "makes a favourite", user.actor.favourite)

    def archive_copy(self, user: User) -> str | None:
        return self._change(user, "archives", user.actor.archive)

    def lock_copy(self, user: User) -> str | None:
        found = self.copy(user)
        if found is None:
            return None
        photo, row = found
        self._lock_copy(user, photo, row)
        return f"locks the copy of {photo.number}"

    def _lock_copy(self, user: User, photo: Photo, row: DictRow) -> None:
        asset = row["id"]
        self.known.hidden_copies.add((user.name, photo.number))
        stacks = user.actor.rows.where("stack", primaryAssetId=asset)
        self.known.covers |= {(same(stack["id"]), same(asset)) for stack in stacks}
        user.actor.lock(asset)
        self.open_albums(user)

    def unlock_copy(self, user: User) -> str | None:
        found = [(p, r) for p, r in self.copies(user) if r["visibility"] == "locked" and r["deletedAt"] is None]
        if not found:
            return None
        photo, row = self.rng.choice(found)
        user.actor.unlock(row["id"])
        self.known.hidden_copies.discard((user.name, photo.number))
        return f"unlocks the copy of {photo.number}"

    def trash_copy(self, user: User) -> str | None:
        return self._change(user, "trashes", user.actor.trash)

    def restore_copy(self, user: User) -> str | None:
        found = [(p, r) for p, r in self.copies(user) if r["status"] == "trashed"]
        if not found:
            return None
        photo, row = self.rng.choice(found)
        user.actor.restore(row["id"])
        return f"restores the copy of {photo.number}"

    def delete_copy(self, user: User) -> str | None:
        def delete(asset: UUID) -> None:
            user.actor.delete_for_good(asset)
            self.open_albums(user)

        return self._change(user, "deletes", delete)

    def stack_copies(self, user: User) -> str | None:
        """A stack of copies and one's own photos."""
        found, own = self.copy(user), self.pick(user, in_view)
        if found is None or own is None or found[1]["visibility"] == "locked":
            return None
        user.actor.stack(self.ids[own.number], found[1]["id"])
        return f"stacks the copy of {found[0].number} with {own.number}"

    def crop_copy(self, user: User) -> str | None:
        if self.release < (2, 5):
            return None
        x = self.rng.randrange(90)
        return self._change(user, "crops", lambda a: user.actor.crop(a, x=x))

    def face_of_copy(self, user: User) -> str | None:
        """A face of a copy stands for its person, or for one of the user's own."""
        found = self.copy(user)
        face = found and self.face(user.actor, found[1]["id"], named=True)
        if found is None or not face:
            return None
        own = self.person(user)
        if own is not None and self.rng.random() < 0.5:
            user.actor.reassign_face(face["id"], own)
            return f"gives a face on the copy of {found[0].number} to {own}"
        user.actor.set_feature_photo(face["person"], face["id"])
        return f"lets the copy of {found[0].number} stand for {face['person']}"

    def share_copies(self, user: User) -> str | None:
        """An album with a copy, shared with a third: the target user's own choice."""
        found, to = self.copy(user), self.rng.choice([u for u in self.users.values() if u is not user])
        if found is None or found[1]["visibility"] == "locked":
            return None
        self.put(user, to, found[1]["id"])
        return f"shows the copy of {found[0].number} in an album to {to.name}"

    def remember(self, user: User) -> str | None:
        """A memory and a shared link of a copy."""
        found = self.copy(user)
        if found is None:
            return None
        rows, asset = user.actor.rows, found[1]["id"]
        memory, link = user.actor.new_id(), user.actor.new_id()
        # Under all the names that any release has for these columns.
        both = {"assetId": asset, "assetsId": asset}
        rows.execute(insert("memory", {"id": memory}), insert("memory_asset", {"memoriesId": memory, **both}))
        names = {"sharedLinkId": link, "sharedLinksId": link}
        rows.execute(insert("shared_link", {"id": link}), insert("shared_link_asset", {**names, **both}))
        return f"has a memory and a link of {found[0].number}"

    def _change(self, user: User, what: str, do: Callable[[UUID], object]) -> str | None:
        found = self.copy(user)
        if found is None:
            return None
        do(found[1]["id"])
        return f"{what} the copy of {found[0].number}"
