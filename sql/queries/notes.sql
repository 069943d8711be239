-- The notes about photos that have no copy, for people.

-- name: skipped
-- What is left out on purpose. A job is not noted with it: it is the one that would share the photo.
SELECT note.source_asset_id, source."originalFileName", job.name, note.reason, note.skipped_at
FROM public._face_sync_skipped AS note
LEFT JOIN asset AS source ON source.id = note.source_asset_id
LEFT JOIN unnest(%(names)s::text[], %(uploads)s::boolean[], %(sources)s::uuid[], %(targets)s::uuid[], %(prefixes)s::text[])
     AS job(name, uploads, source_user, target_user, prefix)
  ON job.source_user = source."ownerId" AND job.target_user = note.target_user_id
 AND job.uploads <> source."isExternal" AND pg_temp.below(source."originalPath", job.prefix)
ORDER BY note.skipped_at DESC, note.source_asset_id

-- name: failures
SELECT note.source_asset_id, source."originalFileName", note.job, note.reason, note.last_at, note.attempts
FROM public._face_sync_failure AS note
LEFT JOIN asset AS source ON source.id = note.source_asset_id
ORDER BY note.last_at DESC, note.source_asset_id, note.job

-- name: drop_skipped
-- For the target user beside each id in the other list. The motion part of a live photo goes with its still.
DELETE FROM public._face_sync_skipped AS note
USING unnest(%(ids)s::uuid[], %(targets)s::uuid[]) AS named(id, target_user)
WHERE note.target_user_id = named.target_user
  AND (note.source_asset_id = named.id
       OR note.source_asset_id = (SELECT still."livePhotoVideoId" FROM asset AS still WHERE still.id = named.id))

-- name: drop_failures
DELETE FROM public._face_sync_failure AS note
USING unnest(%(ids)s::uuid[], %(jobs)s::text[]) AS named(id, job)
WHERE note.source_asset_id = named.id AND note.job = named.job

-- name: notify
-- As the triggers send it, so that a running listener acts at once. 190 ids stay below the limit of a payload.
SELECT pg_notify(
    %(channel)s,
    format('{"v":1,"kind":"asset","ids":%%s,"at":%%s}', to_json(array_agg(named.id)), round(extract(epoch FROM clock_timestamp()), 3)))
FROM (
    SELECT distinct_id.id, (row_number() OVER () - 1) / 190 AS payload
    FROM (SELECT DISTINCT asked.id FROM unnest(%(ids)s::uuid[]) AS asked(id)) AS distinct_id
) AS named
GROUP BY named.payload

-- name: listening
-- A running listener holds the lock of each job that it serves.
SELECT EXISTS (
    SELECT FROM pg_locks
    WHERE locktype = 'advisory' AND classid = %(lock_class)s::bigint::oid AND objsubid = 2 AND granted
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))

-- name: job_counts
-- Of one job: its copies, its failures, and the photos that it shares, left out or not copied yet. Whether a photo
-- without a copy waits for Immich or for us is not asked here. A motion part comes with its still: not counted.
WITH shared AS (
    SELECT source.id,
           map.target_asset_id IS NOT NULL AS copied,
           EXISTS (SELECT FROM public._face_sync_skipped AS note
                   WHERE note.source_asset_id = source.id AND note.target_user_id = %(target_user)s) AS skipped,
           EXISTS (SELECT FROM public._face_sync_failure AS note
                   WHERE note.source_asset_id = source.id AND note.job = %(job)s) AS failed
    FROM asset AS source
    LEFT JOIN public._face_sync_asset_map AS map
           ON map.source_asset_id = source.id AND map.target_user_id = %(target_user)s
    WHERE source."ownerId" = %(source_user)s AND source."deletedAt" IS NULL AND source.status = 'active'
      AND NOT source."isOffline" AND source.visibility NOT IN ('locked', 'hidden')
      AND source."isExternal" <> %(uploads)s
      AND pg_temp.below(source."originalPath", %(source_prefix)s)
      AND NOT EXISTS (SELECT FROM public._face_sync_asset_map AS copy WHERE copy.target_asset_id = source.id)
)
SELECT (SELECT count(*) FROM public._face_sync_asset_map AS map
        JOIN asset AS copy ON copy.id = map.target_asset_id
        WHERE map.source_user_id = %(source_user)s AND map.target_user_id = %(target_user)s
          AND pg_temp.below(copy."originalPath", %(target_prefix)s)) AS copies,
       count(*) FILTER (WHERE NOT copied AND NOT skipped AND NOT failed) AS waiting,
       (SELECT count(*) FROM public._face_sync_failure AS note WHERE note.job = %(job)s) AS failed,
       count(*) FILTER (WHERE skipped) AS skipped
FROM shared
