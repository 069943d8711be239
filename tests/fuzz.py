"""Payloads that no trigger of ours sends, some of which only just differ from those that one does. Seeded."""

import json
import random
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

LONGEST = 7999
"""Bytes that PostgreSQL takes in a payload."""

# Texts that parsers, logs, terminals, browsers and databases read as more than text.
HOSTILE = (
    "'; DROP TABLE asset; --",
    '" OR 1=1; --',
    "'); DELETE FROM \"user\" WHERE ('x'='x",
    "$$ $body$ ; SELECT pg_sleep(9); $$",
    "%s %(ids)s %d {} {name} {0.__class__} $1 :name",
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>&amp;&lt;',
    "two\nlines",
    "carriage\r\nreturn\ttab\vand\fmore",
    "2026-01-01T00:00:00.000Z ERROR service forged\n2026-01-01T00:00:00.000Z INFO service also forged",
    '"}\nforged_metric{job="x"} 1\n# TYPE forged counter',
    "\\u0000 \\x00 \\0 \\000 %00",
    "\\ back\\slash \\' \\\" \\n",
    "\x1b[31mred\x1b[0m \x1b]0;title\x07 \x1b[2J\x1b[H",
    "\x9b31m \x85 \x7f\x08\x08\x08",
    "\u202egpj.exe \u2066isolated\u2069 \u200frtl\u200e",
    "\u2028line\u2029paragraph\ufeff\u200b",
    "e\u0301 é \U0001f468\u200d\U0001f469\u200d\U0001f467 \U000e0041 日本語",
    "../../etc/passwd",
    "${jndi:ldap://x} `id` $(id) | id ; id & id",
    "-rf --all",
    "NULL",
    "{}",
    "[]",
)

_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 1.5, 1e308, -0.0, 10**400, float("inf"), float("nan"), "", "1", [], {}, [[]]),
    *HOSTILE,
)
_WORDS = ("v", "kind", "ids", "at", "id", "V", "Kind", "ids ", "__class__", "")
_KINDS = ("asset", "person", "sweep", "ping", "Asset", "assets", "asset\x00", "", "quit")


def payloads(seed: int, count: int) -> Iterator[str]:
    """Yield ``count`` payloads, the same for the same seed. Some are in order: those are keys of nobody's."""
    rng = random.Random(seed)
    makers: tuple[Callable[[random.Random], str], ...] = (_mutated, _shuffled, _structured, _noise, _deep, _genuine)
    for _ in range(count):
        yield rng.choices(makers, (6, 4, 4, 2, 1, 2))[0](rng)


def sendable(payload: str) -> bool:
    """Tell whether PostgreSQL takes it as a payload at all."""
    try:
        return "\0" not in payload and 0 < len(payload.encode()) <= LONGEST
    except UnicodeEncodeError:
        return False


def _uuid(rng: random.Random) -> str:
    return str(UUID(int=rng.getrandbits(128), version=4))


def _genuine(rng: random.Random) -> str:
    ids = [_uuid(rng) for _ in range(rng.choice((1, 1, 2, 190)))]
    at = rng.choice((1.7e9, 0, -1, 1e12, None))
    return json.dumps({"v": 1, "kind": rng.choice(_KINDS[:3]), "ids": ids, "at": at})


def _mutated(rng: random.Random) -> str:
    """A payload in order with some characters changed, doubled, or gone."""
    text = list(_genuine(rng))
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(text))
        match rng.randrange(4):
            case 0:
                text[place] = chr(
                    rng.choice((rng.randrange(128), rng.randrange(0x3000), rng.randrange(0xD800, 0xE000)))
                )
            case 1:
                del text[place : place + rng.choice((1, 1, 8, 200))]
            case 2:
                text[place:place] = text[place : place + rng.choice((1, 8, 200))]
            case _:
                text[place:place] = rng.choice(HOSTILE)
        text = text or ["x"]
    return "".join(text)


def _shuffled(rng: random.Random) -> str:
    """Values of the wrong kind under the right names."""
    content: dict[str, Any] = json.loads(_genuine(rng))
    for _ in range(rng.randint(1, 3)):
        content[rng.choice(_WORDS)] = rng.choice(_VALUES)
    if rng.random() < 0.3:
        ids = [_uuid(rng) for _ in range(3)]
        spoilt = (ids[0].upper(), f"{{{ids[0]}}}", f"urn:uuid:{ids[0]}", ids[0].replace("-", ""), ids[0][:-1], 7, None)
        content["ids"] = [*ids, rng.choice((*spoilt, *HOSTILE, [ids[0]], {"id": ids[0]}))]
    return json.dumps(content, ensure_ascii=rng.random() < 0.5)


def _structured(rng: random.Random, depth: int = 0) -> str:
    """JSON of any form."""

    def value(depth: int) -> Any:
        if depth > 4 or rng.random() < 0.5:
            return rng.choice((*_VALUES, _uuid(rng)))
        if rng.random() < 0.5:
            return [value(depth + 1) for _ in range(rng.randint(0, 4))]
        return {rng.choice(_WORDS): value(depth + 1) for _ in range(rng.randint(0, 5))}

    return json.dumps(value(0))


def _noise(rng: random.Random) -> str:
    raw = rng.randbytes(rng.choice((0, 1, 10, 300, LONGEST, 20_000)))
    return raw.decode(rng.choice(("latin-1", "utf-8", "utf-16")), "replace")


def _deep(rng: random.Random) -> str:
    """What makes parsers recurse, or count."""
    times = rng.choice((10, 1000, 3900))
    return rng.choice(
        (
            "[" * times,
            "[" * times + "]" * times,
            '{"v":' * times + "1" + "}" * times,
            '{"v":1,"kind":"asset","ids":' + "[" * times + "]" * times + "}",
            '{"v":' + "1" * times + "}",
            '{"v":1,"kind":"sweep","at":' + "9" * times + "}",
            '{"v":1,"kind":"sweep","at":1e' + "9" * min(times, 1000) + "}",
            '{"v":1,"kind":"asset","ids":[' + ",".join(["0"] * times) + "]}",
            json.dumps({"v": 1, "kind": "asset", "ids": [_uuid(rng)] * min(times, 501)}),
            '{"v":1,"v":1,"kind":"ping","kind":"sweep"}',
        )
    )
