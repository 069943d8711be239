-- Tells the listener which assets or people a statement changed: keys only, on the channel
-- immich_shared_library. One function serves every table, so that a schema of our own never gains objects
-- between a backup and its restore.
--
-- Rules it must keep, because it runs inside Immich's own transactions:
--   * no error leaves it: what fails is counted in public._face_sync_trigger_errors and nothing else happens.
--     (A cancelled query is passed on: the person who cancelled, or a statement_timeout, means all of it.)
--   * SECURITY DEFINER: Immich's role may be another than ours and needs no grant on our tables. Grants to
--     roles would break the restore of a backup elsewhere. Hence the fixed search_path with full names.
--   * lock_timeout: a lock that somebody holds on our tables must not hold up Immich.
--   * every plan is cached per session and made for the first statement's row count, so the queries below
--     keep their shape for 1 row and for 10,000: a FULL JOIN can only hash or merge, and a scalar sub-select
--     on the primary key can only look up. And no JIT: a plan first made for 10,000 rows would be compiled
--     for every single row after it.
--   * columns named here (id, "assetId", "ownerId") exist in Immich 2.0 to 3.3; all others go through jsonb.
CREATE OR REPLACE FUNCTION _face_sync.notify_change() RETURNS trigger
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '100ms'
SET jit = off
AS $notify_change$
DECLARE
  channel CONSTANT text := 'immich_shared_library';
  -- More rows than this are one sweep: cheaper for all than thousands of keys.
  max_rows CONSTANT integer := 10000;
  -- 190 ids of 39 bytes and the frame stay below the limit of a payload, 8,000 bytes.
  max_ids CONSTANT integer := 190;
  -- Immich stamps these in every UPDATE, also in one that changes nothing.
  stamps CONSTANT text[] := ARRAY['updatedAt', 'updateId'];
  row_count integer;
  has_watched boolean;
  kind text := 'asset';
  keys uuid[];
BEGIN
  IF current_setting('face_sync.quiet', true) = 'on' THEN
    RETURN NULL;
  END IF;

  BEGIN
    -- Statement triggers fire for no rows too, for example for both halves of an upsert.
    SELECT count(*) INTO row_count FROM (SELECT FROM changed_rows LIMIT max_rows + 1) AS counted;
    IF row_count = 0 THEN
      RETURN NULL;
    END IF;

    IF row_count > max_rows THEN
      IF TG_TABLE_NAME IN ('asset', 'person', 'stack') THEN
        has_watched := EXISTS (
          SELECT FROM changed_rows AS c
          WHERE c."ownerId" IN (SELECT w.user_id FROM public._face_sync_watch AS w)
        );
      ELSIF TG_TABLE_NAME = 'tag_asset' THEN
        has_watched := EXISTS (
          SELECT FROM changed_rows AS c
          WHERE (SELECT a."ownerId" FROM public.asset AS a
                 WHERE a.id = coalesce(to_jsonb(c) ->> 'assetId', to_jsonb(c) ->> 'assetsId')::uuid)
            IN (SELECT w.user_id FROM public._face_sync_watch AS w)
        );
      ELSE
        has_watched := EXISTS (
          SELECT FROM changed_rows AS c
          WHERE (SELECT a."ownerId" FROM public.asset AS a WHERE a.id = c."assetId")
            IN (SELECT w.user_id FROM public._face_sync_watch AS w)
        );
      END IF;
      IF has_watched AND pg_notification_queue_usage() <= 0.5 THEN
        PERFORM pg_notify(channel, format(
          '{"v":1,"kind":"sweep","at":%s}', round(extract(epoch FROM clock_timestamp()), 3)
        ));
      END IF;
      RETURN NULL;
    END IF;

    CASE TG_TABLE_NAME
    WHEN 'asset' THEN
      IF TG_OP = 'UPDATE' THEN
        SELECT array_agg(coalesce(n.id, o.id)) INTO keys
        FROM changed_rows AS n
        FULL JOIN old_rows AS o ON o.id = n.id
        WHERE (
            n."ownerId" IN (SELECT w.user_id FROM public._face_sync_watch AS w)
            OR o."ownerId" IN (SELECT w.user_id FROM public._face_sync_watch AS w)
          )
          AND to_jsonb(n) - stamps IS DISTINCT FROM to_jsonb(o) - stamps;
      ELSE
        SELECT array_agg(c.id) INTO keys
        FROM changed_rows AS c
        WHERE c."ownerId" IN (SELECT w.user_id FROM public._face_sync_watch AS w);
      END IF;

    WHEN 'person' THEN
      -- The key is id up to Immich 3.1 and "personGroupId" from 3.2, where it is unique per owner only.
      -- An UPDATE that changes nothing is told, too: by it Immich notes that a thumbnail's file was written anew.
      kind := 'person';
      IF TG_OP = 'UPDATE' THEN
        SELECT array_agg(DISTINCT coalesce(r.content ->> 'id', r.content ->> 'personGroupId')::uuid) INTO keys
        FROM (
          SELECT n."ownerId", to_jsonb(n) AS content FROM changed_rows AS n
          UNION ALL
          SELECT o."ownerId", to_jsonb(o) FROM old_rows AS o
        ) AS r
        WHERE r."ownerId" IN (SELECT w.user_id FROM public._face_sync_watch AS w);
      ELSE
        SELECT array_agg(DISTINCT coalesce(to_jsonb(c) ->> 'id', to_jsonb(c) ->> 'personGroupId')::uuid)
        INTO keys
        FROM changed_rows AS c
        WHERE c."ownerId" IN (SELECT w.user_id FROM public._face_sync_watch AS w);
      END IF;

    WHEN 'stack' THEN
      -- Members name their stack in asset itself, which tells; only another cover has no other mark. Both covers,
      -- the old one and the new one, lead to the stack.
      IF TG_OP = 'UPDATE' THEN
        SELECT array_agg(DISTINCT covers.id) INTO keys
        FROM (SELECT r.id, r."ownerId", to_jsonb(r) - stamps AS content FROM changed_rows AS r) AS n
        FULL JOIN (SELECT r.id, r."ownerId", to_jsonb(r) - stamps AS content FROM old_rows AS r) AS o ON o.id = n.id
        CROSS JOIN LATERAL (
          VALUES ((n.content ->> 'primaryAssetId')::uuid), ((o.content ->> 'primaryAssetId')::uuid)
        ) AS covers (id)
        WHERE coalesce(n."ownerId", o."ownerId") IN (SELECT w.user_id FROM public._face_sync_watch AS w)
          AND n.content IS DISTINCT FROM o.content
          AND covers.id IS NOT NULL;
      ELSE
        SELECT array_agg(DISTINCT (to_jsonb(c) ->> 'primaryAssetId')::uuid)
          FILTER (WHERE to_jsonb(c) ->> 'primaryAssetId' IS NOT NULL)
        INTO keys
        FROM changed_rows AS c
        WHERE c."ownerId" IN (SELECT w.user_id FROM public._face_sync_watch AS w);
      END IF;

    WHEN 'tag_asset' THEN
      -- Which photo has which tag: a deleted tag has no other mark. "assetId" is "assetsId" up to Immich 2.2.
      IF TG_OP = 'UPDATE' THEN
        SELECT array_agg(c.id) INTO keys
        FROM (
          SELECT DISTINCT coalesce(r.content ->> 'assetId', r.content ->> 'assetsId')::uuid AS id
          FROM (
            (SELECT to_jsonb(n) FROM changed_rows AS n EXCEPT SELECT to_jsonb(o) FROM old_rows AS o)
            UNION ALL
            (SELECT to_jsonb(o) FROM old_rows AS o EXCEPT SELECT to_jsonb(n) FROM changed_rows AS n)
          ) AS r (content)
        ) AS c
        WHERE (SELECT a."ownerId" FROM public.asset AS a WHERE a.id = c.id)
          IN (SELECT w.user_id FROM public._face_sync_watch AS w);
      ELSE
        SELECT array_agg(c.id) INTO keys
        FROM (
          SELECT DISTINCT coalesce(to_jsonb(r) ->> 'assetId', to_jsonb(r) ->> 'assetsId')::uuid AS id
          FROM changed_rows AS r
        ) AS c
        WHERE (SELECT a."ownerId" FROM public.asset AS a WHERE a.id = c.id)
          IN (SELECT w.user_id FROM public._face_sync_watch AS w);
      END IF;

    ELSE
      -- Tables that hang on asset. Where the asset is gone, its own DELETE has told it already, and the
      -- look-up of its owner finds nothing.
      IF TG_OP <> 'UPDATE' THEN
        SELECT array_agg(c.id) INTO keys
        FROM (SELECT DISTINCT r."assetId" AS id FROM changed_rows AS r) AS c
        WHERE (SELECT a."ownerId" FROM public.asset AS a WHERE a.id = c.id)
          IN (SELECT w.user_id FROM public._face_sync_watch AS w);
      ELSIF TG_TABLE_NAME IN ('asset_job_status', 'smart_search', 'ocr_search') THEN
        -- These have no stamps and one row per asset; the byte-wise comparison spares turning 512 floats
        -- into text and works for every type.
        SELECT array_agg(c.id) INTO keys
        FROM (
          SELECT coalesce(n."assetId", o."assetId") AS id
          FROM changed_rows AS n
          FULL JOIN old_rows AS o ON o."assetId" = n."assetId"
          WHERE n.* *<> o.* OR n."assetId" IS NULL OR o."assetId" IS NULL
        ) AS c
        WHERE (SELECT a."ownerId" FROM public.asset AS a WHERE a.id = c.id)
          IN (SELECT w.user_id FROM public._face_sync_watch AS w);
      ELSE
        -- A face or file that moves to another asset changes both.
        SELECT array_agg(c.id) INTO keys
        FROM (
          SELECT DISTINCT both_sides.id
          FROM changed_rows AS n
          FULL JOIN old_rows AS o ON o.id = n.id
          CROSS JOIN LATERAL (VALUES (n."assetId"), (o."assetId")) AS both_sides (id)
          WHERE to_jsonb(n) - stamps IS DISTINCT FROM to_jsonb(o) - stamps
        ) AS c
        WHERE (SELECT a."ownerId" FROM public.asset AS a WHERE a.id = c.id)
          IN (SELECT w.user_id FROM public._face_sync_watch AS w);
      END IF;
    END CASE;

    -- A full queue fails Immich's commit, where nothing can catch it: rather say nothing, a sweep finds it.
    IF keys IS NOT NULL AND pg_notification_queue_usage() <= 0.5 THEN
      FOR begin_at IN 1 .. cardinality(keys) BY max_ids LOOP
        PERFORM pg_notify(channel, format(
          '{"v":1,"kind":"%s","ids":%s,"at":%s}',
          kind, to_json(keys[begin_at : begin_at + max_ids - 1]), round(extract(epoch FROM clock_timestamp()), 3)
        ));
      END LOOP;
    END IF;
  EXCEPTION WHEN OTHERS THEN
    -- The sequence may be gone as well, after a purge or while a backup is being restored.
    BEGIN
      PERFORM nextval('public._face_sync_trigger_errors');
    EXCEPTION WHEN OTHERS THEN
      NULL;
    END;
  END;
  RETURN NULL;
END
$notify_change$
