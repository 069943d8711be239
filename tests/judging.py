"""What the tests of the judge share: one thing broken, and the judge's word on it."""

# ruff: noqa: S608 - tables and columns are named in this file

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

from listener.standin.facts import load_facts
from listener.tools.verify import Report, verify
from tests.copied_photo import Share

Do = Callable[[Share], object]


@dataclass(frozen=True)
class Break:
    """One thing done wrong. ``also`` are rules that cannot but be broken with it.

    ``needs`` is a table, or a table and a column, that the release must have. It is tried ``on`` those releases
    that have it; if none has, on the oldest.
    """

    rule: str
    do: Do
    also: frozenset[str] = frozenset()
    needs: tuple[str, ...] = ()
    where: str = ""
    on: tuple[str, ...] = ("3.0.3",)

    @property
    def releases(self) -> tuple[str, ...]:
        return tuple(release for release in self.on if self._fits(release)) or ("2.0.0",)

    def _fits(self, release: str) -> bool:
        tables = load_facts(release).tables
        if not self.needs:
            return True
        table, *column = self.needs
        return table in tables and all(name in {c.name for c in tables[table].columns} for name in column)

    def __str__(self) -> str:
        return f"{self.rule} {self.where}".strip()


def on_releases(breaks: list[Break]) -> list[object]:
    """Return each break with each release that it is tried on."""
    return [pytest.param(release, wrong, id=f"{wrong}-{release}") for wrong in breaks for release in wrong.releases]


def run(text: str) -> Do:
    return lambda share: share.run(text, **share.ids)


def both(*steps: Do) -> Do:
    return lambda share: [step(share) for step in steps]


def of_mirror(change: str) -> Do:
    return lambda share: share.run(f"UPDATE person SET {change} WHERE {share.mirror_row}", **share.ids)


async def judged(share: Share, conn: psycopg.AsyncConnection[Any], **options: Any) -> Report:
    return await verify(conn, share.jobs, share.roots.media, **options)


def rules(report: Report) -> set[str]:
    return {difference.rule for difference in report.differences}
