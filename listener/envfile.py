"""Reads ``.env`` by the rules of docker compose, so that a value is the same with and without it.

No library does: python-dotenv expands variables in single quotes, knows neither ``$NAME`` nor ``$$``, and passes over
lines that it cannot read. Two things that compose takes are refused here, since what people meant is not sure:
``KEY: value``, and text behind a closing quote. A line that cannot be read is an error. What it says is never shown:
it may be a password.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_SPACES = "\t\v\f\r \x85\xa0"
_KEY = re.compile(r"(?:export[\t\v\f\r \x85\xa0]+)?(?P<key>[\w.\-\[\]]+)[\t\v\f\r \x85\xa0]*(?P<sign>[=:]|\n|\Z)")
_ESCAPE = re.compile(r'\\(?:[abcfnrtv$"\\]|0[0-9]{0,3})')
_ESCAPED = {
    "a": "\a",
    "b": "\b",
    "f": "\f",
    "n": "\n",
    "r": "\r",
    "t": "\t",
    "v": "\v",
    "\\": "\\",
    '"': '"',
    "$": "$$",
}
_NAME = re.compile(r"[_a-zA-Z][_a-zA-Z0-9]*")
_OPERATOR = re.compile(r":?[-+?]")


@dataclass(frozen=True, slots=True)
class EnvFile:
    """What was read. unset: keys whose values name a variable that nobody sets: it is empty there."""

    values: Mapping[str, str]
    unset: frozenset[str]


class EnvFileError(Exception):
    """Why a file cannot be used; the text names the line, and nothing that stands there."""


def parse(text: str, environ: Mapping[str, str]) -> EnvFile:
    """Return the values of a file's text. ``$NAME`` stands for what ``environ`` has, else for what is further up.

    Raises EnvFileError.
    """
    return _Parser(text, environ).parse()


def read(path: Path, environ: Mapping[str, str], problems: list[str]) -> EnvFile:
    """Return what a file sets, if it is there; where it cannot be read, that is noted, and it sets nothing."""
    try:
        if path.is_file():
            return parse(path.read_bytes().decode("utf-8"), environ)
    except EnvFileError as failure:
        problems.append(f".env: {failure}.")
    except (OSError, UnicodeDecodeError) as failure:
        reason = failure.strerror if isinstance(failure, OSError) else "it is not UTF-8 text"
        problems.append(f".env: cannot be read: {reason}. Make {path} a readable text file.")
    return EnvFile({}, frozenset())


class _Parser:
    def __init__(self, text: str, environ: Mapping[str, str]) -> None:
        self._text = text.removeprefix("\ufeff")
        self._environ = environ
        self._at = 0
        self._key = ""
        self._values: dict[str, str] = {}
        self._unset: set[str] = set()

    def parse(self) -> EnvFile:
        while self._to_next_statement():
            found = _KEY.match(self._text, self._at)
            if found is None:
                raise self._wrong("is not of the form NAME=value")
            if found["sign"] == ":":
                raise self._wrong("has a colon behind the name. Write NAME=value")
            self._key = found["key"]
            if found["sign"] == "=":
                self._at = self._skip_spaces(found.end())
                self._values[self._key] = self._value()
            else:
                # Without a value it is what the environment has.
                self._at = found.end()
        return EnvFile(self._values, frozenset(self._unset))

    def _wrong(self, what: str) -> EnvFileError:
        return EnvFileError(f"line {self._text.count(chr(10), 0, self._at) + 1} {what}")

    def _skip_spaces(self, at: int) -> int:
        while at < len(self._text) and self._text[at] in _SPACES:
            at += 1
        return at

    def _to_next_statement(self) -> bool:
        while self._at < len(self._text):
            if self._text[self._at] == "#":
                self._at = self._end_of_line()
            elif self._text[self._at].isspace():
                self._at += 1
            else:
                return True
        return False

    def _end_of_line(self) -> int:
        end = self._text.find("\n", self._at)
        return len(self._text) if end < 0 else end

    def _value(self) -> str:
        quote = self._text[self._at : self._at + 1]
        if quote not in ("'", '"') or not quote:
            line = self._text[self._at : self._end_of_line()]
            value = self._expanded(line.partition(" #")[0].rstrip())
            self._at = self._end_of_line()
            return value
        value, end = self._quoted(quote)
        if quote == '"':
            value = self._expanded(_ESCAPE.sub(_unescaped, value))
        behind = self._skip_spaces(end)
        if behind < len(self._text) and self._text[behind] not in "\n#":
            self._at = end
            raise self._wrong("has text behind a closing quote. Put a \\ before each quote that is part of the value")
        self._at = behind
        return value

    def _quoted(self, quote: str) -> tuple[str, int]:
        """Return what stands between the quotes and where that ends; of escapes only those of the quote are taken."""
        chars, at = [], self._at + 1
        while at < len(self._text):
            char, two = self._text[at], self._text[at : at + 2]
            if char == "\\" and len(two) == 2:
                chars.append(two[1] if two[1] == quote else two)
                at += 2
            elif char == quote:
                return "".join(chars), at + 1
            else:
                chars.append(char)
                at += 1
        raise self._wrong("opens a quote that is never closed")

    def _expanded(self, text: str) -> str:
        """Return a text with its variables in place: ``$$``, ``$NAME``, ``${NAME}``, ``${NAME:-default}`` and so on."""
        parts, at = [], 0
        while (dollar := text.find("$", at)) >= 0:
            parts.append(text[at:dollar])
            behind = dollar + 1
            if text.startswith("$", behind):
                parts.append("$")
                at = behind + 1
            elif text.startswith("{", behind):
                at = _closing_brace(text, behind)
                if at < 0:
                    raise self._wrong("has a ${ that is never closed. Write $$ for a dollar sign")
                parts.append(self._braced(text[behind + 1 : at - 1]))
            elif found := _NAME.match(text, behind):
                parts.append(self._of(found[0]) or "")
                at = found.end()
            else:
                parts.append("$")
                at = behind
        return "".join(parts) + text[at:]

    def _braced(self, inside: str) -> str:
        found = _NAME.match(inside)
        operator = _OPERATOR.match(inside, found.end()) if found else None
        if found is None or (operator is None and found.end() < len(inside)):
            raise self._wrong("has a ${…} that is no variable. Write $$ for a dollar sign")
        if operator is None:
            return self._of(found[0]) or ""
        word = inside[operator.end() :]
        value = self._of(found[0], told=False)
        there = bool(value) if operator[0].startswith(":") else value is not None
        match operator[0][-1]:
            case "-":
                return (value or "") if there else self._expanded(word)
            case "+":
                return self._expanded(word) if there else (value or "")
            case _ if there:
                return value or ""
        raise self._wrong("needs a variable that is not set")

    def _of(self, name: str, *, told: bool = True) -> str | None:
        value = self._environ.get(name, self._values.get(name))
        if value is None and told:
            self._unset.add(self._key)
        return value


def _closing_brace(text: str, at: int) -> int:
    """Return where the text goes on behind the brace that closes the one here, or -1."""
    depth = 0
    for number, char in enumerate(text[at:], at):
        depth += (char == "{") - (char == "}")
        if depth == 0:
            return number + 1
    return -1


def _unescaped(found: re.Match[str]) -> str:
    escape = found[0][1:]
    if escape.startswith("0"):
        octal = escape[1:]
        known = len(octal) == 3 and set(octal) <= set("01234567") and int(octal, 8) < 256
        return chr(int(octal, 8)) if known else "\\" + octal
    return _ESCAPED.get(escape, found[0])
