"""What the target user has changed on a copy themselves: none of it is a difference.

Immich 2.4+ locks a column of asset_exif that a user changes until it has written the user's XMP beside the copy.
So a value is theirs where it is not the one that was written last for them, and the column is locked or there is
such an XMP. Edits of the picture (2.5+) are theirs where they are not those that were copied.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from psycopg import sql

from listener.tools.verify_snapshot import FACE, Snapshot, block, uuids

# Columns that Immich lets a user change and then locks.
_LOCKABLE = ("dateTimeOriginal", "description", "latitude", "longitude", "rating", "tags", "timeZone")
# What Immich derives from them, by table.
_DERIVED: Mapping[str, Mapping[str, frozenset[str]]] = {
    "asset_exif": {"latitude": frozenset({"city", "state", "country"})},
    "asset": {"dateTimeOriginal": frozenset({"fileCreatedAt", "localDateTime"})},
}
# What an edit of the picture changes, by table.
_EDITED: Mapping[str, frozenset[str]] = {
    "asset": frozenset({"width", "height", "thumbhash"}),
    FACE: frozenset({"isVisible"}),
}


@dataclass(frozen=True, slots=True)
class Own:
    """Copies (by id) with metadata or edits of the target user's own.

    ``exif`` are the lockable columns that are theirs, ``edited`` the copies whose picture is.
    """

    exif: Mapping[UUID, frozenset[str]] = field(default_factory=dict)
    edited: frozenset[UUID] = frozenset()

    def columns(self, table: str, target: UUID) -> frozenset[str]:
        """Return the columns of one table that are the target user's own on this copy."""
        changed = self.exif.get(target, frozenset())
        own = set(changed) if table == "asset_exif" else set()
        for column, derived in _DERIVED.get(table, {}).items():
            if column in changed:
                own |= derived
        if target in self.edited:
            own |= _EDITED.get(table, frozenset())
        return frozenset(own)


async def read_own(snapshot: Snapshot, targets: Sequence[UUID]) -> Own:
    """Read what is the target users' own on these copies. Before Immich 2.4 everything follows the source."""
    params = {"targets": uuids(targets)}
    exif: dict[UUID, frozenset[str]] = {}
    edited: frozenset[UUID] = frozenset()
    if snapshot.has("asset_exif", "lockedProperties"):
        names = [
            block("own_column").format(column=sql.Identifier(column), name=sql.Literal(column))
            for column in _LOCKABLE
            if snapshot.has("asset_exif", column)
        ]
        rows = await snapshot.rows("own_exif", params, names=sql.SQL(", ").join(names))
        exif = {target: frozenset(columns) for target, columns in rows if columns}
    if snapshot.has("asset_edit", "assetId"):
        edited = frozenset(target for (target,) in await snapshot.rows("own_edits", params))
    return Own(exif, edited)
