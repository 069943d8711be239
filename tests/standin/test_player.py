import random
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from listener.standin.player import Player, interleave, touched_ids
from listener.standin.recording import (
    STAMPED,
    Recording,
    Row,
    Statement,
    Transaction,
    path_checksum,
    recorded,
    recorded_releases,
)
from tests.conftest import ImmichDatabase, Roots


@pytest.fixture
def immich(request: pytest.FixtureRequest, new_immich: Callable[[str], ImmichDatabase]) -> ImmichDatabase:
    """Return a new empty Immich database of a release with a recording."""
    return new_immich(getattr(request, "param", "3.0.3"))


every_recording = pytest.mark.parametrize("immich", recorded_releases(), indirect=True)

Content = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""Table, then the row's key as text, then its columns."""

_KEYS = {
    "tag_asset": ("tagId", "assetId"),
    "album_asset": ("albumId", "assetId"),
    "album_user": ("albumId", "userId"),
    "face_search": ("faceId",),
    **dict.fromkeys(("asset_exif", "asset_job_status", "smart_search", "ocr_search"), ("assetId",)),
    **dict.fromkeys(("asset_video", "asset_audio", "asset_keyframe"), ("assetId",)),
}


def _key(table: str, row: Mapping[str, Any]) -> str:
    return "/".join(str(row[column]) for column in _KEYS.get(table, ("id",)))


def _comparable(row: Mapping[str, Any]) -> dict[str, Any]:
    return {column: value for column, value in row.items() if column not in STAMPED}


def _recorded_content(recording: Recording) -> Content:
    """What the recording's last word on each row is, taken line by line."""
    content: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for statement in recording.statements:
        for row in statement.rows:
            key = _key(statement.table, row.values)
            if row.new is None:
                del content[statement.table][key]
            else:
                content[statement.table][key] = _comparable(row.new)
    return dict(content)


def _database_content(conninfo: str, tables: Mapping[str, object]) -> Content:
    with psycopg.connect(conninfo, options="-c timezone=UTC") as connection:
        content = {}
        for table in tables:
            query = sql.SQL("SELECT to_jsonb(t) FROM {} AS t").format(sql.Identifier(table))
            rows = [row for (row,) in connection.execute(query)]
            content[table] = {_key(table, row): _comparable(row) for row in rows}
    return content


def _assert_content(conninfo: str, recording: Recording) -> None:
    expected = _recorded_content(recording)
    actual = _database_content(conninfo, expected)
    for table, rows in expected.items():
        assert actual[table].keys() == rows.keys(), table
        for key, row in rows.items():
            assert actual[table][key] == row, f"{table} {key}"


def _assert_files(conninfo: str, roots: Roots) -> None:
    """Every row's file is there, and no file is there without a row."""
    with psycopg.connect(conninfo) as connection:
        originals = {
            Path(path): modified
            for path, modified in connection.execute(
                'SELECT "originalPath", "fileModifiedAt" FROM asset WHERE NOT "isOffline"'
            )
        }
        others = {
            Path(path)
            for (path,) in connection.execute(
                'SELECT path FROM asset_file UNION ALL SELECT "thumbnailPath" FROM person WHERE "thumbnailPath" <> %s',
                ("",),
            )
        }
    present = {path for root in (roots.media, roots.external) for path in root.rglob("*") if path.is_file()}
    assert present == originals.keys() | others
    contents = [path.read_bytes() for path in present]
    assert len(set(contents)) == len(contents)
    for path, modified in originals.items():
        assert path.stat().st_mtime_ns == round(modified.timestamp() * 1000) * 1_000_000


@every_recording
def test_a_recording_played_step_by_step_leaves_what_it_says(
    player: Player, immich: ImmichDatabase, roots: Roots
) -> None:
    for step in player.steps:
        played = player.play_step(step)
        assert played.step == step
        _assert_files(immich.conninfo, roots)

    _assert_content(immich.conninfo, player.recording)


@pytest.mark.parametrize("seed", range(5))
def test_any_interleaving_leaves_the_same(player: Player, immich: ImmichDatabase, roots: Roots, seed: int) -> None:
    order = interleave(player.recording.transactions(), random.Random(seed))
    assert order != list(player.recording.transactions())

    for transaction in order:
        player.play(transaction)

    _assert_content(immich.conninfo, player.recording)
    _assert_files(immich.conninfo, roots)


@pytest.mark.parametrize("release", recorded_releases())
def test_an_interleaving_keeps_the_order_of_what_belongs_together(release: str) -> None:
    transactions = recorded(release).transactions()
    order = interleave(transactions, random.Random(1))
    place = {transaction.number: n for n, transaction in enumerate(order)}

    assert sorted(place) == sorted(transaction.number for transaction in transactions)
    by_id: dict[str, list[int]] = defaultdict(list)
    for transaction in transactions:
        for touched in touched_ids(transaction):
            by_id[touched].append(place[transaction.number])
    assert all(places == sorted(places) for places in by_id.values())


def test_independent_transactions_change_places() -> None:
    transactions = recorded("3.0.3").transactions()
    uploads = [t for t in transactions if t.statements[0].table == "asset" and t.statements[0].op == "INSERT"]

    firsts = {interleave(uploads, random.Random(seed))[0].number for seed in range(20)}

    assert len(firsts) > 5


def _of(player: Player, table: str, op: str, step: str | None = None) -> list[Transaction]:
    return [
        t for t in player.recording.transactions(step) if any(s.table == table and s.op == op for s in t.statements)
    ]


def _count_statements(conninfo: str, tables: tuple[str, ...]) -> None:
    """Make each statement on the tables leave a row in ``seen``, as statement triggers see it."""
    with psycopg.connect(conninfo) as connection:
        connection.execute("CREATE TABLE seen (n serial, what text, rows bigint, at xid8)")
        for op, transition in (("INSERT", "NEW"), ("UPDATE", "NEW"), ("DELETE", "OLD")):
            name = sql.Identifier(f"see_{op.lower()}")
            connection.execute(
                sql.SQL(
                    """CREATE FUNCTION {}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                       INSERT INTO seen (what, rows, at)
                       SELECT TG_OP || ' ' || TG_TABLE_NAME, count(*), pg_current_xact_id() FROM changed;
                       RETURN NULL; END $$"""
                ).format(name)
            )
            for table in tables:
                connection.execute(
                    sql.SQL(
                        "CREATE TRIGGER {} AFTER {} ON {} REFERENCING {} TABLE AS changed"
                        " FOR EACH STATEMENT EXECUTE FUNCTION {}()"
                    ).format(name, sql.SQL(op), sql.Identifier(table), sql.SQL(transition), name)
                )


def _seen(conninfo: str) -> list[tuple[str, int]]:
    with psycopg.connect(conninfo) as connection:
        return connection.execute("SELECT what, rows FROM seen ORDER BY what, n").fetchall()


def _play_until(player: Player, step: str) -> None:
    for earlier in player.steps[: player.steps.index(step)]:
        player.play_step(earlier)


def test_a_mark_is_an_upsert_and_fires_both_triggers(player: Player, immich: ImmichDatabase) -> None:
    _count_statements(immich.conninfo, ("asset_job_status",))
    (first, *_) = _of(player, "asset_job_status", "INSERT")
    (later, *_) = _of(player, "asset_job_status", "UPDATE")
    for transaction in player.recording.transactions():
        if touched_ids(transaction) & (touched_ids(first) | touched_ids(later)):
            player.play(transaction)
            if transaction == first:
                assert _seen(immich.conninfo) == [
                    ("INSERT asset_job_status", 1),
                    ("UPDATE asset_job_status", 0),
                ]
            if transaction == later:
                break

    inserted = [rows for what, rows in _seen(immich.conninfo) if what.startswith("INSERT")]
    updated = [rows for what, rows in _seen(immich.conninfo) if what.startswith("UPDATE")]
    assert (inserted, updated) == ([1, 0], [0, 1])


@pytest.mark.parametrize("immich", ["2.7.5", "3.0.3"], indirect=True)
def test_statements_keep_their_shape(player: Player, immich: ImmichDatabase) -> None:
    _play_until(player, "external library scan")
    _count_statements(immich.conninfo, ("asset", "asset_face", "face_search", "person", "asset_file"))

    for step in player.steps[player.steps.index("external library scan") :]:
        player.play_step(step)

    seen = _seen(immich.conninfo)
    assert ("INSERT asset", 14) in seen  # the scan finds all in one statement
    assert ("INSERT asset_file", 2) in seen  # preview and thumbnail
    assert ("INSERT asset_file", 1) in seen  # an XMP
    assert ("UPDATE asset_face", 8) in seen  # a merge
    assert ("UPDATE asset_face", 10) in seen  # a person deleted: by the foreign key
    assert ("DELETE asset_face", 38) in seen  # forced detection
    assert sum(rows for what, rows in seen if what == "DELETE face_search") == 41


def test_faces_and_embeddings_are_one_transaction(player: Player, immich: ImmichDatabase) -> None:
    _count_statements(immich.conninfo, ("asset_face", "face_search"))
    player.play_step("start")
    player.play_step("upload photos")

    with psycopg.connect(immich.conninfo) as connection:
        alone = connection.execute(
            "SELECT count(*) FROM seen WHERE what = 'INSERT asset_face' AND at NOT IN"
            " (SELECT at FROM seen WHERE what = 'INSERT face_search')"
        ).fetchone()
    assert alone == (0,)


def test_new_rows_are_stamped_with_now(player: Player, immich: ImmichDatabase) -> None:
    before = datetime.now(UTC)
    player.play_step("start")
    played = player.play_step("upload photos")

    with psycopg.connect(immich.conninfo) as connection:
        row = connection.execute('SELECT min("createdAt"), max("updatedAt") FROM asset').fetchone()
    assert row is not None
    assert before <= row[0] <= row[1] <= datetime.now(UTC)
    commits = [p.committed_at for p in played.transactions]
    assert before.timestamp() < commits[0]
    assert commits == sorted(commits)
    assert commits[-1] <= time.time()


def _original(player: Player, step: str) -> Path:
    """The original of the first asset that a step updates."""
    statement = _of(player, "asset", "UPDATE", step)[0].statements[0]
    return Path(statement.rows[0].values["originalPath"])


def test_a_vanished_original_returns_the_same(player: Player) -> None:
    original = _original(player, "external file vanished")
    _play_until(player, "external file vanished")
    content, modified = original.read_bytes(), original.stat().st_mtime_ns

    player.play_step("external file vanished")
    assert not original.exists()

    player.play_step("external file returned")
    assert (original.read_bytes(), original.stat().st_mtime_ns) == (content, modified)


def test_a_changed_original_has_other_content_and_new_thumbnails(player: Player, immich: ImmichDatabase) -> None:
    original = _original(player, "external file changed")
    _play_until(player, "external file changed")
    with psycopg.connect(immich.conninfo) as connection:
        thumbnails = [
            Path(path)
            for (path,) in connection.execute(
                'SELECT path FROM asset_file JOIN asset ON asset.id = "assetId" WHERE "originalPath" = %s',
                (str(original),),
            )
        ]
    assert len(thumbnails) == 2
    files = [original, *thumbnails]
    before = [(path.stat().st_ino, path.read_bytes()) for path in files]
    modified = original.stat().st_mtime_ns

    player.play_step("external file changed")

    after = [(path.stat().st_ino, path.read_bytes()) for path in files]
    assert [inode for inode, _ in after] == [inode for inode, _ in before]
    assert not {content for _, content in after} & {content for _, content in before}
    assert original.stat().st_mtime_ns != modified


def test_thumbnails_are_regenerated_in_place(player: Player, roots: Roots) -> None:
    _play_until(player, "thumbnails regenerated")
    before = {p: (p.stat().st_ino, p.read_bytes()) for p in (roots.media / "thumbs").rglob("*.*")}

    player.play_step("thumbnails regenerated")

    after = {p: (p.stat().st_ino, p.read_bytes()) for p in before}
    changed = [p for p in before if before[p] != after[p]]
    assert sorted(p.suffix for p in changed) == [".jpeg", ".webp"]
    assert all(before[p][0] == after[p][0] for p in changed)


def test_the_pace_is_that_of_the_recording(player: Player) -> None:
    player.play_step("start")
    began = time.monotonic()
    player.play_step("upload photos", pace=4)
    # 1,922 ms as recorded.
    assert 0.48 <= time.monotonic() - began < 10


def test_a_recording_moves_to_other_roots() -> None:
    moved = recorded("3.0.3").rerooted(Path("/m/media"), Path("/x/library"))

    texts = [str(row.values) for s in moved.statements for row in s.rows]
    assert not [text for text in texts if "'/data" in text or "'/external_library" in text]
    assert moved.statements[0].rows[0].values["importPaths"] == ["/x/library/carol/photos"]
    externals = [
        row.values for s in moved.statements for row in s.rows if s.table == "asset" and row.values["isExternal"]
    ]
    assert externals
    for asset in externals:
        assert asset["originalPath"].startswith("/x/library/carol/photos/")
        assert asset["checksum"] == path_checksum(asset["originalPath"])


def test_an_upload_keeps_its_checksum_when_it_moves() -> None:
    original = recorded("2.7.5")
    moved = original.rerooted(Path("/m"), Path("/x"))

    def uploads(recording: Recording) -> list[tuple[str, str]]:
        return [
            (row.values["id"], row.values["checksum"])
            for s in recording.statements
            for row in s.rows
            if s.table == "asset" and not row.values["isExternal"]
        ]

    assert uploads(moved) == uploads(original)


def test_overlapping_transactions_come_in_the_order_of_their_ends() -> None:
    row = Row(new={"id": "1"}, old=None)
    lines = [Statement("s", at, tx, "tag", "INSERT", (row,)) for at, tx in ((1, 1), (2, 2), (3, 1))]

    transactions = Recording("3.0.3", tuple(lines)).transactions("s")

    assert [(t.number, len(t.statements), t.at_ms) for t in transactions] == [(2, 1, 2), (1, 2, 3)]


def test_unknown_steps_and_releases_are_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"Immich 1\.0\.0; there are: 2\.7\.5, 3\.0\.3, 3\.1\.0"):
        recorded("1.0.0")
    with pytest.raises(ValueError, match="no step 'lunch'"):
        recorded("3.0.3").transactions("lunch")


@pytest.mark.parametrize("release", ["2.0.0", "3.3.0"])
def test_the_owner_is_made_in_every_release(
    new_immich: Callable[[str], ImmichDatabase], roots: Roots, release: str
) -> None:
    database = new_immich(release)
    with Player(database.conninfo, recorded("3.0.3"), roots.media, roots.external) as player:
        player.prepare()
        player.prepare()
        owner = player.recording.owner_id

    with psycopg.connect(database.conninfo) as connection:
        users = connection.execute('SELECT id::text, name FROM "user"').fetchall()
        location = connection.execute(
            "SELECT value ->> 'location' FROM system_metadata WHERE key = 'MediaLocation'"
        ).fetchone()
    assert users == [(owner, "carol")]
    assert location == (str(roots.media),)
    assert (roots.media / "thumbs").is_dir()
