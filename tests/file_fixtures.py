"""A plugin of pytest, named by the tests of files and links: the layout of the empty roots."""

import pytest

from listener.immich.layout import Layout
from tests.conftest import Roots


@pytest.fixture
def layout(roots: Roots) -> Layout:
    return Layout(roots.media, roots.external)
