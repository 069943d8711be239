"""Which machine learning Immich does: asked again and again, since an admin may change it at any time.

While Immich's API has not answered once, photos wait for all of it, ``ML_WAIT_SECONDS`` at most. So it is asked every
few seconds then, and with each sweep later on. Where it does not answer any more, what it said last holds.
"""

import asyncio
from dataclasses import asdict
from typing import Final

from listener.immich import api
from listener.ops import logs

log = logs.get("immich.learning")

EVERYTHING: Final = api.Features(smart_search=True, facial_recognition=True, ocr=True)
UNKNOWN_PAUSE = 5.0


class Learning:
    """What Immich's API said last. Trouble with it is told once, until it answers again."""

    def __init__(self, url: str, key: str | None) -> None:
        self._url = url
        self._key = key
        self._known: api.Features | None = None
        self._told = False

    @property
    def now(self) -> api.Features:
        """What is on; everything while that is not known."""
        return self._known or EVERYTHING

    async def ask(self) -> bool:
        """Ask once; returns whether something else is on than before."""
        before, said = self.now, await api.features(self._url, self._key, tell=self._tell)
        if said is None:
            return False
        if said != self._known or self._told:
            log.info("Immich says which machine learning is on", **asdict(said))
        self._known, self._told = said, False
        return said != before

    async def follow(self, changed: asyncio.Event) -> None:
        """Ask every few seconds while the answer is not known; sets ``changed`` when it is another than was taken."""
        while True:
            await asyncio.sleep(UNKNOWN_PAUSE)
            if self._known is None and await self.ask():
                changed.set()

    def _tell(self, message: str, **fields: object) -> None:
        if not self._told:
            log.warning(message, meanwhile=self._meanwhile(), **fields)
        self._told = True

    def _meanwhile(self) -> str:
        if self._known is None:
            return "it is asked every few seconds, and until then photos wait for all machine learning there is"
        return "which machine learning is on is taken to be as before"
