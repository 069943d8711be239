-- What the player of recordings executes. Table and column names come from the recording.

-- name: primary_keys
-- Which columns tell rows of a table apart: a recording names rows, not conditions.
SELECT c.relname AS "table", array_agg(a.attname::text ORDER BY a.attnum) AS columns
FROM pg_constraint k
JOIN pg_class c ON c.oid = k.conrelid
JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = ANY (k.conkey)
WHERE k.contype = 'p' AND k.connamespace = 'public'::regnamespace
GROUP BY c.relname;

-- name: cascades
-- Foreign keys by which the database itself deletes rows or clears columns: a recording lists what they
-- did, and replaying that as statements would be doing it twice.
SELECT c.relname AS child, a.attname::text AS child_column, p.relname AS parent, b.attname::text AS parent_column,
       k.confdeltype = 'c' AS deletes
FROM pg_constraint k
JOIN pg_class c ON c.oid = k.conrelid
JOIN pg_class p ON p.oid = k.confrelid
JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = k.conkey[1]
JOIN pg_attribute b ON b.attrelid = k.confrelid AND b.attnum = k.confkey[1]
WHERE k.contype = 'f' AND k.confdeltype IN ('c', 'n') AND cardinality(k.conkey) = 1
  AND k.connamespace = 'public'::regnamespace;

-- name: has_cluster_groups
-- 3.2+: every user belongs to one.
SELECT to_regclass('public.cluster_group') IS NOT NULL;

-- name: make_user
-- The recordings leave the users' rows out. Columns without a default only.
INSERT INTO "user" (id, email, name) VALUES (%(id)s, %(email)s, %(name)s) ON CONFLICT (id) DO NOTHING;

-- name: make_user_in_cluster_group
WITH made AS (INSERT INTO cluster_group DEFAULT VALUES RETURNING id)
INSERT INTO "user" (id, email, name, "clusterGroupId")
SELECT %(id)s, %(email)s, %(name)s, made.id FROM made
ON CONFLICT (id) DO NOTHING;

-- name: set_media_location
-- Immich keeps here where its media root was at the last start.
INSERT INTO system_metadata (key, value)
VALUES ('MediaLocation', jsonb_build_object('location', %(root)s::text))
ON CONFLICT (key) DO UPDATE SET value = excluded.value;

-- name: thumbnails
-- The unedited thumbnails of some assets: those that Immich rewrites in place.
SELECT path FROM asset_file
WHERE "assetId" = ANY (%(assets)s::uuid[]) AND type IN ('preview', 'thumbnail', 'fullsize')
  AND coalesce(to_jsonb(asset_file) ->> 'isEdited', 'false') = 'false'
ORDER BY path;

-- name: insert
-- jsonb_populate_recordset gives each value its column's type; all rows go in one statement.
INSERT INTO {table} ({columns})
SELECT {columns} FROM jsonb_populate_recordset(NULL::{table}, {rows})

-- name: upsert
-- Immich writes asset_job_status in this way only: it fires the INSERT and the UPDATE statement triggers.
INSERT INTO {table} ({columns})
SELECT {columns} FROM jsonb_populate_recordset(NULL::{table}, {rows})
ON CONFLICT ("assetId") DO UPDATE SET {excluded}

-- name: update
UPDATE {table} SET {changes}
FROM jsonb_populate_recordset(NULL::{table}, {rows}) AS played
WHERE {same_row}

-- name: delete
DELETE FROM {table}
USING jsonb_populate_recordset(NULL::{table}, {rows}) AS played
WHERE {same_row}
