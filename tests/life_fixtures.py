"""Fixtures for lives (`tests.lives`): pytest loads them before anything else imports them."""

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from listener.standin.postgres import create_database, drop_database
from tests.chaos.deeds import Deeds
from tests.chaos.nursery import Nursery, nursery
from tests.conftest import DEFAULT_RELEASE, ImmichDatabase, Roots
from tests.lives import Life


@pytest.fixture(scope="module")
def nursed() -> Iterator[Nursery]:
    with nursery() as made:
        yield made


@pytest.fixture(scope="module")
def new_life(
    server: str, template: Callable[[str], str], nursed: Nursery, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Life]]:
    """Return a function that begins a life in a folder, where the life before is forgotten."""
    with ExitStack() as closing:

        def make(folder: Path, **more: int) -> Life:
            roots = Roots(folder / "data", folder / "external_library")
            for root in (roots.media, roots.external):
                if root.exists():
                    root.rename(tmp_path_factory.mktemp("former") / root.name)
                root.mkdir()
            name = f"life_{uuid.uuid4().hex}"
            conninfo = create_database(server, name, template(DEFAULT_RELEASE))
            closing.callback(drop_database, server, name)
            return Life(Deeds(ImmichDatabase(conninfo, DEFAULT_RELEASE), roots, folder, closing, **more), nursed)

        yield make
