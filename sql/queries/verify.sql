-- What `listener verify` asks. Nothing here writes. Rules are written out again from the facts about Immich,
-- on purpose not shared with the part that makes the copies: a judge must not repeat the accused.
-- Copies come as two (or more) arrays of equal length, so no statement needs a temporary table.

-- name: snapshot
-- One picture of the database for all questions, and the promise to leave it alone.
SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY

-- name: catalog
-- What an Immich release does not have is not judged, so the same rules serve all releases.
SELECT class.relname::text, array_agg(attribute.attname::text ORDER BY attribute.attnum)
FROM pg_catalog.pg_attribute AS attribute
JOIN pg_catalog.pg_class AS class ON class.oid = attribute.attrelid
WHERE class.oid IN (SELECT to_regclass(quote_ident(name)) FROM unnest(%(tables)s::text[]) AS name)
  AND attribute.attnum > 0
  AND NOT attribute.attisdropped
GROUP BY class.relname

-- name: sources
-- Every asset of the source user: whether it lies in this job's place, whether it is a video that Immich has taken out
-- of a photo (Android), the first other reason why this job may not share it (NULL: it may), and whether Immich has
-- finished with it. Machine learning that is off or never comes is waited for no longer
-- than the limit. The motion part of a live photo gets metadata only.
SELECT
    asset.id,
    asset."originalPath",
    asset."livePhotoVideoId",
    asset.visibility = 'hidden',
    CASE %(kind)s::text
        WHEN 'external' THEN asset."isExternal" AND place.below
        ELSE NOT asset."isExternal" AND asset."libraryId" IS NULL
    END,
    NOT asset."isExternal" AND strpos(asset."originalPath", '/encoded-video/') > 0
    AND right(asset."originalPath", 7) = '-MP.mp4',
    CASE
        WHEN asset.visibility = 'locked' THEN 'source.locked'
        WHEN asset.status = 'deleted' THEN 'source.deleted'
        WHEN EXISTS (SELECT FROM _face_sync_asset_map AS map WHERE map.target_asset_id = asset.id)
            THEN 'source.copy'
        WHEN (SELECT owner."deletedAt" FROM "user" AS owner WHERE owner.id = asset."ownerId") IS NOT NULL
            THEN 'source.user'
        WHEN EXISTS (
            SELECT FROM library WHERE library.id = asset."libraryId" AND library."deletedAt" IS NOT NULL
        ) THEN 'source.library'
        WHEN asset."isOffline" THEN 'source.offline'
        WHEN asset."deletedAt" IS NOT NULL OR asset.status <> 'active' THEN 'source.trashed'
        WHEN %(kind)s::text = 'uploads' AND NOT asset."isExternal" AND asset."libraryId" IS NULL
            AND NOT place.below THEN 'source.outside'
    END,
    job."metadataExtractedAt" IS NOT NULL
    AND (
        asset.visibility = 'hidden'
        OR (
            asset.thumbhash IS NOT NULL
            AND EXISTS (
                SELECT FROM asset_file AS file
                WHERE file."assetId" = asset.id AND file.type = 'preview' AND {unedited}
            )
            AND EXISTS (
                SELECT FROM asset_file AS file
                WHERE file."assetId" = asset.id AND file.type = 'thumbnail' AND {unedited}
            )
            AND (
                asset."createdAt" < now() - make_interval(secs => %(ml_wait)s::float8)
                OR (
                    (
                        NOT %(smart_search)s::boolean
                        OR EXISTS (SELECT FROM smart_search WHERE smart_search."assetId" = asset.id)
                    )
                    AND (NOT %(facial_recognition)s::boolean OR job."facesRecognizedAt" IS NOT NULL)
                    AND (NOT %(ocr)s::boolean OR {ocr_mark} IS NOT NULL)
                )
            )
        )
    )
FROM asset
CROSS JOIN LATERAL (
    -- Slashes and single dots mean nothing in a path; one with two dots lies nowhere for sure.
    SELECT starts_with(regexp_replace(asset."originalPath", '/([.]?/)+', '/', 'g'), %(prefix)s::text || '/')
           AND asset."originalPath" !~ '(^|/)[.][.](/|$)' AS below
) AS place
LEFT JOIN asset_job_status AS job ON job."assetId" = asset.id
WHERE asset."ownerId" = %(source_user)s

-- name: map_rows
-- Every copy that the jobs' users have on record, with or without its row and its source's row. Whether it is in no view
-- of Immich's, and whether that is noted; whether its source is where it was when it was copied.
SELECT
    map.source_asset_id,
    map.target_asset_id,
    map.source_user_id,
    map.target_user_id,
    source.id IS NOT NULL,
    copy."originalPath",
    map.parked IS NOT NULL,
    copy."isOffline" AND copy."deletedAt" IS NOT NULL AND copy.visibility = 'hidden' AND copy.status = 'active',
    source."originalPath" = map.source_path
FROM _face_sync_asset_map AS map
LEFT JOIN asset AS source ON source.id = map.source_asset_id
LEFT JOIN asset AS copy ON copy.id = map.target_asset_id
WHERE (map.source_user_id, map.target_user_id) IN (
    SELECT source_user, target_user
    FROM unnest(%(source_users)s::uuid[], %(target_users)s::uuid[]) AS users (source_user, target_user)
)

-- name: skipped
SELECT source_asset_id, target_user_id, coalesce(reason, '')
FROM _face_sync_skipped
WHERE target_user_id = ANY(%(target_users)s)

-- name: doubles
-- Those of these sources that the target user has as an upload of their own: the same content, or the same
-- name, but for its ending, taken at the same time. Two joins, since one with OR could not be hashed.
WITH asked AS (
    SELECT asset.id, asset.checksum, asset."fileCreatedAt", asset."originalFileName" AS name
    FROM asset
    WHERE asset.id = ANY(%(sources)s) AND asset.visibility <> 'hidden'
),
own AS MATERIALIZED (
    SELECT asset.checksum, asset."fileCreatedAt", asset."originalFileName" AS name
    FROM asset
    WHERE asset."ownerId" = %(target_user)s
      AND asset."libraryId" IS NULL
      AND asset."deletedAt" IS NULL
      AND asset.visibility <> 'hidden'
)
SELECT asked.id FROM asked JOIN own ON own.checksum = asked.checksum
UNION
-- Or of which another one is the same file: the source user's libraries overlap.
SELECT asset.id
FROM asset
JOIN asset AS twin
    ON twin."originalPath" = asset."originalPath" AND twin."ownerId" = asset."ownerId" AND twin.id <> asset.id
WHERE asset.id = ANY(%(sources)s)
  AND twin."deletedAt" IS NULL AND twin.status = 'active' AND NOT twin."isOffline" AND twin.visibility <> 'locked'
UNION
SELECT asked.id
FROM asked
JOIN own
    ON own."fileCreatedAt" = asked."fileCreatedAt"
    AND lower(regexp_replace(own.name, '\.[^.]*$', '')) = lower(regexp_replace(asked.name, '\.[^.]*$', ''))

-- name: failures
SELECT job, source_asset_id, reason FROM _face_sync_failure WHERE job = ANY(%(jobs)s)

-- name: paths_of_source
-- What must be on disk before a copy can be made.
SELECT asset.id, asset."originalPath" FROM asset WHERE asset.id = ANY(%(sources)s)
UNION ALL
SELECT file."assetId", file.path
FROM asset_file AS file
WHERE file."assetId" = ANY(%(sources)s) AND file.type <> 'sidecar'

-- name: orphan_assets
-- Rows in a job's place that no source stands for. The third column tells a second copy of one photo from
-- a row whose map row is lost.
SELECT
    asset.id,
    asset."originalPath",
    EXISTS (
        SELECT
        FROM asset AS mapped
        JOIN _face_sync_asset_map AS map ON map.target_asset_id = mapped.id
        WHERE mapped."ownerId" = asset."ownerId" AND mapped."originalPath" = asset."originalPath"
    )
FROM asset
WHERE asset."ownerId" = %(target_user)s
  AND asset."libraryId" = %(target_library)s
  AND starts_with(asset."originalPath", %(prefix)s::text || '/')
  AND NOT EXISTS (SELECT FROM _face_sync_asset_map AS map WHERE map.target_asset_id = asset.id)

-- name: children
-- Side by side: the rows of one table of source and copy, matched by the key within the asset.
WITH pair AS (
    SELECT * FROM unnest(%(sources)s::uuid[], %(targets)s::uuid[]) AS pair (pair_source, pair_target)
),
want AS (
    SELECT pair.*, child.* FROM pair JOIN {table} AS child ON child.{link} = pair.pair_source WHERE {scope}
),
have AS (
    SELECT pair.*, child.* FROM pair JOIN {table} AS child ON child.{link} = pair.pair_target WHERE {scope}
),
compared AS (
    SELECT
        coalesce(want.pair_source, have.pair_source) AS source,
        coalesce(want.pair_target, have.pair_target) AS target,
        CASE
            WHEN have.pair_target IS NULL THEN 'missing'
            WHEN want.pair_target IS NULL THEN 'extra'
            ELSE 'column'
        END AS kind,
        {label} AS label,
        {differing} AS differing
    FROM want
    FULL JOIN have ON {matched}
)
SELECT source, target, kind, label, differing
FROM compared
WHERE kind <> 'column' OR differing <> '{{}}'

-- name: bag
-- Rows without a key of their own within the asset (lines of text that were recognised): same rows, same
-- number of times.
WITH pair AS (
    SELECT * FROM unnest(%(sources)s::uuid[], %(targets)s::uuid[]) AS pair (pair_source, pair_target)
),
want AS (
    SELECT pair.pair_target, {columns} FROM pair JOIN {table} AS child ON child."assetId" = pair.pair_source
),
have AS (
    SELECT pair.pair_target, {columns} FROM pair JOIN {table} AS child ON child."assetId" = pair.pair_target
),
missing AS (
    SELECT pair_target, count(*) AS amount FROM (TABLE want EXCEPT ALL TABLE have) AS rest GROUP BY pair_target
),
extra AS (
    SELECT pair_target, count(*) AS amount FROM (TABLE have EXCEPT ALL TABLE want) AS rest GROUP BY pair_target
)
SELECT pair.pair_source, pair.pair_target, coalesce(missing.amount, 0), coalesce(extra.amount, 0)
FROM pair
LEFT JOIN missing USING (pair_target)
LEFT JOIN extra USING (pair_target)
WHERE missing.amount > 0 OR extra.amount > 0

-- name: asset_rules
-- Columns of every release that a copy does not take from its source. Stack, duplicate group, favourite,
-- archive and trash belong to the target user: only the source's own groups may not be there. A library
-- scan that takes a copy offline leaves it 'active'; the user's own trash does not.
WITH pair AS (
    SELECT *
    FROM unnest(
        %(sources)s::uuid[], %(targets)s::uuid[], %(target_users)s::uuid[], %(libraries)s::uuid[],
        %(paths)s::text[], %(motion)s::boolean[], %(live)s::uuid[]
    ) AS pair (source, target, target_user, library, path, motion, live)
)
SELECT pair.source, pair.target, rule.name, rule.detail
FROM pair
JOIN asset AS source ON source.id = pair.source
JOIN asset AS copy ON copy.id = pair.target
LEFT JOIN _face_sync_base AS base ON base.target_asset_id = copy.id
CROSS JOIN LATERAL (
    VALUES
        ('asset.ownerId', copy."ownerId" <> pair.target_user, copy."ownerId"::text),
        ('asset.libraryId', copy."libraryId" IS DISTINCT FROM pair.library, copy."libraryId"::text),
        ('asset.originalPath', copy."originalPath" <> pair.path, copy."originalPath" || ' is not ' || pair.path),
        ('asset.isExternal', NOT copy."isExternal", 'false'),
        ('asset.isOffline', copy."isOffline" AND copy.status = 'active', 'true'),
        (
            'asset.livePhotoVideoId',
            copy."livePhotoVideoId" IS DISTINCT FROM pair.live,
            concat(copy."livePhotoVideoId", ' is not ', pair.live)
        ),
        ('asset.stackId', copy."stackId" = source."stackId", 'it is in the source''s stack'),
        ('asset.duplicateId', copy."duplicateId" = source."duplicateId", 'it is in the source''s group'),
        ('asset.visibility', (copy.visibility = 'hidden') <> pair.motion, copy.visibility::text),
        -- What was written there last and is still there was not chosen by the copy's user.
        (
            'asset.visibility',
            NOT pair.motion AND copy.visibility <> source.visibility
                AND copy.visibility::text = coalesce(base.visibility, 'timeline'),
            concat(copy.visibility, ' is not ', source.visibility)
        )
) AS rule (name, broken, detail)
WHERE rule.broken

-- name: rule_checksum_algorithm
-- Immich 2.7+. What the checksum itself must be is judged beside it.
SELECT pair.source, pair.target, 'asset.checksumAlgorithm', copy."checksumAlgorithm"::text
FROM unnest(%(sources)s::uuid[], %(targets)s::uuid[]) AS pair (source, target)
JOIN asset AS copy ON copy.id = pair.target
JOIN asset AS source ON source.id = pair.source
WHERE copy."checksumAlgorithm"::text
    <> CASE WHEN copy.checksum = source.checksum THEN source."checksumAlgorithm"::text ELSE 'sha1-path' END

-- name: contents
-- The checksum of the content of each of these sources, and whether another asset of the target has it in the library
-- of the copies: Immich allows one.
SELECT pair.target, source.checksum, EXISTS (
    SELECT
    FROM asset AS other
    JOIN asset AS copy ON copy.id = pair.target
    WHERE other.checksum = source.checksum
      AND other."ownerId" = copy."ownerId"
      AND other."libraryId" = copy."libraryId"
      AND other.id <> copy.id
)
FROM unnest(%(sources)s::uuid[], %(targets)s::uuid[]) AS pair (source, target)
JOIN asset AS source ON source.id = pair.source

-- name: same_content
-- For these copies of stills: the hidden asset beside them that has the content of their source's motion part, if they
-- name it. As good as a copy of that part: Immich takes it out of the photo by itself.
SELECT copy.id, copy."livePhotoVideoId"
FROM unnest(%(targets)s::uuid[], %(parts)s::uuid[]) AS pair (target, part)
JOIN asset AS copy ON copy.id = pair.target
JOIN asset AS part ON part.id = pair.part
JOIN asset AS same
    ON same.id = copy."livePhotoVideoId"
    AND same.checksum = part.checksum
    AND same."ownerId" = copy."ownerId"
    AND same."libraryId" = copy."libraryId"
    AND same.visibility = 'hidden'

-- name: rule_device
-- Up to Immich 2.7: what a library scan itself would write there.
SELECT pair.source, pair.target, rule.name, rule.detail
FROM unnest(%(sources)s::uuid[], %(targets)s::uuid[]) AS pair (source, target)
JOIN asset AS copy ON copy.id = pair.target
CROSS JOIN LATERAL (
    VALUES
        ('asset.deviceId', copy."deviceId" <> 'Library Import', copy."deviceId"),
        ('asset.deviceAssetId', copy."deviceAssetId" <> copy."originalFileName", copy."deviceAssetId")
) AS rule (name, broken, detail)
WHERE rule.broken

-- name: rule_sidecar_path
-- Up to Immich 2.3. A copy with the source's XMP would write to it and delete it; the XMP that Immich
-- writes beside the copy's own path when the target user edits it is the target's own.
-- Where the copy's path is the source's own file, that XMP is the source's too.
SELECT pair.source, pair.target, 'asset.sidecarPath', copy."sidecarPath"
FROM unnest(%(sources)s::uuid[], %(targets)s::uuid[], %(directory)s::boolean[])
    AS pair (source, target, directory)
JOIN asset AS copy ON copy.id = pair.target
WHERE copy."sidecarPath" <> '' AND (pair.directory OR copy."sidecarPath" <> copy."originalPath" || '.xmp')

-- name: rule_is_edited
-- Immich 2.5+ keeps the flag by triggers on asset_edit: a flag without edits was written by hand.
SELECT pair.source, pair.target, 'asset.isEdited', copy."isEdited"::text
FROM unnest(%(sources)s::uuid[], %(targets)s::uuid[]) AS pair (source, target)
JOIN asset AS copy ON copy.id = pair.target
WHERE copy."isEdited" <> EXISTS (SELECT FROM asset_edit WHERE asset_edit."assetId" = copy.id)

-- name: rule_live_photo_cid
-- Immich pairs live photos by this id within one owner: a copy that carries it could be paired anew.
SELECT pair.source, pair.target, 'asset_exif.livePhotoCID', copy."livePhotoCID"
FROM unnest(%(sources)s::uuid[], %(targets)s::uuid[]) AS pair (source, target)
JOIN asset_exif AS copy ON copy."assetId" = pair.target
WHERE copy."livePhotoCID" IS NOT NULL

-- name: locks
-- Immich 2.4+. Where the source's values come from an XMP, which the copy does not have, reading the
-- copy's metadata again would lose them unless they are locked. Returns what is locked and what must be.
WITH compared AS (
    SELECT
        pair.target,
        coalesce(copy."lockedProperties"::text[], '{{}}') AS have,
        coalesce(source."lockedProperties"::text[], '{{}}') || CASE
            WHEN EXISTS (SELECT FROM asset_file AS file WHERE file."assetId" = pair.source AND file.type = 'sidecar')
                THEN '{{description,dateTimeOriginal,latitude,longitude,rating,timeZone,tags}}'::text[]
            ELSE '{{}}'
        END AS want
    FROM unnest(%(sources)s::uuid[], %(targets)s::uuid[]) AS pair (source, target)
    JOIN asset_exif AS source ON source."assetId" = pair.source
    JOIN asset_exif AS copy ON copy."assetId" = pair.target
)
SELECT target, have, want FROM compared WHERE NOT (have @> want AND want @> have)

-- name: own_exif
-- Immich 2.4+: columns of copies that are the target user's own. The noted values are read back as what they
-- were, so that no way of writing a time as text matters.
SELECT pair.target, array_remove(ARRAY[{names}]::text[], NULL)
FROM unnest(%(targets)s::uuid[]) AS pair (target)
JOIN _face_sync_base AS base ON base.target_asset_id = pair.target
JOIN asset_exif AS have ON have."assetId" = pair.target
CROSS JOIN LATERAL (
    SELECT EXISTS (
        SELECT FROM asset_file AS file WHERE file."assetId" = pair.target AND file.type = 'sidecar'
    ) AS there
) AS xmp
CROSS JOIN LATERAL jsonb_populate_record(NULL::asset_exif, base.exif) AS noted
WHERE xmp.there OR cardinality(have."lockedProperties") > 0

-- name: own_column
CASE
    WHEN base.exif ? {name}
        AND have.{column} IS DISTINCT FROM noted.{column}
        AND (xmp.there OR {name} = ANY(have."lockedProperties"))
        THEN {name}
END

-- name: own_edits
-- Immich 2.5+: copies whose picture the target user has edited: the edits are not those that were copied.
SELECT pair.target
FROM unnest(%(targets)s::uuid[]) AS pair (target)
JOIN _face_sync_base AS base ON base.target_asset_id = pair.target
LEFT JOIN LATERAL (
    SELECT
        jsonb_agg(
            jsonb_build_object('action', edit.action, 'parameters', edit.parameters) ORDER BY edit.sequence
        ) AS edits
    FROM asset_edit AS edit
    WHERE edit."assetId" = pair.target
) AS made ON true
WHERE base.edits <> coalesce(made.edits, '[]')

-- name: rule_sidecar_file
-- See rule_sidecar_path; Immich 2.4+ keeps the XMP here.
SELECT pair.source, pair.target, 'asset_file.sidecar', file.path
FROM unnest(%(sources)s::uuid[], %(targets)s::uuid[], %(directory)s::boolean[])
    AS pair (source, target, directory)
JOIN asset AS copy ON copy.id = pair.target
JOIN asset_file AS file ON file."assetId" = pair.target AND file.type = 'sidecar'
WHERE pair.directory OR file.path <> copy."originalPath" || '.xmp'

-- name: odd_ids
-- Immich's API and its mobile app accept only ids shaped as UUID version 4.
SELECT item.id, item.{link}
FROM {table} AS item
WHERE item.{link} = ANY(%(ids)s)
  AND NOT (substr(item.id::text, 15, 1) = '4' AND substr(item.id::text, 20, 1) IN ('8', '9', 'a', 'b'))

-- name: count_rows
SELECT count(*) FROM {table} AS item WHERE item.{link} = ANY(%(ids)s)

-- name: count_embeddings
SELECT count(*)
FROM face_search
JOIN asset_face AS face ON face.id = face_search."faceId"
WHERE face."assetId" = ANY(%(ids)s)

-- name: count_people
-- In both models: people of the copies' owners that a face of a copy belongs to.
SELECT count(DISTINCT face.{person}) FROM asset_face AS face WHERE face."assetId" = ANY(%(ids)s)

-- name: copies
-- What only the file system and a hash can judge. Times in microseconds: exact, and any date fits.
SELECT
    copy.id,
    copy."originalPath",
    copy.checksum,
    (extract(epoch FROM copy."fileModifiedAt") * 1000000)::bigint
FROM asset AS copy
WHERE copy.id = ANY(%(targets)s)

-- name: files
-- The files of source and copy by kind; whether a kind is missing is told by the comparison of the rows.
SELECT pair.source, pair.target, source.type, {edited}, source.path, copy.path
FROM unnest(%(sources)s::uuid[], %(targets)s::uuid[]) AS pair (source, target)
JOIN asset_file AS source ON source."assetId" = pair.source AND source.type <> 'sidecar'
JOIN asset_file AS copy ON copy."assetId" = pair.target AND copy.type = source.type AND {same_edited}

-- name: encoded_videos
-- Up to Immich 2.5 the transcoded video stands in the asset's row; '' and NULL both mean none.
SELECT pair.source, pair.target, source."encodedVideoPath", copy."encodedVideoPath"
FROM unnest(%(sources)s::uuid[], %(targets)s::uuid[]) AS pair (source, target)
JOIN asset AS source ON source.id = pair.source
JOIN asset AS copy ON copy.id = pair.target
WHERE source."encodedVideoPath" <> '' OR copy."encodedVideoPath" <> ''

-- name: named_files
-- Every file that a row of these users names: what else lies in their folders is nobody's. Android's
-- motion parts are originals and lie beside the transcoded videos.
SELECT file.path
FROM asset_file AS file
JOIN asset ON asset.id = file."assetId"
WHERE asset."ownerId" = ANY(%(target_users)s)
UNION ALL
SELECT asset."originalPath" FROM asset WHERE asset."ownerId" = ANY(%(target_users)s)
UNION ALL
SELECT person."thumbnailPath" FROM person WHERE person."ownerId" = ANY(%(target_users)s)

-- name: begun
-- Copies that could not be finished, with the reason recorded: they are tried again, and cleaned up if they end.
SELECT intent.target_asset_id
FROM _face_sync_intent AS intent
WHERE intent.target_user_id = ANY(%(target_users)s)
  AND EXISTS (SELECT FROM _face_sync_failure AS failure WHERE failure.source_asset_id = intent.source_asset_id)

-- name: marks
-- What is still to be removed, though nothing says that it could not be.
SELECT mark.target_user_id, mark.source_asset_id, mark.target_asset_id
FROM _face_sync_intent AS mark
WHERE mark.target_user_id = ANY(%(target_users)s)
  AND NOT EXISTS (SELECT FROM _face_sync_failure AS failure WHERE failure.source_asset_id = mark.source_asset_id)

-- name: our_ids
-- Copies and mirrored people that are, or were, on record: by target user.
SELECT target_user_id, target_asset_id FROM _face_sync_asset_map WHERE target_user_id = ANY(%(target_users)s)
UNION
SELECT target_user_id, target_person_id FROM _face_sync_person_map WHERE target_user_id = ANY(%(target_users)s)
UNION
SELECT target_user_id, target_asset_id FROM _face_sync_intent WHERE target_user_id = ANY(%(target_users)s)
UNION
SELECT target_user_id, target_asset_id FROM _face_sync_kept WHERE target_user_id = ANY(%(target_users)s)

-- name: source_people
SELECT person."ownerId", person.{person_id} FROM person WHERE person."ownerId" = ANY(%(source_users)s)

-- name: deleted_assets
-- For as long as Immich tells phones of them.
SELECT audit."ownerId", audit."assetId" FROM asset_audit AS audit WHERE audit."ownerId" = ANY(%(source_users)s)

-- name: deleted_people
SELECT audit."ownerId", audit.{audit_person} FROM person_audit AS audit WHERE audit."ownerId" = ANY(%(source_users)s)

-- name: named_encoded_videos
-- Up to Immich 2.5.
SELECT asset."encodedVideoPath"
FROM asset
WHERE asset."ownerId" = ANY(%(target_users)s) AND asset."encodedVideoPath" <> ''

-- What follows is the work that Immich looks for, nightly or when asked. Each answers with those of the
-- given assets (or people) that Immich would find.

-- name: missing_thumbnails
SELECT asset.id
FROM asset
JOIN asset_job_status AS job ON job."assetId" = asset.id
WHERE asset.id = ANY(%(ids)s)
  AND (
    asset.thumbhash IS NULL
    OR NOT EXISTS (
        SELECT FROM asset_file AS file
        WHERE file."assetId" = asset.id AND file.type = 'preview' AND {unedited}
    )
    OR NOT EXISTS (
        SELECT FROM asset_file AS file
        WHERE file."assetId" = asset.id AND file.type = 'thumbnail' AND {unedited}
    )
  )

-- name: missing_metadata
SELECT asset.id
FROM asset
LEFT JOIN asset_job_status AS job ON job."assetId" = asset.id
WHERE asset.id = ANY(%(ids)s) AND job."metadataExtractedAt" IS NULL

-- name: missing_clip
SELECT asset.id
FROM asset
WHERE asset.id = ANY(%(ids)s)
  AND EXISTS (SELECT FROM asset_file AS file WHERE file."assetId" = asset.id AND file.type = 'preview')
  AND NOT EXISTS (SELECT FROM smart_search WHERE smart_search."assetId" = asset.id)

-- name: missing_faces
SELECT asset.id
FROM asset
LEFT JOIN asset_job_status AS job ON job."assetId" = asset.id
WHERE asset.id = ANY(%(ids)s) AND job."facesRecognizedAt" IS NULL

-- name: missing_recognition
SELECT DISTINCT face."assetId"
FROM asset_face AS face
WHERE face."assetId" = ANY(%(ids)s)
  AND face."sourceType" = 'machine-learning'
  AND face.{person} IS NULL
  AND face."deletedAt" IS NULL
  AND {visible}

-- name: missing_ocr
-- Immich 2.2+.
SELECT asset.id
FROM asset
LEFT JOIN asset_job_status AS job ON job."assetId" = asset.id
WHERE asset.id = ANY(%(ids)s) AND job."ocrAt" IS NULL

-- name: missing_duplicates
SELECT asset.id
FROM asset
LEFT JOIN asset_job_status AS job ON job."assetId" = asset.id
WHERE asset.id = ANY(%(ids)s) AND job."duplicatesDetectedAt" IS NULL
