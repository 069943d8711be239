-- name: files
-- Every file that the rows of these copies name, and the mirrored people they hold.
SELECT file."assetId", file.path FROM asset_file AS file WHERE file."assetId" = ANY(%(targets)s) AND file.type <> 'sidecar'

-- name: delete_copies
-- By plain SQL, so that Immich's audit triggers tell the phones. The rows of other tables go by cascade.
DELETE FROM asset WHERE id = ANY(%(targets)s) AND "ownerId" = %(target_user)s

-- name: forget
WITH faces AS (
    DELETE FROM public._face_sync_face_map WHERE target_asset_id = ANY(%(targets)s)
), intents AS (
    DELETE FROM public._face_sync_intent WHERE source_asset_id = ANY(%(sources)s) AND target_user_id = %(target_user)s
)
DELETE FROM public._face_sync_asset_map WHERE target_asset_id = ANY(%(targets)s)

-- name: respect
-- The copy was made and is no more: its user deleted it for good. It is not made again.
INSERT INTO public._face_sync_skipped (source_asset_id, target_user_id, reason)
SELECT source_id, %(target_user)s, 'removed by target' FROM unnest(%(sources)s::uuid[]) AS batch(source_id)
ON CONFLICT DO NOTHING
