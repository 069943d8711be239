"""Measures what each user can come to against the rules, and names what breaks them."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import psycopg

from tests.conftest import Roots
from tests.privacy_reach import OURS, Reached, Row, Seen, Tables, files_of
from tests.privacy_rules import Photo, Sight, World
from tests.privacy_words import KINDS, Word, number_in, word, words_in


@dataclass(frozen=True, slots=True, order=True)
class Leak:
    """What is where it may not be. ``rule`` is the same for all faults of a kind."""

    rule: str
    viewer: str
    what: str
    where: str

    def __str__(self) -> str:
        return f"[{self.rule}] {self.viewer} comes to {self.what}: {self.where}"


@dataclass(slots=True)
class Known:
    """What the users did beside their photos, by names of users; ids as the database's JSON has them.

    ``made``: people whom recognition made for a user. ``names``: who gave a name to which person, by the name's
    number; ``called``: everybody who was ever called so, of whichever user; ``kept``: names that a user made their own
    by merging. ``remarks``: who wrote them. ``put``: pairs of album and photo that a user made. ``job_albums``: those
    that a job fills. ``hidden_copies``: copies that their user locked, as pairs of user and photo's number.
    ``covers``: pairs of stack and locked photo that were so when the photo was locked.
    """

    users: dict[str, str] = field(default_factory=dict)
    photo_of: dict[str, int] = field(default_factory=dict)
    originals: dict[str, int] = field(default_factory=dict)
    asset_of_face: dict[str, str] = field(default_factory=dict)
    made: set[str] = field(default_factory=set)
    names: dict[int, tuple[str, str]] = field(default_factory=dict)
    called: dict[int, set[str]] = field(default_factory=dict)
    merged: dict[str, str] = field(default_factory=dict)
    kept: dict[str, set[int]] = field(default_factory=dict)
    remarks: dict[int, str] = field(default_factory=dict)
    put: set[tuple[str, str]] = field(default_factory=set)
    job_albums: set[str] = field(default_factory=set)
    hidden_copies: set[tuple[str, int]] = field(default_factory=set)
    covers: set[tuple[str, str]] = field(default_factory=set)

    def learn(self, connection: psycopg.Connection[Any]) -> None:
        """Note of each asset and face that there is which photo it shows."""
        for asset, name in connection.execute('SELECT id::text, "originalFileName" FROM asset').fetchall():
            number = number_in(name)
            if number is not None:
                self.photo_of.setdefault(asset, number)
        faces = connection.execute('SELECT id::text, "assetId"::text FROM asset_face').fetchall()
        self.asset_of_face |= dict(faces)

    def person(self, id_: str) -> str:
        """Return who a person is after all merges."""
        while id_ in self.merged:
            id_ = self.merged[id_]
        return id_


class Judge:
    """Looks at the database and the disk with each user's eyes."""

    def __init__(self, connection: psycopg.Connection[Any], roots: Roots, world: World, known: Known) -> None:
        self.world, self.known = world, known
        self._roots = roots
        self.tables = Tables(connection)
        self._connection = connection
        self.disk_fails = False
        self._person = self._column("asset_face", "person_group", "person")
        self._album_asset = self._column("album_asset", "asset")
        self._album = self._column("album_asset", "album")

    def _column(self, table: str, *parents: str) -> str:
        return next(key.columns[0] for key in self.tables.keys if key.table == table and key.parent in parents)

    def leaks(self) -> list[Leak]:
        """Return everything that breaks a rule at this moment."""
        self.known.learn(self._connection)
        self.tables.read()
        self._assets = {row["id"]: row for row in self.tables.rows["asset"]}
        self._owners = {id_: name for name, id_ in self.known.users.items()}
        self._crossing = {number: self._who_may_know(number) for number in self.known.names}
        # Who is marked as removed cannot log in; once they are back, what was said meanwhile holds for them too.
        present = [user for user in self.known.users if user not in self.world.removed_users]
        found = {leak for user in present for leak in self._leaks_to(user)}
        found |= set(self._notes()) | set(self._own_secrets())
        return sorted(found)

    # --- one user's eyes --------------------------------------------------------------------------------

    def _leaks_to(self, viewer: str) -> Iterator[Leak]:
        rows = self.tables.reached_by(self.known.users[viewer])
        for reached in rows:
            if self._is_immichs_own(viewer, reached):
                continue
            if self._is_anothers_copy(viewer, reached):
                # Whether it may be there is judged with its owner's eyes; whether it may be in that album, here.
                yield from self._in_album(viewer, reached)
                continue
            for found in words_in(json.dumps(reached.row)):
                yield from self._in_row(viewer, reached, found)
        for seen in files_of(self.known.users[viewer], viewer, self._roots, rows):
            for found in {*words_in(seen.name), *words_in(seen.content)}:
                yield from self._in_file(viewer, seen, found)

    def _in_row(self, viewer: str, reached: Reached, found: Word) -> Iterator[Leak]:
        where = reached.path
        if found.kind == "n":
            if not self._knows_name(viewer, reached, found.number):
                yield Leak(f"name in {reached.table}", viewer, f"the name n{found.number}", where)
        elif found.kind == "w":
            if self.known.remarks[found.number] != viewer:
                yield Leak(f"remark in {reached.table}", viewer, f"remark w{found.number}", where)
        elif (photo := self._photo(found)) is not None:
            sight = self.world.sight(viewer, photo)
            what = f"{KINDS[found.kind]} of photo {photo.number}"
            if sight == Sight.NOTHING and not self._put_by_users(reached):
                yield Leak(f"row of {reached.table}", viewer, what, where)
            elif sight == Sight.PARKED and reached.table == "asset" and not _is_parked(reached.row):
                yield Leak("asset in view", viewer, what, where)

    def _in_file(self, viewer: str, seen: Seen, found: Word) -> Iterator[Leak]:
        where = f"{seen.path} {seen.named_by}".strip()
        if found.kind in "nw":
            author = self.known.names[found.number][0] if found.kind == "n" else self.known.remarks[found.number]
            if author != viewer:
                yield Leak("words in a file", viewer, f"{found.kind}{found.number}", where)
            return
        photo = self._photo(found)
        if photo is None:
            return
        sight = self.world.sight(viewer, photo)
        what = f"{KINDS[found.kind]} of photo {photo.number}"
        kind = "original" if seen.original else "file"
        if found.kind == "f":
            kind = f"crop for {'an own' if seen.path.stem in self.known.made else 'a mirrored'} person"
        if sight == Sight.NOTHING:
            yield Leak(kind, viewer, what, where)
        elif sight == Sight.PARKED and seen.original:
            yield Leak("original in reach", viewer, what, where)

    def _photo(self, found: Word) -> Photo | None:
        """Return the photo that a word is about; None for ids of anything else."""
        number: int | None = found.number
        if found.kind == "f":
            number = self.known.photo_of.get(self.known.asset_of_face.get(found.id, ""))
        elif found.kind == "i":
            number = self.known.originals.get(found.id)
        return None if number is None else self.world.photos[number]

    # --- what users give each other within Immich -------------------------------------------------------

    def _is_immichs_own(self, viewer: str, reached: Reached) -> bool:
        """Tell whether an owner shows this photo of their own by an album of Immich's: no copy has a part in it."""
        row = reached.row
        return (
            reached.table == "asset"
            and row["ownerId"] != self.known.users[viewer]
            and row["id"] in self.known.originals
            and reached.via is not None
            and self._put_by_users(reached.via, row["id"])
        )

    def _put_by_users(self, reached: Reached, asset: str | None = None) -> bool:
        """Tell whether a row is there because a user put a photo into an album."""
        row = reached.row
        if reached.table == "album":
            asset = asset or row["albumThumbnailAssetId"]
            return (row["id"], asset) in self.known.put
        album, asset = row.get(self._album) or row.get("albumId"), asset or row.get(self._album_asset)
        return (album, asset or row.get("assetId")) in self.known.put

    def _is_anothers_copy(self, viewer: str, reached: Reached) -> bool:
        row = reached.row
        return (
            reached.table == "asset"
            and row["ownerId"] != self.known.users[viewer]
            and row["id"] not in self.known.originals
            and reached.via is not None
            and reached.via.table in {"album", "album_asset"}
        )

    def _in_album(self, viewer: str, reached: Reached) -> Iterator[Leak]:
        """Another user's copy is shown by an album that they share: they put it there, or a job of theirs fills it."""
        assert reached.via is not None
        album = reached.via.row["id" if reached.via.table == "album" else self._album]
        if album not in self.known.job_albums and (album, reached.row["id"]) not in self.known.put:
            yield Leak("copy in an album by nobody", viewer, reached.row["originalFileName"], reached.path)

    def _own_secrets(self) -> Iterator[Leak]:
        """What a user locked of their own copies is in no album, no cover of one, and was made no stack's cover."""
        rows = self.tables.rows
        pairs = {(row[self._album], row[self._album_asset]) for row in rows["album_asset"]}
        for album, asset in pairs:
            if self._is_hidden(asset):
                yield Leak("locked copy in an album", self._owner(asset), f"photo {self._number(asset)}", album)
        for row in rows["album"]:
            cover = row["albumThumbnailAssetId"]
            # One that is parked is no leak: as for photos in the trash, Immich looks for another before it answers.
            if cover is not None and (row["id"], cover) not in pairs:
                what = f"photo {self._number(cover)}"
                yield Leak("cover that is not in its album", self._owner(cover), what, row["id"])
        for row in rows["stack"]:
            cover = row["primaryAssetId"]
            if self._is_hidden(cover) and (row["id"], cover) not in self.known.covers:
                yield Leak("locked copy as a stack's cover", self._owner(cover), f"asset {cover}", row["id"])

    def _is_hidden(self, asset: str) -> bool:
        if asset in self.known.originals:
            return False
        return (self._owner(asset), self._number(asset)) in self.known.hidden_copies

    def _owner(self, asset: str) -> str:
        return self._owners[self._assets[asset]["ownerId"]]

    def _number(self, asset: str) -> int:
        return self.known.photo_of.get(asset, -1)

    # --- names ------------------------------------------------------------------------------------------

    def _who_may_know(self, number: int) -> set[str]:
        """A name crosses with its person, from whoever has it on a photo of their own to those who may see that."""
        author, person = self.known.names[number]
        person = self.known.person(person)
        called = self.known.called.setdefault(number, set())
        called |= {self._person_id(row) for row in self.tables.rows["person"] if word("n", number) in row["name"]}
        may = {author}
        for face in self.tables.rows["asset_face"]:
            photo = self._shown_on(face)
            if photo is None:
                continue
            theirs = str(face[self._person])
            if theirs in called or (photo.owner == author and self.known.person(theirs) == person):
                may |= {user for user in self.known.users if self.world.sight(user, photo) > Sight.NOTHING}
        return may

    @staticmethod
    def _person_id(row: Row) -> str:
        return str(row.get("personGroupId") or row["id"])

    def _shown_on(self, face: Row) -> Photo | None:
        number = self.known.originals.get(face["assetId"])
        return None if number is None or face["deletedAt"] is not None else self.world.photos[number]

    def _knows_name(self, viewer: str, reached: Reached, number: int) -> bool:
        if viewer in self._crossing[number] or number in self.known.kept.get(viewer, ()):
            return True
        if reached.table != "person":
            return False
        # A person whom the viewer has put on photos of their own is theirs, as they are called; and one who waits with
        # a parked copy hangs on that.
        person = self._person_id(reached.row)
        on = {face["assetId"] for face in self.tables.rows["asset_face"] if face[self._person] == person}
        return any(self._is_own_or_parked(viewer, asset) for asset in on)

    def _is_own_or_parked(self, viewer: str, asset: str) -> bool:
        photo = self.world.photos[self.known.photo_of[asset]]
        if self._owner(asset) != viewer:
            return False
        sight = self.world.sight(viewer, photo)
        # While a disk is away nothing is mended: who was on a photo that may be shown is still called so.
        return photo.owner == viewer or sight == Sight.PARKED or (self.disk_fails and sight == Sight.SHOWN)

    # --- our own tables ---------------------------------------------------------------------------------

    def _notes(self) -> Iterator[Leak]:
        """Nobody reads our notes through Immich; but what was locked is in none of them."""
        for table, rows in self.tables.ours.items():
            if table == f"{OURS}intent" and self.disk_fails:
                # What is to be removed is noted until it can be.
                continue
            for row in rows:
                whom = row.get("target_user_id") or self._assets.get(str(row.get("target_asset_id")), {}).get("ownerId")
                viewers = [self._owners[whom]] if whom in self._owners else [*self.known.users]
                for found in words_in(json.dumps(row)):
                    photo = self._photo(found) if found.kind in "pdtog" else None
                    if photo is None:
                        continue
                    targets = [viewer for viewer in viewers if viewer != photo.owner]
                    if targets and all(self.world.sight(viewer, photo) == Sight.NOTHING for viewer in targets):
                        kind = "file name" if found.kind == "p" else KINDS[found.kind]
                        yield Leak(f"note of a {kind} in {table}", targets[0], f"photo {photo.number}", json.dumps(row))


def _is_parked(row: Row) -> bool:
    return bool(row["isOffline"] and row["deletedAt"] and row["visibility"] == "hidden" and row["status"] == "active")
