"""What a user may not show is reachable by nobody, whatever happens: random lives of three users.

Written from the rules (`tests.privacy_rules`), not from the code: after each step the database and the disk are looked
at as somebody with that user's rights would, row by row and file by file. ``SEED=…`` lives one life again.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from listener.standin import schema
from tests.chaos.nursery import Nursery, nursery
from tests.conftest import ImmichDatabase, Roots
from tests.privacy_deeds import Neighbours, live, seeds
from tests.privacy_words import word

# A life for each model of the data.
LIVES = {"2.0.0": 1, "2.7.5": 2, "3.0.3": 3, "3.2.0": 4}
STEPS = 16

Live = Callable[..., tuple[int, int]]


@pytest.fixture(scope="module")
def nursed() -> Iterator[Nursery]:
    with nursery() as made:
        yield made


@pytest.fixture
def live_by(
    new_immich: Callable[[str], ImmichDatabase], tmp_path_factory: pytest.TempPathFactory, nursed: Nursery
) -> Live:
    """Return a function that lives by a seed, and tells how much was done and how much was to be seen."""

    def lived(release: str, seed: int, *, steps: int = STEPS) -> tuple[int, int]:
        folder = tmp_path_factory.mktemp("life")
        roots = Roots(media=folder / "data", external=folder / "external_library")
        roots.media.mkdir()
        roots.external.mkdir()
        life = live(new_immich(release), roots, folder, nursed, seed, steps=steps)
        return life.deeds, life.seen

    return lived


@pytest.mark.timeout(300)
@pytest.mark.parametrize("model", LIVES)
def test_nobody_comes_to_what_may_not_be_shown(model: str, live_by: Live) -> None:
    (seed,) = seeds((LIVES[model],))
    deeds, seen = live_by(model, seed)
    assert deeds > 40
    assert seen > 20, "what may be seen was not there either"


@pytest.mark.soak
@pytest.mark.timeout(14400)
@pytest.mark.parametrize("model", schema.releases())
def test_nobody_comes_to_it_in_very_many_lives(model: str, live_by: Live) -> None:
    for seed in seeds(tuple(random.randrange(2**32) for _ in range(30))):
        print(f"SEED={seed}")
        live_by(model, seed, steps=30)


@pytest.mark.parametrize("model", LIVES)
def test_whatever_is_planted_is_seen(
    model: str, new_immich: Callable[[str], ImmichDatabase], roots: Roots, tmp_path: Path
) -> None:
    """Without a listener nothing of alice's is reachable; what is put where bob can come to it is found."""
    with ExitStack() as closing:
        life = Neighbours(new_immich(model), roots, tmp_path, closing, 0)
        alice, bob = life.users["alice"], life.users["bob"]
        for user in (alice, bob):
            life.upload(user)
        secret, own = life.world.photos[1], life.world.photos[2]
        life.describe(alice)
        life.lock(alice)
        assert life.judge.leaks() == []

        house, picture = life.home.house, Path(secret.path).read_bytes()
        house.query('INSERT INTO tag ("userId", value) VALUES (%s, %s)', bob.actor.user_id, word("t", 1))
        # A table that no release has, and that hangs on bob's own photo.
        house.query('CREATE TABLE public.later (id int, "assetId" uuid REFERENCES asset (id), words jsonb)')
        house.query(
            "INSERT INTO public.later VALUES (1, %s, %s)", life.ids[own.number], f'{{"text": "{word("d", 1)}"}}'
        )
        house.query("INSERT INTO _face_sync_tag_map VALUES (%s, %s)", life.ids[own.number], word("t", 1))
        left_over = roots.media / "thumbs" / str(bob.actor.user_id) / "left-over.jpeg"
        left_over.parent.mkdir(parents=True, exist_ok=True)
        left_over.write_bytes(picture)
        link = roots.external / "shared" / "bob_uploads" / "a.jpg"
        link.parent.mkdir()
        link.symlink_to(secret.path)
        bob.actor.album_create("by nobody", life.ids[secret.number])
        (rules, viewers) = zip(*((leak.rule, leak.viewer) for leak in life.judge.leaks()), strict=True)
        assert set(viewers) == {"bob"}
        assert {"row of tag", "row of later", "note of a tag in _face_sync_tag_map", "file", "original"} <= set(rules)
        assert {"row of album_asset", "row of asset"} <= set(rules)
