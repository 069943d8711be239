-- How many copies would go for no deed of their source's user: the brake on removal (docs/decisions/0023).

-- name: would_go
-- The copies of a job that are in sight, by why their sources may not be shared (plan.sql); NULL for those that may.
-- A motion part goes with its still, and is not counted.
SELECT coalesce(reason.for_good, CASE WHEN NOT place.in_scope THEN reason.moved END, reason.by_user,
                CASE WHEN NOT place.in_scope THEN reason.elsewhere END, reason.offline) AS why, count(*)
FROM public._face_sync_asset_map AS made
JOIN asset AS copy ON copy.id = made.target_asset_id AND copy."ownerId" = %(target_user)s
JOIN asset AS source ON source.id = made.source_asset_id
JOIN "user" AS owner ON owner.id = source."ownerId"
LEFT JOIN library ON library.id = source."libraryId"
LEFT JOIN public._face_sync_asset_map AS copied ON copied.target_asset_id = source.id
CROSS JOIN LATERAL (SELECT {in_scope} AS in_scope) AS place
CROSS JOIN LATERAL (
    {reasons}
) AS reason
WHERE made.target_user_id = %(target_user)s AND made.source_user_id = %(source_user)s AND made.parked IS NULL
  AND source.visibility <> 'hidden'
  AND pg_temp.below(copy."originalPath", %(target_prefix)s)
GROUP BY why

-- name: matches
-- Is any photo of the source user's in the job's place? First by what was copied, since one of these mostly is.
SELECT CASE
           WHEN EXISTS (
               SELECT FROM public._face_sync_asset_map AS made JOIN asset AS source ON source.id = made.source_asset_id
               WHERE made.target_user_id = %(target_user)s AND made.source_user_id = %(source_user)s AND {in_scope})
           THEN true
           ELSE EXISTS (SELECT FROM asset AS source WHERE source."ownerId" = %(source_user)s AND {in_scope})
       END

-- name: folders
-- In which folders the source user has photos of this kind.
SELECT DISTINCT regexp_replace(source."originalPath", '/[^/]*$', '')
FROM asset AS source
WHERE source."ownerId" = %(source_user)s AND source."isExternal" <> %(uploads)s
