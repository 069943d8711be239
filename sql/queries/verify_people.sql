-- What `listener verify` asks about faces and people. The two models differ in the names of columns and in the
-- few blocks whose names end in `_person` (up to Immich 3.1) or `_group` (from 3.2 on).

-- name: expected
-- The people that copied faces need, and whom those faces may belong to in the target's library:
-- in one cluster group (`shared`) the source's own group; a source's person who is the mirror of a person of
-- the target's own (`again`, jobs in both directions): that one; everybody else's mirror. What the target user
-- merged a mirror into (`adopted`) is as good. `made` is the person that was made for it, NULL for `again`.
-- Nobody is wanted only for faces that the target user gave to somebody else.
WITH pair AS (
    SELECT *
    FROM unnest(%(sources)s::uuid[], %(targets)s::uuid[], %(source_users)s::uuid[], %(target_users)s::uuid[])
        AS pair (source, target, source_user, target_user)
),
needed AS (
    SELECT
        face.{face_person} AS source_person, pair.source_user, pair.target_user,
        bool_or(have.{face_person} IS NULL OR have.{face_person} IS NOT DISTINCT FROM map.target_person_id) AS wanted
    FROM pair
    JOIN asset_face AS face ON face."assetId" = pair.source AND face."deletedAt" IS NULL
    JOIN person ON person.{person_id} = face.{face_person} AND person."ownerId" = pair.source_user
    LEFT JOIN _face_sync_face_map AS map ON map.source_face_id = face.id AND map.target_user_id = pair.target_user
    LEFT JOIN asset_face AS have ON have.id = map.target_face_id
    GROUP BY face.{face_person}, pair.source_user, pair.target_user
),
mapped AS (
    SELECT
        needed.*,
        {shared} AS shared,
        map.target_person_id AS mirror,
        coalesce((to_jsonb(map) ->> 'adopted')::boolean, false) AS adopted,
        original.ids AS originals,
        original.ids IS NOT NULL AND NOT (original.adopted AND map.target_person_id IS NOT NULL) AS again
    FROM needed
    LEFT JOIN _face_sync_person_map AS map
        ON map.source_person_id = needed.source_person AND map.target_user_id = needed.target_user
    LEFT JOIN LATERAL (
        SELECT
            array_agg(back.source_person_id) AS ids,
            bool_and(coalesce((to_jsonb(back) ->> 'adopted')::boolean, false)) AS adopted
        FROM _face_sync_person_map AS back
        JOIN person ON person.{person_id} = back.source_person_id AND person."ownerId" = needed.target_user
        WHERE back.target_person_id = needed.source_person
          AND back.source_user_id = needed.target_user
          AND back.target_user_id = needed.source_user
          AND back.source_person_id <> needed.source_person
    ) AS original ON true
),
accepted AS (
    SELECT
        mapped.*,
        CASE
            WHEN shared AND adopted THEN ARRAY[source_person, mirror]
            WHEN shared THEN ARRAY[source_person]
            WHEN again THEN originals
            WHEN mirror IS NOT NULL THEN ARRAY[mirror]
            ELSE '{{}}'::uuid[]
        END AS ids,
        CASE
            WHEN shared AND NOT adopted THEN source_person
            WHEN shared OR NOT again THEN mirror
        END AS made
    FROM mapped
),
expected AS MATERIALIZED (
    SELECT
        accepted.*,
        EXISTS (
            SELECT
            FROM person
            WHERE person.{person_id} = ANY(accepted.ids) AND person."ownerId" = accepted.target_user
        ) AS there,
        -- Whose attributes a person has who stands for several is not to be told.
        wanted AND NOT adopted AND count(*) OVER (PARTITION BY made, target_user) = 1 AS follows
    FROM accepted
)

-- name: shared_person
false

-- name: shared_group
(SELECT "clusterGroupId" FROM "user" WHERE id = needed.source_user)
= (SELECT "clusterGroupId" FROM "user" WHERE id = needed.target_user)

-- name: faces
-- Faces that belong on the copy. Immich would cluster an unassigned machine-learning face of a copy into a
-- new person, so those are held back until the source assigns them.
WITH pair AS (
    SELECT *
    FROM unnest(%(sources)s::uuid[], %(targets)s::uuid[], %(source_users)s::uuid[], %(target_users)s::uuid[])
        AS pair (source, target, source_user, target_user)
),
compared AS (
    SELECT
        pair.source,
        pair.target,
        want.id AS face,
        CASE
            WHEN have.id IS NULL THEN 'missing'
            WHEN have."assetId" <> pair.target OR map.target_asset_id <> pair.target THEN 'asset'
            ELSE 'column'
        END AS kind,
        {differing} AS differing
    FROM pair
    JOIN asset_face AS want
        ON want."assetId" = pair.source
        AND want."deletedAt" IS NULL
        AND NOT (want."sourceType" = 'machine-learning' AND want.{face_person} IS NULL)
    LEFT JOIN person ON person.{person_id} = want.{face_person} AND person."ownerId" = pair.source_user
    LEFT JOIN _face_sync_face_map AS map
        ON map.source_face_id = want.id AND map.target_user_id = pair.target_user
    LEFT JOIN asset_face AS have ON have.id = map.target_face_id
    -- A face of somebody whom the source's owner has no person for is nobody's to share.
    WHERE want.{face_person} IS NULL OR person.{person_id} IS NOT NULL OR have.id IS NOT NULL
)
SELECT target, face, kind, differing
FROM compared
WHERE kind <> 'column' OR differing <> '{{}}'

-- name: faces_extra
-- Copied faces whose source face is gone, deleted or unassigned, and faces that Immich's machine learning found
-- on a copy. Faces outside the map that the target user drew are theirs.
WITH pair AS (
    SELECT *
    FROM unnest(%(sources)s::uuid[], %(targets)s::uuid[], %(target_users)s::uuid[])
        AS pair (source, target, target_user)
)
SELECT
    map.target_user_id,
    pair.source,
    pair.target,
    CASE WHEN have.id IS NULL THEN 'face_map.orphan' ELSE 'asset_face.extra' END,
    map.target_face_id
FROM pair
JOIN _face_sync_face_map AS map ON map.target_asset_id = pair.target
LEFT JOIN asset_face AS want
    ON want.id = map.source_face_id
    AND want."assetId" = pair.source
    AND want."deletedAt" IS NULL
    AND NOT (want."sourceType" = 'machine-learning' AND want.{face_person} IS NULL)
LEFT JOIN asset_face AS have ON have.id = map.target_face_id
WHERE want.id IS NULL
UNION ALL
SELECT pair.target_user, pair.source, pair.target, 'asset_face.extra', found.id
FROM pair
JOIN asset_face AS found
    ON found."assetId" = pair.target AND found."sourceType" = 'machine-learning' AND found."deletedAt" IS NULL
LEFT JOIN _face_sync_face_map AS map ON map.target_face_id = found.id
WHERE map.target_face_id IS NULL
UNION ALL
SELECT map.target_user_id, NULL, map.target_asset_id, 'face_map.orphan', map.target_face_id
FROM _face_sync_face_map AS map
WHERE map.target_user_id = ANY(%(job_target_users)s)
  AND NOT EXISTS (SELECT FROM asset WHERE asset.id = map.target_asset_id)

-- name: face_people
-- Whose the copied faces are. A face that is no longer of the person that was noted, and still somebody's, was
-- given away by the target user (`own`). Where a person is missing that is told once, for the person.
{expected}
SELECT pair.target, map.target_face_id, rule.name, rule.detail
FROM pair
JOIN _face_sync_face_map AS map ON map.target_asset_id = pair.target
JOIN asset_face AS want
    ON want.id = map.source_face_id
    AND want."deletedAt" IS NULL
    AND NOT (want."sourceType" = 'machine-learning' AND want.{face_person} IS NULL)
JOIN asset_face AS have ON have.id = map.target_face_id
LEFT JOIN expected
    ON expected.source_person = want.{face_person}
    AND expected.source_user = pair.source_user
    AND expected.target_user = pair.target_user
CROSS JOIN LATERAL (
    SELECT
        have.{face_person} IS NOT NULL AND have.{face_person} IS DISTINCT FROM map.target_person_id AS own,
        coalesce(expected.shared, false) AS shared,
        coalesce(expected.shared AND expected.adopted, false) AS adopted
) AS face
CROSS JOIN LATERAL (
    VALUES
        (
            'asset_face.person',
            NOT face.own AND CASE
                WHEN want.{face_person} IS NULL THEN have.{face_person} IS NOT NULL
                ELSE have.{face_person} IS NULL OR NOT have.{face_person} = ANY(expected.ids)
            END,
            concat('is of person ', have.{face_person}, ', not ', expected.ids::text)
        ),
        (
            'face_map.person',
            CASE
                WHEN want.{face_person} IS NULL THEN map.target_person_id IS NOT NULL
                ELSE map.target_person_id IS NULL OR NOT map.target_person_id = ANY(expected.ids)
            END,
            concat('is noted as of person ', map.target_person_id, ', not ', expected.ids::text)
        ),
        (
            'asset_face.sourceType',
            NOT face.own AND NOT face.adopted
            AND have."sourceType"::text <> CASE WHEN face.shared THEN 'manual' ELSE want."sourceType"::text END,
            have."sourceType"::text
        )
) AS rule (name, broken, detail)
WHERE rule.broken AND (want.{face_person} IS NULL OR expected.there)

-- name: embeddings
-- A copied face has its source's embedding, or none as its source; none where its source votes already.
SELECT
    pair.target,
    CASE
        WHEN copy."faceId" IS NULL THEN 'face_search.missing'
        WHEN wanted.embedding IS NULL THEN 'face_search.extra'
        ELSE 'face_search.column'
    END,
    map.target_face_id
FROM unnest(%(targets)s::uuid[], %(source_users)s::uuid[], %(target_users)s::uuid[])
    AS pair (target, source_user, target_user)
JOIN _face_sync_face_map AS map ON map.target_asset_id = pair.target
JOIN asset_face AS want ON want.id = map.source_face_id
JOIN asset_face AS have ON have.id = map.target_face_id
LEFT JOIN face_search AS source ON source."faceId" = want.id
LEFT JOIN face_search AS copy ON copy."faceId" = have.id
CROSS JOIN LATERAL (SELECT CASE WHEN NOT ({silent}) THEN source.embedding END AS embedding) AS wanted
WHERE {judged} AND wanted.embedding IS DISTINCT FROM copy.embedding

-- name: silent_person
false

-- name: silent_group
(SELECT "clusterGroupId" FROM "user" WHERE id = pair.source_user)
= (SELECT "clusterGroupId" FROM "user" WHERE id = pair.target_user)

-- name: judged_person
true

-- name: judged_group
-- Nobody's face, and one that the target user gave away, matter to no recognition that we know of.
want."personGroupId" IS NOT NULL AND have."personGroupId" IS NOT DISTINCT FROM map.target_person_id

-- name: people
-- Every person that a copied face needs, with the one made for the target. Returns one row for each broken
-- rule, and one without rule for each whose thumbnail follows its source's: with the faces that the source's may show
-- (`seen` while its file is of that time), those of them on photos that are shared, and whether theirs is their own.
{expected}
SELECT
    expected.source_person, expected.target_user, copy.{person_id}, source."thumbnailPath", copy."thumbnailPath",
    rule.name, rule.detail, source."faceAssetId"::text, note.written ->> 'seen', note.written ->> 'time',
    coalesce(shared.faces, '{{}}'), note.chosen
FROM expected
JOIN person AS source
    ON source.{person_id} = expected.source_person AND source."ownerId" = expected.source_user
LEFT JOIN person AS copy ON copy.{person_id} = expected.made AND {copy_of_target}
LEFT JOIN asset_face AS feature ON feature.id = copy."faceAssetId"
LEFT JOIN asset AS feature_asset ON feature_asset.id = feature."assetId"
LEFT JOIN _face_sync_face_map AS wanted
    ON wanted.source_face_id = source."faceAssetId"
    AND wanted.target_user_id = expected.target_user
    AND wanted.target_person_id = expected.made
    -- Not one that the target user gave to somebody else.
    AND EXISTS (
        SELECT
        FROM asset_face AS face
        WHERE face.id = wanted.target_face_id AND face.{face_person} = wanted.target_person_id
    )
    -- Nor one on a copy that is parked.
    AND NOT EXISTS (
        SELECT
        FROM _face_sync_asset_map AS placed
        WHERE placed.target_asset_id = wanted.target_asset_id AND to_jsonb(placed) ->> 'parked' IS NOT NULL
    )
LEFT JOIN _face_sync_face_map AS copied ON copied.target_face_id = copy."faceAssetId"
LEFT JOIN _face_sync_asset_map AS feature_map ON feature_map.target_asset_id = feature_asset.id
LEFT JOIN _face_sync_person_map AS said_map
    ON said_map.source_person_id = expected.source_person AND said_map.target_user_id = expected.target_user
CROSS JOIN LATERAL (
    SELECT coalesce(to_jsonb(said_map) -> 'written', '{{}}') AS written
) AS known
CROSS JOIN LATERAL (
    SELECT
        known.written,
        -- Another feature photo than was given to them.
        coalesce(
            known.written ? 'feature'
            AND copy."faceAssetId"::text <> known.written ->> 'feature'
            AND feature_asset."ownerId" = expected.target_user
            AND to_jsonb(feature_map) ->> 'parked' IS NULL,
            false
        ) AS chosen
) AS note
LEFT JOIN LATERAL (
    -- Faces on photos with a copy that is there for this target, and that nothing forbids to share now.
    SELECT array_agg(face.id::text) AS faces
    FROM asset_face AS face
    JOIN asset AS photo ON photo.id = face."assetId"
    JOIN _face_sync_asset_map AS placed
        ON placed.source_asset_id = photo.id AND placed.target_user_id = expected.target_user
    JOIN asset AS shown ON shown.id = placed.target_asset_id AND shown."ownerId" = expected.target_user
    WHERE face.id::text IN (source."faceAssetId"::text, note.written ->> 'shows', note.written ->> 'seen')
      AND photo."ownerId" = expected.source_user
      AND placed.source_user_id = expected.source_user
      AND to_jsonb(placed) ->> 'parked' IS NULL
      AND photo."deletedAt" IS NULL
      AND photo.status = 'active'
      AND NOT photo."isOffline"
      AND photo.visibility <> 'locked'
) AS shared ON true
LEFT JOIN LATERAL (
    -- What a user says of a person: their own where it is not what was written last for them.
    SELECT string_agg(said.name, ', ') AS names
    FROM (
        VALUES
            ('name', coalesce(to_jsonb(copy.name), 'null'), coalesce(to_jsonb(source.name), 'null')),
            ('birthDate', coalesce(to_jsonb(copy."birthDate"), 'null'), coalesce(to_jsonb(source."birthDate"), 'null')),
            ('isHidden', coalesce(to_jsonb(copy."isHidden"), 'null'), coalesce(to_jsonb(source."isHidden"), 'null')),
            ('color', coalesce(to_jsonb(copy.color), 'null'), coalesce(to_jsonb(source.color), 'null'))
    ) AS said (name, have, want)
    WHERE {said_differs}
      AND NOT CASE
          WHEN note.written ? said.name THEN said.have <> note.written -> said.name
          ELSE said.want IN ('null', '""')
      END
) AS said ON true
CROSS JOIN LATERAL (
    VALUES
        (NULL, copy.{person_id} IS NOT NULL AND expected.follows AND {thumbnail_follows}, NULL),
        (
            'person_map.mirror',
            -- Each may be the other's, after they had one person group.
            expected.again AND NOT expected.shared AND expected.mirror <> ALL(expected.originals),
            concat('has a mirror, ', expected.mirror, ', though it is one: of ', expected.originals::text)
        ),
        (
            'person.missing',
            expected.wanted AND copy.{person_id} IS NULL AND (expected.shared OR NOT expected.again),
            'there is no person for it in the target''s library'
        ),
        (
            'person.id',
            NOT expected.shared AND NOT expected.adopted
            AND NOT (
                substr(copy.{person_id}::text, 15, 1) = '4'
                AND substr(copy.{person_id}::text, 20, 1) IN ('8', '9', 'a', 'b')
            ),
            'is not shaped as UUID version 4'
        ),
        ('person.ownerId', copy."ownerId" <> expected.target_user, copy."ownerId"::text),
        (
            'person.column',
            copy.{person_id} IS NOT NULL AND expected.follows AND said.names IS NOT NULL,
            said.names
        ),
        (
            'person.faceAssetId',
            copy.{person_id} IS NOT NULL AND expected.follows AND {feature_wrong},
            concat('the feature face is ', copy."faceAssetId")
        ),
        (
            'ml.person_thumbnails',
            expected.follows AND copy."thumbnailPath" = '' AND source."thumbnailPath" <> ''
            AND source."faceAssetId"::text = ANY(shared.faces)
            AND coalesce(note.written ->> 'seen' = source."faceAssetId"::text, true),
            'would get a thumbnail from Immich'
        ),
        (
            'person.thumbnail.private',
            expected.follows AND copy."thumbnailPath" <> '' AND note.written ? 'shows'
            AND NOT coalesce(note.written ->> 'shows' = ANY(shared.faces), false),
            concat('shows face ', note.written ->> 'shows', ', whose photo is not shared')
        ),
        (
            'person_group.clusterGroupId',
            NOT expected.shared AND {group_wrong},
            'the group is not of the target''s cluster group'
        )
) AS rule (name, broken, detail)
WHERE rule.broken

-- name: copy_of_target_person
true

-- name: copy_of_target_group
copy."ownerId" = expected.target_user

-- name: thumbnail_follows_person
true

-- name: thumbnail_follows_group
-- Where the target user chose a face on a photo of their own, the thumbnail is theirs.
(copy."faceAssetId" IS NULL OR copied.target_face_id IS NOT NULL)

-- name: said_differs_person
said.have <> said.want

-- name: said_differs_group
-- Each user's own, from the moment on that something stands there.
said.name IN ('name', 'birthDate') AND said.have IN ('null', '""') AND said.want NOT IN ('null', '""')

-- name: feature_wrong_person
CASE
    WHEN note.chosen THEN false
    WHEN wanted.target_face_id IS NOT NULL THEN copy."faceAssetId" IS DISTINCT FROM wanted.target_face_id
    WHEN copy."faceAssetId" IS NULL THEN source."faceAssetId" IS NOT NULL
    ELSE feature_asset."ownerId" <> expected.target_user
END

-- name: feature_wrong_group
CASE
    WHEN copy."faceAssetId" IS NULL THEN source."faceAssetId" IS NOT NULL
    ELSE feature_asset."ownerId" <> expected.target_user
END

-- name: group_wrong_person
false

-- name: group_wrong_group
expected.made IS NOT NULL
AND NOT EXISTS (
    SELECT
    FROM person_group
    JOIN "user" ON "user"."clusterGroupId" = person_group."clusterGroupId"
    WHERE person_group.id = expected.made AND "user".id = expected.target_user
)

-- name: parked_pictures
-- Nobody of the target's shows a photo whose copy is parked. A mirror that has the source's thumbnail shows what is noted
-- of it, which is judged with the mirrors.
SELECT map.target_user_id, mine.{person_id}
FROM _face_sync_asset_map AS map
JOIN asset_face AS face ON face."assetId" = map.target_asset_id
JOIN person AS mine ON mine."faceAssetId" = face.id AND mine."ownerId" = map.target_user_id
WHERE map.target_user_id = ANY(%(job_target_users)s)
  AND to_jsonb(map) ->> 'parked' IS NOT NULL
  AND mine."thumbnailPath" <> ''
  AND NOT EXISTS (
        SELECT
        FROM _face_sync_person_map AS mirror
        WHERE mirror.target_person_id = mine.{person_id} AND mirror.target_user_id = map.target_user_id
          AND NOT coalesce((to_jsonb(mirror) ->> 'adopted')::boolean, false)
          AND coalesce(to_jsonb(mirror) -> 'written', '{{}}') ? 'shows'
    )

-- name: people_unneeded
-- People made for the target that no copied face needs may stay only while they hold faces of the target's own.
-- One that the target user had before is theirs in any case.
{expected}
SELECT
    map.target_user_id,
    map.target_person_id,
    CASE WHEN mine.there THEN 'person.empty' ELSE 'person_map.orphan' END,
    CASE WHEN mine.there THEN 'has no faces' ELSE 'is gone, its map row is not' END
FROM _face_sync_person_map AS map
CROSS JOIN LATERAL (
    SELECT EXISTS (
        SELECT
        FROM person
        WHERE person.{person_id} = map.target_person_id AND person."ownerId" = map.target_user_id
    ) AS there
) AS mine
WHERE (map.source_user_id, map.target_user_id) IN (
        SELECT source_user, target_user
        FROM unnest(%(job_source_users)s::uuid[], %(job_target_users)s::uuid[])
            AS users (source_user, target_user)
    )
  AND NOT EXISTS (
        SELECT
        FROM expected
        WHERE expected.source_person = map.source_person_id
          AND expected.source_user = map.source_user_id
          AND expected.target_user = map.target_user_id
          AND expected.wanted
    )
  AND NOT (mine.there AND coalesce((to_jsonb(map) ->> 'adopted')::boolean, false))
  AND NOT EXISTS (
        SELECT
        FROM asset_face AS face
        JOIN asset ON asset.id = face."assetId"
        WHERE face.{face_person} = map.target_person_id AND asset."ownerId" = map.target_user_id
    )
  -- One whose faces their user gave away just now: where that is a merge, Immich has not finished it.
  AND NOT EXISTS (
        SELECT
        FROM _face_sync_face_map AS given
        JOIN asset_face AS face ON face.id = given.target_face_id
        WHERE given.target_person_id = map.target_person_id
          AND given.target_user_id = map.target_user_id
          AND face.{face_person} <> map.target_person_id
          AND face."updatedAt" > now() - interval '1 minute'
    )
UNION ALL
-- Nor may a mapping name nobody of the source's: who stood for them is the target's own then.
SELECT
    map.target_user_id, map.target_person_id, 'person_map.orphan',
    concat('stands for ', map.source_person_id, ', who is no more')
FROM _face_sync_person_map AS map
WHERE (map.source_user_id, map.target_user_id) IN (
        SELECT source_user, target_user
        FROM unnest(%(job_source_users)s::uuid[], %(job_target_users)s::uuid[])
            AS users (source_user, target_user)
    )
  AND NOT EXISTS (
        SELECT
        FROM person
        WHERE person.{person_id} = map.source_person_id AND person."ownerId" = map.source_user_id
    )
  AND EXISTS (
        SELECT
        FROM person
        WHERE person.{person_id} = map.target_person_id AND person."ownerId" = map.target_user_id
    )
  AND (
        coalesce((to_jsonb(map) ->> 'adopted')::boolean, false)
        OR EXISTS (
            SELECT
            FROM asset_face AS face
            JOIN asset ON asset.id = face."assetId"
            WHERE face.{face_person} = map.target_person_id AND asset."ownerId" = map.target_user_id
        )
    )
  -- From 3.2 on faces keep a person whom their owner deleted, as long as others have them.
  AND NOT EXISTS (
        SELECT
        FROM _face_sync_face_map AS copied
        JOIN asset_face AS face ON face.id = copied.source_face_id
        WHERE copied.target_person_id = map.target_person_id
          AND copied.target_user_id = map.target_user_id
          AND face.{face_person} = map.source_person_id
    )
  -- Nor is anything changed of a parked copy: who was on it waits with it.
  AND NOT EXISTS (
        SELECT
        FROM _face_sync_face_map AS copied
        JOIN _face_sync_asset_map AS away ON away.target_asset_id = copied.target_asset_id AND away.parked IS NOT NULL
        WHERE copied.target_person_id = map.target_person_id AND copied.target_user_id = map.target_user_id
    )
