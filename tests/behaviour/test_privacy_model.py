"""What a user may not show is reachable by nobody, whatever happens: random lives of three users.

Written from the rules (`tests.privacy_rules`), not from the code: after each step the database and the disk are looked
at as somebody with that user's rights would, row by row and file by file. ``SEED=…`` lives one life again.
"""

import random
from collections.abc import Callable, Iterator

import pytest

from listener.standin import schema
from tests.chaos.nursery import Nursery, nursery
from tests.conftest import ImmichDatabase, Roots
from tests.privacy_deeds import live, seeds

RELEASES = ("2.0.0", "2.7.5", "3.0.3", "3.2.0")
STEPS = 12


@pytest.fixture(scope="module")
def nursed() -> Iterator[Nursery]:
    with nursery() as made:
        yield made


@pytest.fixture
def live_by(
    new_immich: Callable[[str], ImmichDatabase], tmp_path_factory: pytest.TempPathFactory, nursed: Nursery
) -> Callable[..., tuple[int, int]]:
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
@pytest.mark.parametrize("model", RELEASES)
def test_nobody_comes_to_what_may_not_be_shown(model: str, live_by: Callable[..., tuple[int, int]]) -> None:
    lives = [live_by(model, seed) for seed in seeds((1, 2))]
    assert sum(deeds for deeds, _ in lives) > 50
    assert sum(seen for _, seen in lives) > 50, "what may be seen was not there either"


@pytest.mark.soak
@pytest.mark.timeout(14400)
@pytest.mark.parametrize("model", schema.releases())
def test_nobody_comes_to_it_in_very_many_lives(model: str, live_by: Callable[..., tuple[int, int]]) -> None:
    for seed in seeds(tuple(random.randrange(2**32) for _ in range(30))):
        print(f"SEED={seed}")
        live_by(model, seed, steps=30)
