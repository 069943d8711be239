"""Three users who live with each other by chance, and what they did, in the words of the rules.

alice shares a folder of her library and her uploads with bob, and a part of that folder with carol; bob shares his
uploads with alice. Everything that may be private carries its word (`tests.privacy_words`). Each method named in
`DEEDS` is one click, or what Immich does by itself; it returns what was done, or None where there was nothing to do.
"""

import random
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from uuid import UUID

import psycopg
from psycopg.rows import DictRow

from listener.settings import Job
from listener.standin.actor import Actor
from listener.standin.actor_rows import update
from tests.behaviour.conftest import Home, make_home
from tests.conftest import ImmichDatabase, Roots
from tests.house import add_library, add_user
from tests.privacy_judge import Judge, Known
from tests.privacy_rules import Photo, Share, World
from tests.privacy_words import same

IDS = {name: UUID(int=random.Random(name).getrandbits(128), version=4) for name in ("alice", "bob", "carol")}
# What may go wrong for a click on what is just being taken away: Immich says so, and nothing was done.
REFUSED = (LookupError, OSError, psycopg.IntegrityError)


@dataclass
class User:
    """One of them; ``photos`` by their numbers in `World`, ``ids`` the asset of each."""

    name: str
    actor: Actor
    library: UUID | None = None
    folder: Path | None = None
    people: list[UUID] = field(default_factory=list)
    album: UUID | None = None


class Life:
    """The users, what they did, and the judge who looks on."""

    def __init__(self, immich: ImmichDatabase, roots: Roots, folder: Path, closing: ExitStack, seed: int) -> None:
        self.roots, self.rng = roots, random.Random(seed)
        self.home: Home = make_home(immich, roots, folder, closing, both_ways=True, ids=IDS)
        self.release = self.home.release
        carol = add_user(immich.conninfo, immich.release, "carol", IDS["carol"])
        actor = Actor(immich.conninfo, immich.release, carol, roots.media, roots.external, seed=2)
        actors = {"alice": self.home.alice, "bob": self.home.bob, "carol": closing.enter_context(actor)}
        self.users = {name: User(name, actor) for name, actor in actors.items()}
        self.world, self.known = World(), Known()
        self.known.users = {name: same(user.actor.user_id) for name, user in self.users.items()}
        self.ids: dict[int, UUID] = {}
        self.away: dict[int, Path] = {}
        self.names = self.remarks = 0
        self._add_carol(immich)
        self.judge = Judge(self.home.look, roots, self.world, self.known)
        alice = self.users["alice"]
        alice.folder = roots.external / "alice"
        (alice.folder / "photos").mkdir(parents=True)
        alice.library = alice.actor.add_library(alice.folder)
        if self.users["bob"].actor.has_groups and self.rng.random() < 0.5:
            self.users["bob"].actor.join_cluster_group(alice.actor.user_id)
        self.share()

    def _add_carol(self, immich: ImmichDatabase) -> None:
        shared, carol = self.roots.external / "shared", self.users["carol"].actor.user_id
        library = add_library(immich.conninfo, carol, str(shared / "carol_"))
        family = str(self.home.photos / "family")
        job = Job("family", "external", self.home.alice.user_id, carol, library, family, str(shared / "carol_family"))
        self.home.house = replace(self.home.house, jobs=(*self.home.house.jobs, job))

    def share(self) -> None:
        """Tell the rules what the settings are now."""
        by_id = {user.actor.user_id: user.name for user in self.users.values()}
        shares = tuple(
            Share(
                job.kind,
                by_id[job.source_user_id],
                by_id[job.target_user_id],
                job.source_path_prefix,
                removes=job.remove_copies,
            )
            for job in self.home.house.jobs
        )
        self.world.change_shares(shares, self.users)

    # --- choosing ---------------------------------------------------------------------------------------

    def photos(self, user: User, wanted: Callable[[Photo], bool] = lambda _: True) -> list[Photo]:
        found = [p for p in self.world.photos.values() if p.owner == user.name and not p.deleted and wanted(p)]
        return [p for p in found if not (p.in_library and user.name in self.world.removed_libraries)]

    def pick(self, user: User, wanted: Callable[[Photo], bool] = lambda _: True) -> Photo | None:
        """Choose one of a user's photos that they see, or that is as wanted."""
        found = self.photos(user, wanted)
        return self.rng.choice(found) if found else None

    def visible(self, user: User) -> Photo | None:
        return self.pick(user, in_view)

    def copies(self, user: User) -> list[tuple[Photo, DictRow]]:
        """Return the copies that a user has, those of parked ones not among them."""
        rows = {row["originalFileName"]: row for row in user.actor.rows.where("asset", ownerId=user.actor.user_id)}
        found = [(photo, rows[photo.name]) for photo in self.world.photos.values() if photo.name in rows]
        return [
            (photo, row)
            for photo, row in found
            if photo.owner != user.name and not row["isOffline"] and row["status"] != "deleted"
        ]

    def copy(self, user: User) -> tuple[Photo, DictRow] | None:
        found = [(p, row) for p, row in self.copies(user) if row["deletedAt"] is None and row["visibility"] != "hidden"]
        return self.rng.choice(found) if found else None

    def mirrors(self, user: User) -> list[UUID]:
        """Return the people of a user whom they did not make themselves."""
        return [row["person"] for row in user.actor.people() if row["person"] not in user.people]

    def person(self, user: User) -> UUID | None:
        there = {row["person"] for row in user.actor.people()}
        user.people = [person for person in user.people if person in there]
        return self.rng.choice(user.people) if user.people else None

    def face(self, actor: Actor, asset: UUID, *, named: bool = False) -> DictRow | None:
        faces = [f for f in actor.faces_of(asset) if f["deletedAt"] is None and (f["person"] or not named)]
        return self.rng.choice(faces) if faces else None

    # --- albums -----------------------------------------------------------------------------------------

    def put(self, user: User, to: User, asset: UUID) -> None:
        if user.album is None:
            user.album = user.actor.album_create(f"{user.name}'s")
        members = user.actor.rows.where("album_user", **{user.actor.rows.names["album_id"]: user.album})
        if to.actor.user_id not in {row[user.actor.rows.names["album_member"]] for row in members}:
            user.actor.album_share(user.album, to.actor.user_id)
        self.known.put.add((same(user.album), same(asset)))
        user.actor.album_add(user.album, asset)

    def open_albums(self, user: User) -> None:
        """Whoever looks at their albums lets Immich give a cover to each whose own is no longer in it."""
        for album in {UUID(album) for album, _ in self.known.put} | {UUID(album) for album in self.known.job_albums}:
            row, assets = user.actor.rows.the("album", id=album), user.actor.album_assets(album)
            cover = row["albumThumbnailAssetId"]
            if cover is not None and cover not in assets:
                seen = [a for a in sorted(assets) if user.actor.asset(a)["deletedAt"] is None]
                new = seen[0] if seen else None
                user.actor.rows.execute(update("album", {"id": album, "albumThumbnailAssetId": new}))


def in_view(photo: Photo) -> bool:
    return not (photo.locked or photo.hidden or photo.trashed or photo.offline)
