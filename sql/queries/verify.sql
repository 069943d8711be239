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
-- Every asset of the source user, with the first reason why this job may not share it (NULL: it may) and
-- whether Immich has finished with it. Machine learning that is off or never comes is waited for no longer
-- than the limit. The motion part of a live photo gets metadata only.
SELECT
    asset.id,
    asset."originalPath",
    asset."livePhotoVideoId",
    asset.visibility = 'hidden',
    CASE
        WHEN EXISTS (SELECT FROM _face_sync_asset_map AS map WHERE map.target_asset_id = asset.id)
            THEN 'source.copy'
        WHEN NOT starts_with(asset."originalPath", %(prefix)s::text || '/')
            OR CASE %(kind)s::text
                WHEN 'external' THEN NOT asset."isExternal"
                ELSE asset."isExternal" OR asset."libraryId" IS NOT NULL
            END
            THEN 'source.prefix'
        WHEN asset."isOffline" THEN 'source.offline'
        WHEN asset."deletedAt" IS NOT NULL OR asset.status <> 'active' THEN 'source.trashed'
        WHEN asset.visibility = 'locked' THEN 'source.locked'
        WHEN EXISTS (
            SELECT FROM library WHERE library.id = asset."libraryId" AND library."deletedAt" IS NOT NULL
        ) THEN 'source.library'
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
LEFT JOIN asset_job_status AS job ON job."assetId" = asset.id
WHERE asset."ownerId" = %(source_user)s

-- name: map_rows
-- Every copy that the jobs' users have on record, with or without its row and its source's row.
SELECT
    map.source_asset_id,
    map.target_asset_id,
    map.source_user_id,
    map.target_user_id,
    source.id IS NOT NULL,
    copy."originalPath"
FROM _face_sync_asset_map AS map
LEFT JOIN asset AS source ON source.id = map.source_asset_id
LEFT JOIN asset AS copy ON copy.id = map.target_asset_id
WHERE (map.source_user_id, map.target_user_id) IN (
    SELECT source_user, target_user
    FROM unnest(%(source_users)s::uuid[], %(target_users)s::uuid[]) AS users (source_user, target_user)
)

-- name: skipped
SELECT source_asset_id, target_user_id FROM _face_sync_skipped WHERE target_user_id = ANY(%(target_users)s)

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
        ('asset.visibility', (copy.visibility = 'hidden') <> pair.motion, copy.visibility::text)
) AS rule (name, broken, detail)
WHERE rule.broken

-- name: rule_checksum_algorithm
-- Immich 2.7+.
SELECT pair.source, pair.target, 'asset.checksumAlgorithm', copy."checksumAlgorithm"::text
FROM unnest(%(sources)s::uuid[], %(targets)s::uuid[]) AS pair (source, target)
JOIN asset AS copy ON copy.id = pair.target
WHERE copy."checksumAlgorithm"::text <> 'sha1-path'

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
SELECT pair.source, pair.target, 'asset.sidecarPath', copy."sidecarPath"
FROM unnest(%(sources)s::uuid[], %(targets)s::uuid[]) AS pair (source, target)
JOIN asset AS copy ON copy.id = pair.target
WHERE copy."sidecarPath" <> copy."originalPath" || '.xmp'

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

-- name: rule_locked_properties
-- Immich 2.4+. Where the source's values come from an XMP, which the copy does not have, reading the
-- copy's metadata again would lose them unless they are locked.
SELECT pair.source, pair.target, 'asset_exif.lockedProperties', copy."lockedProperties"::text
FROM unnest(%(sources)s::uuid[], %(targets)s::uuid[]) AS pair (source, target)
JOIN asset_exif AS source ON source."assetId" = pair.source
JOIN asset_exif AS copy ON copy."assetId" = pair.target
CROSS JOIN LATERAL (
    SELECT EXISTS (
        SELECT FROM asset_file AS file WHERE file."assetId" = pair.source AND file.type = 'sidecar'
    ) AS there
) AS sidecar
WHERE CASE
    WHEN sidecar.there THEN
        ARRAY(SELECT DISTINCT unnest(copy."lockedProperties")::text ORDER BY 1)
        <> ARRAY(
            SELECT unnest(source."lockedProperties")::text
            UNION
            SELECT unnest(
                '{{description,dateTimeOriginal,latitude,longitude,rating,timeZone,tags}}'::text[]
            )
            ORDER BY 1
        )
    ELSE copy."lockedProperties" IS DISTINCT FROM source."lockedProperties"
END

-- name: rule_sidecar_file
-- See rule_sidecar_path; Immich 2.4+ keeps the XMP here.
SELECT pair.source, pair.target, 'asset_file.sidecar', file.path
FROM unnest(%(sources)s::uuid[], %(targets)s::uuid[]) AS pair (source, target)
JOIN asset AS copy ON copy.id = pair.target
JOIN asset_file AS file ON file."assetId" = pair.target AND file.type = 'sidecar'
WHERE file.path <> copy."originalPath" || '.xmp'

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

-- name: named_encoded_videos
-- Up to Immich 2.5.
SELECT asset."encodedVideoPath"
FROM asset
WHERE asset."ownerId" = ANY(%(target_users)s) AND asset."encodedVideoPath" <> ''

-- name: faces
-- Faces that belong on the copy. Immich would cluster an unassigned machine-learning face of a copy into a
-- new person, so those are held back until the source assigns them.
WITH pair AS (
    SELECT *
    FROM unnest(%(sources)s::uuid[], %(targets)s::uuid[], %(target_users)s::uuid[])
        AS pair (source, target, target_user)
),
compared AS (
    SELECT
        pair.source,
        pair.target,
        want.id AS face,
        CASE
            WHEN have.id IS NULL THEN 'missing'
            WHEN have."assetId" <> pair.target OR map.target_asset_id <> pair.target THEN 'asset'
            ELSE 'column'
        END AS kind,
        {differing} AS differing
    FROM pair
    JOIN asset_face AS want
        ON want."assetId" = pair.source
        AND want."deletedAt" IS NULL
        AND NOT (want."sourceType" = 'machine-learning' AND want.{person} IS NULL)
    LEFT JOIN _face_sync_face_map AS map
        ON map.source_face_id = want.id AND map.target_user_id = pair.target_user
    LEFT JOIN asset_face AS have ON have.id = map.target_face_id
)
SELECT source, target, face, kind, differing
FROM compared
WHERE kind <> 'column' OR differing <> '{{}}'

-- name: faces_extra
-- Copied faces whose source face is gone, deleted or unassigned. Faces outside the map are the target's own.
SELECT
    map.target_user_id,
    pair.source,
    pair.target,
    CASE WHEN have.id IS NULL THEN 'face_map.orphan' ELSE 'asset_face.extra' END,
    map.target_face_id
FROM unnest(%(sources)s::uuid[], %(targets)s::uuid[]) AS pair (source, target)
JOIN _face_sync_face_map AS map ON map.target_asset_id = pair.target
LEFT JOIN asset_face AS want
    ON want.id = map.source_face_id
    AND want."assetId" = pair.source
    AND want."deletedAt" IS NULL
    AND NOT (want."sourceType" = 'machine-learning' AND want.{person} IS NULL)
LEFT JOIN asset_face AS have ON have.id = map.target_face_id
WHERE want.id IS NULL
UNION ALL
SELECT map.target_user_id, NULL, map.target_asset_id, 'face_map.orphan', map.target_face_id
FROM _face_sync_face_map AS map
WHERE map.target_user_id = ANY(%(job_target_users)s)
  AND NOT EXISTS (SELECT FROM asset WHERE asset.id = map.target_asset_id)

-- name: embeddings
-- Up to Immich 3.1 a copied face has its source's embedding, or none as its source.
SELECT
    pair.source,
    pair.target,
    CASE
        WHEN copy."faceId" IS NULL THEN 'face_search.missing'
        WHEN source."faceId" IS NULL THEN 'face_search.extra'
        ELSE 'face_search.column'
    END,
    map.target_face_id
FROM unnest(%(sources)s::uuid[], %(targets)s::uuid[]) AS pair (source, target)
JOIN _face_sync_face_map AS map ON map.target_asset_id = pair.target
JOIN asset_face AS want ON want.id = map.source_face_id
JOIN asset_face AS have ON have.id = map.target_face_id
LEFT JOIN face_search AS source ON source."faceId" = want.id
LEFT JOIN face_search AS copy ON copy."faceId" = have.id
WHERE source.embedding IS DISTINCT FROM copy.embedding

-- name: face_people
-- Up to Immich 3.1: a copied face belongs to the mirror of its source's person. Where the mirror is missing
-- that is told once, for the person.
SELECT pair.source, pair.target, map.target_face_id, have."personId", mirror.target_person_id
FROM unnest(%(sources)s::uuid[], %(targets)s::uuid[]) AS pair (source, target)
JOIN _face_sync_face_map AS map ON map.target_asset_id = pair.target
JOIN asset_face AS want ON want.id = map.source_face_id AND want."deletedAt" IS NULL
JOIN asset_face AS have ON have.id = map.target_face_id
LEFT JOIN _face_sync_person_map AS mirror
    ON mirror.source_person_id = want."personId" AND mirror.target_user_id = map.target_user_id
LEFT JOIN person ON person.id = mirror.target_person_id
WHERE have."personId" IS DISTINCT FROM mirror.target_person_id
  AND (want."personId" IS NULL OR person.id IS NOT NULL)

-- name: people
-- Up to Immich 3.1: every person that a copied face needs, with its mirror. The feature face must be on an
-- asset of the person's own owner. Returns one row for each broken rule, and one without rule for each
-- mirror that is there, for its thumbnail.
WITH needed AS (
    SELECT DISTINCT face."personId" AS source_person, pair.target_user
    FROM unnest(%(sources)s::uuid[], %(target_users)s::uuid[]) AS pair (source, target_user)
    JOIN asset_face AS face ON face."assetId" = pair.source AND face."deletedAt" IS NULL
    WHERE face."personId" IS NOT NULL
)
SELECT
    needed.source_person, needed.target_user, copy.id, source."thumbnailPath", copy."thumbnailPath",
    rule.name, rule.detail
FROM needed
JOIN person AS source ON source.id = needed.source_person
LEFT JOIN _face_sync_person_map AS map
    ON map.source_person_id = needed.source_person AND map.target_user_id = needed.target_user
LEFT JOIN person AS copy ON copy.id = map.target_person_id
LEFT JOIN asset_face AS feature ON feature.id = copy."faceAssetId"
LEFT JOIN asset AS feature_asset ON feature_asset.id = feature."assetId"
LEFT JOIN LATERAL (
    SELECT face.id
    FROM _face_sync_face_map AS face_map
    JOIN asset_face AS face ON face.id = face_map.target_face_id
    WHERE face_map.source_face_id = source."faceAssetId" AND face_map.target_user_id = needed.target_user
) AS wanted ON true
CROSS JOIN LATERAL (
    VALUES
        (NULL, copy.id IS NOT NULL, NULL),
        ('person.missing', copy.id IS NULL, 'there is no mirror'),
        (
            'person.id',
            NOT (substr(copy.id::text, 15, 1) = '4' AND substr(copy.id::text, 20, 1) IN ('8', '9', 'a', 'b')),
            'is not shaped as UUID version 4'
        ),
        ('person.ownerId', copy."ownerId" <> needed.target_user, copy."ownerId"::text),
        (
            'person.column',
            copy.id IS NOT NULL
            AND (copy.name, copy."birthDate", copy."isHidden", copy.color)
            IS DISTINCT FROM (source.name, source."birthDate", source."isHidden", source.color),
            concat_ws(
                ', ',
                CASE WHEN copy.name IS DISTINCT FROM source.name THEN 'name' END,
                CASE WHEN copy."birthDate" IS DISTINCT FROM source."birthDate" THEN 'birthDate' END,
                CASE WHEN copy."isHidden" IS DISTINCT FROM source."isHidden" THEN 'isHidden' END,
                CASE WHEN copy.color IS DISTINCT FROM source.color THEN 'color' END
            )
        ),
        (
            'person.faceAssetId',
            copy.id IS NOT NULL
            AND CASE
                WHEN wanted.id IS NOT NULL THEN copy."faceAssetId" IS DISTINCT FROM wanted.id
                WHEN copy."faceAssetId" IS NULL THEN source."faceAssetId" IS NOT NULL
                ELSE feature_asset."ownerId" <> needed.target_user
            END,
            concat('the feature face is ', copy."faceAssetId")
        )
) AS rule (name, broken, detail)
WHERE rule.broken

-- name: people_unneeded
-- Up to Immich 3.1: mirrors that no copied face needs may stay only while they hold faces of the target's own.
WITH needed AS (
    SELECT DISTINCT face."personId" AS source_person, pair.target_user
    FROM unnest(%(sources)s::uuid[], %(target_users)s::uuid[]) AS pair (source, target_user)
    JOIN asset_face AS face ON face."assetId" = pair.source AND face."deletedAt" IS NULL
    WHERE face."personId" IS NOT NULL
)
SELECT
    map.target_user_id,
    map.target_person_id,
    CASE WHEN person.id IS NULL THEN 'person_map.orphan' ELSE 'person.empty' END,
    CASE WHEN person.id IS NULL THEN 'is gone, its map row is not' ELSE 'has no faces' END
FROM _face_sync_person_map AS map
LEFT JOIN person ON person.id = map.target_person_id
WHERE (map.source_user_id, map.target_user_id) IN (
        SELECT source_user, target_user
        FROM unnest(%(job_source_users)s::uuid[], %(job_target_users)s::uuid[])
            AS users (source_user, target_user)
    )
  AND NOT EXISTS (
        SELECT FROM needed
        WHERE needed.source_person = map.source_person_id AND needed.target_user = map.target_user_id
    )
  AND NOT EXISTS (
        SELECT FROM asset_face AS face
        WHERE face."personId" = map.target_person_id AND face."deletedAt" IS NULL
    )

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

-- name: missing_person_thumbnails
-- Up to Immich 3.1: mirrors only, whose source has a thumbnail.
SELECT map.target_user_id, copy.id, 'ml.person_thumbnails', 'would get a thumbnail from Immich'
FROM _face_sync_person_map AS map
JOIN person AS source ON source.id = map.source_person_id
JOIN person AS copy ON copy.id = map.target_person_id
WHERE map.target_user_id = ANY(%(job_target_users)s)
  AND copy."thumbnailPath" = ''
  AND source."thumbnailPath" <> ''
