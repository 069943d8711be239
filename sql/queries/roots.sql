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
-- What Immich has written for the source user and has wholly in another place than below this folder: what it is, and
-- an example. Immich rewrites the paths of a table in one statement, so where one path is right its table is not in the
-- middle of a move. Each question ends at the first path that is right, and never reads a library where all is well.
SELECT written.what, written.example
FROM (
    SELECT 'generated files' AS what,
           (SELECT file.path
            FROM asset CROSS JOIN LATERAL (SELECT path FROM asset_file WHERE asset_file."assetId" = asset.id
                                             AND asset_file.type <> 'sidecar' LIMIT 1) AS file
            WHERE asset."ownerId" = %(source_user)s LIMIT 1) AS example
    WHERE NOT EXISTS (
        SELECT FROM asset CROSS JOIN LATERAL (SELECT path FROM asset_file WHERE asset_file."assetId" = asset.id
                                                AND asset_file.type <> 'sidecar' LIMIT 1) AS file
        WHERE asset."ownerId" = %(source_user)s AND starts_with(file.path, %(folder)s || '/'))
    UNION ALL
    SELECT 'thumbnails of people',
           (SELECT person."thumbnailPath" FROM person
            WHERE person."ownerId" = %(source_user)s AND person."thumbnailPath" <> '' LIMIT 1)
    WHERE NOT EXISTS (
        SELECT FROM person
        WHERE person."ownerId" = %(source_user)s AND starts_with(person."thumbnailPath", %(folder)s || '/'))
    UNION ALL
    SELECT 'uploads',
           (SELECT asset."originalPath" FROM asset
            WHERE asset."ownerId" = %(source_user)s AND asset."libraryId" IS NULL AND NOT asset."isExternal" LIMIT 1)
    WHERE %(uploads)s AND NOT EXISTS (
        SELECT FROM asset
        WHERE asset."ownerId" = %(source_user)s AND asset."libraryId" IS NULL AND NOT asset."isExternal"
          AND starts_with(asset."originalPath", %(folder)s || '/'))
) AS written
WHERE written.example IS NOT NULL
ORDER BY 1

-- name: outside
-- How many uploads of the source user lie outside the media root, and one of them: they cannot be shared.
SELECT count(*), min(asset."originalPath")
FROM asset
WHERE asset."ownerId" = %(source_user)s AND asset."libraryId" IS NULL AND NOT asset."isExternal"
  AND asset."deletedAt" IS NULL AND NOT starts_with(asset."originalPath", %(folder)s || '/')
