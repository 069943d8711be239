-- name: sources
-- What is to be done for these assets of one job: one row for each source asset that the keys lead to.
-- A key may name a source, a copy, or one half of a live photo; the other half comes along.
-- The rows are read as they are now: which event named the key plays no part.
-- Everything is looked up by id. Whose row it is, is only asked of rows found ("IS NOT DISTINCT FROM" uses no
-- index): a planner that is offered the owner reads the whole library for one photo.
WITH named AS (
    SELECT coalesce(map.source_asset_id, asked.id) AS id
    FROM unnest(%(ids)s::uuid[]) AS asked(id)
    LEFT JOIN public._face_sync_asset_map AS map
           ON map.target_asset_id = asked.id
          AND map.source_user_id IS NOT DISTINCT FROM %(source_user)s
          AND map.target_user_id IS NOT DISTINCT FROM %(target_user)s
    UNION
    -- A photo of the target's own, because of which a source was skipped.
    SELECT skipped.source_asset_id
    FROM unnest(%(ids)s::uuid[]) AS asked(id)
    JOIN public._face_sync_skipped AS skipped ON skipped.other_asset_id = asked.id
    WHERE skipped.target_user_id IS NOT DISTINCT FROM %(target_user)s
), parts AS (
    SELECT id FROM named
    UNION
    SELECT still."livePhotoVideoId" FROM named JOIN asset AS still USING (id) WHERE still."livePhotoVideoId" IS NOT NULL
), closure AS (
    -- Whatever is named, its motion part, and all stills of that: a part may have several, in the places of several jobs.
    SELECT id FROM parts
    UNION
    SELECT still.id FROM parts JOIN asset AS still ON still."livePhotoVideoId" = parts.id
    WHERE still."ownerId" IS NOT DISTINCT FROM %(source_user)s
), own AS MATERIALIZED (
    -- Photos that the target user uploaded themselves and that may be the same: by content, or by name and
    -- capture time. Each is looked up by its index, once for the whole batch.
    SELECT own.id, own.checksum, own."fileCreatedAt" AS taken, lower(regexp_replace(own."originalFileName", '\.[^.]*$', '')) AS stem
    FROM asset AS own
    WHERE %(duplicates)s
      AND own.id IN (
          SELECT same.id FROM asset AS same WHERE same.checksum IN (SELECT checksum FROM closure JOIN asset USING (id))
          UNION
          SELECT same.id FROM asset AS same
          WHERE same."fileCreatedAt" IN (SELECT "fileCreatedAt" FROM closure JOIN asset USING (id))
            AND same."ownerId" IS NOT DISTINCT FROM %(target_user)s)
      AND own."ownerId" IS NOT DISTINCT FROM %(target_user)s
      AND own."libraryId" IS NULL
      AND own."deletedAt" IS NULL
      AND own.visibility <> 'hidden'
), candidate AS (
    -- May it be shared at all, is Immich done with it, and what is there of its copy?
    SELECT source.id, source."originalPath" AS original, source.visibility = 'hidden' AS hidden,
           source."livePhotoVideoId" AS motion, {encoded_video} AS encoded,
           place.in_scope, place.in_pair, {embedded} AS embedded,
           -- Why it may not be shared, or not now; NULL where it may. First what is for good, then what its user did.
           coalesce(reason.for_good, asked.reason, CASE WHEN NOT place.in_scope THEN reason.moved END, reason.by_user,
                    CASE WHEN NOT place.in_scope THEN reason.elsewhere END, reason.offline) AS reason,
           -- As any job of these two users has it, and wherever it lies.
           coalesce(reason.for_good, CASE WHEN NOT place.in_pair THEN reason.moved END, reason.by_user,
                    CASE WHEN NOT place.in_pair THEN reason.elsewhere END, reason.offline) AS reason_in_pair,
           coalesce(reason.for_good, asked.reason, reason.by_user, reason.offline) AS reason_anywhere,
           CASE
               WHEN status."metadataExtractedAt" IS NULL THEN 'metadata'
               WHEN source.visibility = 'hidden' THEN NULL
               WHEN source.thumbhash IS NULL OR files.needed < 2 THEN 'thumbnails'
               -- A disabled or failing machine learning job leaves its mark empty for ever.
               WHEN source."createdAt" < now() - make_interval(secs => %(ml_wait)s) THEN NULL
               WHEN %(smart_search)s AND NOT EXISTS (SELECT FROM smart_search WHERE smart_search."assetId" = source.id)
                    THEN 'smart search'
               WHEN %(faces)s AND status."facesRecognizedAt" IS NULL THEN 'faces'
               WHEN {ocr_missing} THEN 'ocr'
           END AS waiting,
           double.id AS double_id, double.reason AS double_reason
    FROM closure
    JOIN asset AS source USING (id)
    CROSS JOIN LATERAL (
        SELECT {in_scope} AS in_scope,
               EXISTS (
                   SELECT FROM unnest(%(pair_uploads)s::boolean[], %(pair_prefixes)s::text[]) AS of_pair(uploads, prefix)
                   WHERE CASE WHEN of_pair.uploads
                              THEN source."libraryId" IS NULL AND NOT source."isExternal"
                              ELSE source."isExternal" AND source."libraryId" IS NOT NULL
                                   AND pg_temp.below(source."originalPath", of_pair.prefix)
                         END) AS in_pair
    ) AS place
    LEFT JOIN public._face_sync_asset_map AS copied ON copied.target_asset_id = source.id
    LEFT JOIN public._face_sync_asset_map AS made
           ON made.source_asset_id = source.id AND made.target_user_id = %(target_user)s
    JOIN "user" AS owner ON owner.id = source."ownerId"
    LEFT JOIN library ON library.id = source."libraryId"
    CROSS JOIN LATERAL (
        {reasons}
    ) AS reason
    CROSS JOIN LATERAL (SELECT CASE WHEN %(remove_copies)s THEN 'asked' END AS reason) AS asked
    LEFT JOIN asset_job_status AS status ON status."assetId" = source.id
    CROSS JOIN LATERAL (
        SELECT count(DISTINCT file.type) AS needed FROM asset_file AS file
        WHERE file."assetId" = source.id AND file.type IN ('preview', 'thumbnail')
    ) AS files
    LEFT JOIN LATERAL (
        -- Asked only where there is no copy yet: one that is there stays.
        SELECT found.id, found.reason
        FROM (
            -- One file in two libraries of the source user's, whose import paths overlap: one copy is enough.
            SELECT twin.id, 'duplicate_path' AS reason
            FROM asset AS twin
            LEFT JOIN public._face_sync_asset_map AS of_twin
                   ON of_twin.source_asset_id = twin.id AND of_twin.target_user_id = %(target_user)s
            WHERE twin."originalPath" = source."originalPath" AND twin.id <> source.id
              AND twin."ownerId" IS NOT DISTINCT FROM %(source_user)s
              AND twin."isExternal" = source."isExternal"
              AND (of_twin.target_asset_id IS NOT NULL OR twin.id < source.id)
              AND twin."deletedAt" IS NULL AND twin.status = 'active' AND NOT twin."isOffline" AND twin.visibility <> 'locked'
            UNION ALL
            SELECT own.id, CASE WHEN own.checksum = source.checksum THEN 'duplicate_checksum' ELSE 'duplicate_filename' END
            FROM own
            WHERE (own.checksum = source.checksum OR (own.taken = source."fileCreatedAt" AND own.stem = lower(regexp_replace(source."originalFileName", '\.[^.]*$', ''))))
              AND source.visibility <> 'hidden'
        ) AS found
        WHERE made.target_asset_id IS NULL
        ORDER BY found.reason = 'duplicate_path' DESC, found.id
        LIMIT 1
    ) AS double ON true
    WHERE source."ownerId" IS NOT DISTINCT FROM %(source_user)s
), still AS (
    SELECT candidate.*,
           candidate.double_id IS NULL AND NOT EXISTS (
               SELECT FROM public._face_sync_skipped AS removed
               WHERE removed.source_asset_id = candidate.id AND removed.target_user_id = %(target_user)s
                 AND removed.reason = 'removed by target') AS wanted,
           EXISTS (
               SELECT FROM public._face_sync_asset_map AS made JOIN asset AS copy ON copy.id = made.target_asset_id
               WHERE made.source_asset_id = candidate.id AND made.target_user_id = %(target_user)s) AS copied
    FROM candidate
    WHERE candidate.motion IS NOT NULL
), claim AS (
    -- What the stills of a motion part say: those of this job, and those of all jobs of these two users.
    SELECT still.motion AS id,
           bool_or(still.in_scope) AS in_scope,
           bool_or(still.wanted AND still.reason IS NULL) AS shared,
           bool_or(still.wanted AND still.reason IS NULL AND still.waiting IS NULL) AS ready,
           bool_or(still.wanted AND still.reason_in_pair IS NULL) AS shared_in_pair,
           bool_or(still.wanted AND still.reason_in_pair IS NULL AND still.copied) AS copied,
           bool_or(still.reason_in_pair IN ('settings', 'owner', 'offline', 'trashed')) AS for_now
    FROM still
    GROUP BY still.motion
)
SELECT closure.id,
       -- The id that the copy has, or had before its source went, or that a new one gets at every try.
       coalesce(map.target_asset_id, intent.target_asset_id, kept.target_asset_id,
                pg_temp.copy_id(closure.id, %(target_user)s)) AS target_id,
       candidate.original,
       -- A motion part is judged by its stills, and shared once one of them is ready. One that is shared stays: an
       -- upgrade of Immich brings new work for all stills. It is shared once for all jobs of these two users: the first
       -- that needs it makes it in its place, and there it stays while any still of it is shared. A real second file
       -- must itself be in the place of one of these jobs; one that was taken out of its still lies with Immich.
       CASE
           WHEN candidate.id IS NULL THEN 'gone'
           WHEN NOT candidate.hidden THEN candidate.reason
           WHEN lies.with_another_job THEN 'hidden'
           WHEN NOT candidate.in_pair AND NOT candidate.embedded THEN coalesce(candidate.reason, 'hidden')
           WHEN CASE WHEN lies.here THEN claim.shared_in_pair
                     WHEN map.target_asset_id IS NOT NULL THEN claim.shared
                     ELSE claim.ready END THEN candidate.reason_anywhere
           WHEN claim.for_now THEN coalesce(candidate.reason_anywhere, 'still')
           ELSE 'hidden'
       END AS reason,
       coalesce(candidate.in_scope OR candidate.hidden AND claim.in_scope, false) AS in_scope,
       candidate.waiting,
       map.target_asset_id IS NOT NULL AS mapped,
       -- A mark of a job that is no more is anybody's of these users.
       intent.source_asset_id IS NOT NULL AND NOT intent.target_path_prefix = ANY(%(other_prefixes)s::text[]) AS begun,
       copy.id IS NOT NULL AS made,
       map.parked IS NOT NULL AS parked,
       map.parked IS NOT NULL AND copy."isOffline" AND copy."deletedAt" IS NOT NULL AND copy.visibility = 'hidden'
           AND copy.status = 'active' AS out_of_sight,
       -- Its row is gone, and not by its user's will: its library went, or Immich's purge took it while it was parked. Or
       -- it is a motion part, and the copy of its still is there: Immich took the video out of that once more.
       map.target_asset_id IS NOT NULL AND copy.id IS NULL
           AND (coalesce(candidate.hidden AND claim.copied, false)
                OR coalesce(map.parked->>'status' <> 'trashed', false)
                OR NOT EXISTS (
                    SELECT FROM library
                    WHERE library.id = map.library_id AND library."deletedAt" IS NULL
                      AND library."ownerId" IS NOT DISTINCT FROM %(target_user)s)) AS lost,
       copy.status::text AS copy_status,
       copy."originalPath" AS copy_original,
       candidate.encoded,
       skipped.reason AS skipped,
       {own_edits} AS own_edits,
       candidate.double_id,
       candidate.double_reason,
       coalesce(candidate.hidden, false) AS hidden,
       candidate.motion
FROM closure
LEFT JOIN candidate ON candidate.id = closure.id
LEFT JOIN public._face_sync_asset_map AS map
       ON map.source_asset_id = closure.id AND map.target_user_id = %(target_user)s
      AND map.source_user_id IS NOT DISTINCT FROM %(source_user)s
LEFT JOIN public._face_sync_intent AS intent
       ON intent.source_asset_id = closure.id AND intent.target_user_id = %(target_user)s
LEFT JOIN public._face_sync_kept AS kept
       ON kept.source_asset_id = closure.id AND kept.target_user_id = %(target_user)s
LEFT JOIN public._face_sync_skipped AS skipped
       ON skipped.source_asset_id = closure.id AND skipped.target_user_id = %(target_user)s
LEFT JOIN asset AS copy ON copy.id = map.target_asset_id AND copy."ownerId" IS NOT DISTINCT FROM %(target_user)s
LEFT JOIN public._face_sync_base AS base ON base.target_asset_id = copy.id
LEFT JOIN claim ON claim.id = closure.id
CROSS JOIN LATERAL (
    SELECT coalesce(pg_temp.below(copy."originalPath", %(target_prefix)s), false) AS here,
           coalesce((SELECT bool_or(pg_temp.below(copy."originalPath", other.prefix))
                     FROM unnest(%(other_prefixes)s::text[]) AS other(prefix)), false) AS with_another_job
) AS lies
-- Motion parts first: where a batch is split, they are there before their stills.
ORDER BY candidate.hidden DESC NULLS LAST

-- name: in_scope
-- Does a source lie in the place of this job? An upload is one wherever it lies: Immich moves its media, and no user takes
-- a photo out of them. Where it is not where we look, it is not copied, and a copy of it stays as it is (placing tells).
CASE WHEN %(uploads)s
     THEN source."libraryId" IS NULL AND NOT source."isExternal"
     ELSE source."isExternal" AND source."libraryId" IS NOT NULL
          AND pg_temp.below(source."originalPath", %(source_prefix)s)
END

-- name: reasons
-- Why a source may not be shared: for good, because it does not lie where it may be shared, or for now. What its user did
-- comes before what may be a slip of the settings: that alone is held by the brake.
SELECT CASE
           WHEN source.visibility = 'locked' THEN 'locked'
           WHEN source.status = 'deleted' THEN 'deleted'
           -- Never a copy of a copy.
           WHEN copied.target_asset_id IS NOT NULL THEN 'copy'
       END AS for_good,
       -- Nobody but Immich moves an upload: where it lies out of the media root, that root is another one by now.
       CASE WHEN source."originalPath" <> made.source_path AND (source."isExternal" OR source."libraryId" IS NOT NULL)
            THEN 'moved' END AS moved,
       -- Its path is the one that it had when it was copied: not its user took it out, the settings did.
       CASE WHEN made.source_path IS NULL THEN 'elsewhere' ELSE 'settings' END AS elsewhere,
       CASE
           WHEN owner."deletedAt" IS NOT NULL OR library."deletedAt" IS NOT NULL THEN 'owner'
           WHEN source.status <> 'active' OR source."deletedAt" IS NOT NULL AND NOT source."isOffline" THEN 'trashed'
       END AS by_user,
       CASE WHEN source."isOffline" THEN 'offline' END AS offline

-- name: embedded
-- A motion part that Immich has taken out of its still (Android): it lies there for ever, whatever the storage template.
(NOT source."isExternal" AND source."originalPath" ~ '/encoded-video/.+-MP[.]mp4$')

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

-- name: own_edits
-- The edits of the copy are not those we wrote (Immich 2.5+): its user has edited it, the picture is theirs.
base.target_asset_id IS NOT NULL AND base.edits IS DISTINCT FROM coalesce((
    SELECT jsonb_agg(jsonb_build_object('action', edit.action, 'parameters', edit.parameters) ORDER BY edit.sequence)
    FROM asset_edit AS edit WHERE edit."assetId" = copy.id), '[]')
