"""What Immich's own API says about the server: is it up, which version, which machine learning is on.

These three endpoints need no key; one is sent if there is one. Trouble is never an exception here: the
answer is None, and one line in the log says why, unless somebody else is told.
"""

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import httpx

from listener.ops import logs

_log = logs.get("immich.api")
_TIMEOUT = 5.0  # seconds for the whole exchange
_LIMIT = 64 * 1024  # bytes: the real answers have some hundred
_TO_DO = "check that Immich runs and that IMMICH_API_URL is its address"
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Features:
    """Which machine learning this server does (``GET /api/server/features``); OCR came with Immich 2.2."""

    smart_search: bool
    facial_recognition: bool
    ocr: bool


@dataclass(frozen=True, slots=True, order=True)
class Version:
    """The release of the server."""

    major: int
    minor: int
    patch: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"


async def features(
    url: str,
    key: str | None = None,
    *,
    timeout: float = _TIMEOUT,  # noqa: ASYNC109
    tell: Callable[..., None] | None = None,
) -> Features | None:
    """Return which machine learning is on, or None if the server does not say. ``timeout``: seconds.

    tell: is told why not, as a message and fields, instead of the log.
    """

    def read(answer: Mapping[str, object]) -> Features:
        smart_search, faces = answer.get("smartSearch"), answer.get("facialRecognition")
        ocr = answer.get("ocr", False)
        if isinstance(smart_search, bool) and isinstance(faces, bool) and isinstance(ocr, bool):
            return Features(smart_search, faces, ocr)
        raise ValueError("it does not say which machine learning is on")

    return await _ask(url, "/api/server/features", key, timeout, read, tell or _log.warning)


async def version(url: str, key: str | None = None, *, timeout: float = _TIMEOUT) -> Version | None:  # noqa: ASYNC109
    """Return the server's release, or None if it does not say. ``timeout``: seconds."""

    def read(answer: Mapping[str, object]) -> Version:
        major, minor, patch = (answer.get(part) for part in ("major", "minor", "patch"))
        if isinstance(major, int) and isinstance(minor, int) and isinstance(patch, int):
            return Version(major, minor, patch)
        raise ValueError("it holds no version")

    return await _ask(url, "/api/server/version", key, timeout, read)


async def ping(url: str, key: str | None = None, *, timeout: float = _TIMEOUT) -> bool:  # noqa: ASYNC109
    """Return whether the server is up. ``timeout``: seconds."""

    def read(answer: Mapping[str, object]) -> bool:
        if answer.get("res") == "pong":
            return True
        raise ValueError("it is no pong")

    return await _ask(url, "/api/server/ping", key, timeout, read) is True


async def _ask(
    url: str,
    path: str,
    key: str | None,
    seconds: float,
    read: Callable[[Mapping[str, object]], _T],
    tell: Callable[..., None] = _log.warning,
) -> _T | None:
    """Return what ``read`` makes of the server's JSON object, or None after telling why."""
    address = f"{url.rstrip('/')}{path}"
    try:
        # To read the certificates takes 50 ms, and most servers are asked within one network, without TLS.
        secure = address.lower().startswith("https:")
        async with asyncio.timeout(seconds), httpx.AsyncClient(timeout=seconds, verify=secure) as client:
            answer = _json_object(await _body(client, address, key))
        return read(answer)
    except (TimeoutError, httpx.TimeoutException):
        tell("Immich's API does not answer in time", url=address, seconds=seconds, to_do=_TO_DO)
    except (httpx.HTTPError, httpx.InvalidURL) as failure:
        tell("Immich's API cannot be reached", url=address, error=failure, to_do=_TO_DO)
    except ValueError as failure:
        tell("the answer is not one of Immich's API", url=address, why=str(failure), to_do=_TO_DO)
    return None


async def _body(client: httpx.AsyncClient, address: str, key: str | None) -> bytes:
    headers = {"accept": "application/json"} | ({"x-api-key": key} if key else {})
    body = b""
    # A redirect is not followed: it would carry the key to another server.
    async with client.stream("GET", address, headers=headers, follow_redirects=False) as response:
        if response.status_code != httpx.codes.OK:
            raise ValueError(f"its status is {response.status_code}")
        async for part in response.aiter_bytes():
            body += part
            if len(body) > _LIMIT:
                raise ValueError("it is too long")
    return body


def _json_object(body: bytes) -> Mapping[str, object]:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        raise ValueError("it is no JSON") from None
    if not isinstance(answer, dict):
        raise ValueError("it is no JSON object")  # noqa: TRY004 - trouble with an answer, not with a program
    return answer
