-- name: sources
-- What is to be done for these assets of one job: one row for each source asset that the keys lead to.
-- A key may name a source, a copy, or one half of a live photo; the other half comes along.
-- The rows are read as they are now: which event named the key plays no part.
WITH named AS (
    SELECT coalesce(map.source_asset_id, asked.id) AS id
    FROM unnest(%(ids)s::uuid[]) AS asked(id)
    LEFT JOIN public._face_sync_asset_map AS map
           ON map.target_asset_id = asked.id
          AND map.source_user_id = %(source_user)s
          AND map.target_user_id = %(target_user)s
), closure AS (
    SELECT id FROM named
    UNION
    SELECT still."livePhotoVideoId" FROM named JOIN asset AS still USING (id) WHERE still."livePhotoVideoId" IS NOT NULL
    UNION
    SELECT still.id FROM named JOIN asset AS still ON still."livePhotoVideoId" = named.id AND still."ownerId" = %(source_user)s
), candidate AS (
    -- May it be shared at all, and is Immich done with it?
    SELECT source.id, source.visibility = 'hidden' AS hidden, source."livePhotoVideoId" AS motion,
           (
               source."deletedAt" IS NULL
               AND source.status = 'active'
               AND NOT source."isOffline"
               AND source.visibility <> 'locked'
               AND owner."deletedAt" IS NULL
               AND CASE WHEN %(uploads)s
                        THEN source."libraryId" IS NULL AND NOT source."isExternal"
                        ELSE source."isExternal" AND library.id IS NOT NULL AND library."deletedAt" IS NULL
                   END
               AND starts_with(source."originalPath", %(source_prefix)s || '/')
               AND NOT EXISTS (SELECT FROM public._face_sync_asset_map AS map WHERE map.target_asset_id = source.id)
           ) AS qualifies,
           CASE
               WHEN status."metadataExtractedAt" IS NULL THEN 'metadata'
               WHEN source.visibility = 'hidden' THEN NULL
               WHEN source.thumbhash IS NULL OR files.needed < 2 THEN 'thumbnails'
               -- A disabled or failing machine learning job leaves its mark empty for ever.
               WHEN source."createdAt" < now() - make_interval(secs => %(ml_wait)s) THEN NULL
               WHEN %(smart_search)s AND NOT EXISTS (SELECT FROM smart_search WHERE smart_search."assetId" = source.id) THEN 'smart search'
               WHEN %(faces)s AND status."facesRecognizedAt" IS NULL THEN 'faces'
               WHEN {ocr_missing} THEN 'ocr'
           END AS waiting
    FROM closure
    JOIN asset AS source USING (id)
    JOIN "user" AS owner ON owner.id = source."ownerId"
    LEFT JOIN library ON library.id = source."libraryId"
    LEFT JOIN asset_job_status AS status ON status."assetId" = source.id
    CROSS JOIN LATERAL (
        SELECT count(DISTINCT file.type) AS needed FROM asset_file AS file
        WHERE file."assetId" = source.id AND file.type IN ('preview', 'thumbnail')
    ) AS files
    WHERE source."ownerId" = %(source_user)s
)
SELECT closure.id,
       coalesce(map.target_asset_id, pg_temp.copy_id(closure.id, %(target_user)s)) AS target_id,
       source."originalPath",
       -- A motion part is shared only with a still that is shared, and once that still is ready.
       coalesce(candidate.qualifies, false)
           AND (NOT candidate.hidden OR EXISTS (
                   SELECT FROM candidate AS still
                   WHERE still.motion = candidate.id AND still.qualifies AND still.waiting IS NULL)) AS qualifies,
       candidate.waiting,
       map.target_asset_id IS NOT NULL AS mapped,
       coalesce(intent.target_path_prefix = %(target_prefix)s, false) AS begun,
       copy.id IS NOT NULL AS made,
       copy."originalPath" AS copy_original,
       {encoded_video} AS encoded,
       skipped.reason AS skipped
FROM closure
LEFT JOIN asset AS source ON source.id = closure.id
LEFT JOIN candidate ON candidate.id = closure.id
LEFT JOIN public._face_sync_asset_map AS map
       ON map.source_asset_id = closure.id AND map.target_user_id = %(target_user)s AND map.source_user_id = %(source_user)s
LEFT JOIN public._face_sync_intent AS intent
       ON intent.source_asset_id = closure.id AND intent.target_user_id = %(target_user)s
LEFT JOIN public._face_sync_skipped AS skipped
       ON skipped.source_asset_id = closure.id AND skipped.target_user_id = %(target_user)s
LEFT JOIN asset AS copy ON copy.id = map.target_asset_id AND copy."ownerId" = %(target_user)s
-- Motion parts first: where a batch is split, they are there before their stills.
ORDER BY candidate.hidden DESC NULLS LAST

-- name: ocr_missing
-- Immich 2.2+ reads text in photos.
%(ocr)s AND status."ocrAt" IS NULL

-- name: files
-- The generated files of these sources. Never the sidecar: through such a row the target would write to and
-- delete the source's XMP.
SELECT batch.source_id, file.id, file.type, {is_edited}, file.path
FROM unnest(%(sources)s::uuid[]) AS batch(source_id)
JOIN asset_file AS file ON file."assetId" = batch.source_id
WHERE file.type <> 'sidecar'

-- name: begin
-- Leaves a mark before the first file of a copy is made, so that a crash leaves nothing that nobody knows of.
INSERT INTO public._face_sync_intent (source_asset_id, target_asset_id, source_user_id, target_user_id, target_path_prefix)
SELECT source_id, target_id, %(source_user)s, %(target_user)s, %(target_prefix)s
FROM unnest(%(sources)s::uuid[], %(targets)s::uuid[]) AS batch(source_id, target_id)
ON CONFLICT (source_asset_id, target_user_id) DO NOTHING
