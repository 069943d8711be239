-- After a backup was restored: our tables may be newer or older than Immich's, or not be there at all.

-- name: generation
-- A restored table has another number. It stays through upgrades of Immich and of PostgreSQL.
SELECT to_regclass('public.asset')::oid::text

-- name: any_copies
-- Has this job ever made something, by what the rows say?
SELECT EXISTS (
           SELECT FROM public._face_sync_asset_map
           WHERE source_user_id = %(source_user)s AND target_user_id = %(target_user)s)
    OR EXISTS (
           SELECT FROM asset AS copy
           WHERE copy."ownerId" = %(target_user)s AND copy."libraryId" = %(target_library)s
             AND pg_temp.below(copy."originalPath", %(target_prefix)s))

-- name: missing_copies
-- Copies that are noted and not there. Without a restore their user would have deleted them; here they were made after
-- the backup, and are to be made again.
SELECT map.source_asset_id, map.target_asset_id
FROM public._face_sync_asset_map AS map
WHERE map.source_user_id = %(source_user)s AND map.target_user_id = %(target_user)s
  AND NOT EXISTS (SELECT FROM asset AS copy WHERE copy.id = map.target_asset_id)

-- name: forget_marks
DELETE FROM public._face_sync_intent
WHERE source_asset_id = ANY(%(sources)s::uuid[]) AND target_user_id = %(target_user)s

-- name: forget_albums
DELETE FROM public._face_sync_album_map WHERE target_asset_id = ANY(%(targets)s::uuid[])

-- name: adopt_by_id
-- Copies that are there and not noted, with an id that is derived from their source's. How many?
WITH unknown AS MATERIALIZED (
    SELECT copy.id
    FROM asset AS copy
    WHERE copy."ownerId" = %(target_user)s AND copy."libraryId" = %(target_library)s AND copy."isExternal"
      AND pg_temp.below(copy."originalPath", %(target_prefix)s)
      AND NOT EXISTS (SELECT FROM public._face_sync_asset_map AS map WHERE map.target_asset_id = copy.id)
), adopted AS (
    INSERT INTO public._face_sync_asset_map (source_asset_id, target_asset_id, source_user_id, target_user_id)
    SELECT source.id, unknown.id, %(source_user)s, %(target_user)s
    FROM asset AS source JOIN unknown ON unknown.id = pg_temp.copy_id(source.id, %(target_user)s)
    WHERE source."ownerId" = %(source_user)s AND EXISTS (SELECT FROM unknown)
      AND pg_temp.below(source."originalPath", %(source_prefix)s)
    ON CONFLICT DO NOTHING
    RETURNING 1
)
SELECT count(*) FROM adopted

-- name: adoptable
-- And those whose path, moved to the target's prefix, is their source's: copies of other sidecars have random ids. So has a
-- photo that the target user imported themselves: what is at the path must prove it.
SELECT source.id, copy.id, copy."originalPath", source."originalPath"
FROM asset AS copy
JOIN asset AS source
  ON source."originalPath" = %(source_prefix)s || substr(copy."originalPath", length(%(target_prefix)s) + 1)
 AND source."ownerId" = %(source_user)s
WHERE copy."ownerId" = %(target_user)s AND copy."libraryId" = %(target_library)s AND copy."isExternal"
  AND pg_temp.below(copy."originalPath", %(target_prefix)s)
  AND NOT EXISTS (SELECT FROM public._face_sync_asset_map AS map WHERE map.target_asset_id = copy.id)

-- name: adopt_by_path
INSERT INTO public._face_sync_asset_map (source_asset_id, target_asset_id, source_user_id, target_user_id)
SELECT source_id, target_id, %(source_user)s, %(target_user)s
FROM unnest(%(sources)s::uuid[], %(targets)s::uuid[]) AS proved(source_id, target_id)
ON CONFLICT DO NOTHING

-- name: note_tags
-- Whatever tag both have is one that we gave: it goes with the source's. Only for copies of which nothing is noted yet.
INSERT INTO public._face_sync_tag_map (target_asset_id, value)
SELECT map.target_asset_id, own.value
FROM public._face_sync_asset_map AS map
JOIN tag_asset AS mine ON mine.{tag_asset_asset} = map.target_asset_id
JOIN tag AS own ON own.id = mine.{tag_asset_tag}
WHERE map.source_user_id = %(source_user)s AND map.target_user_id = %(target_user)s
  AND NOT EXISTS (SELECT FROM public._face_sync_base AS base WHERE base.target_asset_id = map.target_asset_id)
  AND EXISTS (
      SELECT FROM tag_asset AS theirs JOIN tag ON tag.id = theirs.{tag_asset_tag}
      WHERE theirs.{tag_asset_asset} = map.source_asset_id AND tag.value = own.value)
ON CONFLICT DO NOTHING

-- name: note_values
-- What the source has now is taken for what we wrote last: where a copy differs from it, its user may have changed it.
-- Copies of other sidecars, with other ids, never had such a note.
INSERT INTO public._face_sync_base (target_asset_id, exif, edits)
SELECT map.target_asset_id,
       coalesce((SELECT jsonb_object_agg(key, value) FROM jsonb_each(to_jsonb(source)) WHERE key = ANY(%(lockable)s)), '{{}}'),
       {edits}
FROM public._face_sync_asset_map AS map
JOIN asset AS copy ON copy.id = map.target_asset_id
LEFT JOIN asset_exif AS source ON source."assetId" = map.source_asset_id
WHERE map.source_user_id = %(source_user)s AND map.target_user_id = %(target_user)s
  AND map.target_asset_id = pg_temp.copy_id(map.source_asset_id, %(target_user)s)
ON CONFLICT DO NOTHING

-- name: edits
coalesce((
    SELECT jsonb_agg(jsonb_build_object('action', edit.action, 'parameters', edit.parameters) ORDER BY edit.sequence)
    FROM asset_edit AS edit WHERE edit."assetId" = map.source_asset_id), '[]')

-- name: unskip
-- A copy that its user deleted after the backup is there again with everything else.
DELETE FROM public._face_sync_skipped AS skipped
USING public._face_sync_asset_map AS map, asset AS copy
WHERE skipped.target_user_id = %(target_user)s AND skipped.reason = 'removed by target'
  AND map.source_asset_id = skipped.source_asset_id AND map.target_user_id = skipped.target_user_id
  AND copy.id = map.target_asset_id AND copy.status = 'active'

-- name: forget_seen
-- What the sweep noted was of other rows.
DELETE FROM public._face_sync_seen

-- name: orphans
-- Rows in the job's place that no source stands for, with the checksum that only our copies and Immich's scans give:
-- of the path.
SELECT copy.id, copy."originalPath", copy.checksum
FROM asset AS copy
WHERE copy."ownerId" = %(target_user)s AND copy."libraryId" = %(target_library)s AND copy."isExternal"
  AND pg_temp.below(copy."originalPath", %(target_prefix)s)
  AND NOT EXISTS (SELECT FROM public._face_sync_asset_map AS map WHERE map.target_asset_id = copy.id)

-- name: paths_known
SELECT "originalPath" FROM asset WHERE "ownerId" = %(target_user)s AND "originalPath" = ANY(%(paths)s::text[])

-- name: ids_known
-- Which of these name an asset or a person of anybody's?
SELECT named.id
FROM unnest(%(ids)s::uuid[]) AS named(id)
WHERE EXISTS (SELECT FROM asset WHERE asset.id = named.id)
   OR EXISTS (SELECT FROM person WHERE person.{person_id} = named.id)

-- name: copy_ids
-- The ids that copies of these have.
SELECT pg_temp.copy_id(source.id, %(target_user)s) FROM unnest(%(ids)s::uuid[]) AS source(id)
