"""Which machine learning Immich does is asked again: an API that is away, or an admin's change, needs no restart."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from listener.immich import learning
from tests.behaviour.conftest import Home
from tests.conftest import eventually
from tests.oddities import Oddity

# Not about a release.
pytestmark = pytest.mark.releases(since="3.0.3", until="3.0.3")
ALL = {"smartSearch": True, "facialRecognition": True, "ocr": True}
NOTHING = dict.fromkeys(ALL, False)


class Api:
    """What Immich's API says; None: it says that it is starting. asked: how often."""

    def __init__(self) -> None:
        self.says: dict[str, bool] | None = None
        self.asked = 0
        self.url = ""


@contextmanager
def serving(api: Api) -> Iterator[None]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            api.asked += 1
            self.send_response(503 if api.says is None else 200)
            self.end_headers()
            self.wfile.write(json.dumps(api.says or {}).encode())

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        api.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def api() -> Iterator[Api]:
    api = Api()
    with serving(api):
        yield api


def waiting(home: Home) -> dict[str, float]:
    ((metric),) = home.service.metrics.waiting.collect()
    return {sample.labels["reason"]: sample.value for sample in metric.samples if sample.value}


def test_an_api_that_is_away_when_we_connect_is_asked_again_and_what_waited_comes_at_once(
    new_home: Callable[..., Home],
    api: Api,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    oddity: Oddity,
) -> None:
    monkeypatch.setattr(learning, "UNKNOWN_PAUSE", 0.05)
    home = new_home()
    photo = home.alice.upload("photo.jpg", learning=())
    home.start(api_url=api.url)
    assert waiting(home) == {"smart search": 1}
    asked = api.asked
    eventually(lambda: api.asked > asked + 5)
    assert home.copy_of(photo) is None
    told = [record for record in caplog.records if record.name == "listener.immich.learning"]
    # Once, however often it is asked.
    assert [record.levelname for record in told] == ["WARNING"]
    assert "until then photos wait for all machine learning" in str(told[0].__dict__)
    api.says = NOTHING
    home.copied(photo)
    asked = api.asked
    home.house.sweep()
    eventually(lambda: api.asked > asked)
    # Known by now: asked with each sweep only.
    assert api.asked <= asked + 2
    oddity(
        "Immich's API is away when the listener connects, and machine learning is off.",
        "the answer is not one of Immich's API … until then photos wait for all machine learning there is (once)",
        "It is asked every few seconds; what waited is copied at once.",
    )


def test_what_an_admin_switches_off_or_on_is_taken_over_by_the_next_sweep(
    new_home: Callable[..., Home], api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    home = new_home()
    api.says = ALL
    home.start(api_url=api.url)
    photo = home.alice.upload("photo.jpg", learning=())
    eventually(lambda: home.service.queue.in_hand == home.service.queue.waiting == 0)
    home.house.sweep()
    eventually(lambda: waiting(home) == {"smart search": 1})
    api.says = NOTHING
    home.house.sweep()
    home.copied(photo)
    api.says = ALL
    home.house.sweep()
    eventually(lambda: home.service._learning.now.smart_search)
    late = home.alice.upload("late.jpg", learning=())
    home.house.sweep()
    eventually(lambda: waiting(home) == {"smart search": 1})
    # Away: what it said last holds, and that is told once.
    api.says = None
    for _ in range(3):
        asked = api.asked
        home.house.sweep()
        eventually(lambda asked=asked: api.asked > asked)  # type: ignore[misc]
    assert home.copy_of(late) is None
    assert len([record for record in caplog.records if "taken to be as before" in str(record.__dict__)]) == 1
    assert home.service.metrics.reconnects._value.get() == 0
