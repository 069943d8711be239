"""What the target user did with a copy that is gone for now: kept, and given back when its source is shared again.

A parked copy comes back as the row that it was; what surrounds it is put right here. For one that went for good, or
that Immich's purge took while it was parked, there is a note: what its user typed, favourite, archive, albums and tags.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from psycopg import sql

from listener.database import Connection, identifiers, query, statement
from listener.immich.catalog import Catalog
from listener.sync.extras import tagged_columns
from listener.sync.rules import DERIVED, LOCKABLE, own_value


@dataclass(frozen=True, slots=True)
class Kept:
    """The statements for one catalog."""

    keep: bytes
    give_back: tuple[bytes, ...]

    @classmethod
    def compose(cls, catalog: Catalog) -> "Kept":
        """Compose the statements from what this Immich has."""
        names = tagged_columns(catalog)
        exif = dates = query("kept", "nothing_kept").format()
        give = ["give_tags", "give_albums", "unpark_stacks", "unpark_covers", "given_back"]
        columns = _columns(catalog)
        # Before Immich 2.4 nothing tells what a user typed from what we wrote.
        if catalog.has("asset_exif", "lockedProperties"):
            values = [
                query("kept", "own_exif_value").format(
                    name=sql.Literal(column), column=sql.Identifier(column), own=own_value(of)
                )
                for column, of in columns.items()
            ]
            exif = query("kept", "own_exif").format(values=sql.SQL(", ").join(values))
            dates = query("kept", "own_dates").format(own=own_value("dateTimeOriginal"))
            give = ["give_exif", "give_dates", *give]
        parts = {"columns": identifiers([*columns]), "given": identifiers([*columns], of="given")}
        return cls(
            statement("kept", "keep", exif=exif, dates=dates, **names),
            tuple(statement("kept", step, **parts, **names) for step in give),
        )

    async def note(self, connection: Connection, params: Mapping[str, Any]) -> None:
        """Note what the target user had done with copies that go now. Part of a serialised transaction."""
        await connection.execute(self.keep, params)

    async def give(self, connection: Connection, params: Mapping[str, Any]) -> None:
        """Give it back to copies that have just been written; ``made``: those that were there before."""
        for step in self.give_back:
            await connection.execute(step, {**params, "lockable": list(LOCKABLE)})


def _columns(catalog: Catalog) -> dict[str, str]:
    """Return the columns that a user may give a value of their own, and of which column each follows."""
    columns = {**{column: column for column in LOCKABLE}, **DERIVED}
    return {column: of for column, of in columns.items() if catalog.has("asset_exif", column)}
