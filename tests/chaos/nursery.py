"""Starts listeners in a fraction of the time: they are forked from a process that has imported everything."""

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

from tests.house import House, Process

_REPOSITORY = Path(__file__).parents[2]


class Nursery:
    """A running nursery; ``started`` counts its processes."""

    def __init__(self, popen: "subprocess.Popen[str]") -> None:
        self._popen = popen
        self._lock = threading.Lock()
        self.started = 0

    def start(self, house: House, mark: str = "", *words: str) -> Process:
        """Start ``listener run``, or other words, with this mark of `tests.chaos.crashing`."""
        log = house.folder / f"listener-{uuid4().hex[:8]}.log"
        log.touch()
        pid = self._ask(
            do="start",
            mark=mark,
            words=words or ("run",),
            # Only Immich's own role may install.
            environment=replace(house, as_immich=bool(words)).environment,
            folder=str(house.folder),
            log=str(log),
        )
        self.started += 1
        return Process(cast("subprocess.Popen[bytes]", Child(self, pid)), log)

    def poll(self, pid: int) -> int | None:
        return cast("int | None", self._ask(do="poll", pid=pid))

    def _ask(self, **request: Any) -> Any:
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        with self._lock:
            self._popen.stdin.write(json.dumps(request) + "\n")
            self._popen.stdin.flush()
            answer = self._popen.stdout.readline()
        assert answer, "the nursery has ended"
        return json.loads(answer)


@dataclass
class Child:
    """A process of a nursery, as `subprocess.Popen` shows one."""

    nursery: Nursery
    pid: int
    returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self.nursery.poll(self.pid)
        return self.returncode

    def wait(self, timeout: float) -> int:
        deadline = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("listener", timeout)
            time.sleep(0.005)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def is_ready(process: Process) -> bool:
    """Tell whether a listener has looked through everything once. Asked often: it costs next to nothing."""
    found = re.search(rb"serving metrics and health .*port=(\d+)", process.log.read_bytes())
    if found is None:
        return False
    connection = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


@contextlib.contextmanager
def nursery(environment: Mapping[str, str] | None = None) -> Iterator[Nursery]:
    """Run a nursery; what it started ends with it."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.chaos.crashing", "nursery"],
        cwd=_REPOSITORY,
        env=None if environment is None else dict(environment),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as popen:
        try:
            yield Nursery(popen)
        finally:
            # Its processes are told to end when it does.
            popen.kill()
