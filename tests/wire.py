"""A wire between the listener and PostgreSQL that a test can cut, freeze, slow down, unplug, and lead elsewhere.

A TCP proxy in a thread of the test's process: TCP in front, the server's Unix socket (or TCP port) behind it.
"""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

from psycopg.conninfo import conninfo_to_dict, make_conninfo

_T = TypeVar("_T")
_CHUNK = 65536
_COMMAND_WITHIN = 10.0


@contextmanager
def wire_to(conninfo: str) -> Iterator["Wire"]:
    """Lay a wire to a server for the length of the block; at its end every connection through it is cut."""
    wire = Wire(conninfo)
    try:
        yield wire
    finally:
        wire.end()


class Wire:
    """The wire. Its methods may be called from any thread and have happened when they return."""

    def __init__(self, conninfo: str) -> None:
        self._target = conninfo_to_dict(conninfo)
        self._links: set[_Link] = set()
        self._delay = 0.0
        self._bytes_per_second: float | None = None
        self._frozen = False
        self._listening: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.port = 0
        self.accept()

    def conninfo(self, conninfo: str) -> str:
        """Return how to reach the same database through this wire."""
        return make_conninfo(conninfo, host="127.0.0.1", port=self.port)

    @property
    def links(self) -> int:
        """How many connections there are now that are not frozen."""
        return self._run(self._count())

    def cut(self, how: Literal["FIN", "RST"] = "RST") -> int:
        """End every connection; new ones pass. Returns how many there were."""
        return self._run(self._cut(how))

    def freeze(self) -> None:
        """Deliver nothing more, either way; also new connections get no answer. All stay open."""
        self._run(self._freeze(everything=True))

    def half_open(self) -> int:
        """Freeze what is connected now, as a router does that has forgotten it; new connections pass."""
        return self._run(self._freeze(everything=False))

    def thaw(self) -> None:
        """Deliver again, also what was held back."""
        self._run(self._thaw())

    def slow(self, *, delay: float = 0.0, bytes_per_second: float | None = None) -> None:
        """Deliver each piece some seconds late, each way."""
        self._delay, self._bytes_per_second = delay, bytes_per_second

    def retarget(self, conninfo: str) -> None:
        """Lead new connections to another server."""
        self._target = conninfo_to_dict(conninfo)

    def refuse(self) -> None:
        """Refuse new connections; those that are there stay."""
        self._run(self._refuse())

    def accept(self) -> None:
        """Take new connections (again), on the same port."""
        self._run(self._accept())

    def end(self) -> None:
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_COMMAND_WITHIN)
        self._loop.close()

    # --- in the loop ------------------------------------------------------------------------------------

    def _run(self, work: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_COMMAND_WITHIN)

    async def _accept(self) -> None:
        self._listening = await asyncio.start_server(self._connected, "127.0.0.1", self.port, reuse_address=True)
        self.port = self._listening.sockets[0].getsockname()[1]

    async def _refuse(self) -> None:
        if self._listening is not None:
            self._listening.close()
            self._listening = None

    async def _count(self) -> int:
        return sum(link.passing.is_set() for link in self._links)

    async def _cut(self, how: Literal["FIN", "RST"]) -> int:
        links = list(self._links)
        for link in links:
            link.cut(how)
        return len(links)

    async def _freeze(self, *, everything: bool) -> int:
        self._frozen = everything
        for link in self._links:
            link.passing.clear()
        return len(self._links)

    async def _thaw(self) -> None:
        self._frozen = False
        for link in self._links:
            link.passing.set()

    async def _end(self) -> None:
        await self._refuse()
        await self._cut("FIN")
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = _Link(writer)
        self._links.add(link)
        try:
            if self._frozen:
                link.passing.clear()
            await link.passing.wait()
            far_reader, far_writer = await self._open_target()
            link.writers.append(far_writer)
            ends = [
                asyncio.create_task(self._pump(link, reader, far_writer)),
                asyncio.create_task(self._pump(link, far_reader, writer)),
            ]
            try:
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for end in ends:
                    end.cancel()
                await asyncio.gather(*ends, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            # No server behind the wire: the client sees its connection end. Or this is the end, of which asyncio
            # would complain (up to Python 3.11) if the task ended by it.
            pass
        finally:
            self._links.discard(link)
            link.cut("FIN")

    async def _open_target(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, port = str(self._target["host"]), int(str(self._target.get("port") or 5432))
        if host.startswith("/"):
            return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        return await asyncio.open_connection(host, port)

    async def _pump(self, link: "_Link", reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            data = await reader.read(_CHUNK)
            # An end is held back like everything else: the other side of a frozen wire hears of nothing.
            await link.passing.wait()
            if not data:
                return
            if pause := self._delay + (len(data) / self._bytes_per_second if self._bytes_per_second else 0.0):
                await asyncio.sleep(pause)
                await link.passing.wait()
            writer.write(data)
            await writer.drain()


class _Link:
    """One connection through the wire."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.writers = [writer]
        self.passing = asyncio.Event()
        self.passing.set()

    def cut(self, how: Literal["FIN", "RST"]) -> None:
        for writer in self.writers:
            if how == "RST":
                with contextlib.suppress(OSError):
                    wire: socket.socket = writer.get_extra_info("socket")
                    wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
            else:
                writer.close()
