"""The demo: a real Immich's recorded writes go into a real PostgreSQL, and the listener copies while one watches.

Carol uploads, edits, trashes and restores; bob gets finished copies. Each step is played as fast as Immich
wrote it, only the pauses between steps are left out. At the end the judge compares every copy with its
source, the figures are printed, the triggers go again, and the whole catalog is compared with the one before.
"""

import asyncio
import signal
import time
from collections import defaultdict
from collections.abc import Sequence
from functools import partial

from rich.console import Console

from listener.database import connect
from listener.standin.player import PlayedStep, touched_ids
from listener.tools import demo_house
from listener.tools.demo_figures import Work, percentile, since_commit
from listener.tools.demo_house import DemoError, House, Log, Mark, Process
from listener.tools.demo_view import StepRow, View, milliseconds
from listener.tools.verify import Report, render, verify

_PACE = 1.0
_QUIET_SECONDS = 10.0
_SETTLE_SECONDS = 20.0
_SETTLE_POLL_SECONDS = 0.25
_INTERRUPTED = 130


def main(console: Console | None = None) -> int:
    """Run the demo; return its exit code: 0 only if every copy is right and nothing is left behind."""
    view = View(console or Console())
    # Whoever ends us, all that was started goes as with Ctrl-C.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        return _run(view)
    except KeyboardInterrupt:
        view.say("interrupted: everything is cleaned up")
        return _INTERRUPTED
    except (DemoError, FileNotFoundError, RuntimeError) as error:
        view.say(f"the demo cannot go on: {error}")
        return 1


def _run(view: View) -> int:
    view.say("starting PostgreSQL with Immich's schema, in a temporary folder")
    with demo_house.build() as house:
        view.say(f"listener triggers install: {house.command('triggers', 'install')}")
        with house.running() as process:
            view.say("listener run: ready. Carol's photos and uploads are shared with bob")
            with view.table():
                played, events = _play(view, house, process)
            view.say("comparing every copy with its source: listener verify")
            report = _settled(house)
        work = house.work_avoided()
        view.say(f"listener triggers uninstall --purge: {house.command('triggers', 'uninstall', '--purge', '--yes')}")
        left = house.left_behind()
        view.say(render(report).splitlines()[0] if report.ok else render(report))
        for line in left:
            view.say(f"left behind in the catalog: {line}")
        if not left:
            rows = sum(count for count, _ in house.untouched.values())
            view.say(f"nothing is left: all {len(house.untouched)} system catalogs ({rows} rows) are as before install")
        view.summary(_figures(report, process.log, played, events, work))
        return exit_code(verified=report.ok, left=left, listener=process.exit_code)


def exit_code(*, verified: bool, left: Sequence[str], listener: int | None) -> int:
    """Return 0 if the judge found nothing, nothing is left behind and the listener ended well, else 1."""
    return 0 if verified and not left and listener == 0 else 1


def _play(view: View, house: House, process: Process) -> tuple[list[PlayedStep], int]:
    """Play all steps, waiting after each until the listener is done; return them and the number of events."""
    played: list[PlayedStep] = []
    start = events = process.wait_quiet(_QUIET_SECONDS)
    for step in house.player.steps:
        row = partial(
            _row, process.log.read(), step, len(house.player.recording.transactions(step)), process.log.mark()
        )
        view.begin(row)
        played.append(house.player.play_step(step, pace=_PACE))
        before, events = events, process.wait_quiet(_QUIET_SECONDS)
        view.end(row(events - before))
    return played, events - start


def _row(log: Log, step: str, transactions: int, since: Mark, events: int | None = None) -> StepRow:
    """Return how a step stands that began at ``since``."""
    log.read()
    times = [copy.since_statement for copy in log.copied[since.copied :]]
    return StepRow(
        step, transactions, events, log.made - since.made, log.removed - since.removed, percentile(times, 50)
    )


def _settled(house: House) -> Report:
    """Judge until nothing differs, for some seconds at most; return the last report."""

    async def judge() -> Report:
        end = time.monotonic() + _SETTLE_SECONDS
        async with await connect(house.conninfo) as connection:
            while True:
                report = await verify(connection, house.jobs, house.media)
                if report.ok or time.monotonic() > end:
                    return report
                await asyncio.sleep(_SETTLE_POLL_SECONDS)

    return asyncio.run(judge())


def _figures(report: Report, log: Log, played: Sequence[PlayedStep], events: int, work: Work) -> dict[str, str]:
    commits: dict[str, list[float]] = defaultdict(list)
    for step in played:
        for one in step.transactions:
            for touched in touched_ids(one.transaction):
                commits[touched].append(one.committed_at)
    waited = since_commit(log.copied, commits)
    by_listener = [copy.since_statement for copy in log.copied]
    rows = sorted((table, count) for table, count in report.rows.items() if count)
    return {
        "copies": f"{log.made} made, {log.removed} removed again, {report.copies} there at the end",
        "events": f"{events} notifications from {sum(len(step.transactions) for step in played)} transactions",
        "rows of the copies": ", ".join(f"{table} {count}" for table, count in rows),
        "jobs that Immich did not run": ", ".join(f"{kind} {count}" for kind, count in work.by_kind().items()),
        "of them machine learning": str(work.machine_learning),
        "commit in Immich to finished copy": _percentiles(waited),
        "the same by the listener's log": f"{_percentiles(by_listener)}, from the statement before the commit",
    }


def _percentiles(seconds: Sequence[float]) -> str:
    p50, p99 = (milliseconds(percentile(seconds, percent)) for percent in (50, 99))
    return f"p50 {p50}, p99 {p99} ({len(seconds)} copies)"
