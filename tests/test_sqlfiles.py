"""The SQL files: found, cut into named blocks, and every block with a comment that says why."""

from pathlib import Path

import pytest

from listener import sqlfiles

ALL_QUERIES = sorted(path.name for path in (sqlfiles.sql_dir() / "queries").glob("*.sql"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of SQL files of the test's own."""
    (tmp_path / "queries").mkdir()
    monkeypatch.setattr(sqlfiles, "sql_dir", lambda: tmp_path)
    # The caches belong to the real folder.
    monkeypatch.setattr(sqlfiles, "read_sql", sqlfiles.read_sql.__wrapped__)
    monkeypatch.setattr(sqlfiles, "named_queries", sqlfiles.named_queries.__wrapped__)
    return tmp_path / "queries"


def test_a_file_is_cut_at_its_names(folder: Path) -> None:
    (folder / "x.sql").write_text(
        "-- What this is for.\n\n-- name: one\n-- Why.\nSELECT 1\n\n-- name: two_b\nSELECT 2\n"
    )
    assert dict(sqlfiles.named_queries("queries/x.sql")) == {"one": "-- Why.\nSELECT 1", "two_b": "SELECT 2"}


def test_a_name_that_stands_twice_is_refused(folder: Path) -> None:
    (folder / "x.sql").write_text("-- name: one\nSELECT 1\n-- name: two\nSELECT 2\n-- name: one\nSELECT 3\n")
    with pytest.raises(ValueError, match=r"queries/x\.sql: query names stand twice: one$"):
        sqlfiles.named_queries("queries/x.sql")


def test_a_statement_before_the_first_name_is_refused(folder: Path) -> None:
    (folder / "x.sql").write_text("-- A comment may.\nSELECT 1\n-- name: one\nSELECT 1\n")
    with pytest.raises(ValueError, match="before the first"):
        sqlfiles.named_queries("queries/x.sql")


def test_the_words_of_a_statement_are_not_taken_for_a_name(folder: Path) -> None:
    (folder / "x.sql").write_text("-- name: one\nSELECT 1 -- name: two\n  -- name: three\n")
    assert list(sqlfiles.named_queries("queries/x.sql")) == ["one"]


def test_blocks_cannot_be_changed_by_who_reads_them() -> None:
    with pytest.raises(TypeError):
        sqlfiles.named_queries("queries/channel.sql")["listen"] = "LISTEN other"  # type: ignore[index]


def test_a_missing_file_is_an_error() -> None:
    with pytest.raises(FileNotFoundError):
        sqlfiles.read_sql("queries/no such file.sql")


def test_files_are_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "notify_change" in sqlfiles.read_sql.__wrapped__("triggers/notify_change.sql")


def test_files_of_an_installed_wheel_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site-packages" / "listener"
    (package / "sql" / "queries").mkdir(parents=True)
    (tmp_path / "site-packages" / "sql" / "queries").mkdir(parents=True)
    monkeypatch.setattr(sqlfiles, "__file__", str(package / "sqlfiles.py"))
    assert sqlfiles.sql_dir() == package / "sql"


def test_a_damaged_installation_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlfiles, "__file__", str(tmp_path / "listener" / "sqlfiles.py"))
    with pytest.raises(FileNotFoundError, match="the installation is damaged"):
        sqlfiles.sql_dir()


@pytest.mark.parametrize("name", ALL_QUERIES)
def test_every_file_of_queries_can_be_read(name: str) -> None:
    queries = sqlfiles.named_queries(f"queries/{name}")
    assert queries
    assert all(text for text in queries.values())
