"""The faults, kind by kind: each is tried so many times while Immich's users go on clicking."""

import json
import os
import random
import string
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql

from listener import channel
from tests import role
from tests.chaos.acting import WITHOUT_FILES
from tests.chaos.nursery import is_ready
from tests.chaos.server import Server
from tests.chaos.street import Street
from tests.chaos.ways import Ways
from tests.conftest import eventually
from tests.house import Process
from tests.phone import polling
from tests.wire import Wire, wire_to

_OUR_SESSIONS = "SELECT pid FROM pg_stat_activity WHERE usename = %s AND datname = current_database()"
_ENOUGH_LABELS = 20
_TABLES = ("asset", "asset_exif", "asset_file", "asset_face", "person", "stack", "tag_asset", "asset_job_status")


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of fault. ``short``, ``long``: how many are tried in each form; ``what`` says it in the report."""

    name: str
    what: str
    short: int
    long: int
    work: Callable[[Street, Server, int], int]


class NotHereError(Exception):
    """This machine cannot make such a fault; the text says why."""


def kill_in_first_sync(street: Street, server: Server, times: int) -> int:
    street.kill_all()
    for number in range(times):
        if number % 2 == 0:
            street.add(60)
        _start_and_kill(street)
    return times


def kill_in_updates(street: Street, server: Server, times: int) -> int:
    """With bob's phone, which must have his copies in the end."""
    bob = street.home.bob.user_id
    street.kill_all()
    with polling(street.house.immich.conninfo, bob) as phone:
        with street.immich.at_work():
            for _ in range(times):
                _start_and_kill(street)
        street.quiet()
        copies = set(street.immich.users.copies("bob").values())

        def unknown() -> list[str]:
            # What Immich itself writes, also when bob clicks on a copy, it may let a phone miss.
            return [
                str(difference)
                for difference in phone.differences()
                if difference.key[0] in copies and not (difference.table == "asset" and difference.by_immich)
            ]

        _eventually_none(street, unknown)
    return times


def _eventually_none(street: Street, look: Callable[[], list[str]]) -> None:
    deadline = time.monotonic() + 20
    while (found := look()) and time.monotonic() < deadline:
        time.sleep(0.1)
    street.immich.trouble += [f"a phone: {line}" for line in found]


def kill_in_removal(street: Street, server: Server, times: int) -> int:
    street.add(150)
    street.quiet()
    street.kill_all()
    with street.immich.at_work():
        for number in range(times):
            if number % 2 == 0:
                (street.restore_many if number % 4 else street.trash_many)()
            _start_and_kill(street)
    street.restore_many()
    return times


def kill_while_things_move(street: Street, server: Server, times: int) -> int:
    street.kill_all()
    with ExitStack() as closing:
        ways = Ways(street, street.another_alice(closing))
        ways.share_only(None)
        street.quiet()
        street.kill_all()
        with street.immich.at_work():
            for _, _ in zip(range(times), ways.each(), strict=False):
                _start_and_kill(street)
        ways.end()
    return times


def _start_and_kill(street: Street) -> None:
    process = street.start()
    # From before it is connected until after it has done what there was to do.
    time.sleep(street.rng.uniform(0.2, 1.6) * street.pace)
    street.kill(process)


def failpoints(street: Street, server: Server, times: int) -> int:
    """At each labelled point the process kills itself, at a time of its coming there that is drawn."""
    labels = street.rng.sample(street.labels, min(times, len(street.labels)))
    reached = 0
    street.kill_all()
    with street.immich.at_work():
        for number, label in enumerate(labels):
            if number % 3 == 0:
                street.add(4)
            elif number % 6 == 1:
                street.trash_many()
            elif number % 6 == 4:
                street.restore_many()
            process = street.start(f"{label}:{street.rng.randrange(1, 3)}")
            _wait_for_the_end(process)
            # A line that another thread wrote at that moment may follow.
            reached += f"killed {label}\n" in process.output
            street.kill(process)
    street.restore_many()
    # Not all can be: some belong to a first start. Of a few, chance decides.
    if len(labels) >= _ENOUGH_LABELS and reached < len(labels) / 3:
        street.immich.trouble.append(f"only {reached} of {len(labels)} points were reached")
    return len(labels)


def _wait_for_the_end(process: Process) -> None:
    """Wait until a listener has killed itself, or has looked through everything and a while longer."""
    deadline, ready = time.monotonic() + 20, False
    while process.popen.poll() is None and time.monotonic() < deadline:
        if not ready and (ready := is_ready(process)):
            deadline = time.monotonic() + 0.7
        time.sleep(0.02)


def terminate(street: Street, server: Server, times: int) -> int:
    """An administrator ends one of our sessions, whichever it is."""
    with street.immich.at_work():
        for _ in range(times):
            # Who is ended at each try to connect tries ever less often: it is given the time to work in between.
            street.wait_ready()
            time.sleep(street.rng.uniform(0.02, 0.3))
            # There may be none yet: one that has just been ended is not back at once.
            sessions = eventually_some(lambda: street.house.query(_OUR_SESSIONS, role.NAME))
            street.house.query("SELECT pg_terminate_backend(%s)", street.rng.choice(sessions)[0])
    return times


def eventually_some(look: Callable[[], list[tuple[object, ...]]]) -> list[tuple[object, ...]]:
    """Wait until there is something to be seen, and return it."""
    found: list[tuple[object, ...]] = []

    def seen() -> bool:
        found[:] = look()
        return bool(found)

    eventually(seen, within=60, describe="the listener does not connect")
    return found


def wire(street: Street, server: Server, times: int) -> int:
    """Between the listener and PostgreSQL: cut, refused, silent for a moment, forgotten by a router, slow."""
    with wire_to(street.house.immich.conninfo) as laid, street.immich.at_work():
        street.listen_through(laid.conninfo)
        try:
            for _ in range(times):
                street.alive()
                time.sleep(street.rng.uniform(0.05, 0.6))
                _disturb(laid, street.rng)
        finally:
            laid.thaw()
            # Whoever has lost it for good is not asked to find out first.
            street.listen_through(None)
    return times


def _disturb(laid: Wire, rng: random.Random) -> None:
    match rng.randrange(6):
        case 0:
            laid.freeze()
            time.sleep(rng.uniform(0.1, 1.0))
            laid.thaw()
        case 1:
            laid.half_open()
        case 2:
            laid.refuse()
            laid.cut()
            time.sleep(rng.uniform(0.1, 0.5))
            laid.accept()
        case 3:
            laid.slow(delay=0.01)
            time.sleep(rng.uniform(0.1, 0.5))
            laid.slow()
        case 4:
            laid.cut("FIN")
        case _:
            laid.cut("RST")


def restart(street: Street, server: Server, times: int) -> int:
    """The server goes down at once, as in a crash, and is started again; Immich waits for it, and connects anew."""
    with street.immich.at_work():
        for _ in range(times):
            street.alive()
            time.sleep(street.rng.uniform(0.2, 1.2))
            with street.immich.held():
                server.restart()
                street.reconnect()
    return times


def second_listener(street: Street, server: Server, times: int) -> int:
    """A second listener is started beside the first, and one of them is killed."""
    with street.immich.at_work():
        for _ in range(times):
            street.alive()
            street.start()
            time.sleep(street.rng.uniform(0.1, 1.0))
            street.kill(street.rng.choice(street.listeners))
    return times


def locks(street: Street, server: Server, times: int) -> int:
    """A migration of Immich's locks tables against everybody, for a moment or for longer than we wait."""
    with street.immich.at_work(), psycopg.connect(street.house.immich.conninfo) as migration:
        for _ in range(times):
            street.alive()
            time.sleep(street.rng.uniform(0.02, 0.3))
            # While it takes its locks Immich does nothing else: it has just been started.
            with street.immich.held():
                for table in street.rng.sample(_TABLES, street.rng.randrange(1, 4)):
                    lock = sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(sql.Identifier(table))
                    street.immich.statements.counted(migration.execute)(lock)
            time.sleep(street.rng.choice((0.02, 0.3, 1.0)))
            migration.commit()
    return times


def disk(street: Street, server: Server, times: int) -> int:
    """No space, no inodes, or read-only, for a while; nobody can write a file then, Immich neither."""
    mount = street.house.folder / "disk"
    if not mount.is_mount():
        raise NotHereError("needs a file system of its own: only root may mount one")
    done = 0
    street.add(20)
    with street.immich.at_work(WITHOUT_FILES):
        for number in range(times):
            street.alive()
            fault = ("size", "nr_inodes", "ro")[number % 3]
            with street.immich.held():
                # New photos are about to be copied.
                street.add(6)
                done += _remount(mount, fault)
            (street.trash_many if number % 2 else street.restore_many)()
            time.sleep(street.rng.uniform(0.2, 1.0))
            _remount(mount, "healed")
            time.sleep(street.rng.uniform(0.1, 0.4))
    street.restore_many()
    return done


def _remount(mount: Path, fault: str) -> bool:
    now = os.statvfs(mount)
    options = {
        "size": f"rw,size={(now.f_blocks - now.f_bfree) * now.f_frsize}",
        "nr_inodes": f"rw,nr_inodes={now.f_files - now.f_ffree}",
        "ro": "ro",
        "healed": f"rw,{DISK}",
    }
    # Not read-only while a file is open for writing: tried until it is closed.
    for _ in range(50):
        words = ["mount", "-o", f"remount,{options[fault]}", str(mount)]
        if subprocess.run(words, check=False, capture_output=True).returncode == 0:
            return True
        time.sleep(0.01)
    return False


DISK = "size=1g,nr_inodes=200000"


def fuzz(street: Street, server: Server, times: int) -> int:
    """Payloads that nobody sent on purpose: all are read by the channel, some thousands come through PostgreSQL."""
    rng = street.rng
    for number in range(times):
        payload = _payload(rng)
        try:
            channel.decode(payload)
        except channel.UnreadableError:
            pass
        except Exception as error:  # noqa: BLE001 - whatever else it is, is the finding
            street.immich.trouble.append(f"payload {number} {payload[:200]!r}: {type(error).__name__} {error}")
    process = street.alive()
    eventually(lambda: is_ready(process), within=30)
    with street.immich.at_work(), psycopg.connect(street.house.immich.conninfo, autocommit=True) as connection:
        for _ in range(min(5000, times // 40)):
            # PostgreSQL knows no NUL, and takes payloads below 8,000 bytes.
            payload = _payload(rng).replace("\x00", "").encode("utf-8", "replace")[:7999].decode("utf-8", "ignore")
            connection.execute("SELECT pg_notify(%s, %s)", (channel.CHANNEL, payload))
    if process.popen.poll() is not None:
        street.immich.trouble.append(f"it did not survive what it heard: {process.output[-500:]}")
    return times


_SEEDS = (
    '{"v": 1, "kind": "asset", "ids": ["00000000-0000-4000-8000-000000000001"], "at": 1714979289.123}',
    '{"v": 1, "kind": "person", "ids": ["00000000-0000-4000-8000-000000000001", "x"]}',
    '{"v": 1, "kind": "sweep"}',
    '{"v": 1, "kind": "ping", "id": "00000000-0000-4000-8000-000000000001"}',
    '{"v": 1, "kind": "asset", "ids": []}',
    "[" * 4000,
    '{"v":' * 900,
    "null",
    "",
)
_PIECES = (
    *('"', "{", "}", "[", "]", ":", ",", "null", "true", "1e999", "-1", "NaN", "Infinity", "1" * 5000, '"v"', '"ids"'),
    *("\\u0000", "\\ud800", "\x00", "\u202e", "é", "\U0001f4f7", "' OR 1=1; --", "'); DROP TABLE asset; --", "\\"),
    *(f'"{kind}"' for kind in ("asset", "person", "sweep", "ping")),
)


def _payload(rng: random.Random) -> str:
    """Return a payload of ours with something wrong in it, or any text at all."""
    draw = rng.random()
    if draw < 0.1:
        return "".join(rng.choices(string.printable, k=rng.randrange(60)))
    if draw < 0.15:
        ids = [f"{rng.getrandbits(128):032x}" for _ in range(rng.choice((1, 3, 220, 501)))]
        return json.dumps({"v": rng.choice((1, 1, 2, True)), "kind": rng.choice(("asset", "person")), "ids": ids})
    text = rng.choice(_SEEDS)
    for _ in range(rng.randrange(1, 4)):
        at, end = sorted((rng.randrange(len(text) + 1), rng.randrange(len(text) + 1)))
        piece = rng.choice(_PIECES)
        # Put in, put in place of a part, or a part left out.
        text = text[:at] + (piece if rng.random() < 0.7 else "") + text[at if rng.random() < 0.5 else end :]
    return text


KINDS = (
    Kind("kill -9 in the first sync", "at a random moment, while new photos are copied", 3, 110, kill_in_first_sync),
    Kind("kill -9 in updates", "at a random moment, while both click and a phone reads", 3, 110, kill_in_updates),
    Kind("kill -9 in removal", "at a random moment, while copies by the hundred go and come", 3, 110, kill_in_removal),
    Kind(
        "kill -9 while things move",
        "at a random moment, while photos are locked, offline, at each other's places, out of the settings, and "
        "somebody's files are where links belong",
        8,
        104,
        kill_while_things_move,
    ),
    Kind("killed at a labelled point", "before or after each commit, link, unlink, and so on", 4, 200, failpoints),
    Kind("our session ended", "pg_terminate_backend of one of our sessions", 3, 60, terminate),
    Kind("the wire", "cut, refused, silent for a moment, forgotten by a router, slow", 3, 40, wire),
    Kind("server restarted", "pg_ctl restart --mode immediate", 1, 10, restart),
    Kind("a second listener", "started beside the first, and one of the two killed", 2, 15, second_listener),
    Kind("tables locked", "ACCESS EXCLUSIVE by a migration, up to a second", 2, 30, locks),
    Kind("disk full or read-only", "no space, no inodes, or read-only, up to a second", 3, 20, disk),
    Kind("fuzzed payloads", "on the channel", 20_000, 1_000_000, fuzz),
)
