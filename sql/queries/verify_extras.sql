-- What `listener verify` asks about what surrounds copies in their user's library: stacks, tags, an album, and
-- what is kept of copies that are gone.

-- name: stacks
-- Members are live, visible copies that are in no stack which the target user made. Two of one source stack make a stack
-- of the target, with the copy of the source's cover if that is among them. Nothing else is in such a stack. What the
-- target user took out of a mirrored stack, or apart, stays so while the source's is the same.
WITH pair AS (
    SELECT *
    FROM unnest(%(sources)s::uuid[], %(targets)s::uuid[], %(target_users)s::uuid[])
        AS pair (source, target, target_user)
),
ours AS (
    SELECT
        map.source_stack_id, map.target_stack_id, map.target_user_id, to_jsonb(map) ->> 'cover_id' AS cover_id,
        NOT EXISTS (SELECT FROM stack WHERE stack.id = map.target_stack_id) AS apart
    FROM _face_sync_stack_map AS map
    WHERE map.target_user_id = ANY(%(target_users)s)
),
member AS (
    SELECT
        pair.source,
        pair.target,
        pair.target_user,
        copy."stackId" AS have,
        ours.target_stack_id AS want,
        ours.cover_id,
        count(*) OVER whole AS members,
        row_number() OVER (PARTITION BY source."stackId", pair.target_user ORDER BY pair.target) AS place,
        array_agg(pair.target) OVER whole AS targets,
        array_agg(pair.target) FILTER (WHERE source.id = stack."primaryAssetId") OVER whole AS cover
    FROM pair
    JOIN asset AS source ON source.id = pair.source
    JOIN stack ON stack.id = source."stackId"
    JOIN asset AS copy ON copy.id = pair.target
    LEFT JOIN ours ON ours.source_stack_id = source."stackId" AND ours.target_user_id = pair.target_user
    LEFT JOIN _face_sync_base AS base ON base.target_asset_id = pair.target
    WHERE copy."deletedAt" IS NULL
      AND copy.visibility IN ('timeline', 'archive')
      AND ours.apart IS NOT true
      AND (
        copy."stackId" IS NULL OR EXISTS (SELECT FROM ours AS known WHERE known.target_stack_id = copy."stackId")
      )
      -- Where it was put: without a mirror of this stack, into the one that is noted.
      AND (base.stack_id IS NULL OR copy."stackId" IS NOT DISTINCT FROM base.stack_id
           OR base.stack_id <> coalesce(ours.target_stack_id, base.stack_id))
    WINDOW whole AS (PARTITION BY source."stackId", pair.target_user)
)
SELECT member.source, member.target, rule.name, rule.detail
FROM member
LEFT JOIN stack AS made ON made.id = member.want
CROSS JOIN LATERAL (
    VALUES
        ('stack.missing', made.id IS NULL AND place = 1, 'the copies of a stack are in none of the target''s'),
        ('stack.ownerId', made."ownerId" <> target_user AND place = 1, made."ownerId"::text),
        (
            'stack.primaryAssetId',
            -- Any member may be the cover by its user's choice: another one than the listener has chosen last.
            NOT made."primaryAssetId" = ANY(
                CASE WHEN cover_id <> made."primaryAssetId"::text THEN targets ELSE coalesce(cover, targets) END
            ) AND place = 1,
            concat(made."primaryAssetId", ' is not the copy of the cover')
        ),
        (
            'asset.stackId',
            made.id IS NOT NULL AND have IS DISTINCT FROM want,
            concat('it is in stack ', have, ', not ', want)
        )
) AS rule (name, broken, detail)
WHERE member.members > 1 AND rule.broken
UNION ALL
SELECT pair.source, pair.target, 'asset.stackId', 'it is in a mirrored stack that it does not belong to'
FROM pair
JOIN asset AS copy ON copy.id = pair.target
JOIN ours ON ours.target_stack_id = copy."stackId"
WHERE NOT EXISTS (SELECT FROM member WHERE member.target = pair.target AND member.members > 1)

-- name: stacks_unneeded
-- Mirrored stacks without a copy, and notes of such as their user took apart, of which the source's is gone.
SELECT map.target_user_id, map.target_stack_id
FROM _face_sync_stack_map AS map
WHERE map.target_user_id = ANY(%(target_users)s)
  AND NOT EXISTS (
    SELECT
    FROM asset AS copy
    JOIN _face_sync_asset_map AS mapped ON mapped.target_asset_id = copy.id
    WHERE copy."stackId" = map.target_stack_id
  )
  AND (
    EXISTS (SELECT FROM stack WHERE stack.id = map.target_stack_id)
    OR NOT EXISTS (SELECT FROM stack WHERE stack.id = map.source_stack_id)
  )

-- name: tags_wanted
-- The tags of the sources whose job shares tags, with the target's own tag of the same value.
WITH RECURSIVE pair AS (
    SELECT *
    FROM unnest(%(sources)s::uuid[], %(targets)s::uuid[], %(target_users)s::uuid[], %(tags)s::boolean[])
        AS pair (source, target, target_user, tags)
),
wanted AS (
    SELECT
        pair.source, pair.target, pair.target_user, tag.id AS source_tag, tag.value, mine.id AS mine,
        EXISTS (
            SELECT FROM tag_asset AS given WHERE given.{asset} = pair.target AND given.{tag} = mine.id
        ) AS given
    FROM pair
    JOIN tag_asset ON tag_asset.{asset} = pair.source
    JOIN tag ON tag.id = tag_asset.{tag}
    LEFT JOIN tag AS mine ON mine."userId" = pair.target_user AND mine.value = tag.value
    WHERE pair.tags
)

-- name: tags
-- A tag that was given once and is no more was taken off by the target user.
{wanted}
SELECT wanted.source, wanted.target, 'tag.missing', wanted.value
FROM wanted
WHERE NOT wanted.given
  AND NOT EXISTS (
    SELECT FROM _face_sync_tag_map AS map WHERE map.target_asset_id = wanted.target AND map.value = wanted.value
  )
UNION ALL
SELECT pair.source, pair.target, 'tag_map.extra', map.value || ' is noted as given, the source has it not'
FROM pair
JOIN _face_sync_tag_map AS map ON map.target_asset_id = pair.target
WHERE NOT EXISTS (SELECT FROM wanted WHERE wanted.target = map.target_asset_id AND wanted.value = map.value)

-- name: tags_unneeded
-- Notes about copies that are gone.
SELECT map.target_asset_id, map.value
FROM _face_sync_tag_map AS map
WHERE NOT EXISTS (SELECT FROM asset WHERE asset.id = map.target_asset_id)

-- name: tag_line
-- From the tags given up to their roots: the target's must be below one another as the source's are.
{wanted}, line AS (
    SELECT wanted.target_user, wanted.source_tag, wanted.mine FROM wanted WHERE wanted.given
    UNION
    SELECT line.target_user, source."parentId", mine."parentId"
    FROM line
    JOIN tag AS source ON source.id = line.source_tag
    JOIN tag AS mine ON mine.id = line.mine
    WHERE source."parentId" IS NOT NULL AND mine."parentId" IS NOT NULL
)
SELECT line.target_user, mine.id, mine.value, source_parent.value
FROM line
JOIN tag AS source ON source.id = line.source_tag
JOIN tag AS mine ON mine.id = line.mine
JOIN tag AS source_parent ON source_parent.id = source."parentId"
LEFT JOIN tag AS mine_parent ON mine_parent.id = mine."parentId" AND mine_parent."userId" = line.target_user
WHERE mine_parent.value IS DISTINCT FROM source_parent.value

-- name: tag_closure
-- Immich finds the photos of a tag and of all below it by this table: each tag with itself and all above it.
{wanted}, above AS (
    SELECT wanted.target_user, wanted.mine AS descendant, wanted.mine AS ancestor FROM wanted WHERE wanted.given
    UNION
    SELECT above.target_user, above.descendant, tag."parentId"
    FROM above
    JOIN tag ON tag.id = above.ancestor
    WHERE tag."parentId" IS NOT NULL
)
SELECT above.target_user, descendant.value, ancestor.value
FROM above
JOIN tag AS descendant ON descendant.id = above.descendant
JOIN tag AS ancestor ON ancestor.id = above.ancestor
WHERE NOT EXISTS (
    SELECT FROM tag_closure WHERE id_descendant = above.descendant AND id_ancestor = above.ancestor
)

-- name: album
-- A copy that was put into the album once and is not there any more was taken out by the target user. An album
-- that is gone or not the target's own gets nothing.
SELECT pair.source, pair.target
FROM unnest(%(sources)s::uuid[], %(targets)s::uuid[]) AS pair (source, target)
JOIN asset AS copy
    ON copy.id = pair.target AND copy.visibility IN ('timeline', 'archive') AND copy."deletedAt" IS NULL
JOIN album ON album.id = %(album)s AND album."deletedAt" IS NULL
WHERE {owned}
  AND NOT EXISTS (
    SELECT FROM album_asset AS entry WHERE entry.{album} = %(album)s AND entry.{asset} = pair.target
  )
  AND NOT EXISTS (
    SELECT
    FROM _face_sync_album_map AS map
    WHERE map.album_id = %(album)s AND map.target_asset_id = pair.target
  )

-- name: covers
-- Copies that are the cover of an album and that nobody but us can have made it: one that is parked, of any album, and
-- one of the job's album that was never put into it. All else may be what Immich leaves when its user moves a photo.
SELECT pair.source, pair.target, album.id
FROM unnest(%(sources)s::uuid[], %(targets)s::uuid[]) AS pair (source, target)
JOIN album ON album."albumThumbnailAssetId" = pair.target
JOIN _face_sync_asset_map AS map ON map.target_asset_id = pair.target
WHERE map.parked IS NOT NULL
   OR album.id = %(album)s
      AND NOT EXISTS (
        SELECT FROM album_asset AS entry WHERE entry.{album} = album.id AND entry.{asset} = pair.target
      )
      AND NOT EXISTS (
        SELECT FROM _face_sync_album_map AS put WHERE put.album_id = album.id AND put.target_asset_id = pair.target
      )

-- name: album_of_owner
-- Up to Immich 2.7.
album."ownerId" = %(target_user)s

-- name: album_of_member
-- Immich 3.0+.
EXISTS (
    SELECT
    FROM album_user AS member
    WHERE member."albumId" = album.id AND member."userId" = %(target_user)s AND member.role = 'owner'
)

-- name: kept
-- What is kept for a copy that is gone has no use beside the copy; a parked one may be purged.
SELECT map.target_user_id, map.source_asset_id, map.target_asset_id
FROM _face_sync_kept AS kept
JOIN _face_sync_asset_map AS map
    ON map.source_asset_id = kept.source_asset_id AND map.target_user_id = kept.target_user_id
JOIN asset AS copy ON copy.id = map.target_asset_id
WHERE kept.target_user_id = ANY(%(target_users)s) AND map.parked IS NULL
