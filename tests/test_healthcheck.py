"""The image's health check asks where the listener serves, whatever HTTP_HOST is."""

import asyncio
import logging
import re
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from listener import healthcheck
from listener.ops import http
from listener.ops.http import Readiness
from listener.ops.metrics import Metrics
from tests.conftest import eventually_async
from tests.oddities import Oddity

HOSTS = (
    "0.0.0.0",  # noqa: S104 - tried
    "127.0.0.1",
    "127.0.0.2",
    "localhost",
    "::",
    "[::]",
    "::1",
    "[::1]",
)
_IPV6 = socket.has_ipv6 and Path("/proc/net/if_inet6").exists()


@asynccontextmanager
async def serving(host: str, caplog: pytest.LogCaptureFixture) -> AsyncIterator[int]:
    """Serve as the listener does; yields the port."""
    caplog.set_level(logging.INFO, "listener.http")
    stop, told = asyncio.Event(), "serving metrics and health"
    server = asyncio.create_task(http.serve(host, 0, Metrics(), Readiness(), stop=stop))

    async def ready() -> bool:
        if server.done():
            await server
        return told in caplog.text

    await eventually_async(ready)
    try:
        yield next(vars(record)["fields"]["port"] for record in caplog.records if record.getMessage() == told)
    finally:
        stop.set()
        await asyncio.wait_for(server, 5)


def ask(folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "listener.healthcheck"]
    return subprocess.run(command, env=environ, cwd=folder, capture_output=True, text=True, timeout=20, check=False)


@pytest.mark.parametrize("host", HOSTS)
async def test_it_asks_where_the_listener_serves(
    host: str, caplog: pytest.LogCaptureFixture, tmp_path: Path, oddity: Oddity
) -> None:
    if ":" in host and not _IPV6:
        pytest.skip("this machine has no IPv6")
    async with serving(host, caplog) as port:
        done = await asyncio.to_thread(ask, tmp_path, HTTP_HOST=host, HTTP_PORT=str(port))
        assert (done.returncode, done.stderr) == (0, "")
        # Also of IPv4, where it serves on all addresses.
        if host in {"::", "[::]"}:
            assert (await asyncio.to_thread(ask, tmp_path, HTTP_HOST="127.0.0.1", HTTP_PORT=str(port))).returncode == 0
    done = await asyncio.to_thread(ask, tmp_path, HTTP_HOST=host, HTTP_PORT=str(port))
    assert done.returncode == 1
    assert "the listener does not answer" in done.stderr
    oddity(
        "HTTP_HOST is :: or one address.",
        "/healthz at ::1 port 8080 says 200",
        "The health check of the image asks there.",
    )


def test_it_reads_what_the_listener_reads(tmp_path: Path) -> None:
    assert healthcheck.address({}, tmp_path) == ("127.0.0.1", 8080)
    (tmp_path / ".env").write_text("HTTP_HOST='::'\nHTTP_PORT=$WHICH\n")
    assert healthcheck.address({"WHICH": "81"}, tmp_path) == ("::1", 81)
    assert healthcheck.address({"HTTP_HOST": "192.0.2.1", "HTTP_PORT": "82"}, tmp_path) == ("192.0.2.1", 82)


def test_the_image_uses_it_and_it_loads_little() -> None:
    dockerfile = (Path(__file__).parents[1] / "Dockerfile").read_text()
    assert re.search(r'HEALTHCHECK [^\n]*\\\n\s+CMD \["python", "-m", "listener.healthcheck"\]', dockerfile)
    script = "import sys, listener.healthcheck; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert not {"pydantic", "psycopg", "typer"} & {*loaded}
