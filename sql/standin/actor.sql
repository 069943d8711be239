-- What the stand-in for Immich's users executes beside the statements of player.sql. Names in braces differ
-- between releases and are taken from the catalog.

-- name: columns
-- Every column there is, with its type: a release's rows are known by it.
SELECT c.relname AS "table", a.attname::text AS "column", format_type(a.atttypid, a.atttypmod) AS type
FROM pg_attribute a
JOIN pg_class c ON c.oid = a.attrelid
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped;

-- name: rows_where
SELECT * FROM {table} WHERE {conditions} ORDER BY {order}

-- name: upsert
-- As player.sql's, for tables whose rows are told apart by more than their asset.
INSERT INTO {table} ({columns})
SELECT {columns} FROM jsonb_populate_recordset(NULL::{table}, {rows})
ON CONFLICT ({conflict}) DO UPDATE SET {excluded}

-- name: upsert_tag
-- Immich makes sure of a tag by writing it again: one that is there is stamped anew.
INSERT INTO tag (id, "userId", value, "parentId") VALUES (%(id)s, %(user)s, %(value)s, %(parent)s)
ON CONFLICT ("userId", value) DO UPDATE SET "parentId" = excluded."parentId"
RETURNING id

-- name: faces
SELECT face.*, face.{face_person} AS person
FROM asset_face AS face
WHERE face."assetId" = %(asset)s
ORDER BY face."boundingBoxY1", face."boundingBoxX1", face.id

-- name: faces_without_embedding
SELECT face.id
FROM asset_face AS face
WHERE face."assetId" = %(asset)s AND NOT EXISTS (SELECT FROM face_search WHERE "faceId" = face.id)

-- name: people
SELECT person.*, person.{person_id} AS person
FROM person
WHERE person."ownerId" = %(user)s
ORDER BY person."createdAt", person.{person_id}

-- name: another_face
-- A face that can stand for a person: on a photo of the person's owner.
SELECT face.id
FROM asset_face AS face
JOIN asset ON asset.id = face."assetId"
WHERE face.{face_person} = %(person)s AND asset."ownerId" = %(user)s AND face."deletedAt" IS NULL
ORDER BY face.id
LIMIT 1

-- name: any_face
-- What Immich crops for a person without a feature face. From 3.2 on it asks for no owner.
SELECT face.id
FROM asset_face AS face
JOIN asset ON asset.id = face."assetId"
WHERE face.{face_person} = %(person)s AND face."deletedAt" IS NULL
  AND (%(user)s::uuid IS NULL OR asset."ownerId" = %(user)s)
ORDER BY face.id
LIMIT 1

-- name: move_faces
-- All of a merged person's faces in one statement. From 3.2 on a person is each user's own view of a group:
-- only the faces on the merging user's photos.
UPDATE asset_face SET {face_person} = %(survivor)s
FROM asset
WHERE asset_face.{face_person} = %(gone)s AND asset.id = asset_face."assetId" AND asset."ownerId" = %(user)s

-- name: delete_detected_faces
-- A forced detection begins so, with the faces of all users.
DELETE FROM asset_face WHERE "sourceType" = 'machine-learning'

-- name: reset_recognition
-- A forced recognition begins so, with the faces of all users.
UPDATE asset_face SET {face_person} = NULL WHERE "sourceType" = 'machine-learning' AND {face_person} IS NOT NULL

-- name: people_without_faces
SELECT person.*, person.{person_id} AS person
FROM person
WHERE NOT EXISTS (SELECT FROM asset_face WHERE {face_person} = person.{person_id})

-- name: drop_empty_person_groups
-- From 3.2: Immich drops a group that no user has a person row of; the key then clears its faces.
DELETE FROM person_group WHERE NOT EXISTS (SELECT FROM person WHERE "personGroupId" = person_group.id)

-- name: detectable_assets
-- Whose faces a forced detection looks for: those of all users that have a preview.
SELECT asset.id
FROM asset
WHERE asset."deletedAt" IS NULL AND asset.visibility <> 'hidden'
  AND EXISTS (SELECT FROM asset_file WHERE "assetId" = asset.id AND type = 'preview')
ORDER BY asset.id

-- name: tag_values
SELECT tag.value
FROM tag
JOIN tag_asset ON tag_asset.{tag_tag} = tag.id
WHERE tag_asset.{tag_asset} = %(asset)s
ORDER BY tag.value

-- name: tagged
-- The photos that have a tag of a user's, or one below it.
SELECT DISTINCT tag_asset.{tag_asset} AS asset
FROM tag
JOIN tag_asset ON tag_asset.{tag_tag} = tag.id
WHERE tag."userId" = %(user)s AND (tag.value = %(value)s OR starts_with(tag.value, %(value)s || '/'))
ORDER BY asset

-- name: rename_tag
-- Immich 3.3+: the values of the tags below begin with the parent's.
UPDATE tag SET value = %(new)s || substr(value, length(%(value)s) + 1)
WHERE "userId" = %(user)s AND (value = %(value)s OR starts_with(value, %(value)s || '/'))

-- name: choose_album_cover
-- The latest photo that is in the album and not deleted.
UPDATE album SET "albumThumbnailAssetId" = (
    SELECT asset.id FROM asset JOIN album_asset ON album_asset.{album_asset} = asset.id
    WHERE album_asset.{album_id} = album.id AND asset."deletedAt" IS NULL
    ORDER BY asset."fileCreatedAt" DESC, asset.id LIMIT 1)
WHERE id = %(album)s

-- name: empty_trash
UPDATE asset SET status = 'deleted' WHERE "ownerId" = %(user)s AND status = 'trashed' RETURNING id

-- name: long_deleted
-- What the nightly purge takes, of all users: also what a scan took offline that long ago.
SELECT id FROM asset WHERE "deletedAt" <= %(before)s ORDER BY id

-- name: take_offline
-- A scan's first step, one statement whatever the number: all that no import path covers, or an exclusion does.
UPDATE asset SET "isOffline" = true, "deletedAt" = %(now)s
WHERE "libraryId" = %(library)s AND NOT "isOffline"
  AND (NOT "originalPath" LIKE ANY (%(imports)s::text[]) OR "originalPath" LIKE ANY (%(exclusions)s::text[]))

-- name: delete_library_assets
UPDATE asset SET "deletedAt" = %(now)s WHERE "libraryId" = %(library)s AND "deletedAt" IS NULL

-- name: delete_albums_by_column
-- Up to 2.7 an album names its owner itself.
DELETE FROM album WHERE "ownerId" = %(user)s

-- name: delete_albums_by_membership
-- From 3.0 the owner is a member like others.
DELETE FROM album
USING album_user
WHERE album_user."albumId" = album.id AND album_user."userId" = %(user)s AND album_user.role = 'owner'

-- name: rekey_person
-- From 3.2: a user's view of a person gets another group in place.
UPDATE person SET "personGroupId" = %(new)s WHERE "ownerId" = %(owner)s AND "personGroupId" = %(old)s

-- name: reset_cluster_group
-- From 3.2: "regenerate people" begins so, with the detected faces of all users of the cluster group.
UPDATE asset_face SET {face_person} = NULL
FROM asset JOIN "user" ON "user".id = asset."ownerId"
WHERE asset.id = asset_face."assetId" AND "user"."clusterGroupId" = %(group)s
  AND asset_face."sourceType" = 'machine-learning' AND asset_face.{face_person} IS NOT NULL

-- name: people_of_groups_without_faces
SELECT person.*, person.{person_id} AS person
FROM person
WHERE NOT EXISTS (SELECT FROM asset_face WHERE {face_person} = person.{person_id} AND asset_face."deletedAt" IS NULL)
