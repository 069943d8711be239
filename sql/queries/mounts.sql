-- name: marked
-- The folders of the media root in which Immich has put a mark of its own, .immich, when it first started. It does
-- not start where one of them is missing.
SELECT mark.key
FROM (SELECT pg_temp.immich_setting('system-flags') -> 'mountChecks') AS flags(marks),
     LATERAL jsonb_each(CASE jsonb_typeof(flags.marks) WHEN 'object' THEN flags.marks END) AS mark
WHERE mark.value = 'true'

-- name: names_files
-- Is there a generated file in this folder by the rows of the source's photos, or of their copies?
SELECT EXISTS (
    SELECT FROM asset JOIN asset_file AS file ON file."assetId" = asset.id
    WHERE asset."ownerId" = %(source_user)s AND pg_temp.below(file.path, %(folder)s)
) OR EXISTS (
    SELECT FROM public._face_sync_asset_map AS map JOIN asset_file AS file ON file."assetId" = map.target_asset_id
    WHERE map.source_user_id = %(source_user)s AND map.target_user_id = %(target_user)s
      AND pg_temp.below(file.path, %(folder)s)
)

-- name: names_originals
-- Is there an original of the source's in this folder, or a link of a copy's, by the rows? Also of photos that
-- Immich has taken offline: its scan finds nothing there either.
SELECT EXISTS (
    SELECT FROM asset WHERE asset."ownerId" = %(source_user)s AND pg_temp.below(asset."originalPath", %(folder)s)
) OR EXISTS (
    SELECT FROM public._face_sync_asset_map AS map JOIN asset AS copy ON copy.id = map.target_asset_id
    WHERE map.source_user_id = %(source_user)s AND map.target_user_id = %(target_user)s
      AND pg_temp.below(copy."originalPath", %(folder)s)
)

-- name: names_online
-- Does Immich still count on an original in this folder? Where its scan found all of them gone, they are.
SELECT EXISTS (
    SELECT FROM asset
    WHERE asset."ownerId" = %(source_user)s AND asset."deletedAt" IS NULL AND NOT asset."isOffline"
      AND pg_temp.below(asset."originalPath", %(folder)s)
)

-- name: some_originals
-- A few photos that the job may share: whether a link to one of them can be read is tried once in each session.
SELECT asset."originalPath" FROM asset
WHERE asset."ownerId" = %(source_user)s AND asset."deletedAt" IS NULL AND NOT asset."isOffline"
  AND pg_temp.below(asset."originalPath", %(folder)s)
-- By the key: else PostgreSQL would read the table as a whole, since a few are soon found.
ORDER BY asset.id
LIMIT 3
