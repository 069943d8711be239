"""Whatever ends a part of the service is told and begun anew: nothing ends the process but its settings."""

import logging
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from itertools import cycle
from pathlib import Path
from typing import Any

import psycopg
import pytest

from listener import boundary, channel, mounts, recovery, service, startup, sweep, workqueue
from listener.batches import Batches
from listener.channel import Listening
from listener.condition import Watch
from listener.gate import Gate
from listener.mounts import Mounts
from listener.ops import http
from listener.ownership import Ownership
from listener.refusals import Refusals
from listener.service import Service
from listener.sweep import Sweep
from listener.sweeps import Sweeps
from listener.sync.reconciler import Reconciler
from listener.sync.settling import Settler
from listener.upkeep import Upkeep
from tests.behaviour.conftest import make_home
from tests.chaos.raising import KINDS
from tests.conftest import DEFAULT_RELEASE, ImmichDatabase, Roots, eventually
from tests.oddities import Oddity

TIMES = 2
# The top of each task of the service, and what each of them begins with.
TOPS: tuple[tuple[Any, str], ...] = (
    *((Service, name) for name in ("_session", "_watch_mounts", "_proven", "_clean_up", "_take_jobs")),
    *((Sweeps, name) for name in ("often", "answer_urgent", "_answer_ask", "_sweep", "_sweep_job", "_try_failed")),
    *((Batches, name) for name in ("work", "_reconcile", "_for_job", "_reconcile_job")),
    *((Reconciler, "assets"), (Settler, "settle_held"), (Gate, "only_removes"), (Mounts, "paused"), (Mounts, "begin")),
    *((Listening, "run"), (Listening, "_hear"), (Watch, "look"), (Watch, "until_calm"), (Upkeep, "try_again")),
    *((Ownership, "_take"), (Refusals, "look_again"), (Sweep, "remember"), (startup, "prepare"), (sweep, "tidy")),
    *((recovery, "clean_up"), (recovery, "mend_notes"), (http, "serve")),
)


def test_whatever_is_raised_at_the_top_of_a_task_is_told_and_begun_anew(
    new_immich: Callable[[str], ImmichDatabase],
    roots: Roots,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    oddity: Oddity,
) -> None:
    caplog.set_level(logging.WARNING, "listener")
    raised: Counter[str] = Counter()
    kinds = cycle(KINDS)

    def tripping(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        async def tripped(*args: Any, **named: Any) -> Any:
            if raised[name] < TIMES:
                raised[name] += 1
                raise next(kinds)(f"raised at the top of {name}")
            return await function(*args, **named)

        return tripped

    for owner, name in TOPS:
        monkeypatch.setattr(owner, name, tripping(f"{owner.__name__}.{name}", getattr(owner, name)))
    monkeypatch.setattr(boundary, "_FIRST_PAUSE", 0.02)
    monkeypatch.setattr(service, "_LONGEST_WAIT", 0.05)
    monkeypatch.setattr(workqueue, "FIRST_PAUSE", 0.02)
    monkeypatch.setattr(workqueue, "LONGEST_PAUSE", 0.1)
    monkeypatch.setattr(channel, "_LOOKS", 100)
    monkeypatch.setattr(mounts, "EVERY", 0.1)
    with ExitStack() as stack:
        home = make_home(new_immich(DEFAULT_RELEASE), roots, tmp_path, stack)
        before = home.alice.upload("before.jpg")
        home.start()
        home.copied(before)
        after = home.alice.upload("after.jpg", faces=1)
        home.copied(after)
        # Whoever asks is answered, by the second try or the third.
        done = home.house.command("reconcile", "--asset", str(after))
        assert done.returncode == 0, done.stderr
        eventually(lambda: set(raised.values()) == {TIMES}, within=15, describe=lambda: str(raised))
        home.settled()
        assert len(raised) == len(TOPS)
        eventually(lambda: not home.service.readiness.reasons, describe=lambda: str(home.service.readiness.reasons))
        told = [getattr(record, "fields", {}).get("reason", "") for record in caplog.records]
        assert sum("raised at the top of" in str(reason) for reason in told) > len(KINDS)
        home.stop()
    oddity(
        "an error of any kind at the top of each task of the service",
        "log and metric errors: the sweeps failed: it is begun anew reason=… at=…",
        "everything, after a short pause",
    )


@pytest.mark.parametrize("which", ["_sweep_job", "_for_job"])
def test_one_job_that_fails_for_ever_stops_no_other(
    new_immich: Callable[[str], ImmichDatabase],
    roots: Roots,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    which: str,
    oddity: Oddity,
) -> None:
    owner: Any = Sweeps if which == "_sweep_job" else Batches
    function = getattr(owner, which)
    broken = True

    async def fails(self: Any, *args: Any) -> Any:
        if broken and any(getattr(arg, "name", "") == "photos" for arg in args):
            raise psycopg.DataError("timestamp too large (after year 10K): 'infinity'")
        return await function(self, *args)

    monkeypatch.setattr(owner, which, fails)
    monkeypatch.setattr(boundary, "_FIRST_PAUSE", 0.02)
    with ExitStack() as stack:
        home = make_home(new_immich(DEFAULT_RELEASE), roots, tmp_path, stack)
        upload = home.alice.upload("upload.jpg")
        home.start(but="the first sweep is not done" if which == "_sweep_job" else None)
        home.copied(upload)
        library = home.alice.add_library(home.photos)
        (photo,) = home.alice.scan_library(library, ["a.jpg"])
        home.copied(home.alice.upload("later.jpg"))
        if which == "_sweep_job":
            assert "job 'photos': timestamp too large" in home.service.readiness.reasons[0]
        else:
            assert home.copy_of(photo) is None
        broken = False
        home.copied(photo)
        eventually(lambda: not home.service.readiness.reasons)
        home.settled()
        home.stop()
    oddity(
        "the sweep or the batches of one job fail, again and again",
        "log, metric errors, /readyz at the first sweep: job 'photos': timestamp too large …",
        "the other jobs",
    )
