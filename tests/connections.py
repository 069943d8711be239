"""What the tests of connections share: another way to the database, and waiting for what a listener makes of it."""

from collections.abc import Callable
from datetime import timedelta

from tests.conftest import eventually
from tests.house import House, Process, database_url
from tests.photos import PhotoHouse

# A frozen wire is noticed by the next proof, 10 s after the last, within 5 s, or by a look at the jobs, within 12 s.
NOTICED_WITHIN = 40.0
OURS = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'immich-shared-library' AND state_change < now() - %s
"""
GAVE_UP = r"no notification came back within 5 s|no answer within 12 s"
AGAIN = "trying again"


def over(carol: PhotoHouse, address: Callable[[str], str], **extra: str) -> House:
    """Return the house whose listener reaches the database in another way."""
    now = carol.house.environment["DB_URL"]
    return carol.with_settings(DB_URL=database_url(address(now)), **extra).house


def settled(house: House, process: Process, photos: int) -> None:
    """Wait until every photo has its copy and the listener is ready, without a failure on record."""
    report = house.settled(within=60)
    assert report.copies == photos
    process.wait_ready()
    # A copy is all there before its mark goes.
    eventually(
        lambda: house.query("SELECT count(*) FROM public._face_sync_intent") == [(0,)],
        describe=lambda: process.output[-2000:],
    )
    assert house.query("SELECT count(*) FROM public._face_sync_failure") == [(0,)]
    assert process.popen.poll() is None, process.output
    assert "Traceback" not in process.output


def in_the_middle(carol: PhotoHouse, process: Process, works: Callable[[], object]) -> None:
    """Wait until copies are begun, and ``works()``, which is asked only then, is true."""
    house = carol.house
    eventually(
        lambda: house.query("SELECT 1 FROM public._face_sync_intent LIMIT 1") and works(),
        within=30,
        describe=lambda: process.output[-2000:],
    )


def sessions(house: House, idle: timedelta = timedelta(0)) -> int:
    """Return how many sessions of the listener there are that have been idle for so long."""
    ((count,),) = house.query(OURS, idle)
    return int(str(count))


def said(process: Process, words: str, *, times: int = 1, within: float = 30.0) -> None:
    eventually(lambda: process.output.count(words) >= times, within=within, describe=lambda: process.output[-3000:])
