-- What surrounds a copy: albums, tags, stacks.

-- name: stack_members
-- The source stacks concerned, and the copies that may be in their mirrors: none that is locked, hidden or in the
-- trash, since a stack hides what its cover is not; none in a stack that the target user made, which is theirs; and
-- none that they took out of this mirror. apart: they took the mirror apart, or Immich did when they deleted the others.
WITH concerned AS (
    SELECT asked.id, coalesce(map.target_stack_id, pg_temp.copy_id(asked.id, %(target_user)s)) AS mirror,
           map.target_stack_id IS NOT NULL
               AND NOT EXISTS (SELECT FROM stack WHERE stack.id = map.target_stack_id) AS apart
    FROM (
        SELECT source."stackId" AS id
        FROM asset AS source WHERE source.id = ANY(%(sources)s::uuid[]) AND source."stackId" IS NOT NULL
        UNION
        SELECT map.source_stack_id
        FROM asset AS copy JOIN public._face_sync_stack_map AS map ON map.target_stack_id = copy."stackId"
        WHERE copy.id = ANY(%(targets)s::uuid[])
    ) AS asked
    LEFT JOIN public._face_sync_stack_map AS map
           ON map.source_stack_id = asked.id AND map.target_user_id = %(target_user)s
), member AS (
    SELECT concerned.id AS source_stack, concerned.mirror, copy.id, copy."stackId",
           source.id = stack."primaryAssetId" AS cover,
           row_number() OVER (PARTITION BY concerned.id
                              ORDER BY source.id = stack."primaryAssetId" DESC, source."fileCreatedAt", source.id) AS place,
           count(*) OVER (PARTITION BY concerned.id) AS members
    FROM concerned
    JOIN stack ON stack.id = concerned.id
    JOIN asset AS source ON source."stackId" = concerned.id
    JOIN public._face_sync_asset_map AS map ON map.source_asset_id = source.id AND map.target_user_id = %(target_user)s
    JOIN asset AS copy ON copy.id = map.target_asset_id
    LEFT JOIN public._face_sync_base AS base ON base.target_asset_id = copy.id
    WHERE NOT concerned.apart
      AND copy."deletedAt" IS NULL AND copy.visibility IN ('timeline', 'archive')
      AND (copy."stackId" IS NULL
           OR EXISTS (SELECT FROM public._face_sync_stack_map AS ours WHERE ours.target_stack_id = copy."stackId"))
      AND (copy."stackId" IS NOT DISTINCT FROM concerned.mirror OR base.stack_id IS DISTINCT FROM concerned.mirror)
)

-- name: stack_release
-- Copies in a mirrored stack in which they are no longer: taken out before the stack changes or goes. By us: they may
-- come back.
{members}, released AS (
    UPDATE asset AS mine SET "stackId" = NULL
    FROM public._face_sync_stack_map AS map
    WHERE map.target_stack_id = mine."stackId"
      AND map.source_stack_id IN (SELECT id FROM concerned)
      AND EXISTS (SELECT FROM public._face_sync_asset_map AS ours WHERE ours.target_asset_id = mine.id)
      AND NOT EXISTS (
          SELECT FROM member
          WHERE member.id = mine.id AND member.source_stack = map.source_stack_id AND member.members > 1)
    RETURNING mine.id
)
UPDATE public._face_sync_base AS base SET stack_id = NULL FROM released WHERE base.target_asset_id = released.id

-- name: stack_make
-- Two members make a stack. It has the source's cover, or its first member where the cover is not shared; or the member
-- that the target user has chosen: another one than we did last.
{members}, chosen AS (
    SELECT map.target_stack_id AS mirror
    FROM member
    JOIN stack ON stack.id = member.mirror AND stack."primaryAssetId" = member.id
    JOIN public._face_sync_stack_map AS map
      ON map.source_stack_id = member.source_stack AND map.target_user_id = %(target_user)s
     AND map.target_stack_id = stack.id AND map.cover_id <> stack."primaryAssetId"
), noted AS (
    INSERT INTO public._face_sync_stack_map AS map (source_stack_id, target_stack_id, target_user_id, cover_id)
    SELECT source_stack, mirror, %(target_user)s, id
    FROM member WHERE members > 1 AND place = 1 AND mirror NOT IN (SELECT mirror FROM chosen)
    ON CONFLICT (source_stack_id, target_user_id) DO UPDATE SET cover_id = excluded.cover_id
    WHERE map.cover_id IS DISTINCT FROM excluded.cover_id
)
INSERT INTO stack AS mine (id, "primaryAssetId", "ownerId", "updateId")
SELECT member.mirror, member.id, %(target_user)s, pg_temp.ahead()
FROM member WHERE members > 1 AND place = 1 AND mirror NOT IN (SELECT mirror FROM chosen)
ON CONFLICT (id) DO UPDATE SET "primaryAssetId" = excluded."primaryAssetId"
WHERE mine."primaryAssetId" <> excluded."primaryAssetId"

-- name: stack_join
-- Only out of the stack in which it was read: its user may be moving it at this very moment.
{members}
UPDATE asset AS mine SET "stackId" = member.mirror
FROM member
WHERE member.id = mine.id AND member.members > 1
  AND mine."stackId" IS DISTINCT FROM member.mirror AND mine."stackId" IS NOT DISTINCT FROM member."stackId"

-- name: stack_note
-- What is noted here and found elsewhere later was taken out by its user.
{members}
INSERT INTO public._face_sync_base AS base (target_asset_id, stack_id)
SELECT member.id, member.mirror FROM member WHERE member."stackId" = member.mirror
ON CONFLICT (target_asset_id) DO UPDATE SET stack_id = excluded.stack_id
WHERE base.stack_id IS DISTINCT FROM excluded.stack_id

-- name: stack_dissolve
-- A mirrored stack that no copy is in: it goes. What the target user added to it is theirs again, unstacked. One that
-- they took apart is remembered as long as the source's is there.
WITH gone AS (
    DELETE FROM public._face_sync_stack_map AS map
    WHERE map.target_user_id = %(target_user)s
      AND CASE WHEN EXISTS (SELECT FROM stack WHERE stack.id = map.target_stack_id)
               THEN NOT EXISTS (
                   SELECT FROM asset AS copy JOIN public._face_sync_asset_map AS ours ON ours.target_asset_id = copy.id
                   WHERE copy."stackId" = map.target_stack_id)
               ELSE NOT EXISTS (SELECT FROM stack WHERE stack.id = map.source_stack_id) END
    RETURNING map.target_stack_id
)
DELETE FROM stack USING gone WHERE stack.id = gone.target_stack_id

-- name: stack_leave
-- Before copies are deleted or parked: they leave mirrored stacks, which end with fewer than two. It is not their user
-- who takes them out or apart: nothing of it is noted, so that all is as before when they are back.
WITH mirrored AS (
    SELECT map.target_stack_id AS id, count(*) FILTER (WHERE NOT member.id = ANY(%(targets)s::uuid[])) < 2 AS ends
    FROM public._face_sync_stack_map AS map JOIN asset AS member ON member."stackId" = map.target_stack_id
    WHERE map.target_stack_id IN (SELECT copy."stackId" FROM asset AS copy WHERE copy.id = ANY(%(targets)s::uuid[]))
    GROUP BY map.target_stack_id
), leaving AS (
    UPDATE asset AS mine SET "stackId" = NULL
    FROM mirrored
    WHERE mine."stackId" = mirrored.id AND (mirrored.ends OR mine.id = ANY(%(targets)s::uuid[]))
    RETURNING mine.id
), forgotten AS (
    UPDATE public._face_sync_base AS base SET stack_id = NULL FROM leaving WHERE base.target_asset_id = leaving.id
), ended AS (
    DELETE FROM public._face_sync_stack_map AS map USING mirrored
    WHERE map.target_stack_id = mirrored.id AND mirrored.ends
)
DELETE FROM stack USING mirrored WHERE stack.id = mirrored.id AND mirrored.ends

-- name: stack_uncover
-- Before copies are deleted or parked: PostgreSQL keeps an asset that is the cover of a stack, the target user's own
-- stacks too, and behind a cover that nobody sees the others are not seen either. The next member becomes the cover, one
-- that is to be seen first. By us, not by the target user's choice.
WITH led AS (
    SELECT stack.id,
           (SELECT member.id FROM asset AS member
            WHERE member."stackId" = stack.id AND NOT member.id = ANY(%(targets)s::uuid[])
            ORDER BY member."deletedAt" IS NOT NULL OR member.visibility IN ('locked', 'hidden'),
                     member."fileCreatedAt", member.id LIMIT 1) AS next
    FROM stack WHERE stack."primaryAssetId" = ANY(%(targets)s::uuid[])
), noted AS (
    UPDATE public._face_sync_stack_map AS map SET cover_id = led.next FROM led WHERE map.target_stack_id = led.id
)
UPDATE stack SET "primaryAssetId" = led.next FROM led WHERE stack.id = led.id AND led.next IS NOT NULL

-- name: stack_drop
-- Stacks that one photo or none is left of.
DELETE FROM stack
WHERE stack.id IN (
          SELECT copy."stackId" FROM asset AS copy WHERE copy.id = ANY(%(targets)s::uuid[])
          UNION SELECT led.id FROM stack AS led WHERE led."primaryAssetId" = ANY(%(targets)s::uuid[]))
  AND (SELECT count(*) FROM asset AS member
       WHERE member."stackId" = stack.id AND NOT member.id = ANY(%(targets)s::uuid[])) < 2

-- name: tags_wanted
-- The tags that sources of this batch have.
WITH RECURSIVE wanted AS (
    SELECT batch.target_id, tag.id AS source_tag, tag.value
    FROM unnest(%(sources)s::uuid[], %(targets)s::uuid[]) AS batch(source_id, target_id)
    JOIN tag_asset ON tag_asset.{tag_asset_asset} = batch.source_id
    JOIN tag ON tag.id = tag_asset.{tag_asset_tag}
    WHERE %(tags)s
)

-- name: tags_remove
-- Tags that we gave and that the source has no more. The target's own tags are not in our table.
{wanted}, gone AS (
    DELETE FROM public._face_sync_tag_map AS map
    WHERE map.target_asset_id = ANY(%(targets)s::uuid[])
      AND NOT EXISTS (SELECT FROM wanted WHERE wanted.target_id = map.target_asset_id AND wanted.value = map.value)
    RETURNING map.target_asset_id, map.value
)
DELETE FROM tag_asset USING gone, tag
WHERE tag."userId" = %(target_user)s AND tag.value = gone.value
  AND tag_asset.{tag_asset_asset} = gone.target_asset_id AND tag_asset.{tag_asset_tag} = tag.id

-- name: tags_make
-- Tags belong to one user: the target gets their own of the same value, with its parents. Not one that some copy was
-- given and that is no more: they have deleted or renamed it, and it counts as taken off this copy, too. Either user may
-- rename a tag, which keeps its id: one that is taken is not used again.
{wanted}, unknown AS (
    SELECT wanted.target_id, wanted.source_tag, wanted.value, EXISTS (
               SELECT FROM tag_asset AS theirs
               JOIN public._face_sync_asset_map AS copied
                 ON copied.source_asset_id = theirs.{tag_asset_asset} AND copied.target_user_id = %(target_user)s
               JOIN public._face_sync_tag_map AS given
                 ON given.target_asset_id = copied.target_asset_id AND given.value = wanted.value
               WHERE theirs.{tag_asset_tag} = wanted.source_tag) AS refused
    FROM wanted
    WHERE NOT EXISTS (SELECT FROM tag AS own WHERE own."userId" = %(target_user)s AND own.value = wanted.value)
      AND NOT EXISTS (
          SELECT FROM public._face_sync_tag_map AS map
          WHERE map.target_asset_id = wanted.target_id AND map.value = wanted.value)
), noted AS (
    INSERT INTO public._face_sync_tag_map (target_asset_id, value)
    SELECT target_id, value FROM unknown WHERE refused
    ON CONFLICT DO NOTHING
), line AS (
    SELECT tag.id, tag.value, tag.color, tag."parentId"
    FROM unknown JOIN tag ON tag.id = unknown.source_tag WHERE NOT unknown.refused
    UNION
    SELECT tag.id, tag.value, tag.color, tag."parentId" FROM line JOIN tag ON tag.id = line."parentId"
), family AS MATERIALIZED (
    SELECT line.*, coalesce(
               (SELECT own.id FROM tag AS own WHERE own."userId" = %(target_user)s AND own.value = line.value),
               CASE WHEN EXISTS (SELECT FROM tag AS taken WHERE taken.id = pg_temp.copy_id(line.id, %(target_user)s))
                    THEN gen_random_uuid() ELSE pg_temp.copy_id(line.id, %(target_user)s) END) AS own_id
    FROM line
)
INSERT INTO tag (id, "userId", value, color, "parentId", "updateId")
SELECT family.own_id, %(target_user)s, family.value, family.color, parent.own_id, pg_temp.ahead()
FROM family LEFT JOIN family AS parent ON parent.id = family."parentId"
ON CONFLICT ("userId", value) DO NOTHING

-- name: tags_drop
-- Tags that only copies had which are gone now: their words go, too. Only those that we made, by their id, and that
-- nothing of the target's is left in: no photo, no tag of theirs below, and no note of a copy from which they took it.
WITH given AS (
    SELECT value FROM public._face_sync_tag_map WHERE target_asset_id = ANY(%(targets)s::uuid[])
    UNION
    SELECT tag.value FROM tag_asset JOIN tag ON tag.id = tag_asset.{tag_asset_tag}
    WHERE tag_asset.{tag_asset_asset} = ANY(%(sources)s::uuid[])
), family AS (
    SELECT tag.id, tag.value
    FROM tag
    WHERE tag."userId" = %(target_user)s
      AND EXISTS (SELECT FROM given WHERE given.value = tag.value OR starts_with(given.value, tag.value || '/'))
)
DELETE FROM tag USING family
WHERE tag.id = family.id
  AND NOT EXISTS (
      SELECT FROM tag AS below
      LEFT JOIN tag AS theirs ON theirs."userId" = %(source_user)s AND theirs.value = below.value
      WHERE below."userId" = %(target_user)s
        AND (below.id = family.id OR starts_with(below.value, family.value || '/'))
        AND (below.id IS DISTINCT FROM pg_temp.copy_id(theirs.id, %(target_user)s)
             OR EXISTS (SELECT FROM tag_asset WHERE tag_asset.{tag_asset_tag} = below.id)
             OR EXISTS (
                 SELECT FROM public._face_sync_tag_map AS other
                 JOIN public._face_sync_asset_map AS map ON map.target_asset_id = other.target_asset_id
                 WHERE other.value = below.value AND map.target_user_id = %(target_user)s
                   AND NOT other.target_asset_id = ANY(%(targets)s::uuid[]))))

-- name: tags_closure
-- Immich finds photos of a tag and of all below it by this table.
WITH RECURSIVE above AS (
    SELECT tag.id AS descendant, tag.id AS ancestor, tag."parentId" AS parent
    FROM tag
    WHERE tag."userId" = %(target_user)s
      AND NOT EXISTS (SELECT FROM tag_closure WHERE tag_closure.id_descendant = tag.id AND tag_closure.id_ancestor = tag.id)
    UNION
    SELECT above.descendant, parent.id, parent."parentId" FROM above JOIN tag AS parent ON parent.id = above.parent
)
INSERT INTO tag_closure (id_ancestor, id_descendant)
SELECT ancestor, descendant FROM above
ON CONFLICT DO NOTHING

-- name: tags_give
-- A tag that the target user has taken off a copy stays off: it is in our table already.
{wanted}, fresh AS (
    INSERT INTO tag_asset ({tag_asset_asset}, {tag_asset_tag})
    SELECT wanted.target_id, own.id
    FROM wanted JOIN tag AS own ON own."userId" = %(target_user)s AND own.value = wanted.value
    WHERE NOT EXISTS (
        SELECT FROM public._face_sync_tag_map AS map
        WHERE map.target_asset_id = wanted.target_id AND map.value = wanted.value)
    ON CONFLICT DO NOTHING
    RETURNING {tag_asset_asset} AS asset_id, {tag_asset_tag} AS tag_id
)
INSERT INTO public._face_sync_tag_map (target_asset_id, value)
SELECT fresh.asset_id, tag.value FROM fresh JOIN tag ON tag.id = fresh.tag_id
ON CONFLICT DO NOTHING

-- name: album_add
-- Copies that were never put into this album by us: one that its user took out of it stays out. Not what its user
-- locked or threw away. Motion parts belong to their stills.
WITH fresh AS (
    INSERT INTO public._face_sync_album_map (target_asset_id, album_id)
    SELECT copy.id, %(album)s FROM asset AS copy
    WHERE copy.id = ANY(%(targets)s::uuid[])
      AND copy.visibility IN ('timeline', 'archive') AND copy."deletedAt" IS NULL
    ON CONFLICT DO NOTHING
    RETURNING target_asset_id
)
INSERT INTO album_asset ({album_asset_album}, {album_asset_asset}, "updateId")
SELECT %(album)s, fresh.target_asset_id, pg_temp.ahead() FROM fresh
ON CONFLICT DO NOTHING

-- name: album_cover
-- As Immich does: the first photo becomes the cover of an album that has none. One that is in it.
UPDATE album SET "albumThumbnailAssetId" = cover.id
FROM (SELECT copy.id
      FROM asset AS copy
      JOIN album_asset AS entry ON entry.{album_asset_asset} = copy.id AND entry.{album_asset_album} = %(album)s
      WHERE copy.id = ANY(%(targets)s::uuid[])
        AND copy.visibility IN ('timeline', 'archive') AND copy."deletedAt" IS NULL
      ORDER BY copy."localDateTime" DESC, copy.id LIMIT 1) AS cover
WHERE album.id = %(album)s AND album."albumThumbnailAssetId" IS NULL

-- name: album_uncover
-- Copies that go, that are parked or that we hide are no album's cover any more, whoever's it is: another photo of it is.
WITH led AS (
    SELECT album.id, (
        SELECT member.id
        FROM album_asset AS entry JOIN asset AS member ON member.id = entry.{album_asset_asset}
        WHERE entry.{album_asset_album} = album.id AND NOT member.id = ANY(%(targets)s::uuid[])
          AND member.visibility IN ('timeline', 'archive') AND member."deletedAt" IS NULL
        ORDER BY member."localDateTime" DESC, member.id LIMIT 1) AS next
    FROM album JOIN asset AS cover ON cover.id = album."albumThumbnailAssetId"
    WHERE cover.id = ANY(%(targets)s::uuid[]) AND {going}
)
UPDATE album SET "albumThumbnailAssetId" = led.next FROM led WHERE album.id = led.id

-- name: album_owner_column
-- Is the album there and the target's own? Up to 2.7 the owner is a column of album.
SELECT EXISTS (SELECT FROM album WHERE id = %(album)s AND "deletedAt" IS NULL AND "ownerId" = %(target_user)s)

-- name: album_owner_member
-- From 3.0 the owner is a member with that role.
SELECT EXISTS (
    SELECT FROM album JOIN album_user AS member ON member."albumId" = album.id
    WHERE album.id = %(album)s AND album."deletedAt" IS NULL
      AND member."userId" = %(target_user)s AND member.role = 'owner')
