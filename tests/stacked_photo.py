"""A stack of the photos that are shared, its mirror, and what can be wrong with it."""

# ruff: noqa: S608 - tables and columns are named in this file

from uuid import UUID, uuid4

from tests.copied_photo import Share
from tests.judging import Do

STACK = UUID("00000000-0000-4000-8000-000000000001")
MIRROR = UUID("00000000-0000-4000-8000-000000000002")


def stack(share: Share) -> None:
    """Let the plain photo and the upload be a stack, and their copies its mirror."""
    ids = share.ids | {"upload_copy": share.copies[share.upload], "stack": STACK, "mirror": MIRROR}
    share.insert("stack", id=STACK, primaryAssetId=share.plain, ownerId=share.source_user)
    share.insert("stack", id=MIRROR, primaryAssetId=ids["plain_copy"], ownerId=share.target_user)
    share.run('UPDATE asset SET "stackId" = %(stack)s WHERE id IN (%(plain)s, %(upload)s)', **ids)
    share.run('UPDATE asset SET "stackId" = %(mirror)s WHERE id IN (%(plain_copy)s, %(upload_copy)s)', **ids)
    share.insert(
        "_face_sync_stack_map", source_stack_id=STACK, target_stack_id=MIRROR, target_user_id=share.target_user
    )


def unstack(share: Share) -> None:
    share.run('UPDATE asset SET "stackId" = NULL WHERE "stackId" = %(stack)s', stack=STACK)
    share.run("DELETE FROM stack WHERE id = %(stack)s", stack=STACK)


def dissolve(share: Share) -> None:
    share.run('UPDATE asset SET "stackId" = NULL WHERE "stackId" = %(mirror)s', mirror=MIRROR)
    share.run("DELETE FROM stack WHERE id = %(mirror)s", mirror=MIRROR)


def own_stack(share: Share) -> None:
    """Move a copy from the mirrored stack, which is left with one, into one of the target's own."""
    own = uuid4()
    if share.run('SELECT 1 FROM stack WHERE "primaryAssetId" = %(plain_copy)s', **share.ids):
        of_mirrored(f"\"primaryAssetId\" = '{share.copies[share.upload]}'")(share)
    share.insert("stack", id=own, primaryAssetId=share.ids["plain_copy"], ownerId=share.target_user)
    share.run('UPDATE asset SET "stackId" = %(own)s WHERE id = %(plain_copy)s', own=own, **share.ids)


def only_cover(share: Share) -> None:
    """Let the cover be no member, since it is in a stack of the target's own, and another photo join."""
    share.copy(third := share.add_asset("third.jpg"), share.external, uuid4())
    share.run('UPDATE asset SET "stackId" = %(stack)s WHERE id = %(id)s', stack=STACK, id=third)
    share.run('UPDATE asset SET "stackId" = %(stack)s WHERE id = %(id)s', stack=MIRROR, id=share.copies[third])
    share.run('UPDATE stack SET "primaryAssetId" = %(id)s WHERE id = %(mirror)s', id=share.copies[third], mirror=MIRROR)
    own_stack(share)


def third(share: Share) -> None:
    """Let a third photo be in the stack, its copy in the mirror, and noted there."""
    stack(share)
    share.copy(photo := share.add_asset("third.jpg"), share.external, uuid4())
    share.run('UPDATE asset SET "stackId" = %(stack)s WHERE id = %(id)s', stack=STACK, id=photo)
    share.run('UPDATE asset SET "stackId" = %(stack)s WHERE id = %(id)s', stack=MIRROR, id=share.copies[photo])
    share.run(
        "INSERT INTO _face_sync_base (target_asset_id, stack_id) SELECT id, %(stack)s FROM asset"
        ' WHERE "stackId" = %(stack)s ON CONFLICT (target_asset_id) DO UPDATE SET stack_id = excluded.stack_id',
        stack=MIRROR,
    )


def take_out(share: Share) -> None:
    share.run('UPDATE asset SET "stackId" = NULL WHERE id = %(upload_copy)s', upload_copy=share.copies[share.upload])


def of_mirrored(change: str) -> Do:
    return lambda share: share.run(f"UPDATE stack SET {change} WHERE id = '{MIRROR}'", **share.ids)


def note_stack(share: Share) -> None:
    share.insert(
        "_face_sync_stack_map", source_stack_id=uuid4(), target_stack_id=uuid4(), target_user_id=share.target_user
    )
