"""Whatever is raised, wherever: the process lives, the others are shared, and all is right when the cause is gone.

The points are those at which `tests/test_crashes.py` kills; here a listener goes on from each of them.
"""

import json
import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos.raising import KINDS
from tests.conftest import eventually
from tests.house import Process
from tests.lives import Life
from tests.oddities import Oddity

pytest_plugins = ("tests.life_fixtures",)
pytestmark = pytest.mark.timeout(600)

# Where a photo or a person is worked on. What only a first sync comes to, a new photo comes to as well.
OF_ONE = re.compile(r"(?:before|after|within|amid) .* in sync\.(?!trial)")
TRIED = 12
# What is to be done before a deed.
FIRST = {
    "its edits are undone": ("a photo is cropped",),
    "a photo is restored": ("a photo is trashed",),
    "bob deletes his": ("bob has the same photo",),
}
WITHIN = 20.0


def labels_of(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def times(done: Path, label: str) -> int:
    """Tell how often something was raised at this point."""
    found = json.loads(done.read_text() or "{}")
    return int(found["times"]) if found.get("label") == label else 0


def idle(process: Process) -> bool:
    return process.metric("keys_queued") + process.metric("keys_in_flight") == 0


@pytest.fixture(scope="module")
def raised_once(new_life: Callable[..., Life], tmp_path_factory: pytest.TempPathFactory) -> tuple[Life, dict[str, str]]:
    """A life in which something is raised at each point when a listener comes there first; returns the points, each
    with the deed that leads there."""
    folder = tmp_path_factory.mktemp("raised")
    written, kinds = folder / "points", dict[str, str]()
    life = new_life(folder, photos=4)
    life.deeds.move_in()
    life.install()
    with life.running(f"once:{written}", within=90) as process:
        for kind in life.deeds.kinds:
            before = len(labels_of(written))
            if kind in life.deeds.after_quiet:
                life.house.settled()
            life.deeds.do(kind)
            life.deeds.find()
            eventually(lambda: idle(process), within=WITHIN, every=0.1, describe=lambda: process.output[-5000:])
            kinds |= dict.fromkeys(labels_of(written)[before:], kind)
        life.house.sweep()
        life.house.settled(within=WITHIN)
        assert process.popen.poll() is None
        assert process.metric("errors_total") > 0
        assert process.metric("failures_total") > 0
    assert process.popen.returncode == 0
    return life, kinds


def test_after_anything_was_raised_once_at_every_point_all_is_as_it_should_be(
    raised_once: tuple[Life, dict[str, str]],
) -> None:
    life, _ = raised_once
    labels = labels_of(life.house.folder / "points")
    whats = {label.split(" in ")[0] for label in labels}
    assert {
        f"{moment} {what}" for moment in ("before", "after") for what in ("link", "symlink", "unlink", "commit")
    } <= whats
    assert {"before notification of asset", "before lock of a job", "before copy"} <= whats
    assert any(what.startswith("within INSERT") for what in whats), "also in the middle of a transaction"
    assert len(labels) > 10 * len(KINDS)
    # A whole look without anything raised finds nothing to do.
    life.end()


def test_what_is_raised_for_one_photo_each_time_stops_no_other(
    raised_once: tuple[Life, dict[str, str]], seed: int, request: pytest.FixtureRequest, oddity: Oddity
) -> None:
    life, kinds = raised_once
    rng = random.Random(seed)
    labels = sorted(label for label in kinds if OF_ONE.match(label))
    control = life.house.folder / "control"
    done = control.with_suffix(".done")
    but = [
        str(user) for job in life.house.jobs for user in (job.source_user_id, job.target_user_id, job.target_library_id)
    ]
    control.write_text(json.dumps({"label": "", "but": but}))
    everything = request.config.option.markexpr == "soak"
    for_all = labels if everything else rng.sample(labels, TRIED)
    reached = 0
    with life.running(f"always:{control}") as process:
        for label in for_all:
            kind = kinds[label]
            first = ["a new photo of somebody new", *FIRST.get(kind, ())]
            for deed in first:
                life.deeds.do(deed)
            if len(first) > 1 or kind in life.deeds.after_quiet:
                life.house.settled()
            control.write_text(json.dumps({"label": label, "but": but}))
            life.deeds.do(kind)
            other = life.deeds.plain()
            eventually(lambda other=other: life.copied(other), within=WITHIN, describe=lambda: process.output[-5000:])  # type: ignore[misc]
            # Of a batch that was halved there may be nothing left to do: then nothing has failed.
            eventually(
                lambda label=label: f"raised {label}" in process.output or (idle(process) and times(done, label) < 2),  # type: ignore[misc]
                within=WITHIN,
                every=0.1,
                describe=label,
            )
            reached += times(done, label) > 0
            assert process.popen.poll() is None
            control.write_text(json.dumps({"label": "", "but": but}))
            life.deeds.find()
            life.house.sweep()
            life.house.settled(within=WITHIN)
    assert process.popen.returncode == 0
    assert reached > len(for_all) // 2, f"seed {seed}"
    life.end()
    oddity(
        "an error of any kind at any point of the code, each time that it comes to one photo",
        "for that photo, in log and failures list: an error that nobody foresaw: KeyError: … (in sync/placing.py:120)",
        "all other photos; this one when the cause is gone",
    )


def test_no_file_is_asked_for_in_the_event_loop(raised_once: tuple[Life, dict[str, str]]) -> None:
    """A share whose server is away lets whoever asks wait: there, everything would."""
    life, _ = raised_once
    found = life.house.folder / "in the loop"
    with life.running(f"loop:{found}") as process:
        for kind in ("a photo is trashed", "a photo is cropped", "bob has the same photo", *life.deeds.kinds):
            if kind in life.deeds.after_quiet:
                life.house.settled()
            life.deeds.do("a new photo of somebody new")
            life.deeds.do(kind)
            life.deeds.find()
        life.house.sweep()
        eventually(lambda: idle(process), within=WITHIN, every=0.1)
        life.house.settled()
    lines = found.read_text().splitlines()
    assert lines, "the program's own files are seen"
    # What is mounted, by its path or by a name in a folder that is open; not the program's own.
    mounted = str(life.house.folder)
    assert [line for line in lines if mounted in line or not re.match(r"\w+ of (?:PosixPath\()?b?'/", line)] == []
