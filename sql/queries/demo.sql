-- What the demo asks and tells a database that stands in for Immich's.

-- name: add_user
INSERT INTO "user" (email, name) VALUES (%(email)s, %(name)s) RETURNING id

-- name: add_library
INSERT INTO library (name, "ownerId", "importPaths", "exclusionPatterns")
VALUES ('shared with me', %(owner)s, ARRAY[%(import_path)s], '{}')
RETURNING id

-- name: work_avoided
-- Jobs that Immich runs for a photo that a library scan finds, counted over the copies that are there: each of
-- them has the job's result, and got it from its source.
WITH copy AS (
  SELECT a.id
  FROM _face_sync_asset_map AS m
  JOIN asset AS a ON a.id = m.target_asset_id
)
SELECT
  (SELECT count(*) FROM copy JOIN asset_job_status AS j ON j."assetId" = copy.id
   WHERE j."metadataExtractedAt" IS NOT NULL) AS metadata,
  (SELECT count(DISTINCT copy.id) FROM copy JOIN asset_file AS f ON f."assetId" = copy.id
   WHERE f.type = 'thumbnail') AS thumbnails,
  (SELECT count(*) FROM copy JOIN smart_search AS s ON s."assetId" = copy.id) AS smart_search,
  (SELECT count(*) FROM copy JOIN asset_job_status AS j ON j."assetId" = copy.id
   WHERE j."facesRecognizedAt" IS NOT NULL) AS face_detection,
  (SELECT count(*) FROM copy JOIN asset_face AS f ON f."assetId" = copy.id
   WHERE f."sourceType" = 'machine-learning' AND f."personId" IS NOT NULL AND f."deletedAt" IS NULL)
    AS face_recognition,
  (SELECT count(*) FROM copy JOIN asset_job_status AS j ON j."assetId" = copy.id
   WHERE j."ocrAt" IS NOT NULL) AS ocr
