"""Runs inside a traced copy of the checkout: notes which test reaches which query and which function.

The traced texts call ``hit`` at the start of each function, and each named query carries its name as a comment, which
is seen when it is sent to the server. A process that a test starts knows the test by a file.
"""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

_FOLDER = Path(__file__).parent / "reached"
_TEST = _FOLDER / "test"
_MARK = re.compile(rb"/\*reached ([^*]+)\*/")
_known: set[tuple[str, str]] = set()


def hit(name: str) -> None:
    """Note that the test at hand has reached this."""
    try:
        test = _TEST.read_text()
    except FileNotFoundError:
        return
    if (test, name) in _known:
        return
    _known.add((test, name))
    _note("hits", [test, name])


def _note(file: str, line: list[object]) -> None:
    with (_FOLDER / file).open("a") as out:
        out.write(json.dumps(line) + "\n")


def _watch(cursor: type[Any], name: str) -> None:
    before = getattr(cursor, name)

    def sent(self: Any, query: Any, *args: Any, **kwargs: Any) -> Any:
        text = query.as_bytes(None) if isinstance(query, sql.Composable) else query
        for mark in _MARK.findall(text.encode() if isinstance(text, str) else text):
            hit(mark.decode())
        return before(self, query, *args, **kwargs)

    setattr(cursor, name, sent)


for _cursor in (psycopg.Cursor, psycopg.AsyncCursor):
    for _name in ("execute", "executemany", "stream"):
        _watch(_cursor, _name)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    _FOLDER.mkdir(exist_ok=True)
    partial = _FOLDER / f"test.{os.getpid()}"
    partial.write_text(item.nodeid)
    partial.replace(_TEST)
    return (yield)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _note("outcomes", [report.nodeid, report.when, report.outcome, round(report.duration, 3)])
