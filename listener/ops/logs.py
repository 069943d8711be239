"""Logs: one record a line, as ``key=value`` text or as JSON, with no secret and no forged line in it.

``log = logs.get("channel")`` gives a thin wrapper around a standard logger; fields are keyword arguments:
``log.info("copied", asset=asset_id, latency_ms=12.5)``. The message is a fixed text; what varies is a field.
"""

import json
import logging
import math
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from types import TracebackType
from typing import Literal, TextIO

_ROOT = "listener"
_LOUD = ("httpx", "httpcore", "uvicorn", "watchfiles", "psycopg", "asyncio")  # informed about every request
_BARE = re.compile(r"[^\s=\"]+")  # a value that needs no quotes
_MASK = "***"


class Log:
    """A named logger whose methods take a message and fields."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def debug(self, message: str, **fields: object) -> None:
        self.write(logging.DEBUG, message, fields)

    def info(self, message: str, **fields: object) -> None:
        self.write(logging.INFO, message, fields)

    def warning(self, message: str, **fields: object) -> None:
        self.write(logging.WARNING, message, fields)

    def error(self, message: str, **fields: object) -> None:
        self.write(logging.ERROR, message, fields)

    def trace(self, message: str, **fields: object) -> None:
        """Log the traceback of the exception being handled, for whoever looks for its cause (LOG_LEVEL=DEBUG)."""
        self.write(logging.DEBUG, message, fields, traceback=True)

    def exception(self, message: str, **fields: object) -> None:
        """Log an error with the traceback of the exception being handled."""
        self.write(logging.ERROR, message, fields, traceback=True)

    def write(self, level: int, message: str, fields: dict[str, object], *, traceback: bool = False) -> None:
        if self._logger.isEnabledFor(level):
            # "%s": a message is never a format.
            self._logger.log(level, "%s", message, extra={"fields": fields}, exc_info=traceback)


def get(name: str) -> Log:
    """Return the log of one module, named as the module without its package."""
    return Log(logging.getLogger(f"{_ROOT}.{name}"))


class Limited:
    """Writes a message at most once per ``period`` seconds; the next one says how many were left out.

    Messages are told apart by their text, so the text must be fixed.
    """

    def __init__(self, log: Log, *, period: float = 60.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._period = period
        self._clock = clock
        self._lock = threading.Lock()
        self._last: dict[str, float] = {}
        self._left_out: dict[str, int] = {}

    def info(self, message: str, **fields: object) -> None:
        self._write(logging.INFO, message, fields)

    def warning(self, message: str, **fields: object) -> None:
        self._write(logging.WARNING, message, fields)

    def error(self, message: str, **fields: object) -> None:
        self._write(logging.ERROR, message, fields)

    def _write(self, level: int, message: str, fields: dict[str, object]) -> None:
        with self._lock:
            now = self._clock()
            last = self._last.get(message)
            if last is not None and now - last < self._period:
                self._left_out[message] = self._left_out.get(message, 0) + 1
                return
            self._last[message] = now
            left_out = self._left_out.pop(message, 0)
        self._log.write(level, message, fields | ({"suppressed": left_out} if left_out else {}))


def setup(
    level: str,
    format: Literal["text", "json"],  # noqa: A002 - as the setting is called
    *,
    secrets: Iterable[str] = (),
    stream: TextIO | None = None,
) -> None:
    """Send all logs of the process to ``stream`` (default: standard error); replaces an earlier setup.

    ``level`` is DEBUG, INFO, WARNING or ERROR; ``secrets`` are texts to mask wherever they appear.
    """
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    hidden = tuple(sorted({secret for secret in secrets if secret}, key=len, reverse=True))
    handler.setFormatter(_JsonFormatter(hidden) if format == "json" else _TextFormatter(hidden))
    root = logging.getLogger()
    for old in tuple(root.handlers):
        if isinstance(old.formatter, _Formatter):
            root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    for name in _LOUD:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))


def mask(secrets: Iterable[str]) -> None:
    """Mask these texts too from now on, wherever they appear: a secret may change while we run."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler.formatter, _Formatter):
            handler.formatter.mask(secrets)


def masked(text: str) -> str:
    """Return a text for people without the secrets that the logs are to mask."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler.formatter, _Formatter):
            text = handler.formatter.masked(text)
    return text


def uncaught(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """Log an error that nobody caught as all others, without secrets: for ``sys.excepthook``."""
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)
    else:
        message = "ended by an error that nobody expected"
        logging.getLogger(_ROOT).critical("%s", message, exc_info=(kind, error, traceback))


class _Formatter(logging.Formatter):
    def __init__(self, secrets: tuple[str, ...]) -> None:
        super().__init__()
        self._secrets = secrets

    def mask(self, secrets: Iterable[str]) -> None:
        self._secrets = tuple(sorted({*self._secrets, *filter(None, secrets)}, key=len, reverse=True))

    def masked(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, _MASK)
        return text

    def _parts(self, record: logging.LogRecord) -> tuple[str, str, str, dict[str, object], str]:
        """Return time, logger, message, fields and traceback of a record, all without secrets."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        given = getattr(record, "fields", {})
        fields = {key: self._value(value) for key, value in given.items()}
        traceback = self.formatException(record.exc_info) if record.exc_info else ""
        return (
            at.replace("+00:00", "Z"),
            record.name.removeprefix(f"{_ROOT}."),
            self.masked(record.getMessage()),
            fields,
            self.masked(traceback),
        )

    def _value(self, value: object) -> object:
        """Return a field as JSON knows it; numbers, truth and None stay, all else becomes text."""
        if isinstance(value, float):
            return round(value, 3) if math.isfinite(value) else str(value)  # JSON has no inf
        if value is None or isinstance(value, (bool, int)):
            return value
        if isinstance(value, BaseException):
            return self.masked(f"{type(value).__name__}: {value}".strip())
        if isinstance(value, (list, tuple, set, frozenset)):
            return [self._value(one) for one in value]
        return self.masked(str(value))


class _TextFormatter(_Formatter):
    """``time level logger message key=value …``; a traceback follows, indented, to pose as none."""

    def format(self, record: logging.LogRecord) -> str:
        at, name, message, fields, traceback = self._parts(record)
        words = [at, record.levelname, name, _one_line(message)]
        words += [f"{key}={_in_text(value)}" for key, value in fields.items()]
        lines = [" ".join(words), *(f"  | {_one_line(line)}" for line in traceback.splitlines())]
        return "\n".join(lines)


class _JsonFormatter(_Formatter):
    """One JSON object a line: ``time``, ``level``, ``logger``, ``message``, ``fields``, ``exception``."""

    def format(self, record: logging.LogRecord) -> str:
        at, name, message, fields, traceback = self._parts(record)
        entry = {"time": at, "level": record.levelname, "logger": name, "message": message}
        return json.dumps(
            entry | ({"fields": fields} if fields else {}) | ({"exception": traceback} if traceback else {})
        )


def _one_line(text: str) -> str:
    """Return the text with everything escaped that could end a line, steer a terminal or hide itself."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _in_text(value: object) -> str:
    if isinstance(value, list):
        return "[" + ",".join(_in_text(one) for one in value) + "]"
    if not isinstance(value, str):
        return json.dumps(value)
    text = _one_line(value)
    return text if _BARE.fullmatch(text) else '"' + text.replace('"', r"\"") + '"'
