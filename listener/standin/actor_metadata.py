"""What the metadata job of an acting Immich finds in an original and its XMP, as columns of its tables."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from psycopg.rows import DictRow

from listener.standin import actor_files as files
from listener.standin.actor_files import Picture
from listener.standin.actor_rows import Rows

_CITIES = (
    (48.86, 2.35, "Paris", "Île-de-France", "France", "Europe/Paris"),
    (38.72, -9.14, "Lisbon", "Lisbon", "Portugal", "Europe/Lisbon"),
)

# Columns of asset_exif that Immich's users edit, and what a file without an XMP says of them.
EDITABLE: Mapping[str, Any] = {"description": "", "rating": None, "tags": None}


class Said:
    """What an asset's original and XMP say: as columns of asset_exif and of asset."""

    def __init__(self, picture: Picture, asset: DictRow, xmp: Mapping[str, Any], rows: Rows) -> None:
        self.picture = picture
        modified = files.modified_at(asset["originalPath"])
        taken: datetime = xmp.get("dateTimeOriginal") or picture.taken or modified
        latitude, longitude = (xmp.get(name, getattr(picture, name)) for name in ("latitude", "longitude"))
        city, state, country, zone = _nearest(latitude, longitude)
        camera = {} if picture.video else {"make": "Canon", "model": "EOS R5", "iso": 200}
        stream = {"fps": 10, "orientation": "1"} if picture.video else {}
        self.exif = {
            **EDITABLE,
            **{name: value for name, value in xmp.items() if name in EDITABLE},
            **camera, **stream, "bitsPerSample": 8, "livePhotoCID": picture.live_photo, "modifyDate": modified,
            "dateTimeOriginal": taken, "timeZone": zone or zone_name(taken),
            "latitude": latitude, "longitude": longitude, "city": city, "state": state, "country": country,
            "exifImageWidth": picture.width, "exifImageHeight": picture.height,
        }  # fmt: skip
        milliseconds = rows.type("asset", "duration") == "integer"
        self.asset: dict[str, Any] = {
            "fileCreatedAt": taken,
            "localDateTime": taken.replace(tzinfo=UTC),
            "fileModifiedAt": modified,
        }
        if picture.video:
            self.asset["duration"] = 1000 if milliseconds else "00:00:01.000"
        if not asset.get("isEdited"):
            self.asset |= {"width": picture.width, "height": picture.height}


def _nearest(latitude: float | None, longitude: float | None) -> tuple[str | None, str | None, str | None, str | None]:
    """Return city, state, country and time zone of a place, if Immich knows a city near it."""
    for north, east, *names in _CITIES:
        if latitude is not None and longitude is not None and abs(latitude - north) + abs(longitude - east) < 1:
            city, state, country, zone = names
            return city, state, country, zone
    return None, None, None, None


def zone_name(moment: datetime) -> str:
    """Return a moment's time zone as Immich writes it: ``UTC+1``."""
    offset = moment.utcoffset()
    hours = int(offset.total_seconds() // 3600) if offset else 0
    return f"UTC{hours:+d}" if hours else "UTC"
