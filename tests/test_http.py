"""The HTTP side, asked by a real client over a real socket."""

import asyncio
import logging
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import httpx
import pytest

from listener.ops import http
from listener.ops.http import CannotServeError, Condition, Readiness
from listener.ops.metrics import Metrics
from tests.conftest import eventually_async

Serving = Callable[[Metrics, Readiness], AbstractAsyncContextManager[httpx.AsyncClient]]


def ports(caplog: pytest.LogCaptureFixture) -> list[int]:
    """Return the ports that the log names: each listens from then on."""
    told = [record for record in caplog.records if record.getMessage() == "serving metrics and health"]
    return [vars(record)["fields"]["port"] for record in told]


@pytest.fixture
def serving(caplog: pytest.LogCaptureFixture) -> Serving:
    """Return a function that serves on a free port until its block ends, and gives a client of it."""
    caplog.set_level(logging.INFO, "listener.http")

    @asynccontextmanager
    async def serve(metrics: Metrics, readiness: Readiness) -> AsyncIterator[httpx.AsyncClient]:
        stop = asyncio.Event()
        server = asyncio.create_task(http.serve("127.0.0.1", 0, metrics, readiness, stop=stop))

        async def told() -> bool:
            if server.done():
                await server
            return bool(ports(caplog))

        await eventually_async(told)
        url = f"http://127.0.0.1:{ports(caplog)[-1]}"
        async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
            try:
                yield client
            finally:
                stop.set()
                await asyncio.wait_for(server, 5)

    return serve


async def test_metrics_are_served_with_their_names_and_labels(serving: Serving) -> None:
    metrics = Metrics()
    metrics.copies_made.labels(job="holidays").inc(3)
    metrics.files.labels(how="hardlink").inc()
    metrics.latency.observe(0.04)
    metrics.waiting.labels(job="holidays", reason="faces").set(2)
    async with serving(metrics, Readiness()) as client:
        answer = await client.get("/metrics", headers={"accept": "text/plain"})
    assert answer.status_code == 200
    lines = answer.text.splitlines()
    for line in (
        'immich_shared_library_copies_made_total{job="holidays"} 3.0',
        'immich_shared_library_files_total{how="hardlink"} 1.0',
        'immich_shared_library_latency_seconds_bucket{le="0.03"} 0.0',
        'immich_shared_library_latency_seconds_bucket{le="0.05"} 1.0',
        'immich_shared_library_waiting_sources{job="holidays",reason="faces"} 2.0',
        "immich_shared_library_listening 0.0",
    ):
        assert line in lines
    assert any(line.startswith("immich_shared_library_build_info{") for line in lines)
    named = [line for line in lines if line and not line.startswith("#")]
    assert all(line.startswith("immich_shared_library_") for line in named)


async def test_two_sets_of_metrics_do_not_meet(serving: Serving) -> None:
    one, two = Metrics(), Metrics()
    one.reconnects.inc()
    async with serving(two, Readiness()) as client:
        assert "immich_shared_library_reconnects_total 0.0" in (await client.get("/metrics")).text


async def test_ready_only_when_every_condition_holds(serving: Serving) -> None:
    readiness = Readiness()
    async with serving(Metrics(), readiness) as client:
        answer = await client.get("/readyz")
        assert answer.status_code == 503
        assert answer.text.splitlines() == [condition.value for condition in Condition]
        for condition in Condition:
            assert (await client.get("/readyz")).status_code == 503
            readiness.met(condition)
        assert (await client.get("/readyz")).status_code == 200
        readiness.unmet(Condition.LISTENING, "no answer to the last proof of life")
        answer = await client.get("/readyz")
        assert (answer.status_code, answer.text) == (503, "no answer to the last proof of life\n")
        assert (await client.get("/healthz")).status_code == 200


async def test_anything_else_is_refused(serving: Serving) -> None:
    async with serving(Metrics(), Readiness()) as client:
        assert (await client.get("/")).status_code == 404
        assert (await client.get("/metrics/../etc/passwd")).status_code == 404
        refused = await client.post("/metrics", content=b"x")
        assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD")
        head = await client.head("/healthz")
        assert (head.status_code, head.content) == (200, b"")


async def test_odd_headers_do_no_harm(serving: Serving) -> None:
    async with serving(Metrics(), Readiness()) as client:
        answer = await client.get("/metrics", headers=[(b"accept", b"\xff\xfe")])
        assert answer.status_code == 200


async def test_a_port_in_use_is_told_in_words() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(CannotServeError, match=f"HTTP_PORT: cannot serve on 127.0.0.1 port {port}"):
            await http.serve("127.0.0.1", port, Metrics(), Readiness(), stop=asyncio.Event())


async def test_an_address_of_another_machine_is_told_in_words() -> None:
    with pytest.raises(CannotServeError, match="HTTP_HOST"):
        await http.serve("192.0.2.1", 0, Metrics(), Readiness(), stop=asyncio.Event())


async def test_signals_stay_with_the_service_and_stop_is_quick(serving: Serving) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    async with serving(Metrics(), Readiness()) as client:
        await client.get("/healthz")  # leaves a connection open
        assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
        began = time.monotonic()
    assert time.monotonic() - began < 4


async def test_the_port_is_free_again_afterwards(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "listener.http")
    port, stop = 0, asyncio.Event()
    stop.set()
    for _ in range(2):
        await asyncio.wait_for(http.serve("127.0.0.1", port, Metrics(), Readiness(), stop=stop), 5)
        port = ports(caplog)[-1]
