"""A library of somebody else's whose folders hold the copies would take all of them in: its job is refused."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from listener import preflight
from listener.database import connect
from listener.immich import catalog
from listener.immich.layout import Layout
from listener.immich.libraries import Library, covering, exclusion
from listener.settings import Job
from tests.conftest import ImmichDatabase, Roots, eventually
from tests.disks import HEALS_WITHIN
from tests.house import add_library, add_user
from tests.photos import PhotoHouse, evented_house

ROOT = "/external_library"
PREFIX = f"{ROOT}/shared/bob_photos"


@pytest.fixture
def carol(immich: ImmichDatabase, roots: Roots, tmp_path: Path) -> PhotoHouse:
    return evented_house(immich, roots, tmp_path)


def dave_imports(carol: PhotoHouse, path: Path | str) -> UUID:
    conninfo = carol.house.immich.conninfo
    return add_library(conninfo, add_user(conninfo, carol.house.immich.release, "dave"), str(path))


def found(*imports: str, exclusions: Sequence[str] = (), expressions: bool = False) -> str | None:
    return covering(Library(uuid4(), "all", "dave", imports, exclusions), PREFIX, ROOT, expressions=expressions)


@pytest.mark.parametrize(
    "path",
    ["/external_library", "/external_library/", "/external_library//shared", "/", PREFIX, f"{PREFIX}/2024",
     "/external_library/alice/../shared"],
)  # fmt: skip
def test_what_a_scan_walks_through_is_covered(path: str) -> None:
    assert found("/elsewhere", path) == path


@pytest.mark.parametrize(
    "path",
    ["/external_library/alice", "/external_library/shared/bob_", f"{PREFIX}_of_his_own", "/external", "/data"],
)
def test_another_folder_and_the_beginning_of_a_name_are_not(path: str) -> None:
    assert found(path) is None


@pytest.mark.parametrize(
    ("expressions", "pattern", "sure"),
    [
        (False, "**/bob_photos/**", True),
        (False, "**/shared/**", True),
        (False, "**/*", True),
        (False, "**/bob_*/**", False),
        (False, "**/photos/**", False),
        (False, "**/external_library/**", False),  # above what is scanned: by which path it is asked nobody knows
        (False, "bob_photos", False),
        (False, f"{PREFIX}/", False),
        (True, f"{PREFIX}/", True),
        (True, "/shared/", True),
        (True, ".*", True),
        (True, "bob_photos$", False),
        (True, "(bob_photos|raw)", False),
        (True, "**/bob_photos/**", False),
        (True, "/bob.photos/", False),
        (True, "/photos/", False),
    ],
)
def test_an_exclusion_counts_only_where_it_surely_holds(pattern: str, *, expressions: bool, sure: bool) -> None:
    covered = found("/external_library", exclusions=["**/raw/**", pattern], expressions=expressions)
    assert (covered is None) is sure


@pytest.mark.parametrize("expressions", [False, True])
def test_the_exclusion_that_is_proposed_holds(*, expressions: bool) -> None:
    pattern = exclusion(PREFIX, expressions=expressions)
    assert found("/external_library", exclusions=[pattern], expressions=expressions) is None
    odd = "/external_library/shared/bob+a.b"
    library = Library(uuid4(), "all", "dave", ["/external_library"], [exclusion(odd, expressions=True)])
    assert covering(library, odd, ROOT, expressions=True) is None


def test_an_import_path_that_leads_there_through_a_symlink_counts(roots: Roots) -> None:
    (roots.external / "shared").mkdir()
    way = roots.external / "way"
    way.symlink_to(roots.external / "shared")
    prefix = str(roots.external / "shared" / "bob")
    library = Library(uuid4(), "all", "dave", [str(way)], [f"{roots.external}/shared/bob/"])
    assert covering(library, prefix, str(roots.external), expressions=True) == str(way), "its paths are others"


@pytest.mark.parametrize("immich", ["2.7.5", "3.2.0"], indirect=True)
def test_a_library_that_comes_while_the_listener_runs_refuses_the_job_until_it_is_cured(carol: PhotoHouse) -> None:
    house = carol.house
    (locked, _) = carol.add(2)
    with house.running() as process:
        house.settled()
        library = dave_imports(carol, house.roots.external)
        eventually(lambda: process.metric("refused") == 2, within=HEALS_WITHIN, describe=lambda: process.output[-3000:])
        told = process.get("/readyz").text
        assert "'shared with me' of dave has the import path" in told
        assert "accept_risk" in told
        (new,) = carol.add(1, start=50)
        house.query("UPDATE asset SET visibility = 'locked' WHERE id = %s", locked.id)
        eventually(lambda: not carol.copied(locked), within=HEALS_WITHIN, describe=lambda: process.output[-3000:])
        house.sweep()
        eventually(lambda: process.metric("keys_queued") == process.metric("keys_in_flight") == 0)
        assert not carol.copied(new)
        checked = house.command("check")
        assert checked.returncode == 1
        assert "danger   job 'photos': the library 'shared with me' of dave" in checked.stdout

        # What the words propose
        (pattern,) = {words.split("'")[0] for words in told.split("the exclusion pattern '")[1:2]}
        house.query(
            'UPDATE library SET "exclusionPatterns" = %s WHERE id = %s', [pattern.replace("\\\\", "\\")], library
        )
        eventually(lambda: process.metric("refused") == 1, within=HEALS_WITHIN, describe=lambda: process.output[-3000:])
        house.query('UPDATE library SET "deletedAt" = now() WHERE id = %s', library)
        process.wait_ready()
        eventually(lambda: carol.copied(new), within=HEALS_WITHIN, describe=lambda: process.output[-3000:])


async def unfit(carol: PhotoHouse, job: Job) -> preflight.Problems:
    async with await connect(carol.house.immich.conninfo) as connection:
        layout = Layout(carol.house.roots.media, carol.house.roots.external)
        return await preflight.unfit(connection, await catalog.read(connection), [job], layout)


async def test_whose_library_it_is_does_not_matter_but_the_jobs_own_is_another_matter(carol: PhotoHouse) -> None:
    house, conninfo = carol.house, carol.house.immich.conninfo
    job = house.jobs[0]
    shared = Path(job.target_path_prefix).parent
    assert await unfit(carol, job) == {}
    for owner in (job.source_user_id, job.target_user_id):
        library = add_library(conninfo, owner, str(shared))
        ((line,),) = (await unfit(carol, job)).values()
        assert str(shared) in line
        assert await unfit(carol, replace(job, accept_risk=True)) == {}
        assert await unfit(carol, replace(job, remove_copies=True)) == {}, "it takes the copies away"
        assert await unfit(carol, replace(job, target_library_id=library)) == {} or owner != job.target_user_id
        house.query("DELETE FROM library WHERE id = %s", library)


def test_a_prefix_that_leads_to_the_sources_library_is_not_covered_by_it(carol: PhotoHouse) -> None:
    job = carol.house.jobs[0]
    Path(job.target_path_prefix).symlink_to(carol.folder)
    assert asyncio.run(unfit(carol, job)) == {}


def test_the_check_tells_of_it_also_where_the_risk_is_accepted(carol: PhotoHouse) -> None:
    dave_imports(carol, carol.house.roots.external)
    config = Path(carol.house.environment["CONFIG_FILE"])
    daring = config.with_name("daring.yaml")
    daring.write_text(config.read_text().replace("- kind: uploads", "  accept_risk: true\n- kind: uploads"))
    house = replace(carol.house, extra={**carol.house.extra, "CONFIG_FILE": str(daring)})
    said = house.command("check").stdout
    assert "danger   library of 'photos': the library 'shared with me' of dave" in said
    assert "danger   job 'uploads': the library 'shared with me' of dave" in said
