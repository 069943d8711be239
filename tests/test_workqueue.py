"""The queue: equal keys fold, none is handed out twice at once, failures come back after growing pauses."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from listener.workqueue import FIRST_PAUSE, LONGEST_PAUSE, Batch, Key, WorkQueue


def key(number: int, kind: str = "asset") -> Key:
    return Key("asset" if kind == "asset" else "person", UUID(int=number))


A, B, C = key(1), key(2), key(3)


class Clock:
    """A clock that only the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(clock: Clock) -> WorkQueue:
    return WorkQueue(clock=clock, rng=random.Random(1))


async def take(queue: WorkQueue, limit: int = 100) -> Batch:
    """Take what is there; fails at once where nothing is."""
    async with asyncio.timeout(5):
        return await queue.take(limit)


@asynccontextmanager
async def taking(queue: WorkQueue) -> AsyncIterator["asyncio.Task[Batch]"]:
    """A taker that waits already."""
    task = asyncio.create_task(queue.take(100))
    for _ in range(3):
        await asyncio.sleep(0)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_equal_keys_fold_into_one(queue: WorkQueue) -> None:
    queue.add([A, B, A])
    queue.add([A], urgent=False)
    assert queue.waiting == 2
    assert set((await take(queue)).keys) == {A, B}


async def test_an_asset_and_a_person_of_one_id_are_two_keys(queue: WorkQueue) -> None:
    queue.add([key(1, "asset"), key(1, "person")])
    batch = await take(queue)
    assert batch.ids("asset") == batch.ids("person") == [UUID(int=1)]


async def test_no_more_than_asked_for_is_handed_out_and_first_come_is_first_served(queue: WorkQueue) -> None:
    queue.add([C, A, B])
    assert list((await take(queue, 2)).keys) == [C, A]
    assert (queue.waiting, queue.in_hand) == (1, 2)


async def test_a_key_in_hand_is_not_handed_out_again(queue: WorkQueue) -> None:
    queue.add([A])
    await take(queue)
    queue.add([A, B])
    assert set((await take(queue)).keys) == {B}
    assert queue.waiting == 0


async def test_a_key_named_while_in_hand_is_worked_on_once_more(queue: WorkQueue) -> None:
    queue.add([A], at=5)
    batch = await take(queue)
    queue.add([A], at=9)
    queue.add([A], at=7)
    queue.done(batch)
    assert (await take(queue)).keys == {A: 7}
    assert queue.waiting == 0


async def test_a_key_not_named_meanwhile_is_done(queue: WorkQueue) -> None:
    queue.add([A])
    queue.done(await take(queue))
    assert (queue.waiting, queue.in_hand, queue.pausing) == (0, 0, 0)


async def test_the_earliest_change_is_remembered(queue: WorkQueue) -> None:
    queue.add([A, B], at=7)
    queue.add([A], at=3)
    queue.add([A], at=9)
    queue.add([A], urgent=False)
    assert (await take(queue)).keys == {A: 3, B: 7}


async def test_a_key_of_a_sweep_has_no_time_until_a_change_names_it(queue: WorkQueue) -> None:
    queue.add([A, B], urgent=False)
    queue.add([A], at=4)
    assert (await take(queue)).keys == {A: 4}
    assert (await take(queue)).keys == {B: None}


async def test_changes_go_before_a_sweep_and_never_in_one_batch_with_it(queue: WorkQueue) -> None:
    queue.add([A, B], urgent=False)
    queue.add([C])
    assert list((await take(queue)).keys) == [C]
    assert list((await take(queue)).keys) == [A, B]


async def test_changes_without_end_do_not_keep_a_sweep_waiting(queue: WorkQueue) -> None:
    queue.add([key(0)], urgent=False)
    taken: list[Key] = []
    for number in range(1, 12):
        queue.add([key(number)])
        batch = await queue.take(10)
        taken += batch.keys
        queue.done(batch)
    assert key(0) in taken
    assert key(11) in taken, "and then it is the turn of changes again"


async def test_a_change_overtakes_the_sweep_that_named_its_key_before(queue: WorkQueue) -> None:
    queue.add([A, B, C], urgent=False)
    queue.add([C])
    assert list((await take(queue)).keys) == [C]
    assert queue.waiting == 2


async def test_a_taker_waits_for_keys(queue: WorkQueue) -> None:
    async with taking(queue) as task:
        assert not task.done()
        queue.add([A])
        assert set((await asyncio.wait_for(task, 5)).keys) == {A}


async def test_a_taker_that_gives_up_loses_no_key(queue: WorkQueue) -> None:
    async with taking(queue) as task:
        queue.add([A])
        task.cancel()
    assert queue.waiting + queue.in_hand == 1


async def test_a_failed_key_pauses_and_comes_back(queue: WorkQueue, clock: Clock) -> None:
    queue.add([A, B])
    queue.done(await take(queue), failed=[A])
    assert (queue.waiting, queue.pausing) == (0, 1)
    async with taking(queue) as task:
        assert not task.done()
    clock.now += FIRST_PAUSE * 1.2
    assert set((await take(queue)).keys) == {A}
    assert queue.pausing == 0


async def test_the_first_pause_ends_by_itself() -> None:
    queue = WorkQueue(rng=random.Random(1))
    queue.add([A])
    queue.done(await take(queue), failed=[A])
    assert set((await take(queue)).keys) == {A}


async def test_pauses_double_up_to_an_hour(queue: WorkQueue, clock: Clock) -> None:
    queue.add([A])
    expected = 1.0
    for _ in range(20):
        queue.done(await take(queue), failed=[A])
        clock.now += expected * 0.79
        async with taking(queue) as task:
            assert not task.done(), f"came back before {expected} s"
        clock.now += expected * 0.42
        expected = min(LONGEST_PAUSE, expected * 2)
        assert queue.pausing == 1
    assert expected == LONGEST_PAUSE == 3600


async def test_after_a_success_pauses_are_short_again(queue: WorkQueue, clock: Clock) -> None:
    queue.add([A])
    for _ in range(5):
        queue.done(await take(queue), failed=[A])
        clock.now += LONGEST_PAUSE
    queue.done(await take(queue))
    queue.add([A])
    queue.done(await take(queue), failed=[A])
    clock.now += FIRST_PAUSE * 1.2
    assert set((await take(queue)).keys) == {A}


async def test_keys_that_fail_together_do_not_come_back_together(queue: WorkQueue, clock: Clock) -> None:
    keys = [key(number) for number in range(100)]
    queue.add(keys)
    queue.done(await take(queue), failed=keys)
    clock.now += FIRST_PAUSE
    assert 20 < len((await take(queue)).keys) < 80


async def test_a_change_ends_a_pause(queue: WorkQueue, clock: Clock) -> None:
    queue.add([A])
    queue.done(await take(queue), failed=[A])
    queue.add([A], at=4)
    batch = await take(queue)
    assert batch.keys == {A: 4}
    queue.done(batch)
    clock.now += LONGEST_PAUSE
    async with taking(queue) as task:
        assert not task.done(), "the old pause names the key again"


async def test_a_key_named_while_it_was_failing_is_tried_at_once(queue: WorkQueue) -> None:
    queue.add([A])
    batch = await take(queue)
    queue.add([A])
    queue.done(batch, failed=[A])
    assert set((await take(queue)).keys) == {A}


async def test_a_failure_of_another_key_than_the_batch_held_pauses_that_key(queue: WorkQueue, clock: Clock) -> None:
    queue.add([A])
    queue.done(await take(queue), failed=[B])
    clock.now += FIRST_PAUSE * 1.2
    assert set((await take(queue)).keys) == {B}


async def test_clear_forgets_all_but_what_is_in_hand(queue: WorkQueue, clock: Clock) -> None:
    queue.add([A])
    queue.done(await take(queue), failed=[A])
    queue.add([B])
    batch = await take(queue)
    queue.add([C])
    queue.add([key(4)], urgent=False)
    queue.clear()
    assert (queue.waiting, queue.in_hand, queue.pausing) == (0, 1, 0)
    clock.now += LONGEST_PAUSE
    queue.done(batch)
    assert queue.waiting == 0


async def test_who_waits_for_a_condition_is_told(queue: WorkQueue) -> None:
    queue.add([A])
    batch = await take(queue)
    waiting = asyncio.create_task(queue.until(lambda: queue.waiting + queue.in_hand == 0))
    await asyncio.sleep(0)
    assert not waiting.done()
    queue.done(batch)
    await asyncio.wait_for(waiting, 5)


async def test_many_takers_share_the_work(queue: WorkQueue) -> None:
    keys = {key(number) for number in range(200)}
    seen: list[Key] = []

    async def work() -> None:
        while True:
            batch = await queue.take(7)
            await asyncio.sleep(0)
            seen.extend(batch.keys)
            queue.done(batch)

    workers = [asyncio.create_task(work()) for _ in range(4)]
    queue.add(keys)
    async with asyncio.timeout(5):
        await queue.until(lambda: queue.waiting + queue.in_hand == 0)
    for worker in workers:
        worker.cancel()
    await asyncio.gather(*workers, return_exceptions=True)
    assert len(seen) == 200
    assert set(seen) == keys


KEYS = st.lists(st.integers(1, 6).map(key), min_size=1, max_size=6)


class AgainstModel(RuleBasedStateMachine):
    """Any order of calls against the plainest model: sets, and for each key when its pause is over."""

    @initialize()
    def start(self) -> None:
        self.clock = Clock()
        self.queue = WorkQueue(clock=self.clock, rng=random.Random(0))
        self.loop = asyncio.new_event_loop()
        self.waiting: dict[Key, bool] = {}
        self.times: dict[Key, float | None] = {}
        self.batches: list[Batch] = []
        self.meanwhile: dict[Key, float | None] = {}
        self.paused: set[Key] = set()

    def teardown(self) -> None:
        if hasattr(self, "loop"):
            self.loop.close()

    @property
    def held(self) -> set[Key]:
        return {held for batch in self.batches for held in batch.keys}

    def _name(self, named: Key, at: float | None, *, urgent: bool) -> None:
        self.paused.discard(named)
        before = self.times.get(named) if named in self.waiting else None
        self.times[named] = min((t for t in (before, at) if t is not None), default=None)
        self.waiting[named] = urgent or self.waiting.get(named, False)

    @rule(keys=KEYS, at=st.none() | st.floats(1, 100), urgent=st.booleans())
    def add(self, keys: list[Key], at: float | None, urgent: bool) -> None:
        self.queue.add(keys, at=at, urgent=urgent)
        for named in keys:
            if named in self.held:
                self.paused.discard(named)
                times = [t for t in (self.meanwhile.get(named), at) if t is not None]
                self.meanwhile[named] = min(times, default=None)
            else:
                self._name(named, at, urgent=urgent)

    @precondition(lambda self: self.waiting)
    @rule(limit=st.integers(1, 4))
    def take(self, limit: int) -> None:
        async def taken() -> Batch:
            async with asyncio.timeout(5):
                return await self.queue.take(limit)

        batch = self.loop.run_until_complete(taken())
        lane = any(self.waiting.values())
        eligible = {named for named, urgent in self.waiting.items() if urgent == lane}
        assert set(batch.keys) <= eligible
        assert len(batch.keys) == min(limit, len(eligible))
        assert all(batch.keys[taken_key] == self.times[taken_key] for taken_key in batch.keys)
        assert not set(batch.keys) & self.held
        for taken_key in batch.keys:
            del self.waiting[taken_key]
        self.batches.append(batch)

    @precondition(lambda self: self.batches)
    @rule(data=st.data())
    def done(self, data: st.DataObject) -> None:
        batch = self.batches.pop(data.draw(st.integers(0, len(self.batches) - 1)))
        failed = {named for named in batch.keys if data.draw(st.booleans())}
        self.queue.done(batch, failed)
        for named in batch.keys:
            if named in self.meanwhile:
                self._name(named, self.meanwhile.pop(named), urgent=True)
            elif named in failed:
                self.paused.add(named)

    @precondition(lambda self: self.paused and not self.waiting)
    @rule()
    def all_pauses_end(self) -> None:
        self.clock.now += LONGEST_PAUSE * 1.2
        self.waiting.update(dict.fromkeys(self.paused, False))
        self.times.update(dict.fromkeys(self.paused))
        self.paused.clear()
        self.take(10)

    @invariant()
    def counts_agree(self) -> None:
        assert self.queue.waiting == len(self.waiting)
        assert self.queue.in_hand == len(self.held)
        assert self.queue.pausing == len(self.paused)


TestAgainstModel = AgainstModel.TestCase
TestAgainstModel.settings = settings(max_examples=100, stateful_step_count=30, deadline=None, print_blob=True)
