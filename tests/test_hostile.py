"""Hostile input: what somebody who may name a photo, a person or a folder, or send a notification, could try.

Nothing of it may reach another place than the one it was meant for: not a statement, not a line of a log, not a
terminal, and no file that is not ours.
"""

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import psycopg
import pytest
from prometheus_client.parser import text_string_to_metric_families

from listener import channel
from listener.channel import UnreadableError
from tests import fuzz
from tests.behaviour.conftest import Home, make_home
from tests.conftest import ImmichDatabase, Roots, eventually
from tests.fuzz import HOSTILE
from tests.house import House, Process
from tests.photos import PhotoHouse, photo_house

TEXT_LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (DEBUG|INFO|WARNING|ERROR) [a-z._]+ \S")


def assert_plain(text: str) -> None:
    """Check that a text of one line each can be shown at a terminal: nothing steers it or hides."""
    strange = [line for line in text.split("\n") if not line.replace("\t", "").isprintable()]
    assert strange == []


# --- payloads ------------------------------------------------------------------------------------------------


def test_whatever_a_payload_holds_it_is_keys_or_refused(seed: int) -> None:
    read = refused = 0
    reasons = set()
    for payload in fuzz.payloads(seed, 6000):
        try:
            found = channel.decode(payload)
        except UnreadableError as error:
            refused += 1
            reasons.add(error.reason)
            continue
        read += 1
        assert found.kind in {"ping", "sweep", "asset", "person"}
        assert all(isinstance(key.id, UUID) and key.kind == found.kind for key in found.keys)
        assert found.at is None or 0 < found.at < 1e11
        assert bool(found.keys) == (found.kind in {"asset", "person"})
    assert {"too long", "not JSON", "other version", "bad ids", "unknown kind"} <= reasons
    assert reasons <= {"too long", "not JSON", "other version", "bad ids", "bad ask", "unknown kind"}
    # Both kinds are among them, else they would show nothing.
    assert read > 300
    assert refused > 3000


@pytest.fixture
def carol(immich: ImmichDatabase, roots: Roots, tmp_path: Path) -> PhotoHouse:
    made = photo_house(immich, roots, tmp_path)
    made.house.install_triggers()
    return made


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_payloads_of_every_kind_hurt_nobody(carol: PhotoHouse, log_format: str, seed: int) -> None:
    house = carol.with_settings(LOG_FORMAT=log_format).house
    carol.add(2)
    sent = [payload for payload in fuzz.payloads(seed, 1500) if fuzz.sendable(payload)]
    with house.running() as process, psycopg.connect(house.immich.conninfo, autocommit=True) as immich:
        heard = process.metric("notifications_total") + process.metric("notifications_ignored_total")
        for payload in sent:
            # One transaction each: PostgreSQL folds equal ones of one.
            immich.execute("SELECT pg_notify('immich_shared_library', %s)", [payload])

        def all_heard() -> bool:
            now = process.metric("notifications_total") + process.metric("notifications_ignored_total")
            return now - heard >= len(sent)

        eventually(all_heard, within=30, describe=lambda: process.output[-3000:])
        assert process.metric("notifications_ignored_total") > len(sent) / 3
        carol.add(2, start=2)
        assert house.settled().copies == 4
        assert process.metric("failures_total") == 0
        assert process.metric("reconnects_total") == 0
        assert carol.failures() == {}
        assert_metrics_are_well_formed(process)
        assert process.end() == 0
    assert_lines(process.output, log_format)


def assert_lines(output: str, log_format: str) -> None:
    """Check that a log is one line for each event, and plain text."""
    assert "Traceback" not in output
    lines = output.removesuffix("\n").split("\n")
    for line in lines:
        if log_format == "json":
            assert set(json.loads(line)) <= {"time", "level", "logger", "message", "fields"}
            assert line.isascii()
        else:
            assert TEXT_LINE.match(line), line
    assert_plain(output)


def assert_metrics_are_well_formed(process: Process) -> set[str]:
    """Read the metrics as Prometheus does; returns the jobs that they know."""
    families = list(text_string_to_metric_families(process.get("/metrics").text))
    assert all(family.name.startswith(("immich_shared_library_", "python_", "process_")) for family in families)
    return {sample.labels["job"] for family in families for sample in family.samples if "job" in sample.labels}


# --- names ---------------------------------------------------------------------------------------------------

JOB_NAMES = ('pho"tos\nforged_metric{job="x"} 1\\', "\x1b[31m<b>'; DROP TABLE asset; --\u202e")


@pytest.fixture
def home(immich: ImmichDatabase, roots: Roots, tmp_path: Path) -> Iterator[Home]:
    with ExitStack() as stack:
        home = make_home(immich, roots, tmp_path, stack)
        album = home.bob.album_create(HOSTILE[0])
        jobs = [replace(job, name=name, album_id=album) for job, name in zip(home.house.jobs, JOB_NAMES, strict=True)]
        home.house = replace(home.house, jobs=tuple(jobs))
        home.house.query('UPDATE "user" SET name = %s', "\n".join(HOSTILE))
        yield home


def file_name(text: str) -> str:
    """Return a text as a file may be called."""
    return text.replace("/", "_")[:60] + ".jpg"


def _copies(house: House, statement: str) -> list[tuple[object, ...]]:
    """Run a query once for the source user and once for the target user; both answers are to be the same."""
    source, target = (house.query(statement, user) for user in (house.source, house.target))
    assert source == target
    return source


@pytest.mark.parametrize("immich", ["3.3.0"], indirect=True)
def test_names_are_names_wherever_they_stand(home: Home) -> None:
    house = home.house
    library = home.alice.add_library(home.photos)
    with house.running() as process:
        people = []
        for asset, text in zip(
            home.alice.scan_library(library, [file_name(text) for text in HOSTILE]), HOSTILE, strict=True
        ):
            home.alice.describe(asset, text)
            home.alice.tag(text, asset)
        for text in HOSTILE:
            uploaded = home.alice.upload(file_name(text), faces=1)
            (face,) = home.alice.faces_of(uploaded)
            people.append(home.alice.recognise(face["id"]))
            home.alice.name_person(people[-1], text)
        assert house.settled(within=60).copies == 2 * len(HOSTILE), process.output[-3000:]
        names = _copies(
            house, 'SELECT "originalFileName" FROM asset WHERE "ownerId" = %s ORDER BY "originalFileName" COLLATE "C"'
        )
        assert sorted(str(name) for (name,) in names) == sorted(2 * [file_name(text) for text in HOSTILE])
        described = _copies(
            house,
            'SELECT description FROM asset_exif JOIN asset ON asset.id = "assetId" WHERE "ownerId" = %s'
            " AND description <> '' ORDER BY description COLLATE \"C\"",
        )
        assert {text for (text,) in described} == set(HOSTILE)
        tags = _copies(house, 'SELECT value FROM tag WHERE "userId" = %s ORDER BY value COLLATE "C"')
        assert {text for (text,) in tags} >= set(HOSTILE)
        called = _copies(
            house, 'SELECT name FROM person WHERE "ownerId" = %s AND name <> \'\' ORDER BY name COLLATE "C"'
        )
        assert {text for (text,) in called} == set(HOSTILE)
        assert assert_metrics_are_well_formed(process) <= set(JOB_NAMES)
        assert process.metric("failures_total") == 0
        assert process.end() == 0
    assert_lines(process.output, "text")
    # Which of our own notes hold a name, as JSON or as text, came back the same: nothing is made again.
    with house.running() as again:
        house.settled()
        assert again.metric("copies_made_total") == 0
        assert again.metric("rows_written_total") == 0
        assert again.end() == 0


@pytest.mark.parametrize("log_format", ["text", pytest.param("json", marks=pytest.mark.soak)])
def test_names_cannot_forge_what_is_printed(home: Home, log_format: str) -> None:
    home.house = replace(home.house, extra={"LOG_FORMAT": log_format})
    house = home.house
    library = home.alice.add_library(home.photos)
    assets = home.alice.scan_library(library, [file_name(text) for text in HOSTILE])
    with house.running() as process:
        house.settled()
        home.bob.delete_for_good(*(home.copied(asset) for asset in assets[: len(assets) // 2]))
        for asset in assets[len(assets) // 2 :]:
            Path(home.alice.asset(asset)["originalPath"]).unlink()
            home.alice.describe(asset, "look again")
        missing = len(assets) - len(assets) // 2
        eventually(
            lambda: (
                house.query("SELECT count(*) FROM _face_sync_failure") == [(missing,)]
                and house.query("SELECT count(*) FROM _face_sync_skipped") == [(len(assets) // 2,)]
            ),
            within=30,
            describe=lambda: process.output[-3000:],
        )
        printed = {words: house.command(*words) for words in (
            ("skipped", "list"), ("failures", "list"), ("status",), ("check",), ("verify", "--limit", "1000"),
            ("reconcile",), ("reconcile", "--dry-run"), ("config", "show"), ("triggers", "status"),
        )}  # fmt: skip
        assert assert_metrics_are_well_formed(process) <= set(JOB_NAMES)
        assert_plain(process.get("/readyz").text)
    assert_lines(process.output, log_format)
    for words, done in printed.items():
        assert done.returncode in {0, 1}, (words, done.stderr)
        assert_plain(done.stdout)
        assert_lines(done.stderr, log_format) if done.stderr else None
    for words, lines in ((("skipped", "list"), len(assets) // 2), (("failures", "list"), missing)):
        table = printed[words].stdout.splitlines()
        assert len(table) == 1 + lines
        assert {line.count("\t") for line in table} == {5}
    assert "DROP TABLE" in printed["skipped", "list"].stdout, "the names are there to be read"
