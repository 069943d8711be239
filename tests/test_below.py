"""Below a folder: one rule for the rows (SQL) and for the files (Python)."""

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from listener.database import connect, fetch
from listener.immich.layout import below, plain
from tests.conftest import DEFAULT_RELEASE, ImmichDatabase

FOLDER = "/ext/alice/photos"
NAMES = ["ext", "alice", "photos", "photo", "a.jpg", "...", "ä", "%", "\\"]
PIECES = st.lists(st.sampled_from(["/", "//", "/./", "/../", ".", "..", *NAMES]), max_size=12)


@pytest.mark.parametrize(
    ("path", "is_below"),
    [
        (f"{FOLDER}/a.jpg", True),
        ("/ext//alice/./photos///a.jpg", True),
        (f"{FOLDER}/..a.jpg", True),
        (f"{FOLDER}/.../a.jpg", True),
        (f"{FOLDER}/a.jpg/", True),
        (f"{FOLDER}/../b.jpg", False),
        (f"{FOLDER}/x/../b.jpg", False),
        (f"{FOLDER}/..", False),
        (f"{FOLDER}/", False),
        (f"{FOLDER}/.", False),
        (FOLDER, False),
        (f"{FOLDER}2/a.jpg", False),
        ("", False),
    ],
)
def test_below_by_the_letter(path: str, *, is_below: bool) -> None:
    assert below(path, FOLDER) is is_below


def test_the_rows_and_the_files_have_one_rule(new_immich: Callable[[str], ImmichDatabase]) -> None:
    conninfo = new_immich(DEFAULT_RELEASE).conninfo

    async def in_rows(paths: list[str]) -> list[bool]:
        async with await connect(conninfo) as connection:
            text = b"""
                SELECT pg_temp.below(path, %(folder)s)
                FROM unnest(%(paths)s::text[]) WITH ORDINALITY AS asked(path, number) ORDER BY number"""
            return [row[0] for row in await fetch(connection, text, {"folder": FOLDER, "paths": paths})]

    @settings(max_examples=10, deadline=None, derandomize=True)
    @given(st.lists(PIECES.map(lambda pieces: f"/{''.join(pieces)}"), min_size=300, max_size=300))
    def same(paths: list[str]) -> None:
        paths += [f"{FOLDER}{path}" for path in paths]
        assert asyncio.run(in_rows(paths)) == [below(path, FOLDER) for path in paths]
        assert all(plain(plain(path)) == plain(path) for path in paths)

    same()
