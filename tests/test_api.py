"""Immich's API client against a real server that gives a real Immich's recorded answers, and bad ones."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager, nullcontext, suppress
from typing import Any

import pytest
import uvicorn

from listener.immich import api
from listener.immich.api import Features, Version
from listener.standin.server import recorded_answer

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
Answer = Callable[[str, Send], Awaitable[None]]


class Server(uvicorn.Server):
    capture_signals = nullcontext  # type: ignore[assignment]


@asynccontextmanager
async def immich(answer: Answer, seen: list[dict[bytes, bytes]] | None = None) -> AsyncIterator[str]:
    """Serve ``answer`` on a free port; yield its address. ``seen`` gets the headers of each request."""

    async def application(scope: Message, receive: object, send: Send) -> None:
        if seen is not None:
            seen.append(dict(scope["headers"]))
        await answer(scope["path"], send)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = Server(
            uvicorn.Config(application, log_config=None, lifespan="off", ws="none", timeout_graceful_shutdown=1)
        )
        task = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            await asyncio.wait_for(task, 10)


async def reply(send: Send, body: bytes, status: int = 200, *headers: tuple[bytes, bytes]) -> None:
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})
    await send({"type": "http.response.body", "body": body})


async def recorded(path: str, send: Send) -> None:
    status, body = recorded_answer(path)
    await reply(send, body, status)


def always(body: bytes, status: int = 200, *headers: tuple[bytes, bytes]) -> Answer:
    async def answer(path: str, send: Send) -> None:
        await reply(send, body, status, *headers)

    return answer


async def test_a_real_answer_is_understood() -> None:
    async with immich(recorded) as url:
        assert await api.features(url) == Features(smart_search=True, facial_recognition=True, ocr=True)
        assert await api.version(url + "/") == Version(3, 0, 3)
        assert await api.ping(url) is True


async def test_ocr_is_off_where_immich_does_not_know_it() -> None:
    async with immich(always(b'{"smartSearch": false, "facialRecognition": true}')) as url:
        assert await api.features(url) == Features(smart_search=False, facial_recognition=True, ocr=False)


async def test_the_key_is_sent_if_there_is_one() -> None:
    seen: list[dict[bytes, bytes]] = []
    async with immich(recorded, seen) as url:
        await api.features(url, "tops3cret")
        await api.features(url)
    assert [headers.get(b"x-api-key") for headers in seen] == [b"tops3cret", None]


async def test_a_redirect_does_not_carry_the_key_away(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[dict[bytes, bytes]] = []
    async with (
        immich(recorded, seen) as elsewhere,
        immich(always(b"", 302, (b"location", elsewhere.encode()))) as url,
    ):
        assert await api.features(url, "tops3cret") is None
    assert seen == []


@pytest.mark.parametrize(
    "answer",
    [
        always(b"<!doctype html><title>Welcome</title>"),
        always(b"[]"),
        always(b"null"),
        always(b'{"smartSearch": "yes", "major": "3", "res": "no"}'),
        always(b"{}"),
        always(b"[" * 60_000),
        always(b"{}" + b" " * 100_000),
        always(b'{"message": "Forbidden"}', 403),
        always(b"bad gateway", 502),
        always(b"\xff\xfe"),
    ],
)
async def test_a_wrong_answer_is_none_and_one_line(answer: Answer, caplog: pytest.LogCaptureFixture) -> None:
    async with immich(answer) as url:
        assert await api.features(url) is None
        assert len(caplog.records) == 1
        assert "IMMICH_API_URL" in str(caplog.records[0].__dict__["fields"])
        assert await api.version(url) is None
        assert await api.ping(url) is False
        assert len(caplog.records) == 3


async def test_nobody_there_is_none_and_one_line(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for url in (f"http://127.0.0.1:{port}", "http://no-such-host.invalid:2283", "http://[", "nonsense"):
        caplog.clear()
        assert await api.features(url, "tops3cret") is None
        assert len(caplog.records) == 1
        assert "tops3cret" not in str(caplog.records[0].__dict__)


async def test_a_server_that_never_answers_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    ended = asyncio.Event()

    async def drip(path: str, send: Send) -> None:
        # Part after part, each in time: only a limit on the whole exchange ends this.
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while not ended.is_set():
            await send({"type": "http.response.body", "body": b" ", "more_body": True})
            with suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), 0.02)

    async with immich(drip) as url:
        assert await asyncio.wait_for(api.features(url, timeout=0.3), 5) is None
        ended.set()
    assert "in time" in caplog.records[0].getMessage()
