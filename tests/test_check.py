"""``listener check`` and what a start says of copies without a job: what a home admin is told, and its exit code."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from listener.settings import Job
from listener.standin.server import immich_api
from listener.tools import check as checking
from tests.conftest import ImmichDatabase, Roots
from tests.house import House
from tests.photos import PhotoHouse, photo_house


@pytest.fixture
def carol(immich: ImmichDatabase, roots: Roots, tmp_path: Path) -> Iterator[PhotoHouse]:
    """A house in which all is well."""
    with immich_api() as url:
        made = photo_house(immich, roots, tmp_path, {"IMMICH_API_URL": url})
        made.add(1)
        made.house.install_triggers()
        yield made


def findings(house: House) -> dict[str, list[tuple[str, str]]]:
    """State and text of every finding, by subject; the exit code must fit."""
    done = house.command("check", "--json")
    assert done.stdout, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (0 if found["ok"] else 1)
    assert found["ok"] == all(finding["state"] == "ok" for finding in found["findings"])
    by_subject: dict[str, list[tuple[str, str]]] = {}
    for finding in found["findings"]:
        by_subject.setdefault(finding["subject"], []).append((finding["state"], finding["text"]))
    return by_subject


def not_well(house: House) -> dict[str, list[tuple[str, str]]]:
    return {subject: found for subject, found in findings(house).items() if found[0][0] != "ok"}


def test_where_all_is_well_each_line_says_so(carol: PhotoHouse) -> None:
    done = carol.house.command("check")
    assert done.returncode == 0, done.stdout
    lines = done.stdout.splitlines()
    assert all(line.startswith("ok ") for line in lines)
    assert "Immich: 3.0.3 answers" in done.stdout
    assert "each copy has a link of its own" in done.stdout
    assert list(carol.house.roots.media.glob("thumbs/.*")) == []


def test_the_server_and_the_triggers(carol: PhotoHouse) -> None:
    house = replace(carol.house, extra={"IMMICH_API_URL": "http://127.0.0.1:9"})
    house.query("DROP TRIGGER _face_sync_update ON asset_face")
    found = not_well(house)
    assert set(found) == {"Immich", "triggers"}
    assert found["Immich"][0][0] == "warning"
    assert "Check IMMICH_API_URL" in found["Immich"][0][1]
    assert "asset_face missing" in found["triggers"][0][1]


def test_what_a_scan_would_do(carol: PhotoHouse) -> None:
    house = carol.house
    library = house.jobs[0].target_library_id

    def scan(imports: list[str], exclusions: list[str]) -> list[tuple[str, str]]:
        update = 'UPDATE library SET "importPaths" = %s, "exclusionPatterns" = %s WHERE id = %s'
        house.query(update, imports, exclusions, library)
        return findings(house)["library of 'photos'"]

    ((state, text),) = scan([str(house.roots.external / "elsewhere")], [])
    assert state == "danger"
    assert "takes all copies offline" in text
    ((state, text),) = scan([str(house.roots.external / "shared")], [])
    assert state == "warning"
    assert "is a folder" in text
    ((state, text),) = scan([str(house.roots.external / "shared" / "bob")], ["**/raw/**"])
    assert state == "warning"
    assert "**/raw/**" in text
    ((state, _),) = scan([str(house.roots.external / "shared" / "bob")], [])
    assert state == "ok"
    scan([str(house.roots.external / "shared" / "bob")], ["**/*"])
    assert findings(house)["job 'photos'"][0][0] == "danger"


def test_folders_that_are_not_mounted(carol: PhotoHouse, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    extra = {"UPLOAD_LOCATION_MOUNT": str(tmp_path / "empty"), "EXTERNAL_LIBRARY_MOUNT": str(tmp_path / "nowhere")}
    jobs = (replace(carol.house.jobs[0], target_path_prefix=str(tmp_path / "nowhere" / "bob_photos")),)
    found = not_well(replace(carol.house, jobs=jobs, extra={**carol.house.extra, **extra}))
    assert "is empty" in found["UPLOAD_LOCATION_MOUNT"][0][1]
    assert "cannot be read: No such file" in found["EXTERNAL_LIBRARY_MOUNT"][0][1]
    assert found["hardlinks"][0][0] == "danger"
    assert list((tmp_path / "empty").iterdir()) == []


def test_hardlinks_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("os.link", refuse)
    found = checking._hardlinks(tmp_path)
    assert found.state == "warning"
    assert "Invalid cross-device link" in found.text
    assert list(tmp_path.iterdir()) == []


def test_a_job_that_does_not_fit(carol: PhotoHouse) -> None:
    house = carol.house
    wrong = replace(house.jobs[0], target_library_id=carol.library)
    assert "is not the target user's" in findings(replace(house, jobs=(wrong,)))["job 'photos'"][0][1]


@contextmanager
def finished(house: House) -> Iterator[str]:
    """Run the listener until all copies are right; yields what it says."""
    with house.running() as process:
        house.settled()
        yield process.output


def test_copies_of_a_job_that_is_gone_are_kept_and_told(carol: PhotoHouse) -> None:
    house = carol.house
    carol.add(2, start=10)
    with finished(house) as said:
        assert "belong to no job" not in said
    photos, uploads = house.jobs
    left = replace(house, jobs=(uploads,))
    with left.running() as process:
        assert process.output.count("copies belong to no job of the configuration") == 1
        assert f"folder={photos.target_path_prefix}" in process.output
        assert "remove_copies: true" in process.output
    ((state, text),) = findings(left)["copies"]
    assert state == "warning"
    assert text.startswith("3 copies of carol's photos")
    assert "they are kept" in text
    copies = 'SELECT id FROM asset WHERE "ownerId" = %s'
    assert len(house.query(copies, house.target)) == 3

    with_removal(house, photos)
    with replace(house, extra={**house.extra, "CONFIG_FILE": str(house.folder / "removing.yaml")}).running():
        pass
    assert house.query(copies, house.target) == []
    assert list(Path(photos.target_path_prefix).glob("**/*.jpg")) == []
    assert len(list(carol.folder.iterdir())) == 3


def with_removal(house: House, job: Job) -> None:
    """Write the configuration of one job that is to remove its copies."""
    config = Path(house.environment["CONFIG_FILE"]).read_text()
    (first, _) = config.split("- kind: uploads")
    assert f"name: {job.name}" in first
    (house.folder / "removing.yaml").write_text(f"{first}  remove_copies: true\n")
