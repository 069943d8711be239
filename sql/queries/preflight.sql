-- name: jobs
-- Are the users of each job, and the target's library, there and as the job says? A source user who was removed is no
-- mistake of the configuration: their copies go.
SELECT job.name,
       EXISTS (SELECT FROM "user" WHERE id = job.source_user),
       EXISTS (SELECT FROM "user" WHERE id = job.target_user AND "deletedAt" IS NULL),
       library."ownerId",
       coalesce(library."exclusionPatterns", '{}')
FROM unnest(%(names)s::text[], %(sources)s::uuid[], %(targets)s::uuid[], %(libraries)s::uuid[])
     AS job(name, source_user, target_user, library)
LEFT JOIN library ON library.id = job.library AND library."deletedAt" IS NULL

-- name: libraries
-- Whatever Immich may scan: whose it is, and what it looks at.
SELECT library.id, library.name, coalesce(owner.name, library."ownerId"::text), library."importPaths",
       library."exclusionPatterns"
FROM library
LEFT JOIN "user" AS owner ON owner.id = library."ownerId"
WHERE library."deletedAt" IS NULL
ORDER BY library.name, library.id

-- name: library
-- What a scan of the target's library would look at.
SELECT "importPaths", "exclusionPatterns" FROM library WHERE id = %(library)s AND "deletedAt" IS NULL

-- name: copies_of
SELECT EXISTS (SELECT FROM public._face_sync_asset_map WHERE source_user_id = %(source_user)s)

-- name: copies_between
-- Has one of these jobs copies, by what is noted?
SELECT EXISTS (
    SELECT FROM unnest(%(sources)s::uuid[], %(targets)s::uuid[]) AS job(source_user, target_user)
    JOIN public._face_sync_asset_map AS map
      ON map.source_user_id = job.source_user AND map.target_user_id = job.target_user)

-- name: any_tables
-- A database in which the listener never ran has no copies.
SELECT to_regclass('public._face_sync_asset_map') IS NOT NULL

-- name: folders_of_copies
-- In which folders copies have their originals, and how many: whether one is a symlink, only the disk can say.
SELECT regexp_replace(copy."originalPath", '/[^/]*$', '') AS folder, count(*)
FROM public._face_sync_asset_map AS map
JOIN asset AS copy ON copy.id = map.target_asset_id
GROUP BY folder

-- name: leftovers
-- Copies below no target prefix of a job between the same users. First and last path in byte order.
SELECT coalesce(source.name, map.source_user_id::text), coalesce(target.name, map.target_user_id::text),
       min(copy."originalPath" COLLATE "C"), max(copy."originalPath" COLLATE "C"), count(*)
FROM public._face_sync_asset_map AS map
JOIN asset AS copy ON copy.id = map.target_asset_id
LEFT JOIN "user" AS source ON source.id = map.source_user_id
LEFT JOIN "user" AS target ON target.id = map.target_user_id
WHERE NOT EXISTS (
    SELECT FROM unnest(%(sources)s::uuid[], %(targets)s::uuid[], %(prefixes)s::text[]) AS job(source_user, target_user, prefix)
    WHERE job.source_user = map.source_user_id AND job.target_user = map.target_user_id
      AND pg_temp.below(copy."originalPath", job.prefix))
GROUP BY map.source_user_id, map.target_user_id, copy."libraryId", source.name, target.name
ORDER BY 1, 2, 3
