-- name: files
-- Every file that the rows of these copies name, and the mirrored people they hold.
SELECT file."assetId", file.path FROM asset_file AS file WHERE file."assetId" = ANY(%(targets)s::uuid[]) AND file.type <> 'sidecar'

-- name: hold
-- First of all: what their user does with them at this very moment, such as putting one into an album, is either over
-- and noted with the rest, or comes too late.
SELECT FROM asset WHERE id = ANY(%(targets)s::uuid[]) AND "ownerId" = %(target_user)s ORDER BY id FOR UPDATE

-- name: delete_copies
-- By plain SQL, so that Immich's audit triggers tell the phones. The rows of other tables go by cascade.
DELETE FROM asset WHERE id = ANY(%(targets)s::uuid[]) AND "ownerId" = %(target_user)s

-- name: forget
-- Into which album a copy was put once is remembered, for the day that its source comes back.
WITH faces AS (
    DELETE FROM public._face_sync_face_map WHERE target_asset_id = ANY(%(targets)s::uuid[])
), bases AS (
    DELETE FROM public._face_sync_base WHERE target_asset_id = ANY(%(targets)s::uuid[])
), tags AS (
    DELETE FROM public._face_sync_tag_map WHERE target_asset_id = ANY(%(targets)s::uuid[])
), intents AS (
    DELETE FROM public._face_sync_intent WHERE source_asset_id = ANY(%(sources)s::uuid[]) AND target_user_id = %(target_user)s
)
DELETE FROM public._face_sync_asset_map WHERE target_asset_id = ANY(%(targets)s::uuid[])

-- name: respect
-- The copy was made and is no more: its user deleted it for good. It is not made again.
INSERT INTO public._face_sync_skipped AS known (source_asset_id, target_user_id, reason)
SELECT source_id, %(target_user)s, 'removed by target' FROM unnest(%(sources)s::uuid[]) AS batch(source_id)
ON CONFLICT (source_asset_id, target_user_id) DO UPDATE SET reason = excluded.reason, other_asset_id = NULL

-- name: respect_trashed
-- Copies that their user had thrown away when their sources went, or deleted for good at this very moment: they do not
-- come back with the source.
INSERT INTO public._face_sync_skipped AS known (source_asset_id, target_user_id, reason)
SELECT batch.source_id, %(target_user)s, 'removed by target'
FROM unnest(%(sources)s::uuid[], %(targets)s::uuid[]) AS batch(source_id, target_id)
JOIN public._face_sync_asset_map AS map ON map.target_asset_id = batch.target_id
LEFT JOIN asset AS copy ON copy.id = batch.target_id
WHERE copy.status IS DISTINCT FROM 'active'
  AND EXISTS (SELECT FROM asset AS source WHERE source.id = batch.source_id)
ON CONFLICT (source_asset_id, target_user_id) DO UPDATE SET reason = excluded.reason, other_asset_id = NULL

-- name: skip_doubles
-- Sources that the target user has as photos of their own.
INSERT INTO public._face_sync_skipped AS known (source_asset_id, target_user_id, reason, other_asset_id)
SELECT source_id, %(target_user)s, reason, other_id
FROM unnest(%(sources)s::uuid[], %(reasons)s::text[], %(others)s::uuid[]) AS batch(source_id, reason, other_id)
ON CONFLICT (source_asset_id, target_user_id) DO UPDATE SET reason = excluded.reason, other_asset_id = excluded.other_asset_id
WHERE (known.reason, known.other_asset_id) IS DISTINCT FROM (excluded.reason, excluded.other_asset_id)

-- name: unskip
DELETE FROM public._face_sync_skipped WHERE source_asset_id = ANY(%(sources)s::uuid[]) AND target_user_id = %(target_user)s
