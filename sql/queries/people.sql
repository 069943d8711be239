-- name: adopt_survivors
-- The target user merged a mirrored person into another one: the person is gone, and its faces name the
-- survivor. From now on that one stands for the source's person; it stays what it is.
-- A merge takes all faces along. Where most of them are nobody's the person was deleted, after some faces had been
-- given to somebody else: then nobody survived, and who was only adopted stands for the source's person no more.
WITH concerned AS (
    SELECT DISTINCT map.target_person_id AS gone
    FROM public._face_sync_person_map AS map
    WHERE map.target_user_id = %(target_user)s
      AND map.source_user_id = %(source_user)s
      AND (map.target_person_id = ANY(%(ids)s::uuid[])
           OR map.target_person_id IN (SELECT target_person_id FROM public._face_sync_face_map WHERE target_asset_id = ANY(%(targets)s::uuid[]))
           OR map.source_person_id IN (SELECT {face_person} FROM asset_face WHERE "assetId" = ANY(%(sources)s::uuid[])))
      AND NOT EXISTS (
          SELECT FROM person WHERE person.{person_id} = map.target_person_id AND person."ownerId" = %(target_user)s)
), survivor AS (
    SELECT DISTINCT ON (concerned.gone) concerned.gone, person.{person_id} AS id
    FROM concerned
    LEFT JOIN public._face_sync_face_map AS copied
           ON copied.target_person_id = concerned.gone AND copied.target_user_id = %(target_user)s
    LEFT JOIN asset_face AS face ON face.id = copied.target_face_id
    LEFT JOIN person ON person.{person_id} = face.{face_person} AND person."ownerId" = %(target_user)s
    GROUP BY concerned.gone, person.{person_id}
    ORDER BY concerned.gone, count(*) DESC, person.{person_id}
), faces AS (
    UPDATE public._face_sync_face_map AS copied SET target_person_id = survivor.id
    FROM survivor, asset_face AS face
    WHERE copied.target_person_id = survivor.gone AND copied.target_user_id = %(target_user)s
      AND face.id = copied.target_face_id AND face.{face_person} = survivor.id
), forgotten AS (
    DELETE FROM public._face_sync_person_map AS map USING survivor
    WHERE map.target_person_id = survivor.gone AND map.target_user_id = %(target_user)s
      AND survivor.id IS NULL AND map.adopted
    RETURNING survivor.gone, survivor.id
), adopted AS (
    UPDATE public._face_sync_person_map AS map SET target_person_id = survivor.id, adopted = true
    FROM survivor
    WHERE map.target_person_id = survivor.gone AND map.target_user_id = %(target_user)s AND survivor.id IS NOT NULL
    RETURNING survivor.gone, survivor.id
)
SELECT gone, id FROM adopted UNION ALL SELECT gone, id FROM forgotten

-- name: follow_sources
-- From 3.2 on Immich changes the key of a person in place, when users leave a cluster group or people are merged: it is
-- known by when it was made. Who stands for a source's person stands for who they are by now.
UPDATE public._face_sync_person_map AS map SET source_person_id = fresh.id
FROM (
    SELECT DISTINCT ON (person."personGroupId") gone.id AS map_id, person."personGroupId" AS id
    FROM public._face_sync_person_map AS gone
    JOIN person ON person."ownerId" = %(source_user)s
               AND person."createdAt" = (gone.written ->> 'source_created')::timestamptz
    WHERE gone.source_user_id = %(source_user)s AND gone.target_user_id = %(target_user)s
      AND (gone.source_person_id = ANY(%(ids)s::uuid[]) OR gone.target_person_id = ANY(%(ids)s::uuid[]) OR {concerned})
      AND NOT EXISTS (
          SELECT FROM person AS former
          WHERE former."personGroupId" = gone.source_person_id AND former."ownerId" = gone.source_user_id)
      AND NOT EXISTS (
          SELECT FROM public._face_sync_person_map AS other
          WHERE other.source_person_id = person."personGroupId" AND other.target_user_id = gone.target_user_id)
    ORDER BY person."personGroupId", gone.id
) AS fresh
WHERE map.id = fresh.map_id

-- name: follow_targets
-- The same of who stands for them. Their faces may have moved by now, or be still to be moved.
WITH fresh AS (
    SELECT DISTINCT ON (person."personGroupId") gone.target_person_id AS former, person."personGroupId" AS id
    FROM public._face_sync_person_map AS gone
    JOIN person ON person."ownerId" = %(target_user)s AND person."createdAt" = (gone.written ->> 'created')::timestamptz
    WHERE gone.source_user_id = %(source_user)s AND gone.target_user_id = %(target_user)s
      AND (gone.source_person_id = ANY(%(ids)s::uuid[]) OR gone.target_person_id = ANY(%(ids)s::uuid[]) OR {concerned})
      AND NOT EXISTS (
          SELECT FROM person AS former
          WHERE former."personGroupId" = gone.target_person_id AND former."ownerId" = gone.target_user_id)
      AND NOT EXISTS (
          SELECT FROM public._face_sync_person_map AS other
          WHERE other.target_person_id = person."personGroupId" AND other.target_user_id = gone.target_user_id)
    ORDER BY person."personGroupId", gone.target_person_id
), faces AS (
    UPDATE public._face_sync_face_map AS copied SET target_person_id = fresh.id
    FROM fresh, asset_face AS face
    WHERE copied.target_person_id = fresh.former AND copied.target_user_id = %(target_user)s
      AND face.id = copied.target_face_id AND face."personGroupId" = fresh.id
)
UPDATE public._face_sync_person_map AS map SET target_person_id = fresh.id
FROM fresh
WHERE map.target_person_id = fresh.former AND map.target_user_id = %(target_user)s

-- name: concerned
gone.target_person_id IN (SELECT target_person_id FROM public._face_sync_face_map WHERE target_asset_id = ANY(%(targets)s::uuid[]))

-- name: tell_adopted
-- Whom this concerns beside the photos at hand: copies with a face of who is gone, as those made while they were merged,
-- and with jobs in both directions the survivor's own photos, whose copies show the source's person from now on.
-- Told as our triggers tell it, since the other direction may be another process's.
WITH found AS (
    SELECT copied.target_asset_id AS id
    FROM public._face_sync_face_map AS copied
    WHERE copied.target_person_id = ANY(%(gone)s::uuid[]) AND copied.target_user_id = %(target_user)s
    UNION
    SELECT map.source_asset_id
    FROM asset_face AS face
    JOIN public._face_sync_asset_map AS map ON map.source_asset_id = face."assetId"
    WHERE face.{face_person} = ANY(%(survivors)s::uuid[])
      AND map.source_user_id = %(target_user)s AND map.target_user_id = %(source_user)s
), numbered AS (
    SELECT id, row_number() OVER () / 190 AS part FROM found
)
SELECT pg_notify('immich_shared_library', json_build_object('v', 1, 'kind', 'asset', 'ids', json_agg(id))::text)
FROM numbered
GROUP BY part

-- name: people_of_assets
-- The people that copied faces of these assets need: the source's, with the person who stands for each at the
-- target. That is the target's own person where the source's is but a mirror of them, or where the target user
-- merged the mirror into one of theirs: such a person is not ours to write.
-- Nobody is needed for a face that the target user gave to somebody else.
WITH named AS (
    SELECT face.{face_person} AS person_id, bool_or(NOT {own}) AS needed
    FROM unnest(%(sources)s::uuid[]) AS batch(source_id)
    JOIN asset_face AS face ON face."assetId" = batch.source_id AND face."deletedAt" IS NULL
    LEFT JOIN public._face_sync_face_map AS copied ON copied.source_face_id = face.id AND copied.target_user_id = %(target_user)s
    LEFT JOIN asset_face AS mine ON mine.id = copied.target_face_id
    WHERE face.{face_person} IS NOT NULL
    GROUP BY face.{face_person}
)
SELECT person.{person_id}, {mirror_id}, coalesce({mirror_id} = back.source_person_id OR map.adopted, false) OR {second},
       named.needed, mine.{person_id} IS NOT NULL, {picture}
FROM named
JOIN person ON person.{person_id} = named.person_id AND person."ownerId" = %(source_user)s
LEFT JOIN public._face_sync_person_map AS map
       ON map.source_person_id = person.{person_id} AND map.target_user_id = %(target_user)s
{back}
{mine}

-- name: people_by_id
-- The same for people named by key, of the source or mirrored: only those whose mirror is ours.
SELECT person.{person_id}, {mirror_id}, false, true, mine.{person_id} IS NOT NULL, {picture}
FROM public._face_sync_person_map AS map
JOIN person ON person.{person_id} = map.source_person_id AND person."ownerId" = %(source_user)s
{back}
{mine}
WHERE map.target_user_id = %(target_user)s
  AND map.source_user_id = %(source_user)s
  AND NOT map.adopted
  AND {mirror_id} IS DISTINCT FROM back.source_person_id
  AND NOT {second}
  AND (map.source_person_id = ANY(%(ids)s::uuid[]) OR map.target_person_id = ANY(%(ids)s::uuid[]))

-- name: back
-- With jobs in both directions: whose mirror the source's person is, if that one is still there. Of several, whom the
-- source user merged, one: rather who was mirrored than who was only merged.
LEFT JOIN LATERAL (
    SELECT map.source_person_id
    FROM public._face_sync_person_map AS map
    JOIN person AS original ON original.{person_id} = map.source_person_id AND original."ownerId" = %(target_user)s
    WHERE map.target_person_id = person.{person_id}
      AND map.target_user_id = %(source_user)s AND map.source_user_id = %(target_user)s
      AND map.source_person_id <> map.target_person_id
    ORDER BY map.adopted, map.source_person_id
    LIMIT 1
) AS back ON true

-- name: mine
-- Who stands for the source's person. LIMIT, for one look in the index each.
LEFT JOIN LATERAL (
    SELECT stands.* FROM person AS stands
    WHERE stands.{person_id} = {mirror_id} AND stands."ownerId" = %(target_user)s LIMIT 1
) AS mine ON true

-- name: second
-- Several of the source's people have one mirror, as another sidecar left it where its user merged them: the first of
-- them says who the mirror is.
(mine.{person_id} IS NOT NULL AND EXISTS (
    SELECT FROM public._face_sync_person_map AS first
    JOIN person AS original ON original.{person_id} = first.source_person_id AND original."ownerId" = %(source_user)s
    WHERE first.target_person_id = mine.{person_id} AND first.target_user_id = %(target_user)s
      AND NOT first.adopted AND first.source_person_id < person.{person_id}))

-- name: hold
-- Who was there when the batch was planned, held until the end of the transaction: one whom the target user merges
-- or deletes at this very moment must not be made again, nor get a face.
SELECT {person_id}
FROM person
WHERE {person_id} = ANY(%(there)s::uuid[]) AND "ownerId" = %(target_user)s
ORDER BY {person_id}
FOR KEY SHARE

-- name: own_choice
-- Has the target user given the copied face to somebody else than we did?
coalesce(mine.{face_person} <> copied.target_person_id, mine.{face_person} IS NOT NULL)

-- name: held_people
-- The mirrored people that these copies hold now: those that lose their last face must go.
SELECT DISTINCT target_person_id
FROM public._face_sync_face_map
WHERE target_asset_id = ANY(%(targets)s::uuid[]) AND target_person_id IS NOT NULL

-- name: map_people
INSERT INTO public._face_sync_person_map AS map (source_person_id, target_person_id, source_user_id, target_user_id)
SELECT source_id, target_id, %(source_user)s, %(target_user)s
FROM unnest(%(person_sources)s::uuid[], %(person_targets)s::uuid[], %(person_theirs)s::boolean[])
         AS people(source_id, target_id, theirs)
WHERE NOT people.theirs
-- From 3.2: the users have joined one cluster group, and share the person group now.
ON CONFLICT (source_person_id, target_user_id) DO UPDATE SET target_person_id = excluded.target_person_id
WHERE map.target_person_id <> excluded.target_person_id

-- name: adopt_faces
-- Copies that another sidecar made have faces that we know nothing of: each is the copy of the source's face
-- with the same box.
INSERT INTO public._face_sync_face_map (source_face_id, target_face_id, target_asset_id, target_user_id, target_person_id)
SELECT DISTINCT ON (face.id) face.id, copied.id, batch.target_id, %(target_user)s, copied.{face_person}
FROM unnest(%(sources)s::uuid[], %(targets)s::uuid[]) AS batch(source_id, target_id)
JOIN asset_face AS face ON face."assetId" = batch.source_id AND face."deletedAt" IS NULL
JOIN asset_face AS copied
  ON copied."assetId" = batch.target_id
 AND (copied."boundingBoxX1", copied."boundingBoxY1", copied."boundingBoxX2", copied."boundingBoxY2")
   = (face."boundingBoxX1", face."boundingBoxY1", face."boundingBoxX2", face."boundingBoxY2")
WHERE NOT EXISTS (SELECT FROM public._face_sync_face_map AS known WHERE known.target_asset_id = batch.target_id)
  AND NOT EXISTS (SELECT FROM public._face_sync_base AS base WHERE base.target_asset_id = batch.target_id)
ORDER BY face.id, copied.id
ON CONFLICT DO NOTHING

-- name: delete_strays
-- Immich was forced to detect faces again, on the copies too: what it found there are the copied faces once more.
DELETE FROM asset_face AS stray
WHERE stray."assetId" = ANY(%(targets)s::uuid[])
  AND stray."sourceType" = 'machine-learning'
  AND NOT EXISTS (SELECT FROM public._face_sync_face_map AS map WHERE map.target_face_id = stray.id)

-- name: delete_faces
-- Copied faces whose source face is gone, deleted, or no longer anybody's. One that the target user gave to somebody
-- else stays, as one that they drew: neither forced detection nor we take it for one that was found on the copy.
WITH gone AS (
    DELETE FROM public._face_sync_face_map AS copied
    USING unnest(%(sources)s::uuid[], %(targets)s::uuid[]) AS batch(source_id, target_id)
    WHERE copied.target_asset_id = batch.target_id
      AND NOT EXISTS (
          SELECT FROM asset_face AS face
          WHERE face.id = copied.source_face_id
            AND face."assetId" = batch.source_id
            AND face."deletedAt" IS NULL
            AND NOT (face."sourceType" = 'machine-learning' AND face.{face_person} IS NULL)
      )
    RETURNING copied.target_face_id, copied.target_person_id
), kept AS (
    UPDATE asset_face AS mine SET "sourceType" = 'manual'
    FROM gone AS copied
    WHERE mine.id = copied.target_face_id AND {own} AND mine."sourceType" <> 'manual'
)
DELETE FROM asset_face AS mine USING gone AS copied WHERE mine.id = copied.target_face_id AND NOT ({own})

-- name: upsert_people_and_faces
-- Faces and people in one statement, since each names the other: a person its feature face, a face its person.
-- A face that nobody is known for is held back: Immich would cluster it into a person of its own.
-- A face that the target user gave to somebody else stays theirs: it no longer has the person we wrote.
WITH batch AS (
    SELECT * FROM unnest(%(sources)s::uuid[], %(targets)s::uuid[]) AS batch(source_id, target_id)
), people AS (
    SELECT * FROM unnest(%(person_sources)s::uuid[], %(person_targets)s::uuid[], %(person_thumbnails)s::text[],
                         %(person_theirs)s::boolean[], %(person_needed)s::boolean[], %(person_chosen)s::boolean[])
             AS people(source_id, target_id, thumbnail, theirs, needed, chosen)
), wanted AS (
    SELECT coalesce(copied.target_face_id, pg_temp.copy_id(face.id, %(target_user)s)) AS new_id,
           batch.target_id AS new_asset, people.target_id AS new_person, {own} AS given_away,
           people.target_id IS NOT NULL AND {one_group} AS in_one_group, face.*
    FROM batch
    JOIN asset_face AS face ON face."assetId" = batch.source_id
    LEFT JOIN people ON people.source_id = face.{face_person}
    LEFT JOIN public._face_sync_face_map AS copied ON copied.source_face_id = face.id AND copied.target_user_id = %(target_user)s
    LEFT JOIN asset_face AS mine ON mine.id = copied.target_face_id
    WHERE face."deletedAt" IS NULL
      AND (people.target_id IS NOT NULL OR (face.{face_person} IS NULL AND face."sourceType" <> 'machine-learning'))
), known AS (
    -- Every copied face of these people, those of other assets too: one of them is the feature face. Rather not one on a
    -- copy that is parked.
    SELECT new_id AS face_id, new_person AS person_id, id AS source_face_id, false AS parked
    FROM wanted WHERE new_person IS NOT NULL AND NOT given_away
    UNION
    SELECT copied.target_face_id, copied.target_person_id, copied.source_face_id, made.parked IS NOT NULL
    FROM people
    JOIN public._face_sync_face_map AS copied ON copied.target_person_id = people.target_id
    JOIN asset_face AS mine ON mine.id = copied.target_face_id
    LEFT JOIN public._face_sync_asset_map AS made ON made.target_asset_id = copied.target_asset_id
    WHERE copied.target_user_id = %(target_user)s AND NOT copied.target_asset_id = ANY(%(targets)s::uuid[])
      AND NOT {own}
), standing AS (
    -- Their feature face now, where it is one of theirs on a photo of the target's that is not parked.
    SELECT people.source_id, people.chosen, face.id AS face_id
    FROM people
    JOIN person AS mine ON mine.{person_id} = people.target_id AND mine."ownerId" = %(target_user)s
    JOIN asset_face AS face ON face.id = mine."faceAssetId"
    JOIN asset AS photo ON photo.id = face."assetId" AND photo."ownerId" = %(target_user)s
    LEFT JOIN public._face_sync_asset_map AS made ON made.target_asset_id = photo.id
    WHERE (made.parked IS NULL OR photo.id = ANY(%(targets)s::uuid[]))
      AND (EXISTS (SELECT FROM known WHERE known.face_id = face.id AND known.person_id = people.target_id)
           OR (face.{face_person} = people.target_id
               AND NOT EXISTS (SELECT FROM public._face_sync_face_map AS copied
                               WHERE copied.target_face_id = face.id AND copied.target_person_id = people.target_id)))
), featured AS (
    SELECT people.source_id, {feature} AS face_id
    FROM people JOIN person AS source ON source.{person_id} = people.source_id AND source."ownerId" = %(source_user)s
), written_people AS (
    INSERT INTO person AS mine ({person_columns})
    SELECT DISTINCT ON (people.target_id) {person_values}
    FROM people
    JOIN person AS source ON source.{person_id} = people.source_id AND source."ownerId" = %(source_user)s
    JOIN featured ON featured.source_id = people.source_id AND featured.face_id IS NOT NULL
    LEFT JOIN LATERAL (
        -- From 3.2: who stood for them before the users' cluster groups became one, or two.
        SELECT person.*
        FROM person
        WHERE person."ownerId" = %(target_user)s
          AND person.{person_id} IN (people.source_id, pg_temp.copy_id(people.source_id, %(target_user)s))
          AND person.{person_id} <> people.target_id
        LIMIT 1
    ) AS former ON true
    WHERE people.needed AND NOT people.theirs
    ORDER BY people.target_id, people.source_id
    ON CONFLICT ({person_key}) DO UPDATE SET {person_changes}
    WHERE {person_differs}
), noted AS (
    INSERT INTO public._face_sync_face_map AS map (source_face_id, target_face_id, target_asset_id, target_user_id, target_person_id)
    SELECT id, new_id, new_asset, %(target_user)s, new_person FROM wanted
    ON CONFLICT (source_face_id, target_user_id) DO UPDATE
    SET target_person_id = excluded.target_person_id, target_asset_id = excluded.target_asset_id
    WHERE (map.target_person_id, map.target_asset_id) IS DISTINCT FROM (excluded.target_person_id, excluded.target_asset_id)
)
INSERT INTO asset_face AS mine ({face_columns})
SELECT {face_values} FROM wanted AS source
ON CONFLICT (id) DO UPDATE SET {face_changes}
WHERE {face_differs}

-- name: feature_of_person
-- Up to 3.1: what the target user chose, the copy of the source's feature face, what is there, any.
coalesce(
    (SELECT standing.face_id FROM standing WHERE standing.source_id = people.source_id AND standing.chosen),
    {copied_feature},
    (SELECT standing.face_id FROM standing WHERE standing.source_id = people.source_id),
    {any_feature})

-- name: feature_of_group
-- From 3.2: what the target user has, a face on a photo of their own too, else as up to 3.1.
coalesce(
    (SELECT standing.face_id FROM standing WHERE standing.source_id = people.source_id),
    {copied_feature},
    {any_feature})

-- name: copied_feature
(SELECT known.face_id FROM known
 WHERE known.person_id = people.target_id AND known.source_face_id = source."faceAssetId" AND NOT known.parked)

-- name: any_feature
(SELECT known.face_id FROM known WHERE known.person_id = people.target_id ORDER BY known.parked, known.face_id LIMIT 1)

-- name: unless_chosen
-- What the target user says of a mirrored person is theirs: where it is not what we wrote last. Where nothing is noted
-- yet, what the source leaves empty never overwrites.
CASE WHEN (
    SELECT CASE WHEN map.written ? {name} THEN map.written -> {name} <> coalesce(to_jsonb(mine.{column}), 'null')
                ELSE coalesce(to_jsonb(excluded.{column}), 'null') IN ('null', '""') END
    FROM public._face_sync_person_map AS map
    WHERE map.target_person_id = mine.{person_id} AND map.target_user_id = mine."ownerId" AND NOT map.adopted
    ORDER BY map.source_person_id
    LIMIT 1
) THEN mine.{column} ELSE {value} END

-- name: note_people
-- What we wrote of these people last: a value that is not the source's is their user's own, and keeps its note.
UPDATE public._face_sync_person_map AS map
SET written = noted.written
FROM unnest(%(person_sources)s::uuid[], %(person_targets)s::uuid[], %(person_theirs)s::boolean[],
            %(person_needed)s::boolean[], %(person_chosen)s::boolean[], %(person_notes)s::jsonb[])
         AS people(source_id, target_id, theirs, needed, chosen, notes)
JOIN person AS source ON source.{person_id} = people.source_id AND source."ownerId" = %(source_user)s
JOIN person AS mine ON mine.{person_id} = people.target_id AND mine."ownerId" = %(target_user)s
JOIN public._face_sync_person_map AS known
  ON known.source_person_id = people.source_id AND known.target_user_id = %(target_user)s
CROSS JOIN LATERAL (
    SELECT people.notes || jsonb_build_object(
               'photo', (SELECT face."assetId" FROM asset_face AS face WHERE face.id = (people.notes ->> 'shows')::uuid),
               'created', mine."createdAt", 'source_created', source."createdAt",
               'feature', CASE WHEN people.chosen THEN known.written -> 'feature' ELSE to_jsonb(mine."faceAssetId") END,
               {said}) AS written
) AS noted
WHERE map.source_person_id = people.source_id AND map.target_user_id = %(target_user)s
  AND people.needed AND NOT people.theirs
  AND map.written IS DISTINCT FROM noted.written

-- name: note_said
{name}, CASE WHEN mine.{column} IS NOT DISTINCT FROM source.{column} OR NOT known.written ? {name}
             THEN to_jsonb(source.{column}) ELSE known.written -> {name} END

-- name: delete_face_search
-- Embeddings that a copied face should not have: its source has none, or speaks for both users in one cluster group.
-- Immich gives them to faces without one when it is forced to detect again.
DELETE FROM face_search AS mine
USING public._face_sync_face_map AS copied
JOIN asset_face AS face ON face.id = copied.target_face_id
JOIN asset_face AS source_face ON source_face.id = copied.source_face_id
WHERE mine."faceId" = copied.target_face_id
  AND copied.target_asset_id = ANY(%(targets)s::uuid[])
  AND face.{face_person} IS NOT DISTINCT FROM copied.target_person_id
  AND ({one_group} OR NOT EXISTS (SELECT FROM face_search AS source WHERE source."faceId" = source_face.id))

-- name: upsert_face_search
-- Embeddings of copied faces, so that the target's own uploads match the mirrored people. In one cluster group the
-- source's speaks for both users already.
INSERT INTO face_search AS mine ({columns})
SELECT {values}
FROM public._face_sync_face_map AS map
JOIN face_search AS source ON source."faceId" = map.source_face_id
JOIN asset_face AS face ON face.id = map.target_face_id
WHERE map.target_asset_id = ANY(%(targets)s::uuid[])
  AND NOT ({one_group})
ON CONFLICT ("faceId") DO UPDATE SET {changes}
WHERE {differs}

-- name: empty_people
-- Mirrored people that no face on an asset of the target user needs any more. ``held`` are people that we wrote
-- into faces: a mirror that the map has no more may be among them, but also a person of the target's own whom the
-- source's person mirrors. So a mirror is known by the map, or by its id; where there is no person, by then only
-- a file of theirs can be left. CASE: the ids are looked through for those without a face only.
SELECT found.id, person."thumbnailPath"
FROM unnest(%(people)s::uuid[]) AS found(id)
LEFT JOIN person ON person.{person_id} = found.id AND person."ownerId" = %(target_user)s
WHERE CASE
          WHEN EXISTS (
              SELECT FROM asset_face AS face JOIN asset ON asset.id = face."assetId"
              WHERE face.{face_person} = found.id AND asset."ownerId" = %(target_user)s) THEN false
          WHEN NOT ({may_go}) THEN false
          WHEN person."ownerId" IS NULL THEN true
          ELSE EXISTS (
                   SELECT FROM public._face_sync_person_map AS map
                   WHERE map.target_person_id = found.id AND map.target_user_id = %(target_user)s)
               OR EXISTS (
                   SELECT FROM person AS source
                   WHERE source."ownerId" = %(source_user)s
                     AND (pg_temp.copy_id(source.{person_id}, %(target_user)s) = found.id
                          -- From 3.2: the target's view of a group that both had shared.
                          OR (source.{person_id} = found.id AND found.id = ANY(%(held)s::uuid[]))))
      END

-- name: may_go
-- Not who was the target's own before: adopted and nobody's mirror, or mirrored the other way. Who is not there is
-- nobody's.
NOT EXISTS (
    SELECT FROM public._face_sync_person_map AS own
    WHERE own.target_person_id = found.id AND own.target_user_id = %(target_user)s
    HAVING bool_and(own.adopted))
AND NOT EXISTS (
    SELECT FROM public._face_sync_person_map AS own
    JOIN person AS mirrored ON mirrored.{person_id} = own.source_person_id AND mirrored."ownerId" = %(target_user)s
    WHERE own.source_person_id = found.id AND own.source_user_id = %(target_user)s
      AND own.target_person_id <> own.source_person_id)
-- Nor who lost a face to somebody else a moment ago: where that is a merge, Immich deletes them itself right after
-- it has moved their faces, and until then nothing tells it from faces given away one by one. What is left of
-- those a later sweep finds.
AND NOT EXISTS (
    SELECT FROM public._face_sync_face_map AS copied
    JOIN asset_face AS face ON face.id = copied.target_face_id
    WHERE copied.target_person_id = found.id AND copied.target_user_id = %(target_user)s
      AND face.{face_person} <> found.id AND face."updatedAt" > now() - interval '1 minute')

-- name: delete_people
-- By plain SQL and for those still without a face, so that phones hear of it.
WITH empty AS (
    SELECT found.id FROM unnest(%(people)s::uuid[]) AS found(id)
    WHERE {may_go}
      AND NOT EXISTS (
          SELECT FROM asset_face AS face JOIN asset ON asset.id = face."assetId"
          WHERE face.{face_person} = found.id AND asset."ownerId" = %(target_user)s
      )
), unmapped AS (
    DELETE FROM public._face_sync_person_map AS map USING empty
    WHERE map.target_person_id = empty.id AND map.target_user_id = %(target_user)s
)
DELETE FROM person USING empty WHERE person.{person_id} = empty.id AND person."ownerId" = %(target_user)s

-- name: forsaken
-- Mappings that name nobody of the source's any more, once the copied faces have left who stood for them. Where no face
-- is left, a mirror goes as a whole (`empty_people`).
SELECT map.source_person_id, map.target_person_id, map.adopted, map.written
FROM public._face_sync_person_map AS map
WHERE map.source_user_id = %(source_user)s AND map.target_user_id = %(target_user)s
  AND (map.source_person_id = ANY(%(ids)s::uuid[]) OR map.target_person_id = ANY(%(ids)s::uuid[]))
  AND NOT EXISTS (
      SELECT FROM person WHERE person.{person_id} = map.source_person_id AND person."ownerId" = map.source_user_id)
  AND (map.adopted
       OR NOT EXISTS (
           SELECT FROM person WHERE person.{person_id} = map.target_person_id AND person."ownerId" = map.target_user_id)
       OR EXISTS (
           SELECT FROM asset_face AS face JOIN asset ON asset.id = face."assetId"
           WHERE face.{face_person} = map.target_person_id AND asset."ownerId" = map.target_user_id))
  AND NOT EXISTS (
      SELECT FROM public._face_sync_face_map AS copied
      JOIN asset_face AS mine ON mine.id = copied.target_face_id AND mine.{face_person} = map.target_person_id
      LEFT JOIN asset_face AS original ON original.id = copied.source_face_id
      WHERE copied.target_person_id = map.target_person_id AND copied.target_user_id = map.target_user_id
        AND NOT EXISTS (
            SELECT FROM public._face_sync_person_map AS other
            WHERE other.source_person_id = original.{face_person} AND other.target_user_id = map.target_user_id
              AND other.target_person_id = map.target_person_id
              AND other.source_person_id <> map.source_person_id))

-- name: let_go
-- Who stood for somebody that is no more is the target's own from now on, unless they stand for another of the source's
-- people: then for that one. A thumbnail that we gave them shows somebody's photo of which nothing would be known any
-- more: Immich crops one anew, from a photo of the target's.
WITH gone AS (
    {forsaken}
), forgotten AS (
    DELETE FROM public._face_sync_person_map AS map USING gone
    WHERE map.source_person_id = gone.source_person_id AND map.target_user_id = %(target_user)s
), heir AS (
    SELECT DISTINCT ON (gone.target_person_id) gone.target_person_id, gone.written, map.id
    FROM gone
    JOIN public._face_sync_person_map AS map
      ON map.target_person_id = gone.target_person_id AND map.target_user_id = %(target_user)s
    JOIN person AS source ON source.{person_id} = map.source_person_id AND source."ownerId" = map.source_user_id
    WHERE NOT gone.adopted
    ORDER BY gone.target_person_id, map.adopted, map.source_person_id
), inherited AS (
    UPDATE public._face_sync_person_map AS map SET adopted = false, written = heir.written
    FROM heir
    WHERE map.id = heir.id AND map.adopted
), own AS (
    SELECT mine.{person_id} AS id, mine."thumbnailPath" AS path,
           (SELECT face.id FROM asset_face AS face JOIN asset ON asset.id = face."assetId"
            WHERE face.{face_person} = mine.{person_id} AND asset."ownerId" = %(target_user)s AND face."deletedAt" IS NULL
            ORDER BY face.id = mine."faceAssetId" DESC NULLS LAST, face.id LIMIT 1) AS face_id
    FROM gone
    JOIN person AS mine ON mine.{person_id} = gone.target_person_id AND mine."ownerId" = %(target_user)s
    WHERE NOT gone.adopted AND gone.written ? 'shows' AND mine."thumbnailPath" <> ''
      AND NOT EXISTS (SELECT FROM heir WHERE heir.target_person_id = gone.target_person_id)
), unpictured AS (
    UPDATE person AS mine SET "thumbnailPath" = '', "faceAssetId" = own.face_id
    FROM own
    WHERE mine.{person_id} = own.id AND mine."ownerId" = %(target_user)s
    RETURNING own.id, own.path
)
SELECT gone.target_person_id, unpictured.path
FROM gone LEFT JOIN unpictured ON unpictured.id = gone.target_person_id

-- name: mirror_person
-- Up to 3.1: a person of the target's own.
coalesce(back.source_person_id, map.target_person_id, pg_temp.copy_id(person.id, %(target_user)s))

-- name: one_group
-- From 3.2: are the users in one cluster group?
((SELECT "clusterGroupId" FROM "user" WHERE id = %(source_user)s)
    = (SELECT "clusterGroupId" FROM "user" WHERE id = %(target_user)s))

-- name: mirror_group
-- From 3.2: in one cluster group the same person group, unless the target user merged it; else a mirrored one.
CASE WHEN {one_group} THEN
         CASE WHEN map.adopted
                   -- Who leaves has their people in the other cluster group first.
                   OR (SELECT "clusterGroupId" FROM person_group WHERE id = map.target_person_id)
                      <> (SELECT "clusterGroupId" FROM person_group WHERE id = person."personGroupId")
              THEN map.target_person_id ELSE person."personGroupId" END
          -- Who has left a cluster group shares its person groups no more.
     ELSE coalesce(back.source_person_id, nullif(map.target_person_id, person."personGroupId"),
                   pg_temp.copy_id(person."personGroupId", %(target_user)s))
END

-- name: person_groups
-- From 3.2, in different cluster groups: the group of each mirrored person, in the target's cluster group. One that
-- is there may have come along when its user joined another cluster group for a while. As long as it is somebody's Immich
-- takes it along itself, and says so of its user last.
INSERT INTO person_group (id, "clusterGroupId")
SELECT people.target_id, target."clusterGroupId"
FROM unnest(%(person_sources)s::uuid[], %(person_targets)s::uuid[], %(person_theirs)s::boolean[],
            %(person_needed)s::boolean[]) AS people(source_id, target_id, theirs, needed)
CROSS JOIN "user" AS target
WHERE target.id = %(target_user)s AND people.source_id <> people.target_id AND people.needed AND NOT people.theirs
ON CONFLICT (id) DO UPDATE SET "clusterGroupId" = excluded."clusterGroupId"
WHERE person_group."clusterGroupId" <> excluded."clusterGroupId"
  AND NOT EXISTS (SELECT FROM person WHERE person."personGroupId" = person_group.id)
