"""A table of what was tried with one odd file, folder, setting or job, what people were told, and what went on.

A test that shows such a thing says so with the fixture `oddity`. `make odd` runs these tests, each on one release of
Immich, and writes the table into docs/reliability.md; what a row says was true of the program when its test passed.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

_HEADERS = ("Tried", "Told", "Went on")
_TITLE = "# One odd thing stops nothing else"
_TEXT = """\
Made by `make odd`: each row is a test that passed. *Told* is what people read in the log, `/readyz`, `status` or
`check`, shortened.
"""

Oddity = Callable[[str, str, str], None]


@pytest.fixture
def oddity(record_property: Callable[[str, object], None]) -> Oddity:
    """Say in short sentences what a test has tried, what was told, and what went on: as its last statement."""

    def say(tried: str, told: str, went_on: str) -> None:
        record_property("oddity", [tried, told, went_on])

    return say


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--oddities", type=Path, help="run the tests that show oddities only; write their table here")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep of the tests that show an oddity one for each, with --oddities."""
    if config.getoption("--oddities") is None:
        return
    kept: dict[str, pytest.Item] = {}
    for item in items:
        if "oddity" in getattr(item, "fixturenames", ()):
            name = item.nodeid.partition("[")[0]
            if name not in kept or "3.0.3" in item.nodeid:
                kept[name] = item
    config.hook.pytest_deselected(items=[item for item in items if item not in kept.values()])
    items[:] = kept.values()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    page: Path | None = terminalreporter.config.getoption("--oddities")
    if (
        page is None
        or terminalreporter.stats.keys() & {"failed", "error"}
        or terminalreporter.config.option.collectonly
    ):
        return
    passed: Sequence[pytest.TestReport] = terminalreporter.stats.get("passed", ())
    properties = [entry for report in passed for entry in report.user_properties]
    told = {tuple(map(str, value)) for name, value in properties if name == "oddity" and isinstance(value, list)}
    before, _, after = page.read_text().partition(_TITLE)
    _, there, others = after.partition("\n# ")
    rows = "\n".join(f"| {' | '.join(cells)} |" for cells in (_HEADERS, ("---",) * len(_HEADERS), *sorted(told)))
    page.write_text(f"{before.rstrip()}\n\n{_TITLE}\n\n{_TEXT}\n{rows}\n{there}{others}")
    terminalreporter.write_line(f"{len(told)} oddities written to {page}")
