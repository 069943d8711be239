"""A PostgreSQL that can be struck down and started again under the same address."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

from listener.standin.postgres import embedded, programs_of
from tests.conftest import eventually

VERSION = 18


@dataclass(frozen=True, slots=True)
class Server:
    """``conninfo`` is that of its maintenance database."""

    conninfo: str
    data: Path

    def restart(self) -> None:
        """Stop it as a crash does, without a word to its sessions, and start it again."""
        self._control("restart", "-W")
        eventually(self._answers, within=30, describe="PostgreSQL does not come back")

    def stop(self) -> None:
        self._control("stop", "-w")

    def _control(self, *words: str) -> None:
        with (self.data / "server.log").open("ab") as log:
            subprocess.run(
                [programs_of(VERSION) / "pg_ctl", *words, "--mode", "immediate", "--pgdata", self.data],
                check=True,
                stdout=log,
                stderr=log,
                cwd=self.data,
                # It refuses to run as root, as the server does.
                user=self.data.stat().st_uid if os.geteuid() == 0 else None,
                group=self.data.stat().st_gid if os.geteuid() == 0 else None,
                extra_groups=[] if os.geteuid() == 0 else None,
            )

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.conninfo).close()
        except psycopg.OperationalError:
            return False
        return True


@contextmanager
def running(folder: Path) -> Iterator[Server]:
    """Run a server on a folder until the block ends, whoever started it last."""
    with embedded(folder, version=VERSION, durable=False) as conninfo:
        server = Server(conninfo, folder)
        try:
            yield server
        finally:
            server.stop()
