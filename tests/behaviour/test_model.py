"""Random lives of two neighbours who share both ways, with a listener that comes and goes.

A hypothesis state machine acts as both users through Immich's writes and remembers what each did with their own
things. After each quiet moment the judge must find nothing, and everything of a user's own must be as they left
it: their photos and original files, and their favourites, archive, albums, tags and faces on copies.
"""

import hashlib
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from listener.standin.actor import Actor
from tests.behaviour.conftest import Home, make_home
from tests.conftest import ImmichDatabase, Roots

Act = tuple[str, tuple[str, str], int]
ACTS = (
    *(("upload", "") for _ in range(4)),
    *(("change", how) for how in ("describe", "rate", "tag", "untag", "favourite", "refresh")),
    *(("edit", how) for how in ("crop", "rotate", "undo")),
    *(("move", how) for how in ("trash", "restore", "delete", "lock", "unlock")),
    ("stack", ""),
    ("unstack", ""),
    *(("person", how) for how in ("name", "hide", "merge", "delete")),
    *(("face", how) for how in ("delete", "unassign", "detect", "draw")),
    *(("copy", how) for how in ("favourite", "archive", "album", "tag", "draw", "trash", "restore", "delete")),
)
RELEASES = ("2.0.0", "2.4.1", "2.7.5", "3.0.3", "3.3.0")
STEPS = 12
HOUR = st.lists(
    st.tuples(st.sampled_from(("alice", "bob")), st.sampled_from(ACTS), st.integers(0, 2**16)), min_size=10, max_size=25
)


# What is parked nobody clicks on.
IN_SIGHT = "NOT (copy.visibility = 'hidden' AND copy.\"deletedAt\" IS NOT NULL)"


def _is_parked(row: Mapping[str, Any]) -> bool:
    return row["visibility"] == "hidden" and row["deletedAt"] is not None


@dataclass
class Own:
    """What one user did with their own things, and with copies, by the id of the copy's source."""

    actor: Actor
    photos: list[UUID] = field(default_factory=list)
    trashed: set[UUID] = field(default_factory=set)
    locked: set[UUID] = field(default_factory=set)
    people: list[UUID] = field(default_factory=list)
    album: UUID | None = None
    favourite: dict[UUID, bool] = field(default_factory=dict)
    archived: dict[UUID, bool] = field(default_factory=dict)
    in_album: set[UUID] = field(default_factory=set)
    tagged: set[UUID] = field(default_factory=set)
    drawn: dict[UUID, set[UUID]] = field(default_factory=dict)
    trashed_copies: set[UUID] = field(default_factory=set)
    deleted_copies: set[UUID] = field(default_factory=set)
    # Uploads that somebody else clicks on.
    others: set[UUID] = field(default_factory=set)

    @property
    def visible(self) -> list[UUID]:
        """Their photos that are neither in the trash nor locked."""
        return [photo for photo in self.photos if photo not in self.trashed and photo not in self.locked]

    def forget(self, source: UUID) -> None:
        """The source of a copy is gone for good, and what was done with the copy with it."""
        for facts in (self.favourite, self.archived, self.drawn):
            facts.pop(source, None)
        for known in (self.in_album, self.tagged, self.trashed_copies, self.deleted_copies):
            known.discard(source)


class Neighbours(RuleBasedStateMachine):
    """The users' clicks as rules. A rule that finds nothing to act on does nothing."""

    begin: ClassVar[Callable[[str], tuple[Home, ExitStack]]]
    actions: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        self.number = 0
        self.closing = ExitStack()

    @initialize(release=st.sampled_from(RELEASES))
    def move_in(self, release: str) -> None:
        self.home, self.closing = type(self).begin(release)
        self.own = {"alice": Own(self.home.alice), "bob": Own(self.home.bob)}
        for pick in range(4):
            for who in self.own:
                self.upload(who, pick, "")
        self.home.start()

    def teardown(self) -> None:
        try:
            if hasattr(self, "home"):
                self.quiet()
        finally:
            self.closing.close()

    # --- one's own photos -------------------------------------------------------------------------------

    def upload(self, who: str, pick: int, _: str) -> bool:
        own = self.own[who]
        known = [own.people[pick % len(own.people)]] if own.people and pick % 3 else ["new"]
        faces = pick % 3
        people: list[Any] = known if faces else []
        self.number += 1
        photo = own.actor.upload(f"{who}-{self.number}.jpg", faces=faces, people=people, text=f"text {self.number}")
        own.photos.append(photo)
        # The listener makes and drops mirrors meanwhile: who is one before or after is none of theirs.
        before, people = self.mirrors(who), [row[self.person_id] for row in own.actor.people()]
        mirrors = before | self.mirrors(who)
        own.people = [person for person in people if person not in mirrors]
        return True

    def change(self, who: str, pick: int, change: str) -> bool:
        own = self.own[who]
        if not own.visible:
            return False
        photo = own.visible[pick % len(own.visible)]
        match change:
            case "describe":
                own.actor.describe(photo, f"description {pick}")
            case "rate":
                own.actor.rate(photo, pick % 5 + 1)
            case "tag":
                own.actor.tag(f"trip/{pick % 3}", photo)
            case "untag":
                for value in own.actor.tags_of(photo):
                    own.actor.untag(value, photo)
            case "favourite":
                own.actor.favourite(photo, favourite=bool(pick % 2))
            case _:
                own.actor.refresh_thumbnails(photo)
        return True

    def edit(self, who: str, pick: int, change: str) -> bool:
        own = self.own[who]
        if not own.visible or self.home.release < (2, 5):
            return False
        photo = own.visible[pick % len(own.visible)]
        # Another picture than it is now: of the same one Immich writes the same files.
        edits = own.actor.rows.where("asset_edit", assetId=photo)
        edit: dict[str, Any] = edits[0]["parameters"] if edits else {}
        match change:
            case "crop":
                own.actor.crop(photo, x=(int(edit.get("x", 0)) + 7) % 91)
            case "rotate":
                own.actor.rotate(photo, int(edit.get("angle", 0)) % 270 + 90)
            case _:
                own.actor.undo_edits(photo)
        return True

    def move(self, who: str, pick: int, to: str) -> bool:
        own = self.own[who]
        pool = {"restore": sorted(own.trashed), "unlock": sorted(own.locked)}.get(to, own.visible)
        if not pool:
            return False
        photo = pool[pick % len(pool)]
        match to:
            case "trash":
                own.actor.trash(photo)
                own.trashed.add(photo)
            case "restore":
                own.actor.restore(photo)
                own.trashed.discard(photo)
            case "delete":
                own.actor.delete_for_good(photo)
                own.photos.remove(photo)
                self.other(who).forget(photo)
            case "lock":
                own.actor.lock(photo)
                own.locked.add(photo)
            case _:
                own.actor.unlock(photo)
                own.locked.discard(photo)
        return True

    def stack(self, who: str, pick: int, _: str) -> bool:
        own = self.own[who]
        loose = [photo for photo in own.visible if own.actor.asset(photo)["stackId"] is None]
        if len(loose) > 1:
            own.actor.stack(loose[pick % len(loose)], loose[(pick + 1) % len(loose)])
        return len(loose) > 1

    def unstack(self, who: str, pick: int, _: str) -> bool:
        own = self.own[who]
        stacks = sorted({own.actor.asset(photo)["stackId"] for photo in own.visible} - {None})
        if stacks:
            own.actor.unstack(stacks[pick % len(stacks)])
        return bool(stacks)

    # --- people -----------------------------------------------------------------------------------------

    def person(self, who: str, pick: int, change: str) -> bool:
        own = self.own[who]
        if not own.people:
            return False
        person = own.people[pick % len(own.people)]
        match change:
            case "name":
                own.actor.name_person(person, f"name {pick}")
            case "hide":
                own.actor.hide_person(person, hidden=bool(pick % 2))
            case "merge" if len(own.people) > 1:
                gone = own.people[(pick + 1) % len(own.people)]
                own.actor.merge_people(person, gone)
                own.people.remove(gone)
            case "delete":
                own.actor.delete_person(person)
                own.people.remove(person)
        return True

    def face(self, who: str, pick: int, change: str) -> bool:
        own = self.own[who]
        if not own.visible:
            return False
        photo = own.visible[pick % len(own.visible)]
        faces = [face for face in own.actor.faces_of(photo) if face["deletedAt"] is None]
        if change == "detect":
            own.actor.detect_faces_again(photo)
        elif change == "draw" and own.people:
            own.actor.draw_face(photo, own.people[pick % len(own.people)])
        elif faces:
            face = faces[pick % len(faces)]["id"]
            if change == "delete":
                own.actor.delete_face(face)
            else:
                own.actor.unassign_face(face)
        return True

    # --- copies of the other's photos -------------------------------------------------------------------

    def copy(self, who: str, pick: int, change: str) -> bool:
        own = self.own[who]
        copies = self.copies(who)
        pool = sorted(source for source in copies if (source in own.trashed_copies) == (change == "restore"))
        if not pool:
            return False
        source = pool[pick % len(pool)]
        with psycopg.connect(self.home.immich.conninfo) as holder:
            # The listener may be about to remove it, since the other has just taken the photo away: one who clicks
            # then is told by Immich that it is gone. Who was faster is settled before anything is noted. All of theirs
            # are held: an album's cover may be any of them.
            mine = f'SELECT id FROM asset AS copy WHERE "ownerId" = %s AND {IN_SIGHT} ORDER BY id FOR KEY SHARE'  # noqa: S608
            held = (copies[source],) in holder.execute(mine, [own.actor.user_id]).fetchall()
            if held:
                self.change_copy(own, source, copies[source], pick, change)
        if held and change == "delete":
            own.actor.end_deletion(copies[source])
        return held

    def change_copy(self, own: Own, source: UUID, copy: UUID, pick: int, change: str) -> None:
        actor = own.actor
        match change:
            case "favourite":
                own.favourite[source] = bool(pick % 2)
                actor.favourite(copy, favourite=own.favourite[source])
            case "archive":
                own.archived[source] = bool(pick % 2)
                (actor.archive if own.archived[source] else actor.unarchive)(copy)
            case "album":
                own.album = own.album or actor.album_create("mine")
                if source not in own.in_album:
                    actor.album_add(own.album, copy)
                    own.in_album.add(source)
            case "tag":
                actor.tag("mine", copy)
                own.tagged.add(source)
            case "draw" if own.people:
                face = actor.draw_face(copy, own.people[pick % len(own.people)])
                own.drawn.setdefault(source, set()).add(face)
            case "trash":
                actor.trash(copy)
                own.trashed_copies.add(source)
            case "restore":
                actor.restore(copy)
                own.trashed_copies.discard(source)
            case "delete":
                actor.begin_deletion(copy)
                own.forget(source)
                own.deleted_copies.add(source)

    # --- the listener -----------------------------------------------------------------------------------

    @rule(acts=HOUR)
    def hour(self, acts: list[Act]) -> None:
        """Some clicks in a row, while the listener follows."""
        for who, (what, how), pick in acts:
            self.check_people(self.own[who])
            if getattr(self, what)(who, pick, how):
                type(self).actions += 1

    @rule(acts=HOUR)
    def hour_without_listener(self, acts: list[Act]) -> None:
        with self.home.stopped():
            self.hour(acts)

    @rule()
    def quiet(self) -> None:
        """All is as it should be, and what is somebody's own is as they left it."""
        self.home.settled()
        for who, own in self.own.items():
            self.check_own_photos(own)
            self.check_copies(who, own)

    def check_people(self, own: Own) -> None:
        """Nobody but its user takes a person of theirs away; Immich 2.0 drops those whom a detection left faceless."""
        there = {row[self.person_id] for row in own.actor.people()}
        lost = [person for person in own.people if person not in there]
        assert not lost or self.home.release < (2, 1), f"people of a user's own were lost: {lost}"
        own.people = [person for person in own.people if person in there]

    def check_own_photos(self, own: Own) -> None:
        rows = own.actor.rows.where("asset", ownerId=own.actor.user_id)
        theirs = {row["id"]: row for row in rows if row["libraryId"] is None and row["id"] not in own.others}
        lost, made = set(own.photos) - set(theirs), set(theirs) - set(own.photos)
        assert not lost, f"photos of a user's own were lost: {lost}"
        assert not made, f"photos were made in a user's own library: {made}"
        for photo, row in theirs.items():
            path = Path(row["originalPath"])
            assert path.is_file(), f"the original {path} is gone"
            assert not path.is_symlink()
            content = hashlib.sha1(path.read_bytes(), usedforsecurity=False).digest()
            assert content == bytes(row["checksum"]), f"the original of {photo} was changed"

    def check_copies(self, who: str, own: Own) -> None:
        copies = self.copies(who)
        assert not own.deleted_copies & set(copies), "a copy that its user deleted came back"
        for source, copy in copies.items():
            row = own.actor.asset(copy)
            assert row["isFavorite"] == own.favourite.get(source, False), "a favourite was changed"
            archived = own.archived.get(source, False)
            assert row["visibility"] == ("archive" if archived else "timeline"), "the archive was changed"
            assert (row["status"] == "trashed") == (source in own.trashed_copies), "the trash was changed"
        kept = {copies[source] for source in own.in_album if source in copies}
        if own.album is not None:
            parked = {row["id"] for row in own.actor.rows.where("asset", ownerId=own.actor.user_id) if _is_parked(row)}
            assert own.actor.album_assets(own.album) - parked == kept, "an album was changed"

    # --- looking ----------------------------------------------------------------------------------------

    @property
    def person_id(self) -> str:
        return "personGroupId" if self.home.alice.has_groups else "id"

    def mirrors(self, who: str) -> set[UUID]:
        rows = self.home.house.query(
            "SELECT target_person_id FROM _face_sync_person_map WHERE target_user_id = %s", self.own[who].actor.user_id
        )
        return {UUID(str(row[0])) for row in rows}

    def copies(self, who: str) -> dict[UUID, UUID]:
        """Return this user's copies as they are now, but for those that are parked, by their sources."""
        rows = self.home.house.query(
            "SELECT map.source_asset_id, copy.id FROM _face_sync_asset_map AS map JOIN asset AS copy"  # noqa: S608
            f" ON copy.id = map.target_asset_id WHERE map.target_user_id = %s AND {IN_SIGHT}",
            self.own[who].actor.user_id,
        )
        return {UUID(str(source)): UUID(str(copy)) for source, copy in rows}

    def other(self, who: str) -> Own:
        return self.own["bob" if who == "alice" else "alice"]


def live(
    examples: int,
    at_least: int,
    new_immich: Callable[[str], ImmichDatabase],
    tmp_path_factory: pytest.TempPathFactory,
    *,
    derandomize: bool,
) -> None:
    """Run so many random lives, and make sure that there was enough of them."""

    def begin(release: str) -> tuple[Home, ExitStack]:
        folder = tmp_path_factory.mktemp("life")
        roots = Roots(media=folder / "data", external=folder / "external_library")
        roots.media.mkdir()
        roots.external.mkdir()
        stack = ExitStack()
        return make_home(new_immich(release), roots, folder, stack, both_ways=True), stack

    class Lives(Neighbours):
        actions = 0

    Lives.begin = staticmethod(begin)
    run_state_machine_as_test(
        Lives,
        settings=settings(
            max_examples=examples,
            stateful_step_count=STEPS,
            deadline=None,
            derandomize=derandomize,
            # What fails depends on time too: a failing life is reported with its seed, not made smaller.
            phases=[Phase.explicit, Phase.reuse, Phase.generate],
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )
    assert Lives.actions >= at_least


@pytest.mark.timeout(900)
def test_random_lives(new_immich: Callable[[str], ImmichDatabase], tmp_path_factory: pytest.TempPathFactory) -> None:
    live(20, 1000, new_immich, tmp_path_factory, derandomize=True)


@pytest.mark.soak
@pytest.mark.timeout(14400)
def test_very_many_random_lives(
    new_immich: Callable[[str], ImmichDatabase], tmp_path_factory: pytest.TempPathFactory
) -> None:
    live(400, 20000, new_immich, tmp_path_factory, derandomize=False)
