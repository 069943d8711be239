"""What a phone may have passed is told once more, and nothing else is: deletions of ours, and rows of a slow commit."""

import asyncio
from collections.abc import Callable
from uuid import UUID

import pytest

from listener.database import connect
from listener.immich import catalog
from listener.standin.actor_rows import delete
from listener.sync.phones import STAMPED_AHEAD, Phones
from tests.behaviour.conftest import Home

pytestmark = pytest.mark.variant
Step = Callable[[], None] | str


@pytest.fixture
def quiet(new_home: Callable[..., Home]) -> Home:
    """Return a home whose listener does not run: each test deletes by itself, as the listener does."""
    return new_home()


def in_one_transaction(home: Home, *steps: Step, ahead: float = STAMPED_AHEAD) -> None:
    """Run what is SQL in a transaction of the listener, and what is not meanwhile, as Immich."""

    async def run() -> None:
        async with await connect(home.immich.conninfo) as connection:
            phones = Phones.compose(await catalog.read(connection))
            async with phones.writing(connection, home.house.jobs[0], deletes=True, ahead=ahead):
                for step in steps:
                    if isinstance(step, str):
                        await connection.execute(step.encode())
                    else:
                        step()

    asyncio.run(run())


def key(home: Home) -> str:
    """Return the column by which a face names a person, and the table of deletions, too."""
    return str(home.bob.rows.names["face_person"])


def gone(home: Home, *people: UUID) -> str:
    """Return the statement that deletes bob's people."""
    column = "id" if key(home) == "personId" else key(home)
    ids = ", ".join(f"'{person}'" for person in people)
    return f'DELETE FROM person WHERE "ownerId" = \'{home.bob.user_id}\' AND "{column}" IN ({ids})'  # noqa: S608 - ours


def told(home: Home, person: UUID) -> list[UUID]:
    """Return the deletions of a person of bob's that his phone is told of."""
    text = f'SELECT id FROM person_audit WHERE "{key(home)}" = %s AND "ownerId" = %s ORDER BY id'  # noqa: S608 - ours
    return [row[0] for row in home.look.execute(text.encode(), [person, home.bob.user_id])]


def test_one_that_another_of_the_same_user_came_after_is_told_once_more(quiet: Home) -> None:
    ours, his = (quiet.bob.create_person(name) for name in ("ours", "his"))
    in_one_transaction(quiet, gone(quiet, ours), lambda: quiet.bob.delete_person(his))
    (between,) = told(quiet, his)
    first, again = told(quiet, ours)
    assert first < between < again


def test_none_is_told_again_where_only_ours_came_after(quiet: Home) -> None:
    one, other = (quiet.bob.create_person(name) for name in ("one", "other"))
    in_one_transaction(quiet, gone(quiet, one), gone(quiet, other))
    assert [len(told(quiet, person)) for person in (one, other)] == [1, 1]


def test_none_is_told_again_for_what_went_before_or_was_of_another_user(quiet: Home) -> None:
    ours, before = (quiet.bob.create_person(name) for name in ("ours", "before"))
    of_alice = quiet.alice.create_person("of alice")
    in_one_transaction(
        quiet,
        lambda: quiet.bob.delete_person(before),
        gone(quiet, ours),
        lambda: quiet.alice.delete_person(of_alice),
    )
    assert len(told(quiet, ours)) == 1


def test_one_who_has_come_back_is_not_told_again(quiet: Home) -> None:
    """Else a phone would take away whom it has just been given."""
    back, away, his = (quiet.bob.create_person(name) for name in ("back", "away", "his"))
    kept = "CREATE TEMPORARY TABLE kept ON COMMIT DROP AS SELECT * FROM person WHERE name = 'back'"
    in_one_transaction(
        quiet,
        kept,
        gone(quiet, back, away),
        lambda: quiet.bob.delete_person(his),
        "INSERT INTO person SELECT * FROM kept",
    )
    assert [len(told(quiet, person)) for person in (back, away)] == [1, 2]


@pytest.mark.releases(since="3.2.0")
def test_a_person_whom_the_other_user_still_has_is_gone_all_the_same(quiet: Home) -> None:
    """In one cluster group both have a view of their own of one group."""
    alice, bob = quiet.alice, quiet.bob
    bob.join_cluster_group(alice.user_id)
    shared, his = alice.create_person("shared"), bob.create_person("his")
    (face,) = bob.faces_of(bob.upload("bob.jpg", faces=1))
    bob.recognise(face["id"], shared)
    in_one_transaction(quiet, gone(quiet, shared), lambda: bob.delete_person(his))
    assert alice.person(shared)["name"] == "shared"
    assert len(told(quiet, shared)) == 2


@pytest.mark.parametrize(
    ("order", "times"), [("ours", 1), ("hers, ours", 1), ("ours, hers", 2), ("hers, ours, hers", 2)]
)
def test_whose_faces_others_are_nobody_asks(quiet: Home, order: str, times: int) -> None:
    """A deleted face is told by its photo, and that may be gone: any deletion after it may have been passed."""
    alice, bob = quiet.alice, quiet.bob
    if not bob.rows.has("asset_face_audit"):
        pytest.skip("this release tells phones of no deleted face")
    ours = bob.draw_face(bob.upload("bob.jpg"), bob.create_person("bob's"))
    photo, person = alice.upload("alice.jpg"), alice.create_person("alice's")
    steps: list[Step] = []
    for whose in order.split(", "):
        if whose == "ours":
            steps.append(f"DELETE FROM asset_face WHERE id = '{ours}'")  # noqa: S608 - ours
        else:
            hers = alice.draw_face(photo, person)
            steps.append(lambda hers=hers: alice.rows.execute(delete("asset_face", {"id": hers})))  # type: ignore[misc]
    in_one_transaction(quiet, *steps)
    rows = quiet.look.execute('SELECT count(*) FROM asset_face_audit WHERE "assetFaceId" = %s', [ours])
    assert rows.fetchone() == (times,)


def test_of_a_slow_commit_only_our_rows_are_stamped_anew(quiet: Home) -> None:
    """Else every photo that Immich has written meanwhile would be fetched by phones once more."""
    ours, his = quiet.bob.upload("ours.jpg"), quiet.bob.upload("his.jpg")

    def stamps() -> dict[UUID, UUID]:
        rows = quiet.look.execute('SELECT "assetId", "updateId" FROM asset_exif')
        return dict(rows.fetchall())

    at_once: dict[UUID, UUID] = {}
    ahead: list[UUID] = []

    def immich_writes() -> None:
        quiet.bob.describe(his, "by Immich")
        at_once.update(stamps())
        rows = quiet.look.execute("SELECT immich_uuid_v7(clock_timestamp() + interval '3 s')")
        ahead.extend(row[0] for row in rows)

    written = f"UPDATE asset_exif SET description = 'by us' WHERE \"assetId\" = '{ours}'"  # noqa: S608 - ours
    before = stamps()
    # However fast it is, it is too late.
    in_one_transaction(quiet, written, immich_writes, ahead=0)
    after = stamps()
    assert before[his] < at_once[his] == after[his]
    # Later than the update itself can have stamped it.
    assert after[ours] > ahead[0]
