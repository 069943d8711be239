"""The files that an acting Immich writes: originals that say what is to be seen in them, and what is made of them.

An original, a preview and an XMP file begin with a line of JSON, so that a job that looks at one finds there
what a real one would find in the picture: whoever reads it, through whatever link, by whichever path.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

_MILLISECOND = 1_000_000
_VIDEO_ENDINGS = frozenset({".mp4", ".mov", ".avi", ".mkv", ".webm"})


@dataclass(frozen=True, slots=True)
class Picture:
    """What is to be seen in a photo or video, and what its file says of itself.

    ``taken`` has the time zone of the place, and is None where the file does not say it; ``mark`` makes two
    pictures differ that are else the same. ``motion``: the mark of the video inside an Android motion photo.
    """

    taken: datetime | None = None
    faces: int = 0
    text: str | None = None
    video: bool = False
    width: int = 640
    height: int = 480
    latitude: float | None = None
    longitude: float | None = None
    live_photo: str | None = None
    mark: str = ""
    motion: str = ""

    def content(self, *more: str) -> bytes:
        """Return the bytes of a file of this picture."""
        values = asdict(self) | {"taken": self.taken and self.taken.isoformat()}
        line = json.dumps(values)
        return f"{line}\n{' '.join(more)}\n".encode() + hashlib.sha256(line.encode()).digest() * 16

    @classmethod
    def parse(cls, content: bytes) -> Self | None:
        """Return the picture of a file's bytes, None if they are of something else."""
        try:
            values = json.loads(content.partition(b"\n")[0])
            taken = values["taken"] and datetime.fromisoformat(values["taken"])
            return cls(**{**values, "taken": taken})
        except (ValueError, TypeError, KeyError):
            return None

    @property
    def digest(self) -> str:
        """A short text that is the same for the same picture only."""
        return hashlib.sha256(self.content()).hexdigest()

    def changed(self, changes: Mapping[str, Any]) -> Self:
        """Return the same picture with other values of the fields named."""
        known = {field.name for field in fields(self)}
        return replace(self, **{name: value for name, value in changes.items() if name in known})


def is_video(name: str) -> bool:
    """Tell by its name whether a file is a video."""
    return Path(name).suffix.lower() in _VIDEO_ENDINGS


def look_at(path: str | Path) -> Picture:
    """Return what a file shows; one that this module did not make shows nothing. Raises OSError."""
    path = Path(path)
    return Picture.parse(path.read_bytes()) or Picture(video=is_video(path.name))


def modified_at(path: str | Path) -> datetime:
    """Return a file's modification time in whole milliseconds, as Immich keeps it. Raises OSError."""
    return _from_milliseconds(round(Path(path).stat().st_mtime_ns / _MILLISECOND))


def now() -> datetime:
    """Return the time in whole milliseconds: what Immich's server writes as now."""
    return _from_milliseconds(int(datetime.now(UTC).timestamp() * 1000))


def write(path: str | Path, content: bytes, modified: datetime | None = None) -> None:
    """Write a file with its folders, one that is there in place: its inode stays."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    if modified is not None:
        nanoseconds = (modified - datetime.fromtimestamp(0, UTC)) // timedelta(milliseconds=1) * _MILLISECOND
        os.utime(path, ns=(nanoseconds, nanoseconds))


def write_xmp(path: str | Path, values: Mapping[str, Any]) -> None:
    """Add values to an XMP file, which is made if there is none. Its folder must be there. Raises OSError."""
    path = Path(path)
    known = read_xmp(path) if path.exists() else {}
    path.write_text(json.dumps({**known, **values}, default=lambda value: value.isoformat()))


def read_xmp(path: str | Path) -> dict[str, Any]:
    """Return the values of an XMP file; none if it is gone or says nothing."""
    try:
        values = json.loads(Path(path).read_text())
    except (OSError, ValueError):
        return {}
    if values.get("dateTimeOriginal"):
        values["dateTimeOriginal"] = datetime.fromisoformat(values["dateTimeOriginal"])
    return dict(values)


def _from_milliseconds(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=milliseconds)
