-- name: upsert_assets
-- The copies themselves. Batch arrays: what cannot be read from the source's row.
-- A motion part may be of the same batch: its row is not there yet when this statement reads.
WITH batch AS (
    SELECT *
    FROM unnest(%(sources)s::uuid[], %(targets)s::uuid[], %(originals)s::text[], %(checksums)s::bytea[],
                %(modified)s::timestamptz[], %(encoded)s::text[])
             AS batch(source_id, target_id, original, checksum, modified, encoded)
)
INSERT INTO asset AS mine ({columns})
SELECT {values}
FROM batch
JOIN asset AS source ON source.id = batch.source_id
LEFT JOIN batch AS motion_batch ON motion_batch.source_id = source."livePhotoVideoId"
LEFT JOIN public._face_sync_asset_map AS motion
       ON motion.source_asset_id = source."livePhotoVideoId" AND motion.target_user_id = %(target_user)s
LEFT JOIN asset AS motion_copy ON motion_copy.id = motion.target_asset_id
ON CONFLICT (id) DO UPDATE SET {changes}
WHERE {differs}

-- name: upsert_children
-- Rows that belong to an asset, each with its source's values: made, or mended where they differ.
INSERT INTO {table} AS mine ({columns})
SELECT {values}
FROM unnest(%(sources)s::uuid[], %(targets)s::uuid[]) AS batch(source_id, target_id)
JOIN {table} AS source ON source."assetId" = batch.source_id
ON CONFLICT ({key}) DO UPDATE SET {changes}
WHERE {differs}

-- name: delete_children
-- Rows of copies whose source has none any more.
DELETE FROM {table} AS mine
USING unnest(%(sources)s::uuid[], %(targets)s::uuid[]) AS batch(source_id, target_id)
WHERE mine."assetId" = batch.target_id
  AND NOT EXISTS (SELECT FROM {table} AS source WHERE source."assetId" = batch.source_id AND {same})

-- name: upsert_files
-- Generated files, under the paths at which they have just been linked or copied.
INSERT INTO asset_file AS mine ({columns})
SELECT {values}
FROM unnest(%(file_ids)s::uuid[], %(file_targets)s::uuid[], %(file_paths)s::text[]) AS batch(file_id, target_id, path)
JOIN asset_file AS source ON source.id = batch.file_id
ON CONFLICT ({key}) DO UPDATE SET {changes}
WHERE {differs}

-- name: delete_files
-- Files that the source has no more. The target's own sidecar stays.
DELETE FROM asset_file AS mine
USING unnest(%(sources)s::uuid[], %(targets)s::uuid[]) AS batch(source_id, target_id)
WHERE mine."assetId" = batch.target_id
  AND mine.type <> 'sidecar'
  AND NOT EXISTS (SELECT FROM asset_file AS source WHERE source."assetId" = batch.source_id AND {same})
RETURNING mine.path

-- name: named_files
-- What the rows of these copies name now: a file that was just placed may have lost its row meanwhile.
SELECT path FROM asset_file WHERE "assetId" = ANY(%(targets)s)

-- name: finish
-- The copy is whole: known as one, and no longer begun.
WITH done AS (
    DELETE FROM public._face_sync_intent AS intent
    USING asset AS copy
    WHERE intent.source_asset_id = ANY(%(sources)s)
      AND intent.target_user_id = %(target_user)s
      AND copy.id = intent.target_asset_id
)
INSERT INTO public._face_sync_asset_map (source_asset_id, target_asset_id, source_user_id, target_user_id)
SELECT batch.source_id, batch.target_id, %(source_user)s, %(target_user)s
FROM unnest(%(sources)s::uuid[], %(targets)s::uuid[]) AS batch(source_id, target_id)
JOIN asset AS copy ON copy.id = batch.target_id
ON CONFLICT DO NOTHING

-- name: recovered
-- A copy that worked has no failure any more.
DELETE FROM public._face_sync_failure AS failure
USING unnest(%(sources)s::uuid[]) AS batch(source_id)
WHERE failure.job = %(job)s AND failure.source_asset_id = batch.source_id

-- name: failed
-- Why a copy could not be made or mended, and how often it was tried.
INSERT INTO public._face_sync_failure AS known (job, source_asset_id, reason)
SELECT %(job)s, source_id, reason
FROM unnest(%(sources)s::uuid[], %(reasons)s::text[]) AS batch(source_id, reason)
ON CONFLICT (job, source_asset_id) DO UPDATE
SET reason = excluded.reason, attempts = known.attempts + 1, last_at = now()
