"""The sweep: it finds every kind of difference by itself, and passes over what it has seen to be right."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from listener.standin import schema
from tests.behaviour.conftest import Home
from tests.behaviour.people import copy_for, named_portrait, portrait
from tests.conftest import eventually

# One release of each people model: what a sweep reads is composed from the catalog.
BOTH_MODELS = pytest.mark.releases(since="3.1.0", until="3.2.0")


def sample(home: Home, name: str) -> float:
    """Sum a metric of the running listener over its labels."""
    return sum(
        found.value
        for metric in home.service.metrics.registry.collect()
        for found in metric.samples
        if found.name == f"immich_shared_library_{name}"
    )


def swept(home: Home) -> int:
    """Let the listener sweep, and return how many photos it looked at."""
    before, looked_at = sample(home, "sweeps_total"), sample(home, "keys_reconciled_total")
    home.house.sweep()
    eventually(lambda: sample(home, "sweeps_total") > before, within=30)
    return int(sample(home, "keys_reconciled_total") - looked_at)


def without_events(home: Home, table: str) -> int:
    """Write the rows of a table anew, as they are, and tell nobody; returns how many there were."""
    with psycopg.connect(home.immich.conninfo, autocommit=True) as connection:
        connection.execute("SET face_sync.quiet = 'on'")
        column = connection.execute(
            "SELECT attname FROM pg_attribute"
            " WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped LIMIT 1",
            [f'public."{table}"'],
        ).fetchone()
        assert column is not None
        same = sql.Identifier(column[0])
        return connection.execute(
            sql.SQL("UPDATE public.{} SET {} = {}").format(sql.Identifier(table), same, same)
        ).rowcount


@BOTH_MODELS
def test_what_has_no_event_is_found(new_home: Callable[..., Home]) -> None:
    home = new_home()
    # Whatever the listener sees from here on, it sees by looking.
    assert home.house.command("triggers", "uninstall").returncode == 0
    home.start()
    alice, bob = home.alice, home.bob
    (one, _, grace), (two, _, double) = (named_portrait(alice, name) for name in ("Grace", "Double"))
    three, four, five, six = (alice.upload(f"{name}.jpg") for name in ("three", "four", "five", "six"))
    swept(home)
    home.settled()

    alice.name_person(grace, "Grace H.")
    alice.merge_people(grace, double)
    alice.describe(three, "a new text")
    alice.set_date(four, datetime(2020, 2, 3, tzinfo=UTC))
    alice.tag("holiday/sea", three, four)
    alice.stack(three, four)
    alice.crop(five)
    alice.lock(six)
    seven = alice.upload("seven.jpg", faces=1)
    swept(home)
    home.settled()
    assert home.copy_of(seven) is not None
    assert home.copy_of(six) is None
    alice.delete_for_good(one)
    bob.delete_for_good(copy_for(bob, home, two))
    swept(home)
    home.settled()


@BOTH_MODELS
def test_it_passes_over_what_it_has_seen_and_looks_again_at_whatever_was_written(home: Home) -> None:
    alice, bob = home.alice, home.bob
    photo, *_ = portrait(alice, "one.jpg")
    alice.upload_live_photo("live")
    alice.describe(photo, "text")
    alice.tag("family", photo)
    alice.stack(photo, alice.upload("two.jpg", text="a sign"))
    alice.crop(photo)
    home.settled()
    swept(home)
    # Whatever a reconcile has just written is looked at once more.
    eventually(lambda: swept(home) == 0, within=30, describe="the sweep looks at the same photos for ever")

    tables = schema.load_facts(home.immich.release).tables
    read = {
        *("asset", "asset_exif", "asset_file", "asset_job_status", "asset_face", "face_search", "smart_search"),
        *("asset_ocr", "ocr_search", "asset_edit", "tag", "tag_asset", "stack"),
        *(
            "_face_sync_asset_map",
            "_face_sync_base",
            "_face_sync_face_map",
            "_face_sync_tag_map",
            "_face_sync_stack_map",
        ),
    }
    for table in sorted(read & tables.keys()) + sorted(read - tables.keys()):
        assert without_events(home, table) > 0, f"there is nothing in {table}: the test shows nothing"
        assert swept(home) > 0, table
        eventually(lambda: swept(home) == 0, within=30, describe=table)

    # And what is in no row: files and links.
    copy = home.copied(photo)
    files = [Path(str(row["path"])) for row in bob.files_of(copy)]
    link = Path(str(bob.asset(copy)["originalPath"]))
    for path in (*files, link):
        path.unlink()
        assert swept(home) > 0, path
        assert path.exists()
    home.settled()
