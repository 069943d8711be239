-- Looked at every few seconds: is Immich still what our statements were composed for, and may we work?

-- name: structure
-- Reads the system catalog only: no lock of an upgrade is waited for, and nothing fails where tables are gone.
-- Immich holds a one-argument advisory lock, number 200, while it starts and migrates.
SELECT EXISTS (
           SELECT FROM pg_locks
           WHERE locktype = 'advisory' AND granted AND classid = 0 AND objid = 200 AND objsubid = 1
             AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
       ) AS migrating,
       ({tables}) AS tables,
       md5(concat(
           (SELECT string_agg(concat_ws(' ', trigger.tgrelid, trigger.tgname, trigger.tgenabled), ',' ORDER BY trigger.oid)
            FROM pg_trigger AS trigger
            JOIN pg_proc AS function ON function.oid = trigger.tgfoid
            WHERE function.pronamespace = to_regnamespace('_face_sync') AND NOT trigger.tgisinternal),
           (SELECT string_agg(class.oid::text, ',' ORDER BY class.oid)
            FROM pg_class AS class
            WHERE class.relnamespace = to_regnamespace('public') AND class.relkind = 'r'
              AND starts_with(class.relname, '_face_sync_')))) AS ours,
       to_regclass('public."user"') IS NOT NULL AND to_regclass('public.library') IS NOT NULL
           AND to_regclass('public.system_metadata') IS NOT NULL
           AND to_regclass('public.version_history') IS NOT NULL AS readable,
       EXISTS (SELECT FROM pg_attribute
               WHERE attrelid = to_regclass('public."user"') AND attname = 'clusterGroupId' AND NOT attisdropped) AS clusters

-- name: circumstances
-- What has no event: the release (a new one may come without a new column), a user or library that is marked as
-- removed, a user who joins another cluster group (3.2+).
SELECT coalesce(pg_temp.immich_setting('maintenance-mode') ->> 'isMaintenanceMode' = 'true', false),
       (SELECT version FROM version_history ORDER BY "createdAt" DESC, version DESC LIMIT 1),
       md5(concat(
           (SELECT string_agg(concat_ws(' ', who.id, who."deletedAt", {cluster_group}), ',' ORDER BY who.id)
            FROM "user" AS who WHERE who.id = ANY(%(users)s::uuid[])),
           (SELECT string_agg(concat_ws(' ', library.id, library."deletedAt"), ',' ORDER BY library.id)
            FROM library WHERE library."ownerId" = ANY(%(users)s::uuid[]))))

-- name: set_lock_timeout
SELECT set_config('lock_timeout', %(milliseconds)s::text, true)

-- name: over
-- Are all transactions over that had written something when this id was the next one?
SELECT pg_snapshot_xmin(pg_current_snapshot()) >= %(transaction)s::xid8
