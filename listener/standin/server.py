"""The part of Immich's HTTP API that a listener asks for: a real server's recorded answers, on a free port."""

import json
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import uvicorn

_RECORDED = Path(__file__).parent / "data" / "api-v3.0.3.json"
_STOP_SECONDS = 10.0

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]


def recorded_answer(path: str) -> tuple[int, bytes]:
    """Return status and body of what Immich 3.0.3 answered to a GET without a key; 404 for all else."""
    return _answers().get(path, (404, b"{}"))


@cache
def _answers() -> dict[str, tuple[int, bytes]]:
    pairs = json.loads(_RECORDED.read_text(encoding="utf-8"))
    return {
        pair["request"]["path"]: (pair["status"], json.dumps(pair["response"]).encode())
        for pair in pairs
        if pair["request"]["method"] == "GET" and pair["request"]["key"] is None
    }


async def _application(scope: Message, _receive: object, send: Send) -> None:
    status, body = recorded_answer(scope["path"])
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": body})


@contextmanager
def immich_api() -> Iterator[str]:
    """Serve the recorded answers in a thread until the block ends; yield the address."""
    config = uvicorn.Config(_application, log_config=None, lifespan="off", ws="none", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    # Bound before the thread starts: who connects early waits in the backlog.
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, name="immich's API", daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(_STOP_SECONDS)
