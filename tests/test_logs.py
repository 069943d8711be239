"""Logs: one record a line, no secret, no forged record."""

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Literal
from uuid import UUID

import pytest

from listener.ops import logs


@pytest.fixture(autouse=True)
def _quiet_afterwards() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def written(format: Literal["text", "json"], *secrets: str, level: str = "INFO") -> io.StringIO:  # noqa: A002
    stream = io.StringIO()
    # Not into pytest's own handlers: what is forged here would be forged into its report.
    logging.getLogger().handlers.clear()
    logs.setup(level, format, secrets=secrets, stream=stream)
    return stream


def test_text_is_one_line_of_words_and_fields() -> None:
    stream = written("text")
    asset = UUID("aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa")
    logs.get("channel").info("copied", asset=asset, latency_ms=12.34567, why=None, ok=True, path=Path("/a b"))
    line = stream.getvalue()
    assert line.endswith(f' INFO channel copied asset={asset} latency_ms=12.346 why=null ok=true path="/a b"\n')
    assert line[:4].isdigit()
    assert line.split(" ")[0].endswith("Z")


def test_json_is_one_object_a_line() -> None:
    stream = written("json")
    logs.get("channel").warning("late", seconds=float("inf"), ids=["a", 2])
    entry = json.loads(stream.getvalue())
    assert (entry["level"], entry["logger"], entry["message"]) == ("WARNING", "channel", "late")
    assert entry["fields"] == {"seconds": "inf", "ids": ["a", 2]}


def test_the_level_holds() -> None:
    stream = written("text", level="WARNING")
    logs.get("channel").info("quiet")
    logs.get("channel").debug("quiet")
    assert stream.getvalue() == ""


def test_a_second_setup_replaces_the_first() -> None:
    first, second = written("text"), written("json")
    logs.get("channel").info("once")
    assert first.getvalue() == ""
    assert len(second.getvalue().splitlines()) == 1


def test_other_libraries_get_the_same_form() -> None:
    stream = written("json")
    logging.getLogger("somebody").error("%d of %s", 1, "two")
    logging.getLogger("httpx").info("HTTP Request: GET http://…")
    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == ["1 of two"]


def fail(text: str) -> None:
    raise ValueError(text)


@pytest.mark.parametrize("evil", ["a\n2026 ERROR forged", "a\r\x1b[2Jb", "a\u2028b", "a\x00b", "a\udcffb", "a\u202eb"])
def test_no_value_can_forge_a_line_or_steer_a_terminal(evil: str) -> None:
    stream = written("text")
    logs.get("channel").info("name", name=evil)
    try:
        fail(evil)
    except ValueError:
        logs.get("channel").exception(evil)
    text = stream.getvalue()
    assert all(line.isprintable() for line in text.split("\n"))
    records = [line for line in text.split("\n") if line and not line.startswith("  | ")]
    assert len(records) == 2


@pytest.mark.parametrize("format", ["text", "json"])
def test_secrets_are_masked_everywhere(format: Literal["text", "json"]) -> None:  # noqa: A002
    stream = written(format, "hunter2", "hunter2 and more", "")
    log = logs.get("channel")
    log.info("hunter2", value="x=hunter2", many=["hunter2"], error=ValueError("no hunter2"))
    try:
        try:
            fail("first hunter2 and more")
        except ValueError as failure:
            raise RuntimeError("connection with hunter2 failed") from failure
    except RuntimeError:
        log.exception("failed")
    logging.getLogger("psycopg.pool").warning("password=%s", "hunter2")
    text = stream.getvalue()
    assert "hunter2" not in text
    assert "and more" not in text
    assert "RuntimeError: connection with *** failed" in text


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_message_is_written_once_a_minute_and_counted() -> None:
    stream, clock = written("json"), Clock()
    limited = logs.Limited(logs.get("channel"), clock=clock)
    for number in range(100):
        limited.warning("payload ignored", number=number)
    limited.warning("another", number=0)
    clock.now = 59.9
    limited.warning("payload ignored", number=100)
    clock.now = 60.0
    limited.warning("payload ignored", number=101)
    clock.now = 120.0
    limited.warning("payload ignored", number=102)
    entries = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(entry["message"], entry["fields"]) for entry in entries] == [
        ("payload ignored", {"number": 0}),
        ("another", {"number": 0}),
        ("payload ignored", {"number": 101, "suppressed": 100}),
        ("payload ignored", {"number": 102}),
    ]
