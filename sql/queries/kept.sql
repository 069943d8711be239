-- What the target user did with a copy that is gone, or parked, and that Immich's purge may take: kept for the day that
-- its source comes back, and given back to a new copy.

-- name: keep
INSERT INTO public._face_sync_kept AS kept
    (source_asset_id, target_user_id, target_asset_id, is_favorite, visibility, album_ids, exif, dates, tags)
SELECT batch.source_id, %(target_user)s, copy.id, copy."isFavorite",
       -- NULL where it is what we wrote: not theirs.
       nullif(coalesce(map.parked->>'visibility', copy.visibility::text), coalesce(base.visibility, 'timeline')),
       ARRAY(SELECT entry.{album_asset_album} FROM album_asset AS entry WHERE entry.{album_asset_asset} = copy.id),
       {exif}, {dates},
       ARRAY(SELECT tag.value
             FROM tag_asset AS given JOIN tag ON tag.id = given.{tag_asset_tag}
             WHERE given.{tag_asset_asset} = copy.id
               AND NOT EXISTS (SELECT FROM public._face_sync_tag_map AS ours
                               WHERE ours.target_asset_id = copy.id AND ours.value = tag.value))
FROM unnest(%(sources)s::uuid[], %(targets)s::uuid[]) AS batch(source_id, target_id)
JOIN asset AS copy ON copy.id = batch.target_id AND copy.status <> 'deleted'
LEFT JOIN public._face_sync_asset_map AS map ON map.target_asset_id = copy.id
LEFT JOIN public._face_sync_base AS base ON base.target_asset_id = copy.id
LEFT JOIN asset_exif AS mine ON mine."assetId" = copy.id
WHERE EXISTS (SELECT FROM asset AS source WHERE source.id = batch.source_id)
ON CONFLICT (source_asset_id, target_user_id) DO UPDATE
SET target_asset_id = excluded.target_asset_id, is_favorite = excluded.is_favorite, visibility = excluded.visibility,
    album_ids = excluded.album_ids, exif = excluded.exif, dates = excluded.dates, tags = excluded.tags,
    stack_id = NULL, was_cover = false, kept_at = now()

-- name: own_exif
-- The values that are the target user's own (Immich 2.4+), with those that follow from them.
coalesce((SELECT jsonb_object_agg(own.name, own.value) FROM (VALUES {values}) AS own(name, value, theirs) WHERE own.theirs), '{{}}')

-- name: own_exif_value
({name}, to_jsonb(mine.{column}), {own})

-- name: own_dates
-- Where the date is theirs, so is the place in the timeline.
CASE WHEN {own} THEN jsonb_build_object('fileCreatedAt', copy."fileCreatedAt", 'localDateTime', copy."localDateTime") ELSE '{{}}' END

-- name: nothing_kept
'{{}}'::jsonb

-- name: give_exif
-- Locked, as Immich does with what a user typed until it has written it to the XMP of the copy.
UPDATE asset_exif AS mine
SET ({columns}) = (SELECT {given} FROM jsonb_populate_record(mine, kept.exif) AS given),
    "lockedProperties" = ARRAY(SELECT unnest(mine."lockedProperties")
                               UNION SELECT key FROM jsonb_object_keys(kept.exif) AS key
                               WHERE key = ANY(%(lockable)s) ORDER BY 1)
FROM unnest(%(sources)s::uuid[], %(targets)s::uuid[]) AS batch(source_id, target_id)
JOIN public._face_sync_kept AS kept ON kept.source_asset_id = batch.source_id AND kept.target_user_id = %(target_user)s
WHERE mine."assetId" = batch.target_id AND kept.exif <> '{{}}' AND NOT batch.target_id = ANY(%(made)s::uuid[])

-- name: give_dates
UPDATE asset AS mine
SET "fileCreatedAt" = (kept.dates->>'fileCreatedAt')::timestamptz, "localDateTime" = (kept.dates->>'localDateTime')::timestamptz
FROM unnest(%(sources)s::uuid[], %(targets)s::uuid[]) AS batch(source_id, target_id)
JOIN public._face_sync_kept AS kept ON kept.source_asset_id = batch.source_id AND kept.target_user_id = %(target_user)s
WHERE mine.id = batch.target_id AND kept.dates <> '{{}}' AND NOT batch.target_id = ANY(%(made)s::uuid[])

-- name: give_tags
-- Tags that are still there: one that they have deleted meanwhile is not made again.
INSERT INTO tag_asset ({tag_asset_asset}, {tag_asset_tag})
SELECT batch.target_id, own.id
FROM unnest(%(sources)s::uuid[], %(targets)s::uuid[]) AS batch(source_id, target_id)
JOIN public._face_sync_kept AS kept ON kept.source_asset_id = batch.source_id AND kept.target_user_id = %(target_user)s
JOIN tag AS own ON own."userId" = %(target_user)s AND own.value = ANY(kept.tags)
WHERE NOT batch.target_id = ANY(%(made)s::uuid[])
ON CONFLICT DO NOTHING

-- name: give_albums
INSERT INTO album_asset ({album_asset_album}, {album_asset_asset}, "updateId")
SELECT album.id, batch.target_id, pg_temp.ahead()
FROM unnest(%(sources)s::uuid[], %(targets)s::uuid[]) AS batch(source_id, target_id)
JOIN public._face_sync_kept AS kept ON kept.source_asset_id = batch.source_id AND kept.target_user_id = %(target_user)s
JOIN album ON album.id = ANY(kept.album_ids) AND album."deletedAt" IS NULL
WHERE NOT batch.target_id = ANY(%(made)s::uuid[])
ON CONFLICT DO NOTHING

-- name: unpark_stacks
-- Copies that were parked lead their user's stacks again; while they were away the next one did.
UPDATE stack SET "primaryAssetId" = copy.id
FROM public._face_sync_asset_map AS map
JOIN asset AS copy ON copy.id = map.target_asset_id
WHERE map.target_asset_id = ANY(%(targets)s::uuid[])
  AND stack.id = (map.parked->>'stack')::uuid AND copy."stackId" = stack.id AND stack."primaryAssetId" <> copy.id

-- name: unpark_covers
-- And are the covers of albums again.
UPDATE album SET "albumThumbnailAssetId" = map.target_asset_id
FROM public._face_sync_asset_map AS map
JOIN album_asset AS entry ON entry.{album_asset_asset} = map.target_asset_id
WHERE map.target_asset_id = ANY(%(targets)s::uuid[]) AND album.id = entry.{album_asset_album}
  AND map.parked->'covers' ? album.id::text
  AND album."albumThumbnailAssetId" IS DISTINCT FROM map.target_asset_id

-- name: given_back
DELETE FROM public._face_sync_kept AS kept
USING asset AS copy, unnest(%(sources)s::uuid[], %(targets)s::uuid[]) AS batch(source_id, target_id)
WHERE kept.source_asset_id = batch.source_id AND kept.target_user_id = %(target_user)s AND copy.id = batch.target_id
