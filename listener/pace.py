"""How much is done at once: as much as a server did in good time just now, however slow it is.

What takes longer than it may is cut to a quarter and tried again; what ends in good time grows, to the double at most
and never to what would be too slow at the rate just seen. So a slow disk costs a few tries once, and not each time.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class _State:
    size: int


class Pace:
    """The size of the next portion: ``most`` at first and at best, so that one takes ``aim`` seconds."""

    def __init__(self, most: int, *, aim: float) -> None:
        self._most = most
        self._aim = aim
        self._now = _State(most)

    @property
    def size(self) -> int:
        """How many to do next."""
        return self._now.size

    def took(self, done: int, seconds: float) -> None:
        """Learn from a portion that was done. A small one that was fast tells nothing of large ones."""
        in_time = int(done * self._aim / max(seconds, 0.001))
        if seconds > self._aim:
            self._now = _State(max(1, min(self.size, in_time)))
        elif done >= self.size:
            self._now = _State(min(self._most, 2 * self.size, max(self.size, in_time)))

    def too_slow(self, tried: int) -> None:
        """Learn from a portion that took longer than it may, and was not done."""
        self._now = _State(max(1, min(self.size, tried // 4)))
