"""What the listener hears: payloads of any kind, and a real LISTEN connection from birth to loss."""

import asyncio
import json
import logging
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from listener import channel
from listener.channel import Listening, Notification, SilentError, UnreadableError, decode
from listener.database import Connection
from listener.ops.metrics import Metrics
from listener.workqueue import Key
from tests.conftest import eventually_async

ONE = "11111111-1111-4111-8111-111111111111"
TWO = "22222222-2222-4222-8222-222222222222"


def payload(**changes: object) -> str:
    return json.dumps({"v": 1, "kind": "asset", "ids": [ONE], "at": 1764000000.125} | changes)


def test_a_notification_of_assets() -> None:
    notification = decode(payload(ids=[ONE, TWO]))
    assert notification.keys == (Key("asset", UUID(ONE)), Key("asset", UUID(TWO)))
    assert notification.at == 1764000000.125
    assert notification.proof is None


def test_a_notification_of_people() -> None:
    assert decode(payload(kind="person")).keys == (Key("person", UUID(ONE)),)


def test_a_notification_that_asks_for_a_sweep() -> None:
    assert decode('{"v":1,"kind":"sweep","at":5}') == Notification("sweep", at=5.0)


def test_the_listeners_own_proof() -> None:
    assert decode('{"v":1,"kind":"ping","id":"abc"}') == Notification("ping", proof="abc")


def test_what_a_newer_trigger_adds_is_no_harm() -> None:
    assert decode(payload(more={"a": [1]})).keys == (Key("asset", UUID(ONE)),)


@pytest.mark.parametrize(
    "at", ["NaN", "Infinity", "-Infinity", "-5", "0", "1e300", "null", '"now"', "true", "[]", "9" * 300]
)
def test_a_time_that_cannot_be_is_left_out_and_the_ids_count(at: str) -> None:
    notification = decode(f'{{"v":1,"kind":"asset","ids":["{ONE}"],"at":{at}}}')
    assert notification.at is None
    assert notification.keys == (Key("asset", UUID(ONE)),)


BAD = {
    "": "not JSON",
    " ": "not JSON",
    "hello": "not JSON",
    "{": "not JSON",
    payload() + "x": "not JSON",
    "[]": "not JSON",
    "null": "not JSON",
    "17": "not JSON",
    "9" * 5000: "not JSON",
    '"\\ud800"': "not JSON",
    "[" * 7000: "not JSON",
    '{"a":' * 1500: "not JSON",
    "[" * 3900 + "]" * 3900: "not JSON",
    '{"v":1,"kind":"asset","ids":' + "[" * 3000 + "]" * 3000 + "}": "bad ids",
    "{}": "other version",
    payload(v=2): "other version",
    payload(v="1"): "other version",
    payload(v=True): "other version",
    payload(v=None): "other version",
    payload(v=[1]): "other version",
    payload(kind=None): "unknown kind",
    payload(kind="album"): "unknown kind",
    payload(kind=["asset"]): "unknown kind",
    payload(kind={"asset": 1}): "unknown kind",
    '{"v":1,"kind":"ping"}': "unknown kind",
    '{"v":1,"kind":"ping","id":5}': "unknown kind",
    payload(ids=None): "bad ids",
    payload(ids=[]): "bad ids",
    payload(ids=ONE): "bad ids",
    payload(ids={ONE: 1}): "bad ids",
    payload(ids=[1]): "bad ids",
    payload(ids=[None]): "bad ids",
    payload(ids=[[ONE]]): "bad ids",
    payload(ids=[ONE, "x"]): "bad ids",
    payload(ids=[ONE[:-1]]): "bad ids",
    payload(ids=[""]): "bad ids",
    payload(ids=["\0" * 36]): "bad ids",
    payload(ids=["1" * 501]): "bad ids",
    payload(ids=["1"] * 501): "bad ids",
    payload(ids=[ONE] * 300): "too long",
    payload(ids=[ONE] * 100_000): "too long",
    "x" * 5_000_000: "too long",
}


@pytest.mark.parametrize(("text", "reason"), BAD.items(), ids=[f"{i}-{t[:24]}" for i, t in enumerate(BAD)])
def test_what_our_triggers_never_send_is_refused_with_its_reason(text: str, reason: str) -> None:
    with pytest.raises(UnreadableError) as refused:
        decode(text)
    # Deep nesting is refused as it is read or by what it should have been: either is right.
    assert refused.value.reason in ({reason, "not JSON"} if reason == "bad ids" and "[[" in text else {reason})


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.floats()
    | st.integers()
    | st.text(max_size=40)
    | st.sampled_from([ONE, TWO, "asset", "ping"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
ALMOST_RIGHT = st.fixed_dictionaries(
    {},
    optional={
        "v": st.just(1) | JSON,
        "kind": st.sampled_from(["asset", "person", "sweep", "ping"]) | JSON,
        "ids": st.lists(st.uuids().map(str) | JSON, max_size=4) | JSON,
        "at": st.floats() | JSON,
        "id": JSON,
    },
)


@settings(max_examples=400, deadline=None, print_blob=True)
@given(st.text(max_size=200) | JSON.map(json.dumps) | ALMOST_RIGHT.map(json.dumps))
def test_any_payload_is_read_or_refused(text: str) -> None:
    reason: str | None = None
    try:
        notification = decode(text)
    except UnreadableError as refused:
        reason = refused.reason
    else:
        assert notification.kind in {"asset", "person", "sweep", "ping"}
        assert notification.at is None or (math.isfinite(notification.at) and notification.at > 0)
        assert all(isinstance(key.id, UUID) and key.kind == notification.kind for key in notification.keys)
        assert (notification.proof is None) == (notification.kind != "ping")
    assert reason in {None, "too long", "not JSON", "other version", "unknown kind", "bad ids", "bad ask"}


class Heard:
    """What one listening connection said."""

    def __init__(self, metrics: Metrics, connection: Connection) -> None:
        self.metrics = metrics
        self.connection = connection
        self.notifications: list[Notification] = []
        self.proofs = 0
        self.task: asyncio.Task[None] | None = None

    async def proven(self, connection: Connection) -> None:
        assert connection is self.connection
        self.proofs += 1

    @property
    def keys(self) -> list[UUID]:
        return [key.id for notification in self.notifications for key in notification.keys]

    async def until(self, condition: Callable[[], object]) -> None:
        async def holds() -> bool:
            if self.task is not None and self.task.done():
                self.task.result()
            return bool(condition())

        await eventually_async(holds)

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"immich_shared_library_{name}_total", labels) or 0.0


@asynccontextmanager
async def listening(conninfo: str, *, every: float = 30.0, within: float = 5.0) -> AsyncIterator[Heard]:
    metrics = Metrics()
    found: list[Notification] = []
    connection, _ = await channel.open_listening(conninfo, metrics, found.append)
    heard = Heard(metrics, connection)
    heard.notifications = found
    line = Listening(connection, metrics, found.append, proof_every=every, proof_within=within)
    async with connection:
        heard.task = asyncio.create_task(line.run(heard.proven))
        try:
            await heard.until(lambda: heard.proofs)
            yield heard
        finally:
            heard.task.cancel()
            await asyncio.gather(heard.task, return_exceptions=True)


@asynccontextmanager
async def somebody(conninfo: str) -> AsyncIterator["psycopg.AsyncConnection[object]"]:
    async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as connection:
        yield connection


async def notify(connection: "psycopg.AsyncConnection[object]", text: str) -> None:
    await connection.execute("SELECT pg_notify('immich_shared_library', %s)", [text])


async def test_it_hears_what_another_session_says(empty_database: str) -> None:
    async with listening(empty_database) as heard, somebody(empty_database) as other:
        await notify(other, payload())
        await heard.until(lambda: heard.notifications)
        assert heard.keys == [UUID(ONE)]
        assert heard.count("notifications", kind="asset") == 1


async def test_it_hears_every_one_of_many_in_one_transaction(empty_database: str) -> None:
    ids = [uuid4() for _ in range(500)]
    async with listening(empty_database) as heard, somebody(empty_database) as other:
        async with other.transaction():
            for id_ in ids:
                await notify(other, payload(ids=[str(id_)]))
        await heard.until(lambda: len(heard.keys) >= 500)
        assert heard.keys == ids


async def test_it_hears_all_while_it_proves_itself_all_the_time(empty_database: str) -> None:
    """Notifications that come together with the proof, or while it is asked for, are not lost."""
    ids = [uuid4() for _ in range(600)]
    async with listening(empty_database, every=0.0005) as heard:

        async def say(some: list[UUID]) -> None:
            async with somebody(empty_database) as other:
                for id_ in some:
                    await notify(other, payload(ids=[str(id_)]))

        await asyncio.gather(*(say(ids[start::4]) for start in range(4)))
        await heard.until(lambda: len(heard.keys) >= 600)
        assert sorted(heard.keys) == sorted(ids)
        assert heard.proofs > 10


async def test_it_proves_itself_again_and_again(empty_database: str) -> None:
    async with listening(empty_database, every=0.01) as heard:
        await heard.until(lambda: heard.count("notifications", kind="ping") >= 3)
        assert heard.metrics.registry.get_sample_value("immich_shared_library_listening") == 1
        # In between the jobs are looked at, more often.
        assert heard.proofs > heard.count("notifications", kind="ping")
        assert heard.notifications == []


async def test_a_proof_of_somebody_else_proves_nothing(empty_database: str) -> None:
    async with listening(empty_database) as heard, somebody(empty_database) as other:
        await notify(other, '{"v":1,"kind":"ping","id":"forged"}')
        await notify(other, payload())
        await heard.until(lambda: heard.notifications)
        assert heard.proofs == 1


async def test_a_connection_that_is_cut_is_an_operational_error(empty_database: str) -> None:
    async with listening(empty_database) as heard, somebody(empty_database) as other:
        await other.execute("SELECT pg_terminate_backend(%s)", [heard.connection.info.backend_pid])
        assert heard.task is not None
        with pytest.raises(psycopg.OperationalError):
            await asyncio.wait_for(heard.task, 5)


async def test_a_connection_that_hears_nothing_is_silent(empty_database: str) -> None:
    """What a pooler between us and the server does: statements go through, LISTEN is lost."""
    async with listening(empty_database, every=0.05, within=2) as heard:
        assert heard.task is not None
        # As if the pooler had handed LISTEN to another session.
        await heard.connection.execute("UNLISTEN *")
        with pytest.raises(SilentError, match="no notification came back"):
            await asyncio.wait_for(heard.task, 10)


async def test_bad_payloads_are_counted_and_told_once_a_minute(
    empty_database: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "listener"):
        async with listening(empty_database) as heard, somebody(empty_database) as other:
            for text in ["no JSON\n\x1b[31m", payload(v=9), payload(v=9), payload(ids=["x"]), "y" * 7999]:
                await notify(other, text)
            await notify(other, payload())
            await heard.until(lambda: heard.notifications)
            assert heard.keys == [UUID(ONE)]
            assert heard.count("notifications_ignored", reason="not JSON") == 2
            assert heard.count("notifications_ignored", reason="other version") == 2
            assert heard.count("notifications_ignored", reason="bad ids") == 1
    assert len([record for record in caplog.records if "could not be read" in record.getMessage()]) == 1


async def test_other_channels_are_not_ours(empty_database: str) -> None:
    async with listening(empty_database) as heard, somebody(empty_database) as other:
        await other.execute("SELECT pg_notify('immich_other', %s)", [payload(ids=[TWO])])
        await notify(other, payload())
        await heard.until(lambda: heard.notifications)
        assert heard.keys == [UUID(ONE)]
