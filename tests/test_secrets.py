"""Secrets stay secret: the database's password and the API key are in nothing that the listener prints or serves.

The process goes through every kind of failure, as loud as it can be, and all it printed is searched.
"""

import http.server
import json
import re
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.conftest import ImmichDatabase, Roots, eventually
from tests.house import House, Process
from tests.photos import photo_house

PASSWORD = "s3cret p@ss/w'or\\d%=é\"Zx"
API_KEY = "K3y&<of>=api+'\\Zx"
COMMANDS = (
    ("status",), ("check", "--json"), ("verify",), ("skipped", "list"), ("failures", "list", "--json"),
    ("failures", "retry", "--all"), ("config", "show"), ("triggers", "install"), ("triggers", "status"),
    ("role", "print"), ("reconcile",), ("reconcile", "--dry-run"), ("triggers", "uninstall", "--yes"), ("nonsense",),
)  # fmt: skip


def forms(secret: str) -> set[str]:
    """Return a secret in every form in which somebody might quote it."""
    in_conninfo = secret.replace("\\", r"\\").replace("'", r"\'")
    plain = {secret, quote(secret), quote(secret, safe=""), quote_plus(secret), in_conninfo}
    return plain | {form for text in plain for form in (repr(text)[1:-1], json.dumps(text)[1:-1], ascii(text)[1:-1])}


FORMS = forms(PASSWORD) | forms(API_KEY)


def assert_silent(*texts: str) -> None:
    for text in texts:
        assert [form for form in FORMS if form in text] == []
        # And no part of them by which they would be known: both end alike, and nothing else does.
        assert "Zx" not in text


@pytest.fixture
def house(immich: ImmichDatabase, roots: Roots, tmp_path: Path) -> House:
    """Return a house in which every secret is set, and everything is told."""
    house = photo_house(immich, roots, tmp_path).house
    return with_url(house, house.environment["DB_URL"], IMMICH_API_KEY=API_KEY)


def with_url(house: House, url: str, **extra: str) -> House:
    secret = re.sub(r"//([^:@/]*)(:[^@]*)?@", lambda found: f"//{found[1]}:{quote(PASSWORD, safe='')}@", url)
    return replace(house, extra={**house.extra, "DB_URL": secret, "LOG_LEVEL": "DEBUG", **extra})


def printed(process: Process) -> str:
    """Return what the process printed, serves, and shows to whoever lists processes."""
    pages = []
    if process.popen.poll() is None:
        pages = [process.get(path) for path in ("/healthz", "/readyz", "/metrics", "/", "/debug", "/metrics?x=1")]
        pages.append(process.get(f"/{quote('a b')}"))
        shown = Path(f"/proc/{process.popen.pid}/cmdline").read_bytes().decode()
        title = Path(f"/proc/{process.popen.pid}/comm").read_text()
        assert "listener" in shown
        assert_silent(shown, title)
    answers = [f"{page.status_code} {page.headers} {page.text}" for page in pages]
    return "\n".join([process.output, *answers])


@contextmanager
def served(handler: type[socketserver.BaseRequestHandler]) -> Iterator[int]:
    """Serve on a free port; yield it."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join(5)


class WrongPassword(socketserver.BaseRequestHandler):
    """A PostgreSQL that asks for the password in clear, and quotes what it got when it refuses it."""

    def handle(self) -> None:
        while len(head := self.request.recv(8)) == 8:
            length, code = int.from_bytes(head[:4]), int.from_bytes(head[4:])
            if code in {80877103, 80877104}:  # may it be encrypted?
                self.request.sendall(b"N")
                continue
            self.request.recv(length - 8)
            self.request.sendall(b"R" + (8).to_bytes(4) + (3).to_bytes(4))
            got = self.request.recv(1024)[5:-1]
            words = b'SFATAL\0VFATAL\0C28P01\0Mpassword "' + got + b'" is wrong\0\0'
            self.request.sendall(b"E" + (len(words) + 4).to_bytes(4) + words)
            return


class Echo(http.server.BaseHTTPRequestHandler):
    """An API that answers with what it was asked, the key too."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = str(self.headers).encode()
        self.send_response(401, "not with " + self.headers.get("x-api-key", "").encode("unicode_escape").decode())
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_running_listener_tells_no_secret(house: House, log_format: str) -> None:
    with served(Echo) as port:
        house = replace(
            house, extra={**house.extra, "LOG_FORMAT": log_format, "IMMICH_API_URL": f"http://127.0.0.1:{port}"}
        )
        with house.running() as process:
            house.settled()
            house.query("SELECT pg_notify('immich_shared_library', %s)", json.dumps({"v": PASSWORD, "key": API_KEY}))
            eventually(lambda: process.metric("notifications_ignored_total") == 1)
            house.query(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
                " AND pid <> pg_backend_pid()"
            )
            eventually(lambda: "trying again" in process.output, describe=lambda: process.output)
            assert_silent(printed(process))
            process.wait_ready()
            assert_silent(printed(process))
            assert process.end() == 0
        assert_silent(process.output)


CRASH = """
import os
from psycopg.conninfo import make_conninfo
import listener.{module}
password, key = {secrets!r}

def crash(*_, **__):
    told = [os.environ["DB_URL"], password, key, make_conninfo(password=password)]
    try:
        raise ValueError(*told)
    except ValueError as cause:
        raise RuntimeError("\\n".join(told)) from cause

listener.{module}.{name} = crash
"""


def sabotaged(house: House, folder: Path, module: str, name: str) -> House:
    """Let a function fail with every secret in its words."""
    text = CRASH.format(module=module, name=name, secrets=(PASSWORD, API_KEY))
    (folder / "sitecustomize.py").write_text(text)
    return replace(house, extra={**house.extra, "PYTHONPATH": str(folder)})


@pytest.mark.parametrize(
    ("module", "name"), [("startup", "prepare"), ("workqueue", "WorkQueue.take"), ("ops.http", "serve")]
)
def test_what_fails_in_the_service_tells_no_secret(house: House, tmp_path: Path, module: str, name: str) -> None:
    """It is told, with the traceback for those who ask for it (DEBUG), and begun anew."""
    folder = tmp_path / "sabotage"
    folder.mkdir()
    house = sabotaged(house, folder, module, name)
    house = replace(house, extra={**house.extra, "LOG_FORMAT": "json"})
    with house.running(ready=False) as process:
        eventually(lambda: process.output.count("RuntimeError") > 1, within=20, describe=lambda: process.output)
        assert process.popen.poll() is None
    assert "***" in process.output
    assert_silent(process.output)


@pytest.mark.parametrize(
    ("module", "name", "words"),
    [
        ("tools.notes", "counts", ("status",)),
        ("tools.verify", "verify", ("verify",)),
        ("triggers", "install", ("triggers", "install")),
    ],
)
def test_a_crash_tells_no_secret(house: House, tmp_path: Path, module: str, name: str, words: tuple[str, ...]) -> None:
    """An error that nobody expected and whose text, and whose cause's, holds every secret."""
    folder = tmp_path / "sabotage"
    folder.mkdir()
    done = sabotaged(house, folder, module, name).command(*words)
    assert done.returncode == 1
    assert "RuntimeError" in done.stderr, "it did not fail as it was to"
    assert "***" in done.stderr
    assert_silent(done.stdout, done.stderr)


def _nothing_there(_: House) -> str:
    return "postgresql://listener:x@127.0.0.1:9/immich"


def _no_such_database(house: House) -> str:
    return house.extra["DB_URL"].replace(str(conninfo_to_dict(house.immich.conninfo)["dbname"]), "nowhere")


@pytest.mark.parametrize("url", [_nothing_there, _no_such_database])
def test_a_database_that_cannot_be_reached_is_told_without_secrets(house: House, url: Callable[[House], str]) -> None:
    away = with_url(house, url(house))
    _fails_silently(away)


def test_a_wrong_password_is_told_without_it(house: House) -> None:
    with served(WrongPassword) as port:
        _fails_silently(with_url(house, f"postgresql://listener:x@127.0.0.1:{port}/immich?sslmode=prefer"))


def _fails_silently(away: House) -> None:
    process = away.start()
    try:
        eventually(lambda: process.output.count("trying again") >= 2, within=30, describe=lambda: process.output)
        assert_silent(printed(process))
    finally:
        process.end()
    assert_silent(process.output)
    done = away.command("status")
    assert done.returncode == 2
    assert "cannot be reached" in done.stderr
    assert_silent(done.stdout, done.stderr)


def test_no_command_tells_a_secret(house: House) -> None:
    texts = []
    for words in COMMANDS:
        # As Immich's role where the right is wanted: with the same secrets.
        done = house.command(*words)
        assert done.returncode in {0, 1, 2}, done.stderr
        texts += [done.stdout, done.stderr]
    assert_silent(*texts)
    assert len("".join(texts)) > 10_000, "nothing was said at all"


@pytest.mark.parametrize(
    "wrong",
    [
        {"DB_URL": f"postgresql://listener:{PASSWORD}@[::/immich"},
        {"DB_URL": f"host=x password={PASSWORD}"},
        {"DB_URL": f"mysql://listener:{quote(PASSWORD, safe='')}@x/immich"},
        {"DB_URL": "", "DB_PASSWORD": PASSWORD, "DB_PORT": "many", "WORKERS": "some"},
        {"IMMICH_API_URL": f"http://user:{quote(API_KEY, safe='')}@x:port/?key={API_KEY}"},
        {"IMMICH_API_KEY": f"{API_KEY}\nnext"},
        {"CONFIG_FILE": "broken.yaml"},
    ],
)
def test_wrong_settings_are_told_without_secrets(house: House, wrong: dict[str, str]) -> None:
    # A key where the file has none to be, and a line that is no YAML.
    (house.folder / "broken.yaml").write_text(f"password: {PASSWORD!r}\nsync_jobs: [{{api_key: {API_KEY!r}}}]\n- {{\n")
    settings = replace(house, extra={**house.extra, **wrong})
    done = settings.command("run")
    assert done.returncode == 2, done.stdout + done.stderr
    assert_silent(done.stdout, done.stderr)
