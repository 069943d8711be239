"""The HTTP side: ``/metrics`` for Prometheus, ``/healthz`` (alive) and ``/readyz`` (working, or why not).

It runs inside the listener's own event loop, so an answer from ``/healthz`` proves that the loop turns.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from enum import StrEnum
from typing import Any

import uvicorn
from prometheus_client import make_asgi_app
from uvicorn.protocols.http.h11_impl import H11Protocol

from listener.ops import logs
from listener.ops.metrics import Metrics

_log = logs.get("http")
_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
_Application = Callable[[_Message, _Receive, _Send], Awaitable[None]]
_SHUTDOWN = 1  # seconds that an answer under way may still take
_ASKS_WITHIN = 10.0  # seconds
_CONNECTIONS = 64  # of which the oldest idle ones make room for more


class Condition(StrEnum):
    """What must hold before the listener does its work; the text says that it does not."""

    DATABASE = "not connected to Immich's database"
    LISTENING = "notifications are not proven to arrive"
    FIRST_SWEEP = "the first sweep is not done"
    MOUNTED = "a folder is not mounted or cannot be used"
    ANSWERING = "a folder does not answer"
    SERVED = "a job is refused"


class Readiness:
    """The conditions that hold at this moment; at first none does."""

    def __init__(self) -> None:
        self._reasons: dict[Condition, str] = {condition: condition.value for condition in Condition}

    def met(self, condition: Condition) -> None:
        self._reasons.pop(condition, None)

    def unmet(self, condition: Condition, reason: str | None = None) -> None:
        """Take a condition back; ``reason`` says more than the condition's own text."""
        self._reasons[condition] = reason or condition.value

    def lacks(self, condition: Condition) -> bool:
        """Tell whether this condition does not hold."""
        return condition in self._reasons

    @property
    def reasons(self) -> tuple[str, ...]:
        """What is still missing, in the order of the conditions; empty when ready."""
        return tuple(self._reasons[condition] for condition in Condition if condition in self._reasons)

    @property
    def ready(self) -> bool:
        return not self._reasons


class CannotServeError(Exception):
    """The address cannot be served on; the text says what to do."""


class _Server(uvicorn.Server):
    """Uvicorn leaves signals to the service, which stops it by an event."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Impatient(H11Protocol):
    """A connection that is closed where it asks for nothing: those who ask for health must always have one."""

    since = 0.0
    _patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.since = self.loop.time()
        self._patience = self.loop.call_later(_ASKS_WITHIN, self.close_if_idle)
        # Whoever came first and asks for nothing makes room.
        idle = [other for other in self.connections if isinstance(other, _Impatient) and other.idle]
        for other in sorted(idle, key=lambda one: one.since)[: max(0, len(self.connections) - _CONNECTIONS)]:
            other.close_if_idle()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._patience is not None:
            self._patience.cancel()
        super().connection_lost(exc)

    @property
    def idle(self) -> bool:
        """Whether nothing is asked for just now."""
        return self.cycle is None or self.cycle.response_complete

    def close_if_idle(self) -> None:
        """Hang up unless an answer is under way."""
        if self.idle and not self.transport.is_closing():
            self.transport.close()
            self.connections.discard(self)


async def serve(host: str, port: int, metrics: Metrics, readiness: Readiness, *, stop: asyncio.Event) -> None:
    """Serve until ``stop`` is set, then end within about a second. Port 0: any free one, named in the log.

    Raises CannotServeError if the address is in use or not this machine's.
    """
    listening = await _bind(host, port)
    config = uvicorn.Config(
        _application(metrics, readiness),
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        server_header=False,
        timeout_graceful_shutdown=_SHUTDOWN,
        http=_Impatient,
    )
    server = _Server(config)
    with listening:
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        stopping = asyncio.create_task(stop.wait())
        _log.info("serving metrics and health", host=host, port=listening.getsockname()[1])
        try:
            await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            server.should_exit = True
            await serving


async def _bind(host: str, port: int) -> socket.socket:
    try:
        if (host := host.removeprefix("[").removesuffix("]")) == "::":
            # All addresses, of IPv4 too: some systems would take those of IPv6 alone.
            return socket.create_server(
                (host, port), family=socket.AF_INET6, backlog=64, dualstack_ipv6=socket.has_dualstack_ipv6()
            )
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        family, _, _, _, address = found[0]
        return socket.create_server(address, family=family, backlog=64)
    except OSError as failure:
        reason = failure.strerror or str(failure)
        raise CannotServeError(
            f"HTTP_PORT: cannot serve on {host} port {port}: {reason}. Set HTTP_PORT to a free port, "
            "and HTTP_HOST to an address of this machine."
        ) from failure


def _application(metrics: Metrics, readiness: Readiness) -> _Application:
    of_prometheus = make_asgi_app(metrics.registry)

    async def application(scope: _Message, receive: _Receive, send: _Send) -> None:
        if scope["type"] != "http":
            return
        if scope["path"] not in {"/metrics", "/healthz", "/readyz"}:
            await _answer(send, 404, "Not found. There are /metrics, /healthz and /readyz.")
        elif scope["method"] not in {"GET", "HEAD"}:
            await _answer(send, 405, "Only GET and HEAD.", (b"allow", b"GET, HEAD"))
        elif scope["path"] == "/metrics":
            # Prometheus's client decodes what it is sent without a check.
            headers = [pair for pair in scope["headers"] if pair[1].isascii()]
            await of_prometheus({**scope, "headers": headers}, receive, send)
        elif scope["path"] == "/readyz" and not readiness.ready:
            await _answer(send, 503, "\n".join(readiness.reasons))
        else:
            await _answer(send, 200, "ready" if scope["path"] == "/readyz" else "alive")

    return application


async def _answer(send: _Send, status: int, text: str, *headers: tuple[bytes, bytes]) -> None:
    # Names of folders may be no UTF-8.
    body = f"{text}\n".encode(errors="backslashreplace")
    plain = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*plain, *headers]})
    await send({"type": "http.response.body", "body": body})
