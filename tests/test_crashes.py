"""Killed at each point of the code path, and at random moments: after the next start all is as if nothing had been.

The points are found by a run that only writes them down (`tests.chaos.crashing`); the product knows nothing of
them. Then two lives of the same deeds, one of them full of crashes, must end in the same rows and files.
"""

import ast
import json
import random
import re
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import listener
from tests.chaos.faults import KINDS
from tests.chaos.state import differences
from tests.lives import Life

# What all of them share is made once, in whichever comes first.
pytest_plugins = ("tests.life_fixtures",)
pytestmark = pytest.mark.timeout(600)

KILLS = 30
HEARD = "a new photo of somebody new"
# In the order in which a batch comes to them: what is done at one crash is not done again.
IN_THE_FIRST_SYNC = (
    *("before INSERT _face_sync_intent", "after mkdir", "after link", "before replace", "after replace"),
    *("after INSERT _face_sync_person_map", "amid copy", "before commit", "after commit", "after symlink"),
)
# A crash is followed by another, and another: only now and then is there time to finish.
QUIET_EVERY = 14

Plan = list[tuple[str, str | None]]

# What changes files, as it is called.
CHANGES_FILES = frozenset(
    {"link", "hardlink_to", "symlink", "symlink_to", "unlink", "rename", "replace", "mkdir", "rmdir", "utime"}
    | {"copyfileobj", "chmod", "chown", "write_bytes", "write_text", "touch", "rmtree", "copyfile", "copy2", "move"}
)
# A commit took more than two seconds, as it may or may not where much else goes on: tests/test_phones.py.
# And every two seconds it is asked whether jobs can be served, which writes nothing.
LATE = frozenset({"sync.phones.Phones._stamp", "sync.phones.Phones._announce", "refusals.Refusals.look_again"})
NOT_REACHED = {
    # A disk without hardlinks: tests/test_poor_disks.py.
    "sync.files._probe",
    "sync.phones.Phones._stamp",
    # Who is gone at both users': tests/behaviour/test_people_both_ways.py.
    "sync.settling.Settler._let_go",
    # Immich makes a thumbnail of a copy that was parked in between: tests/behaviour/test_thumbnails_of_people.py.
    "sync.settling.Settler._unpicture_parked",
    # A trial of a link that was killed: tests/test_trial.py.
    "sync.trial._remove_left",
}


@dataclass(frozen=True)
class Recorded:
    """The labels of all points, each with the deed that leads there (None: any start does), in the order of coming
    there; and the product's functions on the way."""

    install: list[str]
    first_sync: list[str]
    kinds: dict[str, str | None]
    functions: set[str]


@pytest.fixture(scope="module")
def recorded(new_life: Callable[..., Life], tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """Each deed once, while a listener writes down the points that it comes to."""
    folder = tmp_path_factory.mktemp("recorded")
    written, functions = folder / "points", set[str]()
    mark = f"record:{written}"
    life = new_life(folder, photos=10)

    def read() -> list[str]:
        """Return the labels of the points that were come to since the last time."""
        points = [json.loads(line) for line in written.read_text().splitlines()]
        written.unlink()
        points = [point for point in points if not LATE & {*point["functions"]}]
        functions.update(function for point in points for function in point["functions"])
        return [label for label in dict.fromkeys(point["label"] for point in points) if not label.startswith("within ")]

    life.deeds.move_in()
    life.install(mark)
    install = read()
    life.quiet(mark)
    first_sync = read()
    # It looks at everything once more, and notes that nothing is left to do there: the next ones no longer do so.
    life.quiet(mark)
    read()
    life.quiet(mark)
    kinds: dict[str, str | None] = dict.fromkeys(read())
    for kind in life.deeds.kinds:
        life.do(kind)
        life.quiet(mark)
        kinds |= {label: kind for label in read() if label not in kinds}
    with life.running(mark):
        # What is heard takes a listener.
        life.deeds.do(HEARD)
        life.house.sweep()
        life.house.settled()
    kinds |= {label: HEARD for label in read() if label not in kinds and " notification of " in label}
    return Recorded(install, first_sync, kinds, functions)


def test_there_is_a_point_wherever_the_product_changes_something(recorded: Recorded) -> None:
    """Every function that may change files or rows is on the way to a recorded point, before it and after it."""
    changing = functions_that_change()
    assert {"sync.files._hardlink", "sync.removal.Removal.remove", "sync.assets.Rows.write"} <= changing
    assert changing - recorded.functions == NOT_REACHED
    whats = defaultdict(set)
    for label in (*recorded.install, *recorded.first_sync, *recorded.kinds):
        moment, what = label.split(" in ")[0].split(" ", 1)
        whats[what].add(moment)
    assert "unseen" not in whats, "files are changed by a way that has no point after it"
    assert {"link", "symlink", "unlink", "replace", "mkdir", "rmdir", "open", "copy", "commit"} <= set(whats)
    assert {"notification of asset", "notification of person", "INSERT _face_sync_intent"} <= set(whats)
    assert {what for what, moments in whats.items() if not {"before", "after"} <= moments} == set()
    assert whats["copy"] == {"before", "amid", "after"}
    places = {label.split(" in ", 1)[1] for label in recorded.kinds if label.startswith("after commit")}
    assert {
        "sync.assets.Rows.write",
        "sync.removal.Removal.remove",
        "sync.removal.Removal.park",
        "sync.reconciler.Reconciler._respect",
        "sync.settling.Settler.settle.settled",
    } <= places


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "each_moment",
    [
        # Before or after, as it is drawn anew each time; `make chaos` tries both, too.
        pytest.param(False, id="at each place"),
        pytest.param(True, id="before and after", marks=pytest.mark.soak),
    ],
)
def test_killed_at_each_point_and_at_random_it_ends_as_if_it_had_not_been(
    recorded: Recorded, new_life: Callable[..., Life], tmp_path: Path, seed: int, *, each_moment: bool
) -> None:
    rng = random.Random(seed)
    plan = plan_of(recorded, rng, each_moment=each_moment)
    # Kills at random moments come last, in the middle of the deeds.
    life = new_life(tmp_path)
    while_killed = [deed for deed in DISTURBED if deed in life.deeds.kinds]
    disturbed = [(rng.choice(while_killed), rng.choice(while_killed)) for _ in range(KILLS)]
    life.deeds.move_in()
    life.install()
    with life.running():
        # A photo that is trashed before it was copied leaves no note of what its copy was like.
        life.house.settled()
        for deed in [*(deed for _, deed in plan if deed), *(deed for deeds in disturbed for deed in deeds)]:
            if deed in life.deeds.after_quiet:
                life.house.settled()
            life.deeds.do(deed)
    undisturbed = life.end()

    life = new_life(tmp_path)
    life.deeds.move_in()
    kill_in_first_sync(life, recorded, rng)
    assert kill_at_each_point(life, plan) == [], f"not reached, seed {seed}"
    for deeds in disturbed:
        kill_in_the_middle(life, deeds, rng)
    assert differences(undisturbed, life.end()) == {}, f"seed {seed}"


def kill_in_first_sync(life: Life, recorded: Recorded, rng: random.Random) -> None:
    """Kill while the triggers are installed, and again and again in the first sync."""
    for label in recorded.install:
        assert life.install(f"{label}:1") == -signal.SIGKILL, label
    assert life.install() == 0
    for label in recorded.first_sync:
        if label not in recorded.kinds:
            assert life.crash_at(label), label
    for point in IN_THE_FIRST_SYNC:
        labels = (label for label in recorded.first_sync if label.startswith(f"{point} in sync"))
        # The trial of a link comes once in a session.
        label = next(label for label in labels if "sync.trial" not in label)
        count = rng.randrange(1, 6) if " of " in label else 1
        assert life.crash_at(label, count), label
    life.quiet()


def kill_at_each_point(life: Life, plan: Plan) -> list[str]:
    """Return the points that were not reached."""
    missed = []
    for number, (label, deed) in enumerate(plan, start=1):
        if "notification of" in label and deed:
            reached = life.crash_at(label, meanwhile=lambda: life.deeds.do(HEARD))
        else:
            if deed:
                life.do(deed)
            reached = life.crash_at(label)
        if not reached:
            missed.append(label)
        # Not before a point to which the crash just now leads.
        if number % QUIET_EVERY == 0 and (number == len(plan) or plan[number][1]):
            life.quiet()
    return missed


DISTURBED = (
    *("a new photo of somebody new", "a scan finds new photos", "a live photo", "a photo is cropped"),
    *("a photo is described and tagged", "somebody is named", "a photo is trashed", "a photo is deleted for good"),
)


def kill_in_the_middle(life: Life, deeds: tuple[str, str], rng: random.Random) -> None:
    """Do deeds just before a listener starts, and while it works; kill it somewhere on the way."""
    before, meanwhile = deeds
    life.do(before)
    process = life.start()
    try:
        # From before it has connected until after it has done all.
        time.sleep(rng.uniform(0.2, 0.9) * life.pace)
        life.deeds.do(meanwhile)
        time.sleep(rng.uniform(0, 0.2) * life.pace)
    finally:
        process.popen.kill()
    assert process.popen.wait(10) == -signal.SIGKILL, process.output


def plan_of(recorded: Recorded, rng: random.Random, *, each_moment: bool) -> Plan:
    """Return the points to be killed at, each with a deed that leads there, in random order."""
    plan: Plan = []
    labels = list(recorded.kinds)
    rng.shuffle(labels)
    if not each_moment:
        labels = list({label.split(" ", 1)[1]: label for label in labels}.values())
    # The half file that a crash left: a point that is only reached after one.
    before = [label for label in recorded.kinds if label.startswith("before unlink ")]
    half = [label for label in before if label.replace("before", "after", 1) not in recorded.kinds]
    for label in labels:
        plan.append((label, recorded.kinds[label]))
        if label.startswith("before replace in "):
            by = label.rpartition(" of ")[2]
            plan += [(one.replace("before", "after", 1), None) for one in half if one.endswith(f" of {by}")]
    return plan


def functions_that_change() -> set[str]:
    """Return the product's functions that, by their text, change files or open a transaction."""
    found: set[str] = set()
    package = Path(listener.__file__).parent
    for path in sorted((package / "sync").rglob("*.py")):
        module = ".".join(path.relative_to(package).with_suffix("").parts)
        for scope, function in functions_of(ast.parse(path.read_text()), module):
            if any(changes(node) for node in ast.walk(function)):
                found.add(scope)
    return found


def functions_of(tree: ast.AST, scope: str) -> Iterator[tuple[str, ast.AST]]:
    """Yield the functions and methods of a module, with their names; not those within functions."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{scope}.{node.name}", node
        elif isinstance(node, ast.ClassDef):
            yield from functions_of(node, f"{scope}.{node.name}")


def changes(node: ast.AST) -> bool:
    if isinstance(node, ast.AsyncWith):
        return any(
            isinstance(item.context_expr, ast.Call) and called(item.context_expr) == "writing" for item in node.items
        )
    if not isinstance(node, ast.Call):
        return False
    if called(node) == "open":
        return any(
            isinstance(a, ast.Constant) and isinstance(a.value, str) and set(a.value) & set("wax+") for a in node.args
        )
    # str.replace takes two arguments, dataclasses.replace is no method.
    owner = node.func.value if isinstance(node.func, ast.Attribute) else None
    return (
        owner is not None and called(node) in CHANGES_FILES and not (called(node) == "replace" and len(node.args) != 1)
    )


def called(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


@pytest.mark.timeout(600)
def test_some_of_every_fault_loses_doubles_and_orphans_nothing(seed: int) -> None:
    """The short form of `make chaos`, as it is called."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos", "--short", "--seed", str(seed)],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    for kind in KINDS:
        assert f"{kind.name} " in done.stdout, "every kind has its line"
    assert re.search(
        r"faults tried [\d,]+: lost 0, doubled 0, orphaned 0, Immich statements failed 0\n", done.stdout
    ), done.stdout
    assert re.search(r"Again: python -m tests\.chaos --seed \d+\n", done.stdout)
