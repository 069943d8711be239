-- name: in_time
-- Each statement from here on has the time that is left until this moment (milliseconds since 1970); what comes after
-- that is cancelled at once.
SELECT set_config('statement_timeout',
                  greatest(1, %(end)s::bigint - floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint)::text, true)

-- name: hold
-- Copies that are still there, held until the end of the transaction: one that its user deletes at this very
-- moment must not be made again by an upsert. And whether its user has edited it by now.
SELECT copy.id, {own_edits}
FROM asset AS copy
LEFT JOIN public._face_sync_base AS base ON base.target_asset_id = copy.id
WHERE copy.id = ANY(%(made)s::uuid[])
FOR NO KEY UPDATE OF copy

-- name: hold_sources
-- And their sources, as they are now: what is read of them after this stays so until the copies are committed. The stills of
-- motion parts, too.
SELECT FROM asset
WHERE id IN (SELECT unnest(%(sources)s::uuid[])
             UNION
             SELECT still.id FROM asset AS still
             WHERE still."livePhotoVideoId" = ANY(%(sources)s::uuid[]) AND still."ownerId" IS NOT DISTINCT FROM %(source_user)s)
ORDER BY id
FOR SHARE

-- name: places_of_ours
-- Which of these places are those of copies, or of copies that went: what is there may be replaced.
SELECT copy."originalPath"
FROM asset AS copy JOIN public._face_sync_asset_map AS map ON map.target_asset_id = copy.id
WHERE copy."originalPath" = ANY(%(paths)s::text[]) AND copy."ownerId" = %(target_user)s
UNION ALL
SELECT leaving.path
FROM public._face_sync_intent AS mark, unnest(mark.paths) AS leaving(path)
WHERE mark.target_user_id = %(target_user)s AND leaving.path = ANY(%(paths)s::text[])

-- name: holders
-- Other copies that are still at the places of these: where photos exchange their paths.
SELECT map.source_asset_id, holder.id, holder."originalPath"
FROM unnest(%(targets)s::uuid[], %(checksums)s::bytea[]) AS batch(target_id, checksum)
JOIN asset AS holder ON holder.checksum = batch.checksum AND holder.id <> batch.target_id
JOIN public._face_sync_asset_map AS map ON map.target_asset_id = holder.id
WHERE holder."ownerId" = %(target_user)s AND holder."libraryId" = %(target_library)s

-- name: there
SELECT id FROM asset WHERE id = ANY(%(targets)s::uuid[])

-- name: unwanted
-- Sources whose copy was made, or was made and deleted by its user, since the batch was planned.
SELECT batch.source_id
FROM unnest(%(fresh)s::uuid[]) AS batch(source_id)
WHERE EXISTS (SELECT FROM public._face_sync_asset_map AS map
              WHERE map.source_asset_id = batch.source_id AND map.target_user_id = %(target_user)s)
   OR EXISTS (SELECT FROM public._face_sync_skipped AS skipped
              WHERE skipped.source_asset_id = batch.source_id AND skipped.target_user_id = %(target_user)s
                AND skipped.reason = 'removed by target')

-- name: upsert_assets
-- The copies themselves. Batch arrays: what cannot be read from the source's row.
-- A motion part may be of the same batch: its row is not there yet when this statement reads.
WITH batch AS (
    SELECT *
    FROM unnest(%(sources)s::uuid[], %(targets)s::uuid[], %(originals)s::text[], %(checksums)s::bytea[],
                %(modified)s::bigint[], %(encoded)s::text[])
             AS given(source_id, target_id, original, checksum, milliseconds, encoded),
         -- In two parts, which are exact: a file may have a time of any year.
         LATERAL (SELECT 'epoch'::timestamptz + milliseconds / 1000 * interval '1 second'
                         + mod(milliseconds, 1000) * interval '1 millisecond') AS time(modified)
), noted AS (
    -- The visibility that we write; one of the target user's own keeps its old note, unless both are the same by now.
    INSERT INTO public._face_sync_base AS base (target_asset_id, visibility)
    SELECT batch.target_id,
           CASE WHEN coalesce(map.parked->>'visibility', mine.visibility::text)
                     NOT IN (coalesce(before.visibility, 'timeline'), source.visibility::text)
                THEN before.visibility ELSE source.visibility::text END
    FROM batch
    JOIN asset AS source ON source.id = batch.source_id
    LEFT JOIN asset AS mine ON mine.id = batch.target_id
    LEFT JOIN public._face_sync_asset_map AS map ON map.target_asset_id = batch.target_id
    LEFT JOIN public._face_sync_base AS before ON before.target_asset_id = batch.target_id
    WHERE source.visibility <> 'hidden'
    ON CONFLICT (target_asset_id) DO UPDATE SET visibility = excluded.visibility
    WHERE base.visibility IS DISTINCT FROM excluded.visibility
)
INSERT INTO asset AS mine ({columns})
SELECT {values}
FROM batch
JOIN asset AS source ON source.id = batch.source_id
CROSS JOIN LATERAL (SELECT source."livePhotoVideoId" AS id) AS motion_id
LEFT JOIN batch AS motion_batch ON motion_batch.source_id = source."livePhotoVideoId"
LEFT JOIN public._face_sync_asset_map AS motion
       ON motion.source_asset_id = source."livePhotoVideoId" AND motion.target_user_id = %(target_user)s
LEFT JOIN asset AS motion_copy ON motion_copy.id = motion.target_asset_id
LEFT JOIN public._face_sync_kept AS kept
       ON kept.source_asset_id = batch.source_id AND kept.target_user_id = %(target_user)s
ON CONFLICT (id) DO UPDATE SET {changes}
WHERE {differs}

-- name: visibility_of_mine
-- What their user had chosen, before it was parked too; else what the source has.
(SELECT CASE
            WHEN excluded.visibility = 'hidden' OR now.visibility = 'hidden' THEN excluded.visibility
            WHEN now.visibility::text <> coalesce(base.visibility, 'timeline') THEN now.visibility
            ELSE excluded.visibility
        END
 FROM (SELECT coalesce((SELECT (map.parked->>'visibility')::asset_visibility_enum FROM public._face_sync_asset_map AS map
                        WHERE map.target_asset_id = mine.id), mine.visibility) AS visibility) AS now
 LEFT JOIN public._face_sync_base AS base ON base.target_asset_id = mine.id)

-- name: content
-- Whenever Immich reads the metadata of an Android motion photo, it takes the video out of it again and deletes the
-- part that was there before, unless this owner has an asset of the same content in that library: so the copy of such
-- a part has its source's checksum. One is enough: no two may have the same.
({embedded} AND NOT EXISTS (
    SELECT FROM asset AS other
    WHERE other.checksum = source.checksum AND other."ownerId" = %(target_user)s
      AND other."libraryId" = %(target_library)s AND other.id <> batch.target_id))

-- name: checksum
CASE WHEN {content} THEN source.checksum ELSE batch.checksum END

-- name: checksum_algorithm
CASE WHEN {content} THEN source."checksumAlgorithm" ELSE 'sha1-path' END

-- name: motion_part
-- The copy of the still's motion part. Where Immich has taken the video out of the copy itself, or another still has
-- the same one, the part that is there is as good.
coalesce(motion_batch.target_id, motion_copy.id, (
    SELECT same.id
    FROM asset AS source
    JOIN asset AS same ON same.checksum = source.checksum
    WHERE source.id = motion_id.id AND {embedded}
      AND same."ownerId" = %(target_user)s AND same."libraryId" = %(target_library)s AND same.visibility = 'hidden'
    LIMIT 1))

-- name: upsert_children
-- Rows that belong to an asset, each with its source's values: made, or mended where they differ.
INSERT INTO {table} AS mine ({columns})
SELECT {values}
FROM unnest(%(sources)s::uuid[], %(targets)s::uuid[]) AS batch(source_id, target_id)
JOIN {table} AS source ON source."assetId" = batch.source_id
WHERE {ours}
ON CONFLICT ({key}) DO UPDATE SET {changes}
WHERE {differs}

-- name: upsert_exif
-- Metadata, and in the same statement the note of what is written: both see the source at one moment. Noted a
-- moment later, a value that the source changed meanwhile would look like the target user's own for ever.
WITH batch AS (
    SELECT * FROM unnest(%(sources)s::uuid[], %(targets)s::uuid[]) AS batch(source_id, target_id)
), noted AS (
    -- A value of the target user's own keeps its old note.
    INSERT INTO public._face_sync_base AS base (target_asset_id, exif)
    SELECT batch.target_id, {noted}
    FROM batch
    JOIN asset_exif AS source ON source."assetId" = batch.source_id
    LEFT JOIN asset_exif AS mine ON mine."assetId" = batch.target_id
    LEFT JOIN public._face_sync_base AS before ON before.target_asset_id = batch.target_id
    ON CONFLICT (target_asset_id) DO UPDATE SET exif = excluded.exif
    WHERE base.exif IS DISTINCT FROM excluded.exif
)
INSERT INTO asset_exif AS mine ({columns})
SELECT {values}
FROM batch
JOIN asset_exif AS source ON source."assetId" = batch.source_id
ON CONFLICT ({key}) DO UPDATE SET {changes}
WHERE {differs}

-- name: delete_children
-- Rows of copies whose source has none any more.
DELETE FROM {table} AS mine
USING unnest(%(sources)s::uuid[], %(targets)s::uuid[]) AS batch(source_id, target_id)
WHERE mine."assetId" = batch.target_id
  AND {ours}
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
-- Files that the source has no more. The target's own stay: edited files of their edit, and the sidecar beside
-- the link of the copy. A sidecar row that leads elsewhere, as older sidecars of our kind copied it, goes:
-- through it the target would write into the source's XMP.
DELETE FROM asset_file AS mine
USING unnest(%(sources)s::uuid[], %(targets)s::uuid[]) AS batch(source_id, target_id)
WHERE mine."assetId" = batch.target_id
  AND {ours}
  AND NOT EXISTS (SELECT FROM asset_file AS source WHERE source."assetId" = batch.source_id AND {same})

-- name: named_files
-- What the rows of these copies name: asked before and after they are written, it tells which files no row names
-- any more. A file that was just placed may have lost its row meanwhile, too.
SELECT path FROM asset_file WHERE "assetId" = ANY(%(targets)s::uuid[])

-- name: finish
-- The copy is known as one, and no longer parked.
INSERT INTO public._face_sync_asset_map AS map
    (source_asset_id, target_asset_id, source_user_id, target_user_id, source_path, library_id)
SELECT batch.source_id, batch.target_id, %(source_user)s, %(target_user)s, batch.source_path, %(target_library)s
FROM unnest(%(sources)s::uuid[], %(targets)s::uuid[], %(source_paths)s::text[]) AS batch(source_id, target_id, source_path)
JOIN asset AS copy ON copy.id = batch.target_id
ON CONFLICT (source_asset_id, target_user_id) DO UPDATE
SET source_path = excluded.source_path, library_id = excluded.library_id, parked = NULL
WHERE map.target_asset_id = excluded.target_asset_id
  AND (map.source_path, map.library_id, map.parked) IS DISTINCT FROM (excluded.source_path, excluded.library_id, NULL)

-- name: note_edits
-- The edits of copies as we have just written them: those that differ from it later are the target user's.
-- Read from the copies, whose source may have other edits by now. One with own edits keeps its old note.
UPDATE public._face_sync_base AS base SET edits = written.edits
FROM (
    SELECT batch.target_id, coalesce((
        SELECT jsonb_agg(jsonb_build_object('action', edit.action, 'parameters', edit.parameters) ORDER BY edit.sequence)
        FROM asset_edit AS edit WHERE edit."assetId" = batch.target_id), '[]') AS edits
    FROM unnest(%(targets)s::uuid[]) AS batch(target_id)
) AS written
WHERE base.target_asset_id = written.target_id
  AND NOT base.target_asset_id = ANY(%(own_edits)s::uuid[])
  AND base.edits IS DISTINCT FROM written.edits

-- name: noted_value
{name}, CASE WHEN {own} THEN before.exif->{name} ELSE coalesce(to_jsonb(source.{column}), 'null') END

-- name: own_value
-- Has the target user given this column of a copy their own value (Immich 2.4+)? Immich locks a changed column
-- until it has written the copy's XMP; so it is theirs where it is not what we wrote, and locked or with an XMP.
(({name} = ANY(mine."lockedProperties")
  OR EXISTS (SELECT FROM asset_file AS own WHERE own."assetId" = mine."assetId" AND own.type = 'sidecar'))
 AND EXISTS (
    SELECT FROM public._face_sync_base AS base
    WHERE base.target_asset_id = mine."assetId"
      AND base.exif->{name} <> coalesce(to_jsonb(mine.{column}), 'null')))

-- name: own_date
EXISTS (
    SELECT FROM (SELECT mine.id) AS copy
    JOIN asset_exif AS mine ON mine."assetId" = copy.id
    WHERE {own})

-- name: unless_own
CASE WHEN {own} THEN mine.{column} ELSE excluded.{column} END

-- name: name_if_own
CASE WHEN {own} THEN {name} END

-- name: locks
-- A lock of the target's own stays until Immich has written it to the XMP: without it the edit would be lost.
(SELECT array_agg(DISTINCT lock.name ORDER BY lock.name)
 FROM (SELECT unnest(excluded."lockedProperties") AS name
       UNION
       SELECT locked.name FROM unnest(mine."lockedProperties") AS locked(name)
       WHERE locked.name = ANY(ARRAY[{own_names}]::varchar[])) AS lock)

-- name: recovered
-- A copy that worked has no failure any more.
DELETE FROM public._face_sync_failure AS failure
USING unnest(%(sources)s::uuid[]) AS batch(source_id)
WHERE failure.job = %(job)s AND failure.source_asset_id = batch.source_id

-- name: failing
SELECT source_asset_id FROM public._face_sync_failure WHERE job = %(job)s ORDER BY source_asset_id

-- name: failed
-- Why a copy could not be made or mended, and how often it was tried.
-- A key may have been the copy's id.
INSERT INTO public._face_sync_failure AS known (job, source_asset_id, reason)
SELECT DISTINCT ON (1, 2) %(job)s, coalesce(map.source_asset_id, batch.key_id), batch.reason
FROM unnest(%(sources)s::uuid[], %(reasons)s::text[]) AS batch(key_id, reason)
LEFT JOIN public._face_sync_asset_map AS map ON map.target_asset_id = batch.key_id
ON CONFLICT (job, source_asset_id) DO UPDATE
SET reason = excluded.reason, attempts = known.attempts + 1, last_at = now()
