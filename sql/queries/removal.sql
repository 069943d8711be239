-- How copies go, for good or for a while. Everything but the files, which go by the mark afterwards (marks.sql).

-- name: hold
-- First of all: what their user does with them at this very moment, such as putting one into an album, is either over
-- and noted with the rest, or comes too late.
SELECT FROM asset WHERE id = ANY(%(targets)s::uuid[]) AND "ownerId" = %(target_user)s ORDER BY id FOR UPDATE

-- name: paths
-- What rows name of these copies beside the files that are named by their ids: their links, and the XMP beside each. Where
-- the way leads through a symlinked directory nothing there is theirs.
SELECT copy.id, named.path
FROM asset AS copy
CROSS JOIN LATERAL (
    SELECT copy."originalPath" AS path WHERE %(own_sidecars)s
    UNION ALL
    SELECT file.path FROM asset_file AS file WHERE file."assetId" = copy.id AND file.type <> 'sidecar'
    UNION ALL
    SELECT xmp.path FROM ({sidecar}) AS xmp(path)
    WHERE %(own_sidecars)s AND xmp.path = copy."originalPath" || '.xmp'
    {encoded}
) AS named
WHERE copy.id = ANY(%(targets)s::uuid[]) AND copy."ownerId" = %(target_user)s AND named.path <> ''

-- name: sidecar_file
SELECT file.path FROM asset_file AS file WHERE file."assetId" = copy.id AND file.type = 'sidecar'

-- name: sidecar_column
-- Up to Immich 2.3.
SELECT copy."sidecarPath"

-- name: encoded_video
-- Up to Immich 2.5.
UNION ALL SELECT copy."encodedVideoPath"

-- name: delete_copies
-- By plain SQL, so that Immich's audit triggers tell the phones. The rows of other tables go by cascade.
DELETE FROM asset WHERE id = ANY(%(targets)s::uuid[]) AND "ownerId" = %(target_user)s

-- name: note_parked
-- How their user had them, for the day that they come back. A copy that its user is deleting for good is theirs to delete.
-- Covers: not those that are so only since another one was parked.
UPDATE public._face_sync_asset_map AS map
SET parked = CASE WHEN map.parked IS NULL THEN jsonb_build_object(
        'visibility', copy.visibility, 'status', copy.status,
        'stack', (SELECT stack.id FROM stack
                  WHERE stack."primaryAssetId" = copy.id
                    AND NOT EXISTS (SELECT FROM public._face_sync_stack_map AS ours WHERE ours.target_stack_id = stack.id)
                    AND NOT EXISTS (
                        SELECT FROM asset AS member JOIN public._face_sync_asset_map AS away ON away.target_asset_id = member.id
                        WHERE member."stackId" = stack.id AND away.parked->>'stack' = stack.id::text)
                  LIMIT 1),
        'covers', (SELECT jsonb_agg(album.id) FROM album
                   WHERE album."albumThumbnailAssetId" = copy.id
                     AND NOT EXISTS (
                         SELECT FROM album_asset AS entry
                         JOIN public._face_sync_asset_map AS away ON away.target_asset_id = entry.{album_asset_asset}
                         WHERE entry.{album_asset_album} = album.id AND away.parked->'covers' ? album.id::text)))
    -- What their user did with one just as it was parked.
    ELSE map.parked || jsonb_strip_nulls(jsonb_build_object(
        'visibility', nullif(copy.visibility, 'hidden'), 'status', nullif(copy.status, 'active'))) END
FROM asset AS copy
WHERE map.target_asset_id = copy.id
  AND copy.id = ANY(%(targets)s::uuid[]) AND copy."ownerId" = %(target_user)s AND copy.status <> 'deleted'

-- name: park
-- In no view of Immich's: the trash lists timeline and archive only, and what takes from the trash asks for the status. The
-- nightly purge takes it when its days are over, and unlinks nothing: at its path there is nothing.
UPDATE asset AS mine
SET "isOffline" = true, "deletedAt" = coalesce(mine."deletedAt", now()), visibility = 'hidden', status = 'active',
    "originalPath" = batch.path, checksum = batch.checksum {more}
FROM unnest(%(targets)s::uuid[], %(nowhere)s::text[], %(checksums)s::bytea[]) AS batch(target_id, path, checksum)
WHERE mine.id = batch.target_id AND mine."ownerId" = %(target_user)s AND mine.status <> 'deleted'

-- name: aside
-- Out of the way of another copy that gets its path; what is to become of it is seen next.
UPDATE asset AS mine SET "originalPath" = batch.path, checksum = batch.checksum {more}
FROM unnest(%(targets)s::uuid[], %(nowhere)s::text[], %(checksums)s::bytea[]) AS batch(target_id, path, checksum)
WHERE mine.id = batch.target_id AND mine."ownerId" = %(target_user)s

-- name: path_algorithm
-- Immich 2.7+.
, "checksumAlgorithm" = 'sha1-path'

-- name: no_sidecar
-- Up to Immich 2.3.
, "sidecarPath" = NULL

-- name: lock_own
-- Copies that leave the XMP beside them behind (Immich 2.4+): what their user typed is kept by the locks from now on, as
-- Immich does between an edit and its XMP.
UPDATE asset_exif AS mine
SET "lockedProperties" = ARRAY(SELECT unnest(mine."lockedProperties")
                               UNION SELECT unnest(array_remove(ARRAY[{own_names}]::varchar[], NULL)) ORDER BY 1)
WHERE mine."assetId" = ANY(%(targets)s::uuid[])
  AND EXISTS (SELECT FROM asset_file AS xmp WHERE xmp."assetId" = mine."assetId" AND xmp.type = 'sidecar')

-- name: drop_sidecars
DELETE FROM asset_file WHERE "assetId" = ANY(%(targets)s::uuid[]) AND type = 'sidecar'

-- name: forget
-- Into which album a copy was put once is remembered, for the day that its source comes back.
WITH faces AS (
    DELETE FROM public._face_sync_face_map WHERE target_asset_id = ANY(%(targets)s::uuid[])
), bases AS (
    DELETE FROM public._face_sync_base WHERE target_asset_id = ANY(%(targets)s::uuid[])
), tags AS (
    DELETE FROM public._face_sync_tag_map WHERE target_asset_id = ANY(%(targets)s::uuid[])
)
DELETE FROM public._face_sync_asset_map WHERE target_asset_id = ANY(%(targets)s::uuid[])

-- name: respect
-- The copy was made and is no more: its user deleted it for good. It is not made again.
INSERT INTO public._face_sync_skipped AS known (source_asset_id, target_user_id, reason)
SELECT source_id, %(target_user)s, 'removed by target' FROM unnest(%(sources)s::uuid[]) AS batch(source_id)
ON CONFLICT (source_asset_id, target_user_id) DO UPDATE SET reason = excluded.reason, other_asset_id = NULL

-- name: respect_deleted
-- Copies that go with their sources, and that their user was deleting for good or had thrown away: they do not come back.
INSERT INTO public._face_sync_skipped AS known (source_asset_id, target_user_id, reason)
SELECT batch.source_id, %(target_user)s, 'removed by target'
FROM unnest(%(sources)s::uuid[], %(targets)s::uuid[], %(by_user)s::boolean[]) AS batch(source_id, target_id, by_user)
JOIN public._face_sync_asset_map AS map ON map.target_asset_id = batch.target_id
LEFT JOIN asset AS copy ON copy.id = batch.target_id
WHERE CASE WHEN copy.id IS NULL THEN batch.by_user ELSE coalesce(map.parked->>'status', copy.status::text) <> 'active' END
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
