-- What the trigger module asks the catalog and tells it.

-- name: lock
-- Two installers at once would fail on the same catalog row. Two integers: Immich's locks have one.
SELECT pg_advisory_xact_lock(%(space)s, %(key)s)

-- name: set_lock_timeout
-- For this transaction only; the caller's session keeps its own.
SELECT set_config('lock_timeout', %(milliseconds)s::text, true)

-- name: schema_exists
-- CREATE SCHEMA IF NOT EXISTS wants the right to create even where the schema is there: so ask first.
SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = '_face_sync')

-- name: create_schema
-- A schema of our own: Immich warns about functions in public that it does not know.
CREATE SCHEMA _face_sync

-- name: function_comments
-- One row per function that is there, with the comment that holds its hash.
SELECT p.proname::text AS name, obj_description(p.oid, 'pg_proc') AS comment
FROM pg_proc AS p
JOIN pg_namespace AS n ON n.oid = p.pronamespace
WHERE n.nspname = '_face_sync'

-- name: trigger_states
-- One row per table asked for and trigger of ours on it; name is NULL where the table has none, and present
-- is false where this Immich has no such table. Asked of the catalog alone: the listener's own role may not use the
-- schema _face_sync.
SELECT
  wanted.table_name,
  c.oid IS NOT NULL AS present,
  t.tgname::text AS name,
  t.tgenabled IN ('O', 'A') AS enabled,
  t.tgfoid = (
    SELECT p.oid FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
    WHERE n.nspname = '_face_sync' AND p.proname = 'notify_change'
  ) AS ours,
  obj_description(t.oid, 'pg_trigger') AS comment
FROM unnest(%(tables)s::text[]) AS wanted (table_name)
LEFT JOIN pg_class AS c
  ON c.oid = to_regclass(format('public.%%I', wanted.table_name)) AND c.relkind IN ('r', 'p')
LEFT JOIN pg_trigger AS t
  ON t.tgrelid = c.oid AND NOT t.tgisinternal AND starts_with(t.tgname, '_face_sync_')

-- name: guard_state
-- One row if the guard is there.
SELECT
  t.tgenabled IN ('O', 'A') AS enabled,
  t.tgfoid = (
    SELECT p.oid FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
    WHERE n.nspname = '_face_sync' AND p.proname = 'guard_original'
  ) AS ours,
  obj_description(t.oid, 'pg_trigger') AS comment
FROM pg_trigger AS t
WHERE t.tgrelid = to_regclass('public.asset') AND t.tgname = %(trigger)s AND NOT t.tgisinternal

-- name: guard_deleted
-- Copies that were in the trash before the guard came: Immich's nightly purge deletes them without another UPDATE.
-- Which are copies, guard_original.sql says.
UPDATE public.asset AS copy SET "isOffline" = true
WHERE copy."deletedAt" IS NOT NULL AND NOT copy."isOffline"
  AND (EXISTS (SELECT FROM public._face_sync_asset_map AS map WHERE map.target_asset_id = copy.id)
       OR copy."isExternal" AND EXISTS (
           SELECT FROM public._face_sync_meta AS note
           CROSS JOIN LATERAL jsonb_array_elements_text(note.value::jsonb) AS guarded(prefix)
           WHERE note.key = 'guarded prefixes' AND starts_with(copy."originalPath", guarded.prefix || '/')))

-- name: triggers_to_drop
-- Every trigger that calls a function of ours, on whatever table and by whatever name: an older or newer
-- version of this program may have had others.
SELECT cn.nspname::text AS schema_name, c.relname::text AS table_name, t.tgname::text AS name
FROM pg_trigger AS t
JOIN pg_class AS c ON c.oid = t.tgrelid
JOIN pg_namespace AS cn ON cn.oid = c.relnamespace
JOIN pg_proc AS p ON p.oid = t.tgfoid
JOIN pg_namespace AS pn ON pn.oid = p.pronamespace
WHERE pn.nspname = '_face_sync' AND NOT t.tgisinternal
ORDER BY 1, 2, 3

-- name: drop_trigger
DROP TRIGGER IF EXISTS {trigger} ON {table}

-- name: comment_trigger
COMMENT ON TRIGGER {trigger} ON {table} IS {comment}

-- name: comment_function
COMMENT ON FUNCTION {function} IS {comment}

-- name: drop_functions
DROP FUNCTION IF EXISTS _face_sync.notify_change(), _face_sync.guard_original(), _face_sync.immich_uuid_v7(timestamptz)

-- name: drop_schema
-- Without CASCADE: what somebody else put there is not ours to drop.
DROP SCHEMA IF EXISTS _face_sync

-- name: purge
-- The memory of which photo is a copy of which. Asked for by name only.
DROP TABLE IF EXISTS
  public._face_sync_asset_map,
  public._face_sync_intent,
  public._face_sync_person_map,
  public._face_sync_skipped,
  public._face_sync_watch,
  public._face_sync_face_map,
  public._face_sync_base,
  public._face_sync_stack_map,
  public._face_sync_tag_map,
  public._face_sync_album_map,
  public._face_sync_kept,
  public._face_sync_failure,
  public._face_sync_seen,
  public._face_sync_meta

-- name: purge_sequence
DROP SEQUENCE IF EXISTS public._face_sync_trigger_errors

-- name: purge_role_function
-- What the SQL of `role print` has made for the listener's own role, which has nothing left to do.
DROP FUNCTION IF EXISTS _face_sync_role.immich_setting(text)

-- name: purge_role_schema
-- Without CASCADE, as above.
DROP SCHEMA IF EXISTS _face_sync_role
