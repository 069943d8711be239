-- Marks: of which copies files may be there that no row names. One is left before the first file of a copy is made, and
-- in the transaction that takes rows away, so that a crash leaves nothing that nobody knows of.

-- name: begin
INSERT INTO public._face_sync_intent (source_asset_id, target_asset_id, source_user_id, target_user_id, target_path_prefix)
SELECT source_id, target_id, %(source_user)s, %(target_user)s, %(target_prefix)s
FROM unnest(%(sources)s::uuid[], %(targets)s::uuid[]) AS batch(source_id, target_id)
ON CONFLICT (source_asset_id, target_user_id) DO NOTHING

-- name: leave
-- What is to be removed of these copies, beside the files that are named by their ids: one path in each row.
INSERT INTO public._face_sync_intent AS mark
    (source_asset_id, target_asset_id, source_user_id, target_user_id, target_path_prefix, paths)
SELECT source_id, target_id, %(source_user)s, %(target_user)s, %(target_prefix)s,
       coalesce(array_agg(path) FILTER (WHERE path IS NOT NULL), '{}')
FROM unnest(%(mark_sources)s::uuid[], %(mark_targets)s::uuid[], %(mark_paths)s::text[]) AS batch(source_id, target_id, path)
GROUP BY source_id, target_id
ON CONFLICT (source_asset_id, target_user_id) DO UPDATE
SET paths = ARRAY(SELECT unnest(mark.paths) UNION SELECT unnest(excluded.paths))

-- name: read
-- These marks, and whether what they are of is there: its files stay then, but for those named in the mark.
SELECT mark.source_asset_id, mark.target_asset_id, mark.target_path_prefix, mark.paths,
       EXISTS (SELECT FROM asset WHERE asset.id = mark.target_asset_id)
           OR EXISTS (SELECT FROM person WHERE person.{person_id} = mark.target_asset_id AND person."ownerId" = mark.target_user_id)
FROM public._face_sync_intent AS mark
WHERE mark.target_user_id = %(target_user)s AND mark.source_asset_id = ANY(%(sources)s::uuid[])

-- name: named
-- Which of these paths a row names by now: another copy may have been given the place of one that went.
SELECT "originalPath" FROM asset WHERE "originalPath" = ANY(%(paths)s::text[])
UNION ALL
SELECT file.path FROM asset_file AS file WHERE file."assetId" = ANY(%(targets)s::uuid[])
UNION ALL
SELECT file.path
FROM asset AS beside JOIN asset_file AS file ON file."assetId" = beside.id AND file.type = 'sidecar'
WHERE beside."originalPath" = ANY(%(beside)s::text[])
UNION ALL
SELECT "thumbnailPath" FROM person WHERE {person_id} = ANY(%(targets)s::uuid[])
UNION ALL
{columns}

-- name: encoded_videos
-- Up to Immich 2.5.
SELECT "encodedVideoPath" FROM asset WHERE id = ANY(%(targets)s::uuid[])

-- name: sidecars
-- Up to Immich 2.3.
SELECT "sidecarPath" FROM asset WHERE "originalPath" = ANY(%(beside)s::text[])

-- name: nothing_more
SELECT NULL::text

-- name: done
DELETE FROM public._face_sync_intent AS mark
WHERE mark.source_asset_id = ANY(%(sources)s::uuid[]) AND mark.target_user_id = %(target_user)s

-- name: tell_owner
-- Whoever has the job now looks through everything, the marks too.
SELECT pg_notify('immich_shared_library', '{"v": 1, "kind": "sweep"}')
