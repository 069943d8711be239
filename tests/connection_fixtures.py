"""A plugin of pytest, named by the tests of connections: carol's house, and a wire to its database."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ImmichDatabase, Roots
from tests.photos import PhotoHouse, photo_house
from tests.wire import Wire, wire_to


@pytest.fixture
def carol(immich: ImmichDatabase, roots: Roots, tmp_path: Path) -> PhotoHouse:
    made = photo_house(immich, roots, tmp_path)
    made.house.install_triggers()
    return made


@pytest.fixture
def wire(carol: PhotoHouse) -> Iterator[Wire]:
    with wire_to(carol.house.immich.conninfo) as made:
        yield made
