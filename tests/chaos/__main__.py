"""`make chaos`: every kind of fault, and a table of what was lost: nothing.

    python -m tests.chaos [--seed N] [--short] [--only NAME ...]

The long form takes about a quarter of an hour and writes docs/reliability.md. The short form has one database for all
kinds, and is part of the tests. Ends with 1 if there is something in the table that should not be.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
from rich.console import Console

from listener.standin import schema
from listener.standin.postgres import create_database, drop_database
from tests.behaviour.conftest import make_home
from tests.chaos.faults import DISK, KINDS, Kind, NotHereError
from tests.chaos.nursery import Nursery, nursery
from tests.chaos.report import Line, Report
from tests.chaos.server import Server, running
from tests.chaos.street import Street
from tests.conftest import DEFAULT_RELEASE, ImmichDatabase, Roots

_PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"


def main() -> int:
    words = argparse.ArgumentParser(prog="python -m tests.chaos", description="Tries every kind of fault.")
    words.add_argument("--seed", type=int, default=None, help="draw the same faults again")
    words.add_argument("--short", action="store_true", help="some of each kind, for the tests")
    words.add_argument("--only", action="append", help="only kinds with this in their names")
    given = words.parse_args()
    # Told to stop, it takes its server and its disk away first.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    kinds = [kind for kind in KINDS if not given.only or any(part in kind.name for part in given.only)]
    seed = random.randrange(2**32) if given.seed is None else given.seed
    console = Console() if sys.stdout.isatty() else Console(width=140)
    console.print(f"seed {seed}")
    report = run(kinds, seed, short=given.short, console=console)
    report.show(console)
    if not given.short and not given.only:
        _PAGE.write_text(report.page(_PAGE.read_text() if _PAGE.exists() else ""))
    return 1 if report.total.findings else 0


def run(kinds: Sequence[Kind], seed: int, *, short: bool, console: Console) -> Report:
    began = time.monotonic()
    with ExitStack() as closing:
        folder = Path(tempfile.mkdtemp(prefix="listener-chaos-"))
        closing.callback(shutil.rmtree, folder, ignore_errors=True)
        server = closing.enter_context(running(folder / "postgres"))
        nursed = closing.enter_context(nursery())
        template = create_database(server.conninfo, "immich")
        with psycopg.connect(template) as connection:
            schema.build(connection, DEFAULT_RELEASE)
            postgres = connection.info.parameter_status("server_version") or ""
        lines = []
        # The long form has a life for each kind: what went before does not slow down what comes.
        for together in [kinds] if short else [[kind] for kind in kinds]:
            rng = random.Random(f"{seed} {together[0].name}")
            with street(server, nursed, folder / uuid.uuid4().hex[:8], rng, photos=4 if short else 12) as made:
                for kind in together:
                    lines.append(_try(kind, made, server, kind.short if short else kind.long))
                    console.print(f"{time.monotonic() - began:4.0f} s  {kind.name}", highlight=False)
        return Report(lines, seed, DEFAULT_RELEASE, postgres.split()[0], time.monotonic() - began)


@contextmanager
def street(server: Server, nursed: Nursery, folder: Path, rng: random.Random, *, photos: int) -> Iterator[Street]:
    """Make a database with its users, who have moved in, and folders that are a disk of their own where that may be."""
    with ExitStack() as closing:
        name = f"chaos_{uuid.uuid4().hex}"
        conninfo = create_database(server.conninfo, name, "immich")
        closing.callback(drop_database, server.conninfo, name)
        mount = folder / "disk"
        mount.mkdir(parents=True)
        if os.geteuid() == 0:
            words = ["mount", "-t", "tmpfs", "-o", DISK, "tmpfs", str(mount)]
            if subprocess.run(words, check=False, capture_output=True).returncode == 0:
                closing.callback(subprocess.run, ["umount", "--lazy", str(mount)], check=False, capture_output=True)
        roots = Roots(mount / "data", mount / "external_library")
        for root in (roots.media, roots.external):
            root.mkdir()
        home = make_home(ImmichDatabase(conninfo, DEFAULT_RELEASE), roots, folder, closing, both_ways=True)
        made = Street(home, nursed, rng, closing)
        made.move_in(photos)
        yield made


def _try(kind: Kind, made: Street, server: Server, times: int) -> Line:
    line = Line(kind.name, kind.what)
    statements = made.immich.statements
    before, failed, trouble = statements.run, len(statements.failed), len(made.immich.trouble)
    try:
        line.tried = kind.work(made, server, times)
    except NotHereError as error:
        line.left_out = str(error)
        return line
    verdict = made.judge()
    line.copies, line.statements = verdict.copies, statements.run - before
    line.failed = statements.failed[failed:]
    line.lost = [*verdict.lost, *made.immich.trouble[trouble:]]
    line.doubled, line.orphaned = verdict.doubled, verdict.orphaned
    return line


if __name__ == "__main__":
    sys.exit(main())
