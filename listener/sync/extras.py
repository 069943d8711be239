"""What surrounds a copy in its user's library: an album, tags, stacks.

Each is written in the same transaction as the copies, in sets. What the target user has done themselves is not
in our tables and is left alone: their own tags, their stacks, a copy that they took out of the album.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from psycopg import sql

from listener.database import Connection, fetch, query, statement
from listener.immich.catalog import Catalog
from listener.settings import Job

# An empty one goes before another is made: a copy leads one stack only.
_STACKS = ("stack_release", "stack_dissolve", "stack_make", "stack_join", "stack_note", "stack_dissolve")
_TAGS = ("tags_remove", "tags_make", "tags_give")


def tagged_columns(catalog: Catalog) -> dict[str, sql.Identifier]:
    """Return the names of the columns of tag_asset and album_asset: until 2.2 they were plural."""
    plural = catalog.has("tag_asset", "tagsId")
    return {
        "tag_asset_asset": sql.Identifier("assetsId" if plural else "assetId"),
        "tag_asset_tag": sql.Identifier("tagsId" if plural else "tagId"),
        "album_asset_asset": sql.Identifier("assetsId" if plural else "assetId"),
        "album_asset_album": sql.Identifier("albumsId" if plural else "albumId"),
    }


@dataclass(frozen=True, slots=True)
class Extras:
    """The statements for one catalog, each list in the order of running."""

    stacks: tuple[bytes, ...]
    uncover: tuple[bytes, ...]
    drop: bytes
    after_removal: tuple[bytes, ...]
    tags: tuple[bytes, ...]
    hidden: bytes
    albums: tuple[bytes, ...]
    album_is_theirs: bytes

    @classmethod
    def compose(cls, catalog: Catalog) -> "Extras":
        """Compose the statements with the column names that this Immich has."""
        names = tagged_columns(catalog)
        members = query("extras", "stack_members")
        wanted = query("extras", "tags_wanted").format(**names)

        def composed(*steps: str) -> tuple[bytes, ...]:
            return tuple(statement("extras", step, members=members, wanted=wanted, **names) for step in steps)

        tags = _TAGS if not catalog.has("tag_closure") else ("tags_remove", "tags_make", "tags_closure", "tags_give")
        owner = "album_owner_column" if catalog.has("album", "ownerId") else "album_owner_member"
        return cls(
            stacks=composed(*_STACKS),
            uncover=(
                *composed("stack_leave", "stack_uncover"),
                statement("extras", "album_uncover", going=sql.SQL("true"), **names),
            ),
            drop=statement("extras", "stack_drop"),
            after_removal=composed("stack_dissolve", "tags_drop"),
            tags=composed(*tags),
            hidden=statement("extras", "album_uncover", going=sql.SQL("cover.visibility = 'hidden'"), **names),
            albums=composed("album_add", "album_cover"),
            album_is_theirs=statement("extras", owner),
        )

    async def album_usable(self, connection: Connection, job: Job) -> bool:
        """Tell whether the job's album is there and the target user's own."""
        rows = await fetch(connection, self.album_is_theirs, {"album": job.album_id, "target_user": job.target_user_id})
        return bool(rows[0][0])

    async def write(self, connection: Connection, job: Job, params: Mapping[str, Any]) -> None:
        """Write what surrounds the copies of a batch. Part of a serialised transaction."""
        for step in (*self.tags, self.hidden):
            await connection.execute(step, {**params, "tags": job.tags})
        if params["album"] is not None:
            for step in self.albums:
                await connection.execute(step, params)
        await self.restack(connection, params)

    async def restack(self, connection: Connection, params: Mapping[str, Any]) -> None:
        """Bring the mirrors of these sources' stacks to what they should be, also where a copy is gone."""
        for step in self.stacks:
            await connection.execute(step, params)

    async def before(self, connection: Connection, params: Mapping[str, Any]) -> None:
        """Take copies that go now out of stacks and off covers. Part of a serialised transaction."""
        await self.before_parking(connection, params)
        await connection.execute(self.drop, params)

    async def before_parking(self, connection: Connection, params: Mapping[str, Any]) -> None:
        """Take them out of mirrored stacks; others become the covers of what they lead. Part of such a transaction."""
        for step in self.uncover:
            await connection.execute(step, params)

    async def after(self, connection: Connection, params: Mapping[str, Any]) -> None:
        """Take apart mirrored stacks that hold no copy any more, and drop the tags that only these copies had."""
        for step in self.after_removal:
            await connection.execute(step, params)
