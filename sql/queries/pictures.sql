-- Which photos the thumbnails of mirrored people show, and what follows where such a photo is not shared (any more).

-- name: picture
-- All that `listener.sync.pictures` decides by.
person."thumbnailPath", person."faceAssetId", {shared}, coalesce(mine."thumbnailPath", ''), mine."faceAssetId",
       {stands}, {same}, coalesce(map.written, '{{}}')

-- name: shared
-- Which of the faces that the source's thumbnail, or the one that we gave, may show lie on photos that the target has a
-- copy of: one that is there and not parked, and whose source may still be shared at this moment. Offline it may be: the
-- copy is parked then, unless the brake holds it.
ARRAY(
    SELECT face.id
    FROM asset_face AS face
    JOIN asset AS photo ON photo.id = face."assetId"
    JOIN public._face_sync_asset_map AS made ON made.source_asset_id = photo.id AND made.target_user_id = %(target_user)s
    JOIN asset AS copy ON copy.id = made.target_asset_id
    WHERE face.id IN (person."faceAssetId", (map.written ->> 'shows')::uuid, (map.written ->> 'seen')::uuid)
      AND photo."ownerId" = %(source_user)s AND made.source_user_id = %(source_user)s
      AND copy."ownerId" = %(target_user)s AND made.parked IS NULL
      AND photo.status = 'active' AND (photo."deletedAt" IS NULL OR photo."isOffline") AND photo.visibility <> 'locked')

-- name: stands
-- Is the feature face of who stands for them one of theirs, on a photo of the target's that is there? Not a copied one
-- whose source has since become somebody else's.
EXISTS (
    SELECT FROM asset_face AS feature
    JOIN asset AS photo ON photo.id = feature."assetId" AND photo."ownerId" = %(target_user)s
    LEFT JOIN public._face_sync_asset_map AS made ON made.target_asset_id = photo.id
    LEFT JOIN public._face_sync_face_map AS copied
           ON copied.target_face_id = feature.id AND copied.target_person_id = feature.{face_person}
    LEFT JOIN asset_face AS original ON original.id = copied.source_face_id AND original."deletedAt" IS NULL
    WHERE feature.id = mine."faceAssetId" AND feature."deletedAt" IS NULL AND feature.{face_person} = mine.{person_id}
      AND made.parked IS NULL
      AND (copied.target_face_id IS NULL
           OR original.{face_person} = person.{person_id}
           OR EXISTS (
               SELECT FROM public._face_sync_person_map AS merged
               WHERE merged.source_person_id = original.{face_person} AND merged.target_user_id = %(target_user)s
                 AND merged.target_person_id = mine.{person_id})))

-- name: same
-- Is the feature face of who stands for them the copy of the source's? NULL where it is no copied face of theirs.
(SELECT copied.source_face_id IS NOT DISTINCT FROM person."faceAssetId"
 FROM public._face_sync_face_map AS copied
 WHERE copied.target_face_id = mine."faceAssetId" AND copied.target_person_id = mine.{person_id})

-- name: pictured
-- Mirrors that are concerned by what becomes of these photos, beside those whom their copied faces name: whose source's
-- feature face is on one, or whose thumbnail shows one.
SELECT map.target_person_id
FROM asset_face AS face
JOIN person ON person."faceAssetId" = face.id AND person."ownerId" = %(source_user)s
JOIN public._face_sync_person_map AS map
  ON map.source_person_id = person.{person_id} AND map.target_user_id = %(target_user)s AND NOT map.adopted
WHERE face."assetId" = ANY(%(sources)s::uuid[])
UNION
SELECT map.target_person_id
FROM public._face_sync_person_map AS map
WHERE map.written ->> 'photo' = ANY(%(sources)s::text[]) AND map.target_user_id = %(target_user)s

-- name: unpicture
-- Before copies go, or are parked: nobody of the target's may go on showing one of these photos, their own people
-- neither. Their files are to be removed after that.
WITH shown AS (
    SELECT mine.{person_id} AS id, mine."thumbnailPath" AS path
    FROM asset_face AS face
    JOIN person AS mine ON mine."faceAssetId" = face.id AND mine."ownerId" = %(target_user)s
    WHERE face."assetId" = ANY(%(targets)s::uuid[]) AND mine."thumbnailPath" <> ''
    UNION
    SELECT mine.{person_id}, mine."thumbnailPath"
    FROM public._face_sync_person_map AS map
    JOIN person AS mine ON mine.{person_id} = map.target_person_id AND mine."ownerId" = %(target_user)s
    WHERE map.written ->> 'photo' = ANY(%(sources)s::text[]) AND map.target_user_id = %(target_user)s
      AND mine."thumbnailPath" <> ''
), noted AS (
    UPDATE public._face_sync_person_map AS map
    SET written = map.written - ARRAY['shows', 'photo']
    FROM shown
    WHERE map.target_person_id = shown.id AND map.target_user_id = %(target_user)s AND NOT map.adopted
)
UPDATE person AS mine SET "thumbnailPath" = ''
FROM shown
WHERE mine.{person_id} = shown.id AND mine."ownerId" = %(target_user)s
RETURNING shown.id, shown.path

-- name: of_parked
-- Whose thumbnail shows a copy that is parked: Immich makes thumbnails some time after it has chosen a face, from whatever
-- is there. A mirror that has the source's thumbnail may show another photo than its feature face is on.
SELECT mine.{person_id}, mine."thumbnailPath"
FROM person AS mine
JOIN asset_face AS face ON face.id = mine."faceAssetId"
JOIN public._face_sync_asset_map AS map ON map.target_asset_id = face."assetId" AND map.parked IS NOT NULL
WHERE mine.{person_id} = ANY(%(people)s::uuid[]) AND mine."ownerId" = %(target_user)s AND mine."thumbnailPath" <> ''
  AND NOT EXISTS (
      SELECT FROM public._face_sync_person_map AS mirror
      WHERE mirror.target_person_id = mine.{person_id} AND mirror.target_user_id = %(target_user)s
        AND NOT mirror.adopted AND mirror.written ? 'shows')

-- name: unpicture_people
UPDATE person SET "thumbnailPath" = '' WHERE {person_id} = ANY(%(people)s::uuid[]) AND "ownerId" = %(target_user)s
