-- Where Immich says that its files are. It keeps its media location in a setting, and whole paths in rows.

-- name: location
-- The media location, as Immich noted it when it last started. A role of the listener's own that was made by an older
-- `role print` does not see it.
SELECT pg_temp.immich_setting('MediaLocation') ->> 'location'

-- name: root_of_files
-- Where no setting tells it: below which folder are the generated files that rows name? Immich has them all below one,
-- and rewrites all paths when that moves, so a few tell.
SELECT few.root
FROM (
    SELECT substring(file.path FROM '^(.+)/(?:thumbs|encoded-video)/[0-9a-f]+-[0-9a-f]+-[0-9a-f]+-[0-9a-f]+-[0-9a-f]+/') AS root
    FROM (SELECT path FROM asset_file WHERE type <> 'sidecar' LIMIT 100) AS file
) AS few
WHERE few.root IS NOT NULL
GROUP BY few.root
ORDER BY count(*) DESC
LIMIT 1

-- name: elsewhere
-- What Immich has written for the source user and has in another place than below this folder, by a sample: what it is,
-- and an example. Immich rewrites the paths of a table in one statement: where one of the sample is right, its table
-- is. The order is that of Immich's own indexes on these two kinds of photos: no other user's is read.
WITH uploaded AS MATERIALIZED (
    SELECT asset.id, asset."originalPath" AS path, asset."isExternal" AS external
    FROM asset WHERE asset."ownerId" = %(source_user)s AND asset."libraryId" IS NULL
    ORDER BY asset.checksum LIMIT 20
), imported AS MATERIALIZED (
    SELECT asset.id FROM asset WHERE asset."ownerId" = %(source_user)s AND asset."libraryId" IS NOT NULL
    ORDER BY asset."libraryId", asset.checksum LIMIT 20
), written AS (
    SELECT 'uploads' AS what, path FROM uploaded WHERE %(uploads)s AND NOT external
    UNION ALL
    SELECT 'generated files', file.path
    FROM (SELECT id FROM uploaded UNION ALL SELECT id FROM imported) AS sample
    JOIN asset_file AS file ON file."assetId" = sample.id AND file.type <> 'sidecar'
)
SELECT written.what, min(written.path) FROM written
GROUP BY written.what
HAVING NOT bool_or(pg_temp.below(written.path, %(folder)s))
ORDER BY written.what

-- name: outside
-- How many uploads of the source user lie outside the media root, and one of them: they cannot be shared.
SELECT count(*), min(asset."originalPath")
FROM asset
WHERE asset."ownerId" = %(source_user)s AND asset."libraryId" IS NULL AND NOT asset."isExternal"
  AND asset."deletedAt" IS NULL AND NOT pg_temp.below(asset."originalPath", %(folder)s)
