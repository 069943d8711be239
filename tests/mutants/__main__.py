"""`make mutants`: faults in the SQL and in listener/sync, one at a time, and whether a test sees each.

    python -m tests.mutants [--only FILE[:NAME] ...] [--sample N [--seed N]] [--jobs N] [--seconds N] [--again] [--list]

A run that is cut goes on where it was: what is known of a query or function as it is now is not tried again. What no
test has killed is to be explained in docs/reliability.md, or a test is missing. Ends with 1 if there is one that is
not explained there.
"""

import argparse
import hashlib
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue

from rich import box
from rich.console import Console
from rich.table import Table

from listener.standin.postgres import embedded
from tests.mutants import ledger as outcomes
from tests.mutants.catalogue import Mutant, catalogue
from tests.mutants.judging import Choice, Judge, failing, judge
from tests.mutants.ledger import Ledger, Verdict, equivalents
from tests.mutants.reach import Reach, find, test_files
from tests.mutants.tree import ROOT

_STATE = ROOT / ".mutants"
_PAGE = ROOT / "docs" / "reliability.md"
_OUTCOMES = (outcomes.KILLED, outcomes.TIMED_OUT, outcomes.SURVIVED, outcomes.UNREACHED)
_CODE = ("listener", "sql", "tests")


def main() -> int:
    words = argparse.ArgumentParser(prog="python -m tests.mutants", description="Tries mutants of the code.")
    words.add_argument("--only", action="append", default=[], metavar="FILE[:NAME]", help="only these, as people.sql")
    words.add_argument("--sample", type=int, metavar="N", help="only so many, drawn")
    words.add_argument("--seed", type=int, default=0, help="draw others")
    words.add_argument("--jobs", type=int, default=1, help="so many at a time")
    words.add_argument("--seconds", type=float, help="for each no more tests than take so long")
    words.add_argument("--patience", type=float, default=0.5, help="how long tests wait for what does not come, of 1")
    words.add_argument("--and-or", action="store_true", help="AND for OR, too: where a condition is dropped tells it")
    words.add_argument("--again", action="store_true", help="try those again that lived before")
    words.add_argument("--list", action="store_true", help="only name them, with what is known of each")
    given = words.parse_args()
    # Told to stop, it takes its servers away first.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    console = Console() if sys.stdout.isatty() else Console(width=160)
    mutants = [m for m in catalogue(given.only) if given.and_or or not m.exchanges]
    console.print(f"{len(mutants)} mutants")
    if given.sample is not None and given.sample < len(mutants):
        mutants = random.Random(given.seed).sample(mutants, given.sample)
    ledger = Ledger(_STATE / "results.sqlite")
    known = {mutant: verdict for mutant in mutants if (verdict := ledger.known(mutant))}
    if given.list:
        for mutant in mutants:
            outcome = known[mutant].outcome if mutant in known else ""
            console.print(f"{outcome:9}  {mutant.name}", markup=False, highlight=False, soft_wrap=True)
    else:
        todo = [mutant for mutant in mutants if mutant not in known or (given.again and known[mutant].lives)]
        console.print(f"{len(mutants)} asked for, of {len(mutants) - len(todo)} it is known what becomes of them")
        if todo:
            known |= run(todo, ledger, given, console)
    ledger.close()
    return show(known, mutants, console)


def run(todo: Sequence[Mutant], ledger: Ledger, given: argparse.Namespace, console: Console) -> dict[Mutant, Verdict]:
    """Judge these mutants, several at a time, and keep each verdict at once."""
    with ExitStack() as closing:
        folder = Path(tempfile.mkdtemp(prefix="listener-mutants-"))
        closing.callback(shutil.rmtree, folder, ignore_errors=True)
        choice = Choice(_reach(folder / "traced", console), given.seconds)
        judges: SimpleQueue[Judge] = SimpleQueue()
        for number in range(given.jobs):
            judges.put(closing.enter_context(judge(folder / str(number), given.patience)))
        _without_mutants(todo, choice, judges, ledger, console)
        began, done = time.monotonic(), Counter[str]()

        def one(mutant: Mutant) -> Verdict:
            mine = judges.get()
            try:
                tests = choice.of(mutant, ledger.kills(mutant))
                verdict = mine.judge(mutant, tests, choice.usual(tests))
            finally:
                judges.put(mine)
            ledger.note(mutant, verdict)
            done[verdict.outcome] += 1
            where = f"{done.total()}/{len(todo)} {time.monotonic() - began:5.0f} s"
            console.print(f"{where}  {verdict.outcome:9}  {mutant.name}", markup=False, highlight=False, soft_wrap=True)
            return verdict

        pool = closing.enter_context(ThreadPoolExecutor(given.jobs))
        closing.callback(pool.shutdown, cancel_futures=True)
        return dict(zip(todo, pool.map(one, todo), strict=True))


def _reach(folder: Path, console: Console) -> Reach:
    """Return which test reaches what; only tests that have changed since are run for it."""
    file = _STATE / "reach.json"
    reach, files = Reach.read(file), test_files(ROOT)
    stale = reach.stale(files)
    if stale:
        console.print(f"running {len(stale)} files of tests to see what they reach")
        with embedded(folder / "postgres", durable=False) as server:
            reach = reach.updated(find(folder / "tree", server, {name: files[name] for name in stale}))
        reach.write(file)
    return reach


def _without_mutants(
    todo: Sequence[Mutant], choice: Choice, judges: "SimpleQueue[Judge]", ledger: Ledger, console: Console
) -> None:
    """See that the tests pass without a mutant: nothing could be told by one that fails. Raises SystemExit."""
    code, files = _code(), test_files(ROOT)
    codes = {
        test: f"{code} {files[test.partition('::')[0]]}"
        for mutant in todo
        for test in choice.of(mutant, ledger.kills(mutant))
    }
    tests = codes.keys() - ledger.passed(codes)
    if not tests:
        return
    console.print(f"running {len(tests)} tests without a mutant")
    mine = judges.get()
    ended = mine.tests(sorted(tests), choice.usual([*tests]))
    judges.put(mine)
    if ended.code != 0:
        words = f"a test fails without a mutant (on a busy machine it may need --patience 1): {failing(ended.output)}"
        raise SystemExit(f"{ended.output[-3000:]}\n{words}")
    ledger.note_passed({test: codes[test] for test in tests})


def _code() -> str:
    """Return what changes with any file that a test may depend on, beside its own."""
    made = hashlib.sha256()
    for folder in _CODE:
        for file in sorted((ROOT / folder).rglob("*")):
            if file.suffix in {".py", ".sql"} and not file.name.startswith("test_"):
                made.update(file.read_bytes())
    return made.hexdigest()


def show(known: dict[Mutant, Verdict], mutants: Sequence[Mutant], console: Console) -> int:
    """Print what became of the mutants, by file, and those that live. Return 1 if one is not explained."""
    explained = equivalents(_PAGE)
    table = Table("File", "Mutants", *(word.capitalize() for word in _OUTCOMES), "Not tried", box=box.SIMPLE)
    for path in [*dict.fromkeys(mutant.path for mutant in mutants), None]:
        of_file = [mutant for mutant in mutants if path in {mutant.path, None}]
        counts = Counter(known[mutant].outcome if mutant in known else "" for mutant in of_file)
        numbers = (len(of_file), *(counts[outcome] for outcome in _OUTCOMES), counts[""])
        table.add_row(path or "All", *(str(number) for number in numbers))
    console.print(table)
    living = [mutant for mutant in mutants if mutant in known and known[mutant].lives]
    open_ones = [mutant for mutant in living if mutant.name not in explained]
    for mutant in open_ones:
        text = (ROOT / mutant.path).read_text(encoding="utf-8")
        line, tests = mutant.line(text), known[mutant].tests
        after = mutant.applied(text).splitlines()[line - 1].strip()
        console.print(
            f"{mutant.path}:{line}: {known[mutant].outcome}, {tests} tests: {mutant.name}", markup=False, soft_wrap=True
        )
        console.print(f"    {after}", markup=False, highlight=False, soft_wrap=True)
    for mutant in mutants:
        if mutant.name in explained and mutant in known and not known[mutant].lives:
            console.print(
                f"explained, but a test kills it: {mutant.name}", markup=False, highlight=False, soft_wrap=True
            )
    console.print(f"{len(living) - len(open_ones)} explained in docs/reliability.md, {len(open_ones)} not")
    return 1 if open_ones else 0


if __name__ == "__main__":
    sys.exit(main())
