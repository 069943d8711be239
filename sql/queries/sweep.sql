-- name: assets
-- Everything of one job that may need work, a page at a time by id: the assets of its source, and whatever was
-- copied or begun, also where the source is gone. No transaction outlives a page.
SELECT id
FROM (
    SELECT asset.id FROM asset WHERE asset."ownerId" = %(source_user)s AND asset.id > %(after)s
    UNION
    SELECT map.source_asset_id FROM public._face_sync_asset_map AS map
    WHERE map.source_user_id = %(source_user)s AND map.target_user_id = %(target_user)s AND map.source_asset_id > %(after)s
    UNION
    SELECT intent.source_asset_id FROM public._face_sync_intent AS intent
    WHERE intent.source_user_id = %(source_user)s AND intent.target_user_id = %(target_user)s AND intent.source_asset_id > %(after)s
) AS found
ORDER BY id
LIMIT %(limit)s

-- name: people
-- Every mirrored person: their name may have changed, or their last face may be gone.
SELECT map.target_person_id
FROM public._face_sync_person_map AS map
WHERE map.source_user_id = %(source_user)s AND map.target_user_id = %(target_user)s AND map.target_person_id > %(after)s
ORDER BY map.target_person_id
LIMIT %(limit)s

-- name: tidy
-- Notes about sources that are gone for good.
WITH kept AS (
    DELETE FROM public._face_sync_kept AS note WHERE NOT EXISTS (SELECT FROM asset WHERE asset.id = note.source_asset_id)
), albums AS (
    DELETE FROM public._face_sync_album_map AS note
    WHERE NOT EXISTS (SELECT FROM asset WHERE asset.id = note.target_asset_id)
      AND NOT EXISTS (SELECT FROM public._face_sync_kept AS kept WHERE kept.target_asset_id = note.target_asset_id)
), failures AS (
    DELETE FROM public._face_sync_failure AS note WHERE NOT EXISTS (SELECT FROM asset WHERE asset.id = note.source_asset_id)
)
DELETE FROM public._face_sync_skipped AS note WHERE NOT EXISTS (SELECT FROM asset WHERE asset.id = note.source_asset_id)
