"""Which thumbnail a mirrored person may have.

A person's thumbnail is a crop of one photo, and that photo may be one that is not shared. So a source's thumbnail is
copied only while the photo that it shows has a copy at the target, one that is there and not parked; and what the
target has is taken away when its photo no longer has one. Immich then crops one itself, from the copies.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

Use = Literal["source", "theirs", "given", "none"]
"""The source's thumbnail; the target's own, or Immich's from the copies; what we gave before; none."""


@dataclass(frozen=True, slots=True)
class Picture:
    """What there is to be seen of a source's person and of who stands for them.

    source: the source's thumbnail, '' for none. feature: their feature face. shared: the faces that may be shown, of
    those that matter here. now: the thumbnail of who stands for them, and now_feature their feature face; stands: that
    is one of theirs, on a photo of the target's that is there. same: it is the copy of the source's. written: what we
    noted of them last (docs/decisions/0005).
    """

    source: str
    feature: UUID | None
    shared: frozenset[UUID]
    now: str
    now_feature: UUID | None
    stands: bool
    same: bool | None
    written: Mapping[str, object]

    @property
    def chosen(self) -> bool:
        """Whether the target user has chosen another feature photo than we did."""
        return self.stands and self._noted and str(self.now_feature) != self.written["feature"]

    def shown(self, time: int | None) -> UUID | None:
        """Return the face that the source's thumbnail shows; ``time``: of its file.

        Immich writes the file some time after another feature photo was chosen: until then it shows the former one.
        """
        if time is not None and self.written.get("time") == str(time):
            return _uuid(self.written.get("seen"))
        return self.feature

    def use(self, time: int | None, *, each_own: bool, present: bool) -> Use:
        """Decide what the thumbnail is to be.

        each_own: thumbnails are each user's own once they are there (from Immich 3.2 on). present: the file of what
        is there now is there.
        """
        there = present and self.now != ""
        # Where we gave none, Immich has made it from the copies.
        cropped = there and self.stands and self._noted and "shows" not in self.written
        given = there and _uuid(self.written.get("shows")) in self.shared
        usable = self.source != "" and self.shown(time) in self.shared
        # Of what was there before there were notes: one on a photo of their own is theirs. One on a copy they may have
        # chosen, or we gave them some thumbnail with it: Immich crops it anew.
        unknown = there and self.stands and not self._noted
        wishes: list[tuple[bool, Use]] = [(there and self.chosen, "theirs")]
        if each_own:
            wishes += [(cropped, "theirs"), (given and self.stands, "given")]
            wishes += [(unknown and self.same is None, "theirs"), (unknown and self.same is False, "none")]
        wishes += [(usable, "source"), (cropped, "theirs"), (given, "given")]
        return next((use for fits, use in wishes if fits), "none")

    def instead(self, *, present: bool) -> Use:
        """Decide what there is instead of a source's thumbnail that cannot be copied."""
        there = present and self.now != ""
        return "given" if there and _uuid(self.written.get("shows")) in self.shared else "none"

    def notes(self, use: Use, time: int | None) -> dict[str, object]:
        """Return what is to be noted of a thumbnail."""
        notes: dict[str, object] = {}
        if use == "source":
            notes["shows"] = str(self.shown(time))
        elif use == "given":
            notes["shows"] = self.written["shows"]
        seen = self.shown(time) if time is not None else _uuid(self.written.get("seen"))
        if seen is not None:
            notes |= {"seen": str(seen), "time": str(time) if time is not None else self.written["time"]}
        return notes

    @property
    def _noted(self) -> bool:
        return "feature" in self.written


def _uuid(text: object) -> UUID | None:
    return UUID(str(text)) if text else None
