"""The wheel: installed elsewhere, it has its SQL and the demo's data, and works without the checkout."""

import hashlib
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def sums(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def elsewhere(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the programs of an environment with the wheel; its dependencies are this environment's."""
    folder = tmp_path_factory.mktemp("elsewhere")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", "-q", wheel, cwd=folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    # Last on the path, and without what .pth files there add: the checkout.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin"


def test_the_wheel_is_whole_and_has_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"listener"}
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "listener").rglob("*.py")}
    assert modules <= names
    # The other releases are test data.
    assert {name for name in names if name.endswith((".json", ".jsonl"))} == {
        "listener/standin/data/api-v3.0.3.json",
        "listener/standin/data/schema/v3.0.3.json",
        "listener/standin/data/recording/v3.0.3.jsonl",
    }


def test_the_sql_files_are_found_and_are_the_checkouts(elsewhere: Path, tmp_path: Path) -> None:
    ask = "from listener import sqlfiles; print(sqlfiles.sql_dir())"
    installed = Path(run(elsewhere / "python", "-c", ask, cwd=tmp_path).strip())
    assert installed.is_relative_to(elsewhere.parent.resolve())
    assert sums(installed) == sums(ROOT / "sql")
    checkout = Path(run(sys.executable, "-c", ask, cwd=ROOT).strip())
    assert checkout == ROOT / "sql"


def test_the_installed_command_prints_the_triggers(elsewhere: Path, tmp_path: Path) -> None:
    printed = run(elsewhere / "listener", "triggers", "print", cwd=tmp_path)
    assert "CREATE OR REPLACE FUNCTION _face_sync.notify_change()" in printed
    assert printed == run(sys.executable, "-m", "listener", "triggers", "print", cwd=ROOT)


def test_the_installed_demo_has_all_it_needs(elsewhere: Path, tmp_path: Path) -> None:
    ask = (
        "from listener.standin.facts import load_facts; from listener.standin.recording import recorded;"
        "from listener.standin.server import recorded_answer; from listener.tools import demo, demo_house;"
        "print(len(load_facts(demo_house.RELEASE).tables) > 0, len(recorded(demo_house.RELEASE).steps),"
        "recorded_answer('/api/server/ping')[0])"
    )
    assert run(elsewhere / "python", "-c", ask, cwd=tmp_path).split() == ["True", "32", "200"]
