-- The version of the tracking tables and the users that the triggers speak for.

-- name: lock
-- One migration at a time, whoever runs it; freed by the end of the transaction. Two integers: Immich's own
-- locks have one.
SELECT pg_advisory_xact_lock(%(space)s, %(key)s)

-- name: set_lock_timeout
-- For this transaction only: a table that somebody holds must not stop us for ever.
SELECT set_config('lock_timeout', %(milliseconds)s::text, true)

-- name: meta_exists
-- A fresh database has no such table, and asking it would fail the transaction.
SELECT to_regclass('public._face_sync_meta') IS NOT NULL

-- name: read_version
SELECT value FROM public._face_sync_meta WHERE key = 'schema_version'

-- name: write_version
INSERT INTO public._face_sync_meta (key, value) VALUES ('schema_version', %(version)s::text)
ON CONFLICT (key) DO UPDATE SET value = excluded.value

-- name: read_note
SELECT value FROM public._face_sync_meta WHERE key = %(key)s

-- name: write_note
INSERT INTO public._face_sync_meta AS meta (key, value) VALUES (%(key)s, %(value)s)
ON CONFLICT (key) DO UPDATE SET value = excluded.value WHERE meta.value <> excluded.value

-- name: add_watched_users
-- Another listener, of other jobs, has made the set its own when it started.
INSERT INTO public._face_sync_watch (user_id)
SELECT DISTINCT wanted.user_id FROM unnest(%(users)s::uuid[]) AS wanted (user_id)
WHERE NOT EXISTS (SELECT FROM public._face_sync_watch AS watched WHERE watched.user_id = wanted.user_id)
ON CONFLICT (user_id) DO NOTHING

-- name: next_transaction
-- Every transaction that has written something by now has a smaller id.
SELECT pg_snapshot_xmax(pg_current_snapshot())::text

-- name: set_watched_users
-- Exactly this set. Rows that stay are not touched, so that two listeners do not wait for each other.
WITH gone AS (
  DELETE FROM public._face_sync_watch WHERE user_id <> ALL (%(users)s::uuid[])
)
INSERT INTO public._face_sync_watch (user_id)
SELECT DISTINCT wanted.user_id FROM unnest(%(users)s::uuid[]) AS wanted (user_id)
ON CONFLICT (user_id) DO NOTHING
