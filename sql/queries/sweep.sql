-- How the sweep finds what may need work. Every row that the reconciler reads for an asset or a person has a
-- version: its place in the table and the transaction that wrote it, which no two versions of a row share. The sum
-- of their hashes is the state of that asset. A state that was noted once, since a reconcile had nothing to do in it
-- and nothing to wait for, needs no look while it is the same. So the sweep knows every kind of difference that the
-- reconciler knows, without a second set of rules. What is not in rows, files and links, is looked at beside it.

-- name: circumstances
-- What concerns every photo of a job and is not in rows of its own.
SELECT (SELECT "deletedAt" FROM "user" WHERE id = %(source_user)s),
       (SELECT "deletedAt" FROM "user" WHERE id = %(target_user)s),
       (SELECT string_agg(id::text, ',' ORDER BY id) FROM library WHERE "ownerId" = %(source_user)s AND "deletedAt" IS NOT NULL),
       {cluster_groups}

-- name: cluster_groups
-- Immich 3.2+: who is in one cluster group shares its people.
(SELECT string_agg("clusterGroupId"::text, ',' ORDER BY id) FROM "user" WHERE id IN (%(source_user)s, %(target_user)s))

-- name: assets
-- A page by id of all that one job may concern: photos of its source in its place, and whatever was copied or
-- begun, also where the source is gone. Each branch ends after a page by itself, or a page would cost what all do.
WITH page AS MATERIALIZED (
    SELECT id
    FROM (
        (SELECT asset.id FROM asset
         WHERE asset.id > %(after)s AND asset."ownerId" IS NOT DISTINCT FROM %(source_user)s
           AND (asset."isExternal" <> %(uploads)s AND pg_temp.below(asset."originalPath", %(source_prefix)s)
                -- Motion parts that Immich has taken out of photos of a library (Android) lie with Immich.
                OR NOT %(uploads)s AND asset.visibility = 'hidden' AND NOT asset."isExternal" AND asset."libraryId" IS NOT NULL)
         ORDER BY asset.id LIMIT %(limit)s)
        UNION
        -- Copies of another job of the same users are that one's to look at. Asked one by one, by the key; not by NOT EXISTS,
        -- since PostgreSQL 14 takes it that hardly any are left, and would sort all.
        (SELECT map.source_asset_id FROM public._face_sync_asset_map AS map
         WHERE map.source_asset_id > %(after)s AND map.source_user_id = %(source_user)s AND map.target_user_id = %(target_user)s
           AND (SELECT true FROM asset AS copy, unnest(%(other_prefixes)s::text[]) AS other(prefix)
                WHERE copy.id = map.target_asset_id AND pg_temp.below(copy."originalPath", other.prefix)
                LIMIT 1) IS NOT TRUE
         ORDER BY map.source_asset_id LIMIT %(limit)s)
        UNION
        (SELECT intent.source_asset_id FROM public._face_sync_intent AS intent
         WHERE intent.source_asset_id > %(after)s AND intent.source_user_id = %(source_user)s
           AND intent.target_user_id = %(target_user)s
         ORDER BY intent.source_asset_id LIMIT %(limit)s)
    ) AS found
    ORDER BY id
    LIMIT %(limit)s
)
SELECT page.id, NULL::uuid AS other_id, now.state, seen.state IS NOT DISTINCT FROM now.state AS known,
       -- One that is parked has no link.
       CASE WHEN map.parked IS NULL THEN copy."originalPath" END AS link, source."originalPath" AS original,
       -- Of an edited file it is only asked whether it is there: the target user may have an edit of their own.
       (SELECT array_agg(ARRAY[CASE WHEN {edited} THEN mine.path ELSE file.path END, mine.path])
        FROM asset_file AS file
        JOIN asset_file AS mine ON mine."assetId" = copy.id AND mine.type = file.type {same_edit}
        WHERE file."assetId" = page.id AND file.type <> 'sidecar') || {encoded} AS files
FROM page
LEFT JOIN asset AS source ON source.id = page.id
LEFT JOIN public._face_sync_asset_map AS map
       ON map.source_asset_id = page.id AND map.target_user_id = %(target_user)s
LEFT JOIN asset AS copy ON copy.id = map.target_asset_id
CROSS JOIN LATERAL (
    -- The photo, the other half of a live photo, and the copies of both.
    SELECT array_agg(both_sides.id) AS ids
    FROM (
        SELECT half.id FROM (
            SELECT page.id
            UNION ALL SELECT source."livePhotoVideoId"
            UNION ALL SELECT still.id FROM asset AS still WHERE still."livePhotoVideoId" = page.id
        ) AS half(id)
        UNION ALL
        SELECT copied.target_asset_id FROM public._face_sync_asset_map AS copied
        WHERE copied.target_user_id = %(target_user)s
          AND copied.source_asset_id IN (
              SELECT page.id
              UNION ALL SELECT source."livePhotoVideoId"
              UNION ALL SELECT still.id FROM asset AS still WHERE still."livePhotoVideoId" = page.id)
    ) AS both_sides(id)
) AS concerned
CROSS JOIN LATERAL (
    SELECT hashtextextended(concat_ws('/', %(circumstances)s::text, {states}), 0) AS state
) AS now
LEFT JOIN public._face_sync_seen AS seen ON seen.job = %(job)s AND seen.key = page.id
ORDER BY page.id

-- name: encoded_video
-- Up to Immich 2.5 an encoded video has no row of its own.
CASE WHEN source."encodedVideoPath" <> '' THEN ARRAY[ARRAY[source."encodedVideoPath", copy."encodedVideoPath"]] END

-- name: state_of_rows
-- The versions of the rows of one table that a reconcile of these assets reads.
(SELECT sum(hashtextextended(row_of.ctid::text || '/' || row_of.xmin::text, 0)) FROM {rows})

-- name: state_of_people
-- Whom the faces of these assets stand for at the target, and with jobs in both directions whose mirror they are. Who
-- they are is the people's own state.
(SELECT sum(hashtextextended(concat_ws('/', face.id, map.target_person_id, map.adopted), 0))
 FROM asset_face AS face JOIN public._face_sync_person_map AS map ON map.source_person_id = face.{face_person}
 WHERE face."assetId" = page.id AND map.target_user_id = %(target_user)s),
(SELECT sum(hashtextextended(concat_ws('/', face.id, map.source_person_id), 0))
 FROM asset_face AS face JOIN public._face_sync_person_map AS map ON map.target_person_id = face.{face_person}
 WHERE face."assetId" = page.id AND map.target_user_id = %(source_user)s)

-- name: people
-- A page by id of the mirrored people: who they are, what stands for them, and whether a face still needs them. One
-- whom none needs is looked at each time: who was merged a moment ago is left alone for a while (people.sql, may_go).
-- And people of the target's own whose thumbnail Immich has cropped from a copy that is parked.
WITH page AS MATERIALIZED (
    (SELECT map.target_person_id AS id, map.source_person_id AS other_id, map.ctid::text || '/' || map.xmin::text AS version,
            map.written
     FROM public._face_sync_person_map AS map
     WHERE map.target_person_id > %(after)s AND map.source_user_id = %(source_user)s AND map.target_user_id = %(target_user)s
     ORDER BY map.target_person_id LIMIT %(limit)s)
    UNION ALL
    (SELECT DISTINCT mine.{person_id}, NULL::uuid, NULL, NULL::jsonb
     FROM public._face_sync_asset_map AS made
     JOIN asset_face AS face ON face."assetId" = made.target_asset_id
     JOIN person AS mine ON mine."faceAssetId" = face.id AND mine."ownerId" = made.target_user_id
     WHERE made.parked IS NOT NULL AND made.source_user_id = %(source_user)s AND made.target_user_id = %(target_user)s
       AND mine.{person_id} > %(after)s AND mine."thumbnailPath" <> ''
       AND NOT EXISTS (SELECT FROM public._face_sync_person_map AS map
                       WHERE map.target_person_id = mine.{person_id} AND map.source_user_id = %(source_user)s
                         AND map.target_user_id = %(target_user)s)
     ORDER BY 1 LIMIT %(limit)s)
    ORDER BY id
    LIMIT %(limit)s
)
SELECT page.id, page.other_id, now.state,
       face.there AND source.ctid IS NOT NULL AND seen.state IS NOT DISTINCT FROM now.state AS known,
       NULL AS link, NULL AS original,
       -- Of one that does not show what the source's shows it is only asked whether it is there.
       CASE WHEN mirror."thumbnailPath" <> ''
            THEN ARRAY[ARRAY[CASE WHEN source."thumbnailPath" <> '' AND page.written ->> 'shows' = source."faceAssetId"::text
                                  THEN source."thumbnailPath" ELSE mirror."thumbnailPath" END,
                             mirror."thumbnailPath"]] END AS files
FROM page
-- LIMIT, for one look in the index each: from 3.2 on PostgreSQL would hash all people of both users for each page.
LEFT JOIN LATERAL (
    SELECT person.ctid, person.xmin, person."thumbnailPath", person."faceAssetId" FROM person
    WHERE person.{person_id} = page.other_id AND person."ownerId" = %(source_user)s LIMIT 1
) AS source ON true
LEFT JOIN LATERAL (
    SELECT person.ctid, person.xmin, person."thumbnailPath", person."faceAssetId" FROM person
    WHERE person.{person_id} = page.id AND person."ownerId" = %(target_user)s LIMIT 1
) AS mirror ON true
CROSS JOIN LATERAL (
    -- Not EXISTS: for a whole page PostgreSQL would hash all faces there are.
    SELECT (SELECT true FROM asset_face AS face JOIN asset ON asset.id = face."assetId"
            WHERE face.{face_person} = page.id AND asset."ownerId" IS NOT DISTINCT FROM %(target_user)s
            LIMIT 1) IS NOT NULL AS there
) AS face
-- The photos that their thumbnails show: may they be shared, and is there a copy?
CROSS JOIN LATERAL (
    SELECT ARRAY[(SELECT face."assetId" FROM asset_face AS face WHERE face.id = source."faceAssetId"),
                 (SELECT face."assetId" FROM asset_face AS face WHERE face.id = mirror."faceAssetId"),
                 (page.written ->> 'photo')::uuid] AS ids
) AS photos
CROSS JOIN LATERAL (
    SELECT hashtextextended(concat_ws('/', %(circumstances)s::text, page.version,
               source.ctid::text || '/' || source.xmin::text, mirror.ctid::text || '/' || mirror.xmin::text,
               face.there, photos.ids,
               (SELECT sum(hashtextextended(photo.ctid::text || '/' || photo.xmin::text, 0))
                FROM asset AS photo WHERE photo.id = ANY(photos.ids)),
               (SELECT sum(hashtextextended(made.ctid::text || '/' || made.xmin::text, 0))
                FROM public._face_sync_asset_map AS made
                WHERE made.source_asset_id = ANY(photos.ids) AND made.target_user_id = %(target_user)s),
               (SELECT sum(hashtextextended(made.ctid::text || '/' || made.xmin::text, 0))
                FROM public._face_sync_asset_map AS made WHERE made.target_asset_id = ANY(photos.ids))), 0) AS state
) AS now
LEFT JOIN public._face_sync_seen AS seen ON seen.job = %(job)s AND seen.key = page.id
ORDER BY page.id

-- name: remember
-- These need no look while their state is the same: it was so before they were reconciled, and afterwards.
INSERT INTO public._face_sync_seen AS seen (job, key, state)
SELECT %(job)s, batch.key, batch.state FROM unnest(%(keys)s::uuid[], %(states)s::bigint[]) AS batch(key, state)
ON CONFLICT (job, key) DO UPDATE SET state = excluded.state
WHERE seen.state <> excluded.state

-- name: how_many
-- For a bar of progress: photos in the job's place. Not exact, and needs not be.
SELECT count(*) FROM asset
WHERE asset."ownerId" = %(source_user)s AND asset."isExternal" <> %(uploads)s
  AND pg_temp.below(asset."originalPath", %(source_prefix)s)

-- name: tidy
-- Notes about sources that are gone for good; and about jobs that nobody has any more. Another listener may serve jobs
-- that this one does not know. Failures of its are tried again within the hour, and renamed jobs have none of these. A
-- state needs an owner: known by the note of who took it last, and by the lock that whoever serves it holds.
WITH kept AS (
    DELETE FROM public._face_sync_kept AS note WHERE NOT EXISTS (SELECT FROM asset WHERE asset.id = note.source_asset_id)
), albums AS (
    DELETE FROM public._face_sync_album_map AS note
    WHERE NOT EXISTS (SELECT FROM asset WHERE asset.id = note.target_asset_id)
      AND NOT EXISTS (SELECT FROM public._face_sync_kept AS kept WHERE kept.target_asset_id = note.target_asset_id)
), failures AS (
    DELETE FROM public._face_sync_failure AS note
    WHERE NOT EXISTS (SELECT FROM asset WHERE asset.id = note.source_asset_id)
       OR note.job <> ALL(%(jobs)s::text[]) AND note.last_at < now() - interval '1 day'
), retired AS (
    SELECT ('x' || left(encode(sha256(convert_to(taken.identity, 'UTF8')), 'hex'), 16))::bit(64)::bigint AS job
    FROM (SELECT substr(key, 7) AS identity FROM public._face_sync_meta WHERE starts_with(key, 'owner ')) AS taken
    WHERE taken.identity <> ALL(%(identities)s::text[])
      AND NOT EXISTS (SELECT FROM pg_locks
                      WHERE locktype = 'advisory' AND granted AND objsubid = 2
                        AND classid = %(lock_class)s::bigint::oid
                        AND objid = (hashtext(taken.identity)::bigint & 4294967295)::oid
                        AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))
), seen AS (
    DELETE FROM public._face_sync_seen AS note
    WHERE NOT EXISTS (SELECT FROM asset WHERE asset.id = note.key)
      AND NOT EXISTS (SELECT FROM public._face_sync_person_map AS map WHERE map.target_person_id = note.key)
       OR note.job IN (SELECT retired.job FROM retired)
)
DELETE FROM public._face_sync_skipped AS note WHERE NOT EXISTS (SELECT FROM asset WHERE asset.id = note.source_asset_id)
