"""The demo: run as a user runs it, and what decides its exit code and its figures."""

import io
import math
import re
import signal
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import httpx
import pytest
from rich.console import Console

from listener.standin.server import immich_api
from listener.tools import demo
from listener.tools.demo_figures import Copied, Work, percentile, since_commit
from listener.tools.demo_house import DemoError
from listener.tools.demo_view import StepRow, View
from tests.conftest import eventually

WITHIN = 60


def start(folder: Path) -> "subprocess.Popen[str]":
    """Start the demo without a terminal, its temporary files below a folder."""
    return subprocess.Popen(
        [sys.executable, "-m", "listener", "demo"],
        env={"PATH": "/usr/bin:/bin", "TMPDIR": str(folder), "PYTHONPATH": str(Path(__file__).parent.parent)},
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture
def folder() -> "tempfile.TemporaryDirectory[str]":
    # Not pytest's own: PostgreSQL runs as another user where we are root.
    return tempfile.TemporaryDirectory(prefix="demo-")


def figure(output: str, name: str) -> str:
    found = re.search(rf"^{name} +(.+)$", output, re.MULTILINE)
    assert found, output
    return found[1]


def number(text: str, after: str) -> int:
    found = re.search(rf"(?:^|\W){after} (\d+)", text)
    assert found, text
    return int(found[1])


def test_the_demo_ends_well_and_tells_its_figures(folder: "tempfile.TemporaryDirectory[str]") -> None:
    with folder as path:
        output, _ = start(Path(path)).communicate(timeout=2 * WITHIN)
        left = list(Path(path).iterdir())
    assert "\x1b" not in output, "no terminal, no colours"
    assert re.search(r"ok: 29 copies of 29 shared photos and videos, 0 waiting", output), output
    assert re.search(r"nothing is left: all \d+ system catalogs", output), output
    assert left == []
    # One line a step, with the time it took.
    assert re.search(
        r"^ +[\d.]+ s  upload photos: events \d+, copies made 14, removed 0, median [\d.]+ ms$", output, re.MULTILINE
    )
    assert float(re.findall(r"^ *([\d.]+) s  ", output, re.MULTILINE)[-1]) < WITHIN
    rows = figure(output, "rows of the copies")
    assert number(rows, "asset") == number(rows, "asset_exif") == 29
    avoided = figure(output, "jobs that Immich did not run")
    assert number(avoided, "smart search") == number(rows, "smart_search")
    assert int(figure(output, "events").split()[0]) >= 400
    for name in ("commit in Immich to finished copy", "the same by the listener's log"):
        p50, p99 = map(float, re.findall(r"p\d\d ([\d.]+) ms", figure(output, name)))
        assert 0 < p50 <= p99


def test_interrupted_it_leaves_nothing(folder: "tempfile.TemporaryDirectory[str]") -> None:
    with folder as path:
        process = start(Path(path))
        assert process.stdout
        seen = next(line for line in process.stdout if "listener run: ready" in line)
        assert seen
        servers = children(process.pid)
        assert len(servers) == 2
        process.send_signal(signal.SIGINT)
        assert process.wait(WITHIN) == 130
        process.stdout.close()
        eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in servers))
        assert list(Path(path).iterdir()) == []


def children(pid: int) -> list[int]:
    threads = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for thread in threads for child in (thread / "children").read_text().split()]


@pytest.mark.parametrize(
    ("verified", "left", "listener", "code"),
    [
        (True, [], 0, 0),
        (False, [], 0, 1),
        (True, ["pg_proc: 1 rows before, 2 now"], 0, 1),
        (True, [], 1, 1),
        (True, [], -9, 1),
        (True, [], None, 1),
    ],
)
def test_only_a_right_end_is_success(*, verified: bool, left: list[str], listener: int | None, code: int) -> None:
    assert demo.exit_code(verified=verified, left=left, listener=listener) == code


@pytest.mark.parametrize("error", [DemoError("why"), RuntimeError("why"), FileNotFoundError("why")])
def test_what_goes_wrong_is_told_in_words(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(view: View) -> int:
        raise error

    monkeypatch.setattr(demo, "_run", fail)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    output = io.StringIO()
    assert demo.main(Console(file=output)) == 1
    assert "the demo cannot go on: why" in output.getvalue()


def test_a_terminal_gets_a_table_of_all_steps() -> None:
    output = io.StringIO()
    view = View(Console(file=output, force_terminal=True, width=80, height=12))
    with view.table():
        for n in range(30):
            view.begin(partial(StepRow, f"step {n}", 1))
            view.end(StepRow(f"step {n}", 1, 2, 3, 0, 0.0421))
    final = output.getvalue().rpartition("what carol did")[2]
    assert all(f"step {n}" in final for n in range(30))
    assert "42.1" in final


def test_the_time_of_a_copy_starts_at_the_commit_that_made_it_due() -> None:
    commits = {"a": [100.0, 100.5, 101.0], "b": [100.0]}
    copied = [
        Copied("a", 100.540, 0.050),  # its statement ran at 100.490, its commit returned at 100.500
        Copied("a", 100.999, 0.010),  # finished before the player heard of the commit
        Copied("b", 200.0, 0.1),  # no commit after its statement: not to be told
        Copied("c", 100.0, 0.1),
    ]
    assert since_commit(copied, commits) == [pytest.approx(0.040), 0.0]


def test_percentiles_are_values_that_were_measured() -> None:
    values = [float(n) for n in range(1, 101)]
    assert [percentile(values[::-1], p) for p in (1, 50, 99, 100)] == [1.0, 50.0, 99.0, 100.0]
    assert percentile([7.0], 99) == 7.0
    assert math.isnan(percentile([], 50))


def test_machine_learning_is_what_needs_models() -> None:
    work = Work(metadata=1, thumbnails=2, smart_search=10, face_detection=20, face_recognition=30, ocr=40)
    assert work.machine_learning == 100
    assert work.by_kind()["smart search"] == 10


def test_the_recorded_api_is_served() -> None:
    with immich_api() as url:
        assert httpx.get(f"{url}/api/server/features").json()["ocr"] is True
        assert httpx.get(f"{url}/api/nothing").status_code == 404
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/api/server/ping")
